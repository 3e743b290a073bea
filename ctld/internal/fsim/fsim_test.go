package fsim

import (
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim/metrics"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/reference"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/replay"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/trace"
	"github.com/fettle-hpc/fettle/plugins/policy"
)

func workload(t *testing.T, name string) Workload {
	t.Helper()
	w := Workload{Name: name}
	var err error
	if w.Nodes, err = trace.Nodes(filepath.Join("testdata", name+".cluster.csv")); err != nil {
		t.Fatal(err)
	}
	if w.Jobs, err = trace.Jobs(filepath.Join("testdata", name+".csv")); err != nil {
		t.Fatal(err)
	}
	return w
}

func contender(t *testing.T, name string) Contender {
	t.Helper()
	p, err := reference.ParsePolicy(name)
	if err != nil {
		t.Fatal(err)
	}
	return Contender{Name: name, Limits: trace.LimitsOwn, Model: Reference(p)}
}

// TestSimulate: copies are the same however many run at once, they differ from each other, and the yardstick is beaten by nobody here.
func TestSimulate(t *testing.T) {
	t.Parallel()
	w := workload(t, "hpc2n")
	list := []Contender{contender(t, "fifo"), contender(t, "easy-limit")}
	var last, total atomic.Int64
	options := Options{Copies: 3, Parallel: 4, Yardstick: true, Keep: true, Progress: func(done, of int64) {
		for {
			if was := last.Load(); was >= done || last.CompareAndSwap(was, done) {
				break
			}
		}
		total.Store(of)
	}}
	a, err := Simulate(context.Background(), w, list, options)
	if err != nil {
		t.Fatal(err)
	}
	if last.Load() != total.Load() || total.Load() != 3*3*600 {
		t.Errorf("progress ended at %d of %d", last.Load(), total.Load())
	}
	if len(a.Results) != 3 || a.Results[2].Name != "srsf" || a.Results[2].Times != 1 {
		t.Fatalf("results %+v", a.Results)
	}
	options.Parallel, options.Progress = 1, nil
	b, err := Simulate(context.Background(), w, list, options)
	if err != nil {
		t.Fatal(err)
	}
	for i := range a.Results {
		x, y := &a.Results[i], &b.Results[i]
		for k, f := range x.Figures {
			// Passes are measured, all else is not.
			if f.Unit != metrics.Millis && f != y.Figures[k] {
				t.Errorf("%s: %+v at once, %+v one by one", x.Name, f, y.Figures[k])
			}
		}
		if len(x.Schedule.Outcomes) != 600 || !reflect.DeepEqual(x.Schedule.Outcomes, y.Schedule.Outcomes) {
			t.Errorf("%s: another schedule", x.Name)
		}
		if x.Times < 1 || x.Figures[0].SD == 0 {
			t.Errorf("%s: %fx srsf, %+v", x.Name, x.Times, x.Figures[0])
		}
	}
	if a.Jobs != 600 || a.GPUs != 136 || a.Copies != 3 || a.Load < 0.9 || a.Load > 1.1 {
		t.Errorf("report %+v", a)
	}
}

// TestUnperturbed: without copies the workload is taken as it is.
func TestUnperturbed(t *testing.T) {
	t.Parallel()
	w := workload(t, "philly")
	r, err := Simulate(context.Background(), w, []Contender{contender(t, "fifo")}, Options{Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range r.Results[0].Schedule.Outcomes {
		if o.SubmitS != w.Jobs[i].SubmitS || o.AloneS != w.Jobs[i].DurationS {
			t.Fatalf("job %s changed", o.ID)
		}
	}
	if r.Results[0].Figures[0].SD != 0 || r.Results[0].Times != 0 {
		t.Errorf("%+v", r.Results[0])
	}
}

type failing struct{}

func (failing) Run(context.Context, trace.Cluster, []trace.Job, func(int)) (*metrics.Schedule, error) {
	return nil, errors.New("out of order")
}

func TestErrors(t *testing.T) {
	t.Parallel()
	w := workload(t, "hpc2n")
	_, err := Simulate(context.Background(), w, []Contender{contender(t, "fifo"), {Name: "bad", Limits: trace.LimitsNone, Model: failing{}}}, Options{Copies: 2, Parallel: 2})
	if err == nil || err.Error() != "policy bad: out of order" {
		t.Errorf("got %v", err)
	}
	if _, err := Simulate(context.Background(), w, nil, Options{}); err == nil || !strings.Contains(err.Error(), "no policy") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("enough"))
	if _, err := Simulate(ctx, w, []Contender{contender(t, "fifo")}, Options{}); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("got %v", err)
	}
}

// BenchmarkPhillyExcerpt is the time of one whole simulation, for both models.
func BenchmarkPhillyExcerpt(b *testing.B) {
	nodes, err := trace.Nodes(filepath.Join("testdata", "philly.cluster.csv"))
	if err != nil {
		b.Fatal(err)
	}
	jobs, err := trace.Jobs(filepath.Join("testdata", "philly.csv"))
	if err != nil {
		b.Fatal(err)
	}
	jobs = trace.LimitsFilled.Apply(jobs)
	easy, err := reference.ParsePolicy("easy-limit")
	if err != nil {
		b.Fatal(err)
	}
	for name, m := range map[string]Model{
		"reference": Reference(easy), "fettle": Fettle(replay.Config{Scorer: replay.Builtin(policy.Defaults()), Progress: -1, FairShare: true}),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := m.Run(context.Background(), nodes, jobs, nil); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(jobs)*b.N)/b.Elapsed().Seconds(), "jobs/s")
		})
	}
}
