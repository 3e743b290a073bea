package fsm

import (
	"fmt"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// verdict is what an attempt's end means for its job.
type verdict struct {
	// outcome is the attempt's, and the job's when it is over.
	outcome fettlev1.JobState
	reason  fettlev1.Reason
	detail  string
	// again puts the job back into the queue, not before retryAt.
	again   bool
	retryAt int64
	// keep leaves the job where it was in the queue.
	keep bool
	// failure counts against the job's retries; hold keeps it back for someone to look at.
	failure, hold bool
}

// conclude moves a job on whose attempt has ended on every node.
func conclude(t *state.Txn, id uint64) {
	now := t.NowMS()
	j := t.EditJob(id)
	a := t.EditAttempt(id)
	exit := decisive(j, a)
	v := judge(j, a, exit, now)

	a.EndMs, a.Outcome, a.Reason, a.Detail = now, v.outcome, v.reason, v.detail
	if v.failure {
		j.Failures++
	}
	j.StopGraceS = 0
	if !v.again {
		setState(j, v.outcome)
		j.EndMS, j.Reason, j.Detail = now, v.reason, v.detail
		j.ExitCode = exitCode(v.outcome, exit)
		j.RequeueRequested = false
		return
	}
	setState(j, model.Pending)
	j.RequeueRequested, j.EndReason, j.FirstBad = false, 0, 0
	eligible := j.EligibleMS
	j.StartMS, j.EndMS, j.ExitCode = 0, 0, 0
	j.RetryAtMS, j.Held = v.retryAt, v.hold
	wait(j, now)
	if v.keep && j.EligibleMS != 0 && eligible != 0 {
		j.EligibleMS = eligible
	}
	if j.Reason == fettlev1.Reason_REASON_UNSPECIFIED || v.hold {
		j.Reason = v.reason
	}
	j.Detail = v.detail
	if bugRequeueKeepsAttemptNumber {
		j.Attempt--
	}
}

// decisive returns the exit that tells how the attempt ended: the first bad one, else that of the first node.
func decisive(j *state.Job, a *fettlev1.Attempt) *fettlev1.Exit {
	rank := 0
	if j.FirstBad > 0 {
		rank = int(j.FirstBad) - 1
	}
	return a.GetNodes()[rank].GetExit()
}

// exitCode is what waiting for the job ends with: never 0 unless the job was completed.
func exitCode(outcome fettlev1.JobState, exit *fettlev1.Exit) int32 {
	if outcome == model.Completed {
		return 0
	}
	return max(model.WaitCode(exit), 1)
}

// judge decides what becomes of a job. What people asked for comes first, then the end itself.
func judge(j *state.Job, a *fettlev1.Attempt, exit *fettlev1.Exit, now int64) verdict {
	switch {
	case j.CancelRequested:
		return verdict{outcome: model.Cancelled, reason: j.EndReason}
	case preempted(j):
		return verdict{outcome: model.Preempted, reason: j.EndReason, detail: j.Detail, again: j.RequeueRequested, keep: true}
	case j.RequeueRequested:
		return verdict{outcome: model.Cancelled, reason: fettlev1.Reason_REASON_REQUEUED_BY_USER, again: true}
	case j.FirstBad == 0:
		return verdict{outcome: model.Completed}
	}
	v := verdict{outcome: model.Failed, reason: badReason(exit), detail: describe(j, a, exit)}
	switch {
	case exit.GetUserError():
	case exit.GetTimedOut():
		v.outcome = model.Timeout
	case oom(exit), overShare(exit):
		v.outcome = model.OutOfMemory
	case exit.GetNodeLost(), exit.GetLeaseExpired():
		v.outcome, v.again = model.NodeFail, !j.Spec.GetNoRequeue()
	case exit.GetNeverStarted():
		v.outcome, v.again = model.NodeFail, !j.Spec.GetNoRequeue()
		if len(a.GetNodes()) > 1 {
			v.reason = fettlev1.Reason_REASON_GANG_ABORTED
		}
		failed := failedLaunches(j) + 1
		v.retryAt = now + model.LaunchBackoffMS(failed)
		if v.again && holdFor(failed) {
			v.hold, v.retryAt, v.reason = true, 0, fettlev1.Reason_REASON_LAUNCH_FAILED
		}
	case exit.GetShimLost():
		v.again = !j.Spec.GetNoRequeue()
	case exit.GetClass() == fettlev1.ExitClass_EXIT_CLASS_TRANSIENT && !j.Spec.GetNoRequeue():
		v.failure = true
		if v.again = j.Failures+1 <= model.Retries(j.Spec); v.again {
			v.retryAt = now + model.BackoffMS(j.ID, j.Failures+1)
		} else if j.Failures > 0 {
			v.reason = fettlev1.Reason_REASON_RETRIES_EXHAUSTED
		}
	}
	return v
}

func oom(e *fettlev1.Exit) bool {
	return e.GetOomKilled() || e.GetClass() == fettlev1.ExitClass_EXIT_CLASS_OUT_OF_MEMORY
}

// overShare: the node ended it because it used more of a shared GPU's memory than it had asked for.
func overShare(e *fettlev1.Exit) bool {
	return e.GetClass() == fettlev1.ExitClass_EXIT_CLASS_VRAM_EXCEEDED
}

// failedLaunches counts the job's newest earlier attempts in a row that never started through no fault of the user.
func failedLaunches(j *state.Job) int {
	n := 0
	for i := len(j.Attempts) - 2; i >= 0; i-- {
		switch j.Attempts[i].GetReason() {
		case fettlev1.Reason_REASON_LAUNCH_FAILED, fettlev1.Reason_REASON_GANG_ABORTED:
			n++
		default:
			return n
		}
	}
	return n
}

// holdFor says whether a job's failed-th launch failure in a row is one too many: it is held at every
// JobLaunchFailureLimit of them, so a release gives it as many again, and always once its memory of attempts is full.
func holdFor(failed int) bool {
	return failed%model.JobLaunchFailureLimit == 0 || failed >= model.MaxAttemptsKept
}

// badReason is the reason for an end that was not clean.
func badReason(e *fettlev1.Exit) fettlev1.Reason {
	switch {
	case e.GetUserError():
		return fettlev1.Reason_REASON_PERMANENT_ERROR
	case e.GetTimedOut():
		return fettlev1.Reason_REASON_TIME_LIMIT
	case oom(e):
		return fettlev1.Reason_REASON_OUT_OF_MEMORY
	case overShare(e):
		return fettlev1.Reason_REASON_VRAM_EXCEEDED
	case e.GetNodeLost(), e.GetLeaseExpired():
		return fettlev1.Reason_REASON_NODE_LOST
	case e.GetNeverStarted():
		return fettlev1.Reason_REASON_LAUNCH_FAILED
	case e.GetShimLost():
		return fettlev1.Reason_REASON_SHIM_LOST
	case e.GetClass() == fettlev1.ExitClass_EXIT_CLASS_PERMANENT:
		return fettlev1.Reason_REASON_PERMANENT_ERROR
	case e.GetSignal() != 0:
		return fettlev1.Reason_REASON_SIGNALLED
	}
	return fettlev1.Reason_REASON_NON_ZERO_EXIT
}

// describe says in one line how an attempt ended badly.
func describe(j *state.Job, a *fettlev1.Attempt, e *fettlev1.Exit) string {
	text := e.GetDetail()
	switch {
	case text != "":
	case e.GetSignal() != 0:
		text = fmt.Sprintf("ended by signal %d", e.GetSignal())
	case e.GetNeverStarted():
		text = "could not be started"
	default:
		text = fmt.Sprintf("exit status %d", e.GetCode())
	}
	if len(a.GetNodes()) > 1 && j.FirstBad > 0 {
		text = a.GetNodes()[j.FirstBad-1].GetNode() + ": " + text
	}
	return model.OneLine(text, model.MaxDetail)
}
