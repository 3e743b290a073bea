package dst

import (
	"slices"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// scope is something with limits, as the policy's text names it.
type scope struct {
	kind fettlev1.ScopeKind
	name string
}

type holding struct{ gpus, jobs int }

// scopesOf tells from the policy's text what a job counts for.
func scopesOf(p *fettlev1.ClusterPolicy, j *state.Job) []scope {
	out := []scope{{state.ScopePartition, j.Spec.GetPartition()}, {state.ScopeUser, j.User}}
	for name := j.Account(); name != ""; {
		out = append(out, scope{state.ScopeProject, name})
		i := slices.IndexFunc(p.GetProjects(), func(q *fettlev1.Project) bool { return q.GetName() == name })
		if i < 0 {
			break
		}
		name = p.GetProjects()[i].GetParent()
	}
	return out
}

func limitsOf(p *fettlev1.ClusterPolicy, s scope) *fettlev1.Limits {
	for _, x := range p.GetPartitions() {
		if s == (scope{state.ScopePartition, x.GetName()}) {
			return x.GetLimits()
		}
	}
	for _, x := range p.GetProjects() {
		if s == (scope{state.ScopeProject, x.GetName()}) {
			return x.GetLimits()
		}
	}
	for _, x := range p.GetUsers() {
		if s.kind == state.ScopeUser && (x.GetUser() == s.name || x.GetUser() == model.Everyone) {
			return x.GetLimits()
		}
	}
	return nil
}

// holdings counts what active jobs hold, by the policy p.
func holdings(p *fettlev1.ClusterPolicy, snap *state.Snapshot) map[scope]holding {
	out := map[scope]holding{}
	for j := range snap.Active {
		gpus := 0
		for _, a := range j.Current().GetNodes() {
			if a.GetExit() == nil {
				gpus += len(a.GetGpuUuids())
			}
		}
		for _, s := range scopesOf(p, j) {
			h := out[s]
			out[s] = holding{h.gpus + gpus, h.jobs + 1}
		}
	}
	return out
}

// checkTenancy holds limits, claims and the rules of preemption against the jobs that an entry changed.
func (s *sim) checkTenancy(before, after *state.Snapshot, jobs []uint64) {
	p := after.Policy()
	was, is := holdings(p, before), holdings(p, after)
	for sc, now := range is {
		l := limitsOf(p, sc)
		if m := int(l.GetMaxGpus()); m > 0 && now.gpus > m && now.gpus > was[sc].gpus {
			s.fail("I4: %s %s holds %d GPUs, its limit is %d", sc.kind, sc.name, now.gpus, m)
		}
		if m := int(l.GetMaxJobsRunning()); m > 0 && now.jobs > m && now.jobs > was[sc].jobs {
			s.fail("I4: %s %s runs %d jobs, its limit is %d", sc.kind, sc.name, now.jobs, m)
		}
	}
	for _, id := range jobs {
		old, j := before.Job(id), after.Job(id)
		if j == nil {
			continue
		}
		if j.Active() && (old == nil || j.Attempt > old.Attempt) {
			s.checkClaims(after, j)
		}
		if old != nil {
			s.checkVictim(after, old, j)
		}
	}
}

// checkClaims wants nothing that is kept for another job among what a job was just given.
func (s *sim) checkClaims(after *state.Snapshot, j *state.Job) {
	for o := range after.Claims {
		for _, c := range o.Claim.GetNodes() {
			for _, a := range j.Current().GetNodes() {
				if a.GetNode() == c.GetNode() && slices.ContainsFunc(a.GetGpuUuids(), func(u string) bool { return slices.Contains(c.GetGpuUuids(), u) }) {
					s.fail("I4: job %d is given GPUs on %s that are kept for job %d", j.ID, a.GetNode(), o.ID)
				}
			}
		}
	}
}

// checkVictim wants both permissions, and every rule of the partition, for a job that is ended for another; and its place in
// the queue for it once it is back.
func (s *sim) checkVictim(after *state.Snapshot, old, j *state.Job) {
	if !old.Active() {
		return
	}
	was, is := old.Current().GetPreemptedBy(), j.Current().GetPreemptedBy()
	if was != 0 && j.State == model.Pending && j.Current().GetOutcome() == model.Preempted && !j.Held && j.EligibleMS != old.EligibleMS {
		s.fail("job %d lost its place in the queue when it was preempted", j.ID)
	}
	if was != 0 || is == 0 {
		return
	}
	s.stats.Preempted++
	s.stopped[j.ID]++
	by, part := after.Job(is), after.Partition(j.Spec.GetPartition())
	switch {
	case part.GetPreempt() <= fettlev1.PreemptMode_PREEMPT_MODE_OFF:
		s.fail("job %d is preempted although its partition does not allow it", j.ID)
	case by == nil || !by.Spec.GetPreempt():
		s.fail("job %d is preempted for job %d, which did not ask for it", j.ID, is)
	case s.stopped[j.ID] > part.GetPreemptBudget():
		s.fail("job %d is preempted for the %d. time, its budget is %d", j.ID, s.stopped[j.ID], part.GetPreemptBudget())
	case old.State != model.Running || after.NowMS()-old.StartMS < part.GetMinRunS()*1000:
		s.fail("job %d is preempted as %s after %d ms", j.ID, model.StateName(old.State), after.NowMS()-old.StartMS)
	case j.Spec.GetNoPreemptible() && part.GetAllowNoPreemptible():
		s.fail("job %d is preempted against its wish", j.ID)
	case j.Spec.GetNoRequeue() && part.GetPreempt() != fettlev1.PreemptMode_PREEMPT_MODE_CANCEL:
		s.fail("job %d is preempted to be requeued, which it must not be", j.ID)
	case part.GetPriorityGap() > 0 && j.Spec.GetPriority() < by.Spec.GetPriority()+part.GetPriorityGap():
		s.fail("job %d of priority %d is preempted for one of %d", j.ID, j.Spec.GetPriority(), by.Spec.GetPriority())
	}
}
