package logread

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	big := strings.Repeat("0123456789abcdef", 3*ChunkSize/16)
	write(t, path, big+"end")
	for _, c := range []struct {
		req  Request
		want string
	}{
		{Request{}, big + "end"}, {Request{Offset: int64(len(big))}, "end"}, {Request{Tail: 5}, "efend"}, {Request{Tail: 1 << 40}, big + "end"},
		{Request{Offset: 1 << 40}, ""}, {Request{Offset: -7}, big + "end"},
	} {
		c.req.Path = path
		var got []byte
		at := int64(-1)
		err := Read(c.req, nil, nil, func(off int64, b []byte) error {
			if at >= 0 && off != at {
				t.Errorf("offset %d, want %d", off, at)
			}
			at = off + int64(len(b))
			got = append(got, b...)
			return nil
		})
		if err != nil || string(got) != c.want {
			t.Errorf("%+v: %d bytes, %v", c.req, len(got), err)
		}
	}
}

func TestFollowFromBeforeTheFileToItsEnd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	ended, opened := make(chan struct{}), make(chan struct{})
	var got []byte
	done := make(chan error, 1)
	go func() {
		done <- Read(Request{Path: path, Follow: true}, ended, nil, func(_ int64, b []byte) error {
			got = append(got, b...)
			if string(got) == "one\n" {
				close(opened)
			}
			return nil
		})
	}()
	write(t, path, "one\n")
	<-opened
	write(t, path, "two\n")
	close(ended)
	if err := <-done; err != nil || string(got) != "one\ntwo\n" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTruncatedFileBeginsAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	write(t, path, "a long first line\n")
	ended := make(chan struct{})
	pieces := make(chan string, 10)
	done := make(chan error, 1)
	go func() {
		done <- Read(Request{Path: path, Follow: true}, ended, nil, func(off int64, b []byte) error {
			if off == 0 {
				pieces <- string(b)
			}
			return nil
		})
	}()
	<-pieces
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	write(t, path, "new\n")
	if got := <-pieces; got != "new\n" {
		t.Errorf("%q", got)
	}
	close(ended)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNothingBeforeTheStart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	write(t, path, "old\nnew\n")
	for name, tt := range map[string]struct {
		req  Request
		want string
		off  int64
	}{
		"whole":             {Request{Start: 4}, "new\n", 4},
		"offset before it":  {Request{Start: 4, Offset: 2}, "new\n", 4},
		"offset after it":   {Request{Start: 4, Offset: 5}, "ew\n", 5},
		"a long end":        {Request{Start: 4, Tail: 100}, "new\n", 4},
		"a short end":       {Request{Start: 4, Tail: 2}, "w\n", 6},
		"nothing yet":       {Request{Start: 8}, "", -1},
		"truncated since":   {Request{Start: 100}, "old\nnew\n", 0},
		"a start below 0":   {Request{Start: -1}, "old\nnew\n", 0},
		"an older daemon's": {Request{}, "old\nnew\n", 0},
	} {
		tt.req.Path = path
		args := Args(tt.req)[1:]
		if tt.req.Start == 0 {
			args = append(args[:3], path) // no START
		}
		var wire bytes.Buffer
		in, open := io.Pipe() // its end would stop the read
		code := Serve(args, in, &wire)
		_ = open.Close()
		if code != 0 {
			t.Fatalf("%s: exit %d", name, code)
		}
		got, off := "", int64(-1)
		if err := ReadFrames(&wire, func(o int64, b []byte) error {
			if off < 0 {
				off = o
			}
			got += string(b)
			return nil
		}); err != nil || got != tt.want || off != tt.off {
			t.Errorf("%s: %q from %d, %v", name, got, off, err)
		}
	}
}

func TestStopAndSinkErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stop := make(chan struct{})
	close(stop)
	if err := Read(Request{Path: filepath.Join(dir, "never"), Follow: true}, nil, stop, nil); err != nil {
		t.Errorf("stopped before the file: %v", err)
	}
	write(t, filepath.Join(dir, "log"), "x")
	if err := Read(Request{Path: filepath.Join(dir, "log"), Follow: true}, nil, stop, func(int64, []byte) error { return nil }); err != nil {
		t.Errorf("stopped: %v", err)
	}
	full := errors.New("full")
	if err := Read(Request{Path: filepath.Join(dir, "log")}, nil, nil, func(int64, []byte) error { return full }); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	if err := Read(Request{Path: filepath.Join(dir, "nothing")}, nil, nil, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestOnlyPlainFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{fifo, dir, "/dev/zero"} {
		if err := Read(Request{Path: p}, nil, nil, nil); !errors.Is(err, ErrNotPlain) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestHelperSpeaksFrames(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	write(t, path, strings.Repeat("x", 2*ChunkSize+7))
	var wire bytes.Buffer
	in, feed := io.Pipe()
	req := Request{Path: path, Offset: 3, Follow: true}
	go func() {
		_, _ = feed.Write([]byte{ByteEnded})
		_ = feed.Close()
	}()
	if code := Serve(Args(req)[1:], in, &wire); code != 0 {
		t.Fatalf("exit %d", code)
	}
	n, next := 0, int64(3)
	raw := bytes.Clone(wire.Bytes())
	err := ReadFrames(&wire, func(off int64, b []byte) error {
		if off != next {
			t.Errorf("offset %d, want %d", off, next)
		}
		next += int64(len(b))
		n += len(b)
		return nil
	})
	if err != nil || n != 2*ChunkSize+4 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if err := ReadFrames(bytes.NewReader(raw[:len(raw)-1]), func(int64, []byte) error { return nil }); err == nil {
		t.Error("a cut frame was taken")
	}
	wire.Reset()
	if code := Serve(Args(Request{Path: "/no/such"})[1:], strings.NewReader(""), &wire); code != 1 {
		t.Errorf("exit %d", code)
	}
	if err := ReadFrames(&wire, nil); err == nil || err.Error() != "/no/such: no such file or directory" {
		t.Errorf("%v", err)
	}
	for _, bad := range [][]string{nil, {"x", "0", "0", "p"}, {"0", "0", "0"}} {
		if code := Serve(bad, strings.NewReader(""), io.Discard); code != 2 {
			t.Errorf("%q: exit %d", bad, code)
		}
	}
}

func FuzzReadFrames(f *testing.F) {
	var wire bytes.Buffer
	if err := writeFrame(&wire, frameData, 7, []byte("abc")); err != nil {
		f.Fatal(err)
	}
	f.Add(wire.Bytes())
	f.Add([]byte{frameError, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		_ = ReadFrames(bytes.NewReader(b), func(_ int64, p []byte) error { n += len(p); return nil })
		if n > len(b) {
			t.Errorf("%d bytes out of %d", n, len(b))
		}
	})
}
