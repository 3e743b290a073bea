package account

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const passwd = `root:x:0:0:root:/root:/bin/bash
# a comment
ada:x:1001:1001:Ada,,,:/home/ada:/bin/zsh
+nis:::::
bad:x:many:1::/:/bin/sh
twin:x:1001:1002::/home/twin:/bin/sh
bo:x:1002:1002::/home/bo:/bin/sh
`

const group = `root:x:0:
ml:x:2000:ada,bo
gpu:x:2001:ada
broken
`

func files(t *testing.T) Config {
	dir := t.TempDir()
	cfg := Config{Passwd: filepath.Join(dir, "passwd"), Group: filepath.Join(dir, "group")}
	for p, s := range map[string]string{cfg.Passwd: passwd, cfg.Group: group} {
		if err := os.WriteFile(p, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Command = func(context.Context, string, ...string) ([]byte, error) { return nil, &exec.ExitError{} }
	return cfg
}

func TestLookup(t *testing.T) {
	t.Parallel()
	u := New(files(t))
	a, err := u.Lookup(t.Context(), 1001, "ada")
	if err != nil {
		t.Fatal(err)
	}
	if a.Home != "/home/ada" || a.Shell != "/bin/zsh" || a.GID != 1001 || !slices.Equal(a.Groups, []uint32{1001, 2000, 2001}) {
		t.Errorf("%+v", a)
	}
	for _, c := range []struct {
		uid  uint32
		name string
		want error
	}{
		{1001, "", nil}, {1001, "twin", ErrMismatch}, {1002, "ada", ErrMismatch}, {4242, "eve", ErrUnknown}, {65534, "", ErrUnknown},
	} {
		if _, err := u.Lookup(t.Context(), c.uid, c.name); !errors.Is(err, c.want) {
			t.Errorf("%d %q: %v, want %v", c.uid, c.name, err, c.want)
		}
	}
}

func TestChangedFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	cfg := files(t)
	u := New(cfg)
	if _, err := u.Lookup(t.Context(), 3000, "new"); !errors.Is(err, ErrUnknown) {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.Passwd, []byte(passwd+"new:x:3000:3000::/home/new:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Lookup(t.Context(), 3000, "new"); err != nil {
		t.Error(err)
	}
}

func TestDirectoryServiceIsAskedOnceAndRemembered(t *testing.T) {
	t.Parallel()
	cfg := files(t)
	var calls atomic.Int32
	now := time.Unix(1000, 0)
	cfg.Now = func() time.Time { return now }
	cfg.Command = func(_ context.Context, name string, args ...string) ([]byte, error) {
		calls.Add(1)
		if name == "getent" {
			return []byte("cleo:*:5000:5000::/nfs/cleo:/bin/bash\n"), nil
		}
		return []byte("5000 6000 6001\n"), nil
	}
	u := New(cfg)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			a, err := u.Lookup(t.Context(), 5000, "cleo")
			if err != nil || !slices.Equal(a.Groups, []uint32{5000, 6000, 6001}) {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
	wg.Wait()
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls", n)
	}
	now = now.Add(2 * time.Minute)
	if _, err := u.Lookup(t.Context(), 5000, "cleo"); err != nil || calls.Load() != 4 {
		t.Errorf("after the answer's time: %d calls, %v", calls.Load(), err)
	}
}

func TestHangingDirectoryServiceIsAnErrorNotAnUnknownUser(t *testing.T) {
	t.Parallel()
	cfg := files(t)
	cfg.Command = func(context.Context, string, ...string) ([]byte, error) { return nil, context.DeadlineExceeded }
	_, err := New(cfg).Lookup(t.Context(), 5000, "cleo")
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
}

func TestThisHost(t *testing.T) {
	t.Parallel()
	if a, err := New(Config{}).Lookup(t.Context(), 0, "root"); err != nil || a.Home == "" {
		t.Errorf("%+v, %v", a, err)
	}
}
