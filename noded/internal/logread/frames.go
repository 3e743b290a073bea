package logread

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strconv"
)

// Frames carry a read out of the helper process: kind, offset, length, bytes.
const (
	frameData  = 'D'
	frameError = 'X'
	frameHead  = 1 + 8 + 4
)

// ByteEnded on the helper's standard input says that the writer has ended; end of file without it stops the read.
const ByteEnded = 'E'

// Args are the helper's arguments for a request.
func Args(req Request) []string {
	follow := "0"
	if req.Follow {
		follow = "1"
	}
	return []string{"read", strconv.FormatInt(req.Offset, 10), strconv.FormatInt(req.Tail, 10), follow, strconv.FormatInt(req.Start, 10), req.Path}
}

// ParseArgs reads what Args gave, without the leading "read". A daemon from before an upgrade gives no START.
func ParseArgs(args []string) (Request, error) {
	if len(args) == 4 {
		args = []string{args[0], args[1], args[2], "0", args[3]}
	}
	if len(args) != 5 {
		return Request{}, errors.New("read takes OFFSET TAIL FOLLOW START PATH")
	}
	off, err1 := strconv.ParseInt(args[0], 10, 64)
	tail, err2 := strconv.ParseInt(args[1], 10, 64)
	start, err3 := strconv.ParseInt(args[3], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return Request{}, err
	}
	return Request{Offset: off, Tail: tail, Follow: args[2] == "1", Start: start, Path: args[4]}, nil
}

// Serve is the helper: it reads as a process of the job's user, and writes frames. It returns the exit status.
func Serve(args []string, in io.Reader, out io.Writer) int {
	req, err := ParseArgs(args)
	if err != nil {
		return 2
	}
	ended, stop := make(chan struct{}), make(chan struct{})
	go func() { // ends with the process
		buf := make([]byte, 1)
		n, _ := in.Read(buf)
		if n == 1 && buf[0] == ByteEnded {
			close(ended) // what is left is read, whatever becomes of the input
			return
		}
		close(stop)
	}()
	err = Read(req, ended, stop, func(off int64, b []byte) error { return writeFrame(out, frameData, off, b) })
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = errors.New(pe.Path + ": " + pe.Err.Error())
		}
		_ = writeFrame(out, frameError, 0, []byte(err.Error()))
		return 1
	}
	return 0
}

func writeFrame(w io.Writer, kind byte, off int64, b []byte) error {
	head := make([]byte, frameHead, frameHead+len(b))
	head[0] = kind
	binary.LittleEndian.PutUint64(head[1:], uint64(off))
	binary.LittleEndian.PutUint32(head[9:], uint32(len(b)))
	_, err := w.Write(append(head, b...))
	return err
}

// ErrFrame is returned for a helper that does not keep to the format.
var ErrFrame = errors.New("the log reader's answer is garbled")

// ReadFrames is the daemon's end: it hands on the data until the helper closes its output.
func ReadFrames(r io.Reader, sink func(offset int64, b []byte) error) error {
	head := make([]byte, frameHead)
	buf := make([]byte, ChunkSize)
	for {
		if _, err := io.ReadFull(r, head); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		n := binary.LittleEndian.Uint32(head[9:])
		if n > ChunkSize {
			return ErrFrame
		}
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return err
		}
		switch head[0] {
		case frameData:
			if err := sink(int64(binary.LittleEndian.Uint64(head[1:])), buf[:n]); err != nil {
				return err
			}
		case frameError:
			return errors.New(string(buf[:n]))
		default:
			return ErrFrame
		}
	}
}
