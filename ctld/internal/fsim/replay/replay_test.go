package replay

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim/metrics"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/reference"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/trace"
	"github.com/fettle-hpc/fettle/plugins/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fifo orders by submission and nothing else.
var fifo = Config{Scorer: Builtin(policy.Params{}), Progress: -1}

// nodes are so many nodes of one kind.
func nodes(n, gpus int, typ string) trace.Cluster {
	var c trace.Cluster
	for i := range n {
		c = append(c, trace.Node{Name: fmt.Sprintf("%s%02d", typ, i), GPUs: gpus, Type: typ})
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

func simulate(t testing.TB, c trace.Cluster, js []trace.Job, cfg Config) *metrics.Schedule {
	t.Helper()
	s, err := Run(context.Background(), c, js, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func starts(s *metrics.Schedule) string {
	var out []string
	for _, o := range s.Outcomes {
		switch {
		case o.Dropped:
			out = append(out, o.ID+"@never")
		case o.Killed:
			out = append(out, fmt.Sprintf("%s@%d-%d!", o.ID, o.StartS, o.EndS))
		default:
			out = append(out, fmt.Sprintf("%s@%d-%d", o.ID, o.StartS, o.EndS))
		}
	}
	return strings.Join(out, " ")
}

// TestByHand has schedules that were worked out on paper.
func TestByHand(t *testing.T) {
	t.Parallel()
	strict := fifo
	strict.Strict = true
	kill := fifo
	kill.Kill = true
	telling := fifo
	telling.Progress = 0
	const week = 7 * 24 * 3600
	small := Config{Scorer: Builtin(policy.Params{SizeMS: week * 1000}), Progress: -1}
	urgent := Config{Scorer: Builtin(policy.Params{PriorityMS: 3_600_000}), Progress: -1}
	// b needs the whole node; c ends by its limit before a does, d does not.
	const four = "a 0 100 3 100\nb 1 50 4 50\nc 2 90 1 90\nd 3 200 1 200\n"
	for name, c := range map[string]struct {
		nodes trace.Cluster
		jobs  string
		cfg   Config
		want  string
	}{
		"strictly in order":                           {nodes(1, 4, "A"), four, strict, "a@0-100 b@100-150 c@150-240 d@150-350"},
		"backfill does not delay the first":           {nodes(1, 4, "A"), four, fifo, "a@0-100 b@100-150 c@2-92 d@150-350"},
		"without a limit nothing goes ahead by time":  {nodes(1, 4, "A"), "a 0 100 3 100\nb 1 50 4 50\nc 2 90 1\n", fifo, "a@0-100 b@100-150 c@150-240"},
		"what the first leaves over may be used":      {nodes(1, 4, "A"), "a 0 100 2 100\nb 1 50 3 50\nc 2 500 1 500\nd 3 500 1 500\n", fifo, "a@0-100 b@100-150 c@2-502 d@150-650"},
		"the small job first":                         {nodes(1, 1, "A"), "a 0 10 1 60\nb 1 9000 1 9000\nc 2 60 1 60\n", small, "a@0-10 b@70-9070 c@10-70"},
		"a job ends at its limit when limits kill":    {nodes(1, 1, "A"), "a 0 100 1 40\nb 1 10 1 60\n", kill, "a@0-40! b@40-50"},
		"otherwise it runs on":                        {nodes(1, 1, "A"), "a 0 100 1 40\nb 1 10 1 60\n", fifo, "a@0-100 b@100-110"},
		"an impossible job is dropped":                {nodes(2, 2, "A"), "a 0 10 5 60\nb 1 10 4 60\nc 2 5 1 60 B\n", fifo, "a@never b@1-11 c@never"},
		"a gang takes whole nodes":                    {nodes(2, 2, "A"), "a 0 100 1 100\nb 1 10 4 60\nc 2 90 1 90\n", fifo, "a@0-100 b@100-110 c@2-92"},
		"a gang that is not even takes a part":        {nodes(3, 2, "A"), "a 0 100 1 100\nc 1 100 3 100\nd 2 100 2 100\n", fifo, "a@0-100 c@1-101 d@2-102"},
		"types bind":                                  {append(nodes(1, 1, "A"), nodes(1, 1, "B")...), "a 0 10 1 60 B\nb 0 10 1 60 B\nc 0 10 1 60\n", fifo, "a@0-10 b@10-20 c@0-10"},
		"completions come before arrivals":            {nodes(1, 1, "A"), "a 0 10 1 60\nb 10 5 1 60\n", fifo, "a@0-10 b@10-15"},
		"an outlived limit is no promise (b is late)": {nodes(1, 2, "A"), "a 0 100 1 10\nb 1 50 2 60\nc 20 5 1 30\n", fifo, "a@0-100 b@100-150 c@20-25"},
		// a tells that it needs until 1,000, though its limit is 100,000: c, which ends at 1,100, would be late and does not start.
		"progress moves the first forward": {nodes(1, 2, "A"), "a 0 1000 1 100000\nb 1 50 2 60\nc 100 900 1 1000\n", telling, "a@0-1000 b@1000-1050 c@1050-1950"},
		"without it the limit counts":      {nodes(1, 2, "A"), "a 0 1000 1 100000\nb 1 50 2 60\nc 100 950 1 1000\n", fifo, "a@0-1000 b@1050-1100 c@100-1050"},
		"urgent jobs first":                {nodes(1, 1, "A"), "a 0 10 1 60\nb 1 10 1 60\nc 2 10 1 60\n", urgent, "a@0-10 b@20-30 c@10-20"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := jobs(t, c.jobs)
			if name == "urgent jobs first" {
				js[2].Priority = 1
			}
			if got := starts(simulate(t, c.nodes, js, c.cfg)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestStrictIsReference compares the planner, told to overtake nobody, with the reference model job by job. Jobs take whole nodes, so
// which ones they take makes no difference.
func TestStrictIsReference(t *testing.T) {
	t.Parallel()
	ref, err := reference.ParsePolicy("fifo")
	if err != nil {
		t.Fatal(err)
	}
	cfg := fifo
	cfg.Strict = true
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 4).Draw(t, "size")
		c := nodes(rapid.IntRange(1, 5).Draw(t, "nodes"), size, "A")
		var js []trace.Job
		for i := range rapid.IntRange(1, 25).Draw(t, "jobs") {
			js = append(js, trace.Job{
				ID: fmt.Sprint(i), Row: i, Priority: 5, SubmitS: rapid.Int64Range(0, 40).Draw(t, "submit"), DurationS: rapid.Int64Range(1, 30).Draw(t, "duration"),
				GPUs: size * rapid.IntRange(1, 6).Draw(t, "nodes of the job"), LimitS: rapid.Int64Range(1, 50).Draw(t, "limit"),
			})
		}
		trace.Sort(js)
		want, err := reference.Run(context.Background(), c, js, ref, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Run(context.Background(), c, js, cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		if starts(got) != starts(want) {
			t.Errorf("got  %s\nwant %s", starts(got), starts(want))
		}
	})
}

func excerpt(t testing.TB, name string) (trace.Cluster, []trace.Job) {
	t.Helper()
	c, err := trace.Nodes(filepath.Join("..", "testdata", name+".cluster.csv"))
	if err != nil {
		t.Fatal(err)
	}
	js, err := trace.Jobs(filepath.Join("..", "testdata", name+".csv"))
	if err != nil {
		t.Fatal(err)
	}
	return c, trace.LimitsFilled.Apply(js)
}

// TestNearReference compares the planner's backfill with the reference model's on real jobs: the rules are the same, ties between
// nodes are decided otherwise.
func TestNearReference(t *testing.T) {
	t.Parallel()
	c, js := excerpt(t, "philly")
	p, err := reference.ParsePolicy("easy-limit")
	if err != nil {
		t.Fatal(err)
	}
	want, err := reference.Run(context.Background(), c, js, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, b := metrics.Summarize(simulate(t, c, js, fifo)), metrics.Summarize(want)
	if r := a.JCT.Mean / b.JCT.Mean; r < 0.97 || r > 1.03 {
		t.Errorf("average completion %f s, the reference has %f s", a.JCT.Mean, b.JCT.Mean)
	}
}

// TestShippedPolicy checks on real jobs what users are promised: the shipped policy beats the order of submission, nobody waits for longer
// than its bound plus what is ahead, and nothing is over-allocated.
func TestShippedPolicy(t *testing.T) {
	t.Parallel()
	c, js := excerpt(t, "hpc2n")
	cfg := Config{Scorer: Builtin(policy.Defaults()), Progress: -1, FairShare: true}
	s := simulate(t, c, js, cfg)
	a, b := metrics.Summarize(s), metrics.Summarize(simulate(t, c, js, fifo))
	if a.JCT.Mean >= b.JCT.Mean {
		t.Errorf("average completion %f s, in order of submission %f s", a.JCT.Mean, b.JCT.Mean)
	}
	if a.BoundS != (policy.Defaults().BoundMS()+999)/1000 || a.Wait.Max > float64(a.BoundS) {
		t.Errorf("longest wait %f s, bound %d s", a.Wait.Max, a.BoundS)
	}
	change := map[int64]int{}
	for i, o := range s.Outcomes {
		if o.StartS < o.SubmitS || o.EndS-o.StartS != js[i].DurationS {
			t.Fatalf("job %+v", o)
		}
		change[o.StartS] += o.GPUs
		change[o.EndS] -= o.GPUs
	}
	used := 0
	for at := int64(0); len(change) > 0; at++ {
		if used += change[at]; used > c.GPUs() {
			t.Fatalf("%d GPUs used at %d", used, at)
		}
		delete(change, at)
	}
	if again := simulate(t, c, js, cfg); starts(again) != starts(s) {
		t.Error("two runs give two schedules")
	}
}

// TestPlugin runs policies as processes: they decide as their twins in this process do.
func TestPlugin(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"fettle-sched-multifactor", "fettle-sched-fifo"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), "github.com/fettle-hpc/fettle/plugins/cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
	}
	c, js := excerpt(t, "philly")
	js = js[:400]
	settings := map[string]string{policy.SizeSetting: "24h"}
	params, err := policy.ParseSettings(settings)
	if err != nil {
		t.Fatal(err)
	}
	for name, twins := range map[string]struct{ plugin, builtin Config }{
		"multifactor": {
			Config{Scorer: Plugin(filepath.Join(dir, "fettle-sched-multifactor"), settings), Progress: -1, FairShare: true},
			Config{Scorer: Builtin(params), Progress: -1, FairShare: true},
		},
		"fifo": {Config{Scorer: Plugin(filepath.Join(dir, "fettle-sched-fifo"), nil), Progress: -1}, fifo},
	} {
		t.Run(name, func(t *testing.T) {
			got, want := simulate(t, c[:8], js, twins.plugin), simulate(t, c[:8], js, twins.builtin)
			if starts(got) != starts(want) {
				t.Error("the plugin's schedule is another one")
			}
			if name == "multifactor" && got.BoundS != want.BoundS {
				t.Errorf("bound %d s, want %d s", got.BoundS, want.BoundS)
			}
		})
	}
	t.Run("refused settings", func(t *testing.T) {
		cfg := Config{Scorer: Plugin(filepath.Join(dir, "fettle-sched-multifactor"), map[string]string{policy.SizeSetting: "long"}), Progress: -1}
		if _, err := Run(context.Background(), c, js, cfg, nil); err == nil || !strings.Contains(err.Error(), `"long" is not a duration`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no plugin", func(t *testing.T) {
		cfg := Config{Scorer: Plugin(filepath.Join(dir, "nothing"), nil), Progress: -1}
		if _, err := Run(context.Background(), c, js, cfg, nil); err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("got %v", err)
		}
	})
}

// TestFairShare: of two projects, the one that used the cluster for hours yields to the one that did not.
func TestFairShare(t *testing.T) {
	t.Parallel()
	js := jobs(t, "a 0 36000 1 36000\nb 100 1000 1 1000\nc 200 1000 1 1000\n")
	for i, project := range []string{"hog", "hog", "poor"} {
		js[i].VC = project
	}
	cfg := Config{Scorer: Builtin(policy.Params{FairShareMS: int64(12 * time.Hour / time.Millisecond)}), Progress: -1}
	if got, want := starts(simulate(t, nodes(1, 1, "A"), js, cfg)), "a@0-36000 b@36000-37000 c@37000-38000"; got != want {
		t.Errorf("without fair share: got %s, want %s", got, want)
	}
	cfg.FairShare = true
	if got, want := starts(simulate(t, nodes(1, 1, "A"), js, cfg)), "a@0-36000 b@37000-38000 c@36000-37000"; got != want {
		t.Errorf("with fair share: got %s, want %s", got, want)
	}
}

// TestShares: three jobs that ask for a third of a card each share it, and none shares with one that asks for all of it.
func TestShares(t *testing.T) {
	t.Parallel()
	js := jobs(t, "a 0 100 1 100\nb 0 100 1 100\nc 0 100 1 100\nd 0 100 1 100\ne 0 10 1 100\n")
	for i := range 4 {
		js[i].GPUMilli = 333
	}
	cfg := fifo
	if got, want := starts(simulate(t, nodes(1, 2, "A"), js, cfg)), "a@0-100 b@0-100 c@100-200 d@100-200 e@200-210"; got != want {
		t.Errorf("whole cards: got %s, want %s", got, want)
	}
	cfg.Shares = true
	if got, want := starts(simulate(t, nodes(1, 2, "A"), js, cfg)), "a@0-100 b@0-100 c@0-100 d@0-100 e@100-110"; got != want {
		t.Errorf("shared cards: got %s, want %s", got, want)
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	h := newHistory()
	j := &trace.Job{User: "ann", VC: "vision", GPUs: 2}
	if usual, safe := h.estimate(j); usual != 0 || safe != 0 {
		t.Errorf("nothing ran, and yet %d and %d", usual, safe)
	}
	for _, ran := range []int64{100, 300, 200} {
		h.add(&trace.Job{User: "bob", VC: "vision", GPUs: 4}, ran)
	}
	if usual, safe := h.estimate(j); usual != 200 || safe != 300 {
		t.Errorf("by the project's runs %d and %d, want 200 and 300", usual, safe)
	}
	for _, ran := range []int64{10, 10, 10} {
		h.add(j, ran)
		h.add(&trace.Job{User: "ann", VC: "vision", GPUs: 2, Status: "FAILED"}, 1)
	}
	if usual, safe := h.estimate(j); usual != 10 || safe != 12 {
		t.Errorf("by the user's own runs %d and %d, want 10 and a fifth more", usual, safe)
	}
	for range rememberRuns {
		h.add(j, 50)
	}
	if usual, _ := h.estimate(j); usual != 50 {
		t.Errorf("old runs are not forgotten: %d", usual)
	}
}

// TestHistoryLetsAhead: without a limit nobody goes ahead, with what is known of such jobs one does.
func TestHistoryLetsAhead(t *testing.T) {
	t.Parallel()
	// Three runs of 20 s by ann; at 200 b waits for both cards, and ann's next job could be done before a is.
	js := jobs(t, "x 0 20 1\ny 30 20 1\nz 60 20 1\na 100 1000 1 1000\nb 101 10 2 60\nc 200 20 1\n")
	for i, user := range []string{"ann", "ann", "ann", "bob", "bob", "ann"} {
		js[i].User = user
	}
	cfg := fifo
	if got, want := starts(simulate(t, nodes(1, 2, "A"), js, cfg)), "c@1110-1130"; !strings.HasSuffix(got, want) {
		t.Errorf("got %s, want … %s", got, want)
	}
	cfg.History = true
	if got, want := starts(simulate(t, nodes(1, 2, "A"), js, cfg)), "c@200-220"; !strings.HasSuffix(got, want) {
		t.Errorf("with history: got %s, want … %s", got, want)
	}
}

// TestFloor counts by hand: two nodes of four.
func TestFloor(t *testing.T) {
	t.Parallel()
	c, js := nodes(2, 4, "A"), jobs(t, "a 0 10 3 60\nb 0 20 1 60\nc 0 20 4 60\nd 20 5 1 60\n")
	s := metrics.Summarize(simulate(t, c, js, fifo))
	// The window is 0 to 20: 8 GPUs for 10 s, then 5, with 3 loose ones.
	if s.Utilisation != (80+50)/160.0 || s.Fragmentation != 30/160.0 || s.IdleWhileQueued != 0 {
		t.Errorf("utilisation %f, fragmentation %f, idle while queued %f", s.Utilisation, s.Fragmentation, s.IdleWhileQueued)
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	c, js := excerpt(t, "philly")
	ctx, cancel := context.WithCancelCause(context.Background())
	_, err := Run(ctx, c, js, fifo, func(int) { cancel(os.ErrDeadlineExceeded) })
	if err != os.ErrDeadlineExceeded {
		t.Errorf("got %v", err)
	}
}

// TestLimitsUnchanged checks that a simulation leaves its input as it was: several run on it at once.
func TestLimitsUnchanged(t *testing.T) {
	t.Parallel()
	c, js := excerpt(t, "hpc2n")
	js = js[:50]
	before := append([]trace.Job(nil), js...)
	simulate(t, c, js, Config{Scorer: Builtin(policy.Defaults()), Progress: 0.1, History: true, FairShare: true, Kill: true})
	if !reflect.DeepEqual(before, js) {
		t.Error("the jobs changed")
	}
}
