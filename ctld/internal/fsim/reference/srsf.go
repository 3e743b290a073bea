package reference

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim/metrics"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/trace"
)

// runSRSF gives the GPUs anew at every event: jobs in order of the service that they have left, in GPU-seconds, each where
// it fits, from an empty cluster. Durations are known, stopping and moving are free. Nobody can do that; it is the yardstick.
func runSRSF(ctx context.Context, nodes trace.Cluster, jobs []trace.Job, progress func(done int)) (*metrics.Schedule, error) {
	e := newEngine(nodes, jobs)
	empty := e.free.clone()
	var active, running []*job
	for events := 0; ; events++ {
		if events%progressEvery == 0 {
			if err := context.Cause(ctx); err != nil {
				return nil, err
			}
			if progress != nil {
				progress(e.ended)
			}
		}
		for e.arrived < len(e.jobs) && e.jobs[e.arrived].shape < 0 {
			e.drop()
		}
		next, any := int64(0), false
		if e.arrived < len(e.jobs) {
			next, any = e.jobs[e.arrived].SubmitS, true
		}
		for _, j := range running {
			if end := e.now + j.remaining; !any || end < next {
				next, any = end, true
			}
		}
		if !any {
			return e.result(), nil
		}
		for _, j := range running {
			j.remaining -= next - e.now
			if j.remaining == 0 {
				e.ended++
				o := &e.outcomes[j.at]
				o.StartS, o.EndS = j.startS, next
			}
		}
		e.now = next
		active = slices.DeleteFunc(active, func(j *job) bool { return j.remaining == 0 })
		for e.arrived < len(e.jobs) && e.jobs[e.arrived].SubmitS == e.now {
			j := &e.jobs[e.arrived]
			e.arrived++
			if j.shape < 0 {
				e.ended++
				continue
			}
			j.startS = -1
			active = append(active, j)
		}
		began := time.Now()
		for _, j := range active {
			j.key = float64(j.remaining) * float64(j.GPUs)
		}
		slices.SortFunc(active, func(a, b *job) int { return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.at, b.at)) })
		e.free.copyFrom(empty)
		e.used = 0
		running = running[:0]
		clear(e.full)
		for _, j := range active {
			if e.full[j.shape] {
				continue
			}
			shares, ok := e.free.find(e.shapes[j.shape], e.buf[:0])
			e.buf = shares
			if !ok {
				e.full[j.shape] = true
				continue
			}
			e.free.take(shares)
			e.used += j.GPUs
			if j.startS < 0 {
				j.startS = e.now
			}
			running = append(running, j)
		}
		e.passMS = append(e.passMS, float64(time.Since(began).Nanoseconds())/1e6)
		e.meter.Set(e.now, metrics.Level{Used: e.used, Frag: e.free.partlyFree(), Queued: len(active) - len(running)})
	}
}
