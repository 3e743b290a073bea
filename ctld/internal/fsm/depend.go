package fsm

import (
	"fmt"
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// earlier is where a new job finds those that it depends on: an entry's transaction, or a snapshot for dry runs.
type earlier interface {
	Job(id uint64) *state.Job
	Element(array uint64, index uint32) *state.Job
	FirstNamed(uid uint32, name string) uint64
}

// CheckLinks is what a submit of s by the actor would be refused for by its dependencies and its deadline, nil when it would
// not. never is why the job would be ended at once. The time limit must be filled in already.
func CheckLinks(s *state.Snapshot, a *raftlogv1.Actor, nowMS int64, spec *fettlev1.JobSpec) (never string, err *model.FieldError) {
	if err := deadlineFits(max(nowMS, s.NowMS()), spec); err != nil {
		return "", err
	}
	_, never, err = dependOn(s, a, spec)
	return never, err
}

// dependOn looks at what a new job depends on. open are the dependencies that it has to wait for. never is why it can never
// start, empty when it may: a job that is asked for too late is ended like one that waited, so that a chain of submits comes
// out the same however fast its first job fails. Numbers are given out in order and only earlier jobs can be named, so
// dependencies never run in a circle.
func dependOn(t earlier, a *raftlogv1.Actor, s *fettlev1.JobSpec) (open []*fettlev1.Dependency, never string, err *model.FieldError) {
	met := false
	for _, d := range s.GetDependencies() {
		fate, why := model.Open, ""
		if d.GetKind() == model.Singleton {
			if t.FirstNamed(a.GetUid(), s.GetName()) == 0 {
				fate = model.Met
			}
		} else if fate, why, err = fateAtSubmit(t, a, d); err != nil {
			return nil, "", err
		}
		switch fate {
		case model.Met:
			met = true
		case model.Never:
			never = why
		default:
			open = append(open, d)
		}
	}
	switch {
	case !s.GetDependencyAny():
		return open, never, nil
	case met:
		return nil, "", nil
	case len(open) > 0:
		return open, "", nil
	}
	return nil, never, nil
}

// fateAtSubmit judges one dependency of a new job.
func fateAtSubmit(t earlier, a *raftlogv1.Actor, d *fettlev1.Dependency) (model.Fate, string, *model.FieldError) {
	refuse := func(kind model.Kind, problem, remedy string) (model.Fate, string, *model.FieldError) {
		return model.Open, "", &model.FieldError{Kind: kind, Field: "dependency", Problem: model.DependencyText(d) + " " + problem, Remedy: remedy}
	}
	on := t.Job(d.GetJobId())
	switch {
	case on == nil:
		return refuse(model.NotFound, "names a job that does not exist", "name one that fqueue shows")
	case mayChange(a, on) != nil:
		return refuse(model.Denied, "names another user's job", "depend on your own jobs, or ask an admin")
	}
	if d.Index != nil {
		switch {
		case !on.IsArray():
			return refuse(model.Invalid, "names an element of a job that is no array", "name the job without _")
		case !model.ArrayHas(on.Spec.GetArray().GetRanges(), d.GetIndex()):
			return refuse(model.NotFound, "names an element that the array does not have", "it has "+gres.FormatRanges(model.GresRanges(on.Spec.GetArray().GetRanges())))
		}
		e := t.Element(on.ID, d.GetIndex())
		if e == nil && !model.ArrayHas(on.Array.Left, d.GetIndex()) {
			return refuse(model.NotFound, "names an element that is no longer on record", "depend on the whole array")
		}
		if e == nil {
			return model.Open, "", nil
		}
		on = e
	}
	fate := model.FateOf(d.GetKind(), on.State, on.HasStarted())
	return fate, neverText(d, on), nil
}

// neverText says why a dependency can never be met.
func neverText(d *fettlev1.Dependency, on *state.Job) string {
	return fmt.Sprintf("%s can never be met: it ended %s", model.DependencyText(d), model.StateName(on.State))
}

// tellDependents lets go or ends the jobs that wait for j, which has just started or ended.
func (s *settler) tellDependents(j *state.Job) {
	for _, id := range s.t.Dependents(j.ID, false, 0) {
		s.judge(id, j, func(d *fettlev1.Dependency) bool { return d.Index == nil && d.GetJobId() == j.ID })
	}
	if !j.IsElement() {
		return
	}
	for _, id := range s.t.Dependents(j.ArrayJobID, true, j.ArrayIndex) {
		s.judge(id, j, func(d *fettlev1.Dependency) bool {
			return d.Index != nil && d.GetJobId() == j.ArrayJobID && d.GetIndex() == j.ArrayIndex
		})
	}
}

// tellDropped does the same for the elements of an array that were cancelled before they had a row.
func (s *settler) tellDropped(array *state.Job) {
	for _, index := range s.t.DependedElements(array.ID) {
		if s.t.Element(array.ID, index) != nil {
			continue
		}
		dropped := &state.Job{State: model.Cancelled, ArrayJobID: array.ID, ArrayIndex: index}
		for _, id := range s.t.Dependents(array.ID, true, index) {
			s.judge(id, dropped, func(d *fettlev1.Dependency) bool {
				return d.Index != nil && d.GetJobId() == array.ID && d.GetIndex() == index
			})
		}
	}
}

// judge looks at those dependencies of a waiting job that are about another one.
func (s *settler) judge(id uint64, on *state.Job, about func(*fettlev1.Dependency) bool) {
	j := s.t.Job(id)
	if j == nil || j.State != model.Pending || len(j.WaitingFor) == 0 {
		return
	}
	anyOne := j.Spec.GetDependencyAny()
	left := make([]*fettlev1.Dependency, 0, len(j.WaitingFor))
	met, never := false, ""
	for _, d := range j.WaitingFor {
		fate := model.Open
		if d.GetKind() != model.Singleton && about(d) {
			fate = model.FateOf(d.GetKind(), on.State, on.HasStarted())
		}
		if bugDependencyReleasedByFailure && fate == model.Never {
			fate = model.Met
		}
		switch fate {
		case model.Open:
			left = append(left, d)
		case model.Met:
			met = true
		case model.Never:
			never = neverText(d, on)
		}
	}
	switch {
	case anyOne && met:
		s.waitFor(id, nil)
	case never != "" && (!anyOne || len(left) == 0):
		s.queue = append(s.queue, turnFrom(j, id))
		endUnstarted(s.t, id, fettlev1.Reason_REASON_DEPENDENCY_NEVER, never)
	case len(left) < len(j.WaitingFor):
		s.waitFor(id, left)
	}
}

// waitFor replaces what a job waits for, and lets it go when that is nothing.
func (s *settler) waitFor(id uint64, left []*fettlev1.Dependency) {
	j := s.t.EditJob(id)
	if j.WaitingFor = left; len(left) == 0 {
		j.WaitingFor = nil
		wait(j, s.t.NowMS())
	}
}

func isSingleton(d *fettlev1.Dependency) bool { return d.GetKind() == model.Singleton }

// letFirst lets go the first unfinished job of a name, if all that it waits for is to be the first.
func (s *settler) letFirst(k ownedName) {
	j := s.t.Job(s.t.FirstNamed(k.uid, k.name))
	if j == nil || j.State != model.Pending {
		return
	}
	s.dropSingleton(j)
	if !j.IsArray() {
		return
	}
	// Elements that were held or cancelled one by one wait as their array did.
	for _, id := range s.t.Elements(j.ID) {
		if e := s.t.Job(id); e != nil && e.State == model.Pending {
			s.dropSingleton(e)
		}
	}
}

func (s *settler) dropSingleton(j *state.Job) {
	if !slices.ContainsFunc(j.WaitingFor, isSingleton) {
		return
	}
	if j.Spec.GetDependencyAny() {
		s.waitFor(j.ID, nil)
		return
	}
	s.waitFor(j.ID, slices.DeleteFunc(slices.Clone(j.WaitingFor), isSingleton))
}
