package fsm

import (
	"fmt"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// split gives an element of an array that has no row yet its own, which waits as the array's does.
func split(t *state.Txn, array uint64, index uint32) *state.Job {
	a := t.EditArray(array)
	if !bugElementTwice {
		a.Left = model.ArrayWithout(a.Left, index)
	}
	j := *t.Job(array)
	j.ID, j.Array, j.ArrayJobID, j.ArrayIndex = 0, nil, array, index
	j.Claim, j.PreemptedCount = nil, 0
	j.CancelRequested = false
	j.RequestID, j.EndReason, j.StartMS, j.EndMS, j.ExitCode = "", 0, 0, 0, 0
	t.AddElement(&j)
	return &j
}

// splitAlways, splitHeld and splitNever say for which elements without a row an action has something to do.
func splitAlways(*state.Job, uint32) (bool, *model.FieldError)       { return false, nil }
func splitHeld(array *state.Job, _ uint32) (bool, *model.FieldError) { return !array.Held, nil }
func splitNever(array *state.Job, index uint32) (bool, *model.FieldError) {
	return false, conflict("job", "%s is waiting already", gres.FormatElement(array.ID, index))
}

// element finds one element of an array. row is nil when it has none yet.
func element(t *state.Txn, array uint64, index uint32) (row *state.Job, err *model.FieldError) {
	j := t.Job(array)
	name := gres.FormatElement(array, index)
	switch {
	case j == nil:
		return nil, noJob(array)
	case !j.IsArray():
		return nil, &model.FieldError{Field: "job", Problem: fmt.Sprintf("%d is not an array, so there is no %s", array, name), Remedy: fmt.Sprintf("name %d", array)}
	case !model.ArrayHas(j.Spec.GetArray().GetRanges(), index):
		return nil, &model.FieldError{Kind: model.NotFound, Field: "job", Problem: name + " does not exist", Remedy: "the array has " + gres.FormatRanges(model.GresRanges(j.Spec.GetArray().GetRanges()))}
	}
	if row = t.Element(array, index); row == nil && !model.ArrayHas(j.Array.Left, index) {
		return nil, &model.FieldError{Kind: model.NotFound, Field: "job", Problem: name + " is no longer on record"}
	}
	return row, nil
}

// cancelArray cancels every element that is not over, or only those without a row.
func cancelArray(t *state.Txn, a *raftlogv1.Actor, j *state.Job, unstarted bool) *model.FieldError {
	if j.Finished() || j.CancelRequested {
		return cancelJob(t, a, j)
	}
	reason := cancelReason(a, j)
	dropLeft(t, j.ID, reason)
	if unstarted {
		return nil
	}
	row := t.EditJob(j.ID)
	row.CancelRequested, row.EndReason = true, reason
	for _, id := range t.Elements(j.ID) {
		if e := t.Job(id); e != nil && !e.Finished() {
			if err := cancelJob(t, a, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// holdArray holds every element that waits, or only those without a row.
func holdArray(t *state.Txn, a *raftlogv1.Actor, j *state.Job, unstarted bool) *model.FieldError {
	if j.Finished() {
		return alreadyEnded(j, "")
	}
	waiting := j.Array.Left != nil
	if waiting {
		if err := holdJob(t, a, j); err != nil {
			return err
		}
	}
	if !unstarted {
		for _, id := range t.Elements(j.ID) {
			if e := t.Job(id); e != nil && e.State == model.Pending {
				waiting = true
				if err := holdJob(t, a, e); err != nil {
					return err
				}
			}
		}
	}
	if !waiting {
		return &model.FieldError{Kind: model.Conflict, Field: "job", Problem: fmt.Sprintf("all elements of %d have started and cannot be held", j.ID), Remedy: "requeue them first, or cancel them"}
	}
	return nil
}

// releaseArray releases every element that is held, or only those without a row.
func releaseArray(t *state.Txn, a *raftlogv1.Actor, j *state.Job, unstarted bool) *model.FieldError {
	if err := releaseJob(t, a, j); err != nil || unstarted {
		return err
	}
	for _, id := range t.Elements(j.ID) {
		if e := t.Job(id); e != nil && e.State == model.Pending {
			if err := releaseJob(t, a, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// requeueArray requeues every element that holds resources.
func requeueArray(t *state.Txn, a *raftlogv1.Actor, j *state.Job, unstarted bool) *model.FieldError {
	if j.Finished() {
		return alreadyEnded(j, "submit it again")
	}
	done := false
	for _, id := range t.Elements(j.ID) {
		if e := t.Job(id); !unstarted && e != nil && e.Active() && !e.CancelRequested {
			done = true
			if err := requeueJob(t, a, e); err != nil {
				return err
			}
		}
	}
	if !done {
		return conflict("job", "no element of %d is running", j.ID)
	}
	return nil
}

// checkElement refuses a placement that the array does not allow. It returns the row that the placement is for, which is
// still the array's own when its element has none, and whether the element is to get one.
func checkElement(t *state.Txn, j *state.Job, p *raftlogv1.Placement) *model.FieldError {
	array := j.ArrayJobID
	switch {
	case p.ArrayIndex == nil && j.IsArray():
		return conflict("job", "%d is an array, and no element is named", j.ID)
	case p.ArrayIndex == nil && !j.IsElement():
		return nil
	case p.ArrayIndex != nil:
		if array = j.ID; !j.IsArray() || !model.ArrayHas(j.Array.Left, p.GetArrayIndex()) {
			return conflict("job", "%s does not wait for its first start", gres.FormatElement(j.ID, p.GetArrayIndex()))
		}
	}
	if room, limited := t.ArrayRoom(array); limited && room == 0 {
		return conflict("array", "as many elements of %d run as may", array)
	}
	return nil
}

// checkDue refuses a start that comes too late for the job's deadline.
func checkDue(now int64, j *state.Job) *model.FieldError {
	if at, ok := model.LatestStartMS(j.Spec); ok && now > at {
		return conflict("deadline", "of job %d can no longer be met", j.ID)
	}
	return nil
}

// deadlineFits refuses a deadline that cannot be met by starting at once.
func deadlineFits(now int64, s *fettlev1.JobSpec) *model.FieldError {
	at, ok := model.LatestStartMS(s)
	switch {
	case !ok || at >= max(now, s.GetBeginMs()):
		return nil
	case s.GetDeadlineMs() <= now:
		return &model.FieldError{Field: "deadline", Problem: "has passed", Remedy: "use a later one"}
	}
	return &model.FieldError{Field: "deadline", Problem: fmt.Sprintf("is too near for the time limit of %d s", s.GetTimeLimitS()), Remedy: "use a later deadline or a shorter limit"}
}

// expireJobs ends waiting jobs that cannot meet their deadline any more, on the leader's word and the log's clock.
func expireJobs(t *state.Txn, a *raftlogv1.Actor, ids []uint64) *Result {
	if err := mayAdminister(a); err != nil {
		return &Result{Err: err}
	}
	if err := checkIDs(ids, model.MaxIDsPerEntry); err != nil {
		return &Result{Err: err}
	}
	r := &Result{Actions: make([]ActionOutcome, 0, len(ids))}
	for _, id := range ids {
		r.Actions = append(r.Actions, ActionOutcome{JobID: id, Err: expireJob(t, id)})
	}
	return r
}

func expireJob(t *state.Txn, id uint64) *model.FieldError {
	j := t.Job(id)
	if j == nil {
		return noJob(id)
	}
	now := t.NowMS()
	switch due := checkDue(now, j); {
	case j.State != model.Pending || j.IsArray() && j.Array.Left == nil:
		return conflict("job", "%d does not wait any more", id)
	case due == nil:
		return conflict("deadline", "of job %d can still be met", id)
	}
	detail := fmt.Sprintf("its deadline is too near for its time limit of %d s", j.Spec.GetTimeLimitS())
	if now > j.Spec.GetDeadlineMs() {
		detail = "its deadline passed before it could start"
	}
	endUnstarted(t, id, fettlev1.Reason_REASON_DEADLINE, detail)
	return nil
}
