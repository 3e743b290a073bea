package sched

import (
	"github.com/fettle-hpc/fettle/ctld/internal/place"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// windows are the reservations that are not over, by their start.
type windows struct {
	s    *pass
	list []*window
	// sets are the nodes that jobs may not use that overlap the first so many windows.
	sets []place.NodeSet
}

type window struct {
	*Reservation
	nodes place.NodeSet
	// spare is, for one that keeps a number of cards, how many others may still hold when it starts.
	spare int
}

func (w *windows) init(s *pass) {
	w.s = s
	for i := range s.p.reservations {
		r := &s.p.reservations[i]
		if r.EndMS <= s.now {
			continue
		}
		win := &window{Reservation: r}
		if len(r.Nodes) > 0 {
			win.nodes = s.p.cluster.Named(r.Nodes)
		} else if r.GPUs > 0 {
			win.spare = w.capacity(r) - r.GPUs - w.heldAt(r)
		}
		w.list = append(w.list, win)
		// At its end, and at its start for those who may use it, something can start that cannot now.
		for _, at := range []int64{r.StartMS, r.EndMS} {
			s.wake(at)
		}
	}
}

func (s *pass) wake(ms int64) {
	if ms > s.now && (s.plan.WakeMS == 0 || ms < s.plan.WakeMS) {
		s.plan.WakeMS = ms
	}
}

// capacity is how many cards of the reservation's type there are on nodes that are up.
func (w *windows) capacity(r *Reservation) int {
	n := 0
	for i := range w.s.ready.All() {
		for _, g := range w.s.p.cluster.Node(i).GPUs {
			if g.Usable && (r.GPUType == "" || g.Type == r.GPUType) {
				n++
			}
		}
	}
	return n
}

// heldAt is how many cards others hold when the reservation starts.
func (w *windows) heldAt(r *Reservation) int {
	n := 0
	for _, a := range w.s.p.running {
		if a.Reservation != r.Name && (r.StartMS <= w.s.now || w.s.endOf(a) > r.StartMS) {
			n += w.ofType(r.GPUType, a.Allocs)
		}
	}
	return n
}

// ofType counts the cards of a type in allocations.
func (w *windows) ofType(typ string, allocs []*fettlev1.NodeAllocation) int {
	if typ == "" {
		return cards(allocs)
	}
	n := 0
	for _, a := range allocs {
		i, ok := w.s.p.cluster.Position(a.GetNode())
		if !ok {
			continue
		}
		for _, u := range a.GetGpuUuids() {
			for _, g := range w.s.p.cluster.Node(i).GPUs {
				if g.UUID == u && g.Type == typ {
					n++
				}
			}
		}
	}
	return n
}

// before is how many of the windows start before a time.
func (w *windows) before(end int64) int {
	n := 0
	for n < len(w.list) && w.list[n].StartMS < end {
		n++
	}
	return n
}

// allowed are the nodes that a job may use that ends at a time; a wait when a reservation leaves it none.
func (w *windows) allowed(e *entry, end int64) (place.NodeSet, *Wait) {
	nodes := e.shape.eligible
	var own *window
	if e.Reservation != "" {
		var wait *Wait
		if own, wait = w.own(e, end); wait != nil {
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
		if len(own.Nodes) > 0 {
			nodes = nodes.And(own.nodes)
		}
	}
	if need := span(&e.shape.needs.Request); nodes.And(w.s.ready).Len() < need {
		return place.NodeSet{}, &Wait{fettlev1.Reason_REASON_RESERVATION, w.blame(e, n, own)}
	}
	return nodes, nil
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

// own is the reservation that a job runs in.
func (w *windows) own(e *entry, end int64) (*window, *Wait) {
	for _, r := range w.list {
		if r.Name != e.Reservation {
			continue
		}
		switch {
		case !r.Admits(e.User, e.Project):
			return nil, &Wait{fettlev1.Reason_REASON_RESERVATION, "reservation " + r.Name + " is not for this user or project"}
		case r.StartMS > w.s.now:
			return nil, &Wait{fettlev1.Reason_REASON_RESERVATION, "reservation " + r.Name + " has not begun"}
		case e.LimitS > 0 && end > r.EndMS:
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

// spare reports whether allocations leave the reservations that keep a number of cards what they need.
func (w *windows) spare(e *entry, allocs []*fettlev1.NodeAllocation, end int64) bool {
	for _, r := range w.list {
		switch {
		case r.GPUs == 0 || len(r.Nodes) > 0:
		case r.Name == e.Reservation:
			if w.inside(r)+w.ofType(r.GPUType, allocs) > r.GPUs {
				return false
			}
		case r.StartMS < end:
			if n := w.ofType(r.GPUType, allocs); n > 0 && n > r.spare {
				return false
			}
		}
	}
	return true
}

// inside is how many cards run in a reservation.
func (w *windows) inside(r *window) int {
	n := 0
	for _, a := range w.s.p.running {
		if a.Reservation == r.Name {
			n += w.ofType(r.GPUType, a.Allocs)
		}
	}
	for _, a := range w.s.started {
		if a.Reservation == r.Name {
			n += w.ofType(r.GPUType, a.Allocs)
		}
	}
	return n
}

// took is told of a start.
func (w *windows) took(e *entry, allocs []*fettlev1.NodeAllocation, end int64) {
	for _, r := range w.list {
		if r.GPUs > 0 && len(r.Nodes) == 0 && r.Name != e.Reservation && r.StartMS < end {
			r.spare -= w.ofType(r.GPUType, allocs)
		}
	}
}
