package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/identity"
	"github.com/fettle-hpc/fettle/ctld/internal/leader"
	"github.com/fettle-hpc/fettle/ctld/internal/locallog"
	"github.com/fettle-hpc/fettle/ctld/internal/raftstore"
	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	"github.com/fettle-hpc/fettle/ctld/internal/session"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	"github.com/fettle-hpc/fettle/plugins/host"
	"github.com/fettle-hpc/fettle/plugins/policy"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// long bounds every wait for what must happen.
const long = 30 * time.Second

// fakeRaft says of the replication below the API what the test wants.
type fakeRaft struct {
	store *state.Store

	mu      sync.Mutex
	leader  raftstore.Leader
	members []raftstore.Member
	contact time.Time
	// fail is what the calls that act answer, linear what a linearizable read does.
	fail, linear error
	joined       []raftstore.JoinRequest
	removed      []string
	moved        []string
}

func (r *fakeRaft) set(f func()) { r.mu.Lock(); defer r.mu.Unlock(); f() }

func (r *fakeRaft) LeaderInfo() raftstore.Leader {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leader
}

func poll(ctx context.Context, ok func() bool) error {
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

func (r *fakeRaft) WaitLeader(ctx context.Context) (raftstore.Leader, error) {
	err := poll(ctx, func() bool { l := r.LeaderInfo(); return l.ID != "" && (!l.Self || l.Ready) })
	return r.LeaderInfo(), err
}

func (r *fakeRaft) WaitLinearizable(context.Context) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.store.Snapshot().Index(), r.linear
}

func (r *fakeRaft) WaitApplied(ctx context.Context, index uint64) error {
	return poll(ctx, func() bool { return r.store.Snapshot().Index() >= index })
}

func (r *fakeRaft) LastContact() time.Time { r.mu.Lock(); defer r.mu.Unlock(); return r.contact }
func (r *fakeRaft) Members() []raftstore.Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.members
}
func (r *fakeRaft) Status() raftstore.Status { return raftstore.Status{} }

func (r *fakeRaft) AddServer(_ context.Context, req raftstore.JoinRequest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.joined = append(r.joined, req)
	return r.fail
}

func (r *fakeRaft) RemoveServer(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed = append(r.removed, id)
	return r.fail
}

func (r *fakeRaft) TransferTo(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moved = append(r.moved, id)
	return r.fail
}

// fakeScheduler has found out what the test says.
type fakeScheduler struct {
	mu    sync.Mutex
	waits map[uint64]sched.Wait
	// The planner's answers, set before the calls.
	whys      map[uint64]sched.Why
	starts    map[uint64]sched.Start
	candidate leader.Candidate
}

func (s *fakeScheduler) Waits() map[uint64]sched.Wait {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waits
}
func (s *fakeScheduler) Stats() *fettlev1.SchedulerStats {
	return &fettlev1.SchedulerStats{Policy: "multifactor", Cycles: 3}
}
func (s *fakeScheduler) Score(uint64) (int64, bool) { return 0, false }

func (s *fakeScheduler) Why(_ context.Context, job uint64) (sched.Why, leader.Position, error) {
	w, ok := s.whys[job]
	if !ok {
		return sched.Why{}, leader.Position{}, nil
	}
	return w, leader.Position{All: 2, Partition: 2, Project: 1}, nil
}

func (s *fakeScheduler) Forecast(context.Context) (map[uint64]sched.Start, error) {
	return s.starts, nil
}

func (s *fakeScheduler) Predict(_ context.Context, c leader.Candidate) (sched.Start, bool, error) {
	s.candidate = c
	return sched.Start{AtMS: 5_000, LowMS: 4_000, HighMS: 9_000, Nodes: []string{"n1"}}, s.starts != nil, nil
}

func (s *fakeScheduler) Order(_ context.Context, j *state.Job) (host.Explanation, host.Source, error) {
	terms := []policy.Term{{Name: "eligible", MS: 7}, {Name: "priority", MS: -2, Inputs: "priority 3"}}
	return host.Explanation{Jobs: []host.ExplainedJob{{ID: j.ID, Score: 5, Terms: terms}}, BoundMS: 99}, host.Source{Name: "multifactor", Builtin: true}, nil
}

func (s *fakeScheduler) Predicted(uint64) int64 { return 0 }

func (s *fakeScheduler) PredictionStats() []*fettlev1.PredictionStats {
	return []*fettlev1.PredictionStats{{Jobs: 3, MedianErrorS: 12}}
}

// fakeLaunchers check configs with a function.
type fakeLaunchers struct {
	mu    sync.Mutex
	check func(*fettlev1.JobSpec) (Checked, error)
	calls int
}

func (l *fakeLaunchers) Check(_ context.Context, spec *fettlev1.JobSpec) (Checked, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	if l.check == nil {
		return Checked{Method: "lora"}, nil
	}
	return l.check(spec)
}

func (l *fakeLaunchers) CheckScheduling(settings []*fettlev1.KeyValue) error {
	for _, kv := range settings {
		if kv.GetValue() == "bad" {
			return fmt.Errorf("setting %s: is bad", kv.GetKey())
		}
	}
	return nil
}

func (l *fakeLaunchers) Statuses() []*fettlev1.PluginStatus {
	return []*fettlev1.PluginStatus{{Name: "lora", Kind: "launcher"}}
}

// controller is one controller's API on a loopback socket.
type controller struct {
	name, addr string
	raft       *fakeRaft
	srv        *Server
	client     fettlev1.ControllerServiceClient
	nodes      fettlev1.NodeServiceClient
}

// cluster is a leader and a follower over one log.
type cluster struct {
	t                *testing.T
	ctx              context.Context
	log              *locallog.Log
	sessions         *session.Server
	scheduler        *fakeScheduler
	launchers        *fakeLaunchers
	leader, follower *controller
	req              int
	// ahead is how far the log's clock is ahead of the machine's, in nanoseconds.
	ahead atomic.Int64
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), long)
	t.Cleanup(cancel)
	c := &cluster{t: t, ctx: ctx, log: locallog.New("c"), scheduler: &fakeScheduler{}, launchers: &fakeLaunchers{}}
	c.log.Now = func() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }
	auth := NewLoopbackAuth()
	var nodeAPI *Server
	c.sessions = session.NewServer(session.ServerConfig{
		Times: session.Config{HeartbeatMS: 200, UnreachableMS: 600_000}, Store: c.log.Store(), Proposer: c.log.ForNodes(), ClusterID: "c",
		VerifyLeader: func(context.Context) error { return nil }, LeaderHint: func() error { return nodeAPI.NotLeader() }, Logger: slog.New(slog.DiscardHandler),
		AuthorizeNode: func(ctx context.Context, _ string) error {
			actor, _, err := auth.Caller(ctx)
			if err == nil && !actor.GetAdmin() {
				err = errors.New("only root and the user that runs the controllers may run node daemons")
			}
			return err
		},
	})
	idle := session.NewServer(session.ServerConfig{
		Store: c.log.Store(), ClusterID: "c", Logger: slog.New(slog.DiscardHandler), LeaderHint: func() error { return nodeAPI.NotLeader() },
		AuthorizeNode: func(context.Context, string) error { return nil },
	})
	c.leader = c.start("c1", c.sessions)
	c.follower = c.start("c2", idle)
	nodeAPI = c.follower.srv
	c.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_NewTerm{NewTerm: &raftlogv1.NewTerm{Term: 1, LeaderId: "c1.x", LeaderName: "c1"}}})
	for _, ctl := range []*controller{c.leader, c.follower} {
		c.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_ServerChange{ServerChange: &raftlogv1.ServerChange{ServerId: ctl.name + ".x", Name: ctl.name, ClientAddr: ctl.addr}}})
	}
	led, over := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { c.sessions.Lead(led, 1); close(done) }()
	t.Cleanup(func() { over(); <-done })
	return c
}

// start brings up one controller; the first one leads.
func (c *cluster) start(name string, nodes *session.Server) *controller {
	c.t.Helper()
	leads := c.leader == nil
	ctl := &controller{name: name, raft: &fakeRaft{store: c.log.Store(), contact: time.Now()}}
	ctl.raft.leader = raftstore.Leader{ID: "c1.x", Name: "c1", Term: 1, Self: leads, Ready: leads}
	for _, n := range []string{"c1", "c2"} {
		ctl.raft.members = append(ctl.raft.members, raftstore.Member{Server: raftstore.Server{ID: n + ".x", Name: n, Addr: "127.0.0.1:1", Voter: true}, Leader: n == "c1", Self: n == name})
	}
	var conns sync.Map
	ctl.srv = NewServer(Config{
		ClusterID: "c", Incarnation: "i", ServerName: name, Version: "v1", Store: c.log.Store(), Log: c.log, Raft: ctl.raft, Nodes: nodes,
		Scheduler: c.scheduler, Launchers: c.launchers, Auth: NewLoopbackAuth(), Logger: slog.New(slog.DiscardHandler), Now: time.Now, Started: time.Now(), NodeLeaseMS: 540_000,
		Dial: func(addr string) (fettlev1.ControllerServiceClient, error) {
			cc, ok := conns.Load(addr)
			if !ok {
				cc, _ = conns.LoadOrStore(addr, c.dial(addr))
			}
			return fettlev1.NewControllerServiceClient(cc.(*grpc.ClientConn)), nil
		},
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	ctl.addr = ln.Addr().String()
	g := grpc.NewServer(grpc.Creds(identity.NewLoopbackCredentials()), grpc.MaxRecvMsgSize(16<<20), grpc.MaxSendMsgSize(16<<20))
	fettlev1.RegisterControllerServiceServer(g, ctl.srv)
	fettlev1.RegisterNodeServiceServer(g, nodes)
	served := make(chan error, 1)
	go func() { served <- g.Serve(ln) }()
	cc := c.dial(ctl.addr)
	ctl.client, ctl.nodes = fettlev1.NewControllerServiceClient(cc), fettlev1.NewNodeServiceClient(cc)
	c.t.Cleanup(func() {
		g.Stop()
		nodes.Close()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			c.t.Error(err)
		}
	})
	return ctl
}

func (c *cluster) dial(addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	c.t.Helper()
	opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	cc, err := grpc.NewClient("passthrough:///"+addr, opts...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// asUID returns a client whose connection belongs to another user, as the kernel sees it.
func (c *cluster) asUID(ctl *controller, uid int) fettlev1.ControllerServiceClient {
	c.t.Helper()
	return fettlev1.NewControllerServiceClient(c.connAs(ctl, uid))
}

func (c *cluster) connAs(ctl *controller, uid int) *grpc.ClientConn {
	c.t.Helper()
	if os.Getuid() != 0 {
		c.t.Skip("only root can be another user")
	}
	return c.dial(ctl.addr, grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return dialAs(ctl.addr, uid) }))
}

// dialAs connects from a thread that has another user id, and ends the thread.
func dialAs(addr string, uid int) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	out := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is not fit for anything else
		conn, err := func() (net.Conn, error) {
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
				return nil, e
			}
			to, err := net.ResolveTCPAddr("tcp", addr)
			if err != nil {
				return nil, err
			}
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			f := os.NewFile(uintptr(fd), addr)
			defer f.Close()
			sa := &unix.SockaddrInet4{Port: to.Port}
			copy(sa.Addr[:], to.IP.To4())
			if err := unix.Connect(fd, sa); err != nil {
				return nil, err
			}
			return net.FileConn(f)
		}()
		out <- result{conn, err}
	}()
	r := <-out
	return r.conn, r.err
}

// Users of the tests.
const (
	ada, bob = 1000, 1001
	adaName  = "ada"
	bobName  = "bob"
)

var names = map[int]string{ada: adaName, bob: bobName}

// as is a request that another controller forwards for a user: the test runs as an admin, as controllers do.
func (c *cluster) as(uid int) context.Context {
	return metadata.AppendToOutgoingContext(c.ctx, forwardKey, fmt.Sprintf("%d:%d:%s", uid, uid, names[uid]))
}

func (c *cluster) must(e *raftlogv1.Entry) *fsm.Result {
	c.t.Helper()
	res, err := c.log.Propose(c.ctx, e)
	if err != nil || res.Err != nil {
		c.t.Fatalf("propose: %v %+v", err, res)
	}
	return res
}

func (c *cluster) snap() *state.Snapshot { return c.log.Store().Snapshot() }

func script() *fettlev1.JobSpec {
	return &fettlev1.JobSpec{Name: "job", Script: []byte("#!/bin/true\n"), WorkDir: "/w"}
}

func (c *cluster) requestID() string { c.req++; return fmt.Sprint("req-", c.req) }

// submit makes a job of a user.
func (c *cluster) submit(uid int, spec *fettlev1.JobSpec) uint64 {
	c.t.Helper()
	resp, err := c.leader.client.SubmitJobs(c.as(uid), &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{{RequestId: c.requestID(), Spec: spec}}})
	if err != nil {
		c.t.Fatal(err)
	}
	if e := resp.GetResults()[0].GetError(); e != nil {
		c.t.Fatal(oneLine(e))
	}
	return resp.GetResults()[0].GetJobId()
}

// node registers a node that says nothing.
func (c *cluster) node(name string) {
	c.t.Helper()
	c.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_NodeHello{NodeHello: &raftlogv1.NodeHello{Node: name, BootId: "boot", Inventory: inventory()}}})
}

func inventory() *fettlev1.Inventory {
	return &fettlev1.Inventory{Cpus: 8, MemoryMib: 1 << 20, Methods: []string{"lora"}}
}

// place dispatches a job to nodes.
func (c *cluster) place(id uint64, nodes ...string) *fettlev1.AttemptKey {
	c.t.Helper()
	p := &raftlogv1.Placement{JobId: id, Attempt: c.snap().Job(id).Attempt + 1}
	for _, n := range nodes {
		p.Nodes = append(p.Nodes, &fettlev1.NodeAllocation{Node: n, Cpus: 1})
	}
	res := c.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_Plan{Plan: &raftlogv1.ApplyPlan{Term: 1, Placements: []*raftlogv1.Placement{p}}}})
	if e := res.Placements[0].Err; e != nil {
		c.t.Fatal(e)
	}
	return &fettlev1.AttemptKey{JobId: id, Attempt: p.GetAttempt(), Fence: res.Index}
}

// said puts a report of a node into the log.
func (c *cluster) said(node string, key *fettlev1.AttemptKey, kind fettlev1.ReportKind, exit *fettlev1.Exit) {
	c.t.Helper()
	c.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: []*fettlev1.AttemptReport{{Key: key, Kind: kind, Exit: exit, Node: node}}}}})
}

// running makes a job that runs on a node.
func (c *cluster) running(uid int, node string) (uint64, *fettlev1.AttemptKey) {
	c.t.Helper()
	id := c.submit(uid, script())
	key := c.place(id, node)
	c.said(node, key, fettlev1.ReportKind_REPORT_KIND_STARTED, nil)
	return id, key
}

func oneLine(d *fettlev1.ErrorDetail) string {
	s := d.GetProblem()
	if d.GetField() != "" {
		s = d.GetField() + ": " + s
	}
	if d.GetRemedy() != "" {
		s += "; " + d.GetRemedy()
	}
	return s
}

// text is what a user sees of an error, in one line.
func text(err error) string {
	if err == nil {
		return ""
	}
	return strings.TrimSpace(status.Convert(err).Message())
}
