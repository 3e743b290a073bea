package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

func arrayOf(t *testing.T, text string) *fettlev1.JobSpec {
	t.Helper()
	a, err := gres.ParseArray(text)
	if err != nil {
		t.Fatal(err)
	}
	s := script()
	s.Array = &fettlev1.ArraySpec{Ranges: model.ArrayRanges(a.Ranges), MaxRunning: a.MaxRunning}
	return s
}

// startElement starts an element on a node and returns the number of its row.
func (c *cluster) startElement(array uint64, index uint32, node string) (uint64, *fettlev1.AttemptKey) {
	c.t.Helper()
	p := &raftlogv1.Placement{JobId: array, Attempt: 1, ArrayIndex: &index, Nodes: []*fettlev1.NodeAllocation{{Node: node, Cpus: 1}}}
	res := c.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_Plan{Plan: &raftlogv1.ApplyPlan{Term: 1, Placements: []*raftlogv1.Placement{p}}}})
	if e := res.Placements[0].Err; e != nil {
		c.t.Fatal(e)
	}
	id := res.Placements[0].Started
	key := &fettlev1.AttemptKey{JobId: id, Attempt: 1, Fence: res.Index}
	c.said(node, key, fettlev1.ReportKind_REPORT_KIND_PREPARED, nil)
	c.said(node, key, fettlev1.ReportKind_REPORT_KIND_STARTED, nil)
	return id, key
}

func elements(job uint64, text string) *fettlev1.JobSelector {
	r, err := gres.ParseRanges(text)
	if err != nil {
		panic(err)
	}
	return &fettlev1.JobSelector{Elements: []*fettlev1.ElementSelector{{JobId: job, Ranges: model.ArrayRanges(r)}}}
}

// said is what an action answered: "1_3 done" or "1_3: problem".
func answers(r *fettlev1.JobActionResponse) string {
	var out []string
	for _, a := range r.GetResults() {
		word := " done"
		if a.GetError() != nil {
			word = ": " + a.GetError().GetProblem()
		}
		out = append(out, nameOf(a.GetJobId(), a.ArrayIndex)+word)
	}
	return strings.Join(out, ", ")
}

func rows(jobs []*fettlev1.Job) string {
	var out []string
	for _, j := range jobs {
		name := idText(j.GetId())
		if j.GetArrayJobId() != 0 {
			name = gres.FormatElement(j.GetArrayJobId(), j.GetArrayIndex())
		}
		out = append(out, name+" "+model.Code(j.GetState()))
	}
	return strings.Join(out, ", ")
}

func TestElementsAreAddressed(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.node("n1")
	id := c.submit(ada, arrayOf(t, "0-5%3"))
	run, _ := c.startElement(id, 2, "n1")

	// One by one, started or not; the whole array with its elements.
	for index, want := range map[uint32]uint64{2: run, 4: id} {
		resp, err := c.leader.client.GetJob(c.ctx, &fettlev1.GetJobRequest{JobId: id, ArrayIndex: &index})
		if err != nil {
			t.Fatal(err)
		}
		if j := resp.GetJob(); j.GetId() != want || j.GetArrayJobId() != id || j.GetArrayIndex() != index || j.GetArrayLeft() != nil || j.GetSpec().GetArray() == nil {
			t.Errorf("%d_%d is %v", id, index, j)
		}
	}
	_, err := c.follower.client.GetJob(c.ctx, &fettlev1.GetJobRequest{JobId: id, ArrayIndex: proto.Uint32(9)})
	if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), fmt.Sprintf("no job %d_9", id)) {
		t.Errorf("an element that there is not: %v", err)
	}
	resp, err := c.leader.client.GetJob(c.ctx, &fettlev1.GetJobRequest{JobId: id})
	if err != nil {
		t.Fatal(err)
	}
	if j := resp.GetJob(); model.ArrayText(j.GetArrayLeft()) != "0-1,3-5%3" || j.GetArrayCounts().GetActive() != 1 || j.GetArrayJobId() != 0 {
		t.Errorf("the array is %v", j)
	}
	for want, sel := range map[string]*fettlev1.JobSelector{
		fmt.Sprintf("%d PD, %d_2 R", id, id):                {Ids: []uint64{id}},
		fmt.Sprintf("%d_2 R", id):                           elements(id, "2"),
		fmt.Sprintf("%d_1 PD, %d_4 PD, %d_2 R", id, id, id): elements(id, "1-4:3,2"),
	} {
		if jobs, _, _ := c.list(&fettlev1.ListJobsRequest{Select: sel}); rows(jobs) != want {
			t.Errorf("listed %s, want %s", rows(jobs), want)
		}
	}

	act := func(f func(*fettlev1.JobActionRequest) (*fettlev1.JobActionResponse, error), sel *fettlev1.JobSelector) string {
		t.Helper()
		r, err := f(&fettlev1.JobActionRequest{RequestId: c.requestID(), Select: sel})
		if err != nil {
			t.Fatal(err)
		}
		return answers(r)
	}
	hold := func(r *fettlev1.JobActionRequest) (*fettlev1.JobActionResponse, error) {
		return c.leader.client.HoldJobs(c.as(ada), r)
	}
	if got := act(hold, elements(id, "0,2,7")); got != "1_0 done, 1_2: 2 is RUNNING and cannot be held, 1_7: 1_7 does not exist" {
		t.Errorf("hold: %s", got)
	}
	release := func(r *fettlev1.JobActionRequest) (*fettlev1.JobActionResponse, error) {
		return c.leader.client.ReleaseJobs(c.as(ada), r)
	}
	if got := act(release, elements(id, "0")); got != "1_0 done" || c.snap().Element(id, 0).Held {
		t.Errorf("release: %s", got)
	}
	requeue := func(r *fettlev1.JobActionRequest) (*fettlev1.JobActionResponse, error) {
		return c.leader.client.RequeueJobs(c.as(ada), r)
	}
	if got := act(requeue, elements(id, "4")); got != "1_4: 1_4 is waiting already" {
		t.Errorf("requeue: %s", got)
	}
	up, err := c.leader.client.UpdateJob(c.as(ada), &fettlev1.UpdateJobRequest{RequestId: c.requestID(), JobId: id, ArrayIndex: proto.Uint32(5), Priority: proto.Uint32(1)})
	if err != nil || up.GetJob().GetArrayIndex() != 5 || up.GetJob().GetSpec().GetPriority() != 1 {
		t.Errorf("update: %v, %v", up, err)
	}

	// Signals go to what runs of an array, and say so element by element.
	sig, err := c.leader.client.CancelJobs(c.as(ada), &fettlev1.CancelJobsRequest{Select: &fettlev1.JobSelector{Ids: []uint64{id}, Elements: elements(id, "4").GetElements()}, Signal: 10})
	if err != nil || answers(sig) != "1_2: not all nodes of job 1_2 are connected, 1_4: job 1_4 is PENDING, not running" {
		t.Errorf("signal: %s, %v", answers(sig), err)
	}

	// A state means the elements that have it; what runs goes on.
	cancel := func(sel *fettlev1.JobSelector) string {
		t.Helper()
		r, err := c.leader.client.CancelJobs(c.as(ada), &fettlev1.CancelJobsRequest{RequestId: c.requestID(), Select: sel})
		if err != nil {
			t.Fatal(err)
		}
		return answers(r)
	}
	pending := &fettlev1.JobSelector{Users: []string{adaName}, States: []fettlev1.JobState{model.Pending}}
	if got := cancel(pending); !strings.HasSuffix(got, "1 done") || strings.Count(got, "done") != 3 {
		t.Errorf("cancel of what waits: %s", got)
	}
	if a := c.snap().Job(id).Array; a.Left != nil || a.Active != 1 || a.Cancelled != 5 || c.snap().Job(run).CancelRequested {
		t.Errorf("the array is %+v", a)
	}
	if jobs, _, _ := c.list(&fettlev1.ListJobsRequest{Select: pending}); len(jobs) != 0 {
		t.Errorf("waiting are %s", rows(jobs))
	}
	if got := cancel(&fettlev1.JobSelector{Users: []string{adaName}}); got != "1 done" || !c.snap().Job(run).CancelRequested {
		t.Errorf("cancel of all: %s", got)
	}
	for want, sel := range map[string]*fettlev1.JobSelector{
		"jobs: has a range that runs backwards": {Elements: []*fettlev1.ElementSelector{{JobId: id, Ranges: []*fettlev1.ArrayRange{{First: 2, Last: 1}}}}},
		"jobs: names no element":                {Elements: []*fettlev1.ElementSelector{{JobId: id}}},
		"jobs: elements of more than 1,000":     {Elements: slices.Repeat([]*fettlev1.ElementSelector{{}}, 1001)},
	} {
		_, err := c.leader.client.CancelJobs(c.as(ada), &fettlev1.CancelJobsRequest{Select: sel})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestWatchOfArrays(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.node("n1")
	id := c.submit(ada, arrayOf(t, "0-3"))
	c.submit(ada, script())
	for name, sel := range map[string]*fettlev1.JobSelector{"the array": {Ids: []uint64{id}}, "an element": elements(id, "1")} {
		s, err := c.leader.client.WatchEvents(c.ctx, &fettlev1.WatchEventsRequest{Select: sel, AfterIndex: c.snap().Index()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
		index := uint32(0)
		if name == "an element" {
			index = 1
			c.startElement(id, 2, "n1")
		}
		c.running(ada, "n1")
		run, _ := c.startElement(id, index, "n1")
		m, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e := m.GetEvents()[0]; e.GetJobId() != run || e.GetArrayJobId() != id || e.GetArrayIndex() != index {
			t.Errorf("%s: first %v", name, e)
		}
	}
}

func TestReadLogOfElements(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.connect("n1")
	go n.serve()
	n.files[1] = "hello"
	id := c.submit(ada, arrayOf(t, "3-4"))
	refused := func(req *fettlev1.ReadLogRequest, code codes.Code, want string) {
		t.Helper()
		s, err := c.leader.client.ReadLog(c.as(ada), req)
		if err == nil {
			_, err = s.Recv()
		}
		if status.Code(err) != code || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	refused(&fettlev1.ReadLogRequest{JobId: id}, codes.InvalidArgument, "job: 1 is an array, whose elements write each for itself; name one of them, such as 1_3")
	refused(&fettlev1.ReadLogRequest{JobId: id, ArrayIndex: proto.Uint32(3)}, codes.FailedPrecondition, "job: 1_3 has not started; follow it to wait for its output")
	refused(&fettlev1.ReadLogRequest{JobId: id, ArrayIndex: proto.Uint32(5)}, codes.NotFound, "no such job of yours: 1_5")
	s, err := c.leader.client.ReadLog(c.as(ada), &fettlev1.ReadLogRequest{JobId: id, ArrayIndex: proto.Uint32(3), Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() { got <- transcript(t, s) }()
	_, key := c.startElement(id, 3, "n1")
	<-n.orders
	c.said("n1", key, fettlev1.ReportKind_REPORT_KIND_ENDED, &fettlev1.Exit{})
	if text := <-got; !strings.HasPrefix(text, " 1@0:hello") {
		t.Errorf("read %q", text)
	}
}

func TestDependentsAtSubmit(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.node("n1")
	first, key := c.running(ada, "n1")
	after := func(text string) *fettlev1.JobSpec {
		d, err := gres.ParseDependencies(text)
		if err != nil {
			t.Fatal(err)
		}
		s := script()
		s.Dependencies = model.ToDependencies(d)
		s.EstimatedRunS = 99
		return s
	}
	ask := func(dry bool, s *fettlev1.JobSpec) *fettlev1.SubmitResult {
		t.Helper()
		resp, err := c.leader.client.SubmitJobs(c.as(ada), &fettlev1.SubmitJobsRequest{DryRun: dry, Jobs: []*fettlev1.JobSubmission{{RequestId: c.requestID(), Spec: s}}})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetResults()[0]
	}
	waits := ask(false, after(fmt.Sprint("afterok:", first)))
	if j := c.snap().Job(waits.GetJobId()); j.Spec.GetEstimatedRunS() != 0 || len(j.WaitingFor) != 1 {
		t.Errorf("the job is %+v", j)
	}
	get, err := c.follower.client.GetJob(c.ctx, &fettlev1.GetJobRequest{JobId: waits.GetJobId()})
	if err != nil || get.GetJob().GetReason() != fettlev1.Reason_REASON_DEPENDENCY || len(get.GetJob().GetWaitingFor()) != 1 {
		t.Errorf("shown as %v, %v", get.GetJob(), err)
	}
	c.said("n1", key, fettlev1.ReportKind_REPORT_KIND_ENDED, &fettlev1.Exit{Code: 1})
	want := fmt.Sprintf("the job is ended at once: afterok:%d can never be met: it ended FAILED", first)
	for _, dry := range []bool{true, false} {
		r := ask(dry, after(fmt.Sprint("afterok:", first)))
		if r.GetError() != nil || !slices.Contains(r.GetWarnings(), want) {
			t.Errorf("dry %v: %v", dry, r)
		}
		r = ask(dry, after("afterok:999"))
		if got := oneLine(r.GetError()); got != "dependency: afterok:999 names a job that does not exist; name one that fqueue shows" {
			t.Errorf("dry %v: %s", dry, got)
		}
		late := script()
		late.DeadlineMs = 1
		if got := oneLine(ask(dry, late).GetError()); got != "deadline: has passed; use a later one" {
			t.Errorf("dry %v: %s", dry, got)
		}
	}
	if j := c.snap().Job(waits.GetJobId()); j.State != model.Cancelled {
		t.Errorf("what waited is %+v", j)
	}
}
