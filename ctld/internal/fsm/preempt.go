package fsm

import (
	"fmt"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// dropClaims gives up the room that was made for these waiting jobs. Whoever had to make it is requeued all the same.
func dropClaims(t *state.Txn, ids []uint64) {
	for _, id := range ids {
		if j := t.Job(id); j != nil && j.Claim != nil {
			t.EditJob(id).Claim = nil
		}
	}
}

// preempt ends running jobs to make room for a waiting one, and keeps that room for it. The beneficiary must have asked for
// it and every victim's partition must allow it; together with what is free, the victims must be what it needs and no more.
func preempt(t *state.Txn, p *raftlogv1.Preemption) *model.FieldError {
	j := t.Job(p.GetBeneficiary())
	switch {
	case j == nil:
		return noJob(p.GetBeneficiary())
	case !j.Startable():
		return conflict("job", "%d does not wait for a start", j.ID)
	case !j.Spec.GetPreempt():
		return conflict("job", "%d did not ask to preempt", j.ID)
	case j.Claim != nil:
		return conflict("job", "%d has a claim already", j.ID)
	case len(p.GetVictims()) == 0:
		return conflict("victims", "none are named for job %d", j.ID)
	case len(p.GetVictims()) > model.MaxVictims:
		return tooMany("victims", len(p.GetVictims()), model.MaxVictims)
	}
	victims, err := checkVictims(t, j, p.GetVictims())
	if err != nil {
		return err
	}
	place := claimPlacement(j, p.GetNodes())
	if err := checkPlacement(t, place, freed(t, victims, nil)); err != nil {
		return err
	}
	if err, _ := checkRoom(t, place, victims); err != nil {
		return err
	}
	for _, v := range victims {
		if !holdsAny(v, p.GetNodes()) && checkPlacement(t, place, freed(t, victims, v)) == nil {
			return conflict("victims", "job %d makes no room that job %d needs", v.ID, j.ID)
		}
	}
	claim := &raftlogv1.Claim{Index: t.Index(), MadeMs: t.NowMS(), Nodes: p.GetNodes(), Victims: p.GetVictims()}
	for i, v := range victims {
		stopFor(t, v.ID, j, p.GetVictims()[i], p.GetReason())
	}
	t.EditJob(j.ID).Claim = claim
	t.NoteClaim(j.ID)
	return nil
}

// checkVictims returns the jobs to end, all of which may be ended for j.
func checkVictims(t *state.Txn, j *state.Job, vs []*raftlogv1.Victim) ([]*state.Job, *model.FieldError) {
	victims := make([]*state.Job, 0, len(vs))
	seen := make(map[uint64]bool, len(vs))
	for _, w := range vs {
		v := t.Job(w.GetJobId())
		switch {
		case v == nil:
			return nil, noJob(w.GetJobId())
		case seen[v.ID]:
			return nil, conflict("victims", "job %d is named twice", v.ID)
		case v.Attempt != w.GetAttempt():
			return nil, conflict("victims", "attempt %d of job %d is over, the newest is %d", w.GetAttempt(), v.ID, v.Attempt)
		}
		seen[v.ID] = true
		part := t.Partition(v.Spec.GetPartition())
		if err := state.Preemptible(part, v, t.NowMS()); err != nil {
			return nil, err
		}
		switch mode := model.PreemptModeOf(part.Partition); {
		case w.GetMode() != mode:
			return nil, conflict("mode", "of job %d is %s, that of its partition is %s", v.ID, w.GetMode(), mode)
		case !state.Outranks(part, j, v):
			return nil, conflict("priority", "%d of job %d is not enough above %d of job %d", j.Spec.GetPriority(), j.ID, v.Spec.GetPriority(), v.ID)
		case w.GetLostGpuS() < 0:
			return nil, conflict("lost_gpu_s", "of job %d is negative", v.ID)
		}
		victims = append(victims, v)
	}
	return victims, nil
}

// claimPlacement is the start that a claim is for.
func claimPlacement(j *state.Job, nodes []*fettlev1.NodeAllocation) *raftlogv1.Placement {
	p := &raftlogv1.Placement{JobId: j.ID, Attempt: j.Attempt + 1, Nodes: nodes}
	if j.IsArray() {
		p.Attempt = 1
		if left := j.Array.Left; len(left) > 0 {
			first := left[0].GetFirst()
			p.ArrayIndex = &first
		}
	}
	return p
}

// nodeView is how a placement sees nodes; nil sees them as they are.
type nodeView func(name string) *state.Node

// freed shows nodes as they will be without these jobs, but with the one that is kept.
func freed(t *state.Txn, jobs []*state.Job, keep *state.Job) nodeView {
	seen := make(map[string]*state.Node)
	return func(name string) *state.Node {
		if n, ok := seen[name]; ok {
			return n
		}
		n := t.Node(name)
		if n != nil {
			c := *n
			n = &c
			for _, v := range jobs {
				if v == keep {
					continue
				}
				for _, a := range v.Current().GetNodes() {
					if a.GetNode() == name && a.GetExit() == nil {
						n.Free(v.ID, v.Attempt, a)
					}
				}
			}
		}
		seen[name] = n
		return n
	}
}

// holdsAny reports whether the job holds one of the GPUs.
func holdsAny(v *state.Job, nodes []*fettlev1.NodeAllocation) bool {
	for _, a := range v.Current().GetNodes() {
		if a.GetExit() != nil {
			continue
		}
		for _, c := range nodes {
			if c.GetNode() != a.GetNode() {
				continue
			}
			for _, u := range a.GetGpuUuids() {
				if claimsGPU(c, u) {
					return true
				}
			}
		}
	}
	return false
}

// stopFor begins the end of a victim's attempt: TERM, the partition's grace, KILL, as for a requeue.
func stopFor(t *state.Txn, id uint64, j *state.Job, w *raftlogv1.Victim, why string) {
	v := t.EditJob(id)
	part := t.Partition(v.Spec.GetPartition())
	v.EndReason, v.Reason = fettlev1.Reason_REASON_PREEMPTED, fettlev1.Reason_REASON_PREEMPTED
	v.Detail = fmt.Sprintf("for job %d", j.ID)
	if why != "" {
		v.Detail = model.OneLine(v.Detail+": "+why, model.MaxDetail)
	}
	v.RequeueRequested = w.GetMode() != fettlev1.PreemptMode_PREEMPT_MODE_CANCEL
	v.StopGraceS = part.GetPreemptGraceS()
	v.PreemptedCount++
	beginEnd(v)
	a := t.EditAttempt(id)
	a.PreemptedBy = j.ID
	a.LostGpuS = min(w.GetLostGpuS(), state.LoadOf(v).GPUMilli*(t.NowMS()-v.StartMS)/1_000_000)
}

// preempted reports whether the attempt is ended to make room for another job, and nobody has asked for anything else since.
func preempted(j *state.Job) bool {
	return j.EndReason == fettlev1.Reason_REASON_PREEMPTED && !j.CancelRequested
}
