// Package bounded reads files that users name: regular files only, without waiting for a pipe or a device, and never more
// than asked for.
package bounded

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// ErrNotRegular is the error for directories, pipes, devices and sockets.
var ErrNotRegular = errors.New("not a regular file")

// ErrTooLarge is the error for files above the caller's limit.
var ErrTooLarge = errors.New("file too large")

// Open opens a regular file for reading.
func Open(path string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: ErrNotRegular}
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

// ReadFile reads a whole regular file of at most limit bytes.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, info, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than %d: %w", path, info.Size(), limit, ErrTooLarge)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s grew past %d bytes: %w", path, limit, ErrTooLarge)
	}
	return data, nil
}

// Head reads at most limit bytes from the start of a regular file and answers its whole size too.
func Head(path string, limit int64) ([]byte, int64, error) {
	return part(path, limit, false)
}

// Tail reads at most limit bytes from the end of a regular file and answers its whole size too.
func Tail(path string, limit int64) ([]byte, int64, error) {
	return part(path, limit, true)
}

func part(path string, limit int64, end bool) ([]byte, int64, error) {
	f, info, err := Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	if end && info.Size() > limit {
		if _, err := f.Seek(info.Size()-limit, io.SeekStart); err != nil {
			return nil, 0, err
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit))
	return data, info.Size(), err
}

// Missing answers whether an error proves that the path is not there, as far as this process may look.
func Missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
