package replay

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim/metrics"
	"github.com/fettle-hpc/fettle/plugins/policy"
)

// preempting orders small jobs first and lets them stop large ones.
func preempting(p Preemption) Config {
	p.RestartS, p.MaxLoss = 100, 0.1
	return Config{Scorer: Builtin(policy.Params{SizeMS: int64(168 * time.Hour / time.Millisecond)}), Progress: -1, Preemption: &p}
}

// TestPreemptionByHand has schedules that were worked out on paper: a has the only card for days, b needs it for a minute.
func TestPreemptionByHand(t *testing.T) {
	t.Parallel()
	const two = "a 0 100000 1 100000\nb 50000 60 1 60\n"
	for name, c := range map[string]struct {
		cfg       Config
		jobs      string
		want      string
		preempted int
		lost      int64
	}{
		// a has 50,000 s left, waits for 60 s and pays 100 s for coming back.
		"saves when asked": {preempting(Preemption{Share: 1}), two, "a@0-100160 b@50000-50060", 1, 100},
		// Its last checkpoint is at 46,800 s: 3,200 s are done again. That is less than a tenth of its run.
		"saves every 13 hours": {preempting(Preemption{Share: 1, CheckpointS: 3600 * 13}), two, "a@0-103360 b@50000-50060", 1, 100 + 3200},
		// With checkpoints every 22,500 s it would lose 5,100 s with coming back, more than a tenth of 50,000 s. At 50,060 s it would have run for 50,060 s
		// and lose 5,160 s, and so on; what it loses goes back at 67,500 s.
		"not if it loses more than a tenth":   {preempting(Preemption{Share: 1, CheckpointS: 22500}), "a 0 60000 1 100000\nb 50000 60 1 60\n", "a@0-60000 b@60000-60060", 0, 0},
		"not without leave":                   {preempting(Preemption{Share: 0}), two, "a@0-100000 b@100000-100060", 0, 0},
		"not in its first minutes":            {preempting(Preemption{Share: 1, MinRunS: 200_000}), two, "a@0-100000 b@100000-100060", 0, 0},
		"only for those who are more urgent":  {preempting(Preemption{Share: 1, PriorityGap: 2}), two, "a@0-100000 b@100000-100060", 0, 0},
		"not more often than it is agreed to": {preempting(Preemption{Share: 1, Budget: 1}), two + "c 70000 60 1 60\n", "a@0-100160 b@50000-50060 c@100160-100220", 1, 100},
		"again and again otherwise":           {preempting(Preemption{Share: 1}), two + "c 70000 60 1 60\n", "a@0-100320 b@50000-50060 c@70000-70060", 2, 200},
		// At 500 s a has run for less than five times what coming back costs; from 1,000 s on its loss is a tenth of its run at most.
		"as soon as the rules allow": {preempting(Preemption{Share: 1, MinRunS: 60}), "a 0 100000 1 100000\nb 500 60 1 60\n", "a@0-100160 b@1040-1100", 1, 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := simulate(t, nodes(1, 1, "A"), jobs(t, c.jobs), c.cfg)
			if got := starts(s); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if a := s.Outcomes[0]; a.Preempted != c.preempted || a.LostGPUS != c.lost {
				t.Errorf("stopped %d times, lost %d GPU-s; want %d and %d", a.Preempted, a.LostGPUS, c.preempted, c.lost)
			}
		})
	}
}

// TestPreemptionOfGangs: a job over two nodes is stopped once for one that needs both, and what it had is kept for that one.
func TestPreemptionOfGangs(t *testing.T) {
	t.Parallel()
	s := simulate(t, nodes(2, 2, "A"), jobs(t, "a 0 100000 4 100000\nb 50000 600 4 600\nc 50001 60 1 60\n"), preempting(Preemption{Share: 1, MinRunS: 6000}))
	// c is smaller than b, but what b has is not old enough to be stopped.
	if got, want := starts(s), "a@0-100760 b@50000-50600 c@50600-50660"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if s.Outcomes[0].Preempted != 1 {
		t.Errorf("stopped %d times", s.Outcomes[0].Preempted)
	}
}

// TestWasteBound: whatever the checkpoints, no more than a tenth of all GPU time is lost, and preemption pays.
func TestWasteBound(t *testing.T) {
	t.Parallel()
	c, js := excerpt(t, "philly")
	params := policy.Defaults()
	without := metrics.Summarize(simulate(t, c, js, Config{Scorer: Builtin(params), Progress: -1}))
	for name, checkpointS := range map[string]int64{"on request": 0, "half-hourly": 1800} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &Preemption{Share: 1, RestartS: 120, CheckpointS: checkpointS, MinRunS: 600, MaxLoss: 0.1}
			s := simulate(t, c, js, Config{Scorer: Builtin(params), Progress: -1, Preemption: p})
			m := metrics.Summarize(s)
			if m.Preemptions == 0 || m.LostShare > 0.1 || m.JCT.Mean > 1.03*without.JCT.Mean {
				t.Errorf("%d preemptions, lost %f, average completion %f s, without %f s", m.Preemptions, m.LostShare, m.JCT.Mean, without.JCT.Mean)
			}
			for i, o := range s.Outcomes {
				// Nothing vanishes: between its first start and its end there is room for the work and for what was lost.
				if o.EndS-o.StartS < js[i].DurationS+o.LostGPUS/int64(o.GPUs) {
					t.Fatalf("job %+v ran for less than its %d s", o, js[i].DurationS)
				}
			}
		})
	}
}

// TestShareOfVictims: about so many jobs may be stopped as it is said, and the same ones in each copy.
func TestShareOfVictims(t *testing.T) {
	t.Parallel()
	for _, share := range []float64{0, 0.25, 1} {
		p, n := &Preemption{Share: share}, 0
		for row := range 10_000 {
			if p.stops(row) {
				n++
			}
		}
		if got := float64(n) / 10_000; got < share-0.02 || got > share+0.02 {
			t.Errorf("%f of the jobs, want %f", got, share)
		}
	}
	if (*Preemption)(nil).stops(1) {
		t.Error("a job may be stopped though nothing is preempted")
	}
}

// TestPreemptionPlugin: a process picks the victims as its twin does.
func TestPreemptionPlugin(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fettle-preempt-lostwork")
	cmd := exec.Command("go", "build", "-o", path, "github.com/fettle-hpc/fettle/plugins/cmd/fettle-preempt-lostwork")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	c, js := excerpt(t, "philly")
	c, js = c[:6], js[:300]
	twin := preempting(Preemption{Share: 0.5, MinRunS: 600})
	process := preempting(Preemption{Share: 0.5, MinRunS: 600, Plugin: path})
	want, got := simulate(t, c, js, twin), simulate(t, c, js, process)
	if starts(got) != starts(want) {
		t.Error("the plugin's schedule is another one")
	}
	if metrics.Summarize(want).Preemptions == 0 {
		t.Error("nothing was stopped")
	}
	bad := preempting(Preemption{Share: 0.5, Plugin: filepath.Join(filepath.Dir(path), "nothing")})
	if _, err := Run(context.Background(), c, js, bad, nil); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
}
