package sched

import (
	"cmp"
	"slices"

	"github.com/fettle-hpc/fettle/ctld/internal/place"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// heads are the blocked jobs that keep their place in time (EASY backfill): each gets exact cards at the earliest time at
// which it can have them by the ends that are known. A later job may use those only if it is gone by then.
type heads struct {
	s *pass
	// pending are the heads of which nothing is worked out yet.
	pending []*entry
	kept    []*kept
	// touched are the nodes where something is kept.
	touched place.NodeSet
	depth   int
	total   int
}

// kept is what is kept for a head.
type kept struct {
	// entry is the head; nil for a reservation of cards.
	entry  *entry
	holder uint64
	// shadow is when the head can start, in Unix milliseconds.
	shadow int64
	// trust lets jobs go ahead on the word of a prediction.
	trust bool
	// allocs are booked beside what now runs on them; of CPUs and memory only what does not come free by then.
	allocs []*fettlev1.NodeAllocation
	// full is all of what the head gets.
	full []*fettlev1.NodeAllocation
	// out is true while they are not booked, entered while a job is placed whose own they are.
	out, entered bool
}

// maxHeads bounds the reservations of one plan, for queues in which every job names other nodes.
const maxHeads = 64

// maxExplained bounds for how many heads a plan finds out what they lack, which takes a look at every node.
const maxExplained = 8

func (h *heads) init(s *pass) {
	h.s, h.depth = s, s.p.opt.Depth
	if h.depth == 0 {
		h.depth = 1
	}
}

// room reports whether one more blocked job of the class gets a reservation.
func (h *heads) room(c *class) bool { return c.heads < h.depth && h.total < maxHeads }

// add makes a blocked job a head.
func (h *heads) add(e *entry, c *class) {
	c.heads++
	h.total++
	h.pending = append(h.pending, e)
	h.s.plan.Heads = append(h.s.plan.Heads, Head{Job: e.ID})
	if h.s.plan.Waits == nil {
		return
	}
	if len(h.s.plan.Heads) > maxExplained {
		h.s.wait(e, Wait{Reason: fettlev1.Reason_REASON_RESOURCES})
		return
	}
	h.open(h.s.now, true)
	end, _ := e.end(h.s.now)
	allowed, _ := h.s.win.allowed(e, end)
	short := h.s.p.cluster.Explain(&e.shape.needs.Request, allowed)
	switch short.What {
	case place.MissingNothing:
		// It would fit but for what is kept for others.
		h.s.wait(e, h.s.win.orBehind(end))
	case place.MissingBusyOutside:
		slices.Sort(short.Busy)
		h.s.wait(e, Wait{fettlev1.Reason_REASON_GPUS_BUSY_OUTSIDE, short.String()})
	default:
		h.s.wait(e, Wait{fettlev1.Reason_REASON_RESOURCES, short.String()})
	}
}

// open gives free for the moment what is kept from a time on at which a job that ends then is gone, and books the rest.
func (h *heads) open(end int64, hard bool) {
	for _, k := range h.kept {
		h.set(k, end <= k.shadow && (hard || k.trust))
	}
}

// keeps reports whether a holder in the cluster stands for a head.
func (h *heads) keeps(holder uint64) bool {
	for _, k := range h.kept {
		if k.entry != nil && k.holder == holder {
			return true
		}
	}
	return false
}

// yield gives free what is kept for jobs behind one, and for itself, and books the rest.
func (h *heads) yield(e *entry) {
	for _, k := range h.kept {
		h.set(k, k.entry != nil && !before(k.entry, e))
	}
}

func (h *heads) set(k *kept, out bool) {
	if out == k.out || k.entered {
		return
	}
	if k.out = out; out {
		h.s.p.cluster.Release(k.holder)
	} else {
		h.s.p.cluster.Hold(k.holder, k.allocs)
	}
}

// overlap is told of a start: what it takes of CPUs and memory that are kept comes back in time, as do its cards.
func (h *heads) overlap(allocs []*fettlev1.NodeAllocation) {
	for _, k := range h.kept {
		if !k.out {
			continue
		}
		for i, mine := range k.allocs {
			for _, a := range allocs {
				if a.GetNode() == mine.GetNode() {
					k.allocs[i] = &fettlev1.NodeAllocation{
						Node: mine.GetNode(), GpuUuids: mine.GetGpuUuids(), VramMib: mine.GetVramMib(),
						Cpus: mine.GetCpus() - min(a.GetCpus(), mine.GetCpus()), MemMib: mine.GetMemMib() - min(a.GetMemMib(), mine.GetMemMib()),
					}
				}
			}
		}
	}
}

// settle works out what is kept for the pending heads, in their order.
func (h *heads) settle() {
	for i, e := range h.pending {
		h.open(never, false)
		k := h.reserve(e)
		if k == nil {
			continue
		}
		h.kept = append(h.kept, k)
		h.s.p.cluster.Hold(k.holder, k.allocs)
		head := &h.s.plan.Heads[len(h.s.plan.Heads)-len(h.pending)+i]
		head.ShadowMS, head.Allocs, head.held = k.shadow, k.full, k.allocs
	}
	h.pending = h.pending[:0]
}

// pendUpTo works out what is kept for the pending heads if one of them is ahead of a job; otherwise nothing that it could use is
// kept for them.
func (h *heads) pendUpTo(e *entry) {
	if slices.ContainsFunc(h.pending, func(o *entry) bool { return before(o, e) }) {
		h.settle()
	}
}

// reserve finds when and where a head can start at the earliest, by letting what runs end one by one.
func (h *heads) reserve(e *entry) *kept {
	s, c, req := h.s, h.s.p.cluster, &e.shape.needs.Request
	allowed, w := s.win.ahead(e)
	if w != nil {
		return nil
	}
	allowed = allowed.And(s.ready).Without(h.touched)
	if allowed.Len() < span(req) {
		return nil
	}
	mark := c.Mark()
	defer c.Undo(mark)
	f := newFitter(c, req, allowed)
	if allocs, ok := f.first(); ok {
		return h.keep(e, s.now, allocs, nil)
	}
	var gone []*attempt
	var found *kept
	rows := s.inOrderOfEnd
	if n := allowed.Len(); n <= fewNodes && n*16 < c.Nodes() {
		rows = s.endsOn(allowed)
	}
	rows(func(a *attempt, end int64) bool {
		touches := false
		for _, al := range a.Allocs {
			if pos, ok := c.Position(al.GetNode()); ok && allowed.Has(pos) {
				touches = true
				break
			}
		}
		if !touches {
			return true
		}
		c.Release(a.ID)
		gone = append(gone, a)
		if allocs, ok := f.after(a.Allocs); ok {
			found = h.keep(e, end, allocs, gone)
			return false
		}
		return true
	})
	return found
}

// keep makes a reservation. Of the CPUs and the memory it keeps what those that are gone by then do not give back.
func (h *heads) keep(e *entry, shadow int64, allocs []*fettlev1.NodeAllocation, gone []*attempt) *kept {
	s := h.s
	trust := s.p.opt.TrustFor
	if trust == 0 {
		trust = DefaultTrust
	}
	k := &kept{
		entry: e, holder: holderReserve | uint64(h.total)<<32 | uint64(len(h.kept)), shadow: shadow,
		trust: s.now-e.EligibleMS < trust.Milliseconds(), full: allocs,
	}
	byNode := map[string]int{}
	for i, a := range allocs {
		byNode[a.GetNode()] = i
		k.allocs = append(k.allocs, &fettlev1.NodeAllocation{Node: a.GetNode(), GpuUuids: a.GetGpuUuids(), VramMib: a.GetVramMib(), Cpus: a.GetCpus(), MemMib: a.GetMemMib()})
		if pos, ok := s.p.cluster.Position(a.GetNode()); ok {
			h.touch(pos)
		}
	}
	for _, g := range gone {
		for _, a := range g.Allocs {
			if i, ok := byNode[a.GetNode()]; ok {
				mine := k.allocs[i]
				mine.Cpus -= min(mine.Cpus, a.GetCpus())
				mine.MemMib -= min(mine.MemMib, a.GetMemMib())
			}
		}
	}
	return k
}

func (h *heads) touch(pos int) {
	if h.touched.Len() == 0 {
		h.touched = place.NewNodeSet(h.s.p.cluster.Len())
	}
	h.touched.Add(pos)
}

// fitter finds out where a request fits while more and more comes free.
type fitter struct {
	c       *place.Cluster
	req     *place.Request
	allowed place.NodeSet
	// probe is a share of the request on one node; fits are the nodes that can hold it, one is scratch.
	probe     place.Request
	fits, one place.NodeSet
}

func newFitter(c *place.Cluster, req *place.Request, allowed place.NodeSet) *fitter {
	f := &fitter{c: c, req: req, allowed: allowed, probe: *req, fits: place.NewNodeSet(c.Len()), one: place.NewNodeSet(c.Len())}
	f.probe.Nodes, f.probe.DeviceUUIDs = 1, nil
	return f
}

// single reports whether one node decides.
func (f *fitter) single() bool { return !f.req.Total && f.req.Nodes <= 1 }

// first tries with what is free at first.
func (f *fitter) first() ([]*fettlev1.NodeAllocation, bool) {
	if allocs, ok := f.c.Place(f.req, f.allowed); ok || f.single() || f.req.Total {
		return allocs, ok
	}
	for i := range f.allowed.All() {
		f.try(i)
	}
	return nil, false
}

func (f *fitter) try(i int) bool {
	f.one.Add(i)
	_, ok := f.c.Place(&f.probe, f.one)
	f.one.Remove(i)
	if ok {
		f.fits.Add(i)
	}
	return ok
}

// after tries again when something was released.
func (f *fitter) after(released []*fettlev1.NodeAllocation) ([]*fettlev1.NodeAllocation, bool) {
	if f.req.Total {
		return f.c.Place(f.req, f.allowed)
	}
	more := false
	for _, a := range released {
		i, ok := f.c.Position(a.GetNode())
		if !ok || !f.allowed.Has(i) || f.fits.Has(i) {
			continue
		}
		more = f.try(i) || more
	}
	if !more || f.fits.Len() < max(f.req.Nodes, 1) {
		return nil, false
	}
	return f.c.Place(f.req, f.fits)
}

// Bounds of when attempts end of which nothing is told, or which have outlived what was told, in milliseconds: as long again
// as they have run, the mean residual life of a heavy tail, but at least this.
const (
	leastOpen    = 600_000
	leastOverdue = 60_000
)

// endOf is when an attempt probably ends, from now on.
func (s *pass) endOf(a *attempt) int64 {
	ran := s.now - a.StartMS
	switch {
	case a.Ending:
		return s.now
	case a.endMS == never:
		return s.now + max(leastOpen, ran)
	case a.endMS > s.now:
		return a.endMS
	case a.LimitS > 0 && a.StartMS+a.LimitS*1000 <= s.now:
		// It is being ended.
		return s.now
	}
	end := s.now + max(leastOverdue, ran)
	if a.LimitS > 0 {
		end = min(end, a.StartMS+a.LimitS*1000)
	}
	return end
}

// due is an attempt with when it ends.
type due struct {
	a   *attempt
	end int64
}

// fewNodes is on how many nodes at most it is quicker to look at who is there than at everybody.
const fewNodes = 64

// endsOn is inOrderOfEnd of what runs on a few nodes.
func (s *pass) endsOn(nodes place.NodeSet) func(yield func(a *attempt, end int64) bool) {
	return func(yield func(a *attempt, end int64) bool) {
		var list []due
		seen := map[uint64]bool{}
		for i := range nodes.All() {
			for h := range s.p.cluster.HoldersOn(i) {
				a := s.p.running[h]
				if k := h - holderStart; h >= holderStart && k < uint64(len(s.started)) {
					a = s.started[k]
				}
				if a != nil && !seen[h] {
					seen[h] = true
					list = append(list, due{a, s.endOf(a)})
				}
			}
		}
		slices.SortFunc(list, func(a, b due) int { return cmp.Or(cmp.Compare(a.end, b.end), cmp.Compare(a.a.ID, b.a.ID)) })
		for _, d := range list {
			if !yield(d.a, d.end) {
				return
			}
		}
	}
}

// inOrderOfEnd yields what runs and what this plan starts by when it probably ends.
func (s *pass) inOrderOfEnd(yield func(a *attempt, end int64) bool) {
	// Those that are being ended, overdue or started just now are few: they are sorted in.
	var few []due
	for _, a := range s.started {
		few = append(few, due{a, s.endOf(a)})
	}
	s.p.ends.AscendLessThan(&attempt{endMS: s.now + 1}, func(a *attempt) bool {
		few = append(few, due{a, s.endOf(a)})
		return true
	})
	for _, a := range s.p.ending {
		if a.endMS > s.now {
			few = append(few, due{a, s.endOf(a)})
		}
	}
	slices.SortFunc(few, func(a, b due) int { return cmp.Or(cmp.Compare(a.end, b.end), cmp.Compare(a.a.ID, b.a.ID)) })
	stopped := false
	// upTo yields those of the few that end before another.
	upTo := func(end int64, id uint64) bool {
		for len(few) > 0 && (few[0].end < end || few[0].end == end && few[0].a.ID < id) {
			d := few[0]
			if few = few[1:]; !yield(d.a, d.end) {
				stopped = true
				return false
			}
		}
		return true
	}
	// Two rows in order of end: those with an end ahead, and those without any, the youngest of which ends first.
	open := s.rowOfOpen()
	s.p.ends.AscendGreaterOrEqual(&attempt{endMS: s.now + 1}, func(a *attempt) bool {
		if a.Ending {
			return true
		}
		for {
			o, ok := open.peek()
			if !ok || o.end > a.endMS || o.end == a.endMS && o.a.ID > a.ID {
				break
			}
			open.pop()
			if !upTo(o.end, o.a.ID) {
				return false
			}
			if !yield(o.a, o.end) {
				stopped = true
				return false
			}
		}
		if !upTo(a.endMS, a.ID) {
			return false
		}
		if !yield(a, a.endMS) {
			stopped = true
			return false
		}
		return true
	})
	for !stopped {
		o, ok := open.peek()
		if !ok {
			upTo(never, ^uint64(0))
			return
		}
		open.pop()
		if !upTo(o.end, o.a.ID) || !yield(o.a, o.end) {
			return
		}
	}
}

// row yields attempts without a known end, in order of the end that is assumed.
type row struct {
	s    *pass
	buf  []due
	last *attempt
	done bool
}

func (s *pass) rowOfOpen() *row { return &row{s: s} }

func (r *row) peek() (due, bool) {
	if len(r.buf) == 0 && !r.done {
		r.fill()
	}
	if len(r.buf) == 0 {
		return due{}, false
	}
	return r.buf[0], true
}

func (r *row) pop() { r.buf = r.buf[1:] }

func (r *row) fill() {
	const chunk = 64
	from := r.last
	r.done = true
	take := func(a *attempt) bool {
		if a == from || a.Ending {
			return true
		}
		if len(r.buf) == chunk {
			r.done = false
			return false
		}
		r.buf = append(r.buf, due{a, r.s.endOf(a)})
		r.last = a
		return true
	}
	if from == nil {
		r.s.p.open.Ascend(take)
	} else {
		r.s.p.open.AscendGreaterOrEqual(from, take)
	}
}
