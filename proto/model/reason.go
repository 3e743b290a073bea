package model

import (
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

var reasonTexts = map[fettlev1.Reason]string{
	fettlev1.Reason_REASON_UNSPECIFIED:        "None",
	fettlev1.Reason_REASON_PRIORITY:           "Priority",
	fettlev1.Reason_REASON_RESOURCES:          "Resources",
	fettlev1.Reason_REASON_HELD_BY_USER:       "JobHeldUser",
	fettlev1.Reason_REASON_HELD_BY_ADMIN:      "JobHeldAdmin",
	fettlev1.Reason_REASON_BEGIN_TIME:         "BeginTime",
	fettlev1.Reason_REASON_BACKOFF:            "Backoff",
	fettlev1.Reason_REASON_NODES_UNAVAILABLE:  "ReqNodeNotAvail",
	fettlev1.Reason_REASON_NO_SUITABLE_NODE:   "NoSuitableNode",
	fettlev1.Reason_REASON_PARTITION_DOWN:     "PartitionDown",
	fettlev1.Reason_REASON_LAUNCH_FAILED:      "LaunchFailed",
	fettlev1.Reason_REASON_LAUNCH_FAILED_HELD: "LaunchFailedHeld",
	fettlev1.Reason_REASON_DEPENDENCY:         "Dependency",
	fettlev1.Reason_REASON_RESERVATION:        "Reservation",
	fettlev1.Reason_REASON_LIMIT_PARTITION:    "PartitionLimit",
	fettlev1.Reason_REASON_LIMIT_PROJECT:      "ProjectLimit",
	fettlev1.Reason_REASON_LIMIT_USER:         "UserLimit",
	fettlev1.Reason_REASON_ARRAY_LIMIT:        "JobArrayTaskLimit",
	fettlev1.Reason_REASON_PREEMPTING:         "Preempting",
	fettlev1.Reason_REASON_GPUS_BUSY_OUTSIDE:  "GPUsBusyOutside",
	fettlev1.Reason_REASON_CANCELLED_BY_USER:  "CancelledByUser",
	fettlev1.Reason_REASON_CANCELLED_BY_ADMIN: "CancelledByAdmin",
	fettlev1.Reason_REASON_TIME_LIMIT:         "TimeLimit",
	fettlev1.Reason_REASON_NON_ZERO_EXIT:      "NonZeroExitCode",
	fettlev1.Reason_REASON_SIGNALLED:          "RaisedSignal",
	fettlev1.Reason_REASON_OUT_OF_MEMORY:      "OutOfMemory",
	fettlev1.Reason_REASON_NODE_LOST:          "NodeLost",
	fettlev1.Reason_REASON_RETRIES_EXHAUSTED:  "RetriesExhausted",
	fettlev1.Reason_REASON_PERMANENT_ERROR:    "PermanentError",
	fettlev1.Reason_REASON_REQUEUED_BY_USER:   "RequeuedByUser",
	fettlev1.Reason_REASON_SHIM_LOST:          "ShimLost",
	fettlev1.Reason_REASON_GANG_ABORTED:       "GangAborted",
	fettlev1.Reason_REASON_DEPENDENCY_NEVER:   "DependencyNeverSatisfied",
	fettlev1.Reason_REASON_DEADLINE:           "Deadline",
	fettlev1.Reason_REASON_PREEMPTED:          "Preempted",
	fettlev1.Reason_REASON_VRAM_EXCEEDED:      "VRAMExceeded",
}

// ReasonText returns the word for r in Slurm's manner: "Priority", "Resources", "JobHeldUser"; "None" when there is no
// reason, "Unknown" for a number from a newer version.
func ReasonText(r fettlev1.Reason) string {
	if t, ok := reasonTexts[r]; ok {
		return t
	}
	return "Unknown"
}
