package sched

import (
	"slices"

	"github.com/fettle-hpc/fettle/ctld/internal/place"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// windows are the reservations that are not over, by their start.
type windows struct {
	s    *pass
	list []*window
	// sets are the nodes that jobs may not use that overlap the first so many windows.
	sets []place.NodeSet
	// outside books, while a job of a reservation of cards is placed, the cards of its nodes that are not reserved.
	outside uint64
}

type window struct {
	*Reservation
	// nodes are those kept whole, some those of which cards are kept.
	nodes, some place.NodeSet
	// kept books the cards, against jobs that would not be gone by the start.
	kept *kept
}

func (w *windows) init(s *pass) {
	w.s = s
	c := s.p.cluster
	for i := range s.p.reservations {
		r := &s.p.reservations[i]
		if r.end() <= s.now {
			continue
		}
		win := &window{Reservation: r, nodes: c.Named(r.Nodes)}
		if len(r.Cards) > 0 {
			names := make([]string, len(r.Cards))
			for k, a := range r.Cards {
				names[k] = a.GetNode()
			}
			win.some = c.Named(names)
			win.kept = &kept{holder: holderWindow | uint64(i), shadow: r.StartMS, trust: true, allocs: r.Cards}
			if r.StartMS <= s.now {
				win.kept.shadow = -1
			}
			c.Hold(win.kept.holder, r.Cards)
			s.heads.kept = append(s.heads.kept, win.kept)
		}
		w.list = append(w.list, win)
		// At its end, and at its start for those who may use it, something can start that cannot now.
		s.wake(r.StartMS)
		s.wake(r.EndMS)
	}
}

func (s *pass) wake(ms int64) {
	if ms > s.now && (s.plan.WakeMS == 0 || ms < s.plan.WakeMS) {
		s.plan.WakeMS = ms
	}
}

// before is how many of the windows start before a time.
func (w *windows) before(end int64) int {
	n := 0
	for n < len(w.list) && w.list[n].StartMS < end {
		n++
	}
	return n
}

// allowed are the nodes that a job may use that ends at a time; a wait when reservations leave it none.
func (w *windows) allowed(e *entry, end int64) (place.NodeSet, *Wait) {
	nodes := e.shape.eligible
	var own *window
	if e.Reservation != "" {
		var wait *Wait
		if own, wait = w.own(e); wait != nil {
			return place.NodeSet{}, wait
		}
	}
	if len(w.list) == 0 {
		return nodes, nil
	}
	n := w.before(end)
	if own == nil {
		nodes = nodes.Without(w.union(n))
	} else {
		for _, other := range w.list[:n] {
			if other != own {
				nodes = nodes.Without(other.nodes)
			}
		}
		if own.kept != nil {
			nodes = nodes.And(own.some)
		} else {
			nodes = nodes.And(own.nodes)
		}
	}
	if need := span(&e.shape.needs.Request); nodes.And(w.s.ready).Len() < need {
		return place.NodeSet{}, &Wait{fettlev1.Reason_REASON_RESERVATION, w.blame(e, n, own)}
	}
	return nodes, nil
}

// ahead are the nodes on which to keep something for a job that starts later: those that no reservation to come takes away, or
// those that it could use now when there are none.
func (w *windows) ahead(e *entry) (place.NodeSet, *Wait) {
	if e.Reservation == "" {
		if nodes, wait := w.allowed(e, never); wait == nil {
			return nodes, nil
		}
	}
	end, _ := e.end(w.s.now)
	return w.allowed(e, end)
}

// blame names the first reservation in a job's way.
func (w *windows) blame(e *entry, n int, own *window) string {
	for _, other := range w.list[:n] {
		if other != own && !other.nodes.And(e.shape.eligible).Empty() {
			return "it would run into reservation " + other.Name
		}
	}
	return "the nodes of reservation " + e.Reservation + " cannot hold it"
}

// orBehind is why a job waits that would fit but for what is kept: for a reservation, or for jobs ahead.
func (w *windows) orBehind(end int64) Wait {
	for _, r := range w.list {
		if r.kept != nil && r.StartMS < end && r.StartMS <= w.s.now {
			return Wait{fettlev1.Reason_REASON_RESERVATION, "GPUs that it could use are kept for reservation " + r.Name}
		}
	}
	return behindOthers
}

// own is the reservation that a job runs in.
func (w *windows) own(e *entry) (*window, *Wait) {
	for _, r := range w.list {
		if r.Name != e.Reservation {
			continue
		}
		switch {
		case !r.admits(e.User, w.s.p.chain(e.Project)):
			return nil, &Wait{fettlev1.Reason_REASON_RESERVATION, "reservation " + r.Name + " is not for this user or project"}
		case r.StartMS > w.s.now:
			return nil, &Wait{fettlev1.Reason_REASON_RESERVATION, "reservation " + r.Name + " has not begun"}
		case e.LimitS > 0 && w.s.now+e.LimitS*1000 > r.end():
			return nil, &Wait{fettlev1.Reason_REASON_RESERVATION, "its time limit goes beyond the end of reservation " + r.Name}
		}
		return r, nil
	}
	return nil, &Wait{fettlev1.Reason_REASON_RESERVATION, "there is no reservation " + e.Reservation + " any more"}
}

// union are the nodes of the first n windows.
func (w *windows) union(n int) place.NodeSet {
	if len(w.sets) == 0 {
		w.sets = append(w.sets, place.NodeSet{})
	}
	for len(w.sets) <= n {
		set := place.NewNodeSet(w.s.p.cluster.Len())
		set.Union(w.sets[len(w.sets)-1])
		set.Union(w.list[len(w.sets)-1].nodes)
		w.sets = append(w.sets, set)
	}
	return w.sets[n]
}

// enter leaves a job of a reservation of cards these cards alone, and exit puts everything back.
func (w *windows) enter(e *entry) {
	if e.Reservation == "" {
		return
	}
	own, wait := w.own(e)
	if wait != nil || own.kept == nil {
		return
	}
	c := w.s.p.cluster
	var others []*fettlev1.NodeAllocation
	for _, a := range own.Cards {
		i, ok := c.Position(a.GetNode())
		if !ok {
			continue
		}
		rest := &fettlev1.NodeAllocation{Node: a.GetNode()}
		for _, g := range c.Node(i).GPUs {
			if !slices.Contains(a.GetGpuUuids(), g.UUID) {
				rest.GpuUuids = append(rest.GpuUuids, g.UUID)
			}
		}
		others = append(others, rest)
	}
	c.Release(own.kept.holder)
	own.kept.entered = true
	w.outside = holderWindow | 1<<32
	c.Hold(w.outside, others)
}

func (w *windows) exit(e *entry) {
	if w.outside == 0 {
		return
	}
	c := w.s.p.cluster
	c.Release(w.outside)
	w.outside = 0
	if own, wait := w.own(e); wait == nil {
		own.kept.entered, own.kept.out = false, false
		c.Hold(own.kept.holder, own.kept.allocs)
	}
}
