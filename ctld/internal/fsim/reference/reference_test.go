package reference

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim/metrics"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/trace"
)

// cluster is nodes as "count x GPUs type", separated by commas.
func cluster(t *testing.T, text string) trace.Cluster {
	t.Helper()
	var c trace.Cluster
	for part := range strings.SplitSeq(text, ",") {
		var n, gpus int
		var typ string
		if parsed, err := fmt.Sscanf(part, "%dx%d%s", &n, &gpus, &typ); parsed < 2 {
			t.Fatal(part, err)
		}
		for range n {
			c = append(c, trace.Node{Name: fmt.Sprintf("n%d", len(c)), GPUs: gpus, Type: typ})
		}
	}
	return c
}

// jobs are lines of "name submit duration gpus [limit [types]]".
func jobs(t *testing.T, text string) []trace.Job {
	t.Helper()
	var out []trace.Job
	for line := range strings.Lines(text) {
		j := trace.Job{Row: len(out), Priority: 5}
		var types string
		if n, _ := fmt.Sscan(line, &j.ID, &j.SubmitS, &j.DurationS, &j.GPUs, &j.LimitS, &types); n < 4 {
			if strings.TrimSpace(line) == "" {
				continue
			}
			t.Fatalf("bad line %q", line)
		}
		if types != "" {
			j.Types = strings.Split(types, "|")
		}
		out = append(out, j)
	}
	trace.Sort(out)
	return out
}

func simulate(t *testing.T, c trace.Cluster, js []trace.Job, policy string) *metrics.Schedule {
	t.Helper()
	p, err := ParsePolicy(policy)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Run(context.Background(), c, js, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// starts is "name@start-end" of every job in order of arrival.
func starts(s *metrics.Schedule) string {
	var out []string
	for _, o := range s.Outcomes {
		if o.Dropped {
			out = append(out, o.ID+"@never")
			continue
		}
		out = append(out, fmt.Sprintf("%s@%d-%d", o.ID, o.StartS, o.EndS))
	}
	return strings.Join(out, " ")
}

// TestByHand has schedules that were worked out on paper.
func TestByHand(t *testing.T) {
	t.Parallel()
	// b needs the whole node; c can end before a does, d cannot.
	const four = "a 0 100 3\nb 1 50 4\nc 2 90 1\nd 3 200 1\n"
	for name, c := range map[string]struct{ cluster, jobs, policy, want string }{
		"fifo stops at the first that does not fit": {"1x4", four, "fifo", "a@0-100 b@100-150 c@150-240 d@150-350"},
		"greedy lets small ones starve the large":   {"1x4", four, "greedy", "a@0-100 b@292-342 c@2-92 d@92-292"},
		"easy starts what ends before the head":     {"1x4", four, "easy-exact", "a@0-100 b@100-150 c@2-92 d@150-350"},
		"shortest first, still strict":              {"1x4", four, "sjf", "a@0-100 b@100-150 c@150-240 d@150-350"},
		"shortest first with backfill":              {"1x4", four, "sjf-easy", "a@0-100 b@100-150 c@2-92 d@150-350"},
		"the shortest goes before the first come": {
			"1x1", "a 0 10 1\nb 1 100 1\nc 2 5 1\n", "sjf", "a@0-10 b@15-115 c@10-15",
		},
		// At 100 the head takes three of four cards: one may be used beyond that, but not two.
		"easy leaves what the head does not need": {
			"1x4", "a 0 100 2\nb 1 50 3\nc 2 500 1\nd 3 500 1\n", "easy-exact", "a@0-100 b@100-150 c@2-502 d@150-650",
		},
		// c ends exactly when the head starts.
		"ending at the shadow time is soon enough": {
			"1x2", "a 0 100 1\nb 1 50 2\nc 2 98 1\nd 3 98 1\n", "easy-exact", "a@0-100 b@100-150 c@2-100 d@150-248",
		},
		// By limits a ends at 200: c (2+198) may start, d may not.
		"easy believes limits": {
			"1x3", "a 0 100 1 200\nb 1 50 3 60\nc 2 10 1 198\nd 3 10 1 198\n", "easy-limit", "a@0-100 b@100-150 c@2-12 d@150-160",
		},
		// a was to end at 10; from 10 on it is expected at 20, from 20 on at 40: at 12 c (limit 8) ends in time, at 21 d (limit 20) does not, e (limit 19) does.
		"what outlives its estimate is given twice as long": {
			"1x2", "a 0 100 1 10\nb 1 50 2 60\nc 12 5 1 8\nd 21 5 1 20\ne 22 5 1 18\n", "easy-limit", "a@0-100 b@100-150 c@12-17 d@150-155 e@22-27",
		},
		"completions come before arrivals, arrivals before the pass": {
			"1x1", "a 0 10 1\nb 10 10 1\nc 10 3 1\n", "sjf", "a@0-10 b@13-23 c@10-13",
		},
		"a gang takes whole nodes and a part of a used one": {
			// c takes n1 whole and one card of n0, beside a; d gets n2 whole.
			"3x2", "a 0 100 1\nc 1 100 3\nd 2 100 2\n", "fifo", "a@0-100 c@1-101 d@2-102",
		},
		"a gang of whole nodes waits for whole nodes": {
			"2x2", "a 0 100 1\nb 1 10 4\n", "fifo", "a@0-100 b@100-110",
		},
		"types bind, and none means any": {
			"1x1T4,1x1V100", "a 0 10 1 60 V100\nb 0 10 1 60 V100|A100\nc 0 10 1\nd 0 10 1 60 A100\n", "greedy", "a@0-10 b@10-20 c@0-10 d@never",
		},
		"a job that cannot be held is dropped and holds up nobody": {
			"2x2", "a 0 10 5\nb 1 10 4\n", "fifo", "a@never b@1-11",
		},
		"the least service left comes first, at any time": {
			"1x4", "a 0 100 4\nb 5 10 1\n", "srsf", "a@0-110 b@5-15",
		},
		"srsf fills up behind what does not fit": {
			"1x4", "a 0 100 3\nb 0 60 2\nc 0 1000 1\n", "srsf", "a@60-160 b@0-60 c@0-1000",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := starts(simulate(t, cluster(t, c.cluster), jobs(t, c.jobs), c.policy)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestVirtualSubmit has keys computed by hand: the bonus falls with the logarithm of the area, from the whole window at a GPU-minute to
// none at ten million GPU-seconds.
func TestVirtualSubmit(t *testing.T) {
	t.Parallel()
	key := func(gpus int, limitS int64) float64 {
		return virtualSubmit(&trace.Job{SubmitS: 1000, GPUs: gpus, LimitS: limitS, DurationS: 1}, 48*3600)
	}
	for _, c := range []struct {
		gpus  int
		limit int64
		want  float64
	}{
		{1, 60, 1000 - 172800}, {1, 1, 1000 - 172800}, {1000, 10000, 1000}, {5000, 10000, 1000},
		// sqrt(60 * 1e7) = 24494.897: half the window.
		{2, 12247, 1000 - 86401.5},
	} {
		if got := key(c.gpus, c.limit); got < c.want-1 || got > c.want+1 {
			t.Errorf("%d GPUs for %d s: key %f, want %f", c.gpus, c.limit, got, c.want)
		}
	}
}

// TestPlacement checks which nodes are taken.
func TestPlacement(t *testing.T) {
	t.Parallel()
	v := newView(cluster(t, "2x4T4,2x2P100,1x4T4,1x8A100"))
	// n0 n1 T4x4, n2 n3 P100x2, n4 T4x4, n5 A100x8
	find := func(gpus int, types ...string) string {
		shares, ok := v.find(v.shape(gpus, types), nil)
		if !ok {
			return "none"
		}
		return fmt.Sprint(shares)
	}
	take := func(node, gpus int32) { v.take([]share{{node, gpus}}) }
	for _, c := range []struct{ got, want string }{
		{find(2), "[{2 2}]"}, {find(1), "[{2 1}]"}, {find(3), "[{0 3}]"}, {find(5), "[{5 5}]"}, {find(2, "T4"), "[{0 2}]"},
		{find(9), "[{5 8} {0 1}]"}, {find(3, "P100"), "[{2 2} {3 1}]"}, {find(5, "P100"), "none"}, {find(1, "H100"), "none"},
	} {
		if c.want == "[{5 8} {0 1}]" {
			// The A100 class has one node only, so the gang goes to the T4 nodes.
			c.want = "[{0 4} {1 4} {4 1}]"
		}
		if c.got != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
	take(1, 2)
	take(4, 3)
	if got, want := find(1, "T4"), "[{4 1}]"; got != want {
		t.Errorf("best fit: got %s, want %s", got, want)
	}
	if got, want := find(6, "T4"), "[{1 2} {0 4}]"; got != want {
		t.Errorf("gang with a remainder: got %s, want %s", got, want)
	}
	if got := v.partlyFree(); got != 3 {
		t.Errorf("%d free GPUs on partly used nodes, want 2+1", got)
	}
}

// excerpt reads a workload of the test data.
func excerpt(t *testing.T, name string) (trace.Cluster, []trace.Job) {
	t.Helper()
	nodes, err := trace.Nodes(filepath.Join("..", "testdata", name+".cluster.csv"))
	if err != nil {
		t.Fatal(err)
	}
	js, err := trace.Jobs(filepath.Join("..", "testdata", name+".csv"))
	if err != nil {
		t.Fatal(err)
	}
	return nodes, js
}

// TestNeverOverAllocated replays every schedule of the excerpts and counts GPUs.
func TestNeverOverAllocated(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"philly", "hpc2n"} {
		for _, policy := range Policies {
			t.Run(name+" "+policy, func(t *testing.T) {
				t.Parallel()
				nodes, js := excerpt(t, name)
				s := simulate(t, nodes, js, policy)
				change := map[int64]int{}
				for i, o := range s.Outcomes {
					if o.Dropped || o.StartS < o.SubmitS || o.EndS-o.StartS < js[i].DurationS {
						t.Fatalf("job %s: %+v", o.ID, o)
					}
					if policy != "srsf" {
						if o.EndS-o.StartS != js[i].DurationS {
							t.Fatalf("job %s was interrupted", o.ID)
						}
						change[o.StartS] += o.GPUs
						change[o.EndS] -= o.GPUs
					}
				}
				if used, most := 0, nodes.GPUs(); len(change) > 0 {
					for _, at := range sortedKeys(change) {
						if used += change[at]; used > most || used < 0 {
							t.Fatalf("%d of %d GPUs used at %d", used, most, at)
						}
					}
				}
			})
		}
	}
}

// TestCancelled checks that a simulation ends with its context, and that progress is told.
func TestCancelled(t *testing.T) {
	t.Parallel()
	nodes, js := excerpt(t, "philly")
	p, err := ParsePolicy("easy-limit")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	calls := 0
	_, err = Run(ctx, nodes, js, p, func(int) {
		if calls++; calls == 2 {
			cancel(os.ErrDeadlineExceeded)
		}
	})
	if err != os.ErrDeadlineExceeded || calls != 2 {
		t.Errorf("got %v after %d calls", err, calls)
	}
}

func TestUnknownPolicy(t *testing.T) {
	t.Parallel()
	if _, err := ParsePolicy("best"); err == nil || !strings.HasPrefix(err.Error(), `"best": unknown; use one of fifo, greedy`) {
		t.Errorf("got %v", err)
	}
}

func sortedKeys(m map[int64]int) []int64 { return slices.Sorted(maps.Keys(m)) }
