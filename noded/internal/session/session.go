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
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Event is something that happened to the stream. Exactly one of the fields but Stream is set.
type Event struct {
	// Stream numbers the stream; events of an earlier one than the newest Opened may be dropped.
	Stream uint64
	Opened bool
	Closed bool
	Msg    *fettlev1.ControllerMessage
}

const (
	minPause       = 50 * time.Millisecond
	maxPause       = 5 * time.Second
	connectTimeout = 3 * time.Second
	maxMessage     = 16 << 20
	// settled is how long a stream must have lasted for the next try to come at once.
	settled = 5 * time.Second
)

// Link is the node's end. Run it once.
type Link struct {
	addrs  []string
	log    *slog.Logger
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

// New prepares a link to the controllers at addrs.
func New(addrs []string, log *slog.Logger) *Link {
	return &Link{addrs: addrs, log: log, events: make(chan Event, 256), conns: map[string]*grpc.ClientConn{}}
}

// Events must be read for as long as Run runs.
func (l *Link) Events() <-chan Event { return l.events }

// Send queues a message on the newest stream; without one it is dropped, as it would be on the wire.
func (l *Link) Send(m *fettlev1.NodeMessage) {
	l.mu.Lock()
	s := l.cur
	l.mu.Unlock()
	if s == nil {
		return
	}
	s.mu.Lock()
	s.queue = append(s.queue, m)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// ErrClosedHere is why a stream ended that Close ended.
var errClosedHere = errors.New("closed by this node")

// Close ends the newest stream; another is opened after a pause.
func (l *Link) Close(reason string) {
	l.mu.Lock()
	s := l.cur
	l.mu.Unlock()
	if s != nil {
		s.cancel(fmt.Errorf("%w: %s", errClosedHere, reason))
	}
}

// Service is the node service of the controller that the newest stream goes to; nil without one.
func (l *Link) Service() fettlev1.NodeServiceClient {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur == nil {
		return nil
	}
	return l.cur.client
}

// Run keeps a stream open until ctx ends: it tries the controllers in turn and follows what they say about the leader.
func (l *Link) Run(ctx context.Context) {
	defer l.closeAll()
	next, pause := rand.IntN(len(l.addrs)), minPause
	hint := ""
	for number := uint64(1); ctx.Err() == nil; number++ {
		addr := hint
		if addr == "" {
			addr = l.addrs[next%len(l.addrs)]
			next++
		}
		began := time.Now()
		err := l.serve(ctx, number, addr)
		if ctx.Err() != nil {
			return
		}
		followed := hint != ""
		hint = leaderOf(err)
		if hint != "" && !followed {
			continue
		}
		hint = ""
		if time.Since(began) > settled {
			pause = minPause
		}
		l.log.Debug("no session", "controller", addr, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(pause*2, maxPause)
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
func (l *Link) serve(ctx context.Context, number uint64, addr string) error {
	conn, err := l.conn(addr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &stream{number: number, cancel: cancel, client: fettlev1.NewNodeServiceClient(conn), wake: make(chan struct{}, 1)}
	opening := time.AfterFunc(connectTimeout, func() { cancel(errors.New("no connection within " + connectTimeout.String())) })
	grpcStream, err := s.client.Session(ctx)
	if !opening.Stop() || err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	l.mu.Lock()
	l.cur = s
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.cur = nil
		l.mu.Unlock()
		l.emit(ctx, Event{Stream: number, Closed: true})
	}()
	l.emit(ctx, Event{Stream: number, Opened: true})
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel(nil)
	group.Go(func() { s.write(ctx, grpcStream) })
	for {
		m, err := grpcStream.Recv()
		if err != nil {
			if cause := context.Cause(ctx); errors.Is(cause, errClosedHere) {
				return cause
			}
			return err
		}
		l.emit(ctx, Event{Stream: number, Msg: m})
	}
}

// emit hands an event on. The end of the link's own context is the only reason not to wait: a closed stream's last event
// must arrive.
func (l *Link) emit(ctx context.Context, e Event) {
	if e.Closed {
		ctx = context.WithoutCancel(ctx)
	}
	select {
	case l.events <- e:
	case <-ctx.Done():
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
				s.cancel(err)
				return
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
	c, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: connectTimeout}))
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
