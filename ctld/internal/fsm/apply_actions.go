package fsm

import (
	"fmt"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// action changes one job, given as a row to read. nil means done, or nothing to do.
type action func(t *state.Txn, a *raftlogv1.Actor, j *state.Job) *model.FieldError

// verb is what a request does to jobs: to one, and to an array (or only to its elements without a row).
type verb struct {
	one   action
	array func(t *state.Txn, a *raftlogv1.Actor, j *state.Job, unstarted bool) *model.FieldError
	// lone says whether there is nothing to do for an element without a row, or why it cannot be done.
	lone func(array *state.Job, index uint32) (done bool, err *model.FieldError)
}

// named are the jobs that a request names.
type named interface {
	GetIds() []uint64
	GetElements() []*raftlogv1.ArrayElement
	GetUnstarted() []uint64
}

// target is one thing that a request names: a job with all that belongs to it, one element of an array, or an array's
// elements without a row.
type target struct {
	id        uint64
	element   bool
	index     uint32
	unstarted bool
}

func targetsOf(op named) []target {
	all := make([]target, 0, len(op.GetIds())+len(op.GetElements())+len(op.GetUnstarted()))
	for _, id := range op.GetIds() {
		all = append(all, target{id: id})
	}
	for _, e := range op.GetElements() {
		all = append(all, target{id: e.GetJobId(), element: true, index: e.GetIndex()})
	}
	for _, id := range op.GetUnstarted() {
		all = append(all, target{id: id, unstarted: true})
	}
	return all
}

// applyActions carries out an action on each of the jobs. A request id makes it happen once for each job: whoever repeats
// the request, with the same jobs or with others as a selector finds them now, gets the first answer for those that were
// answered before.
func applyActions(t *state.Txn, e *raftlogv1.Entry, op named, do verb) *Result {
	targets := targetsOf(op)
	if err := checkCount(len(targets), model.MaxIDsPerEntry); err != nil {
		return &Result{Err: err}
	}
	mem, err := recall(t, e, e.GetRequestId(), nil)
	if err != nil {
		return &Result{Err: err}
	}
	r := &Result{Actions: make([]ActionOutcome, 0, len(targets)), Duplicate: mem.known()}
	for _, g := range targets {
		out, known := mem.answer(g)
		if !known {
			r.Duplicate = false
			out = g.outcome(act(t, e.GetActor(), g, do))
			mem.note(g, out.Err)
		}
		r.Actions = append(r.Actions, out)
	}
	mem.remember(t)
	return r
}

func (g target) outcome(err *model.FieldError) ActionOutcome {
	return ActionOutcome{JobID: g.id, Element: g.element, Index: g.index, Err: err}
}

// act carries out an action on one target. An element without a row gets one when it is dealt with by itself.
func act(t *state.Txn, a *raftlogv1.Actor, g target, do verb) *model.FieldError {
	j := t.Job(g.id)
	if j == nil {
		return noJob(g.id)
	}
	if err := mayChange(a, j); err != nil {
		return err
	}
	switch {
	case g.element:
		row, err := element(t, g.id, g.index)
		if err != nil {
			return err
		}
		if row == nil {
			if done, err := do.lone(j, g.index); done || err != nil {
				return err
			}
			row = split(t, g.id, g.index)
		}
		return do.one(t, a, row)
	case j.IsArray():
		return do.array(t, a, j, g.unstarted)
	case g.unstarted:
		return conflict("job", "%d is not an array", g.id)
	}
	return do.one(t, a, j)
}

func checkIDs(ids []uint64, limit int) *model.FieldError { return checkCount(len(ids), limit) }

func checkCount(n, limit int) *model.FieldError {
	switch {
	case n == 0:
		return &model.FieldError{Field: "jobs", Problem: "no job is named", Remedy: "name at least one"}
	case n > limit:
		return tooMany("jobs", n, limit)
	}
	return nil
}

func alreadyEnded(j *state.Job, remedy string) *model.FieldError {
	return &model.FieldError{Kind: model.Conflict, Field: "job", Problem: fmt.Sprintf("%d has already ended (%s)", j.ID, model.StateName(j.State)), Remedy: remedy}
}

func cancelReason(a *raftlogv1.Actor, j *state.Job) fettlev1.Reason {
	if a.GetUid() != j.UID || a.GetUser() == "" {
		return fettlev1.Reason_REASON_CANCELLED_BY_ADMIN
	}
	return fettlev1.Reason_REASON_CANCELLED_BY_USER
}

// cancelJob ends a waiting job at once and asks for the end of an active one, which evidence completes.
func cancelJob(t *state.Txn, a *raftlogv1.Actor, j *state.Job) *model.FieldError {
	reason := cancelReason(a, j)
	switch {
	case j.State == model.Cancelled, j.CancelRequested:
		return nil
	case j.Finished():
		return alreadyEnded(j, "")
	case j.State == model.Pending:
		j = t.EditJob(j.ID)
		setState(j, model.Cancelled)
		j.CancelRequested, j.Held, j.HeldByAdmin = true, false, false
		j.Reason, j.Detail, j.EndReason, j.EndMS, j.ExitCode = reason, "", reason, t.NowMS(), 1
		return nil
	case j.State == model.Dispatching && bugCancelIgnoredWhenDispatched:
		return nil
	}
	j = t.EditJob(j.ID)
	j.CancelRequested, j.EndReason, j.Reason = true, reason, reason
	beginEnd(j)
	return nil
}

// beginEnd marks an active job as being ended. FENCING says more than COMPLETING and stays.
func beginEnd(j *state.Job) {
	if j.State != model.Completing && j.State != model.Fencing {
		setState(j, model.Completing)
	}
}

// holdJob keeps a waiting job from starting. An admin's hold on another's job can only be released by an admin.
func holdJob(t *state.Txn, a *raftlogv1.Actor, j *state.Job) *model.FieldError {
	byAdmin := a.GetAdmin() && a.GetUid() != j.UID
	switch {
	case j.Finished():
		return alreadyEnded(j, "")
	case j.State != model.Pending:
		return &model.FieldError{Kind: model.Conflict, Field: "job", Problem: fmt.Sprintf("%d is %s and cannot be held", j.ID, model.StateName(j.State)),
			Remedy: "hold works on waiting jobs; requeue it first, or cancel it"}
	case j.Held && (j.HeldByAdmin || !byAdmin):
		return nil
	}
	j = t.EditJob(j.ID)
	j.Held, j.HeldByAdmin = true, byAdmin
	wait(j, t.NowMS())
	return nil
}

func releaseJob(t *state.Txn, a *raftlogv1.Actor, j *state.Job) *model.FieldError {
	switch {
	case j.Finished():
		return alreadyEnded(j, "")
	case j.State != model.Pending:
		return conflict("job", "%d is %s, not held", j.ID, model.StateName(j.State))
	case !j.Held:
		return nil
	case j.HeldByAdmin && !a.GetAdmin() && !a.GetSystem():
		return &model.FieldError{Kind: model.Denied, Field: "job", Problem: fmt.Sprintf("%d is held by an admin", j.ID), Remedy: "ask an admin to release it"}
	}
	j = t.EditJob(j.ID)
	j.Held, j.HeldByAdmin, j.Detail = false, false, ""
	wait(j, t.NowMS())
	return nil
}

// requeueJob ends an active job's attempt and puts the job back into the queue. Terminal is terminal.
func requeueJob(t *state.Txn, _ *raftlogv1.Actor, j *state.Job) *model.FieldError {
	switch {
	case j.Finished() && bugTerminalNotAbsorbing:
		j = t.EditJob(j.ID)
		setState(j, model.Pending)
		j.CancelRequested = false
		wait(j, t.NowMS())
		return nil
	case j.Finished():
		return alreadyEnded(j, "submit it again")
	case j.State == model.Pending:
		return conflict("job", "%d is waiting already", j.ID)
	case j.CancelRequested:
		return conflict("job", "%d is being cancelled", j.ID)
	case j.RequeueRequested:
		return nil
	}
	j = t.EditJob(j.ID)
	j.RequeueRequested = true
	j.EndReason = fettlev1.Reason_REASON_REQUEUED_BY_USER
	j.Reason = j.EndReason
	beginEnd(j)
	return nil
}

// purgeJobs forgets finished jobs. Their idempotency keys are remembered with the other requests.
func purgeJobs(t *state.Txn, a *raftlogv1.Actor, ids []uint64) *Result {
	if err := mayAdminister(a); err != nil {
		return &Result{Err: err}
	}
	if err := checkIDs(ids, model.MaxPurgePerEntry); err != nil {
		return &Result{Err: err}
	}
	r := &Result{Actions: make([]ActionOutcome, 0, len(ids))}
	for _, id := range ids {
		out := ActionOutcome{JobID: id}
		switch j := t.Job(id); {
		case j == nil:
			out.Err = noJob(id)
		case !j.Finished():
			out.Err = &model.FieldError{Kind: model.Conflict, Field: "job", Problem: fmt.Sprintf("%d is %s", id, model.StateName(j.State)), Remedy: "only finished jobs can be purged"}
		default:
			if !j.IsElement() {
				t.Remember(&state.Request{UID: j.UID, ID: j.RequestID, Hash: j.SubmitHash, JobID: j.ID})
			}
			t.RemoveJob(id)
		}
		r.Actions = append(r.Actions, out)
	}
	return r
}
