package bounded

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestReadFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "p")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := ReadFile(file, 10); err != nil || string(data) != "0123456789" {
		t.Errorf("ReadFile = %q, %v", data, err)
	}
	if _, err := ReadFile(file, 9); !errors.Is(err, ErrTooLarge) {
		t.Errorf("over the limit: %v, want ErrTooLarge", err)
	}
	// A pipe without a writer would hold a plain open for ever.
	for _, path := range []string{pipe, dir, "/dev/zero"} {
		if _, err := ReadFile(path, 10); !errors.Is(err, ErrNotRegular) {
			t.Errorf("%s: %v, want ErrNotRegular", path, err)
		}
	}
	if _, err := ReadFile(filepath.Join(dir, "none"), 10); !errors.Is(err, fs.ErrNotExist) || !Missing(err) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := ReadFile(filepath.Join(file, "below"), 10); !Missing(err) {
		t.Errorf("below a file: %v, want Missing", err)
	}
}

func TestParts(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[int64][2]string{3: {"012", "789"}, 10: {"0123456789", "0123456789"}, 99: {"0123456789", "0123456789"}} {
		head, size, err := Head(file, limit)
		tail, _, err2 := Tail(file, limit)
		if string(head) != want[0] || string(tail) != want[1] || size != 10 || err != nil || err2 != nil {
			t.Errorf("limit %d: %q %q %d %v %v", limit, head, tail, size, err, err2)
		}
	}
}
