package state

import (
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

// Reservation is a reservation with its nodes expanded. Immutable.
type Reservation struct {
	*fettlev1.Reservation
	nodes gres.HostSet
	// picked are the GPUs of one that is for a number of them, by node.
	picked map[string][]string

	sum sum
}

func lessReservation(a, b *Reservation) bool { return a.GetName() < b.GetName() }

// compileReservation expands r, which model.ValidateReservation has accepted.
func compileReservation(r *fettlev1.Reservation) (*Reservation, *model.FieldError) {
	c := &Reservation{Reservation: r, picked: make(map[string][]string, len(r.GetPicked()))}
	if r.GetNodes() != "" {
		set, err := gres.ParseHostSet(r.GetNodes())
		if err != nil {
			return nil, &model.FieldError{Field: "nodes", Problem: err.Error()}
		}
		c.nodes = set
	}
	for _, a := range r.GetPicked() {
		c.picked[a.GetNode()] = append(c.picked[a.GetNode()], a.GetGpuUuids()...)
	}
	c.sum = hashMessage(tagReservation, r)
	return c, nil
}

// Over reports whether the reservation has ended.
func (r *Reservation) Over(nowMS int64) bool { return r.GetEndMs() != 0 && nowMS >= r.GetEndMs() }

// Open reports whether jobs may start in the reservation.
func (r *Reservation) Open(nowMS int64) bool { return nowMS >= r.GetStartMs() && !r.Over(nowMS) }

// InWay reports whether a job that starts at nowMS and may run for runMS (0: for ever) would still run when the
// reservation holds.
func (r *Reservation) InWay(nowMS, runMS int64) bool {
	return !r.Over(nowMS) && (runMS <= 0 || nowMS+runMS > r.GetStartMs())
}

// Whole reports whether the whole node is reserved.
func (r *Reservation) Whole(node string) bool { return r.nodes.Contains(node) }

// Picked are the GPUs that are reserved on a node, for a reservation of a number of them. Not to be changed.
func (r *Reservation) Picked(node string) []string { return r.picked[node] }

// Touches reports whether an allocation has something of what is reserved.
func (r *Reservation) Touches(a *fettlev1.NodeAllocation) bool {
	return r.Whole(a.GetNode()) || slices.ContainsFunc(a.GetGpuUuids(), func(u string) bool { return slices.Contains(r.picked[a.GetNode()], u) })
}

// Contains reports whether all of an allocation is reserved.
func (r *Reservation) Contains(a *fettlev1.NodeAllocation) bool {
	if r.Whole(a.GetNode()) {
		return true
	}
	picked := r.picked[a.GetNode()]
	return len(picked) > 0 && !slices.ContainsFunc(a.GetGpuUuids(), func(u string) bool { return !slices.Contains(picked, u) })
}

// Permits reports whether jobs of the user in a project with this way up (Project.Chain) may run in the reservation.
func (r *Reservation) Permits(user string, chain []string) bool {
	if slices.Contains(r.GetUsers(), user) || slices.Contains(r.GetUsers(), model.Everyone) {
		return true
	}
	return slices.ContainsFunc(chain, func(p string) bool { return slices.Contains(r.GetProjects(), p) })
}

// Overlaps returns what two reservations reserve at one time, "" when there is nothing.
func (r *Reservation) Overlaps(o *Reservation) string {
	if !r.Meets(o) {
		return ""
	}
	if both := r.nodes.Intersect(o.nodes); both.Len() > 0 {
		return "node " + both.Names()[0]
	}
	for _, pair := range [2][2]*Reservation{{r, o}, {o, r}} {
		for _, a := range pair[0].GetPicked() {
			if pair[1].Touches(a) {
				return "GPUs of " + a.GetNode()
			}
		}
	}
	return ""
}

func (t *tables) setReservation(r *Reservation) {
	t.dropReservation(r.GetName())
	t.total.add(r.sum)
	t.reservations.put(r)
}

func (t *tables) dropReservation(name string) {
	if old, ok := t.reservations.w.Get(reservationKey(name)); ok {
		t.total.sub(old.sum)
		t.reservations.del(old)
	}
}

func reservationKey(name string) *Reservation {
	return &Reservation{Reservation: &fettlev1.Reservation{Name: name}}
}

// Reservation returns one reservation, nil when there is none of that name. It may be over.
func (s *Snapshot) Reservation(name string) *Reservation {
	r, _ := s.reservations.Get(reservationKey(name))
	return r
}

// Reservations yields all reservations by name, those that are over and not yet forgotten among them.
func (s *Snapshot) Reservations(yield func(*Reservation) bool) { s.reservations.Ascend(yield) }

// Reservation returns the reservation of that name before this entry, nil when there is none.
func (t *Txn) Reservation(name string) *Reservation {
	r, _ := t.b.t.reservations.w.Get(reservationKey(name))
	return r
}

// Reservations yields all reservations before this entry, by name.
func (t *Txn) Reservations(yield func(*Reservation) bool) { t.b.t.reservations.w.Ascend(yield) }

// CompileReservation makes a reservation, which model.ValidateReservation has accepted, ready to be compared and set.
func CompileReservation(r *fettlev1.Reservation) (*Reservation, *model.FieldError) {
	return compileReservation(r)
}

// SetReservation adds a reservation, or replaces that of its name.
func (t *Txn) SetReservation(r *Reservation) { t.reserved = append(t.reserved, r) }

// RemoveReservation forgets a reservation.
func (t *Txn) RemoveReservation(name string) { t.unreserved = append(t.unreserved, name) }

// Meets reports whether there is a time at which both hold.
func (r *Reservation) Meets(o *Reservation) bool {
	return (r.GetEndMs() == 0 || r.GetEndMs() > o.GetStartMs()) && (o.GetEndMs() == 0 || o.GetEndMs() > r.GetStartMs())
}
