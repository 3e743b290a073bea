package reference

import "slices"

// backfill starts jobs behind the head that cannot delay it, by what is expected of them. It answers those that go on waiting,
// in the memory of the rest.
//
// The head's shadow time is the first at which it fits when running jobs end as expected; the GPUs that it would take then
// are reserved, exactly those and not whole nodes. A later job may start if it fits now and either ends, as expected, no
// later than that, or leaves the reserved GPUs alone.
func (e *engine) backfill(head *job, rest []*job) []*job {
	e.overdue()
	shadowS := e.reserve(head)
	clear(e.fullBeside)
	kept := rest[:0]
	for _, j := range rest {
		if e.full[j.shape] {
			kept = append(kept, j)
			continue
		}
		short := e.now+j.estimate <= shadowS
		from, verdicts := e.spare, e.fullBeside
		if short {
			from, verdicts = e.free, e.full
		}
		if verdicts[j.shape] {
			kept = append(kept, j)
			continue
		}
		shares, ok := from.find(e.shapes[j.shape], e.buf[:0])
		e.buf = shares
		if !ok {
			// Beside a reservation, a start can turn a whole node into a partly used one, of which an uneven gang may take a part.
			verdicts[j.shape] = short || !e.shapes[j.shape].uneven
			kept = append(kept, j)
			continue
		}
		e.start(j, shares)
		for _, s := range shares {
			if !short {
				e.extra[s.node] -= s.gpus
			}
			e.spare.set(s.node, min(e.free.free[s.node], e.extra[s.node]))
		}
	}
	return kept
}

// overdue doubles the estimates of running jobs that outlived them until they exceed the time run.
func (e *engine) overdue() {
	n := 0
	for n < len(e.expected) && e.expected[n].expectS <= e.now {
		n++
	}
	if n == 0 {
		return
	}
	for _, j := range e.expected[:n] {
		for j.startS+j.estimate <= e.now {
			j.estimate *= 2
		}
		j.expectS = j.startS + j.estimate
	}
	slices.SortFunc(e.expected, sooner)
}

// reserve finds the head's shadow time, and fills spare and extra with what its reservation leaves: now, and at that time.
func (e *engine) reserve(head *job) int64 {
	e.shadow.copyFrom(e.free)
	shape := e.shapes[head.shape]
	var shadowS int64
	for i := 0; i < len(e.expected); {
		shadowS = e.expected[i].expectS
		for i < len(e.expected) && e.expected[i].expectS == shadowS {
			e.shadow.release(e.expected[i].shares)
			i++
		}
		shares, ok := e.shadow.find(shape, e.buf[:0])
		e.buf = shares
		if ok {
			e.shadow.take(shares)
			break
		}
	}
	copy(e.extra, e.shadow.free)
	for node, free := range e.free.free {
		e.spare.set(int32(node), min(free, e.extra[node]))
	}
	return shadowS
}
