package model

import (
	"strings"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Short names for the states, used by the table below and by other packages.
const (
	Unspecified = fettlev1.JobState_JOB_STATE_UNSPECIFIED
	Pending     = fettlev1.JobState_JOB_STATE_PENDING
	Dispatching = fettlev1.JobState_JOB_STATE_DISPATCHING
	Running     = fettlev1.JobState_JOB_STATE_RUNNING
	Completing  = fettlev1.JobState_JOB_STATE_COMPLETING
	Fencing     = fettlev1.JobState_JOB_STATE_FENCING
	Suspended   = fettlev1.JobState_JOB_STATE_SUSPENDED
	Completed   = fettlev1.JobState_JOB_STATE_COMPLETED
	Failed      = fettlev1.JobState_JOB_STATE_FAILED
	Cancelled   = fettlev1.JobState_JOB_STATE_CANCELLED
	Timeout     = fettlev1.JobState_JOB_STATE_TIMEOUT
	OutOfMemory = fettlev1.JobState_JOB_STATE_OUT_OF_MEMORY
	NodeFail    = fettlev1.JobState_JOB_STATE_NODE_FAIL
	Preempted   = fettlev1.JobState_JOB_STATE_PREEMPTED
)

const numStates = int(Preempted) + 1

// set is a set of job states.
type set uint32

func of(states ...fettlev1.JobState) set {
	var m set
	for _, s := range states {
		m |= 1 << s
	}
	return m
}

func (m set) has(s fettlev1.JobState) bool {
	return s >= 0 && int(s) < numStates && m&(1<<s) != 0
}

var (
	terminal = of(Completed, Failed, Cancelled, Timeout, OutOfMemory, NodeFail, Preempted)
	holding  = of(Dispatching, Running, Completing, Fencing, Suspended)
)

// moves is the one table of legal changes, seen from one committed log entry to the next. An entry may carry several
// reports, so a state may be passed through unseen: a job whose start and end arrive together goes from DISPATCHING
// straight to its end. Everything that ends an attempt may also put the job back into the queue.
var moves = [numStates]set{
	Unspecified: of(Pending),
	Pending:     of(Dispatching, Cancelled),
	Dispatching: of(Running, Completing, Fencing, Pending) | terminal,
	Running:     of(Completing, Fencing, Suspended, Pending) | terminal,
	Suspended:   of(Running, Completing, Fencing, Pending) | terminal,
	Completing:  of(Fencing, Pending) | terminal,
	Fencing:     of(Pending) | terminal,
}

// Terminal reports whether a job in state s is over for good.
func Terminal(s fettlev1.JobState) bool { return terminal.has(s) }

// HoldsResources reports whether a job in state s has an attempt that may hold resources on nodes.
func HoldsResources(s fettlev1.JobState) bool { return holding.has(s) }

// CanMove reports whether a job may go from one state to another. A state never moves to itself, terminal states
// never move at all, and a new job comes from UNSPECIFIED.
func CanMove(from, to fettlev1.JobState) bool {
	return from >= 0 && int(from) < numStates && moves[from].has(to)
}

// CanMoveArray is CanMove for an array's own row, which never runs itself: it waits until all of its elements are over.
func CanMoveArray(from, to fettlev1.JobState) bool {
	return from == Unspecified && to == Pending || from == Pending && of(Completed, Failed, Cancelled).has(to)
}

var codes = [numStates]string{
	Unspecified: "?",
	Pending:     "PD",
	Dispatching: "DI",
	Running:     "R",
	Completing:  "CG",
	Fencing:     "FE",
	Suspended:   "S",
	Completed:   "CD",
	Failed:      "F",
	Cancelled:   "CA",
	Timeout:     "TO",
	OutOfMemory: "OOM",
	NodeFail:    "NF",
	Preempted:   "PR",
}

// Code returns the short code of s, Slurm's where Slurm has one: "PD", "R", "CG" … DISPATCHING is "DI", FENCING "FE";
// "?" for anything unknown.
func Code(s fettlev1.JobState) string {
	if s < 0 || int(s) >= numStates {
		return "?"
	}
	return codes[s]
}

// StateName returns the long name of s as people write it: "PENDING", "OUT_OF_MEMORY"; "UNKNOWN" for anything unknown.
func StateName(s fettlev1.JobState) string {
	if s <= 0 || int(s) >= numStates {
		return "UNKNOWN"
	}
	return strings.TrimPrefix(s.String(), "JOB_STATE_")
}

// ParseState reads a short code or a long name in any case: "PD", "pending", "out_of_memory", "out-of-memory".
func ParseState(text string) (fettlev1.JobState, *FieldError) {
	t := strings.ReplaceAll(strings.ToUpper(strings.TrimSpace(text)), "-", "_")
	for s := Pending; int(s) < numStates; s++ {
		if t == codes[s] || t == StateName(s) {
			return s, nil
		}
	}
	switch t {
	case "CANCELED":
		return Cancelled, nil
	case "OOM_KILLED":
		return OutOfMemory, nil
	}
	return Unspecified, invalid("state", quote(text)+" is not a job state", "use PD, R, CG, CD, F, CA, TO, OOM, NF or their long names")
}

// States returns every state that a job may be in, in the order of their numbers.
func States() []fettlev1.JobState {
	all := make([]fettlev1.JobState, 0, numStates-1)
	for s := Pending; int(s) < numStates; s++ {
		all = append(all, s)
	}
	return all
}
