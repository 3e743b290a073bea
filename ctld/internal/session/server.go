package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// ErrNotConnected means that no session is open with the node on this controller.
var ErrNotConnected = errors.New("node is not connected")

// ServerConfig is what a Server needs. All fields but Now are required.
type ServerConfig struct {
	Times    Config
	Store    *state.Store
	Proposer Proposer
	// VerifyLeader returns nil when a quorum has just confirmed this controller as leader.
	VerifyLeader func(context.Context) error
	ClusterID    string
	// LeaderHint makes the error for nodes that reach a follower.
	LeaderHint func() error
	// AuthorizeNode checks that the caller of a node's stream may speak for nodes.
	AuthorizeNode func(ctx context.Context, node string) error
	Logger        *slog.Logger
	Now           func() time.Time
}

// Server runs the leader's side of the node protocol over gRPC.
type Server struct {
	fettlev1.UnimplementedNodeServiceServer
	cfg ServerConfig
	log *slog.Logger
	cur atomic.Pointer[loop]

	telemetry telemetry
	reads     logReads
	// connectivity is called when a node's session opened or closed.
	connectivity func()
}

// OnConnectivity sets what is called, on the server's own goroutine, whenever a node's session opens or closes. Set it
// before Lead.
func (s *Server) OnConnectivity(f func()) { s.connectivity = f }

// NewServer makes a server that refuses nodes until Lead is called.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Server{cfg: cfg, log: cfg.Logger, telemetry: newTelemetry(), connectivity: func() {}, reads: logReads{open: map[uint64]*logRead{}}}
}

func (s *Server) tickEvery() time.Duration {
	t := s.cfg.Times.withDefaults()
	return max(time.Duration(min(t.HeartbeatMS, t.UnreachableMS)/4)*time.Millisecond, 10*time.Millisecond)
}

// Lead serves nodes for one term, until ctx ends.
func (s *Server) Lead(ctx context.Context, term uint64) {
	l := &loop{
		srv: s, ctx: ctx, calls: make(chan func(), 256), senders: map[ConnID]*sender{},
		machine: NewMachine(s.cfg.Times, s.cfg.ClusterID, term, s.cfg.Store.Snapshot(), s.cfg.Now().UnixMilli()),
	}
	s.telemetry.reset()
	s.cur.Store(l)
	defer s.cur.CompareAndSwap(l, nil)
	l.run()
}

// Connected returns which nodes have a session with this controller, as a function that is cheap to call many times.
func (s *Server) Connected() func(node string) bool {
	set := map[string]bool{}
	if l := s.cur.Load(); l != nil {
		l.do(func() {
			for name := range l.machine.nodes {
				if l.machine.Connected(name) {
					set[name] = true
				}
			}
		})
	}
	return func(node string) bool { return set[node] }
}

// LastContactMS is when each connected node was last heard of, in Unix milliseconds.
func (s *Server) LastContactMS() map[string]int64 {
	out := map[string]int64{}
	if l := s.cur.Load(); l != nil {
		l.do(func() {
			for name := range l.machine.nodes {
				out[name] = l.machine.LastContactMS(name)
			}
		})
	}
	return out
}

// Signal delivers a signal to the processes of running jobs.
func (s *Server) Signal(jobs []uint64, signal int32) {
	if l := s.cur.Load(); l != nil {
		l.do(func() {
			for _, id := range jobs {
				l.apply(l.machine.Signal(id, signal, s.cfg.Store.Snapshot()))
			}
		})
	}
}

// LimitChanged passes a running job's new time limit to its nodes.
func (s *Server) LimitChanged(job uint64) {
	if l := s.cur.Load(); l != nil {
		l.do(func() { l.apply(l.machine.LimitChanged(job, s.cfg.Store.Snapshot())) })
	}
}

// Session serves one node's stream.
func (s *Server) Session(stream fettlev1.NodeService_SessionServer) error {
	l := s.cur.Load()
	if l == nil {
		return s.cfg.LeaderHint()
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return status.Error(codes.InvalidArgument, "the first message of a session must be a hello")
	}
	if err := s.cfg.AuthorizeNode(stream.Context(), hello.GetNode()); err != nil {
		return err
	}
	snd := newSender(s.log)
	var id ConnID
	var refused error
	if !l.do(func() {
		var out []Output
		if id, out, refused = l.machine.Hello(hello); refused != nil {
			return
		}
		l.senders[id] = snd
		l.apply(out)
	}) {
		return s.cfg.LeaderHint()
	}
	if refused != nil {
		return status.Error(codes.FailedPrecondition, refused.Error())
	}
	s.log.Info("node connected", "node", hello.GetNode(), "boot_id", hello.GetBootId())
	defer func() {
		l.post(func() {
			delete(l.senders, id)
			l.machine.Disconnected(id)
			s.connectivity()
		})
		s.log.Info("node disconnected", "node", hello.GetNode())
	}()

	received := make(chan error, 1)
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	go func() { received <- s.receive(ctx, l, id, hello.GetNode(), stream) }()
	for {
		select {
		case err := <-received:
			return err
		case <-snd.done:
			return status.Error(codes.Aborted, snd.reason())
		case <-l.ctx.Done():
			return s.cfg.LeaderHint()
		case <-snd.wake:
			for _, m := range snd.take() {
				if err := stream.Send(m); err != nil {
					return err
				}
			}
		}
	}
}

// receive passes what the node sends to the loop. It ends when the stream does, which Session's return brings about.
func (s *Server) receive(ctx context.Context, l *loop, id ConnID, node string, stream fettlev1.NodeService_SessionServer) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var step func() []Output
		switch msg := m.GetMsg().(type) {
		case *fettlev1.NodeMessage_Heartbeat:
			step = func() []Output {
				return l.machine.Heartbeat(id, msg.Heartbeat, l.nowMS(), l.verified.UnixMilli())
			}
		case *fettlev1.NodeMessage_Report:
			step = func() []Output { return l.machine.Report(id, msg.Report, s.cfg.Store.Snapshot()) }
		case *fettlev1.NodeMessage_Inventory:
			step = func() []Output { return l.machine.Inventory(id, msg.Inventory) }
		case *fettlev1.NodeMessage_Progress:
			s.telemetry.progress(msg.Progress)
			continue
		case *fettlev1.NodeMessage_Readings:
			s.telemetry.setReadings(node, msg.Readings)
			continue
		default:
			return status.Error(codes.InvalidArgument, fmt.Sprintf("unexpected message %T in a session", m.GetMsg()))
		}
		l.post(func() { l.apply(step()) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// telemetry is what nodes say that is not worth a log entry: the newest only, in the leader's memory.
type telemetry struct {
	mu       *sync.RWMutex
	jobs     map[uint64]*fettlev1.Progress
	readings map[string]*fettlev1.NodeReadings
}

func newTelemetry() telemetry {
	return telemetry{mu: &sync.RWMutex{}, jobs: map[uint64]*fettlev1.Progress{}, readings: map[string]*fettlev1.NodeReadings{}}
}

func (t *telemetry) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.jobs)
	clear(t.readings)
}

func (t *telemetry) progress(p *fettlev1.NodeProgress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, item := range p.GetItems() {
		t.jobs[item.GetKey().GetJobId()] = item.GetProgress()
	}
}

func (t *telemetry) setReadings(node string, r *fettlev1.NodeReadings) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.readings[node] = r
}

// Progress returns the newest progress of a job, nil when there is none. Callers must not change it.
func (s *Server) Progress(job uint64) *fettlev1.Progress {
	s.telemetry.mu.RLock()
	defer s.telemetry.mu.RUnlock()
	return s.telemetry.jobs[job]
}

// ForgetProgress drops the progress of jobs that are no longer in the job table.
func (s *Server) ForgetProgress(gone func(job uint64) bool) {
	s.telemetry.mu.Lock()
	defer s.telemetry.mu.Unlock()
	for id := range s.telemetry.jobs {
		if gone(id) {
			delete(s.telemetry.jobs, id)
		}
	}
}

// Readings returns a node's newest GPU readings.
func (s *Server) Readings(node string) []*fettlev1.GPUReading {
	s.telemetry.mu.RLock()
	defer s.telemetry.mu.RUnlock()
	return s.telemetry.readings[node].GetGpus()
}
