package leader

import (
	"context"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	"github.com/fettle-hpc/fettle/plugins/preempt"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// asked remembers until when victims are not looked for again, unless a job comes that asks for them: a question without an
// answer is not put in every cycle.
type asked struct{ untilMS int64 }

// askAgain is how long that is, in milliseconds.
const askAgain = 5_000

// victims has the preemption policy pick who makes room for the blocked jobs that ask for it.
func (s *Scheduler) victims(ctx context.Context, snap *state.Snapshot, plan *sched.Plan, now int64) []*raftlogv1.Preemption {
	if plan.Ask == nil {
		return nil
	}
	s.asked.untilMS = now + askAgain
	answer := preempt.Select(plan.Ask)
	if s.cfg.Victims != nil {
		var err error
		if answer, _, err = s.cfg.Victims.Select(ctx, plan.Ask); err != nil {
			if ctx.Err() == nil {
				s.cfg.Logger.Error("no victims selected", "blocked", len(plan.Ask.Jobs), "err", err)
			}
			return nil
		}
	}
	chosen, err := s.feed.Planner().Preempt(plan, answer)
	if err != nil {
		s.cfg.Logger.Error("victims cannot be used", "blocked", len(plan.Ask.Jobs), "err", err)
		return nil
	}
	return Preemptions(snap, chosen)
}

// Preemptions turns what the planner made of an answer into what the log takes.
func Preemptions(snap *state.Snapshot, chosen []sched.Preemption) []*raftlogv1.Preemption {
	var list []*raftlogv1.Preemption
	for _, c := range chosen {
		j := snap.Job(c.Job)
		if j == nil {
			continue
		}
		p := &raftlogv1.Preemption{Beneficiary: c.Job, Nodes: sched.AskedFor(j.Spec, c.Allocs), Reason: model.OneLine(c.Reason, model.MaxDetail)}
		for _, v := range c.Victims {
			if row := snap.Job(v.Job); row != nil {
				p.Victims = append(p.Victims, &raftlogv1.Victim{JobId: v.Job, Attempt: row.Attempt, Mode: v.Mode.Proto(), LostGpuS: v.LostGPUS})
			}
		}
		if len(p.Victims) == len(c.Victims) && len(list) < model.MaxPreemptionsPerEntry {
			list = append(list, p)
		}
	}
	return list
}

// notePreemptions has the rows of all concerned read again, and says what the log refused.
func (s *Scheduler) notePreemptions(list []*raftlogv1.Preemption, outcomes []fsm.PreemptionOutcome, ch *changes) {
	for i, o := range outcomes {
		ch.again = append(ch.again, o.Beneficiary)
		if o.Err != nil {
			s.cfg.Logger.Warn("preemption rejected", "job", o.Beneficiary, "err", o.Err.Error())
			continue
		}
		s.cfg.Logger.Info("running jobs make room", "job", o.Beneficiary, "victims", len(list[i].GetVictims()), "reason", list[i].GetReason())
		for _, v := range list[i].GetVictims() {
			ch.again = append(ch.again, v.GetJobId())
		}
	}
}

// maxClaim is how long room is kept for a job that does not start, in milliseconds: beyond any victim's grace.
const maxClaim = 30 * 60_000

// staleClaims are the waiting jobs whose room is no longer worth keeping: a node of it takes nothing any more, or it has been
// kept for long.
func staleClaims(snap *state.Snapshot, now int64) []uint64 {
	var ids []uint64
	for j := range snap.Claims {
		stale := now-j.Claim.GetMadeMs() > maxClaim
		for _, a := range j.Claim.GetNodes() {
			n := snap.Node(a.GetNode())
			stale = stale || n == nil || !n.Usable()
		}
		if stale {
			ids = append(ids, j.ID)
		}
	}
	return ids
}
