package dst

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// link makes some jobs arrays, some depend on others, and some end unstarted when they wait too long.
func (c *client) link(spec *fettlev1.JobSpec) {
	rng := c.sim.rng
	if rng.IntN(5) == 0 {
		spec.Nodes, spec.GpusPerNode = 1, &fettlev1.GPURequest{Count: uint32(rng.IntN(2))}
		spec.Array = &fettlev1.ArraySpec{
			Ranges:     []*fettlev1.ArrayRange{{First: 0, Last: uint32(1 + rng.IntN(2))}, {First: 5, Last: 9, Step: 4}},
			MaxRunning: uint32(rng.IntN(3)),
		}
	}
	if rng.IntN(8) == 0 {
		spec.Name = "single"
		spec.Dependencies = append(spec.Dependencies, &fettlev1.Dependency{Kind: model.Singleton})
	}
	if len(c.ids) > 0 && rng.IntN(3) == 0 {
		for range 1 + rng.IntN(2) {
			if d := c.dependency(); !slices.ContainsFunc(spec.Dependencies, func(o *fettlev1.Dependency) bool { return proto.Equal(o, d) }) {
				spec.Dependencies = append(spec.Dependencies, d)
			}
		}
		spec.DependencyAny = rng.IntN(4) == 0
	}
	if rng.IntN(10) == 0 {
		spec.DeadlineMs = c.sim.ref.Store().Snapshot().NowMS() + c.sim.between(2_000, 90_000)
	}
}

func (c *client) dependency() *fettlev1.Dependency {
	rng := c.sim.rng
	d := &fettlev1.Dependency{JobId: c.ids[rng.IntN(len(c.ids))], Kind: model.AfterOK}
	if rng.IntN(2) == 0 {
		d.Kind = []fettlev1.DependencyKind{model.After, model.AfterNotOK, model.AfterAny}[rng.IntN(3)]
	}
	if j := c.sim.ref.Store().Snapshot().Job(d.JobId); j != nil && j.IsArray() && rng.IntN(2) == 0 {
		d.Index = proto.Uint32(0)
	}
	return d
}

// unlinked says whether a submit may be refused for what link asked: a deadline that has passed on its way, or an element that
// was dropped with its array. The job is then asked for without.
func unlinked(spec *fettlev1.JobSpec, err *model.FieldError) bool {
	switch err.Field {
	case "deadline":
		spec.DeadlineMs = 0
		return true
	case "dependency":
		n := len(spec.Dependencies)
		spec.Dependencies = slices.DeleteFunc(spec.Dependencies, func(d *fettlev1.Dependency) bool { return d.Index != nil })
		if len(spec.Dependencies) == 0 {
			spec.DependencyAny = false
		}
		return len(spec.Dependencies) < n
	}
	return false
}

// actOnElement does something to one element of an array, whether it has started or not.
func (c *client) actOnElement(array *state.Job) {
	var all []uint32
	model.ArrayEach(array.Spec.GetArray().GetRanges(), func(n uint32) bool { all = append(all, n); return true })
	index := all[c.sim.rng.IntN(len(all))]
	elements := []*raftlogv1.ArrayElement{{JobId: array.ID, Index: index}}
	what := c.sim.rng.IntN(3)
	c.ask(func() *raftlogv1.Entry {
		e := &raftlogv1.Entry{Actor: user}
		switch what {
		case 0:
			e.Op = &raftlogv1.Entry_Cancel{Cancel: &raftlogv1.CancelJobs{Elements: elements}}
		case 1:
			e.Op = &raftlogv1.Entry_Hold{Hold: &raftlogv1.HoldJobs{Elements: elements}}
		default:
			e.Op = &raftlogv1.Entry_Requeue{Requeue: &raftlogv1.RequeueJobs{Elements: elements}}
		}
		return e
	}, func(r *fsm.Result) {
		if what != 0 || r.Err != nil || r.Actions[0].Err != nil {
			return
		}
		j := c.sim.ref.Store().Snapshot().Element(array.ID, index)
		if j == nil || !j.Finished() && !j.CancelRequested {
			c.sim.fail("I12: the cancel of %s was answered, but it goes on", gres.FormatElement(array.ID, index))
			return
		}
		c.cancelled[j.ID] = true
	})
}

// expire proposes the end of jobs that cannot meet their deadline, as the leader's scheduler does.
func (c *controller) expire() {
	if ids := c.fsm.Store().Snapshot().DueDeadlines(c.wallMS(), 100); len(ids) > 0 {
		c.sim.propose(c, &raftlogv1.Entry{Op: &raftlogv1.Entry_Expire{Expire: &raftlogv1.ExpireJobs{Ids: ids}}}, func(*fsm.Result, bool) {})
	}
}

// checkLinks checks a job that an entry has changed against the others.
func (s *sim) checkLinks(before, after *state.Job) {
	snap := s.ref.Store().Snapshot()
	if at, ok := model.LatestStartMS(after.Spec); after.Reason == fettlev1.Reason_REASON_DEADLINE && (before == nil || before.Reason != after.Reason) && (!ok || snap.NowMS() <= at) {
		s.fail("job %d is ended for a deadline that it could meet", after.ID)
	}
	if after.IsElement() {
		s.checkElement(snap, after)
	}
	if before != nil && before.State != model.Pending || !after.Active() || after.Attempt != 1 {
		return
	}
	if at, ok := model.LatestStartMS(after.Spec); ok && snap.NowMS() > at {
		s.fail("job %d starts too late for its deadline", after.ID)
	}
	met, all := false, true
	for _, d := range after.Spec.GetDependencies() {
		if s.holds(snap, after, d) {
			met = true
		} else {
			all = false
		}
	}
	if anyOne := after.Spec.GetDependencyAny(); !all && !(anyOne && met) {
		s.fail("job %d starts, but %s does not hold", after.ID, model.DependenciesText(after.Spec.GetDependencies(), anyOne))
	}
}

// holds says from the rows of all jobs whether a dependency holds.
func (s *sim) holds(snap *state.Snapshot, j *state.Job, d *fettlev1.Dependency) bool {
	if d.GetKind() == model.Singleton {
		first := true
		snap.Jobs(0, func(o *state.Job) bool {
			before := o.ID < j.ID && o.ID != j.ArrayJobID && !(o.IsElement() && o.ArrayJobID == j.ArrayJobID)
			if before && j.IsElement() {
				before = max(o.ID, o.ArrayJobID) < j.ArrayJobID
			}
			first = first && (!before || o.Finished() || o.Spec.GetName() != j.Spec.GetName())
			return true
		})
		return first
	}
	on := snap.Job(d.GetJobId())
	if d.Index != nil {
		if e := snap.Element(d.GetJobId(), d.GetIndex()); e != nil {
			on = e
		} else if on != nil && !model.ArrayHas(on.Array.Left, d.GetIndex()) {
			// Dropped with its array.
			return model.FateOf(d.GetKind(), model.Cancelled, false) == model.Met
		} else {
			return false
		}
	}
	return on != nil && model.FateOf(d.GetKind(), on.State, on.HasStarted()) == model.Met
}

// checkElement checks that an element has one row, and that no more of its array run than may.
func (s *sim) checkElement(snap *state.Snapshot, j *state.Job) {
	same, active := 0, 0
	snap.Jobs(0, func(o *state.Job) bool {
		if o.ArrayJobID == j.ArrayJobID {
			if o.ArrayIndex == j.ArrayIndex {
				same++
			}
			if o.Active() {
				active++
			}
		}
		return true
	})
	if same != 1 {
		s.fail("I7: %s has %d rows", gres.FormatElement(j.ArrayJobID, j.ArrayIndex), same)
	}
	if limit := int(j.Spec.GetArray().GetMaxRunning()); limit > 0 && active > limit {
		s.fail("I4: %d elements of array %d run, %d may", active, j.ArrayJobID, limit)
	}
}

// checkArrayEnd checks that an array ended as its elements did, every one of them.
func (s *sim) checkArrayEnd(snap *state.Snapshot, j *state.Job) {
	all := map[fettlev1.JobState]int{}
	snap.Elements(j.ID, func(e *state.Job) bool {
		all[e.State]++
		return true
	})
	want := model.ArrayLen(j.Spec.GetArray().GetRanges())
	if j.State == model.Completed && all[model.Completed] != want {
		s.fail("array %d is completed, %d of its %d elements are", j.ID, all[model.Completed], want)
	}
	if a := j.Array; a.Total() != want || int(a.Completed) != all[model.Completed] || !a.Over() {
		s.fail("array %d of %d elements ended with %+v", j.ID, want, a)
	}
}
