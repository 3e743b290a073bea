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

// ErrNotConnected means that no session is open with the node on this controller, or that it ended.
var ErrNotConnected = errors.New("node is not connected")

// helloWait bounds how long a stream may be open without a hello.
const helloWait = 10 * time.Second

// ServerConfig is what a Server needs. All fields but Clock and Now are required.
type ServerConfig struct {
	Times    Config
	Store    *state.Store
	Proposer Proposer
	// VerifyLeader returns nil when a quorum has just confirmed this controller as leader.
	VerifyLeader func(context.Context) error
	ClusterID    string
	// LeaderHint makes the error for nodes that reach a follower.
	LeaderHint func() error
	// AuthorizeNode checks that the caller of a node's stream may speak for nodes; node is empty where the stream does not
	// say which it is.
	AuthorizeNode func(ctx context.Context, node string) error
	Logger        *slog.Logger
	// Clock counts milliseconds from any point in the past. It must not go back, must not be set, and must go on while the
	// machine is suspended; nil means CLOCK_BOOTTIME.
	Clock func() int64
	// Now is the wall clock, for people to read only; nil means time.Now.
	Now func() time.Time
}

// Server runs the leader's side of the node protocol over gRPC.
type Server struct {
	fettlev1.UnimplementedNodeServiceServer
	cfg ServerConfig
	log *slog.Logger
	cur atomic.Pointer[loop]

	telemetry *telemetry
	reads     logReads
	// streams are the goroutines that serve streams beside gRPC's own.
	streams sync.WaitGroup
	// connectivity is called when a node's session opened or closed.
	connectivity func()
	// busyChanged is called when other GPUs of a node are busy outside than before.
	busyChanged func(node string)
}

// OnConnectivity sets what is called, on the server's own goroutine, whenever a node's session opens or closes. It must
// not block, nor call the server. Set it before Lead.
func (s *Server) OnConnectivity(f func()) { s.connectivity = f }

// NewServer makes a server that refuses nodes until Lead is called.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Clock == nil {
		cfg.Clock = boottimeMS
	}
	return &Server{cfg: cfg, log: cfg.Logger, telemetry: newTelemetry(), connectivity: func() {}, busyChanged: func(string) {}, reads: newLogReads()}
}

// Close waits for everything that serves streams. Call it after the gRPC server has stopped and Lead has returned.
func (s *Server) Close() { s.streams.Wait() }

func (s *Server) tickEvery() time.Duration {
	t := s.cfg.Times.withDefaults()
	return max(time.Duration(min(t.HeartbeatMS, t.UnreachableMS)/4)*time.Millisecond, 10*time.Millisecond)
}

// Lead serves nodes for one term, until ctx ends.
func (s *Server) Lead(ctx context.Context, term uint64) {
	l := newLoop(ctx, s, term)
	s.telemetry.reset()
	s.cur.Store(l)
	l.run()
	s.cur.CompareAndSwap(l, nil)
	// Another leader hears the nodes now: what is known here grows old.
	s.telemetry.reset()
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

// LastContactMS is when each node was last heard of in this term, in Unix milliseconds.
func (s *Server) LastContactMS() map[string]int64 {
	out := map[string]int64{}
	if l := s.cur.Load(); l != nil {
		l.do(func() {
			offset := s.cfg.Now().UnixMilli() - l.nowMS()
			for name := range l.machine.nodes {
				if at, ok := l.machine.LastContactMS(name); ok {
					out[name] = at + offset
				}
			}
		})
	}
	return out
}

// Signal delivers a signal to the processes of running jobs. It returns those whose nodes could not all be told: they are
// not connected, or this controller does not lead.
func (s *Server) Signal(jobs []uint64, signal int32) (missed []uint64) {
	l := s.cur.Load()
	if l == nil || !l.do(func() {
		for _, id := range jobs {
			out, all := l.machine.Signal(id, signal, s.cfg.Store.Snapshot())
			l.apply(out)
			if !all {
				missed = append(missed, id)
			}
		}
	}) {
		return jobs
	}
	return missed
}

// authorize asks whether the caller may speak for nodes; anything but a gRPC status counts as denied.
func (s *Server) authorize(ctx context.Context, node string) error {
	err := s.cfg.AuthorizeNode(ctx, node)
	if _, isStatus := status.FromError(err); err == nil || isStatus {
		return err
	}
	return status.Error(codes.PermissionDenied, err.Error())
}

// Session serves one node's stream.
func (s *Server) Session(stream fettlev1.NodeService_SessionServer) error {
	l := s.cur.Load()
	if l == nil {
		return s.cfg.LeaderHint()
	}
	snd := newSender()
	// From here on the goroutines below end when this returns: gRPC then ends the stream under them.
	defer close(snd.gone)
	in, received := make(chan *fettlev1.NodeMessage), make(chan error, 1)
	s.streams.Go(func() { received <- receive(stream, in, snd.gone) })
	hello, err := awaitHello(l, in, received)
	switch {
	case err != nil:
		return err
	case l.ctx.Err() != nil:
		return s.cfg.LeaderHint()
	}
	node := hello.GetNode()
	if err := s.authorize(stream.Context(), node); err != nil {
		return err
	}
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
	s.log.Info("node connected", "node", node, "boot_id", hello.GetBootId())
	defer func() {
		l.post(func() {
			delete(l.senders, id)
			l.machine.Disconnected(id)
			s.connectivity()
		})
		s.log.Info("node disconnected", "node", node)
	}()
	sent := make(chan error, 1)
	s.streams.Go(func() { sent <- snd.run(stream.Send) })
	for {
		select {
		case err := <-received:
			return err
		case err := <-sent:
			if err != nil {
				return err
			}
			sent = nil // closed: the reason follows
		case <-snd.done:
			return snd.reason()
		case <-l.ctx.Done():
			return s.cfg.LeaderHint()
		case m := <-in:
			if err := s.take(l, id, node, m); err != nil {
				return err
			}
		}
	}
}

// receive hands on what the node sends until the stream ends or nobody wants it.
func receive(stream fettlev1.NodeService_SessionServer, in chan<- *fettlev1.NodeMessage, gone <-chan struct{}) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case in <- m:
		case <-gone:
			return nil
		}
	}
}

// awaitHello returns the first message, which must be a hello; nil when the term is over.
func awaitHello(l *loop, in <-chan *fettlev1.NodeMessage, received <-chan error) (*fettlev1.Hello, error) {
	late := time.NewTimer(helloWait)
	defer late.Stop()
	select {
	case m := <-in:
		if m.GetHello() == nil {
			return nil, status.Error(codes.InvalidArgument, "the first message of a session must be a hello")
		}
		return m.GetHello(), nil
	case err := <-received:
		if err == nil {
			err = status.Error(codes.InvalidArgument, "the stream ended before its hello")
		}
		return nil, err
	case <-late.C:
		return nil, status.Error(codes.DeadlineExceeded, "no hello came")
	case <-l.ctx.Done():
		return nil, nil
	}
}

// take passes a message of an open stream to the loop.
func (s *Server) take(l *loop, id ConnID, node string, m *fettlev1.NodeMessage) error {
	var step func() []Output
	switch msg := m.GetMsg().(type) {
	case *fettlev1.NodeMessage_Heartbeat:
		step = func() []Output { return l.machine.Heartbeat(id, msg.Heartbeat, l.nowMS(), l.verifiedMS) }
	case *fettlev1.NodeMessage_Report:
		step = func() []Output { return l.machine.Report(id, msg.Report, s.cfg.Store.Snapshot()) }
	case *fettlev1.NodeMessage_Inventory:
		step = func() []Output { return l.machine.Inventory(id, msg.Inventory, s.cfg.Store.Snapshot()) }
	case *fettlev1.NodeMessage_Progress:
		s.telemetry.setProgress(node, msg.Progress, s.cfg.Store.Snapshot())
		return nil
	case *fettlev1.NodeMessage_Readings:
		if s.telemetry.setReadings(node, msg.Readings) {
			s.busyChanged(node)
		}
		return nil
	default:
		return status.Error(codes.InvalidArgument, fmt.Sprintf("unexpected message %T in a session", m.GetMsg()))
	}
	l.post(func() { l.apply(step()) })
	return nil
}
