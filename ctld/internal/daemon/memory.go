package daemon

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The collector may leave this much of a large heap to garbage, in percent, and this many bytes of a small one: a
// controller's memory is its job table and little more, while a small heap is not collected all the time.
const (
	garbagePercent = 25
	garbageBytes   = 16 << 20
	paceEvery      = time.Second
)

// gcPercent is the collector's target for a heap with so many live bytes.
func gcPercent(live uint64) int {
	return max(garbagePercent, int(garbageBytes*100/max(live, 1<<20)))
}

// paceCollector sets the collector's target by the size of the heap until ctx ends.
func paceCollector(ctx context.Context) {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(paceEvery)
	defer tick.Stop()
	set := 100
	defer debug.SetGCPercent(debug.SetGCPercent(set))
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(sample)
		if sample[0].Value.Kind() != metrics.KindUint64 {
			return
		}
		// Setting it stops the world for a moment: small changes are not worth it.
		if p := gcPercent(sample[0].Value.Uint64()); p < set*9/10 || p > set*11/10 {
			debug.SetGCPercent(p)
			set = p
		}
	}
}
