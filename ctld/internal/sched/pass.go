package sched

import (
	"container/heap"
	"math"

	"github.com/fettle-hpc/fettle/ctld/internal/place"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// never is the end of a job of which nothing says when it ends.
const never = int64(math.MaxInt64)

// pass is one plan in the making.
type pass struct {
	p   *Planner
	now int64
	no  uint64

	plan Plan
	max  int
	// bytes and parts are the size of the plan so far; full says that the next placement does not go into it.
	bytes, parts int
	full         bool
	// started are the starts of this plan, with when they probably end.
	started []*attempt
	// elements counts the starts of each array, begun those of the array that is being looked at.
	elements map[uint64]int
	begun    int

	heads heads
	ready place.NodeSet
	win   windows
}

// Plan says what should happen now. It changes nothing: what comes of it is told by SetRunning and the like.
func (p *Planner) Plan(nowMS int64) Plan {
	s := p.begin(nowMS)
	mark := p.cluster.Mark()
	s.walk()
	if p.settled {
		s.heads.settle()
	}
	s.plan.Ask = s.ask()
	p.cluster.Undo(mark)
	return s.plan
}

func (p *Planner) begin(nowMS int64) *pass {
	p.refresh()
	p.pass++
	s := &pass{p: p, now: nowMS, no: p.pass, max: p.opt.MaxPlacements, ready: p.cluster.Ready()}
	if s.max == 0 {
		s.max = DefaultMaxPlacements
	}
	if !p.opt.NoWaits {
		s.plan.Waits = map[uint64]Wait{}
	}
	s.heads.init(s)
	s.win.init(s)
	return s
}

// cursor goes through a lane in queue order.
type cursor struct {
	lane *lane
	buf  []*entry
	at   int
	last bool
}

func (c *cursor) head() *entry { return c.buf[c.at] }

// next moves on; false when the lane is at its end.
func (c *cursor) next() bool {
	if c.at++; c.at < len(c.buf) {
		return true
	}
	if c.last {
		return false
	}
	from := c.buf[len(c.buf)-1]
	return c.fill(from, min(4*cap(c.buf), 256))
}

// fill reads up to n entries after from; nil: from the start.
func (c *cursor) fill(from *entry, n int) bool {
	c.buf, c.at, c.last = make([]*entry, 0, n), 0, true
	take := func(e *entry) bool {
		if e == from {
			return true
		}
		if len(c.buf) == n {
			c.last = false
			return false
		}
		c.buf = append(c.buf, e)
		return true
	}
	if from == nil {
		c.lane.tree.Ascend(take)
	} else {
		c.lane.tree.AscendGreaterOrEqual(from, take)
	}
	return len(c.buf) > 0
}

// cursors is a heap of the lanes by their next job.
type cursors []*cursor

func (h cursors) Len() int           { return len(h) }
func (h cursors) Less(i, j int) bool { return before(h[i].head(), h[j].head()) }
func (h cursors) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *cursors) Push(x any)        { *h = append(*h, x.(*cursor)) }
func (h *cursors) Pop() any {
	last := len(*h) - 1
	c := (*h)[last]
	*h = (*h)[:last]
	return c
}

// verdict is what comes of looking at a job.
type verdict uint8

const (
	goOn verdict = iota
	laneOver
	planFull
)

// walk goes through the waiting jobs in order, lane by lane merged.
func (s *pass) walk() {
	var lanes cursors
	for _, l := range s.p.lanes {
		if l.tree.Len() == 0 {
			continue
		}
		c := &cursor{lane: l}
		c.fill(nil, 4)
		lanes = append(lanes, c)
	}
	heap.Init(&lanes)
	for len(lanes) > 0 {
		c := lanes[0]
		switch s.consider(c.head()) {
		case planFull:
			s.plan.More = true
			return
		case goOn:
			if c.next() {
				heap.Fix(&lanes, 0)
				continue
			}
		case laneOver:
		}
		heap.Pop(&lanes)
	}
	s.tellUnfit()
}

// tellUnfit adds why jobs wait that no nodes could hold.
func (s *pass) tellUnfit() {
	if s.plan.Waits == nil {
		return
	}
	s.p.unfit.Ascend(func(e *entry) bool {
		s.wait(e, *e.shape.unfit)
		return len(s.plan.Waits) < maxWaits
	})
}

func (s *pass) wait(e *entry, w Wait) {
	if s.plan.Waits != nil && len(s.plan.Waits) < maxWaits {
		s.plan.Waits[e.ID] = w
	}
}

// fresh makes what earlier plans found of a job's shape, lane and class void.
func (s *pass) fresh(e *entry) (*shape, *lane, *class) {
	sh := e.shape
	l := sh.lane
	if sh.seen != s.no {
		sh.seen, sh.tried, sh.hard, sh.soft = s.no, false, never, never
		sh.away = sh.eligible.And(s.ready).Len() < span(&sh.needs.Request)
	}
	if l.seen != s.no {
		l.seen, l.dead, l.probed, l.failures = s.no, false, -1, l.failures[:0]
	}
	if l.class.seen != s.no {
		l.class.seen, l.class.heads = s.no, 0
	}
	return sh, l, l.class
}

// consider starts a job, or as many elements of an array as can start.
func (s *pass) consider(e *entry) verdict {
	sh, l, c := s.fresh(e)
	if s.full || s.max > 0 && len(s.plan.Placements) >= s.max {
		return planFull
	}
	if l.dead && !s.heads.room(c) {
		return laneOver
	}
	if sh.away {
		s.wait(e, Wait{fettlev1.Reason_REASON_NODES_UNAVAILABLE, "the nodes that could hold it are down, drained or out of contact"})
		return goOn
	}
	end, hard := e.end(s.now)
	s.begun = 0
	for range e.left {
		if h := e.account.over(s.no, e.least); h.kind != 0 {
			s.limited(e, h)
			return goOn
		}
		if array := e.array(); e.ArrayMax > 0 && s.p.siblings[array]+s.elements[array] >= e.ArrayMax {
			s.wait(e, Wait{Reason: fettlev1.Reason_REASON_ARRAY_LIMIT})
			return goOn
		}
		if !e.own() && (l.dead || sh.failed(end, hard) || l.failed(sh, end, hard)) {
			return s.blocked(e, l, c)
		}
		switch s.start(e, end, hard) {
		case began:
		case noRoom:
			return s.blocked(e, l, c)
		case notNow:
			return goOn
		case noSpace:
			return planFull
		}
	}
	return goOn
}

func (s *pass) limited(e *entry, h hit) {
	if s.plan.Waits != nil && len(s.plan.Waits) < maxWaits {
		s.plan.Waits[e.ID] = h.wait()
	}
}

// end is when a job that starts now ends at the latest: by its limit, which is hard, or by its estimate; never when there is neither.
func (e *entry) end(nowMS int64) (ms int64, hard bool) {
	switch {
	case e.LimitS > 0:
		return nowMS + e.LimitS*1000, true
	case e.SafeS > 0:
		return nowMS + e.SafeS*1000, false
	case e.EstimateS > 0:
		return nowMS + e.EstimateS*1200, false
	}
	return never, false
}

// failed reports whether a job of the shape that would end then does not fit, as another one did not.
func (sh *shape) failed(end int64, hard bool) bool {
	return sh.tried && (end >= sh.hard || !hard && end >= sh.soft)
}

// outcome is what comes of trying to start a job.
type outcome uint8

const (
	began outcome = iota
	// noRoom: it does not fit.
	noRoom
	// notNow: something other than room keeps it, and it keeps nothing from others.
	notNow
	// noSpace: the plan has no room for it.
	noSpace
)

// start starts a job or one element of an array, if it fits without delaying a blocked job ahead.
func (s *pass) start(e *entry, end int64, hard bool) outcome {
	p, req := s.p, &e.shape.needs.Request
	allowed, w := s.win.allowed(e, end)
	if w != nil {
		s.wait(e, *w)
		return notNow
	}
	if e.own() {
		// Whoever is ahead keeps nothing of what is its own.
		s.heads.settle()
		s.enter(e)
	}
	allocs, ok := s.fit(req, allowed, end, hard)
	if e.own() {
		s.exit(e)
	}
	if !ok {
		if !e.own() {
			s.fail(e.shape, end, hard)
		}
		return noRoom
	}
	if len(e.Claim) > 0 {
		p.cluster.Release(holderClaim | e.ID)
	}
	got := ask{milli: p.milli(allocs), limitS: e.LimitS, gpus: cards(allocs), nodes: len(allocs)}
	if h := e.account.over(s.no, got); h.kind != 0 {
		s.limited(e, h)
		return notNow
	}
	if s.max > 0 {
		bytes := weigh(allocs)
		if bytes > planBudget || len(allocs) > model.MaxAllocationsPerEntry {
			s.wait(e, Wait{fettlev1.Reason_REASON_NO_SUITABLE_NODE, "its nodes and GPUs are too many for one entry of the log: ask for fewer"})
			return notNow
		}
		if len(s.plan.Placements) > 0 && (s.bytes+bytes > planBudget || s.parts+len(allocs) > model.MaxAllocationsPerEntry) {
			s.full = true
			return noSpace
		}
		s.bytes, s.parts = s.bytes+bytes, s.parts+len(allocs)
	}
	s.take(e, allocs, got)
	return began
}

// own reports whether there may be room that is the job's alone: a claim, or cards of its reservation.
func (e *entry) own() bool { return len(e.Claim) > 0 || e.Reservation != "" }

// enter gives free what is the job's own, and exit books it again.
func (s *pass) enter(e *entry) {
	if len(e.Claim) > 0 {
		s.p.cluster.Release(holderClaim | e.ID)
	}
	s.win.enter(e)
}

func (s *pass) exit(e *entry) {
	s.win.exit(e)
	if len(e.Claim) > 0 {
		s.p.cluster.Hold(holderClaim|e.ID, e.Claim)
	}
}

// fit finds room that delays no blocked job ahead. What is kept for those is worked out once something could start at all.
func (s *pass) fit(req *place.Request, allowed place.NodeSet, end int64, hard bool) ([]*fettlev1.NodeAllocation, bool) {
	s.heads.open(end, hard)
	allocs, ok := s.p.cluster.Place(req, allowed)
	if !ok || len(s.heads.pending) == 0 {
		return allocs, ok
	}
	s.heads.settle()
	s.heads.open(end, hard)
	return s.p.cluster.Place(req, allowed)
}

// take books a start.
func (s *pass) take(e *entry, allocs []*fettlev1.NodeAllocation, got ask) {
	holder := holderStart | uint64(len(s.started))
	s.p.cluster.Hold(holder, allocs)
	s.heads.overlap(allocs)
	e.account.take(s.no, got.milli, e.LimitS)
	e.began = s.no
	index := -1
	if len(e.Array) > 0 {
		index = e.element(s.begun)
		s.begun++
	}
	if array := e.array(); array != 0 {
		if s.elements == nil {
			s.elements = map[uint64]int{}
		}
		s.elements[array]++
	}
	a := &attempt{Running: Running{ID: holder, Allocs: allocs, StartMS: s.now, Reservation: e.Reservation}, endMS: never}
	if e.LimitS > 0 {
		a.endMS = s.now + e.LimitS*1000
	}
	if e.EstimateS > 0 {
		a.endMS = min(a.endMS, s.now+e.EstimateS*1000)
	}
	s.started = append(s.started, a)
	s.plan.Placements = append(s.plan.Placements, Placement{Job: e.ID, Index: index, Allocs: allocs, Backfilled: e.shape.lane.class.heads > 0})
}

// array is the array that the job is, or is an element of; 0: none.
func (e *entry) array() uint64 {
	if len(e.Array) > 0 {
		return e.ID
	}
	return e.ArrayID
}

// element is the number of the array's k-th unstarted element.
func (e *entry) element(k int) int {
	for _, r := range e.Array {
		if n := r.Len(); k >= n {
			k -= n
			continue
		}
		return int(r.First) + k*int(max(r.Step, 1))
	}
	return -1
}

// failure is a need that did not fit in a lane.
type failure struct {
	cpus   uint32
	mem    int64
	method string
	end    int64
	hard   bool
}

// maxFailures bounds the failures that a lane remembers.
const maxFailures = 32

// fail remembers that a shape does not fit, and finds out whether anything of its lane does.
func (s *pass) fail(sh *shape, end int64, hard bool) {
	sh.tried = true
	if hard {
		sh.hard = min(sh.hard, end)
	} else {
		sh.soft = min(sh.soft, end)
	}
	l := sh.lane
	r := &sh.needs.Request
	if len(l.failures) < maxFailures {
		l.failures = append(l.failures, failure{r.CPUs, r.MemMiB, sh.needs.Method, end, hard})
	}
	if l.probed == len(s.started) {
		return
	}
	l.probed = len(s.started)
	s.heads.open(s.now, true)
	_, ok := s.p.cluster.Place(&l.probe, s.p.nodesOf(l.class.partition))
	l.dead = !ok
}

// failed reports whether a job that asks for no more, and would end no later, did not fit.
func (l *lane) failed(sh *shape, end int64, hard bool) bool {
	r := &sh.needs.Request
	for i := range l.failures {
		f := &l.failures[i]
		if r.CPUs >= f.cpus && r.MemMiB >= f.mem && end >= f.end && (f.hard || !hard) && (f.method == "" || f.method == sh.needs.Method) {
			return true
		}
	}
	return false
}

// blocked is for a job that does not fit: the first of its class get a reservation.
func (s *pass) blocked(e *entry, l *lane, c *class) verdict {
	if len(e.Claim) > 0 {
		s.wait(e, claimed)
		return goOn
	}
	if s.heads.room(c) {
		s.heads.add(e, c)
	}
	if l.dead && !s.heads.room(c) {
		return laneOver
	}
	return goOn
}
