//go:build fettlebugs

package fsm

import (
	"fmt"
	"slices"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

var (
	bugDedupeSkipped               bool
	bugStaleCompletionApplied      bool
	bugGPUFreedOnUnreachable       bool
	bugPlanGPURecheckSkipped       bool
	bugTerminalNotAbsorbing        bool
	bugCancelIgnoredWhenDispatched bool
	bugGangHalfFreed               bool
	bugRequeueKeepsAttemptNumber   bool
	bugFenceNotChecked             bool
	bugClaimIgnored                bool
	bugLimitsAtSubmitOnly          bool
	bugDependencyReleasedByFailure bool
	bugElementTwice                bool
)

var bugs = map[string]*bool{
	// A repeated request id makes a second job.
	"dedupe_skipped": &bugDedupeSkipped,
	// A report is taken for the job's present attempt whatever attempt it names.
	"stale_completion_applied": &bugStaleCompletionApplied,
	// A node that cannot be reached gives its resources back at once.
	"gpu_freed_on_unreachable": &bugGPUFreedOnUnreachable,
	// A plan may give away a GPU that is held.
	"plan_gpu_recheck_skipped": &bugPlanGPURecheckSkipped,
	// A finished job can be requeued.
	"terminal_not_absorbing": &bugTerminalNotAbsorbing,
	// A cancel of a job that is being dispatched is answered and forgotten.
	"cancel_ignored_when_dispatching": &bugCancelIgnoredWhenDispatched,
	// The first end in a gang frees the whole gang's resources.
	"gang_half_freed": &bugGangHalfFreed,
	// A requeued job's next attempt has the number of the last.
	"requeue_keeps_attempt_number": &bugRequeueKeepsAttemptNumber,
	// Reports and fencing are believed whatever fence or session they carry.
	"fence_not_checked": &bugFenceNotChecked,
	// A plan may give away what a waiting job claims.
	"claim_ignored": &bugClaimIgnored,
	// Limits are not held against starts.
	"limits_at_submit_only": &bugLimitsAtSubmitOnly,
	// A job is preempted however often it was before.
	"preempt_budget_ignored": state.BugBudgetIgnored(),
	// A job that waits for another to complete is let go when that fails.
	"dependency_released_by_failure": &bugDependencyReleasedByFailure,
	// An array's element that gets a row of its own stays among those that have none.
	"element_twice": &bugElementTwice,
}

// SetBug switches on the named fault and all others off; "" switches all off. Not for concurrent use.
func SetBug(name string) {
	for _, b := range bugs {
		*b = false
	}
	if name == "" {
		return
	}
	b, ok := bugs[name]
	if !ok {
		panic(fmt.Sprintf("no seeded bug is called %q, only %v", name, Bugs()))
	}
	*b = true
}

// Bugs names all faults that SetBug knows.
func Bugs() []string {
	var names []string
	for n := range bugs {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
