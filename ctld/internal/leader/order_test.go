package leader

import (
	"testing"
	"testing/synctest"
	"time"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// Weights that an admin changes reorder the jobs that wait already.
func TestWeightsChangeLive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.lead()()
		running := r.submit(&fettlev1.JobSpec{})
		wantActive(t, r, running)
		older, urgent := r.submit(&fettlev1.JobSpec{Priority: 9}), r.submit(&fettlev1.JobSpec{Priority: 2})
		advance(time.Second)
		before, _, err := r.sched.Order(t.Context(), r.store.Snapshot().Job(urgent))
		if err != nil || len(before.Jobs[0].Terms) < 2 {
			t.Fatalf("%+v %v", before, err)
		}
		p := &fettlev1.ClusterPolicy{
			Partitions: []*fettlev1.Partition{{Name: "main", IsDefault: true}},
			Scheduling: []*fettlev1.KeyValue{{Key: "priority_step", Value: "0s"}},
		}
		r.must(&raftlogv1.Entry{Actor: &raftlogv1.Actor{Admin: true}, Op: &raftlogv1.Entry_SetPolicy{SetPolicy: p}})
		advance(time.Second)
		after, _, err := r.sched.Order(t.Context(), r.store.Snapshot().Job(urgent))
		if err != nil || after.BoundMS >= before.BoundMS {
			t.Errorf("bound %d ms before, %d ms without priorities: %v", before.BoundMS, after.BoundMS, err)
		}
		r.end(running)
		wantActive(t, r, older)
	})
}

// Who has used the cluster for hours stands behind who has not, though asking first.
func TestFairShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.lead()()
		running := r.submit(&fettlev1.JobSpec{})
		wantActive(t, r, running)
		again := r.submit(&fettlev1.JobSpec{})
		advance(2 * time.Hour)
		other := r.submitAs("bob", 1001, &fettlev1.JobSpec{})
		// Longer than accounts serve.
		advance(2 * time.Minute)
		r.end(running)
		wantActive(t, r, other)
		r.end(other)
		wantActive(t, r, again)
	})
}

// A job's first prediction is kept, and its error told once the job has started.
func TestPredictionsAreCompared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		stop := r.lead()
		running := r.submit(&fettlev1.JobSpec{TimeLimitS: 3600})
		wantActive(t, r, running)
		waiting := r.submit(&fettlev1.JobSpec{TimeLimitS: 60})
		advance(time.Minute)
		end := r.store.Snapshot().Job(running).Current().GetDispatchMs() + 3_600_000
		if at := r.sched.Predicted(waiting); at != end {
			t.Fatalf("predicted for %d, want %d", at, end)
		}
		advance(29*time.Minute - 50*time.Millisecond)
		r.end(running)
		wantActive(t, r, waiting)
		var all *fettlev1.PredictionStats
		for _, st := range r.sched.PredictionStats() {
			if st.GetPartition() == "" {
				all = st
			}
		}
		// The first one started at once, as predicted or without a prediction; the second half an hour early.
		if n := all.GetJobs(); n < 1 || n > 2 || all.GetMedianErrorS() > 1800 || all.GetP90ErrorS() < 1790 || all.GetP90ErrorS() > 1810 || all.GetBiasS() >= 0 {
			t.Errorf("%v", all)
		}
		stop()
		if r.sched.PredictionStats() != nil || r.sched.Predicted(waiting) != 0 {
			t.Error("a former leader still tells of predictions")
		}
	})
}
