package model

import (
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// WaitCode is the exit code that waiting for a job ends with: the process's own status, 128+signal when a signal ended
// it, 1 when it never ran or left no status. It is always 0 to 255; nil counts as no status.
func WaitCode(exit *fettlev1.Exit) int32 {
	switch {
	case exit == nil:
		return 1
	case exit.GetSignal() > 0 && exit.GetSignal() < 128:
		return 128 + exit.GetSignal()
	case exit.GetCode() < 0 || exit.GetCode() > 255:
		return 1
	}
	return exit.GetCode()
}

// Clean reports whether one node's part of an attempt ended as it should: the launcher says so, or, where no launcher
// judged it, the first process left with status 0 and nothing else was wrong.
func Clean(exit *fettlev1.Exit) bool {
	if exit == nil || exit.GetNeverStarted() || exit.GetOomKilled() || exit.GetTimedOut() ||
		exit.GetLeaseExpired() || exit.GetShimLost() || exit.GetNodeLost() || exit.GetUserError() {
		return false
	}
	switch exit.GetClass() {
	case fettlev1.ExitClass_EXIT_CLASS_DONE:
		return true
	case fettlev1.ExitClass_EXIT_CLASS_UNSPECIFIED:
		return exit.GetCode() == 0 && exit.GetSignal() == 0
	}
	return false
}

// HasExitStatus reports whether an ended job's exit code is that of a process: false for one that was cancelled while it
// waited, or whose last attempt never ran or was lost with its node. Its exit code then says only how waiting for it ends.
func HasExitStatus(j *fettlev1.Job) bool {
	n := len(j.GetAttempts())
	if n == 0 || !Terminal(j.GetState()) {
		return false
	}
	last := j.GetAttempts()[n-1]
	if last.GetOutcome() != j.GetState() || last.GetReason() == fettlev1.Reason_REASON_REQUEUED_BY_USER {
		return false
	}
	for _, p := range last.GetNodes() {
		if e := p.GetExit(); e != nil && !e.GetNeverStarted() && !e.GetNodeLost() {
			return true
		}
	}
	return false
}
