package leader

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// A job that may preempt gets the room of one that may be preempted: that is ended, and what it had goes to nobody else.
func TestPreemption(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.must(&raftlogv1.Entry{Actor: &raftlogv1.Actor{User: "root", Admin: true}, Op: &raftlogv1.Entry_SetPolicy{SetPolicy: &fettlev1.ClusterPolicy{
			Partitions: []*fettlev1.Partition{{Name: "main", IsDefault: true, Preempt: fettlev1.PreemptMode_PREEMPT_MODE_REQUEUE}},
		}}})
		defer r.lead()()
		experiment := r.submit(&fettlev1.JobSpec{Priority: 9})
		wantActive(t, r, experiment)
		r.start(experiment)
		advance(time.Hour)
		polite := r.submit(&fettlev1.JobSpec{Priority: 3})
		advance(time.Hour)
		wantActive(t, r, experiment)
		if row := r.store.Snapshot().Job(experiment); row.EndReason != 0 {
			t.Fatalf("the experiment is ended for %v although nobody asked", row.EndReason)
		}
		urgent := r.submit(&fettlev1.JobSpec{Priority: 1, Preempt: true})
		advance(time.Minute)
		row := r.store.Snapshot().Job(experiment)
		if row.EndReason != fettlev1.Reason_REASON_PREEMPTED || r.store.Snapshot().Job(urgent).Claim == nil {
			t.Fatalf("the experiment: %v %q, the claim: %v", row.EndReason, row.Detail, r.store.Snapshot().Job(urgent).Claim)
		}
		if w := r.sched.Waits()[urgent]; w.Reason != fettlev1.Reason_REASON_PREEMPTING {
			t.Errorf("the urgent job waits for %v", w)
		}
		r.end(experiment)
		wantActive(t, r, urgent)
		r.end(urgent)
		wantActive(t, r, polite)
	})
}

// start reports that the job's processes run.
func (r *rig) start(id uint64) {
	r.t.Helper()
	at := r.store.Snapshot().Job(id).Current()
	r.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: []*fettlev1.AttemptReport{{
		Key:  &fettlev1.AttemptKey{JobId: id, Attempt: at.GetNumber(), Fence: at.GetFence()},
		Kind: fettlev1.ReportKind_REPORT_KIND_STARTED, Node: "n1",
	}}}}})
}

func TestArrayAndDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.lead()()
		one := &fettlev1.GPURequest{Count: 1}
		array := r.submit(&fettlev1.JobSpec{GpusPerNode: one, Array: &fettlev1.ArraySpec{Ranges: []*fettlev1.ArrayRange{{First: 0, Last: 9, Step: 1}}, MaxRunning: 2}})
		advance(50 * time.Millisecond)
		if got := r.active(); len(got) != 2 {
			t.Fatalf("%d elements run, want 2 at once", len(got))
		}
		if w := r.sched.Waits()[array]; w.Reason != fettlev1.Reason_REASON_ARRAY_LIMIT {
			t.Errorf("the array waits for %v", w)
		}
		r.end(r.active()[0])
		advance(50 * time.Millisecond)
		if got := r.active(); len(got) != 2 {
			t.Errorf("%d elements run after one ended, want 2", len(got))
		}
		late := r.submit(&fettlev1.JobSpec{DeadlineMs: time.Now().Add(time.Minute).UnixMilli()})
		advance(2 * time.Minute)
		if row := r.store.Snapshot().Job(late); row.State != fettlev1.JobState_JOB_STATE_CANCELLED {
			t.Errorf("a job whose deadline has passed is %v", row.State)
		}
	})
}

func TestQuestions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		if _, _, err := r.sched.Why(t.Context(), 1); !errors.Is(err, ErrNotLeading) {
			t.Errorf("a controller that does not lead answers %v", err)
		}
		stop := r.lead()
		running := r.submit(&fettlev1.JobSpec{TimeLimitS: 600})
		wantActive(t, r, running)
		waiting, behind := r.submit(&fettlev1.JobSpec{Priority: 2}), r.submit(&fettlev1.JobSpec{Priority: 10, TimeLimitS: 86_400, GpusPerNode: &fettlev1.GPURequest{Count: 1}})
		wantActive(t, r, running)
		why, at, err := r.sched.Why(t.Context(), behind)
		if err != nil || why.Reason != fettlev1.Reason_REASON_PRIORITY || at.All != 2 {
			t.Errorf("%+v at %+v: %v", why, at, err)
		}
		why, _, err = r.sched.Why(t.Context(), waiting)
		if err != nil || !slices.Equal(why.Running, []uint64{running}) {
			t.Errorf("%+v: %v", why, err)
		}
		starts, err := r.sched.Forecast(t.Context())
		end := r.store.Snapshot().Job(running).StartMS
		if end == 0 {
			end = r.store.Snapshot().Job(running).Current().GetDispatchMs()
		}
		end += 600_000
		if err != nil || starts[waiting].AtMS != end || starts[behind].AtMS <= end {
			t.Errorf("starts %+v, want job %d at %d: %v", starts, waiting, end, err)
		}
		spec := &fettlev1.JobSpec{Method: "script", Priority: 1, Partition: "main", GpusPerNode: &fettlev1.GPURequest{Count: 4}}
		if start, ok, err := r.sched.Predict(t.Context(), Candidate{Spec: spec, User: "ada"}); err != nil || !ok || start.AtMS != end {
			t.Errorf("an urgent job would start at %+v, %v: %v", start, ok, err)
		}
		stop()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.sched.Forecast(ctx); !errors.Is(err, ErrNotLeading) {
			t.Errorf("a former leader answers %v", err)
		}
	})
}

func TestCardsBusyOutsideAreLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		busy := []string{"GPU-2"}
		r.sched.cfg.BusyOutside = func(string) []string { return busy }
		defer r.lead()()
		job := r.submit(&fettlev1.JobSpec{})
		wantActive(t, r)
		if w := r.sched.Waits()[job]; w.Reason != fettlev1.Reason_REASON_GPUS_BUSY_OUTSIDE {
			t.Errorf("the job waits for %v", w)
		}
		busy = nil
		r.sched.NodeChanged("n1")
		wantActive(t, r, job)
	})
}
