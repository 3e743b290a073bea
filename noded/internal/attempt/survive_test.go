package attempt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/cgroup"
	"github.com/fettle-hpc/fettle/noded/internal/handoff"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// restart is what a restart of the daemon looks like to this package.
func (r *rig) restart() []nodemachine.Found {
	r.t.Helper()
	r.m.Close()
	return r.open()
}

func TestAttemptsAreFoundAgain(t *testing.T) {
	t.Parallel()
	eachIsolation(t, func(t *testing.T, opts ...option) {
		r := newRig(t, opts...)
		long := r.job(1, sh("echo $$ >pid; while ! [ -e go ]; do sleep 0.01; done; echo done; exit 5"))
		r.m.Start(long)
		r.started(long.Key)
		pid := r.pidIn("pid")
		short := r.job(2, sh("exit 6"))
		if e := r.run(short); e.GetCode() != 6 {
			t.Fatal(e)
		}
		bad := r.job(3, sh("true"))
		bad.Prepare.Spec.Script = []byte("#!/no/such\n")
		r.m.Start(bad)
		r.failed(bad.Key)

		found := r.restart()
		got := map[uint64]nodemachine.Found{}
		for _, f := range found {
			got[f.Key.Job] = f
		}
		if len(found) != 3 || got[1].State != nodemachine.FoundRunning || got[2].State != nodemachine.FoundEnded || got[2].Exit.GetCode() != 6 ||
			got[3].State != nodemachine.FoundEnded || !got[3].Exit.GetNeverStarted() || !got[3].Exit.GetUserError() {
			t.Fatalf("%+v", found)
		}
		if !isAlive(pid) {
			t.Fatal("the restart ended the job")
		}
		if path, _, _, ok := r.m.Output(long.Key, false); !ok || path != filepath.Join(r.work, "out") {
			t.Errorf("output %q, %v", path, ok)
		}
		if err := os.WriteFile(filepath.Join(r.work, "go"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if e := r.ended(long.Key); e.GetCode() != 5 {
			t.Errorf("%v", e)
		}
		if r.read("out") != "done\n" {
			t.Errorf("%q", r.read("out"))
		}
	})
}

func TestFoundAttemptsAreObeyed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := r.job(1, sh("exec sleep 1000")), r.job(2, sh("exec sleep 1000"))
	for _, s := range []nodemachine.StartShim{a, b} {
		r.m.Start(s)
		r.started(s.Key)
	}
	r.restart()
	r.m.Stop(a.Key, 1_000)
	if e := r.ended(a.Key); e.GetSignal() != 15 {
		t.Errorf("stop: %v", e)
	}
	r.m.SetLimit(b.Key, 1)
	if e := r.ended(b.Key); !e.GetTimedOut() {
		t.Errorf("limit: %v", e)
	}
}

func TestEndsWithoutADaemonAreKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.job(1, sh("echo $$ >pid; while ! [ -e go ]; do sleep 0.01; done; kill -USR1 $$"))
	r.m.Start(s)
	r.started(s.Key)
	r.pidIn("pid")
	r.m.Close()
	if err := os.WriteFile(filepath.Join(r.work, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an exit record", func() bool { return r.exitOf(s.Key) != nil })
	found := r.open()
	// The shim may still be on its last instructions.
	if len(found) == 1 && found[0].State == nodemachine.FoundRunning {
		if e := r.ended(s.Key); e.GetSignal() != int32(unix.SIGUSR1) {
			t.Errorf("%v", e)
		}
		return
	}
	if len(found) != 1 || found[0].Exit.GetSignal() != int32(unix.SIGUSR1) {
		t.Errorf("%+v", found)
	}
}

func TestLostShim(t *testing.T) {
	t.Parallel()
	eachIsolation(t, func(t *testing.T, opts ...option) {
		for _, restart := range []bool{false, true} {
			r := newRig(t, opts...)
			s := r.job(1, sh(escapee+"echo $$ >pid; exec sleep 1000"))
			r.m.Start(s)
			r.started(s.Key)
			pids := []int{r.pidIn("pid"), r.pidIn("escaped"), r.pidIn("escaped2")}
			if restart {
				r.m.Close()
			}
			if err := unix.Kill(r.shimPid(s.Key), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if restart {
				eventually(t, "the shim is gone", func() bool { return r.lockIsFree(s.Key) })
				if f := r.open(); len(f) != 1 || f[0].State != nodemachine.FoundRunning {
					t.Fatalf("%+v", f)
				}
			}
			if e := r.ended(s.Key); !e.GetShimLost() || e.GetCode() != -1 {
				t.Errorf("%v", e)
			}
			for _, p := range pids {
				if isAlive(p) {
					t.Errorf("restart %v: process %d lives", restart, p)
				}
			}
			// The same answer after another restart.
			if f := r.restart(); len(f) != 1 || !f[0].Exit.GetShimLost() {
				t.Errorf("%+v", f)
			}
		}
	})
}

func (r *rig) shimPid(k nodemachine.Key) int {
	r.t.Helper()
	_, recs, err := r.m.read(k, 0)
	if err != nil || recs.Shim == nil {
		r.t.Fatalf("%+v, %v", recs, err)
	}
	return int(recs.Shim.PID)
}

func (r *rig) exitOf(k nodemachine.Key) *handoff.Exit {
	_, recs, err := r.m.read(k, 0)
	if err != nil {
		return nil
	}
	return recs.Exit
}

func (r *rig) lockIsFree(k nodemachine.Key) bool {
	f, err := openLocked(r.m.path(k), os.O_RDWR)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

func TestHalfMadeAttempts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.m.Close()
	order := (&handoff.Order{Key: "x", Daemon: []byte(`{"method":"script"}`)}).Marshal()
	dir := filepath.Join(r.dir, attemptsDir)
	for name, content := range map[string][]byte{
		// The daemon before died before the order was whole, and before the shim had launched anything.
		"1.1.1": nil, "2.1.2": order[:20], "3.1.3": order, "spare-4": nil, "not-an-attempt": nil, "04.1.1": nil,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(r.dir, filesDir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(r.dir, filesDir, "9.1.9"), 0o700); err != nil {
		t.Fatal(err)
	}
	found := r.open()
	if len(found) != 1 || found[0].Key.Job != 3 || found[0].State != nodemachine.FoundEnded || !found[0].Exit.GetNeverStarted() {
		t.Errorf("%+v", found)
	}
	for name, want := range map[string]bool{"1.1.1": false, "2.1.2": false, "3.1.3": true, "spare-4": false, "not-an-attempt": true, "04.1.1": true} {
		if got := exists(filepath.Join(dir, name)); got != want {
			t.Errorf("%s exists: %v", name, got)
		}
	}
	for name, want := range map[string]bool{"1.1.1": false, "3.1.3": true, "9.1.9": false} {
		if got := exists(filepath.Join(r.dir, filesDir, name)); got != want {
			t.Errorf("directory %s exists: %v", name, got)
		}
	}
}

func TestLeaseEndsTheAttemptWithoutADaemon(t *testing.T) {
	t.Parallel()
	eachIsolation(t, func(t *testing.T, opts ...option) {
		r := newRig(t, opts...)
		now := bootMS(t)
		r.setLease(7, now+1_500)
		s := r.job(1, sh("trap '' TERM; "+escapee+"echo $$ >pid; while :; do sleep 0.05; done"))
		s.LeaseEpochMS = 7
		s.Prepare.Spec.KillGraceS = 1
		r.m.Start(s)
		r.started(s.Key)
		pids := []int{r.pidIn("pid"), r.pidIn("escaped"), r.pidIn("escaped2")}
		r.m.Close()
		// Extended once, then never again.
		r.setLease(7, now+2_000)
		eventually(t, "an exit record", func() bool { return r.exitOf(s.Key) != nil })
		if e := r.exitOf(s.Key); !e.LeaseExpired || e.TimedOut {
			t.Fatalf("%+v", e)
		}
		if at := bootMS(t); at < now+2_000 {
			t.Errorf("ended %d ms before the lease", now+2_000-at)
		}
		for _, p := range pids {
			if isAlive(p) {
				t.Errorf("process %d lives", p)
			}
		}
	})
}

func TestLease(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	now := bootMS(t)
	for name, c := range map[string]struct{ epoch, deadline int64 }{"expired": {7, now - 1}, "of another epoch": {8, now + 1e6}} {
		r.setLease(c.epoch, c.deadline)
		s := r.job(uint64(c.epoch), sh("echo ran >ran"))
		s.LeaseEpochMS = 7
		r.m.Start(s)
		if e := r.failed(s.Key); !e.GetLeaseExpired() || !e.GetNeverStarted() || e.GetUserError() {
			t.Errorf("%s: %v", name, e)
		}
	}
	if err := os.Remove(r.cfg.LeasePath); err != nil {
		t.Fatal(err)
	}
	s := r.job(9, sh("echo ran >ran"))
	s.LeaseEpochMS = 7
	r.m.Start(s)
	if e := r.failed(s.Key); !e.GetLeaseExpired() {
		t.Errorf("no lease: %v", e)
	}
	if exists(filepath.Join(r.work, "ran")) {
		t.Error("it ran")
	}

	// An epoch that ends while the attempt runs ends the attempt when the old lease would have run out.
	r.setLease(7, bootMS(t)+1_000)
	s = r.job(10, sh("echo $$ >pid; exec sleep 1000"))
	s.LeaseEpochMS = 7
	r.m.Start(s)
	r.started(s.Key)
	r.setLease(8, bootMS(t)+1_000_000)
	if e := r.ended(s.Key); !e.GetLeaseExpired() {
		t.Errorf("of an epoch that has ended: %v", e)
	}
}

func TestStoppedShimObeysLater(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.job(1, sh("exec sleep 1000"))
	r.m.Start(s)
	r.started(s.Key)
	if err := unix.Kill(r.shimPid(s.Key), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r.m.Stop(s.Key, 1_000)
	if e := r.ended(s.Key); e.GetSignal() != 15 {
		t.Errorf("%v", e)
	}
}

func TestShimEndedByHandEndsTheJob(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.job(1, sh("exec sleep 1000"))
	r.m.Start(s)
	r.started(s.Key)
	if err := unix.Kill(r.shimPid(s.Key), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e := r.ended(s.Key); e.GetSignal() != 15 || e.GetShimLost() {
		t.Errorf("%v", e)
	}
}

func TestOutOfMemoryIsTold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if cg, err := r.cfg.Groups.Create(cgroup.Limits{MemMiB: 1}); err != nil || cg.OOMFile == "" {
		t.Skip("no memory controller of our own here")
	}
	s := r.job(1, sh("x=a; while :; do x=$x$x; done"))
	s.Prepare.Allocation.MemMib = 16
	if e := r.run(s); !e.GetOomKilled() || e.GetSignal() != 9 {
		t.Errorf("%v; %s", e, strings.TrimSpace(r.read("out")))
	}
}
