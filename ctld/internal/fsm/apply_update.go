package fsm

import (
	"fmt"
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// updateJob changes what may be changed of a job: everything listed while it waits; once it is active only what does not
// touch where it runs or how it is fenced. The outcome passes the same checks as a submit.
func updateJob(t *state.Txn, a *raftlogv1.Actor, u *fettlev1.UpdateJobRequest) *model.FieldError {
	j := t.Job(u.GetJobId())
	if j == nil {
		return noJob(u.GetJobId())
	}
	if err := mayChange(a, j); err != nil {
		return err
	}
	if u.ArrayIndex != nil {
		row, err := element(t, j.ID, u.GetArrayIndex())
		if err != nil {
			return err
		}
		if row == nil {
			row = split(t, j.ID, u.GetArrayIndex())
		}
		j = row
	}
	if j.Finished() {
		return alreadyEnded(j, "submit it again with the new settings")
	}
	if j.State != model.Pending {
		if field := fixedOnceActive(u); field != "" {
			return &model.FieldError{Kind: model.Conflict, Field: field, Problem: fmt.Sprintf("cannot be changed while job %d is %s", j.ID, model.StateName(j.State)),
				Remedy: "requeue the job first"}
		}
		if j.CancelRequested {
			return conflict("job", "%d is being cancelled", j.ID)
		}
	}
	if u.ArrayMaxRunning != nil && !j.IsArray() {
		return &model.FieldError{Field: "array", Problem: fmt.Sprintf("%d is no array", j.ID), Remedy: "name an array's own number"}
	}
	s := state.CloneSpec(j.Spec)
	if err := change(s, u); err != nil {
		return err
	}
	if err := model.ValidateSpec(s); err != nil {
		return err
	}
	if err := fitPartition(t, s); err != nil {
		return err
	}
	if j.State == model.Pending && (u.DeadlineMs != nil || u.TimeLimitS != nil || u.BeginMs != nil || u.Partition != nil) {
		if err := deadlineFits(t.NowMS(), s); err != nil {
			return err
		}
	}
	if err := refit(t, j, s); err != nil {
		return err
	}
	j = t.EditJob(j.ID)
	if moved(j.Spec, s) {
		j.Claim = nil
	}
	j.Spec = s
	if u.Name != nil && !j.IsElement() {
		t.Rename(j)
	}
	if j.State == model.Pending && u.BeginMs != nil {
		wait(j, t.NowMS())
	}
	return nil
}

// fixedOnceActive names the first changed field that an active job cannot change, "" when there is none. no_requeue is
// one of them because the nodes were told at dispatch whether the lease ends the attempt.
func fixedOnceActive(u *fettlev1.UpdateJobRequest) string {
	switch {
	case u.Partition != nil:
		return "partition"
	case u.BeginMs != nil:
		return "begin"
	case u.NoRequeue != nil:
		return "no-requeue"
	case len(u.GetNodelist()) > 0 || u.GetClearNodelist():
		return "nodelist"
	}
	return ""
}

func change(s *fettlev1.JobSpec, u *fettlev1.UpdateJobRequest) *model.FieldError {
	changed := false
	if u.Priority != nil {
		if u.GetPriority() == 0 {
			return &model.FieldError{Field: "priority", Problem: "0 is out of range", Remedy: "use 1 (most urgent) to 10"}
		}
		s.Priority, changed = u.GetPriority(), true
	}
	if u.TimeLimitS != nil {
		s.TimeLimitS, changed = u.GetTimeLimitS(), true
	}
	if u.Partition != nil {
		s.Partition, changed = u.GetPartition(), true
	}
	if u.Name != nil {
		if u.GetName() == "" {
			return &model.FieldError{Field: "name", Problem: "is empty", Remedy: "give a name"}
		}
		s.Name, changed = u.GetName(), true
	}
	if u.Comment != nil {
		s.Comment, changed = u.GetComment(), true
	}
	if u.BeginMs != nil {
		s.BeginMs, changed = u.GetBeginMs(), true
	}
	if u.Retries != nil {
		n := u.GetRetries()
		s.Retries, changed = &n, true
	}
	if u.DeadlineMs != nil {
		s.DeadlineMs, changed = u.GetDeadlineMs(), true
	}
	if u.ArrayMaxRunning != nil {
		s.Array, changed = &fettlev1.ArraySpec{Ranges: s.Array.GetRanges(), MaxRunning: u.GetArrayMaxRunning()}, true
	}
	if u.NoRequeue != nil {
		s.NoRequeue, changed = u.GetNoRequeue(), true
	}
	switch {
	case u.GetClearNodelist() && len(u.GetNodelist()) > 0:
		return &model.FieldError{Field: "nodelist", Problem: "is both set and cleared", Remedy: "do one or the other"}
	case u.GetClearNodelist():
		s.Nodelist, changed = nil, true
	case len(u.GetNodelist()) > 0:
		s.Nodelist, changed = slices.Clone(u.GetNodelist()), true
	}
	if !changed {
		return &model.FieldError{Field: "job", Problem: "nothing to change was named", Remedy: "name a field and its new value"}
	}
	return nil
}
