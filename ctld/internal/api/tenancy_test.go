package api

import (
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func (c *cluster) policy(p *fettlev1.ClusterPolicy) {
	c.t.Helper()
	if _, err := c.follower.client.SetPolicy(c.ctx, &fettlev1.SetPolicyRequest{RequestId: c.requestID(), Policy: p}); err != nil {
		c.t.Fatal(err)
	}
}

func TestReservationVerbs(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.node("n1")
	c.node("n2")
	id, _ := c.running(ada, "n1")
	now := c.snap().NowMS()
	set := &fettlev1.SetReservationRequest{RequestId: c.requestID(), Reservation: &fettlev1.Reservation{Name: "fans", Nodes: "n1", StartMs: now + 3_600_000, Users: []string{"x"}}}
	resp, err := c.follower.client.SetReservation(c.ctx, set)
	if err != nil {
		t.Fatal(err)
	}
	if r := resp.GetReservation(); r.GetNodes() != "n1" || r.GetCreatedMs() == 0 || !slices.Equal(resp.GetJobsInTheWay(), []uint64{id}) {
		t.Errorf("set %v", resp)
	}
	// A repeat is answered again, an overlap and a user are refused.
	if _, err := c.follower.client.SetReservation(c.ctx, set); err != nil {
		t.Error(err)
	}
	_, err = c.leader.client.SetReservation(c.ctx, &fettlev1.SetReservationRequest{RequestId: c.requestID(), Reservation: &fettlev1.Reservation{Name: "more", Nodes: "n[1-2]", StartMs: now + 3_700_000}})
	if status.Code(err) != codes.FailedPrecondition || text(err) != "reservation: node n1 is reserved as fans in that time; choose another time or other nodes, or remove that one" {
		t.Errorf("overlap: %v", err)
	}
	if _, err := c.leader.client.SetReservation(c.as(bob), set); status.Code(err) != codes.PermissionDenied {
		t.Errorf("by a user: %v", err)
	}
	list, err := c.follower.client.ListReservations(c.as(bob), &fettlev1.ListReservationsRequest{Read: &fettlev1.ReadOptions{MinIndex: c.snap().Index()}})
	if err != nil || len(list.GetReservations()) != 1 || list.GetReservations()[0].GetName() != "fans" {
		t.Errorf("list %v, %v", list, err)
	}
	if _, err := c.leader.client.RemoveReservation(c.as(bob), &fettlev1.RemoveReservationRequest{Name: "fans"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("removed by a user: %v", err)
	}
	if _, err := c.follower.client.RemoveReservation(c.ctx, &fettlev1.RemoveReservationRequest{RequestId: c.requestID(), Name: "fans"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.leader.client.RemoveReservation(c.ctx, &fettlev1.RemoveReservationRequest{Name: "fans"}); status.Code(err) != codes.NotFound {
		t.Errorf("removed twice: %v", err)
	}
}

func TestUsageVerb(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.node("n1")
	c.policy(&fettlev1.ClusterPolicy{
		Partitions: []*fettlev1.Partition{{Name: "main", IsDefault: true}},
		Projects:   []*fettlev1.Project{{Name: "lab", Limits: &fettlev1.Limits{GpuHours: 10}}, {Name: "open", Parent: "lab", Weight: 3, Members: []string{"*"}}},
	})
	id, key := c.running(ada, "n1")
	if j := c.snap().Job(id); j.Project != "open" {
		t.Fatalf("project %q", j.Project)
	}
	get := func() *fettlev1.GetUsageResponse {
		t.Helper()
		resp, err := c.follower.client.GetUsage(c.as(bob), &fettlev1.GetUsageRequest{Read: &fettlev1.ReadOptions{MinIndex: c.snap().Index()}})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	find := func(resp *fettlev1.GetUsageResponse, name string) *fettlev1.ScopeUsage {
		for _, s := range resp.GetScopes() {
			if s.GetName() == name {
				return s
			}
		}
		return nil
	}
	resp := get()
	gpus := int64(len(c.snap().Job(id).Current().GetNodes()[0].GetGpuUuids())) * 1000
	if lab := find(resp, "lab"); lab.GetJobsRunning() != 1 || lab.GetJobsQueued() != 1 || lab.GetGpuMilli() != gpus || lab.GetLimits().GetGpuHours() != 10 {
		t.Errorf("lab %v, holds %d", lab, gpus)
	}
	if open := find(resp, "open"); open.GetParent() != "lab" || open.GetWeight() != 3 {
		t.Errorf("open %v", open)
	}
	if main := find(resp, "main"); main.GetKind() != fettlev1.ScopeKind_SCOPE_KIND_PARTITION || main.GetJobsRunning() != 1 {
		t.Errorf("main %v", main)
	}
	if resp.GetHalfLifeS() != 7*24*3600 {
		t.Errorf("half life %d", resp.GetHalfLifeS())
	}
	c.said("n1", key, fettlev1.ReportKind_REPORT_KIND_ENDED, &fettlev1.Exit{})
	if lab := find(get(), "lab"); lab.GetJobsRunning() != 0 || lab.GetGpuMilli() != 0 {
		t.Errorf("after its end the lab holds %v", lab)
	}
}

// A dry run and a submit hear the same of projects and limits; the dry run shows what is filled in.
func TestTenancyOfSubmits(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.policy(&fettlev1.ClusterPolicy{
		Partitions: []*fettlev1.Partition{{Name: "main", IsDefault: true, Preempt: fettlev1.PreemptMode_PREEMPT_MODE_OFF}},
		Projects:   []*fettlev1.Project{{Name: "open", Members: []string{"*"}, Limits: &fettlev1.Limits{MaxTimeS: 600, MaxNodesPerJob: 1}}},
	})
	ask := func(spec *fettlev1.JobSpec, dry bool) *fettlev1.SubmitResult {
		t.Helper()
		resp, err := c.leader.client.SubmitJobs(c.as(ada), &fettlev1.SubmitJobsRequest{DryRun: dry, Jobs: []*fettlev1.JobSubmission{{RequestId: c.requestID(), Spec: spec}}})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetResults()[0]
	}
	s := script()
	s.Preempt = true
	r := ask(s, true)
	if r.GetSpec().GetProject() != "open" || r.GetSpec().GetTimeLimitS() != 600 || len(r.GetWarnings()) == 0 || r.GetWarnings()[0] != "no partition lets jobs be ended for others: --preempt changes nothing" {
		t.Errorf("dry run: %v", r)
	}
	for _, dry := range []bool{true, false} {
		s := script()
		s.Nodes = 2
		if r := ask(s, dry); oneLine(r.GetError()) != "nodes: 2 asked for, project open allows 1 for each job; ask for fewer nodes" {
			t.Errorf("dry run %v: %v", dry, r)
		}
	}
	if id := c.submit(ada, script()); c.snap().Job(id).Spec.GetTimeLimitS() != 600 {
		t.Errorf("submitted %v", c.snap().Job(id).Spec)
	}
}
