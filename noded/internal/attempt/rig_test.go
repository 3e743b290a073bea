package attempt

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/account"
	"github.com/fettle-hpc/fettle/noded/internal/cgroup"
	"github.com/fettle-hpc/fettle/noded/internal/gpufence"
	"github.com/fettle-hpc/fettle/noded/internal/handoff"
	"github.com/fettle-hpc/fettle/noded/internal/killtree"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

var shimPath string

func TestMain(m *testing.M) {
	unix.Umask(0o022)
	dir, err := os.MkdirTemp("", "fettle-attempt-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		shimPath = filepath.Join(dir, "fettle-shim")
		cmd := exec.Command("go", "build", "-o", shimPath, "github.com/fettle-hpc/fettle/noded/cmd/fettle-shim")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		err = cmd.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// patience bounds every wait of a test; nothing waits so long unless it fails.
const patience = 30 * time.Second

// rig is a manager on a directory that other users can pass through.
type rig struct {
	t    testing.TB
	dir  string // the state directory
	work string
	cfg  Config
	m    *Manager
}

var rigs atomic.Int32

type option func(*Config)

func withoutGroups(c *Config) { c.Groups, _ = cgroup.Probe(cgroup.Config{Node: "n", Disabled: true}) }

func newRig(t testing.TB, opts ...option) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "fettle-rig-")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, filepath.Join(dir, "work")} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	node := fmt.Sprintf("test-%d-%d", os.Getpid(), rigs.Add(1))
	groups, _ := cgroup.Probe(cgroup.Config{Node: node, Disabled: os.Getuid() != 0})
	r := &rig{t: t, dir: dir, work: filepath.Join(dir, "work")}
	r.cfg = Config{
		Dir: dir, LeasePath: filepath.Join(dir, "lease"), ShimPath: shimPath,
		Users: account.New(account.Config{}), Groups: groups, UID: uint32(os.Getuid()),
		Fence:     func() *gpufence.Fence { return &gpufence.Fence{} },
		Inventory: func() *fettlev1.Inventory { return &fettlev1.Inventory{} },
	}
	for _, o := range opts {
		o(&r.cfg)
	}
	t.Cleanup(func() {
		if b, err := os.ReadFile(filepath.Join(dir, "shim.log")); err == nil && len(b) > 0 {
			t.Logf("shims say: %s", b)
		}
		endLeftovers(t, dir)
		if err := groups.Sweep(nil); err != nil {
			t.Error(err)
		}
		for _, c := range []string{"", "freezer", "memory", "cpu", "pids", "devices"} {
			_ = os.Remove(filepath.Join("/sys/fs/cgroup", c, "fettle", node))
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	r.open()
	return r
}

// endLeftovers ends what a test that failed has left running.
func endLeftovers(t testing.TB, dir string) {
	files, err := os.ReadDir(filepath.Join(dir, filesDir))
	if err != nil {
		return
	}
	for _, f := range files {
		tree := killtree.Tagged{Entry: attemptDirVar + "=" + filepath.Join(dir, filesDir, f.Name())}
		if empty, err := tree.Empty(); err == nil && !empty {
			t.Errorf("%s is left running", f.Name())
			if err := tree.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
}

func (r *rig) open() []nodemachine.Found {
	r.t.Helper()
	m, err := New(r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.m = m
	r.t.Cleanup(m.Close)
	found, err := m.Scan()
	if err != nil {
		r.t.Fatal(err)
	}
	return found
}

// job is an order as the leader would give it, for the user who runs the test.
func (r *rig) job(id uint64, script string) nodemachine.StartShim {
	return nodemachine.StartShim{
		Key: nodemachine.Key{Job: id, Attempt: 1, Fence: 100 + id}, ClusterID: "c1",
		Prepare: &fettlev1.Prepare{
			Key:  &fettlev1.AttemptKey{JobId: id, Attempt: 1, Fence: 100 + id},
			Spec: &fettlev1.JobSpec{Name: "job", Method: "script", Script: []byte(script), WorkDir: r.work, StdoutPath: "out"},
			Uid:  uint32(os.Getuid()), Gid: uint32(os.Getgid()),
			Allocation: &fettlev1.NodeAllocation{Node: "n1", Cpus: 1},
		},
	}
}

func sh(lines string) string { return "#!/bin/sh\n" + lines + "\n" }

func (r *rig) next() nodemachine.Input {
	r.t.Helper()
	select {
	case e := <-r.m.Events():
		return e
	case <-time.After(patience):
		r.t.Fatal("nothing happens")
		return nil
	}
}

func (r *rig) started(k nodemachine.Key) {
	r.t.Helper()
	switch e := r.next().(type) {
	case nodemachine.ShimStarted:
		if e.Key == k {
			return
		}
		r.t.Fatalf("started %v, want %v", e.Key, k)
	case nodemachine.ShimFailed:
		r.t.Fatalf("not started: %v", e.Exit)
	default:
		r.t.Fatalf("%T %+v", e, e)
	}
}

func (r *rig) ended(k nodemachine.Key) *fettlev1.Exit {
	r.t.Helper()
	e, ok := r.next().(nodemachine.ShimEnded)
	if !ok || e.Key != k {
		r.t.Fatalf("not the end of %v: %T %+v", k, e, e)
	}
	return e.Exit
}

func (r *rig) failed(k nodemachine.Key) *fettlev1.Exit {
	r.t.Helper()
	got := r.next()
	e, ok := got.(nodemachine.ShimFailed)
	if !ok || e.Key != k {
		r.t.Fatalf("not the failure of %v: %T %+v", k, got, got)
	}
	return e.Exit
}

func (r *rig) run(s nodemachine.StartShim) *fettlev1.Exit {
	r.t.Helper()
	r.m.Start(s)
	r.started(s.Key)
	return r.ended(s.Key)
}

func (r *rig) read(name string) string {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.work, name))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// eventually waits for a condition that a process in the background brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

// pidIn waits for a job to have written a pid to a file.
func (r *rig) pidIn(name string) int {
	r.t.Helper()
	pid := 0
	eventually(r.t, "a pid in "+name, func() bool {
		b, err := os.ReadFile(filepath.Join(r.work, name))
		if err != nil || !strings.HasSuffix(string(b), "\n") {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil && pid > 0
	})
	return pid
}

// alive says whether a process exists and is no zombie.
func isAlive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (r *rig) setLease(epoch, deadline int64) {
	r.t.Helper()
	l := handoff.Lease{BootID: "b", EpochMS: epoch, DeadlineMS: deadline}
	if err := os.WriteFile(r.cfg.LeasePath, l.Marshal(), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func bootMS(t *testing.T) int64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		t.Fatal(err)
	}
	return ts.Nano() / 1e6
}
