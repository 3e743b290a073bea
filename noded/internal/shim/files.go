package shim

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
)

// closeAllOnExec keeps the shim's descriptors, and what the daemon itself was started with, from the job.
func closeAllOnExec() error {
	const firstOwn = 3
	err := unix.CloseRange(firstOwn, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		return nil
	}
	// Kernels before 5.11.
	entries, rerr := os.ReadDir("/proc/self/fd")
	if rerr != nil {
		return os.NewSyscallError("close_range", err)
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= firstOwn {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// readFrom reads a file from an offset to its end.
func readFrom(f *os.File, off int64) ([]byte, error) {
	st, err := f.Stat()
	if err != nil || st.Size() <= off {
		return nil, err
	}
	b := make([]byte, min(st.Size()-off, handoff.MaxPayload))
	n, err := f.ReadAt(b, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], err
}

// WriteExit appends the exit record and makes it durable. The daemon uses it in place of a shim that is gone.
func WriteExit(f *os.File, e *handoff.Exit) error {
	if _, err := f.Write(e.Marshal()); err != nil {
		return err
	}
	return os.NewSyscallError("fdatasync", unix.Fdatasync(int(f.Fd())))
}

// oneLine keeps a message readable in one line of a table or a log.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
