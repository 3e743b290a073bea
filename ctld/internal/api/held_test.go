package api

import (
	"testing"
	"time"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// A job that the controller holds after failed launches says so, and why the last one failed: no user has held it.
func TestHeldAfterFailedLaunches(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.node("n1")
	id := c.submit(ada, script())
	for range model.JobLaunchFailureLimit {
		c.must(&raftlogv1.Entry{Actor: &raftlogv1.Actor{Admin: true}, Op: &raftlogv1.Entry_UpdateNode{UpdateNode: &fettlev1.UpdateNodeRequest{Node: "n1", Action: fettlev1.NodeAction_NODE_ACTION_RESUME}}})
		c.ahead.Add(int64(model.LaunchBackoffMS(model.JobLaunchFailureLimit)) * int64(time.Millisecond))
		c.said("n1", c.place(id, "n1"), fettlev1.ReportKind_REPORT_KIND_ENDED,
			&fettlev1.Exit{Code: -1, NeverStarted: true, Detail: "script: permission denied"})
	}
	check := func(how string, j *fettlev1.Job) {
		t.Helper()
		if model.ReasonText(j.GetReason()) != "LaunchFailedHeld" || !j.GetHeld() || j.GetDetail() != "script: permission denied" {
			t.Errorf("%s: %s, held %v, %q", how, model.ReasonText(j.GetReason()), j.GetHeld(), j.GetDetail())
		}
	}
	for name, ctl := range map[string]*controller{"leader": c.leader, "follower": c.follower} {
		got, err := ctl.client.GetJob(c.as(ada), &fettlev1.GetJobRequest{JobId: id})
		if err != nil {
			t.Fatal(err)
		}
		check("get from the "+name, got.GetJob())
		list, err := ctl.client.ListJobs(c.as(ada), &fettlev1.ListJobsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		page, err := list.Recv()
		if err != nil {
			t.Fatal(err)
		}
		check("list from the "+name, page.GetJobs()[0])
	}
	if _, err := c.leader.client.ReleaseJobs(c.as(ada), &fettlev1.JobActionRequest{RequestId: c.requestID(), Select: sel(id)}); err != nil {
		t.Fatal(err)
	}
	if j := c.snap().Job(id); j.Held {
		t.Error("its owner cannot release it")
	}
}
