package daemon

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Under load a heap may hold as much garbage as data, so that collecting it costs little. A controller that has come to
// rest gives the garbage back: what it then holds is the job table and little more.
const (
	restCheck = time.Second
	// restBytes is what a controller at rest allocates in one check at most, for heartbeats and the like.
	restBytes = 8 << 20
	// slackBytes is how much more than the live heap it may keep without giving it back.
	slackBytes = 16 << 20
)

// heapReading is what the runtime says about the heap, in bytes. Allocated only grows.
type heapReading struct{ allocated, live, resident uint64 }

// restful decides when memory is given back: twice in a row at rest, and only what is worth a collection.
type restful struct {
	last  heapReading
	quiet int
}

func (r *restful) due(now heapReading) bool {
	if now.allocated-r.last.allocated > restBytes {
		r.quiet = 0
	} else {
		r.quiet++
	}
	r.last = now
	return r.quiet >= 2 && now.resident > now.live+now.live/8+slackBytes
}

// returnMemory gives memory back to the system whenever the controller is at rest, until ctx ends.
func returnMemory(ctx context.Context) {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	value := func(i int) uint64 {
		if samples[i].Value.Kind() != metrics.KindUint64 {
			return 0
		}
		return samples[i].Value.Uint64()
	}
	tick := time.NewTicker(restCheck)
	defer tick.Stop()
	var r restful
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(samples)
		if r.due(heapReading{allocated: value(0), live: value(1), resident: value(2) + value(3) + value(4)}) {
			debug.FreeOSMemory()
			r.quiet = 0
		}
	}
}
