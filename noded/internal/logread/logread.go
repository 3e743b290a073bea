// Package logread reads files that a job writes, and follows them while it does. It opens them with the credentials that
// the process has: the daemon calls it only for its own user, and for other users starts the shim's read mode as them.
//
// The package is linked into the shim and imports neither fmt nor net.
package logread

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Request says what to read.
type Request struct {
	Path string
	// Offset to begin at; with Tail set, the last Tail bytes are read instead.
	Offset, Tail int64
	// Start is where what is to be read begins: nothing before it is handed on, unless the file has become shorter since.
	Start int64
	// Follow goes on at the end of the file until the writer has ended.
	Follow bool
}

const (
	// ChunkSize bounds what is handed on at once.
	ChunkSize  = 64 << 10
	pollPeriod = 100 * time.Millisecond
)

// ErrNotPlain is returned for anything but a plain file.
var ErrNotPlain = errors.New("is not a plain file")

// Read hands on the file's bytes in order, with the offset of each piece; sink must not keep the slice. ended, when it is
// closed, says that the writer is gone: what there is is read, then Read returns. stop ends it at once. An offset that
// goes back says that the file was truncated.
func Read(req Request, ended, stop <-chan struct{}, sink func(offset int64, b []byte) error) error {
	f, err := waitFor(req, ended, stop)
	if f == nil || err != nil {
		return err
	}
	defer f.Close()
	r := reader{f: f, req: req, sink: sink, buf: make([]byte, ChunkSize)}
	if r.off, err = r.begin(); err != nil {
		return err
	}
	tick := time.NewTicker(pollPeriod)
	defer tick.Stop()
	for {
		over := !req.Follow || closed(ended)
		if err := r.drain(stop); err != nil || over || closed(stop) {
			return err
		}
		select {
		case <-tick.C:
		case <-ended:
		case <-stop:
			return nil
		}
	}
}

// waitFor opens the file; when following it may not be there yet. Without an error and a file there is nothing to read.
func waitFor(req Request, ended, stop <-chan struct{}) (*os.File, error) {
	for {
		last := !req.Follow || closed(ended)
		f, err := open(req.Path)
		if err == nil || last || !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
		t := time.NewTimer(pollPeriod)
		select {
		case <-t.C:
		case <-ended:
		case <-stop:
			t.Stop()
			return nil, nil
		}
		t.Stop()
	}
}

func open(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = ErrNotPlain
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "read", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

type reader struct {
	f    *os.File
	req  Request
	off  int64
	sink func(int64, []byte) error
	buf  []byte
}

func (r *reader) begin() (int64, error) {
	st, err := r.f.Stat()
	if err != nil {
		return 0, err
	}
	start := max(0, r.req.Start)
	if start > st.Size() {
		start = 0 // it was truncated
	}
	if r.req.Tail > 0 {
		return max(start, st.Size()-r.req.Tail), nil
	}
	return min(max(start, r.req.Offset), st.Size()), nil
}

// drain reads to the present end.
func (r *reader) drain(stop <-chan struct{}) error {
	st, err := r.f.Stat()
	if err != nil {
		return err
	}
	if st.Size() < r.off {
		r.off = 0
	}
	for !closed(stop) {
		n, err := r.f.ReadAt(r.buf, r.off)
		if n > 0 {
			if serr := r.sink(r.off, r.buf[:n]); serr != nil {
				return serr
			}
			r.off += int64(n)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
