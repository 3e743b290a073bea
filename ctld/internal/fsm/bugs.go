//go:build !fettlebugs

package fsm

// Faults that the simulation seeds to show that it would find them. In every ordinary build they are false constants and
// the compiler drops the code behind them.
const (
	bugDedupeSkipped               = false
	bugStaleCompletionApplied      = false
	bugGPUFreedOnUnreachable       = false
	bugPlanGPURecheckSkipped       = false
	bugTerminalNotAbsorbing        = false
	bugCancelIgnoredWhenDispatched = false
	bugGangHalfFreed               = false
	bugRequeueKeepsAttemptNumber   = false
	bugFenceNotChecked             = false
	bugClaimIgnored                = false
	bugLimitsAtSubmitOnly          = false
	bugDependencyReleasedByFailure = false
	bugElementTwice                = false
)
