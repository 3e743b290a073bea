package datadir

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

var testOptions = Options{MinFree: -1, ProbeLimit: 10 * time.Second, AnyFilesystem: true}

func mustOpen(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := Open(path, testOptions)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestOpenMakesPrivateDirectory(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a", "b")
	d := mustOpen(t, path)
	defer d.Close()
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(path, "probe")); err == nil {
		t.Error("the probe was left behind")
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	first := mustOpen(t, path)
	_, err := Open(path, testOptions)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "pid") || strings.Contains(err.Error(), "\n") {
		t.Errorf("second open: %v", err)
	}
	if _, err := Discard(path, time.Now()); !errors.Is(err, ErrLocked) {
		t.Errorf("discard of a directory in use: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, path).Close()
}

func TestModeAndSpace(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		mode    os.FileMode
		minFree int64
		want    string
	}{
		{"readable by others is tightened", 0o755, -1, ""},
		{"writable by group is refused", 0o770, -1, "chmod 0700"},
		{"writable by others is refused", 0o777, -1, "chmod 0700"},
		{"too little space", 0o700, 1 << 60, "free some space"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := t.TempDir()
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			opts := testOptions
			opts.MinFree = tt.minFree
			d, err := Open(path, opts)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("error %v, want %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if st, _ := os.Stat(path); st.Mode().Perm() != 0o700 {
				t.Errorf("mode left at %v", st.Mode())
			}
		})
	}
}

func TestSlowDisk(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	opts := testOptions
	opts.ProbeLimit = time.Nanosecond
	if _, err := Open(path, opts); !errors.Is(err, ErrSlow) {
		t.Errorf("got %v", err)
	}
	// What answers too late gives the directory up.
	for deadline := time.Now().Add(30 * time.Second); ; runtime.Gosched() {
		d, err := Open(path, testOptions)
		if err == nil {
			d.Close()
			return
		}
		if !errors.Is(err, ErrLocked) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	d := mustOpen(t, t.TempDir())
	defer d.Close()
	if _, ok, err := d.Identity(); ok || err != nil {
		t.Fatalf("empty directory has an identity: %v %v", ok, err)
	}
	id := Identity{ClusterID: "c", Incarnation: "i", ServerID: "n.u", Name: "n", Origin: OriginBootstrap, Created: time.Unix(1, 0).UTC()}
	if err := d.SetPendingIdentity(id); err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := d.Identity(); ok {
		t.Error("a pending identity counts as one")
	}
	if err := d.CommitIdentity(); err != nil {
		t.Fatal(err)
	}
	got, ok, err := d.Identity()
	id.Format = identityFormat
	if !ok || err != nil || got != id {
		t.Errorf("read back %+v %v %v", got, ok, err)
	}
	if _, ok, _ := d.PendingIdentity(); ok {
		t.Error("the pending identity is still there")
	}
	for _, bad := range []string{"", "{", `{"format":1}`, `{"format":2,"cluster_id":"c","incarnation":"i","server_id":"s"}`} {
		if err := os.WriteFile(d.file(identityFile), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := d.Identity(); !errors.Is(err, ErrDamaged) {
			t.Errorf("identity %q: %v", bad, err)
		}
	}
}

func TestMark(t *testing.T) {
	t.Parallel()
	d := mustOpen(t, t.TempDir())
	defer d.Close()
	if m, err := d.Mark(); err != nil || m != (Mark{}) {
		t.Fatalf("empty directory: %+v %v", m, err)
	}
	want := Mark{Index: 7, Term: 3, Started: true}
	if err := d.SetMark(want); err != nil {
		t.Fatal(err)
	}
	if m, err := d.Mark(); err != nil || m != want {
		t.Errorf("read back %+v %v", m, err)
	}
	if err := os.WriteFile(d.file(markFile), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Mark(); !errors.Is(err, ErrDamaged) {
		t.Errorf("broken mark: %v", err)
	}
}

func TestNotes(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	d := mustOpen(t, path)
	if err := Quarantine(path, "input/output error in StoreLogs"); err != nil {
		t.Fatal(err)
	}
	d.Close()
	_, err := Open(path, testOptions)
	if !errors.Is(err, ErrQuarantined) || !strings.Contains(err.Error(), "input/output error") {
		t.Fatalf("quarantined directory: %v", err)
	}
	moved, err := Discard(path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(moved, quarantine)); err != nil {
		t.Errorf("the note was not moved aside: %v", err)
	}
	d = mustOpen(t, path)
	if err := d.MarkRemoved("removed by an operator"); err != nil {
		t.Fatal(err)
	}
	d.Close()
	if _, err := Open(path, testOptions); !errors.Is(err, ErrRemoved) {
		t.Errorf("removed server: %v", err)
	}
}

func TestSweepSnapshots(t *testing.T) {
	t.Parallel()
	d := mustOpen(t, t.TempDir())
	defer d.Close()
	if n, err := d.SweepSnapshots(nil); n != 0 || err != nil {
		t.Fatalf("without snapshots: %d %v", n, err)
	}
	for _, name := range []string{"1-2-3", "1-3-4.tmp", "1-5-6.tmp", "1-7-8.tmp"} {
		if err := os.MkdirAll(filepath.Join(d.Path(), SnapshotsDir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := d.SweepSnapshots(func(id string) bool { return id == "1-7-8" }); n != 2 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	for _, kept := range []string{"1-2-3", "1-7-8.tmp"} {
		if _, err := os.Stat(filepath.Join(d.Path(), SnapshotsDir, kept)); err != nil {
			t.Errorf("a finished or active snapshot was swept: %v", err)
		}
	}
	if has, err := d.HasState(); !has || err != nil {
		t.Errorf("state: %v %v", has, err)
	}
}
