// Package fsim is the scheduling simulator: it runs a workload over a cluster under one or several policies, on the workload as
// it is or on slightly perturbed copies, and gathers the figures of each.
package fsim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim/metrics"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/reference"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/replay"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/trace"
)

// Model makes a schedule of a workload, whose jobs are in order of arrival. Several copies may run at once.
type Model interface {
	// Run ends early when ctx does. It calls progress now and then with the number of jobs that ended.
	Run(ctx context.Context, nodes trace.Cluster, jobs []trace.Job, progress func(done int)) (*metrics.Schedule, error)
}

// Contender is a policy to be simulated.
type Contender struct {
	// Name in reports.
	Name string
	// Limits say where time limits come from.
	Limits trace.Limits
	Model  Model
}

// Workload is what all contenders are given.
type Workload struct {
	// Name in reports.
	Name  string
	Jobs  []trace.Job
	Nodes trace.Cluster
}

// Options say how often and how wide.
type Options struct {
	// Copies is how many perturbed copies of the workload each contender gets; 0 means the workload as it is, once.
	Copies int
	// Parallel is how many simulations run at once, at least 1.
	Parallel int
	// Yardstick adds the shortest-remaining-service model, against which completion times are given.
	Yardstick bool
	// Progress is called by several goroutines with the jobs that ended and those there are, over all simulations. May be nil.
	Progress func(done, total int64)
	// Keep keeps the schedule of each contender's first copy.
	Keep bool
}

// Result is what came of one contender.
type Result struct {
	Name      string             `json:"name"`
	Figures   []metrics.Figure   `json:"figures"`
	Summaries []*metrics.Summary `json:"runs"`
	// Times is the average completion over that of the yardstick on the same copies; 0 without one.
	Times   float64 `json:"times_srsf,omitempty"`
	TimesSD float64 `json:"times_srsf_sd,omitempty"`
	// Seconds that the simulations took, together. Measured.
	Seconds float64 `json:"simulated_in_s"`
	// Schedule of the first copy, if it was to be kept.
	Schedule *metrics.Schedule `json:"-"`
}

// Report is what came of all contenders on one workload.
type Report struct {
	Workload string  `json:"workload"`
	Jobs     int     `json:"jobs"`
	Days     float64 `json:"days"`
	GPUHours float64 `json:"gpu_hours"`
	GPUs     int     `json:"gpus"`
	Cluster  string  `json:"cluster"`
	Load     float64 `json:"offered_load"`
	// Copies that were perturbed; 0 means that the workload was taken as it is.
	Copies  int      `json:"perturbed_copies"`
	Results []Result `json:"results"`
}

// yardstick is the name of the model that completion times are compared with.
const yardstick = "srsf"

// Simulate runs every contender over the workload.
func Simulate(ctx context.Context, w Workload, contenders []Contender, o Options) (*Report, error) {
	if len(contenders) == 0 {
		return nil, errors.New("no policy to simulate")
	}
	if o.Yardstick {
		p, err := reference.ParsePolicy(yardstick)
		if err != nil {
			return nil, err
		}
		contenders = append(contenders[:len(contenders):len(contenders)], Contender{Name: yardstick, Limits: trace.LimitsOwn, Model: Reference(p)})
	}
	copies := max(o.Copies, 1)
	rep := &Report{
		Workload: w.Name, Jobs: len(w.Jobs), GPUs: w.Nodes.GPUs(), Cluster: w.Nodes.String(), Load: trace.Load(w.Jobs, w.Nodes),
		Copies: o.Copies, Results: make([]Result, len(contenders)),
	}
	if n := len(w.Jobs); n > 0 {
		rep.Days = float64(w.Jobs[n-1].SubmitS-w.Jobs[0].SubmitS) / 86400
	}
	for i := range w.Jobs {
		rep.GPUHours += float64(w.Jobs[i].Service()) / 3600
	}
	for i, c := range contenders {
		rep.Results[i] = Result{Name: c.Name, Summaries: make([]*metrics.Summary, copies)}
	}
	if err := runAll(ctx, w, contenders, copies, o, rep); err != nil {
		return nil, err
	}
	for i := range rep.Results {
		r := &rep.Results[i]
		r.Figures = metrics.Figures(r.Summaries)
		if o.Yardstick {
			times := make([]float64, copies)
			for k, s := range r.Summaries {
				if base := rep.Results[len(rep.Results)-1].Summaries[k].JCT.Mean; base > 0 {
					times[k] = s.JCT.Mean / base
				}
			}
			r.Times, r.TimesSD = metrics.MeanSD(times)
		}
	}
	return rep, nil
}

// runAll fills the summaries, o.Parallel simulations at a time. The first error ends the others.
func runAll(ctx context.Context, w Workload, contenders []Contender, copies int, o Options, rep *Report) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	type task struct{ contender, copy int }
	tasks := make(chan task)
	var done atomic.Int64
	total := int64(len(contenders)) * int64(copies) * int64(len(w.Jobs))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range max(o.Parallel, 1) {
		wg.Go(func() {
			for t := range tasks {
				if ctx.Err() != nil {
					continue
				}
				c := contenders[t.contender]
				seed := uint64(0)
				if o.Copies > 0 {
					seed = uint64(t.copy) + 1
				}
				jobs := c.Limits.Apply(trace.Shake(w.Jobs, seed))
				last := 0
				began := time.Now()
				s, err := c.Model.Run(ctx, w.Nodes, jobs, func(n int) {
					sum := done.Add(int64(n - last))
					last = n
					if o.Progress != nil {
						o.Progress(sum, total)
					}
				})
				took := time.Since(began).Seconds()
				if err != nil {
					cancel(fmt.Errorf("policy %s: %w", c.Name, err))
					continue
				}
				sum := done.Add(int64(len(jobs) - last))
				if o.Progress != nil {
					o.Progress(sum, total)
				}
				r := &rep.Results[t.contender]
				mu.Lock()
				r.Seconds += took
				r.Summaries[t.copy] = metrics.Summarize(s)
				if o.Keep && t.copy == 0 {
					r.Schedule = s
				}
				mu.Unlock()
			}
		})
	}
	for i := range contenders {
		for k := range copies {
			tasks <- task{i, k}
		}
	}
	close(tasks)
	wg.Wait()
	return context.Cause(ctx)
}

// Reference is the model of a reference policy.
func Reference(p reference.Policy) Model { return referenceModel{p} }

type referenceModel struct{ policy reference.Policy }

// Run implements Model.
func (m referenceModel) Run(ctx context.Context, nodes trace.Cluster, jobs []trace.Job, progress func(done int)) (*metrics.Schedule, error) {
	return reference.Run(ctx, nodes, jobs, m.policy, progress)
}

// Fettle is the model that drives fettle's own planner.
func Fettle(c replay.Config) Model { return fettleModel{c} }

type fettleModel struct{ cfg replay.Config }

// Run implements Model.
func (m fettleModel) Run(ctx context.Context, nodes trace.Cluster, jobs []trace.Job, progress func(done int)) (*metrics.Schedule, error) {
	return replay.Run(ctx, nodes, jobs, m.cfg, progress)
}
