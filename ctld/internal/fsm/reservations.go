package fsm

import (
	"cmp"
	"fmt"
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// setReservation adds a reservation or replaces that of its name. GPUs are picked here and stay the same from then on.
func setReservation(t *state.Txn, a *raftlogv1.Actor, op *fettlev1.SetReservationRequest) *model.FieldError {
	if err := mayAdminister(a); err != nil {
		return err
	}
	in := op.GetReservation()
	if err := model.ValidateReservation(in); err != nil {
		return err
	}
	now := t.NowMS()
	r := &fettlev1.Reservation{
		Name: in.GetName(), Gpus: in.GetGpus(), GpuType: in.GetGpuType(), Partition: in.GetPartition(),
		StartMs: in.GetStartMs(), EndMs: in.GetEndMs(), Users: in.GetUsers(), Projects: in.GetProjects(), Comment: in.GetComment(),
		CreatedBy: a.GetUser(), CreatedMs: now,
	}
	if r.StartMs == 0 {
		r.StartMs = now
	}
	if r.GetEndMs() != 0 && r.GetEndMs() <= now {
		return &model.FieldError{Field: "end", Problem: "has passed", Remedy: "give a time to come, or none"}
	}
	if in.GetNodes() != "" {
		names, err := gres.ExpandHosts(in.GetNodes())
		if err != nil {
			return &model.FieldError{Field: "nodes", Problem: gres.Rename(err, "nodes").Error()}
		}
		r.Nodes = gres.FormatHosts(names)
	}
	if r.GetPartition() != "" && t.Partition(r.GetPartition()) == nil {
		return &model.FieldError{Field: "partition", Problem: fmt.Sprintf("%q does not exist", r.GetPartition()), Remedy: "use " + partitionNames(t)}
	}
	others, err := otherReservations(t, r.GetName())
	if err != nil {
		return err
	}
	if r.GetGpus() > 0 && !keepPicked(t, r, others) {
		if err := pickGPUs(t, r, others); err != nil {
			return err
		}
	}
	c, err := state.CompileReservation(r)
	if err != nil {
		return err
	}
	for _, o := range others {
		if what := c.Overlaps(o); what != "" {
			return &model.FieldError{Kind: model.Conflict, Field: "reservation", Problem: fmt.Sprintf("%s is reserved as %s in that time", what, o.GetName()),
				Remedy: "choose another time or other nodes, or remove that one"}
		}
	}
	t.SetReservation(c)
	return nil
}

// otherReservations returns those that are not over and not of that name. Those that are over are forgotten.
func otherReservations(t *state.Txn, name string) ([]*state.Reservation, *model.FieldError) {
	var others []*state.Reservation
	t.Reservations(func(o *state.Reservation) bool {
		switch {
		case o.GetName() == name:
		case o.Over(t.NowMS()):
			t.RemoveReservation(o.GetName())
		default:
			others = append(others, o)
		}
		return true
	})
	if len(others) >= model.MaxReservations {
		return nil, &model.FieldError{Kind: model.Exhausted, Field: "reservation", Problem: fmt.Sprintf("there are %d, the limit", len(others)), Remedy: "remove some"}
	}
	return others, nil
}

// keepPicked leaves a reservation that is changed its GPUs, when it asks for as many of the same kind and they are free of
// other reservations in its new time: jobs may run in it.
func keepPicked(t *state.Txn, r *fettlev1.Reservation, others []*state.Reservation) bool {
	old := t.Reservation(r.GetName())
	if old == nil || old.GetGpus() != r.GetGpus() || old.GetGpuType() != r.GetGpuType() || old.GetPartition() != r.GetPartition() {
		return false
	}
	r.Picked = old.GetPicked()
	c, err := state.CompileReservation(r)
	if err == nil && !slices.ContainsFunc(others, func(o *state.Reservation) bool { return c.Overlaps(o) != "" }) {
		return true
	}
	r.Picked = nil
	return false
}

// picking is what a node has for a reservation of GPUs: those whose holders are over by its start, and the others.
type picking struct {
	node        string
	clean, busy []string
}

// pickGPUs chooses the GPUs of a reservation for a number of them: those that will be free at its start before others, and
// few nodes rather than many.
func pickGPUs(t *state.Txn, r *fettlev1.Reservation, others []*state.Reservation) *model.FieldError {
	part := t.Partition(r.GetPartition())
	var nodes []picking
	found := 0
	t.Nodes(func(n *state.Node) bool {
		if part != nil && !part.Allows(n.Name) {
			return true
		}
		p := pickingOf(t, n, r, others)
		if found += len(p.clean) + len(p.busy); len(p.clean)+len(p.busy) > 0 {
			nodes = append(nodes, p)
		}
		return true
	})
	want := int(r.GetGpus())
	if found < want {
		return &model.FieldError{Kind: model.Exhausted, Field: "gpus", Problem: fmt.Sprintf("%d asked for, %d of that kind are there and not reserved in that time", want, found),
			Remedy: "ask for fewer, or choose another time"}
	}
	slices.SortFunc(nodes, func(a, b picking) int {
		return cmp.Or(cmp.Compare(len(b.clean), len(a.clean)), cmp.Compare(a.node, b.node))
	})
	got := make(map[string][]string, len(nodes))
	for _, take := range []func(picking) []string{func(p picking) []string { return p.clean }, func(p picking) []string { return p.busy }} {
		for _, p := range nodes {
			gpus := take(p)
			gpus = gpus[:min(len(gpus), want)]
			got[p.node] = append(got[p.node], gpus...)
			want -= len(gpus)
		}
	}
	slices.SortFunc(nodes, func(a, b picking) int { return cmp.Compare(a.node, b.node) })
	for _, p := range nodes {
		if gpus := got[p.node]; len(gpus) > 0 {
			slices.Sort(gpus)
			r.Picked = append(r.Picked, &fettlev1.NodeAllocation{Node: p.node, GpuUuids: gpus})
		}
	}
	return nil
}

func pickingOf(t *state.Txn, n *state.Node, r *fettlev1.Reservation, others []*state.Reservation) picking {
	p := picking{node: n.Name}
	span := &state.Reservation{Reservation: r}
	for _, g := range n.Inventory.GetGpus() {
		if g.GetUnhealthy() || r.GetGpuType() != "" && g.GetType() != r.GetGpuType() {
			continue
		}
		one := &fettlev1.NodeAllocation{Node: n.Name, GpuUuids: []string{g.GetUuid()}}
		if slices.ContainsFunc(others, func(o *state.Reservation) bool { return o.Meets(span) && o.Touches(one) }) {
			continue
		}
		clean := true
		for _, h := range n.Held {
			if h.UUID == g.GetUuid() && staysIn(t, h.JobID, r) {
				clean = false
			}
		}
		if clean {
			p.clean = append(p.clean, g.GetUuid())
		} else {
			p.busy = append(p.busy, g.GetUuid())
		}
	}
	return p
}

// staysIn reports whether a running job that is not in the reservation need not be over when it begins.
func staysIn(t *state.Txn, id uint64, r *fettlev1.Reservation) bool {
	j := t.Job(id)
	return j != nil && j.Active() && j.Spec.GetReservation() != r.GetName() && MayRunAt(j, r.GetStartMs())
}

// MayRunAt reports whether an active job need not be over at that time of the log's clock.
func MayRunAt(j *state.Job, atMS int64) bool {
	limit := j.Spec.GetTimeLimitS()
	if limit == 0 {
		return true
	}
	from := j.StartMS
	if from == 0 {
		from = j.Current().GetDispatchMs()
	}
	return from+limit*1000 > atMS
}

func removeReservation(t *state.Txn, a *raftlogv1.Actor, op *fettlev1.RemoveReservationRequest) *model.FieldError {
	if err := mayAdminister(a); err != nil {
		return err
	}
	if t.Reservation(op.GetName()) == nil {
		return &model.FieldError{Kind: model.NotFound, Field: "reservation", Problem: fmt.Sprintf("%.64q does not exist", op.GetName()), Remedy: "see fctl reservation list for those there are"}
	}
	t.RemoveReservation(op.GetName())
	return nil
}

// RunMS is how long a job may run in milliseconds as reservations see it: its time limit, else the controller's estimate, 0
// when neither is known.
func RunMS(s *fettlev1.JobSpec) int64 {
	if l := s.GetTimeLimitS(); l > 0 {
		return l * 1000
	}
	return s.GetEstimatedRunS() * 1000
}

// checkReservations refuses a placement on what is reserved for others now, or before the job need be over, and one of a job
// that asked for a reservation outside of it.
func checkReservations(t *state.Txn, j *state.Job, parts []*fettlev1.NodeAllocation) *model.FieldError {
	now, own := t.NowMS(), j.Spec.GetReservation()
	if own != "" {
		r := t.Reservation(own)
		switch {
		case r == nil || r.Over(now):
			return conflict("reservation", "%q does not exist any more", own)
		case !r.Open(now):
			return conflict("reservation", "%s has not begun", own)
		case !r.Permits(j.User, chainOf(t, j.Account())):
			return conflict("reservation", "%s is not for job %d", own, j.ID)
		}
		for _, a := range parts {
			if !r.Contains(a) {
				return conflict("reservation", "%s is not all in %s", a.GetNode(), own)
			}
		}
	}
	run := RunMS(j.Spec)
	var err *model.FieldError
	t.Reservations(func(r *state.Reservation) bool {
		if r.GetName() == own || !r.InWay(now, run) {
			return true
		}
		for _, a := range parts {
			if r.Touches(a) {
				err = conflict("reservation", "%s is reserved as %s, and job %d need not be over by then", a.GetNode(), r.GetName(), j.ID)
				return false
			}
		}
		return true
	})
	return err
}
