// Package replay runs a workload through fettle's own planner and a scheduling policy in virtual time: the code that decides
// in a cluster decides here too, over nodes that are declared and jobs that end when the log says so.
//
// At one instant all completions come first, then all arrivals, then the policy's scores, then plans until nothing more
// starts. Orders take effect at once: there are no nodes to talk to, so starting and ending take no time beside what the
// workload says.
package replay

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim/metrics"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/trace"
	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	"github.com/fettle-hpc/fettle/plugins/policy"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Scorer orders jobs. It is used by one simulation at a time.
type Scorer interface {
	// Score is told of the jobs of which something changed, and of those that do not wait any more. It answers virtual submit
	// times in milliseconds, lower is earlier, of the changed jobs and maybe of others that wait. The answer is good until
	// the next call.
	Score(ctx context.Context, nowMS int64, changed *policy.Columns, removed []uint64) (ids []uint64, scores []int64, err error)
	// BoundS is how many seconds later a job has to be submitted to be ordered behind another for certain; 0 when unknown.
	BoundS() int64
	Close()
}

// Config is a scheduler and what it is told. The zero value is the planner as it is shipped, without preemption.
type Config struct {
	// Scorer makes the policy for one simulation.
	Scorer func(ctx context.Context) (Scorer, error)
	// Depth is how many blocked jobs of a class get a reservation; 0: the planner's default.
	Depth int
	// Strict lets nothing start ahead of a blocked job of its class.
	Strict bool
	// Kill ends jobs at their limit. Otherwise those that outlived theirs in the log run on, and the limit is a mere estimate.
	Kill bool
	// Shares lets jobs that ask for a part of a card share it.
	Shares bool
	// Progress has running jobs tell their end from a minute after their start on, wrong by up to this share of their run time;
	// negative: they tell nothing.
	Progress float64
	// History gives jobs without a limit an estimate from what ran before.
	History bool
	// FairShare counts what projects use.
	FairShare bool
	// Preemption, nil: off.
	Preemption *Preemption
}

// epochMS is when a workload begins, in Unix milliseconds: 2020-01-01.
const epochMS = int64(1577836800000)

// partition is where all jobs go.
const partition = "batch"

// progressEvery is how many events pass between two reports.
const progressEvery = 256

// job is a job in the simulation.
type job struct {
	*trace.Job
	at    int
	needs *sched.Needs
	// doneS is how much of its work is done and saved; owedS what its next start costs before it goes on.
	doneS, owedS int64
	score        int64
	// While it runs: when it was started, when it ends, and what it has.
	running      bool
	startS, endS int64
	allocs       []*fettlev1.NodeAllocation
	heapAt       int
	// predictedS is when it ends by what is told of it, 0 when nothing is.
	predictedS int64
	// estimateS is how long such jobs usually run, safeS how long nine of ten do at most; 0 when nobody knows.
	estimateS, safeS int64
	account          *account
	// started says that it ran before, dirty that the policy has to be asked about it, soft that it may be stopped for others.
	started, dirty, soft bool
	preempted            uint32
	// claim is what was freed for it.
	claim []*fettlev1.NodeAllocation
}

// ranS is how long it runs now, since its last start.
func (j *job) ranS(nowS int64) int64 { return nowS - j.startS }

// workedS is how much of its work it has done so far.
func (j *job) workedS(nowS int64) int64 {
	if !j.running {
		return j.doneS
	}
	return j.doneS + max(0, j.ranS(nowS)-j.owedS)
}

// leftS is how long it still runs, undisturbed.
func (j *job) leftS() int64 { return j.owedS + j.DurationS - j.doneS }

// ends is a heap of running jobs, the first to end on top.
type ends []*job

func (h ends) Len() int { return len(h) }
func (h ends) Less(i, k int) bool {
	return cmp.Or(cmp.Compare(h[i].endS, h[k].endS), cmp.Compare(h[i].at, h[k].at)) < 0
}
func (h ends) Swap(i, k int) {
	h[i], h[k] = h[k], h[i]
	h[i].heapAt, h[k].heapAt = i, k
}
func (h *ends) Push(x any) {
	j := x.(*job)
	j.heapAt = len(*h)
	*h = append(*h, j)
}
func (h *ends) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}

type engine struct {
	cfg     Config
	scorer  Scorer
	planner *sched.Planner
	jobs    []job
	arrived int
	ended   int
	waiting map[uint64]*job
	ends    ends
	now     int64
	wakeS   int64
	usage   *usage
	history *history
	floor   *floor
	// told are running jobs that tell their end soon, in order of that time.
	told []telling
	// changed and removed are what the policy has not heard of.
	changed  []*job
	removed  map[uint64]bool
	columns  policy.Columns
	outcomes []metrics.Outcome
	meter    *metrics.Meter
	passMS   []float64
	preempt  *preemptor
}

// Run simulates a workload, whose jobs are in order of arrival. It calls progress, which may be nil, now and then with the
// number of jobs that ended. It ends early when ctx does.
func Run(ctx context.Context, nodes trace.Cluster, jobs []trace.Job, cfg Config, progress func(done int)) (*metrics.Schedule, error) {
	scorer, err := cfg.Scorer(ctx)
	if err != nil {
		return nil, err
	}
	defer scorer.Close()
	e := newEngine(nodes, jobs, cfg, scorer)
	if cfg.Preemption != nil {
		if e.preempt, err = newPreemptor(ctx, cfg.Preemption); err != nil {
			return nil, err
		}
		defer e.preempt.close()
	}
	for events := 0; e.next(); events++ {
		if events%progressEvery == 0 {
			if err := context.Cause(ctx); err != nil {
				return nil, err
			}
			if progress != nil {
				progress(e.ended)
			}
		}
		if err := e.cycle(ctx); err != nil {
			return nil, err
		}
	}
	if left := len(e.waiting); left > 0 {
		return nil, fmt.Errorf("%d jobs wait and nothing will ever start them, among them %s", left, e.first().ID)
	}
	return &metrics.Schedule{Outcomes: e.outcomes, Meter: e.meter, PassMS: e.passMS, BoundS: scorer.BoundS()}, nil
}

// first is the waiting job that arrived first.
func (e *engine) first() *job {
	for i := range e.jobs {
		if e.waiting[id(i)] != nil {
			return &e.jobs[i]
		}
	}
	return nil
}

// id is a job's number for the planner; equal scores go by it.
func id(at int) uint64 { return uint64(at) + 1 }

func ms(s int64) int64 { return epochMS + s*1000 }

func newEngine(nodes trace.Cluster, jobs []trace.Job, cfg Config, scorer Scorer) *engine {
	e := &engine{
		cfg: cfg, scorer: scorer, jobs: make([]job, len(jobs)), waiting: map[uint64]*job{}, wakeS: math.MaxInt64,
		outcomes: make([]metrics.Outcome, len(jobs)), history: newHistory(), removed: map[uint64]bool{}, usage: newUsage(jobs),
	}
	options, part := sched.Options{MaxPlacements: -1, Depth: cfg.Depth, NoWaits: true}, sched.Partition{Name: partition}
	if cfg.Preemption != nil {
		cfg.Preemption.rules(&options, &part)
	}
	e.planner = sched.NewPlanner(options)
	e.planner.SetPolicy(sched.Policy{Partitions: []sched.Partition{part}})
	if cfg.Shares {
		e.planner.Cluster().HeadroomMiB = 0
	}
	e.planner.Cluster().SetDemand(demand(jobs))
	e.floor = newFloor(nodes)
	for i := range nodes {
		e.planner.SetNode(nodeOf(&nodes[i]))
	}
	wants := newWants(nodes, cfg.Shares)
	fits := map[*sched.Needs]bool{}
	for i := range jobs {
		t := &jobs[i]
		j := &e.jobs[i]
		*j = job{Job: t, at: i, needs: wants.of(t), account: e.usage.of(t), soft: cfg.Preemption.stops(t.Row)}
		if _, known := fits[j.needs]; !known {
			fits[j.needs] = e.fitsEmpty(j.needs)
		}
		e.outcomes[i] = metrics.Outcome{
			ID: t.ID, GPUs: t.GPUs, Priority: t.Priority, Project: t.Project(), SubmitS: t.SubmitS, AloneS: t.DurationS, Wasted: t.Wasted(),
			Dropped: !fits[j.needs],
		}
	}
	var first, last int64
	if len(jobs) > 0 {
		first, last = jobs[0].SubmitS, jobs[len(jobs)-1].SubmitS
	}
	e.meter = metrics.NewMeter(first, last, nodes.GPUs())
	return e
}

// fitsEmpty reports whether the empty cluster could hold a job that needs that.
func (e *engine) fitsEmpty(n *sched.Needs) bool {
	c := e.planner.Cluster()
	return c.CouldPlace(&n.Request, c.Eligible(&n.Request))
}

// next goes on to the next instant at which something happens: completions, then arrivals. It is false at the end.
func (e *engine) next() bool {
	at, any := int64(math.MaxInt64), false
	if len(e.ends) > 0 {
		at, any = e.ends[0].endS, true
	}
	for e.arrived < len(e.jobs) && e.outcomes[e.arrived].Dropped {
		e.arrived++
		e.ended++
	}
	if e.arrived < len(e.jobs) {
		at, any = min(at, e.jobs[e.arrived].SubmitS), true
	}
	if len(e.waiting) > 0 && e.wakeS < at {
		at, any = e.wakeS, true
	}
	if !any {
		return false
	}
	e.now = at
	if e.wakeS <= at {
		e.wakeS = math.MaxInt64
	}
	for len(e.ends) > 0 && e.ends[0].endS == at {
		e.finish(heap.Pop(&e.ends).(*job))
	}
	for e.arrived < len(e.jobs) && e.jobs[e.arrived].SubmitS == at {
		j := &e.jobs[e.arrived]
		e.arrived++
		if e.outcomes[j.at].Dropped {
			e.ended++
			continue
		}
		e.enqueue(j)
	}
	return true
}

// enqueue has a job wait.
func (e *engine) enqueue(j *job) {
	if e.cfg.History && j.LimitS == 0 {
		j.estimateS, j.safeS = e.history.estimate(j.Job)
	}
	e.waiting[id(j.at)] = j
	e.touch(j)
}

// touch has the policy asked about a job.
func (e *engine) touch(j *job) {
	if !j.dirty {
		j.dirty = true
		e.changed = append(e.changed, j)
	}
}

// finish ends a running job for good.
func (e *engine) finish(j *job) {
	e.vacate(j)
	e.ended++
	o := &e.outcomes[j.at]
	o.EndS = e.now
	o.Killed = e.kills(j)
	o.LostGPUS += int64(j.GPUs) * j.owedS
	e.history.add(j.Job, e.now-j.startS)
	e.planner.Remove(id(j.at))
	e.forget(j)
}

// forget has the policy told that a job is none of its business any more.
func (e *engine) forget(j *job) { e.removed[id(j.at)] = true }

// kills reports whether a job ends at its limit before it is done.
func (e *engine) kills(j *job) bool { return e.cfg.Kill && j.LimitS > 0 && j.LimitS < j.DurationS }

// vacate frees what a running job has.
func (e *engine) vacate(j *job) {
	j.running = false
	e.floor.give(j.allocs, -1)
	e.usage.charge(j, e.now)
	j.allocs = nil
}

// cycle scores what changed and plans until nothing more starts.
func (e *engine) cycle(ctx context.Context) error {
	e.tell()
	if e.cfg.FairShare && e.usage.due(e.now) {
		e.usage.settle(e.now, e.ends)
		for _, j := range e.waiting {
			e.touch(j)
		}
	}
	if err := e.score(ctx); err != nil {
		return err
	}
	if err := e.rekey(ctx); err != nil {
		return err
	}
	for again := true; again; {
		e.planner.AskForVictims(e.preempt != nil && e.now >= e.preempt.next)
		e.planner.AskForVictims(e.preempt != nil && e.now >= e.preempt.next)
		began := time.Now()
		plan := e.planner.Plan(ms(e.now))
		e.passMS = append(e.passMS, float64(time.Since(began).Nanoseconds())/1e6)
		again = plan.More
		moves, err := e.victims(ctx, &plan)
		if err != nil {
			return err
		}
		for i := range plan.Placements {
			p := &plan.Placements[i]
			if e.cfg.Strict && p.Backfilled {
				continue
			}
			e.start(e.waiting[p.Job], p.Allocs)
		}
		if len(moves) > 0 {
			e.makeRoom(moves)
			if err := e.score(ctx); err != nil {
				return err
			}
			again = true
		}
		if wake := plan.WakeMS; wake > 0 {
			e.wakeS = min(e.wakeS, max(e.now+1, (wake-epochMS+999)/1000))
		}
	}
	e.meter.Set(e.now, metrics.Level{Used: e.floor.used, Frag: e.floor.partly, Queued: len(e.waiting)})
	return nil
}

// score asks the policy about what changed and puts that into the planner.
func (e *engine) score(ctx context.Context) error {
	if len(e.changed) == 0 && len(e.removed) == 0 {
		return nil
	}
	e.columns.Reset()
	slices.SortFunc(e.changed, func(a, b *job) int { return cmp.Compare(a.at, b.at) })
	for _, j := range e.changed {
		delete(e.removed, id(j.at))
		e.columns.Append(e.policyJob(j))
	}
	ids, scores, err := e.scorer.Score(ctx, ms(e.now), &e.columns, slices.Sorted(maps.Keys(e.removed)))
	if err != nil {
		return err
	}
	for i, id := range ids {
		if id == 0 || id > uint64(len(e.jobs)) {
			return fmt.Errorf("the policy scores job %d, of which it was not told", id)
		}
		e.scored(&e.jobs[id-1], scores[i])
	}
	clear(e.changed)
	clear(e.removed)
	e.changed = e.changed[:0]
	return nil
}

// scored puts a job's score into the planner.
func (e *engine) scored(j *job, score int64) {
	same := j.score == score
	j.score, j.dirty = score, false
	switch {
	case j.running:
		if e.cfg.Preemption != nil {
			e.planner.SetRunning(e.plannerRunning(j))
		}
	case e.waiting[id(j.at)] == nil:
	default:
		if _, known := e.planner.Job(id(j.at)); !known {
			e.planner.SetJob(e.plannerJob(j))
		} else if !same {
			e.planner.SetScore(id(j.at), score)
		}
	}
}

// start gives a job its GPUs.
func (e *engine) start(j *job, allocs []*fettlev1.NodeAllocation) {
	delete(e.waiting, id(j.at))
	e.forget(j)
	j.running, j.allocs, j.startS, j.claim = true, allocs, e.now, nil
	if !j.started {
		j.started = true
		e.outcomes[j.at].StartS = e.now
	}
	j.endS = e.now + j.leftS()
	if e.kills(j) {
		j.endS = min(j.endS, e.now+e.limitS(j))
	}
	e.floor.give(allocs, 1)
	heap.Push(&e.ends, j)
	j.predictedS = 0
	if j.estimateS > 0 {
		j.predictedS = e.now + j.estimateS
	}
	if e.cfg.Progress >= 0 {
		e.told = append(e.told, telling{e.now + tellAfterS, j, e.now})
	}
	e.planner.SetRunning(e.plannerRunning(j))
}
