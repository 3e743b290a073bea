package sched

import (
	"github.com/fettle-hpc/fettle/plugins/preempt"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// DefaultMaxPlacements keeps one plan well under the size limit of a log entry.
const DefaultMaxPlacements = 512

// planBudget bounds the bytes of a plan's allocations, which grow with nodes and GPUs: with the rest of the entry they
// stay under the limit of the log.
const planBudget = model.MaxEntryBytes * 3 / 4

// maxWaits bounds how many jobs a plan explains; the others wait for those ahead of them.
const maxWaits = 10_000

// behindOthers is why a job waits of which a plan says nothing.
var behindOthers = Wait{Reason: fettlev1.Reason_REASON_PRIORITY}

// Plan is what should happen now.
type Plan struct {
	// Placements are the jobs that start, first in line first.
	Placements []Placement
	// Ask lists blocked jobs that ask for others to be preempted, and who could be; nil when there are none. See Preempt.
	Ask *preempt.Request
	// Waits says why jobs wait, of those that were looked at. The others wait for those ahead of them.
	Waits map[uint64]Wait
	// Heads are the blocked jobs that have a reservation or would get one if anything else could start.
	Heads []Head
	// WakeMS is when to plan again if nothing happens before; 0: not by itself.
	WakeMS int64
	// More is true when the plan is full and another one should follow at once.
	More bool
}

// Placement starts a job.
type Placement struct {
	Job uint64
	// Index is the array element that starts; -1 for a job that is no array.
	Index int
	// Allocs are its nodes in rank order, with the cards on each.
	Allocs []*fettlev1.NodeAllocation
	// Backfilled says that it starts ahead of a blocked job of its class.
	Backfilled bool
}

// Head is a blocked job that keeps its place in time.
type Head struct {
	Job uint64
	// ShadowMS is when it can start by what is known now, in Unix milliseconds; 0 when it was not needed, as nothing behind it
	// could start anyway.
	ShadowMS int64
	// Allocs are what is kept for it from then on.
	Allocs []*fettlev1.NodeAllocation
	// held is what is booked for it now.
	held []*fettlev1.NodeAllocation
}

// Preemption makes room for a job.
type Preemption struct {
	Job     uint64
	Victims []Victim
	// Allocs are what the job gets once the victims are gone.
	Allocs []*fettlev1.NodeAllocation
	// Reason is one sentence for people.
	Reason string
}

// Victim is a running job that makes room.
type Victim struct {
	Job  uint64
	Mode PreemptMode
	// LostGPUS is what stopping it probably loses, in GPU-seconds.
	LostGPUS int64
}

// weigh is about how many bytes allocations take in the log.
func weigh(allocs []*fettlev1.NodeAllocation) int {
	n := 32
	for _, a := range allocs {
		n += len(a.GetNode()) + 24
		for _, u := range a.GetGpuUuids() {
			n += len(u) + 4
		}
	}
	return n
}

// cards is how many GPUs allocations have in all; shares of a card count as one.
func cards(allocs []*fettlev1.NodeAllocation) int {
	n := 0
	for _, a := range allocs {
		n += len(a.GetGpuUuids())
	}
	return n
}
