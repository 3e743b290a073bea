// Package session keeps a stream open to the controller that leads. It carries messages and knows nothing of what they
// mean: what happens to the stream is told through Events, and what goes out is given to Send.
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Config of a Link. Controllers is needed.
type Config struct {
	// Controllers are the client addresses of all controllers.
	Controllers []string
	// Credentials of the connections; nil is plain text.
	Credentials credentials.TransportCredentials
	// MinPause and MaxPause bound the pause between two tries, which doubles and is spread at random; 50 ms and 2 s by default.
	MinPause, MaxPause time.Duration
	Log                *slog.Logger
}

// Event is something that happened to a stream. Exactly one of the fields but Stream is set.
type Event struct {
	// Stream numbers the stream; what comes of an earlier one than the newest Opened means nothing any more.
	Stream uint64
	Opened bool
	Closed bool
	Msg    *fettlev1.ControllerMessage
}

const (
	defaultMinPause = 50 * time.Millisecond
	defaultMaxPause = 2 * time.Second
	connectTimeout  = 3 * time.Second
	maxMessage      = 16 << 20
	// maxQueue bounds what waits for a controller that does not read.
	maxQueue = 100_000
	// settled is how long a stream must have lasted for the next try to come at once.
	settled = 5 * time.Second
)

// Link is the node's end. Run it once.
type Link struct {
	cfg    Config
	events chan Event

	mu    sync.Mutex
	cur   *stream
	conns map[string]*grpc.ClientConn
}

type stream struct {
	number uint64
	cancel context.CancelCauseFunc
	client fettlev1.NodeServiceClient

	mu    sync.Mutex
	queue []*fettlev1.NodeMessage
	wake  chan struct{}
}

// New prepares a link.
func New(cfg Config) *Link {
	if cfg.Credentials == nil {
		cfg.Credentials = insecure.NewCredentials()
	}
	if cfg.MinPause == 0 {
		cfg.MinPause = defaultMinPause
	}
	if cfg.MaxPause == 0 {
		cfg.MaxPause = defaultMaxPause
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Link{cfg: cfg, events: make(chan Event, 256), conns: map[string]*grpc.ClientConn{}}
}

// Events must be read for as long as Run runs.
func (l *Link) Events() <-chan Event { return l.events }

// errQueue ends a stream whose other end does not read.
var errQueue = errors.New("the controller takes no messages")

// Send queues a message on the newest stream; without one it is dropped, as it would be on the wire.
func (l *Link) Send(m *fettlev1.NodeMessage) {
	s := l.current()
	if s == nil {
		return
	}
	s.mu.Lock()
	s.queue = append(s.queue, m)
	full := len(s.queue) > maxQueue
	s.mu.Unlock()
	if full {
		s.cancel(errQueue)
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// errClosedHere is why a stream ended that Close ended.
var errClosedHere = errors.New("closed by this node")

// Close ends the newest stream; another is opened after a pause.
func (l *Link) Close(reason string) {
	if s := l.current(); s != nil {
		s.cancel(fmt.Errorf("%w: %s", errClosedHere, reason))
	}
}

// Service is the node service of the controller that the newest stream goes to; nil without one.
func (l *Link) Service() fettlev1.NodeServiceClient {
	if s := l.current(); s != nil {
		return s.client
	}
	return nil
}

func (l *Link) current() *stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cur
}

// Run keeps a stream open until ctx ends: it tries the controllers in turn and follows what they say about the leader.
func (l *Link) Run(ctx context.Context) {
	defer l.closeAll()
	next, pause := rand.IntN(len(l.cfg.Controllers)), l.cfg.MinPause
	hint := ""
	for number := uint64(1); ctx.Err() == nil; number++ {
		addr := hint
		if addr == "" {
			addr = l.cfg.Controllers[next%len(l.cfg.Controllers)]
			next++
		}
		began := time.Now()
		err := l.serve(ctx, number, addr)
		if ctx.Err() != nil {
			return
		}
		lasted := time.Since(began)
		followed := hint != ""
		hint = leaderOf(err)
		if hint != "" && !followed {
			continue
		}
		hint = ""
		if lasted > settled {
			pause = l.cfg.MinPause
			l.cfg.Log.Info("session lost", "controller", addr, "err", err)
		} else {
			l.cfg.Log.Debug("no session", "controller", addr, "err", err)
		}
		t := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		pause = min(pause*2, l.cfg.MaxPause)
	}
}

// leaderOf is the leader's address, when a controller's refusal names it.
func leaderOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if ed, ok := d.(*fettlev1.ErrorDetail); ok {
			return ed.GetLeaderAddr()
		}
	}
	return ""
}

// serve opens one stream and carries it to its end.
func (l *Link) serve(run context.Context, number uint64, addr string) error {
	conn, err := l.conn(addr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(run)
	defer cancel(nil)
	s := &stream{number: number, cancel: cancel, client: fettlev1.NewNodeServiceClient(conn), wake: make(chan struct{}, 1)}
	opening := time.AfterFunc(connectTimeout, func() { cancel(errors.New("no connection within " + connectTimeout.String())) })
	grpcStream, err := s.client.Session(ctx)
	if !opening.Stop() || err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	l.setCurrent(s)
	l.emit(run, Event{Stream: number, Opened: true})
	var group sync.WaitGroup
	group.Go(func() { s.write(ctx, grpcStream) })
	for err == nil {
		var m *fettlev1.ControllerMessage
		if m, err = grpcStream.Recv(); err == nil {
			l.emit(run, Event{Stream: number, Msg: m})
		}
	}
	if cause := context.Cause(ctx); errors.Is(cause, errClosedHere) || errors.Is(cause, errQueue) {
		err = cause
	}
	cancel(nil)
	group.Wait()
	l.setCurrent(nil)
	l.emit(run, Event{Stream: number, Closed: true})
	return err
}

func (l *Link) setCurrent(s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cur = s
}

// emit hands an event on. Only the end of Run is a reason not to wait for the reader.
func (l *Link) emit(run context.Context, e Event) {
	select {
	case l.events <- e:
	case <-run.Done():
	}
}

func (s *stream) write(ctx context.Context, out grpc.BidiStreamingClient[fettlev1.NodeMessage, fettlev1.ControllerMessage]) {
	for {
		s.mu.Lock()
		queue := s.queue
		s.queue = nil
		s.mu.Unlock()
		for _, m := range queue {
			if err := out.Send(m); err != nil {
				return // Recv knows why
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
	}
}

func (l *Link) conn(addr string) (*grpc.ClientConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.conns[addr]; c != nil {
		return c, nil
	}
	c, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(l.cfg.Credentials),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: connectTimeout,
			Backoff: backoff.Config{BaseDelay: l.cfg.MinPause, Multiplier: 1.6, Jitter: 0.2, MaxDelay: l.cfg.MaxPause}}))
	if err != nil {
		return nil, fmt.Errorf("controller %s: %w", addr, err)
	}
	l.conns[addr] = c
	return c, nil
}

func (l *Link) closeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		_ = c.Close()
	}
}
