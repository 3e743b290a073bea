package fsm

import (
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// Result is what Apply answers for one entry; raft hands it to whoever proposed the entry.
type Result struct {
	// Index is the entry's log index.
	Index uint64
	// Err refuses the whole entry; nothing was changed then. The other fields are empty.
	Err *model.FieldError
	// Duplicate says that the request was answered before and this is that answer.
	Duplicate bool
	// Submit has one outcome per submitted job, in order.
	Submit []SubmitOutcome
	// Actions has one outcome per job named by cancel, hold, release, requeue and purge, in order.
	Actions []ActionOutcome
	// Placements has one outcome per placement of a plan, in order.
	Placements []PlacementOutcome
	// Preemptions has one outcome per preemption of a plan, in order.
	Preemptions []PreemptionOutcome `json:",omitempty"`
	// Reports has one outcome per attempt report, in order.
	Reports []ReportOutcome
	// Session is the session that a NodeHello opened.
	Session uint64
}

// SubmitOutcome is what became of one submitted job.
type SubmitOutcome struct {
	// JobID is 0 when the job was refused.
	JobID uint64
	// Duplicate: the request id had made this job before.
	Duplicate bool
	Err       *model.FieldError
}

// ActionOutcome is what became of one job that a request named. Err is nil when it was done, or needed no doing.
type ActionOutcome struct {
	JobID uint64
	// Element says that the element Index of the array JobID was named.
	Element bool   `json:",omitempty"`
	Index   uint32 `json:",omitempty"`
	Err     *model.FieldError
}

// PlacementOutcome is what became of one placement. When Err is nil the attempt is committed: its fence is Result.Index.
type PlacementOutcome struct {
	// JobID is as in the placement.
	JobID uint64
	// Started is the number of the element's own row when the placement named an array's element.
	Started uint64 `json:",omitempty"`
	Attempt uint32
	Err     *model.FieldError
	// Reason is why the job waits when a limit, a claim or a reservation refused it.
	Reason fettlev1.Reason `json:",omitempty"`
}

// PreemptionOutcome is what became of one preemption. When Err is nil its victims are being ended and the beneficiary has
// its claim.
type PreemptionOutcome struct {
	Beneficiary uint64
	Err         *model.FieldError
}

// ReportStatus says what a report changed. Every report may be acknowledged to its node, whatever its status.
type ReportStatus uint8

const (
	// ReportApplied: it was news.
	ReportApplied ReportStatus = iota
	// ReportRepeated: it was known already.
	ReportRepeated
	// ReportStale: it is about an attempt that is not the current one there (or not one at all).
	ReportStale
	// ReportMalformed: it says nothing that can be understood.
	ReportMalformed
)

var reportNames = [...]string{"applied", "repeated", "stale", "malformed"}

func (s ReportStatus) String() string {
	if int(s) < len(reportNames) {
		return reportNames[s]
	}
	return "unknown"
}

// ReportOutcome is what became of one attempt report.
type ReportOutcome struct {
	JobID   uint64
	Attempt uint32
	Node    string
	Status  ReportStatus
}
