package api

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func TestTrueEnd(t *testing.T) {
	t.Parallel()
	exits := func(es ...*fettlev1.Exit) (nodes []*fettlev1.NodeAllocation) {
		for _, e := range es {
			nodes = append(nodes, &fettlev1.NodeAllocation{Exit: e})
		}
		return nodes
	}
	ran := func(from, to int64) *fettlev1.Exit { return &fettlev1.Exit{StartMs: from, EndMs: to} }
	never := &fettlev1.Exit{Code: -1, NeverStarted: true, EndMs: 1}
	for name, tt := range map[string]struct {
		start int64
		nodes []*fettlev1.NodeAllocation
		want  int64
	}{
		"the report came late":                   {20_000, exits(ran(20_010, 25_010)), 25_000},
		"a node's clock that is behind":          {20_000, exits(ran(4_000, 9_000)), 25_000},
		"a node's clock an hour ahead":           {20_000, exits(ran(20_000+3_600_000, 25_000+3_600_000)), 25_000},
		"longer than the log has it":             {20_000, exits(ran(1, 1<<60)), 90_000},
		"a clock that went back":                 {20_000, exits(ran(25_000, 20_000)), 90_000},
		"the last of a gang":                     {20_000, exits(ran(20_000, 30_000), ran(20_000, 60_000)), 60_000},
		"a gang of which one did not run":        {20_000, exits(never, ran(20_000, 30_000)), 30_000},
		"none ran":                               {0, exits(never), 90_000},
		"the node was lost":                      {20_000, exits(&fettlev1.Exit{NodeLost: true, EndMs: 50_000}), 90_000},
		"the shim was lost":                      {20_000, exits(&fettlev1.Exit{ShimLost: true, EndMs: 50_000}), 90_000},
		"the start never came to the log":        {0, exits(ran(30_000, 40_000)), 40_000},
		"the same, by a clock that is behind":    {0, exits(ran(1_000, 2_000)), 10_000},
		"the same, by a clock that is far ahead": {0, exits(ran(1<<50, 1<<51)), 90_000},
	} {
		at := &fettlev1.Attempt{DispatchMs: 10_000, StartMs: tt.start, EndMs: 90_000, Nodes: tt.nodes}
		if got := trueEnd(at); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
	if got := trueEnd(&fettlev1.Attempt{StartMs: 5, Nodes: exits(nil)}); got != 0 {
		t.Errorf("an attempt that runs ended at %d", got)
	}
}

// A job that ended while its node's daemon was dead shows when it ended, not when the log heard of it.
func TestEndsAreShownAsTheyWere(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.node("n1")
	id, key := c.running(ada, "n1")
	start := c.snap().Job(id).StartMS
	c.ahead.Store(int64(10 * time.Minute))
	c.said("n1", key, fettlev1.ReportKind_REPORT_KIND_ENDED, &fettlev1.Exit{Code: 3, StartMs: start, EndMs: start + 5000})
	logged := proto.CloneOf(c.snap().Job(id).Current())
	if logged.GetEndMs()-start < 500_000 {
		t.Fatalf("the log has it at %d", logged.GetEndMs())
	}
	got, err := c.leader.client.GetJob(c.as(ada), &fettlev1.GetJobRequest{JobId: id})
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.leader.client.ListJobs(c.as(ada), &fettlev1.ListJobsRequest{IncludeFinished: true})
	if err != nil {
		t.Fatal(err)
	}
	page, err := list.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for how, j := range map[string]*fettlev1.Job{"get": got.GetJob(), "list": page.GetJobs()[0]} {
		if a := j.GetAttempts()[0]; j.GetEndMs() != start+5000 || a.GetEndMs() != start+5000 || a.GetOutcome() != logged.GetOutcome() || a.GetFence() != logged.GetFence() {
			t.Errorf("%s: ended after %d ms, its attempt %v", how, j.GetEndMs()-start, a)
		}
	}
	if !proto.Equal(c.snap().Job(id).Current(), logged) {
		t.Error("the row in the job table was changed")
	}
}
