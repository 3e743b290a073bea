package attempt

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// Two starts hang, as a dead file server makes them: here on a lease that nobody writes. A third goes on.
func TestHangingStartsDoNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Launching = 2 })
	if err := unix.Mkfifo(r.cfg.LeasePath, 0o600); err != nil {
		t.Fatal(err)
	}
	for id := range uint64(2) {
		s := r.job(id+1, sh("exit 0"))
		s.LeaseEpochMS = 7
		r.m.Start(s)
	}
	s := r.job(9, sh("exit 3"))
	r.m.Start(s)
	r.started(s.Key)
	if e := r.ended(s.Key); e.GetCode() != 3 {
		t.Errorf("%v", e)
	}
	lease, err := os.OpenFile(r.cfg.LeasePath, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	for range 2 {
		if e, ok := r.next().(nodemachine.ShimFailed); !ok || !e.Exit.GetLeaseExpired() {
			t.Errorf("%+v", e)
		}
	}
}

// Many more starts than places: each is made once, and each job's own exit code is told once, whichever shim had it.
func TestEveryStartIsMadeOnce(t *testing.T) {
	t.Parallel()
	eachIsolation(t, func(t *testing.T, opts ...option) {
		const jobs, inFlight = 200, 40
		r := newRig(t, append(opts, func(c *Config) { c.Launching = 3 })...)
		started := map[nodemachine.Key]int{}
		next, running := uint64(0), 0
		for ended := 0; ended < jobs; {
			for running < inFlight && next < jobs {
				next++
				running++
				r.m.Start(r.job(next, sh(fmt.Sprintf("exit %d", next%100))))
			}
			switch e := r.next().(type) {
			case nodemachine.ShimStarted:
				started[e.Key]++
			case nodemachine.ShimEnded:
				if want := int32(e.Key.Job % 100); e.Exit.GetCode() != want || started[e.Key] != 1 {
					t.Fatalf("job %d: code %d, want %d; started %d times", e.Key.Job, e.Exit.GetCode(), want, started[e.Key])
				}
				started[e.Key] = -jobs
				ended++
				running--
				r.m.Forget(e.Key)
			default:
				t.Fatalf("%T %+v", e, e)
			}
		}
	})
}

// A directory serves one script of a user after the other; what a script leaves there does not reach the next one.
func TestDirectoriesServeAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	forget := func(k nodemachine.Key) {
		r.m.Forget(k)
		eventually(t, "the attempt is forgotten", func() bool { return !exists(r.m.filesOf(k)) })
	}
	var dirs []string
	for i, c := range []struct{ name, script string }{
		{"plain", "# a rather long comment that the next script must not end with\nstat -c %i \"$(dirname \"$0\")\" >dir; cat \"$0\" >copy"},
		{"shorter", "stat -c %i \"$(dirname \"$0\")\" >dir; cat \"$0\" >copy"},
		{"leaves a file", "stat -c %i \"$(dirname \"$0\")\" >dir; cat \"$0\" >copy; echo x >\"$(dirname \"$0\")/extra\""},
		{"leaves a link", "stat -c %i \"$(dirname \"$0\")\" >dir; cat \"$0\" >copy; echo victim >victim; ln -sf \"$PWD/victim\" \"$0\""},
		{"leaves a hard link", "stat -c %i \"$(dirname \"$0\")\" >dir; cat \"$0\" >copy; ln \"$0\" hard"},
		{"last", "stat -c %i \"$(dirname \"$0\")\" >dir; cat \"$0\" >copy; ls -A \"$(dirname \"$0\")\" >left"},
	} {
		s := r.job(uint64(i+1), sh(c.script))
		if e := r.run(s); e.GetCode() != 0 {
			t.Fatalf("%s: %v", c.name, e)
		}
		if got := r.read("copy"); got != sh(c.script) {
			t.Errorf("%s: ran %q", c.name, got)
		}
		dirs = append(dirs, r.read("dir"))
		forget(s.Key)
	}
	if dirs[0] != dirs[1] || dirs[1] != dirs[2] {
		t.Errorf("the directory of a script that left nothing is not used again: %v", dirs)
	}
	if r.read("victim") != "victim\n" || !strings.Contains(r.read("hard"), "hard") || r.read("left") != "script\n" {
		t.Errorf("victim %q, hard %q, left %q", r.read("victim"), r.read("hard"), r.read("left"))
	}
}

// A stop with a long grace that meets an attempt at any moment of its start: it ends at once, by itself or unstarted, and is
// never left running for want of having heard it.
func TestStopWhileStarting(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const jobs = 60
	var stopping sync.WaitGroup
	defer stopping.Wait()
	for id := range uint64(jobs) {
		s := r.job(id+1, sh("trap 'exit 3' TERM; while :; do sleep 0.01; done"))
		s.Prepare.Spec.StdoutPath = "/dev/null"
		r.m.Start(s)
		stopping.Go(func() {
			for range id * 2_000 { // some are met later than others
				runtime.Gosched()
			}
			r.m.Stop(s.Key, 3_600_000)
		})
	}
	unstarted, ran := 0, 0
	for unstarted+ran < jobs {
		switch e := r.next().(type) {
		case nodemachine.ShimStarted:
		case nodemachine.ShimFailed:
			if e.Exit.GetDetail() != EndedUnstarted {
				t.Errorf("%v: %v", e.Key, e.Exit)
			}
			unstarted++
		case nodemachine.ShimEnded:
			// By TERM itself where the trap was not set yet.
			if e.Exit.GetCode() != 3 && e.Exit.GetSignal() != 15 {
				t.Errorf("%v: %v", e.Key, e.Exit)
			}
			ran++
		}
	}
	t.Logf("%d were ended before their start, %d after", unstarted, ran)
}
