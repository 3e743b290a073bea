//go:build fettlebugs

package fsm

import (
	"fmt"
	"slices"
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
