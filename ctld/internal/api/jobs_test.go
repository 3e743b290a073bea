package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/fettle-hpc/fettle/ctld/internal/raftstore"
	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

func TestSubmitBatchIsJudgedItemByItem(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	bad := script()
	bad.Priority = 11
	req := &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{
		{RequestId: "a", Spec: script()}, {RequestId: "b", Spec: bad}, {RequestId: "a", Spec: script()}, {RequestId: "c", Spec: script()},
	}}
	resp, err := c.leader.client.SubmitJobs(c.as(ada), req)
	if err != nil {
		t.Fatal(err)
	}
	r := resp.GetResults()
	switch {
	case len(r) != 4:
		t.Fatalf("%d results", len(r))
	case r[0].GetJobId() != 1 || r[0].GetDuplicate() || r[3].GetJobId() != 2:
		t.Errorf("accepted: %v, %v", r[0], r[3])
	case r[1].GetJobId() != 0 || oneLine(r[1].GetError()) != "priority: 11 is out of range; use 1 (most urgent) to 10":
		t.Errorf("refused: %v", r[1])
	case r[2].GetJobId() != 1 || !r[2].GetDuplicate():
		t.Errorf("repeated: %v", r[2])
	case resp.GetHeader().GetIndex() != c.snap().Index():
		t.Errorf("header %v", resp.GetHeader())
	}
	if w := r[0].GetWarnings(); len(w) != 1 || w[0] != "no node has registered yet: the job waits until one does" {
		t.Errorf("warnings %q", w)
	}
}

func TestDryRunStoresNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.node("n1")
	c.launchers.check = func(*fettlev1.JobSpec) (Checked, error) {
		return Checked{Method: "qlora", Rendered: []byte("rendered"), Estimate: &fettlev1.MemoryEstimate{NeedMib: 7}, Warnings: []string{"slow"}}, nil
	}
	before := c.snap().Index()
	spec := &fettlev1.JobSpec{Config: []byte("a: b"), WorkDir: "/w", Nodes: 2}
	resp, err := c.leader.client.SubmitJobs(c.as(ada), &fettlev1.SubmitJobsRequest{DryRun: true, Jobs: []*fettlev1.JobSubmission{{Spec: spec}}})
	if err != nil {
		t.Fatal(err)
	}
	r := resp.GetResults()[0]
	if r.GetError() != nil || r.GetJobId() != 0 || string(r.GetRenderedConfig()) != "rendered" || r.GetEstimate().GetNeedMib() != 7 {
		t.Errorf("answer %v", r)
	}
	if s := r.GetSpec(); s.GetMethod() != "qlora" || s.GetPriority() != 5 || s.GetPartition() != model.DefaultPartition {
		t.Errorf("the spec with its defaults is %v", s)
	}
	if w := r.GetWarnings(); len(w) != 2 || w[0] != "slow" || w[1] != "--nodes 2: partition main has 1 node: the job waits until nodes register that can hold it" {
		t.Errorf("warnings %q", w)
	}
	if c.snap().Index() != before {
		t.Error("a dry run wrote to the log")
	}
}

// A repeat is answered with the first outcome, whoever of those that were asked the first time is gone by then.
func TestRepeatedSubmit(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	send := func() (*fettlev1.SubmitResult, error) {
		resp, err := c.leader.client.SubmitJobs(c.as(ada), &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{{RequestId: "r", Spec: &fettlev1.JobSpec{Config: []byte("a: b"), WorkDir: "/w"}}}})
		if err != nil {
			return nil, err
		}
		return resp.GetResults()[0], nil
	}
	// The first answer is lost on its way.
	c.log.OnPropose(func(*raftlogv1.Entry) (bool, error) { return true, raftstore.ErrUnknown })
	if _, err := send(); status.Code(err) != codes.Unavailable {
		t.Fatalf("an unknown outcome is answered with %v", err)
	}
	c.log.OnPropose(nil)
	// Meanwhile the launcher is broken, and another partition is the default.
	c.launchers.mu.Lock()
	c.launchers.check = func(*fettlev1.JobSpec) (Checked, error) { return Checked{}, errors.New("launcher crashed") }
	c.launchers.mu.Unlock()
	c.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_SetPolicy{SetPolicy: &fettlev1.ClusterPolicy{Partitions: []*fettlev1.Partition{{Name: "gold", IsDefault: true}, {Name: model.DefaultPartition}}}}})
	r, err := send()
	if err != nil || r.GetError() != nil || !r.GetDuplicate() || r.GetJobId() != 1 {
		t.Errorf("the repeat is answered with %v, %v", r, err)
	}
	if n := c.snap().Counts().Total(); n != 1 {
		t.Errorf("%d jobs", n)
	}
}

// Part of a request in the log and the rest not is neither done nor refused: the caller has to repeat it.
func TestHalfDoneRequestsAreNotRefused(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]error{"overloaded": raftstore.ErrOverloaded, "too large": raftstore.ErrTooLarge, "unknown": raftstore.ErrUnknown} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			big := func(i int) *fettlev1.JobSubmission {
				s := script()
				s.Script = append([]byte("#!"), make([]byte, 200<<10)...)
				return &fettlev1.JobSubmission{RequestId: fmt.Sprint("r", i), Spec: s}
			}
			req := &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{big(1), big(2), big(3), big(4), big(5)}}
			entries := 0
			c.log.OnPropose(func(*raftlogv1.Entry) (bool, error) {
				if entries++; entries == 2 {
					return false, failure
				}
				return false, nil
			})
			_, err := c.leader.client.SubmitJobs(c.as(ada), req)
			if status.Code(err) != codes.Unavailable || !strings.HasSuffix(text(err), "repeat it with the same request id") {
				t.Fatalf("answer %v", err)
			}
			if n := c.snap().Counts().Total(); n != 2 {
				t.Fatalf("%d jobs are in the log", n)
			}
			resp, err := c.leader.client.SubmitJobs(c.as(ada), req)
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range resp.GetResults() {
				if r.GetJobId() != uint64(i+1) || r.GetDuplicate() != (i < 2) {
					t.Errorf("job %d: %v", i+1, r)
				}
			}
			// The same for actions, which go in slices.
			ids := make([]uint64, 0, 600)
			for i := range 600 {
				ids = append(ids, uint64(i+1))
			}
			entries = 0
			if _, err = c.leader.client.CancelJobs(c.as(ada), &fettlev1.CancelJobsRequest{RequestId: "x", Select: sel(ids...)}); status.Code(err) != codes.Unavailable {
				t.Errorf("answer %v", err)
			}
			got, err := c.leader.client.CancelJobs(c.as(ada), &fettlev1.CancelJobsRequest{RequestId: "x", Select: sel(ids...)})
			if err != nil || len(got.GetResults()) != 600 {
				t.Errorf("repeated: %d results, %v", len(got.GetResults()), err)
			}
		})
	}
}

// An entry that the state machine refuses whole refuses each of its jobs: none is answered as if it were made.
func TestRefusedEntryRefusesItsJobs(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.log.OnPropose(func(e *raftlogv1.Entry) (bool, error) { e.Actor = &raftlogv1.Actor{Uid: 5}; return false, nil })
	resp, err := c.leader.client.SubmitJobs(c.as(ada), &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{{RequestId: "a", Spec: script()}, {RequestId: "b", Spec: script()}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range resp.GetResults() {
		if got := oneLine(r.GetError()); r.GetJobId() != 0 || got != "user: the caller has no usable user name" {
			t.Errorf("result %v", r)
		}
	}
}

func TestJobVerbs(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.node("n1")
	id := c.submit(ada, script())
	state := func() fettlev1.JobState { return c.snap().Job(id).State }
	act := func(what string, call func() error) {
		t.Helper()
		if err := call(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	act("hold", func() error {
		return actOne(c.leader.client.HoldJobs(c.as(ada), &fettlev1.JobActionRequest{Select: sel(id)}))
	})
	if !c.snap().Job(id).Held {
		t.Error("not held")
	}
	act("release", func() error {
		return actOne(c.leader.client.ReleaseJobs(c.as(ada), &fettlev1.JobActionRequest{Select: sel(id)}))
	})
	resp, err := c.leader.client.UpdateJob(c.as(ada), &fettlev1.UpdateJobRequest{JobId: id, Priority: ptr(uint32(1)), Comment: ptr("now"), TimeLimitS: ptr(int64(60))})
	if err != nil || resp.GetJob().GetSpec().GetPriority() != 1 || resp.GetJob().GetSpec().GetComment() != "now" {
		t.Errorf("update: %v, %v", resp, err)
	}
	key := c.place(id, "n1")
	c.said("n1", key, fettlev1.ReportKind_REPORT_KIND_STARTED, nil)
	requeue := &fettlev1.JobActionRequest{RequestId: "rq", Select: sel(id)}
	act("requeue", func() error { return actOne(c.leader.client.RequeueJobs(c.as(ada), requeue)) })
	if state() != model.Completing {
		t.Errorf("job %s", model.StateName(state()))
	}
	c.said("n1", key, fettlev1.ReportKind_REPORT_KIND_ENDED, &fettlev1.Exit{Signal: 15})
	// The repeat of a requeue that was carried out does not end the next attempt.
	c.said("n1", c.place(id, "n1"), fettlev1.ReportKind_REPORT_KIND_STARTED, nil)
	act("requeue again", func() error { return actOne(c.leader.client.RequeueJobs(c.as(ada), requeue)) })
	if state() != model.Running {
		t.Errorf("the repeated requeue made the job %s", model.StateName(state()))
	}
	// So with a hold that somebody has undone since.
	other := c.submit(ada, script())
	hold := &fettlev1.JobActionRequest{RequestId: "h", Select: sel(other)}
	act("hold", func() error { return actOne(c.leader.client.HoldJobs(c.as(ada), hold)) })
	act("release", func() error {
		return actOne(c.leader.client.ReleaseJobs(c.as(ada), &fettlev1.JobActionRequest{RequestId: "rel", Select: sel(other)}))
	})
	act("hold again", func() error { return actOne(c.leader.client.HoldJobs(c.as(ada), hold)) })
	if c.snap().Job(other).Held {
		t.Error("a repeated hold held the job a second time")
	}
	act("cancel", func() error {
		return actOne(c.leader.client.CancelJobs(c.as(ada), &fettlev1.CancelJobsRequest{Select: sel(id)}))
	})
	if !c.snap().Job(id).CancelRequested {
		t.Error("not cancelled")
	}
}

// list gathers a list's pages.
func (c *cluster) list(req *fettlev1.ListJobsRequest) (jobs []*fettlev1.Job, pages int, head *fettlev1.Header) {
	c.t.Helper()
	s, err := c.leader.client.ListJobs(c.ctx, req)
	if err != nil {
		c.t.Fatal(err)
	}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return jobs, pages, head
		}
		if err != nil {
			c.t.Fatal(err)
		}
		if pages == 0 {
			head = m.GetHeader()
		}
		pages++
		jobs = append(jobs, m.GetJobs()...)
	}
}

func ids(jobs []*fettlev1.Job) string {
	out := []uint64{}
	for _, j := range jobs {
		out = append(out, j.GetId())
	}
	return fmt.Sprint(out)
}

func TestListJobs(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.node("n1")
	c.node("n2")
	named := script()
	named.Name, named.Project = "other", "p"
	waits, run1, other := c.submit(ada, script()), uint64(0), uint64(0)
	run1, _ = c.running(bob, "n1")
	other = c.submit(ada, named)
	done := c.submit(bob, script())
	c.said("n2", c.place(done, "n2"), fettlev1.ReportKind_REPORT_KIND_ENDED, &fettlev1.Exit{})
	for name, tc := range map[string]struct {
		req  *fettlev1.ListJobsRequest
		want []uint64
	}{
		"unfinished":         {&fettlev1.ListJobsRequest{}, []uint64{waits, run1, other}},
		"all":                {&fettlev1.ListJobsRequest{IncludeFinished: true}, []uint64{waits, run1, other, done}},
		"by user":            {&fettlev1.ListJobsRequest{Select: &fettlev1.JobSelector{Users: []string{adaName}}}, []uint64{waits, other}},
		"by two users":       {&fettlev1.ListJobsRequest{Select: &fettlev1.JobSelector{Users: []string{adaName, bobName}}}, []uint64{waits, run1, other}},
		"by state":           {&fettlev1.ListJobsRequest{Select: &fettlev1.JobSelector{States: []fettlev1.JobState{model.Running}}}, []uint64{run1}},
		"by name":            {&fettlev1.ListJobsRequest{Select: &fettlev1.JobSelector{Names: []string{"other"}}}, []uint64{other}},
		"by project":         {&fettlev1.ListJobsRequest{Select: &fettlev1.JobSelector{Projects: []string{"p"}}}, []uint64{other}},
		"by partition":       {&fettlev1.ListJobsRequest{Select: &fettlev1.JobSelector{Partitions: []string{"none"}}}, []uint64{}},
		"by node":            {&fettlev1.ListJobsRequest{Select: &fettlev1.JobSelector{Nodes: []string{"n1"}}}, []uint64{run1}},
		"by node, finished":  {&fettlev1.ListJobsRequest{IncludeFinished: true, Select: &fettlev1.JobSelector{Nodes: []string{"n2"}}}, []uint64{done}},
		"by id":              {&fettlev1.ListJobsRequest{Select: sel(done, 99, waits, waits)}, []uint64{waits, done}},
		"by id and user":     {&fettlev1.ListJobsRequest{Select: &fettlev1.JobSelector{Ids: []uint64{waits, run1}, Users: []string{bobName}}}, []uint64{run1}},
		"first two":          {&fettlev1.ListJobsRequest{Limit: 2}, []uint64{waits, run1}},
		"after the first":    {&fettlev1.ListJobsRequest{AfterId: waits, Limit: 1}, []uint64{run1}},
		"after the last":     {&fettlev1.ListJobsRequest{AfterId: 1 << 63}, []uint64{}},
		"finished, by state": {&fettlev1.ListJobsRequest{IncludeFinished: true, Select: &fettlev1.JobSelector{States: []fettlev1.JobState{model.Completed}}}, []uint64{done}},
	} {
		jobs, _, head := c.list(tc.req)
		if ids(jobs) != fmt.Sprint(tc.want) {
			t.Errorf("%s: %s, want %v", name, ids(jobs), tc.want)
		}
		if head.GetIndex() != c.snap().Index() || head.GetLevel() != fettlev1.ReadLevel_READ_LEVEL_STALE {
			t.Errorf("%s: header %v", name, head)
		}
	}
}

// A list of anything goes through in messages of bounded size.
func TestListsArePaged(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	submit := func(n int, script []byte) {
		req := &fettlev1.SubmitJobsRequest{}
		for range n {
			req.Jobs = append(req.Jobs, &fettlev1.JobSubmission{RequestId: c.requestID(), Spec: &fettlev1.JobSpec{Script: script, WorkDir: "/w"}})
		}
		resp, err := c.leader.client.SubmitJobs(c.as(ada), req)
		if err != nil || resp.GetResults()[n-1].GetError() != nil {
			t.Fatal(err, resp.GetResults()[n-1])
		}
	}
	for range 3 {
		submit(900, []byte("#!/bin/true\n"))
	}
	jobs, pages, _ := c.list(&fettlev1.ListJobsRequest{})
	if len(jobs) != 2700 || pages != 3 || !slices.IsSortedFunc(jobs, func(a, b *fettlev1.Job) int { return int(a.GetId()) - int(b.GetId()) }) {
		t.Errorf("%d jobs in %d pages", len(jobs), pages)
	}
	for range 4 {
		submit(30, append([]byte("#!"), make([]byte, 250<<10)...))
	}
	jobs, pages, _ = c.list(&fettlev1.ListJobsRequest{Full: true, AfterId: 2700})
	size := 0
	for _, j := range jobs {
		size += proto.Size(j)
	}
	if len(jobs) != 120 || pages < size/(4<<20) {
		t.Errorf("%d jobs of %d MiB in %d pages", len(jobs), size>>20, pages)
	}
}

func TestReadLevels(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	id := c.submit(ada, script())
	get := func(ctl *controller, level fettlev1.ReadLevel) (*fettlev1.Header, error) {
		resp, err := ctl.client.GetJob(c.ctx, &fettlev1.GetJobRequest{JobId: id, Read: &fettlev1.ReadOptions{Level: level}})
		return resp.GetHeader(), err
	}
	const stale, leader, linear = fettlev1.ReadLevel_READ_LEVEL_STALE, fettlev1.ReadLevel_READ_LEVEL_LEADER, fettlev1.ReadLevel_READ_LEVEL_LINEARIZABLE
	for _, tc := range []struct {
		ask        *controller
		level      fettlev1.ReadLevel
		from       string
		labelledAs fettlev1.ReadLevel
	}{
		{c.follower, fettlev1.ReadLevel_READ_LEVEL_UNSPECIFIED, "c2", stale},
		{c.follower, stale, "c2", stale},
		{c.follower, leader, "c1", leader},
		{c.follower, linear, "c1", linear},
		{c.leader, stale, "c1", stale},
		{c.leader, leader, "c1", leader},
		{c.leader, linear, "c1", linear},
	} {
		h, err := get(tc.ask, tc.level)
		if err != nil || h.GetServerName() != tc.from || h.GetLevel() != tc.labelledAs || h.GetIsLeader() != (tc.from == "c1") || h.GetLeaderAddr() != c.leader.addr {
			t.Errorf("%s at %v: %v, %v", tc.ask.name, tc.level, h, err)
		}
	}
	// Age is told by the machine's own clock, not by the cluster's, which may be ahead of it.
	c.follower.raft.set(func() { c.follower.raft.contact = time.Now().Add(-3 * time.Second) })
	c.follower.srv.cfg.Now = func() time.Time { return time.Now().Add(time.Hour) }
	if h, err := get(c.follower, stale); err != nil || h.GetAgeMs() < 3_000 || h.GetAgeMs() > 1_800_000 {
		t.Errorf("age %d ms, %v", h.GetAgeMs(), err)
	}
	c.follower.raft.set(func() { c.follower.raft.contact = time.Time{} })
	if h, _ := get(c.follower, stale); h.GetAgeMs() != -1 {
		t.Errorf("age %d ms without ever having heard of a leader", h.GetAgeMs())
	}
	// Nobody leads: what is there can still be read, and says so.
	for _, ctl := range []*controller{c.leader, c.follower} {
		ctl.raft.set(func() { ctl.raft.leader = raftstore.Leader{} })
	}
	if h, err := get(c.follower, stale); err != nil || h.GetLeaderAddr() != "" || h.GetIsLeader() {
		t.Errorf("without a leader: %v, %v", h, err)
	}
	short, cancel := context.WithTimeout(c.ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := c.follower.client.GetJob(short, &fettlev1.GetJobRequest{JobId: id, Read: &fettlev1.ReadOptions{Level: linear}}); err == nil {
		t.Error("a linearizable read without a leader")
	}
}

func TestReadYourWrites(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	id := c.submit(ada, script())
	next := c.snap().Index() + 1
	got := make(chan *fettlev1.GetJobResponse, 1)
	go func() {
		resp, err := c.follower.client.GetJob(c.ctx, &fettlev1.GetJobRequest{JobId: id, Read: &fettlev1.ReadOptions{MinIndex: next}})
		if err != nil {
			t.Error(err)
		}
		got <- resp
	}()
	if err := update(c, ada, &fettlev1.UpdateJobRequest{JobId: id, Comment: ptr("written")}); err != nil {
		t.Fatal(err)
	}
	if resp := <-got; resp.GetJob().GetSpec().GetComment() != "written" || resp.GetHeader().GetIndex() < next {
		t.Errorf("read %v", resp)
	}
}

// Rows say why jobs wait and how far they are, on every controller, though only the leader knows.
func TestRowsShowWhatTheLeaderKnows(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.node("n1")
	id, later := c.submit(ada, script()), c.submit(ada, &fettlev1.JobSpec{Script: []byte("#!/bin/true\n"), WorkDir: "/w", BeginMs: time.Now().Add(time.Hour).UnixMilli()})
	c.scheduler.mu.Lock()
	c.scheduler.waits = map[uint64]sched.Wait{id: {Reason: fettlev1.Reason_REASON_RESOURCES, Detail: "2 GPUs"}}
	c.scheduler.mu.Unlock()
	for _, ctl := range []*controller{c.leader, c.follower} {
		resp, err := ctl.client.GetJob(c.ctx, &fettlev1.GetJobRequest{JobId: id})
		if err != nil || resp.GetJob().GetReason() != fettlev1.Reason_REASON_RESOURCES || resp.GetJob().GetDetail() != "2 GPUs" {
			t.Errorf("%s says %v, %v", ctl.name, resp.GetJob(), err)
		}
		resp, err = ctl.client.GetJob(c.ctx, &fettlev1.GetJobRequest{JobId: later})
		if err != nil || resp.GetJob().GetReason() != fettlev1.Reason_REASON_BEGIN_TIME {
			t.Errorf("%s says %v, %v", ctl.name, resp.GetJob().GetReason(), err)
		}
	}
	// A leader that does not answer holds nobody up for long, and nobody is told a reason that is made up.
	c.follower.srv.views.mu.Lock()
	c.follower.srv.views.view, c.follower.srv.views.at = nil, time.Time{}
	c.follower.srv.views.mu.Unlock()
	c.follower.srv.cfg.Dial = func(string) (fettlev1.ControllerServiceClient, error) { return nil, errors.New("no route") }
	resp, err := c.follower.client.GetJob(c.ctx, &fettlev1.GetJobRequest{JobId: id})
	if err != nil || resp.GetJob().GetReason() != fettlev1.Reason_REASON_UNSPECIFIED {
		t.Errorf("cut off: %v, %v", resp.GetJob(), err)
	}
}
