package fsm

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// applySubmit adds jobs, each for itself: one that is refused does not refuse the others.
func applySubmit(t *state.Txn, a *raftlogv1.Actor, op *raftlogv1.SubmitJobs) *Result {
	switch n := len(op.GetJobs()); {
	case n == 0:
		return &Result{Err: &model.FieldError{Field: "jobs", Problem: "is empty", Remedy: "submit at least one job"}}
	case n > model.MaxSubmitsPerEntry:
		return &Result{Err: tooMany("jobs", n, model.MaxSubmitsPerEntry)}
	case a.GetUser() == "" || len(a.GetUser()) > model.MaxUser:
		return &Result{Err: &model.FieldError{Kind: model.Denied, Field: "user", Problem: "the caller has no usable user name"}}
	}
	r := &Result{Submit: make([]SubmitOutcome, 0, len(op.GetJobs()))}
	for _, item := range op.GetJobs() {
		r.Submit = append(r.Submit, submitOne(t, a, item))
	}
	return r
}

func tooMany(field string, n, limit int) *model.FieldError {
	return &model.FieldError{Field: field, Problem: fmt.Sprintf("%d in one request, the limit is %d", n, limit), Remedy: "split the request"}
}

func submitOne(t *state.Txn, a *raftlogv1.Actor, item *fettlev1.JobSubmission) SubmitOutcome {
	refuse := func(err *model.FieldError) SubmitOutcome { return SubmitOutcome{Err: err} }
	rid, spec := item.GetRequestId(), item.GetSpec()
	if err := model.CheckRequestID(rid); err != nil {
		return refuse(err)
	}
	if spec == nil {
		return refuse(model.ValidateSpec(spec))
	}
	model.NormalizeSpec(spec)
	hash := submitHash(spec)
	if id, known := submittedBefore(t, a.GetUid(), rid, hash); known && !bugDedupeSkipped {
		if id == 0 {
			return refuse(&model.FieldError{Kind: model.Conflict, Field: "request_id",
				Problem: "was used before for a different job", Remedy: "use a new one for each submit"})
		}
		return SubmitOutcome{JobID: id, Duplicate: true}
	}
	if err := model.ValidateSpec(spec); err != nil {
		return refuse(err)
	}
	if err := fitPartition(t, spec); err != nil {
		return refuse(err)
	}
	if err := roomFor(t, a.GetUid(), model.ArrayLen(spec.GetArray().GetRanges())); err != nil {
		return refuse(err)
	}
	now := t.NowMS()
	if err := deadlineFits(now, spec); err != nil {
		return refuse(err)
	}
	project, err := fitTenancy(t, a, spec)
	if err != nil {
		return refuse(err)
	}
	open, never, err := dependOn(t, a, spec)
	if err != nil {
		return refuse(err)
	}
	j := &state.Job{
		Spec: spec, User: a.GetUser(), UID: a.GetUid(), GID: a.GetGid(),
		State: model.Pending, SubmitMS: now, Held: spec.GetHold(),
		RequestID: rid, SubmitHash: hash, Project: project,
		Array: state.NewArray(spec.GetArray()), WaitingFor: open,
	}
	wait(j, now)
	if never != "" {
		endAtBirth(j, now, never)
	}
	return SubmitOutcome{JobID: t.AddJob(j)}
}

// submittedBefore looks for the job that this key made; id is 0 when the key was used for something else.
func submittedBefore(t *state.Txn, uid uint32, rid string, hash [32]byte) (id uint64, known bool) {
	if j := t.JobByRequest(uid, rid); j != nil {
		if j.SubmitHash != hash {
			return 0, true
		}
		return j.ID, true
	}
	if r := t.Request(uid, rid); r != nil && r.JobID != 0 {
		if r.Hash != hash {
			return 0, true
		}
		return r.JobID, true
	}
	return 0, false
}

// submitHash is the hash of what a user asked for. The controller's own estimate is not that: it may be another for a repeat.
func submitHash(s *fettlev1.JobSpec) [32]byte {
	estimate := s.EstimatedRunS
	s.EstimatedRunS = 0
	defer func() { s.EstimatedRunS = estimate }()
	return contentHash(s)
}

// endAtBirth makes a new job one that has ended without a start, an array with all of its elements.
func endAtBirth(j *state.Job, now int64, why string) {
	if j.Array != nil {
		j.Array.Cancelled = uint32(model.ArrayLen(j.Array.Left))
		j.Array.Left = nil
	}
	j.State, j.Held, j.EligibleMS = model.Cancelled, false, 0
	j.Reason, j.EndReason = fettlev1.Reason_REASON_DEPENDENCY_NEVER, fettlev1.Reason_REASON_DEPENDENCY_NEVER
	j.Detail, j.EndMS, j.ExitCode = why, now, 1
}

// contentHash is the SHA-256 of a message's contents.
func contentHash(m proto.Message) [32]byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	return sha256.Sum256(b)
}

// fitPartition fills in what the policy decides (the partition, the time limit) and refuses what it does not allow. Both
// submit and update go through it.
func fitPartition(t *state.Txn, s *fettlev1.JobSpec) *model.FieldError {
	p := t.Partition(s.GetPartition())
	if s.GetPartition() == "" {
		if p = t.DefaultPartition(); p == nil {
			return &model.FieldError{Field: "partition", Problem: "is missing and the cluster has no default one", Remedy: "use " + partitionNames(t)}
		}
		s.Partition = p.GetName()
	}
	if p == nil {
		return &model.FieldError{Field: "partition", Problem: fmt.Sprintf("%q does not exist", s.GetPartition()), Remedy: "use " + partitionNames(t)}
	}
	limit := p.GetMaxTimeS()
	if s.GetTimeLimitS() == 0 {
		if s.TimeLimitS = p.GetDefaultTimeS(); s.TimeLimitS == 0 {
			s.TimeLimitS = limit
		}
	}
	if limit > 0 && s.GetTimeLimitS() > limit {
		return &model.FieldError{Field: "time", Problem: fmt.Sprintf("%d s is above the %d s of partition %s", s.GetTimeLimitS(), limit, p.GetName()),
			Remedy: "use a shorter limit or another partition"}
	}
	usable := 0
	for _, n := range s.GetNodelist() {
		if p.Allows(n) {
			usable++
		}
	}
	if len(s.GetNodelist()) > 0 && usable < int(s.GetNodes()) {
		return &model.FieldError{Field: "nodelist", Problem: fmt.Sprintf("has only %d of the %d nodes asked for in partition %s", usable, s.GetNodes(), p.GetName()),
			Remedy: "name nodes of that partition, or choose another"}
	}
	return nil
}

func partitionNames(t *state.Txn) string {
	parts := t.Policy().GetPartitions()
	if len(parts) == 0 {
		return model.DefaultPartition
	}
	const shown = 8
	names := make([]string, 0, shown)
	for _, p := range parts[:min(len(parts), shown)] {
		names = append(names, p.GetName())
	}
	s := strings.Join(names, ", ")
	if len(parts) > shown {
		s += ", …"
	}
	return s
}

// roomFor holds the limits on jobs that are not finished. An array counts with its elements.
func roomFor(t *state.Txn, uid uint32, elements int) *model.FieldError {
	all, user := t.Unfinished(uid)
	switch {
	case all+elements >= model.MaxUnfinished:
		return &model.FieldError{Kind: model.Exhausted, Field: "jobs", Problem: fmt.Sprintf("the cluster holds %d unfinished jobs, its limit", all), Remedy: "try again when some have finished"}
	case user+elements >= model.MaxUnfinishedPerUser:
		return &model.FieldError{Kind: model.Exhausted, Field: "jobs", Problem: fmt.Sprintf("you have %d unfinished jobs, the limit of one user", user), Remedy: "try again when some have finished"}
	}
	return nil
}

// wait sets why and until when a pending job waits, as far as that is in the row.
func wait(j *state.Job, now int64) {
	begin := j.Spec.GetBeginMs()
	j.EligibleMS = max(now, begin, j.RetryAtMS)
	switch {
	case j.Held && j.HeldByAdmin:
		j.Reason, j.EligibleMS = fettlev1.Reason_REASON_HELD_BY_ADMIN, 0
	case j.HeldByLaunches():
		j.EligibleMS = 0
	case j.Held:
		j.Reason, j.EligibleMS = fettlev1.Reason_REASON_HELD_BY_USER, 0
	case len(j.WaitingFor) > 0:
		j.Reason, j.EligibleMS = fettlev1.Reason_REASON_DEPENDENCY, 0
	case begin > now:
		j.Reason = fettlev1.Reason_REASON_BEGIN_TIME
	case j.RetryAtMS > now:
		j.Reason = fettlev1.Reason_REASON_BACKOFF
	default:
		j.Reason = fettlev1.Reason_REASON_UNSPECIFIED
	}
}
