package shim

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
)

// writeFiles fills the attempt's own directory.
func writeFiles(dir string, o *handoff.Order) error {
	for _, f := range o.Files {
		if !local(f.Path) {
			return errors.New("planned file " + f.Path + ": not below the attempt's directory")
		}
		if i := strings.LastIndexByte(f.Path, '/'); i >= 0 {
			if err := os.MkdirAll(dir+"/"+f.Path[:i], 0o700); err != nil {
				return err
			}
		}
		if err := writeNew(dir+"/"+f.Path, f.Content, os.FileMode(f.Mode&0o777)); err != nil {
			return err
		}
	}
	if o.Script != nil {
		return writeNew(dir+"/"+handoff.ScriptFile, o.Script, 0o700)
	}
	return nil
}

func writeNew(path string, content []byte, mode os.FileMode) error {
	if mode == 0 {
		mode = 0o600
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// local says whether a path is relative and stays below where it starts.
func local(path string) bool {
	if path == "" || path[0] == '/' || strings.IndexByte(path, 0) >= 0 {
		return false
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

// stdioFDs are standard input, output and error.
type stdioFDs [3]uintptr

func openStdio(o *handoff.Order) (*stdioFDs, error) {
	fds := &stdioFDs{noFD, noFD, noFD}
	if err := fds.open(o); err != nil {
		fds.close()
		return nil, err
	}
	return fds, nil
}

func (f *stdioFDs) open(o *handoff.Order) error {
	in, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/null", Err: err}
	}
	f[0] = uintptr(in)
	out, err := openOutput("stdout", o.Stdout, o.Truncate)
	if err != nil {
		return err
	}
	f[1], f[2] = uintptr(out), uintptr(out)
	if o.Stderr == "" || o.Stderr == o.Stdout {
		return nil
	}
	errFD, err := openOutput("stderr", o.Stderr, o.Truncate)
	if err != nil {
		return err
	}
	f[2] = uintptr(errFD)
	return nil
}

const noFD = ^uintptr(0)

func (f *stdioFDs) close() {
	for i, fd := range f {
		if fd != noFD && (i != 2 || fd != f[1]) {
			_ = unix.Close(int(fd))
		}
	}
}

// openOutput opens a file of the user's for writing: a plain file or /dev/null, and no symbolic link at its end.
func openOutput(what, path string, truncate bool) (int, error) {
	what += " " + path
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if errors.Is(err, unix.ELOOP) {
		return 0, &userError{what: what + ": is a symbolic link, name the file itself"}
	}
	if errors.Is(err, unix.ENXIO) {
		return 0, &userError{what: what + ": is not a plain file"}
	}
	if err != nil {
		return 0, blame(what, err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && !plain(&st) {
		_ = unix.Close(fd)
		return 0, &userError{what: what + ": is not a plain file"}
	}
	if err == nil && truncate && st.Mode&unix.S_IFMT == unix.S_IFREG {
		err = unix.Ftruncate(fd, 0)
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND)
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, blame(what, err)
	}
	return fd, nil
}

func plain(st *unix.Stat_t) bool {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return true
	case unix.S_IFCHR:
		return st.Rdev == unix.Mkdev(1, 3) // /dev/null
	}
	return false
}
