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
		return writeScript(dir+"/"+handoff.ScriptFile, o.Script)
	}
	return nil
}

// writeScript writes the script, over the one of an earlier job of the same user when the directory is not new.
func writeScript(path string, content []byte) error {
	err := writeNew(path, content, 0o700)
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1) {
		err = &os.PathError{Op: "open", Path: path, Err: os.ErrExist}
	}
	if err == nil {
		err = f.Chmod(0o700)
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.Write(content)
	}
	return errors.Join(err, f.Close())
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

// stdio is standard input, output and error.
type stdio struct {
	fds [3]uintptr
	// starts are the sizes of the output files as they were found.
	starts handoff.Outputs
}

func openStdio(o *handoff.Order) (*stdio, error) {
	s := &stdio{fds: [3]uintptr{noFD, noFD, noFD}}
	if err := s.open(o); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *stdio) open(o *handoff.Order) error {
	in, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/null", Err: err}
	}
	s.fds[0] = uintptr(in)
	out, size, err := openOutput("stdout", o.Stdout, o.Truncate)
	if err != nil {
		return err
	}
	s.fds[1], s.fds[2] = uintptr(out), uintptr(out)
	s.starts = handoff.Outputs{StdoutStart: size, StderrStart: size}
	if o.Stderr == "" || o.Stderr == o.Stdout {
		return nil
	}
	errFD, size, err := openOutput("stderr", o.Stderr, o.Truncate)
	if err != nil {
		return err
	}
	s.fds[2], s.starts.StderrStart = uintptr(errFD), size
	return nil
}

const noFD = ^uintptr(0)

func (s *stdio) close() {
	for i, fd := range s.fds {
		if fd != noFD && (i != 2 || fd != s.fds[1]) {
			_ = unix.Close(int(fd))
		}
	}
}

// openOutput opens a file of the user's for writing: a plain file or /dev/null, and no symbolic link at its end. start is
// where writing begins.
func openOutput(what, path string, truncate bool) (fd int, start int64, err error) {
	what += " " + path
	fd, err = unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if errors.Is(err, unix.ELOOP) {
		return 0, 0, &userError{what: what + ": is a symbolic link, name the file itself"}
	}
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, &userError{what: what + ": is not a plain file"}
	}
	if err != nil {
		return 0, 0, blame(what, err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && !plain(&st) {
		_ = unix.Close(fd)
		return 0, 0, &userError{what: what + ": is not a plain file"}
	}
	switch regular := st.Mode&unix.S_IFMT == unix.S_IFREG; {
	case err != nil || !regular:
	case truncate:
		err = unix.Ftruncate(fd, 0)
	default:
		start = st.Size
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND)
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, 0, blame(what, err)
	}
	return fd, start, nil
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
