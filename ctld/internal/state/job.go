package state

import (
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// Job is one row of the job table. Rows, their Spec and their Attempts are immutable and shared by every reader: never
// change what a pointer leads to.
type Job struct {
	ID uint64
	// Spec has all defaults filled.
	Spec *fettlev1.JobSpec
	// User, UID and GID are the owner as the channel knew it.
	User     string
	UID, GID uint32

	State fettlev1.JobState
	// Reason is why a held, delayed or retried job waits, or why a job ended as it did. Whether a job waits for priority or
	// for resources is the leader's to say and is never stored.
	Reason fettlev1.Reason
	// Detail is one line for people beside Reason.
	Detail string

	// Unix milliseconds of the log's clock. StartMS is the newest attempt's start, EndMS the job's end, when the log heard of
	// them. Rows that are shown have the true end when the report was late.
	SubmitMS, EligibleMS, StartMS, EndMS int64
	// RetryAtMS is when a retry may start at the earliest; 0: at once.
	RetryAtMS int64

	// Attempt is the number of attempts so far, Failures that of transient failures.
	Attempt, Failures uint32
	Held, HeldByAdmin bool
	// CancelRequested and RequeueRequested say what becomes of the job once its attempt has ended on every node.
	CancelRequested, RequeueRequested bool
	// EndReason is why the attempt is being ended.
	EndReason fettlev1.Reason
	// ExitCode is what waiting for the job ends with (see model.WaitCode).
	ExitCode int32
	// FirstBad is 1 + the rank of the node whose part of the current attempt was the first to end badly; 0: none yet.
	FirstBad uint32

	// ArrayJobID and ArrayIndex are set on the row of an array's element; Array on an array's own row.
	ArrayJobID uint64
	ArrayIndex uint32
	Array      *Array
	// WaitingFor are the dependencies that are not met yet, out of those in Spec. It is replaced whole.
	WaitingFor []*fettlev1.Dependency

	// PreemptedCount is how often it was ended for another job.
	PreemptedCount uint32
	// StopGraceS is the seconds between TERM and KILL of the stop under way; 0: those of the specification.
	StopGraceS int64
	// Claim is the room that was made for it while it waits, nil when there is none. Shared, not to be changed.
	Claim *raftlogv1.Claim
	// Project is where the policy put it; empty when the policy had no projects (see Account).
	Project string

	// Attempts are the newest attempts, oldest first, the current one last.
	Attempts []*fettlev1.Attempt
	// RequestID is the client's idempotency key, SubmitHash the SHA-256 of what it asked for.
	RequestID  string
	SubmitHash [32]byte
	// ModifiedIndex is the log index that last changed this row.
	ModifiedIndex uint64

	sum sum
}

// Current returns the newest attempt, nil when there is none yet.
func (j *Job) Current() *fettlev1.Attempt {
	if len(j.Attempts) == 0 {
		return nil
	}
	return j.Attempts[len(j.Attempts)-1]
}

// HeldByLaunches reports whether the controller holds the job back after too many failed launches in a row. Detail is then
// how the last one failed.
func (j *Job) HeldByLaunches() bool {
	return j.Held && !j.HeldByAdmin && j.State == model.Pending && j.Reason == fettlev1.Reason_REASON_LAUNCH_FAILED
}

// Finished reports whether the job is over for good.
func (j *Job) Finished() bool { return model.Terminal(j.State) }

// Active reports whether the job has an attempt that may hold resources.
func (j *Job) Active() bool { return model.HoldsResources(j.State) }

// Proto returns the job as clients see it. The full view shares Spec and Attempts with the row, so it is to be read and
// sent, not changed. The basic view leaves out script, config, arguments, environment, overrides and all attempts but the
// newest. Progress is not in the row: whoever has it fills it in.
func (j *Job) Proto(full bool) *fettlev1.Job {
	p := &fettlev1.Job{
		Id: j.ID, Spec: j.Spec, User: j.User, Uid: j.UID, Gid: j.GID,
		State: j.State, Reason: j.Reason, Detail: j.Detail,
		SubmitMs: j.SubmitMS, EligibleMs: j.EligibleMS, StartMs: j.StartMS, EndMs: j.EndMS,
		Attempts: j.Attempts, Attempt: j.Attempt, Failures: j.Failures,
		Held: j.Held, CancelRequested: j.CancelRequested, ExitCode: j.ExitCode,
		RequestId: j.RequestID, ModifiedIndex: j.ModifiedIndex, WaitingFor: j.WaitingFor,
		PreemptedCount: j.PreemptedCount,
	}
	j.arrayProto(p)
	if full {
		return p
	}
	p.Spec = briefSpec(j.Spec)
	if n := len(j.Attempts); n > 1 {
		p.Attempts = j.Attempts[n-1:]
	}
	return p
}

// briefSpec copies what lists show of a specification.
func briefSpec(s *fettlev1.JobSpec) *fettlev1.JobSpec {
	if s == nil {
		return nil
	}
	return &fettlev1.JobSpec{
		Name: s.Name, Method: s.Method, Priority: s.Priority, Partition: s.Partition, Project: s.Project, Comment: s.Comment,
		Nodes: s.Nodes, GpusPerNode: s.GpusPerNode, CpusPerNode: s.CpusPerNode, MemMibPerNode: s.MemMibPerNode,
		Nodelist: s.Nodelist, Exclude: s.Exclude, DeviceIndexes: s.DeviceIndexes, DeviceUuids: s.DeviceUuids,
		TimeLimitS: s.TimeLimitS, BeginMs: s.BeginMs, Hold: s.Hold, NoRequeue: s.NoRequeue, Retries: s.Retries,
		KillGraceS: s.KillGraceS, WorkDir: s.WorkDir, StdoutPath: s.StdoutPath, StderrPath: s.StderrPath,
		TruncateOutput: s.TruncateOutput, ConfigPath: s.ConfigPath,
		GpuAlternatives: s.GpuAlternatives, GpusTotal: s.GpusTotal, VramMib: s.VramMib, Exclusive: s.Exclusive,
		Constraint: s.Constraint, Array: s.Array, Dependencies: s.Dependencies, DependencyAny: s.DependencyAny,
		DeadlineMs: s.DeadlineMs, Preempt: s.Preempt, NoPreemptible: s.NoPreemptible, Reservation: s.Reservation,
		EstimatedRunS: s.EstimatedRunS,
	}
}

// CloneSpec returns a copy of s whose fields may be replaced. Lists and payloads are still shared: replace, never edit.
func CloneSpec(s *fettlev1.JobSpec) *fettlev1.JobSpec {
	c := briefSpec(s)
	if c != nil {
		c.Env, c.Script, c.Args, c.Config, c.Set = s.Env, s.Script, s.Args, s.Config, s.Set
	}
	return c
}

func cloneAttempt(a *fettlev1.Attempt) *fettlev1.Attempt {
	c := &fettlev1.Attempt{
		Number: a.Number, Fence: a.Fence, DispatchMs: a.DispatchMs, StartMs: a.StartMs, EndMs: a.EndMs,
		Outcome: a.Outcome, Reason: a.Reason, Detail: a.Detail, PreemptedBy: a.PreemptedBy, LostGpuS: a.LostGpuS,
	}
	c.Nodes = append(make([]*fettlev1.NodeAllocation, 0, len(a.Nodes)), a.Nodes...)
	return c
}

func cloneAllocation(a *fettlev1.NodeAllocation) *fettlev1.NodeAllocation {
	return &fettlev1.NodeAllocation{
		Node: a.Node, GpuUuids: a.GpuUuids, Cpus: a.Cpus, MemMib: a.MemMib,
		Exit: a.Exit, Prepared: a.Prepared, Started: a.Started, VramMib: a.VramMib, GpuMilli: a.GpuMilli,
	}
}
