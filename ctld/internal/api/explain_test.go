package api

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// A follower's answer is the leader's: why a job waits, behind whom, what would start it, when, and its place taken apart.
func TestExplainJob(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	first := c.submit(ada, &fettlev1.JobSpec{Name: "first", Method: "script", Script: []byte("#!/bin/sh\n"), WorkDir: "/tmp", Priority: 2})
	spec := &fettlev1.JobSpec{
		Name: "second", Method: "script", Script: []byte("#!/bin/sh\n"), WorkDir: "/tmp",
		GpusPerNode: &fettlev1.GPURequest{Count: 4, Type: "h100"}, Nodelist: []string{"n1"},
	}
	second := c.submit(ada, spec)
	c.scheduler.whys = map[uint64]sched.Why{second: {
		Wait: sched.Wait{Reason: fettlev1.Reason_REASON_RESOURCES}, Behind: []uint64{first},
		Changes: []sched.Change{
			{Kind: sched.ChangeGPUs, GPUs: 2, Text: "with 2 h100"},
			{Kind: sched.ChangeNodelist, Text: "if it did not name nodes"},
			{Kind: sched.ChangeLimit, LimitS: 600, Text: "with a time limit of 10 min"},
			{Kind: sched.ChangePreempt, Victims: []uint64{9}, LostGPUS: 30, Text: "with --preempt"},
		},
	}}
	c.scheduler.starts = map[uint64]sched.Start{first: {AtMS: 1000}, second: {AtMS: 2000, LowMS: 1500, HighMS: 4000, Nodes: []string{"n1"}}}
	resp, err := c.follower.client.ExplainJob(c.ctx, &fettlev1.ExplainJobRequest{JobId: second, Why: true, Start: true, Order: true})
	if err != nil {
		t.Fatal(err)
	}
	w := resp.GetWhy()
	if w.GetReason() != fettlev1.Reason_REASON_RESOURCES || w.GetDetail() != "1 job keeps what it could use, before it in the order" || w.GetPosition() != 2 || w.GetProjectPosition() != 1 {
		t.Errorf("why: %v", w)
	}
	if len(w.GetBehind()) != 1 || w.GetBehind()[0].GetJobId() != first || w.GetBehind()[0].GetName() != "first" || w.GetBehind()[0].GetExpectedMs() != 1000 {
		t.Errorf("behind: %v", w.GetBehind())
	}
	want := [][2]string{{"gpus-per-node", "h100:2"}, {"nodelist", ""}, {"time", "10m"}, {"preempt", ""}}
	for i, ch := range w.GetChanges() {
		if o := ch.GetOptions(); len(o) != 1 || o[0].GetKey() != want[i][0] || o[0].GetValue() != want[i][1] {
			t.Errorf("change %d: %v, want %v", i, ch, want[i])
		}
	}
	if last := w.GetChanges()[len(w.GetChanges())-1]; len(w.GetChanges()) != len(want) || !last.GetPreempts() || last.GetLostGpuS() != 30 {
		t.Errorf("changes: %v", w.GetChanges())
	}
	if s := resp.GetStart(); s.GetStartMs() != 2000 || s.GetHighMs() != 4000 || s.GetNodes()[0].GetNode() != "n1" {
		t.Errorf("start: %v", s)
	}
	if o := resp.GetOrder(); o.GetScore() != 5 || len(o.GetTerms()) != 2 || o.GetBoundMs() != 99 {
		t.Errorf("order: %v", o)
	}
	starts, err := c.follower.client.PredictStarts(c.ctx, &fettlev1.PredictStartsRequest{Limit: 1})
	if err != nil || len(starts.GetStarts()) != 1 || starts.GetStarts()[0].GetJobId() != first {
		t.Errorf("starts: %v %v", starts, err)
	}
	dry, err := c.follower.client.SubmitJobs(c.ctx, &fettlev1.SubmitJobsRequest{DryRun: true, Jobs: []*fettlev1.JobSubmission{{Spec: spec}}})
	if err != nil || dry.GetResults()[0].GetStart().GetStartMs() != 5000 {
		t.Errorf("dry run: %v %v", dry, err)
	}
	_, err = c.follower.client.ExplainJob(c.ctx, &fettlev1.ExplainJobRequest{JobId: 99})
	if status.Code(err) != codes.NotFound {
		t.Errorf("job 99: %v", err)
	}
}

// A held job is explained by its row: the planner has never heard of it.
func TestExplainHeldJob(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	id := c.submit(ada, &fettlev1.JobSpec{Name: "held", Method: "script", Script: []byte("#!/bin/sh\n"), WorkDir: "/tmp", Hold: true})
	resp, err := c.leader.client.ExplainJob(c.ctx, &fettlev1.ExplainJobRequest{JobId: id, Why: true, Start: true})
	if err != nil || resp.GetWhy().GetReason() != fettlev1.Reason_REASON_HELD_BY_USER || resp.GetStart() != nil {
		t.Errorf("%v %v", resp, err)
	}
}
