package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// long bounds every wait for what must happen.
const long = 30 * time.Second

// service is a Server behind gRPC, on a job table with a log of one member.
type service struct {
	*table
	srv    *Server
	client fettlev1.NodeServiceClient
	ctx    context.Context
	// verified says whether leadership can be proven, denied what nodes are told.
	verified atomic.Bool
	denied   atomic.Pointer[error]
	wakes    atomic.Int64
}

var errHint = status.Error(codes.FailedPrecondition, "this controller is not the leader")

func newService(t *testing.T, change func(*Config), nodes ...string) *service {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), long)
	sv := &service{table: newTable(t, nodes...), ctx: ctx}
	sv.verified.Store(true)
	// Slow enough that a busy machine makes nobody unreachable.
	times := Config{HeartbeatMS: 200, UnreachableMS: 600_000}
	if change != nil {
		change(&times)
	}
	sv.srv = NewServer(ServerConfig{
		Times: times, Store: sv.log.Store(), Proposer: sv.log.ForNodes(), ClusterID: "c", Logger: slog.New(slog.DiscardHandler),
		LeaderHint: func() error { return errHint },
		VerifyLeader: func(context.Context) error {
			if !sv.verified.Load() {
				return errNoQuorum
			}
			return nil
		},
		AuthorizeNode: func(context.Context, string) error {
			if p := sv.denied.Load(); p != nil {
				return *p
			}
			return nil
		},
	})
	sv.srv.OnConnectivity(func() { sv.wakes.Add(1) })
	ln := bufconn.Listen(1 << 16)
	g := grpc.NewServer()
	fettlev1.RegisterNodeServiceServer(g, sv.srv)
	served := make(chan error, 1)
	go func() { served <- g.Serve(ln) }()
	cc, err := grpc.NewClient("passthrough:///node", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	sv.client = fettlev1.NewNodeServiceClient(cc)
	t.Cleanup(func() {
		cancel()
		_ = cc.Close()
		g.Stop()
		sv.srv.Close()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return sv
}

// leads begins a term; the returned function ends it and waits until nothing of it is left.
func (sv *service) leads(term uint64) (stop func()) {
	ctx, cancel := context.WithCancel(sv.ctx)
	done := make(chan struct{})
	go func() { sv.srv.Lead(ctx, term); close(done) }()
	sv.until("the term begins", func() bool { return sv.srv.cur.Load() != nil })
	stop = sync.OnceFunc(func() { cancel(); <-done })
	sv.t.Cleanup(stop)
	return stop
}

// until polls for something that has to come about.
func (sv *service) until(what string, ok func() bool) {
	sv.t.Helper()
	for !ok() {
		select {
		case <-sv.ctx.Done():
			sv.t.Fatalf("not in time: %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// fakeNode is a node that says what the test wants.
type fakeNode struct {
	sv     *service
	name   string
	stream fettlev1.NodeService_SessionClient
	cancel context.CancelFunc
}

// dial opens a stream and says hello.
func (sv *service) dial(name string, attempts ...*fettlev1.AttemptReport) *fakeNode {
	sv.t.Helper()
	ctx, cancel := context.WithCancel(sv.ctx)
	stream, err := sv.client.Session(ctx)
	if err != nil {
		sv.t.Fatal(err)
	}
	n := &fakeNode{sv: sv, name: name, stream: stream, cancel: cancel}
	sv.t.Cleanup(cancel)
	n.say(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Hello{Hello: &fettlev1.Hello{
		ClusterId: "c", Node: name, BootId: "boot", Inventory: inventory(name), Attempts: attempts,
	}}})
	return n
}

// join dials and waits for the session.
func (sv *service) join(name string, attempts ...*fettlev1.AttemptReport) *fakeNode {
	sv.t.Helper()
	n := sv.dial(name, attempts...)
	n.want("welcome")
	return n
}

func (n *fakeNode) say(m *fettlev1.NodeMessage) {
	n.sv.t.Helper()
	// A stream that the server has ended already says so here by io.EOF; why, the next Recv tells.
	if err := n.stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
		n.sv.t.Fatal(err)
	}
}

func (n *fakeNode) reports(key *fettlev1.AttemptKey, kind fettlev1.ReportKind) {
	n.sv.t.Helper()
	n.say(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Report{Report: report(key, kind)}})
}

func (n *fakeNode) beat() {
	n.sv.t.Helper()
	n.say(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Heartbeat{Heartbeat: &fettlev1.Heartbeat{}}})
}

// want receives one message and checks what it is.
func (n *fakeNode) want(kind string) *fettlev1.ControllerMessage {
	n.sv.t.Helper()
	m, err := n.stream.Recv()
	if err != nil {
		n.sv.t.Fatalf("%s waits for %q: %v", n.name, kind, err)
	}
	if got := kinds([]*fettlev1.ControllerMessage{m})[0]; got != kind {
		n.sv.t.Fatalf("%s got %q, want %q", n.name, got, kind)
	}
	return m
}

// wantEnd receives until the stream ends and checks why.
func (n *fakeNode) wantEnd(code codes.Code, text string) {
	n.sv.t.Helper()
	for {
		_, err := n.stream.Recv()
		if err == nil {
			continue
		}
		if st := status.Convert(err); st.Code() != code || (text != "" && st.Message() != text) {
			n.sv.t.Errorf("the stream of %s ended with %v, want %s %q", n.name, err, code, text)
		}
		return
	}
}

func TestJobOverTheWire(t *testing.T) {
	t.Parallel()
	sv := newService(t, nil)
	sv.leads(1)
	n := sv.join("n1")
	if !sv.srv.Connected()("n1") || sv.srv.Connected()("n2") || sv.wakes.Load() == 0 {
		t.Error("the session is not known")
	}
	if at := sv.srv.LastContactMS()["n1"]; time.Since(time.UnixMilli(at)).Abs() > time.Hour {
		t.Errorf("last contact %v is not a time of day", time.UnixMilli(at))
	}
	n.beat()
	n.want("lease")
	key := sv.dispatched(nil, "n1")
	n.want("prepare 1.1")
	n.reports(key, started)
	sv.until("the job runs", func() bool { return sv.snap().Job(1).State == model.Running })
	if missed := sv.srv.Signal([]uint64{1}, 10); len(missed) != 0 {
		t.Errorf("the signal missed %v", missed)
	}
	n.want("signal 10 1.1")
	limit := int64(900)
	sv.must(&raftlogv1.Entry{Actor: ada, Op: &raftlogv1.Entry_UpdateJob{UpdateJob: &fettlev1.UpdateJobRequest{JobId: 1, TimeLimitS: &limit}}})
	n.want("limit 900 1.1")
	n.reports(key, ended)
	n.want("ack 1.1")
	if j := sv.snap().Job(1); j.State != model.Completed {
		t.Errorf("acknowledged, but the job is %s", model.StateName(j.State))
	}
	if missed := sv.srv.Signal([]uint64{1}, 10); len(missed) != 1 {
		t.Error("a finished job was signalled")
	}
	n.cancel()
	sv.until("the node is gone", func() bool { return !sv.srv.Connected()("n1") })
}

func TestStreamsThatAreRefused(t *testing.T) {
	t.Parallel()
	hello := func(h *fettlev1.Hello) *fettlev1.NodeMessage {
		return &fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Hello{Hello: h}}
	}
	good := &fettlev1.Hello{ClusterId: "c", Node: "n1", BootId: "b", Inventory: inventory("n1")}
	for name, tc := range map[string]struct {
		first  *fettlev1.NodeMessage
		denied error
		code   codes.Code
		text   string
	}{
		"no hello": {first: &fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Heartbeat{Heartbeat: &fettlev1.Heartbeat{}}},
			code: codes.InvalidArgument, text: "the first message of a session must be a hello"},
		"nothing":            {code: codes.InvalidArgument, text: "the stream ended before its hello"},
		"another cluster":    {first: hello(&fettlev1.Hello{ClusterId: "d", Node: "n1"}), code: codes.FailedPrecondition, text: "node n1 belongs to cluster d, this is c: give it an empty state_dir to join here"},
		"refused by the log": {first: hello(&fettlev1.Hello{ClusterId: "c", Node: "n1", BootId: "b", Inventory: &fettlev1.Inventory{}}), code: codes.FailedPrecondition},
		"no name":            {first: hello(&fettlev1.Hello{ClusterId: "c", Inventory: inventory("x")}), code: codes.FailedPrecondition},
		"not allowed":        {first: hello(good), denied: errors.New("only admins run nodes"), code: codes.PermissionDenied, text: "only admins run nodes"},
		"unknown caller":     {first: hello(good), denied: status.Error(codes.Unauthenticated, "who is it"), code: codes.Unauthenticated, text: "who is it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sv := newService(t, nil)
			sv.leads(1)
			if tc.denied != nil {
				sv.denied.Store(&tc.denied)
			}
			stream, err := sv.client.Session(sv.ctx)
			if err != nil {
				t.Fatal(err)
			}
			n := &fakeNode{sv: sv, name: "n1", stream: stream}
			if tc.first != nil {
				n.say(tc.first)
			} else if err := stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
			n.wantEnd(tc.code, tc.text)
			if sv.snap().Node("n1") != nil && tc.code != codes.OK {
				t.Error("the node is registered")
			}
		})
	}
}

func TestSessionThatSpeaksOutOfTurn(t *testing.T) {
	t.Parallel()
	sv := newService(t, nil)
	sv.leads(1)
	n := sv.join("n1")
	n.say(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Hello{Hello: &fettlev1.Hello{Node: "n2"}}})
	n.wantEnd(codes.InvalidArgument, "")
	sv.until("the session is over", func() bool { return !sv.srv.Connected()("n1") })
}

func TestFollowersSendNodesToTheLeader(t *testing.T) {
	t.Parallel()
	sv := newService(t, nil)
	sv.dial("n1").wantEnd(codes.FailedPrecondition, status.Convert(errHint).Message())
	if missed := sv.srv.Signal([]uint64{4}, 9); !slices.Equal(missed, []uint64{4}) {
		t.Errorf("a follower's signal missed %v", missed)
	}
	if err := sv.srv.ReadLog(sv.ctx, "n1", &fettlev1.ReadNodeLog{}, nil); !errors.Is(err, errHint) {
		t.Errorf("a follower's read: %v", err)
	}
	stop := sv.leads(2)
	n := sv.join("n1")
	stop()
	n.wantEnd(codes.FailedPrecondition, status.Convert(errHint).Message())
	if sv.srv.Connected()("n1") || len(sv.srv.LastContactMS()) != 0 {
		t.Error("a former leader has connections")
	}
	// The next term starts afresh.
	sv.leads(3)
	sv.join("n1")
}

func TestNoLeaseFromALeaderThatCannotProveIt(t *testing.T) {
	t.Parallel()
	sv := newService(t, nil)
	sv.verified.Store(false)
	sv.leads(1)
	n := sv.join("n1")
	n.beat()
	// Orders still come, leases do not.
	sv.dispatched(nil, "n1")
	n.want("prepare 1.1")
	sv.verified.Store(true)
	n.want("lease")
}

func TestProofOfLeadershipGrowsOld(t *testing.T) {
	t.Parallel()
	// The clock of leases is the test's own; whatever the wall clock does is of no account.
	var clock, wall atomic.Int64
	sv := newService(t, nil)
	sv.srv.cfg.Clock = clock.Load
	sv.srv.cfg.Now = func() time.Time { return time.UnixMilli(wall.Load()) }
	clock.Store(1_000_000)
	sv.leads(1)
	n := sv.join("n1")
	n.beat()
	n.want("lease")
	sv.verified.Store(false)
	for _, jump := range []int64{-10 * 365 * 24 * 3_600_000, 0, 10 * 365 * 24 * 3_600_000} {
		wall.Store(jump)
		clock.Add(verifiedWithinMS + 1)
		n.beat()
		k := sv.dispatched(nil, "n1")
		n.want(fmt.Sprintf("prepare %d.1", k.GetJobId()))
	}
	if at := sv.srv.LastContactMS()["n1"]; at != wall.Load()-3*(verifiedWithinMS+1) {
		t.Errorf("last contact %d at wall time %d", at, wall.Load())
	}
	sv.verified.Store(true)
	n.want("lease")
}

// Callers get an answer, or know that there is none, also while the term ends under them.
func TestTermsEndUnderCallers(t *testing.T) {
	t.Parallel()
	var names []string
	for i := range 200 {
		names = append(names, fmt.Sprintf("n%d", i))
	}
	sv := newService(t, nil, names...)
	ctx, cancel := context.WithCancel(sv.ctx)
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for ctx.Err() == nil {
				connected := sv.srv.Connected()
				for _, n := range names {
					_ = connected(n)
				}
				for _, at := range sv.srv.LastContactMS() {
					_ = at
				}
				_ = sv.srv.Signal([]uint64{1}, 9)
			}
		})
	}
	for term := range uint64(60) {
		stop := sv.leads(term + 1)
		stop()
	}
	cancel()
	callers.Wait()
}

func TestReportsShareEntries(t *testing.T) {
	t.Parallel()
	sv := newService(t, nil)
	sv.leads(1)
	n := sv.join("n1")
	const jobs = 40
	var keys []*fettlev1.AttemptKey
	for range jobs {
		k := sv.dispatched(nil, "n1")
		keys = append(keys, k)
		n.want(fmt.Sprintf("prepare %d.1", k.GetJobId()))
	}
	var mu sync.Mutex
	var sizes []int
	hold := make(chan struct{})
	sv.log.OnPropose(func(e *raftlogv1.Entry) (bool, error) {
		if e.GetReports() != nil {
			mu.Lock()
			sizes = append(sizes, len(e.GetReports().GetReports()))
			mu.Unlock()
			<-hold
		}
		return false, nil
	})
	for _, k := range keys {
		n.reports(k, ended)
	}
	l := sv.srv.cur.Load()
	sv.until("all have come in", func() bool {
		var waiting int
		l.do(func() { waiting = len(l.pending) })
		return waiting == jobs-1
	})
	close(hold)
	for range keys {
		if m, err := n.stream.Recv(); err != nil || m.GetAck() == nil {
			t.Fatalf("got %v, %v; want an acknowledgement", m, err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(sizes, []int{1, jobs - 1}) {
		t.Errorf("reports in entries of %v, want what came meanwhile in one", sizes)
	}
}

func TestLostReportsAreRepeated(t *testing.T) {
	t.Parallel()
	sv := newService(t, nil)
	sv.leads(1)
	n := sv.join("n1")
	key := sv.dispatched(nil, "n1")
	n.want("prepare 1.1")
	var once atomic.Bool
	sv.log.OnPropose(func(e *raftlogv1.Entry) (bool, error) {
		if e.GetReports() != nil && once.CompareAndSwap(false, true) {
			return true, errNoQuorum // committed, but nobody knows
		}
		return false, nil
	})
	n.reports(key, ended)
	n.wantEnd(codes.Aborted, "a report could not be committed: no quorum")
	sv.join("n1", report(key, ended)).want("ack 1.1")
}

// A node that does not read its orders holds up neither the others nor its own end.
func TestNodeThatDoesNotRead(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	sv := newService(t, func(c *Config) { c.HeartbeatMS, c.UnreachableMS = 50, 100_000 })
	sv.srv.cfg.Clock = clock.Load
	stop := sv.leads(1)
	deaf := sv.dial("n1")
	sv.until("the session is open", func() bool { return sv.srv.Connected()("n1") })
	big := func(s *fettlev1.JobSpec) { s.Script = append([]byte("#!"), make([]byte, 200<<10)...) }
	for range 30 {
		sv.dispatched(big, "n1")
	}
	other := sv.join("n2")
	sv.dispatched(nil, "n2")
	other.want("prepare 31.1")
	l := sv.srv.cur.Load()
	sv.until("both fall silent, and their streams are closed", func() bool {
		clock.Add(1_000)
		open := 0
		return l.do(func() { open = len(l.senders) }) && open == 0
	})
	stop()
	deaf.wantEnd(codes.Aborted, "no heartbeat")
	other.wantEnd(codes.Aborted, "no heartbeat")
}

func TestSenderIsCutOff(t *testing.T) {
	t.Parallel()
	s := newSender()
	for range maxQueued + 1 {
		s.push(&fettlev1.ControllerMessage{})
	}
	<-s.done
	s.push(&fettlev1.ControllerMessage{})
	s.close(codes.Aborted, "later")
	if st := status.Convert(s.reason()); st.Code() != codes.ResourceExhausted || st.Message() != "too far behind" || len(s.take()) != 0 {
		t.Errorf("closed with %v", st)
	}
}
