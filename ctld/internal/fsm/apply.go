package fsm

import (
	"fmt"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// apply carries out one entry in t. When the result has an Err, t is dropped.
func apply(t *state.Txn, e *raftlogv1.Entry) *Result {
	a := e.GetActor()
	switch op := e.GetOp().(type) {
	case *raftlogv1.Entry_Submit:
		return applySubmit(t, a, op.Submit)
	case *raftlogv1.Entry_Cancel:
		return applyActions(t, e, op.Cancel, verb{cancelJob, cancelArray, splitAlways})
	case *raftlogv1.Entry_Hold:
		return applyActions(t, e, op.Hold, verb{holdJob, holdArray, splitAlways})
	case *raftlogv1.Entry_Release:
		return applyActions(t, e, op.Release, verb{releaseJob, releaseArray, splitHeld})
	case *raftlogv1.Entry_Requeue:
		return applyActions(t, e, op.Requeue, verb{requeueJob, requeueArray, splitNever})
	case *raftlogv1.Entry_UpdateJob:
		return applyOnce(t, e, op.UpdateJob.GetRequestId(), op.UpdateJob, func() *model.FieldError { return updateJob(t, a, op.UpdateJob) })
	case *raftlogv1.Entry_Plan:
		return applyPlan(t, op.Plan)
	case *raftlogv1.Entry_Reports:
		return applyReports(t, op.Reports)
	case *raftlogv1.Entry_NodeHello:
		return nodeHello(t, op.NodeHello)
	case *raftlogv1.Entry_NodeState:
		return &Result{Err: setNodeState(t, op.NodeState)}
	case *raftlogv1.Entry_NodeInventory:
		return &Result{Err: setInventory(t, op.NodeInventory)}
	case *raftlogv1.Entry_UpdateNode:
		return applyOnce(t, e, op.UpdateNode.GetRequestId(), op.UpdateNode, func() *model.FieldError { return updateNode(t, a, op.UpdateNode) })
	case *raftlogv1.Entry_FenceNode:
		return &Result{Err: fenceNode(t, op.FenceNode)}
	case *raftlogv1.Entry_NewTerm:
		return &Result{Err: newTerm(t, op.NewTerm)}
	case *raftlogv1.Entry_HashCheckpoint:
		// Compared before the entry is applied; there is nothing to store.
		return &Result{}
	case *raftlogv1.Entry_ServerChange:
		return &Result{Err: changeServer(t, op.ServerChange)}
	case *raftlogv1.Entry_SetPolicy:
		return applyOnce(t, e, "", op.SetPolicy, func() *model.FieldError { return setPolicy(t, a, op.SetPolicy) })
	case *raftlogv1.Entry_SetReservation:
		return applyOnce(t, e, op.SetReservation.GetRequestId(), op.SetReservation, func() *model.FieldError { return setReservation(t, a, op.SetReservation) })
	case *raftlogv1.Entry_RemoveReservation:
		return applyOnce(t, e, op.RemoveReservation.GetRequestId(), op.RemoveReservation, func() *model.FieldError { return removeReservation(t, a, op.RemoveReservation) })
	case *raftlogv1.Entry_Purge:
		return purgeJobs(t, a, op.Purge.GetIds())
	case *raftlogv1.Entry_Expire:
		return expireJobs(t, a, op.Expire.GetIds())
	}
	// Decode lets no other operation through.
	panic(fmt.Sprintf("operation %T has no code", e.GetOp()))
}

// mayChange is the rule for jobs: their owner, admins, and the controller itself. An actor without a name is nobody, so
// that a missing identity is never taken for uid 0.
func mayChange(a *raftlogv1.Actor, j *state.Job) *model.FieldError {
	if a.GetAdmin() || a.GetSystem() || a.GetUser() != "" && a.GetUid() == j.UID {
		return nil
	}
	return &model.FieldError{Kind: model.Denied, Field: "job", Problem: fmt.Sprintf("%d belongs to another user", j.ID), Remedy: "ask its owner or an admin"}
}

// mayAdminister is the rule for nodes, policy and history.
func mayAdminister(a *raftlogv1.Actor) *model.FieldError {
	if a.GetAdmin() || a.GetSystem() {
		return nil
	}
	return &model.FieldError{Kind: model.Denied, Problem: "only admins may do that", Remedy: "ask an admin"}
}

func noJob(id uint64) *model.FieldError {
	return &model.FieldError{Kind: model.NotFound, Field: "job", Problem: fmt.Sprintf("%d does not exist", id), Remedy: "see fqueue for the jobs there are"}
}

func noNode(name string) *model.FieldError {
	return &model.FieldError{Kind: model.NotFound, Field: "node", Problem: fmt.Sprintf("%.64q does not exist", name), Remedy: "see finfo for the nodes there are"}
}

func conflict(field, format string, args ...any) *model.FieldError {
	return &model.FieldError{Kind: model.Conflict, Field: field, Problem: fmt.Sprintf(format, args...)}
}

// setState moves a private copy of a job along the one table. A move that the table does not know is a fault in this
// package: the panic drops the whole entry.
func setState(j *state.Job, to fettlev1.JobState) {
	if !model.CanMove(j.State, to) && !bugTerminalNotAbsorbing {
		panic(fmt.Sprintf("job %d may not move from %s to %s", j.ID, model.StateName(j.State), model.StateName(to)))
	}
	j.State = to
}
