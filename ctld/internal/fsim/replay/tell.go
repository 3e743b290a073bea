package replay

import (
	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	"github.com/fettle-hpc/fettle/plugins/policy"
)

// policyJob is what the policy is told of a job.
func (e *engine) policyJob(j *job) policy.Job {
	p := policy.Job{
		ID: id(j.at), Priority: j.Priority, EligibleMS: ms(j.SubmitS), Size: uint32(j.GPUs), TimeLimitS: j.LimitS, User: j.User,
		Project: j.Project(), Partition: partition, EstimateS: j.estimateS, RunS: j.workedS(e.now), Running: j.running, Account: j.account.shares,
	}
	if j.running && j.predictedS > e.now && e.cfg.Progress >= 0 {
		p.RemainingS = j.predictedS - e.now
	}
	return p
}

// plannerJob is what the planner is told of a waiting job.
func (e *engine) plannerJob(j *job) sched.Job {
	return sched.Job{
		ID: id(j.at), Score: j.score, Needs: j.needs, User: j.User, Project: j.Project(), Priority: j.Priority,
		SubmitMS: ms(j.SubmitS), EligibleMS: ms(j.SubmitS), LimitS: e.limitS(j), EstimateS: j.estimateS, SafeS: j.safeS,
		Preempt: e.cfg.Preemption != nil, NoPreemptible: !j.soft, Claim: j.claim,
	}
}

// limitS is what the job's limit leaves of its next run; 0 without a limit.
func (e *engine) limitS(j *job) int64 {
	if j.LimitS == 0 {
		return 0
	}
	return max(j.LimitS-j.doneS, 1) + j.owedS
}

// plannerRunning is what the planner is told of a running job.
func (e *engine) plannerRunning(j *job) sched.Running {
	r := sched.Running{
		ID: id(j.at), Allocs: j.allocs, User: j.User, Project: j.Project(), Partition: partition, Priority: j.Priority, Score: j.score,
		StartMS: ms(j.startS), LimitS: e.limitS(j), Fixed: !j.soft, Preempted: j.preempted,
	}
	if e.cfg.Preemption != nil {
		e.cfg.Preemption.describe(&r, j, e.now)
	}
	if j.predictedS > 0 {
		r.PredictedEndMS = ms(j.predictedS)
	}
	if r.LimitS > 0 && j.startS+r.LimitS < j.endS {
		// It will outlive its limit: that ends nothing, and is no more than a prediction that turns out wrong.
		r.PredictedEndMS = ms(j.startS + r.LimitS)
		if j.predictedS > 0 {
			r.PredictedEndMS = min(r.PredictedEndMS, ms(j.predictedS))
		}
		r.LimitS = 0
	}
	return r
}
