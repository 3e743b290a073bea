package dst

import (
	"errors"
	"flag"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

var (
	seed  = flag.Uint64("seed", 0, "run this seed only")
	seeds = flag.Int("seeds", 2000, "how many seeds to run, from -from on")
	from  = flag.Uint64("from", 1, "the first seed")
)

// TestSeeds runs whole clusters under faults. A failure prints the command that repeats it.
func TestSeeds(t *testing.T) {
	t.Parallel()
	if *seed != 0 {
		stats, err := Run(Config{Seed: *seed})
		t.Logf("%+v", stats)
		report(t, *seed, err)
		return
	}
	n := *seeds
	if testing.Short() {
		n = min(n, 100)
	}
	total := runMany(t, *from, n)
	if total.Started == 0 || total.Elections == 0 || total.Reboots == 0 {
		t.Errorf("the simulation did not simulate: %+v", total)
	}
	t.Logf("%d seeds: %+v", n, total)
}

func report(t *testing.T, seed uint64, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%v\nrepeat: go test ./ctld/internal/dst -run TestSeeds -seed %s", err, strconv.FormatUint(seed, 10))
	}
}

// runMany runs seeds on all cores and reports the first few failures.
func runMany(t *testing.T, first uint64, n int) Stats {
	t.Helper()
	var next, failures atomic.Int64
	var mu sync.Mutex
	var total Stats
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= int64(n) || failures.Load() > 3 {
					return
				}
				stats, err := Run(Config{Seed: first + uint64(i)})
				mu.Lock()
				total = total.plus(stats)
				if err != nil {
					failures.Add(1)
					report(t, first+uint64(i), err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return total
}

func (s Stats) plus(o Stats) Stats {
	return Stats{
		Entries: s.Entries + o.Entries, Elections: s.Elections + o.Elections, Crashes: s.Crashes + o.Crashes, Reboots: s.Reboots + o.Reboots,
		Breaks: s.Breaks + o.Breaks, Started: s.Started + o.Started, Finished: s.Finished + o.Finished,
		Preempted: s.Preempted + o.Preempted,
	}
}

// TestSameSeedSameRun checks that a run depends on its seed alone.
func TestSameSeedSameRun(t *testing.T) {
	t.Parallel()
	a, errA := Run(Config{Seed: 7})
	b, errB := Run(Config{Seed: 7})
	var va, vb *Violation
	if a != b || errors.As(errA, &va) != errors.As(errB, &vb) {
		t.Errorf("two runs of one seed differ: %+v and %+v", a, b)
	}
}
