package shim

import (
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

// createFile makes a file that must not exist yet.
func createFile(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(content); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// writeExit makes the exit record durable before it becomes visible.
func writeExit(dir string, e *handoff.Exit) error {
	tmp := dir + "/" + handoff.ExitFile + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(e.Marshal()); err == nil {
		err = os.NewSyscallError("fdatasync", unix.Fdatasync(int(f.Fd())))
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, dir+"/"+handoff.ExitFile); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return os.NewSyscallError("fsync", unix.Fsync(int(d.Fd())))
}

// WriteExit leaves an exit record in place of a shim that is gone.
func WriteExit(dir string, e *handoff.Exit) error { return writeExit(dir, e) }

// oneLine keeps a message readable in one line of a table or a log.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
