package leader

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

const (
	// predictEvery is how often jobs that are new get a prediction; predictShare keeps forecasts to a small part of the time.
	predictEvery = 10 * time.Second
	predictShare = 100
	// maxPredicted and maxOutcomes bound what is remembered.
	maxPredicted = 100_000
	maxOutcomes  = 10_000
	// clockSlackMS is what a start may be off and still be as predicted: a cycle and the log take their time.
	clockSlackMS = 1000
)

// predictions remembers when jobs were first predicted to start, and how far off that was. It is leader memory.
type predictions struct {
	mu      sync.Mutex
	sinceMS int64
	byJob   map[uint64]sched.Start
	// outcomes are the newest, next the oldest of them once there are maxOutcomes.
	outcomes []outcome
	next     int

	// Of the scheduling loop alone: jobs without a prediction, and when the next forecast may be.
	fresh map[uint64]bool
	again time.Time
}

type outcome struct {
	partition string
	// errorMS is the real start less the predicted one.
	errorMS int64
	within  bool
}

func newPredictions(nowMS int64) *predictions {
	return &predictions{sinceMS: nowMS, byJob: map[uint64]sched.Start{}, fresh: map[uint64]bool{}}
}

// waits says that a job waits.
func (p *predictions) waits(id uint64) {
	if _, ok := p.of(id); !ok && len(p.fresh) < maxPredicted {
		p.fresh[id] = true
	}
}

// of is the first prediction of a job.
func (p *predictions) of(id uint64) (sched.Start, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.byJob[id]
	return s, ok
}

// made takes over a forecast that took so long.
func (p *predictions) made(starts map[uint64]sched.Start, now time.Time, took time.Duration) {
	p.again = now.Add(max(predictEvery, predictShare*took))
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.fresh {
		if s, ok := starts[id]; ok && len(p.byJob) < maxPredicted {
			p.byJob[id] = s
		}
	}
	clear(p.fresh)
}

// started compares a job's start with what was predicted.
func (p *predictions) started(j *state.Job) {
	delete(p.fresh, j.ID)
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.byJob[j.ID]
	at := j.Current().GetDispatchMs()
	if !ok || at == 0 {
		return
	}
	delete(p.byJob, j.ID)
	o := outcome{partition: j.Spec.GetPartition(), errorMS: at - s.AtMS, within: at >= s.LowMS-clockSlackMS && (s.HighMS == 0 || at <= s.HighMS+clockSlackMS)}
	if len(p.outcomes) < maxOutcomes {
		p.outcomes = append(p.outcomes, o)
		return
	}
	p.outcomes[p.next] = o
	p.next = (p.next + 1) % maxOutcomes
}

// gone forgets a job.
func (p *predictions) gone(id uint64) {
	delete(p.fresh, id)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byJob, id)
}

// stats are of all jobs first, then by partition.
func (p *predictions) stats() []*fettlev1.PredictionStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	groups := map[string][]outcome{"": p.outcomes}
	for _, o := range p.outcomes {
		groups[o.partition] = append(groups[o.partition], o)
	}
	var list []*fettlev1.PredictionStats
	for name, g := range groups {
		st := &fettlev1.PredictionStats{Partition: name, Jobs: uint64(len(g)), SinceMs: p.sinceMS}
		var off []int64
		var sum int64
		for _, o := range g {
			off, sum = append(off, max(o.errorMS, -o.errorMS)), sum+o.errorMS
			if o.within {
				st.Within++
			}
		}
		if n := len(off); n > 0 {
			slices.Sort(off)
			st.MedianErrorS, st.P90ErrorS, st.BiasS = off[n/2]/1000, off[n*9/10]/1000, sum/int64(n)/1000
		}
		list = append(list, st)
	}
	slices.SortFunc(list, func(a, b *fettlev1.PredictionStats) int { return cmp.Compare(a.GetPartition(), b.GetPartition()) })
	return list
}
