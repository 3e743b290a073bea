package userread

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/fettle-hpc/fettle/noded/internal/logread"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOwnFilesAreReadInThisProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := Reader{ShimPath: "/no/such/shim"}
	me := Identity{UID: uint32(os.Getuid())}
	got := ""
	if err := r.Read(t.Context(), me, logread.Request{Path: path}, nil, func(_ int64, b []byte) error { got += string(b); return nil }); err != nil || got != "hello\n" {
		t.Errorf("%q, %v", got, err)
	}
	if err := r.Read(t.Context(), me, logread.Request{Path: path + "x"}, nil, nil); err == nil || err.Error() != path+"x: no such file or directory" {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := r.Read(ctx, me, logread.Request{Path: path, Follow: true}, nil, func(int64, []byte) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestAnotherUsersFiles(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		if err := (Reader{}).Read(t.Context(), Identity{UID: 1}, logread.Request{Path: "/etc/passwd"}, nil, nil); err == nil {
			t.Error("read as another user without privileges")
		}
		return
	}
	dir, err := os.MkdirTemp("", "fettle-userread-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	// The binary lies where its users cannot walk to.
	closed := filepath.Join(dir, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	shim := filepath.Join(closed, "fettle-shim")
	build := exec.Command("go", "build", "-o", shim, "github.com/fettle-hpc/fettle/noded/cmd/fettle-shim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ada := Identity{UID: 61_001, GID: 61_002, Groups: []uint32{61_002, 61_003}}
	for name, c := range map[string]struct {
		uid, gid int
		mode     os.FileMode
		ok       bool
	}{
		"hers": {61_001, 0, 0o400, true}, "her group's": {0, 61_003, 0o040, true}, "everybody's": {0, 0, 0o004, true},
		"root's": {0, 0, 0o600, false}, "another group's": {0, 61_099, 0o640, false},
	} {
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, c.uid, c.gid); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		got := ""
		err := Reader{ShimPath: shim}.Read(t.Context(), ada, logread.Request{Path: path}, nil, func(_ int64, b []byte) error { got += string(b); return nil })
		if (err == nil) != c.ok || (got == name) != c.ok {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if err != nil && err.Error() != path+": permission denied" {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = Reader{ShimPath: shim}.Read(ctx, ada, logread.Request{Path: filepath.Join(dir, "hers"), Follow: true}, nil,
		func(int64, []byte) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	full := errors.New("full")
	if err := os.WriteFile(filepath.Join(dir, "everybody's"), make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	err = Reader{ShimPath: shim}.Read(t.Context(), ada, logread.Request{Path: filepath.Join(dir, "everybody's"), Follow: true}, nil,
		func(int64, []byte) error { return full })
	if !errors.Is(err, full) {
		t.Errorf("a sink that fails: %v", err)
	}
}
