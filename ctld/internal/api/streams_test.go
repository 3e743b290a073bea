package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// watch opens a watch and takes its first message, the header.
func (c *cluster) watch(ctl *controller, req *fettlev1.WatchEventsRequest) (fettlev1.ControllerService_WatchEventsClient, *fettlev1.WatchEventsResponse) {
	c.t.Helper()
	s, err := ctl.client.WatchEvents(c.ctx, req)
	if err != nil {
		c.t.Fatal(err)
	}
	first, err := s.Recv()
	if err != nil {
		c.t.Fatal(err)
	}
	return s, first
}

// events takes n events.
func (c *cluster) events(s fettlev1.ControllerService_WatchEventsClient, n int) []*fettlev1.Event {
	c.t.Helper()
	var out []*fettlev1.Event
	for len(out) < n {
		m, err := s.Recv()
		if err != nil || m.GetResync() {
			c.t.Fatalf("after %d events: %v, %v", len(out), m, err)
		}
		out = append(out, m.GetEvents()...)
	}
	return out
}

func TestWatchFollowsFromNow(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.submit(ada, script())
	for _, ctl := range []*controller{c.leader, c.follower} {
		before := c.snap().Index()
		s, first := c.watch(ctl, &fettlev1.WatchEventsRequest{})
		if first.GetHeader().GetIndex() != before || first.GetResync() {
			t.Errorf("first message %v at index %d", first, before)
		}
		id := c.submit(ada, script())
		e := c.events(s, 1)[0]
		if e.GetJobId() != id || e.GetState() != model.Pending || e.GetIndex() <= before || e.GetUser() != adaName {
			t.Errorf("event %v of job %d", e, id)
		}
	}
}

func TestWatchFromAnIndex(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.node("n1")
	start := c.snap().Index()
	id, key := c.running(ada, "n1")
	c.said("n1", key, fettlev1.ReportKind_REPORT_KIND_ENDED, &fettlev1.Exit{})
	s, _ := c.watch(c.leader, &fettlev1.WatchEventsRequest{AfterIndex: start, Select: sel(id)})
	var got []fettlev1.JobState
	var last uint64
	for _, e := range c.events(s, 4) {
		got = append(got, e.GetState())
		if e.GetIndex() <= last {
			t.Errorf("event %v out of order", e)
		}
		last = e.GetIndex()
	}
	if want := []fettlev1.JobState{model.Pending, model.Dispatching, model.Running, model.Completed}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("states %v, want %v", got, want)
	}
	// An index that this controller comes to in a moment is waited for.
	ahead := c.snap().Index() + 1
	opened := make(chan *fettlev1.WatchEventsResponse, 1)
	go func() {
		_, first := c.watch(c.follower, &fettlev1.WatchEventsRequest{AfterIndex: ahead})
		opened <- first
	}()
	c.node("n2")
	if first := <-opened; first.GetResync() || first.GetHeader().GetIndex() < ahead {
		t.Errorf("first message %v", first)
	}
	// One that it does not come to is none to watch from.
	c.leader.srv.applyWait = 10 * time.Millisecond
	if _, first := c.watch(c.leader, &fettlev1.WatchEventsRequest{AfterIndex: 1 << 40}); !first.GetResync() || first.GetHeader().GetIndex() != c.snap().Index() {
		t.Errorf("first message %v, want to list again", first)
	}
}

func TestWatchSelects(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	start := c.snap().Index()
	first, second := c.submit(ada, script()), c.submit(bob, script())
	for _, id := range []uint64{first, second} {
		if err := actOne(c.leader.client.CancelJobs(c.ctx, &fettlev1.CancelJobsRequest{Select: sel(id)})); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		sel  *fettlev1.JobSelector
		want string
	}{
		"by user":  {&fettlev1.JobSelector{Users: []string{bobName}}, "[2 PD 2 CA]"},
		"by state": {&fettlev1.JobSelector{States: []fettlev1.JobState{model.Cancelled}}, "[1 CA 2 CA]"},
		"by both":  {&fettlev1.JobSelector{Users: []string{adaName}, States: []fettlev1.JobState{model.Pending}}, "[1 PD]"},
	} {
		s, _ := c.watch(c.leader, &fettlev1.WatchEventsRequest{AfterIndex: start, Select: tc.sel})
		m, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range m.GetEvents() {
			got = append(got, fmt.Sprint(e.GetJobId(), " ", model.Code(e.GetState())))
		}
		if fmt.Sprint(got) != tc.want {
			t.Errorf("%s: %v, want %s", name, got, tc.want)
		}
	}
}

// A watcher that asks for events that are no longer held is told to list again.
func TestWatchResyncs(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.node("n1")
	start := c.snap().Index()
	s, _ := c.watch(c.leader, &fettlev1.WatchEventsRequest{}) // reads nothing while all of this happens
	for range 70 {
		req := &fettlev1.SubmitJobsRequest{}
		for range 1000 {
			req.Jobs = append(req.Jobs, &fettlev1.JobSubmission{RequestId: c.requestID(), Spec: script()})
		}
		if _, err := c.leader.client.SubmitJobs(c.as(ada), req); err != nil {
			t.Fatal(err)
		}
	}
	if _, first := c.watch(c.leader, &fettlev1.WatchEventsRequest{AfterIndex: start}); first.GetResync() {
		t.Error("the first message has no header")
	}
	again, _ := c.watch(c.leader, &fettlev1.WatchEventsRequest{AfterIndex: start})
	m, err := again.Recv()
	if err != nil || !m.GetResync() || m.GetHeader().GetIndex() != c.snap().Index() {
		t.Fatalf("got %v, %v; want to list again", m, err)
	}
	if _, err := again.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("then %v, want the end", err)
	}
	// The slow one gets everything in order, or is told the same.
	last := uint64(0)
	for seen := 0; seen < 70_000; {
		m, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetResync() {
			return
		}
		for _, e := range m.GetEvents() {
			if e.GetJobId() != last+1 {
				t.Fatalf("job %d after job %d", e.GetJobId(), last)
			}
			last = e.GetJobId()
		}
		seen += len(m.GetEvents())
	}
}

func TestStreamsAreLimited(t *testing.T) {
	t.Parallel()
	var q quota
	var leaves []func()
	enter := func(uid uint32) error {
		leave, err := q.enter(uid)
		if err == nil {
			leaves = append(leaves, leave)
		}
		return err
	}
	for range maxStreamsPerUser {
		if err := enter(ada); err != nil {
			t.Fatal(err)
		}
	}
	if err := enter(ada); status.Code(err) != codes.ResourceExhausted || text(err) != "you have 512 streams open on this controller, the limit; end some of those that watch or follow" {
		t.Errorf("one too many: %v", err)
	}
	for uid := uint32(0); q.all < maxStreams; uid++ {
		if err := enter(2000 + uid%100); err != nil {
			t.Fatal(err)
		}
	}
	if err := enter(5); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one too many of all: %v", err)
	}
	for _, leave := range leaves {
		leave()
	}
	if q.all != 0 || len(q.byUser) != 0 {
		t.Errorf("left over: %d, %v", q.all, q.byUser)
	}
}

// fakeNode answers orders to read output from memory, as a node with these files would.
type fakeNode struct {
	c      *cluster
	files  map[uint32]string // by attempt
	orders chan *fettlev1.ReadNodeLog
	stream fettlev1.NodeService_SessionClient
}

// connect opens the node's session.
func (c *cluster) connect(name string) *fakeNode {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.ctx)
	c.t.Cleanup(cancel)
	s, err := c.leader.nodes.Session(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := s.Send(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Hello{Hello: &fettlev1.Hello{ClusterId: "c", Node: name, BootId: "boot", Inventory: inventory()}}}); err != nil {
		c.t.Fatal(err)
	}
	if m, err := s.Recv(); err != nil || m.GetWelcome() == nil {
		c.t.Fatalf("no welcome: %v, %v", m, err)
	}
	return &fakeNode{c: c, files: map[uint32]string{}, orders: make(chan *fettlev1.ReadNodeLog, 16), stream: s}
}

// serve answers reads until the stream ends.
func (n *fakeNode) serve() {
	for {
		m, err := n.stream.Recv()
		if err != nil {
			return
		}
		o := m.GetReadLog()
		if o == nil || o.GetStop() {
			continue
		}
		n.orders <- o
		data := n.files[o.GetKey().GetAttempt()]
		offset := o.GetOffset()
		if tail := int(o.GetTailBytes()); tail > 0 {
			offset = int64(max(len(data)-tail, 0))
		}
		s, err := n.c.leader.nodes.PushLog(n.c.ctx)
		if err != nil {
			continue
		}
		if data == "" {
			_ = s.Send(&fettlev1.PushLogRequest{ReadId: o.GetReadId(), Error: "no such file"})
			continue
		}
		_ = s.Send(&fettlev1.PushLogRequest{ReadId: o.GetReadId(), Offset: offset, Data: []byte(data[offset:])})
		_ = s.Send(&fettlev1.PushLogRequest{ReadId: o.GetReadId(), Eof: true})
	}
}

// transcript is what a reader of output sees: "1@0:text" for each piece, then the job's state if it is told.
func transcript(t *testing.T, s fettlev1.ControllerService_ReadLogClient) string {
	t.Helper()
	out := ""
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			return out + " " + text(err)
		}
		if m.GetJob() != nil {
			out += " " + model.StateName(m.GetJob().GetState())
			continue
		}
		out += fmt.Sprintf(" %d@%d:%s", m.GetAttempt(), m.GetOffset(), m.GetData())
	}
}

func TestReadLogRanges(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.connect("n1")
	go n.serve()
	n.files[1], n.files[2] = "first attempt", "second"
	id, key := c.running(ada, "n1")
	c.must(&raftlogv1.Entry{Actor: &raftlogv1.Actor{User: adaName, Uid: ada}, Op: &raftlogv1.Entry_Requeue{Requeue: &raftlogv1.RequeueJobs{Ids: []uint64{id}}}})
	c.said("n1", key, fettlev1.ReportKind_REPORT_KIND_ENDED, &fettlev1.Exit{Signal: 15})
	key = c.place(id, "n1")
	c.said("n1", key, fettlev1.ReportKind_REPORT_KIND_STARTED, nil)
	read := func(ctl *controller, req *fettlev1.ReadLogRequest) string {
		t.Helper()
		req.JobId = id
		s, err := ctl.client.ReadLog(c.ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		return transcript(t, s)
	}
	for name, tc := range map[string]struct {
		req  *fettlev1.ReadLogRequest
		want string
	}{
		"the newest":        {&fettlev1.ReadLogRequest{}, " 2@0:second"},
		"by number":         {&fettlev1.ReadLogRequest{Attempt: 1}, " 1@0:first attempt"},
		"its end":           {&fettlev1.ReadLogRequest{Attempt: 1, TailBytes: 7}, " 1@6:attempt"},
		"from where it was": {&fettlev1.ReadLogRequest{Offset: 3}, " 2@3:ond"},
		"by node":           {&fettlev1.ReadLogRequest{Node: "n1"}, " 2@0:second"},
	} {
		for _, ctl := range []*controller{c.leader, c.follower} {
			if got := read(ctl, tc.req); got != tc.want {
				t.Errorf("%s, through %s: %q, want %q", name, ctl.name, got, tc.want)
			}
		}
	}
	for len(n.orders) > 0 {
		o := <-n.orders
		if o.GetUser() != adaName || o.GetUid() != ada || o.GetPath() == "" {
			t.Errorf("order %v: the node has to read as the job's user", o)
		}
	}
	c.said("n1", key, fettlev1.ReportKind_REPORT_KIND_ENDED, &fettlev1.Exit{StdoutStart: 20})
	// A node that has forgotten the attempt is told where its output begins.
	_ = read(c.leader, &fettlev1.ReadLogRequest{})
	if o := <-n.orders; o.GetStart() != 20 {
		t.Errorf("order %v", o)
	}
	// Followed from a named attempt: all of what comes after it, and only the first has an offset.
	if got, want := read(c.leader, &fettlev1.ReadLogRequest{Follow: true, Attempt: 1, Offset: 6}), " 1@6:attempt 2@0:second COMPLETED"; got != want {
		t.Errorf("followed from the first: %q, want %q", got, want)
	}
	if got, want := read(c.leader, &fettlev1.ReadLogRequest{Follow: true, Attempt: 1, TailBytes: 3}), " 1@10:mpt 2@0:second COMPLETED"; got != want {
		t.Errorf("the end of the first, and what follows: %q, want %q", got, want)
	}
	if got, want := read(c.leader, &fettlev1.ReadLogRequest{}), " 2@0:second COMPLETED"; got != want {
		t.Errorf("of a finished job: %q, want %q", got, want)
	}
	n.files[2] = ""
	if got, want := read(c.leader, &fettlev1.ReadLogRequest{}), " read log: no such file"; got != want {
		t.Errorf("a file that is gone: %q, want %q", got, want)
	}
}

// A reader that follows waits for the first start, goes on with the next attempt, and ends when the job does.
func TestReadLogFollowsAJobsLife(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.connect("n1")
	go n.serve()
	n.files[1], n.files[3] = "one", "three"
	id := c.submit(ada, script())
	s, err := c.leader.client.ReadLog(c.as(ada), &fettlev1.ReadLogRequest{JobId: id, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() { got <- transcript(t, s) }()
	requeue := func() {
		c.must(&raftlogv1.Entry{Actor: &raftlogv1.Actor{User: adaName, Uid: ada}, Op: &raftlogv1.Entry_Requeue{Requeue: &raftlogv1.RequeueJobs{Ids: []uint64{id}}}})
	}
	key := c.place(id, "n1")
	c.said("n1", key, fettlev1.ReportKind_REPORT_KIND_STARTED, nil)
	if o := <-n.orders; !o.GetFollow() || o.GetKey().GetAttempt() != 1 {
		t.Errorf("order %v", o)
	}
	requeue()
	c.said("n1", key, fettlev1.ReportKind_REPORT_KIND_ENDED, &fettlev1.Exit{Signal: 15})
	// The second attempt never starts and has nothing to show.
	key = c.place(id, "n1")
	requeue()
	c.said("n1", key, fettlev1.ReportKind_REPORT_KIND_ENDED, &fettlev1.Exit{NeverStarted: true})
	key = c.place(id, "n1")
	c.said("n1", key, fettlev1.ReportKind_REPORT_KIND_STARTED, nil)
	if o := <-n.orders; o.GetKey().GetAttempt() != 3 {
		t.Errorf("order %v", o)
	}
	c.said("n1", key, fettlev1.ReportKind_REPORT_KIND_ENDED, &fettlev1.Exit{Code: 4})
	if out := <-got; out != " 1@0:one 3@0:three FAILED" {
		t.Errorf("read %q", out)
	}
}

func TestReadLogOfJobsWithoutOutput(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.node("n1")
	id := c.submit(ada, script())
	read := func(req *fettlev1.ReadLogRequest) string {
		t.Helper()
		s, err := c.leader.client.ReadLog(c.as(ada), req)
		if err != nil {
			t.Fatal(err)
		}
		return transcript(t, s)
	}
	if got := read(&fettlev1.ReadLogRequest{JobId: id}); got != "" {
		t.Errorf("a job that waits: %q", got)
	}
	done := make(chan string, 1)
	go func() { done <- read(&fettlev1.ReadLogRequest{JobId: id, Follow: true}) }()
	if err := actOne(c.leader.client.CancelJobs(c.as(ada), &fettlev1.CancelJobsRequest{Select: sel(id)})); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got != " CANCELLED" {
		t.Errorf("a job that is cancelled before it starts: %q", got)
	}
	// Attempts that are no longer on record.
	old := c.submit(ada, script())
	for range model.MaxAttemptsKept + 2 {
		key := c.place(old, "n1")
		c.must(&raftlogv1.Entry{Actor: &raftlogv1.Actor{User: adaName, Uid: ada}, Op: &raftlogv1.Entry_Requeue{Requeue: &raftlogv1.RequeueJobs{Ids: []uint64{old}}}})
		c.said("n1", key, fettlev1.ReportKind_REPORT_KIND_ENDED, &fettlev1.Exit{NeverStarted: true})
	}
	if got := read(&fettlev1.ReadLogRequest{JobId: old, Attempt: 1}); got != " attempt: attempt 1 of job 2 is no longer on record; leave the attempt out for the newest" {
		t.Errorf("a forgotten attempt: %q", got)
	}
	if err := actOne(c.leader.client.CancelJobs(c.as(ada), &fettlev1.CancelJobsRequest{Select: sel(old)})); err != nil {
		t.Fatal(err)
	}
	if got := read(&fettlev1.ReadLogRequest{JobId: old, Attempt: 1, Follow: true}); got != " CANCELLED" {
		t.Errorf("followed from a forgotten attempt: %q", got)
	}
	c.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_Purge{Purge: &raftlogv1.PurgeJobs{Ids: []uint64{old}}}})
	if got := read(&fettlev1.ReadLogRequest{JobId: old}); got != " job: no such job of yours: 2; fqueue --all lists your jobs" {
		t.Errorf("a purged job: %q", got)
	}
}
