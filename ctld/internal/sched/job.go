package sched

import (
	"github.com/fettle-hpc/fettle/ctld/internal/place"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Needs is what a job asks of nodes. Jobs with equal needs share one verdict in a plan. It is not changed once a job has it,
// and many jobs may share one.
type Needs struct {
	// Request is what placement has to find.
	Request place.Request
	// Partition is the job's.
	Partition string
	// Method whose launcher the nodes have to have; empty: none.
	Method string
}

// Range are the numbers First, First+Step, … up to Last. Step is at least 1.
type Range struct{ First, Last, Step uint32 }

// Len is how many numbers there are.
func (r Range) Len() int {
	if r.Last < r.First {
		return 0
	}
	return int((r.Last-r.First)/max(r.Step, 1)) + 1
}

// Job is a job that waits and may start as far as it is concerned: not held, begin time, back-off and dependencies over.
// The planner keeps the value; its pointers and slices are not to be changed after SetJob.
type Job struct {
	// ID orders jobs of equal score.
	ID uint64
	// Score is the scheduling policy's: lower is earlier.
	Score int64
	Needs *Needs

	User, Project string
	// Priority is 1 (most urgent) to 10; it decides what may be preempted for the job.
	Priority uint32
	// Unix milliseconds. EligibleMS is since when it could have started.
	SubmitMS, EligibleMS int64
	// LimitS is the run time in seconds after which it is ended; 0: none.
	LimitS int64
	// EstimateS is how long it probably runs, in seconds; 0: not known. It tells when the job would end, and stands in for a
	// limit that there is not. SafeS is what nine of ten such jobs stay under; 0: EstimateS and a fifth of it.
	EstimateS, SafeS int64

	// Preempt asks for running jobs to be preempted for it; NoPreemptible keeps it from being preempted once it runs.
	Preempt, NoPreemptible bool
	// Reservation names the reservation that it is to run in; empty: none.
	Reservation string
	// Claim is what was freed for it by preemption: nobody else gets that.
	Claim []*fettlev1.NodeAllocation

	// Array are the elements of an array that have not started, ascending; empty for a job that is none. ArrayID is the array
	// of an element that waits by itself. ArrayMax is how many elements may run at once; 0: all.
	Array    []Range
	ArrayID  uint64
	ArrayMax int
}

// Running is an attempt that holds resources. Attempts that are ending stay until nothing of them is held any more.
type Running struct {
	// ID of the job; an element of an array has its own, and ArrayID is the array's.
	ID, ArrayID uint64
	Allocs      []*fettlev1.NodeAllocation

	User, Project, Partition string
	Priority                 uint32
	// Score is what the job would have in the queue. Reservation is the one it runs in.
	Score       int64
	Reservation string

	// StartMS is when it was given its resources, in Unix milliseconds; LimitS as in Job.
	StartMS int64
	LimitS  int64
	// PredictedEndMS is when it probably ends, in Unix milliseconds; 0: as its limit says, or else after as long again as it
	// has run. A prediction that has passed is put off likewise.
	PredictedEndMS int64

	// Fixed says that it cannot be preempted as it is, NoPreemptible that it asks not to be. Preempted is how often the job was preempted so far.
	Fixed, NoPreemptible bool
	Preempted            uint32
	// CheckpointMS is when what it has done was last safe, in Unix milliseconds; 0: at its start. OnSignal says that it saves
	// when it is asked to, so that nothing is lost. RestartS is what coming back costs, in seconds; 0: DefaultRestartS.
	CheckpointMS int64
	OnSignal     bool
	RestartS     int64
	// Ending is true once it is being ended: it is no victim any more.
	Ending bool
}

// DefaultRestartS is what coming back after a preemption costs while nothing was measured, in seconds.
const DefaultRestartS = 120

// Node is a node and what the planner has to know of it beside placement.
type Node struct {
	place.Node
	// Methods are the launchers that it has.
	Methods []string
}
