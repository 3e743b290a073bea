package session

import (
	"testing"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// A job that has to make room is ended with its partition's grace, on every node; a cancel that comes after does not repeat the
// order.
func TestPreemptedJobsGetThePartitionsGrace(t *testing.T) {
	t.Parallel()
	r := newRig(t, "n1")
	r.must(&raftlogv1.Entry{Actor: &raftlogv1.Actor{User: "root", Admin: true}, Op: &raftlogv1.Entry_SetPolicy{SetPolicy: &fettlev1.ClusterPolicy{
		Partitions: []*fettlev1.Partition{{Name: "main", IsDefault: true, Preempt: fettlev1.PreemptMode_PREEMPT_MODE_REQUEUE, PreemptGraceS: 120, MinRunS: proto.Int64(0)}},
	}}})
	n1 := r.connect("n1")
	r.take(n1)
	gpu := func(s *fettlev1.JobSpec) { s.GpusPerNode, s.Priority = &fettlev1.GPURequest{Count: 4}, 9 }
	spec := &fettlev1.JobSpec{Name: "job", Script: []byte("#!/bin/true\n"), WorkDir: "/w", Nodes: 1, KillGraceS: 7}
	gpu(spec)
	urgent := proto.Clone(spec).(*fettlev1.JobSpec)
	urgent.Priority, urgent.Preempt = 1, true
	res := r.must(&raftlogv1.Entry{Actor: ada, Op: &raftlogv1.Entry_Submit{Submit: &raftlogv1.SubmitJobs{
		Jobs: []*fettlev1.JobSubmission{{RequestId: "low", Spec: spec}, {RequestId: "high", Spec: urgent}},
	}}})
	low, high := res.Submit[0].JobID, res.Submit[1].JobID
	at := []*fettlev1.NodeAllocation{{Node: "n1", Cpus: 1, GpuUuids: []string{"GPU-n1-0", "GPU-n1-1", "GPU-n1-2", "GPU-n1-3"}}}
	plan := func(p *raftlogv1.ApplyPlan) {
		t.Helper()
		p.Term = 1
		res := r.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_Plan{Plan: p}})
		for _, o := range res.Placements {
			if o.Err != nil {
				t.Fatal(o.Err)
			}
		}
		for _, o := range res.Preemptions {
			if o.Err != nil {
				t.Fatal(o.Err)
			}
		}
	}
	plan(&raftlogv1.ApplyPlan{Placements: []*raftlogv1.Placement{{JobId: low, Attempt: 1, Nodes: at}}})
	key := keyOf(r.snap().Job(low), r.snap().Job(low).Current())
	r.said("n1", key, started)
	r.do(r.m.Changed([]uint64{low}, r.snap()))
	r.take(n1)
	plan(&raftlogv1.ApplyPlan{Preemptions: []*raftlogv1.Preemption{{
		Beneficiary: high, Nodes: at, Victims: []*raftlogv1.Victim{{JobId: low, Attempt: 1, Mode: fettlev1.PreemptMode_PREEMPT_MODE_REQUEUE}},
	}}})
	r.do(r.m.Changed([]uint64{low, high}, r.snap()))
	kill := r.take(n1)
	if len(kill) != 1 || kill[0].GetKill().GetGraceMs() != 120_000 || kill[0].GetKill().GetKey().GetJobId() != low {
		t.Errorf("orders %v", kill)
	}
	r.cancel(low)
	r.do(r.m.Changed([]uint64{low}, r.snap()))
	if again := r.take(n1); len(again) != 0 {
		t.Errorf("after the cancel: %v", again)
	}
}
