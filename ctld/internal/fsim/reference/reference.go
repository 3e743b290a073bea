// Package reference is a small model of a cluster and its scheduler, whole in itself, whose schedules can be compared job by
// job with those of other simulators. It uses nothing of fettle's planner, so it is the yardstick for the simulator that does.
//
// Time is in seconds. At one instant all completions come first, then all arrivals, then one scheduling pass. A job asks for a
// number of GPUs, all at once, and maybe for certain types; a shared card counts whole. Nodes are grouped in classes of one type
// and size, in the order in which the file names them first. A job that fits in a node of an allowed class goes into one:
// least left over, then the earlier class, then the lowest node. A larger one takes whole free nodes of one class, the lowest
// first, and for the remainder a partly used node by best fit, else one more whole node; larger classes are tried first.
package reference

import (
	"cmp"
	"container/heap"
	"context"
	"slices"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim/metrics"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/trace"
)

// progressEvery is how many events pass between two reports.
const progressEvery = 1024

// Run simulates a workload, whose jobs are in order of arrival. It calls progress, which may be nil, now and then with the
// number of jobs that ended. It ends early when ctx does.
func Run(ctx context.Context, nodes trace.Cluster, jobs []trace.Job, p Policy, progress func(done int)) (*metrics.Schedule, error) {
	if p.mode == srsf {
		return runSRSF(ctx, nodes, jobs, progress)
	}
	e := newEngine(nodes, jobs)
	e.policy = p
	for events := 0; e.next(); events++ {
		if events%progressEvery == 0 {
			if err := context.Cause(ctx); err != nil {
				return nil, err
			}
			if progress != nil {
				progress(e.ended)
			}
		}
		began := time.Now()
		e.pass()
		e.passMS = append(e.passMS, float64(time.Since(began).Nanoseconds())/1e6)
		e.meter.Set(e.now, metrics.Level{Used: e.used, Frag: e.free.partlyFree(), Queued: len(e.queue)})
	}
	return e.result(), nil
}

// job is a job in the simulation.
type job struct {
	*trace.Job
	at       int
	key      float64
	shape    int32
	estimate int64
	// What it has while it runs.
	shares  []share
	startS  int64
	endS    int64
	expectS int64
	// remaining service time in seconds, for srsf.
	remaining int64
}

// before orders waiting jobs: the lowest key, then the earliest.
func before(a, b *job) int { return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.at, b.at)) }

// sooner orders running jobs by expected end.
func sooner(a, b *job) int { return cmp.Or(cmp.Compare(a.expectS, b.expectS), cmp.Compare(a.at, b.at)) }

// ends is a heap of running jobs, the first to end on top.
type ends []*job

func (h ends) Len() int           { return len(h) }
func (h ends) Less(i, k int) bool { return h[i].endS < h[k].endS }
func (h ends) Swap(i, k int)      { h[i], h[k] = h[k], h[i] }
func (h *ends) Push(x any)        { *h = append(*h, x.(*job)) }
func (h *ends) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

type engine struct {
	policy  Policy
	jobs    []job
	arrived int
	ended   int
	used    int
	now     int64
	free    *view
	shapes  []*shape
	ends    ends
	// queue is the waiting jobs in order, expected the running ones by expected end; that one only for easy.
	queue    []*job
	expected []*job
	outcomes []metrics.Outcome
	meter    *metrics.Meter
	passMS   []float64
	// verdicts of the shapes in this pass.
	full, fullBeside []bool
	// shadow is the cluster at the head's start, spare what its reservation leaves; both are kept for their memory.
	shadow, spare *view
	extra         []int32
	buf           []share
}

func newEngine(nodes trace.Cluster, jobs []trace.Job) *engine {
	e := &engine{jobs: make([]job, len(jobs)), outcomes: make([]metrics.Outcome, len(jobs)), free: newView(nodes)}
	e.shadow, e.spare, e.extra = e.free.clone(), e.free.clone(), make([]int32, len(nodes))
	e.spare.beside = e.free
	type key struct {
		gpus  int
		types string
	}
	known := map[key]int32{}
	for i := range jobs {
		t := &jobs[i]
		j := &e.jobs[i]
		*j = job{Job: t, at: i, remaining: t.DurationS}
		k := key{t.GPUs, joined(t.Types)}
		at, ok := known[k]
		if !ok {
			at = int32(len(e.shapes))
			s := e.free.shape(t.GPUs, t.Types)
			if _, ok := e.free.find(s, nil); !ok {
				at = -1
			} else {
				e.shapes = append(e.shapes, s)
			}
			known[k] = at
		}
		j.shape = at
		e.outcomes[i] = metrics.Outcome{
			ID: t.ID, GPUs: t.GPUs, Priority: t.Priority, Project: t.Project(), SubmitS: t.SubmitS, AloneS: t.DurationS,
			Dropped: at < 0, Wasted: t.Wasted(),
		}
	}
	e.full, e.fullBeside = make([]bool, len(e.shapes)), make([]bool, len(e.shapes))
	var first, last int64
	if len(jobs) > 0 {
		first, last = jobs[0].SubmitS, jobs[len(jobs)-1].SubmitS
	}
	e.meter = metrics.NewMeter(first, last, e.free.total)
	return e
}

func joined(types []string) string {
	if len(types) == 0 {
		return ""
	}
	sorted := slices.Sorted(slices.Values(types))
	out := sorted[0]
	for _, t := range sorted[1:] {
		out += "|" + t
	}
	return out
}

func (e *engine) result() *metrics.Schedule {
	return &metrics.Schedule{Outcomes: e.outcomes, Meter: e.meter, PassMS: e.passMS}
}

// next goes on to the next instant at which something happens: completions, then arrivals. It is false at the end.
func (e *engine) next() bool {
	for e.arrived < len(e.jobs) && e.jobs[e.arrived].shape < 0 {
		e.drop()
	}
	switch {
	case len(e.ends) > 0 && (e.arrived == len(e.jobs) || e.ends[0].endS <= e.jobs[e.arrived].SubmitS):
		e.now = e.ends[0].endS
	case e.arrived < len(e.jobs):
		e.now = e.jobs[e.arrived].SubmitS
	default:
		return false
	}
	for len(e.ends) > 0 && e.ends[0].endS == e.now {
		e.finish(heap.Pop(&e.ends).(*job))
	}
	for e.arrived < len(e.jobs) && e.jobs[e.arrived].SubmitS == e.now {
		j := &e.jobs[e.arrived]
		if j.shape < 0 {
			e.drop()
			continue
		}
		e.arrived++
		j.key, j.estimate = e.policy.key(j.Job), e.policy.estimate(j.Job)
		at, _ := slices.BinarySearchFunc(e.queue, j, before)
		e.queue = slices.Insert(e.queue, at, j)
	}
	return true
}

// drop passes over a job that the empty cluster could not hold.
func (e *engine) drop() {
	e.arrived++
	e.ended++
}

func (e *engine) finish(j *job) {
	e.ended++
	e.free.release(j.shares)
	e.used -= j.GPUs
	if e.policy.mode == easy {
		at, _ := slices.BinarySearchFunc(e.expected, j, sooner)
		e.expected = slices.Delete(e.expected, at, at+1)
	}
	o := &e.outcomes[j.at]
	o.StartS, o.EndS = j.startS, e.now
}

// start gives a job its GPUs.
func (e *engine) start(j *job, shares []share) {
	j.shares = slices.Clone(shares)
	e.free.take(j.shares)
	e.used += j.GPUs
	j.startS, j.endS = e.now, e.now+j.DurationS
	heap.Push(&e.ends, j)
	if e.policy.mode == easy {
		j.expectS = e.now + j.estimate
		at, _ := slices.BinarySearchFunc(e.expected, j, sooner)
		e.expected = slices.Insert(e.expected, at, j)
	}
}

// pass starts what may start now.
func (e *engine) pass() {
	clear(e.full)
	kept := e.queue[:0]
	for i, j := range e.queue {
		if !e.full[j.shape] {
			if shares, ok := e.free.find(e.shapes[j.shape], e.buf[:0]); ok {
				e.buf = shares
				e.start(j, shares)
				continue
			}
			e.full[j.shape] = true
		}
		if e.policy.mode == greedy {
			kept = append(kept, j)
			continue
		}
		rest := e.queue[i:]
		if e.policy.mode == easy && len(rest) > 1 && e.used < e.free.total {
			rest = append(rest[:1], e.backfill(j, rest[1:])...)
		}
		kept = append(kept, rest...)
		break
	}
	clear(e.queue[len(kept):])
	e.queue = kept
}
