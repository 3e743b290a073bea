package session

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// controller is one that leads, or names another that does.
type controller struct {
	fettlev1.UnimplementedNodeServiceServer
	addr   string
	server *grpc.Server

	mu      sync.Mutex
	leader  string // empty: this one
	streams int
	got     chan *fettlev1.NodeMessage
	hang    bool
}

func listen(t *testing.T, addr string) *controller {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &controller{addr: l.Addr().String(), server: grpc.NewServer(), got: make(chan *fettlev1.NodeMessage, 100)}
	fettlev1.RegisterNodeServiceServer(c.server, c)
	var serving sync.WaitGroup
	serving.Go(func() { _ = c.server.Serve(l) })
	t.Cleanup(func() {
		c.server.Stop()
		serving.Wait()
	})
	return c
}

func (c *controller) Session(s grpc.BidiStreamingServer[fettlev1.NodeMessage, fettlev1.ControllerMessage]) error {
	c.mu.Lock()
	leader, hang := c.leader, c.hang
	c.streams++
	c.mu.Unlock()
	if leader != "" {
		st, err := status.New(codes.FailedPrecondition, "not the leader").WithDetails(&fettlev1.ErrorDetail{LeaderAddr: leader})
		if err != nil {
			return err
		}
		return st.Err()
	}
	if hang {
		<-s.Context().Done()
		return s.Context().Err()
	}
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		c.got <- m
		if m.GetHello() != nil {
			if err := s.Send(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Welcome{Welcome: &fettlev1.Welcome{ClusterId: c.addr}}}); err != nil {
				return err
			}
		}
	}
}

func (c *controller) set(leader string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = leader
}

type rig struct {
	t      *testing.T
	link   *Link
	cancel context.CancelFunc
}

func run(t *testing.T, addrs ...string) *rig {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &rig{t: t, cancel: cancel, link: New(Config{Controllers: addrs, MinPause: time.Millisecond, MaxPause: 20 * time.Millisecond})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.link.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return r
}

func (r *rig) next() Event {
	r.t.Helper()
	select {
	case e := <-r.link.Events():
		return e
	case <-time.After(patience):
		r.t.Fatal("nothing happens")
		return Event{}
	}
}

// welcomed opens sessions, answering each with a hello, until one is welcomed.
func (r *rig) welcomed() (cluster string, stream uint64) {
	r.t.Helper()
	for {
		switch e := r.next(); {
		case e.Opened:
			r.link.Send(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Hello{Hello: &fettlev1.Hello{Node: "n"}}})
		case e.Msg.GetWelcome() != nil:
			return e.Msg.GetWelcome().GetClusterId(), e.Stream
		}
	}
}

func TestFollowsTheLeader(t *testing.T) {
	t.Parallel()
	a, b, c := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	a.set(c.addr)
	b.set(c.addr)
	r := run(t, a.addr, b.addr, c.addr)
	if got, _ := r.welcomed(); got != c.addr {
		t.Fatalf("welcomed by %s", got)
	}
	// The leader dies; the others have elected b.
	a.set(b.addr)
	b.set("")
	c.server.Stop()
	if got, _ := r.welcomed(); got != b.addr {
		t.Errorf("welcomed by %s", got)
	}
}

func TestControllersThatAreDownAreTriedAgain(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	loop := listen(t, "127.0.0.1:0")
	loop.set(addr) // a hint that leads nowhere
	r := run(t, addr, loop.addr)
	up := time.AfterFunc(200*time.Millisecond, func() { loop.set("") })
	defer up.Stop()
	if got, _ := r.welcomed(); got != loop.addr {
		t.Errorf("welcomed by %s", got)
	}
}

func TestCloseOpensAnother(t *testing.T) {
	t.Parallel()
	a := listen(t, "127.0.0.1:0")
	r := run(t, a.addr)
	_, first := r.welcomed()
	r.link.Close("a reason")
	closed := false
	for {
		e := r.next()
		if e.Closed && e.Stream == first {
			closed = true
		}
		if e.Opened {
			if !closed || e.Stream <= first {
				t.Errorf("%+v, closed %v", e, closed)
			}
			return
		}
	}
}

func TestMessagesKeepTheirOrder(t *testing.T) {
	t.Parallel()
	a := listen(t, "127.0.0.1:0")
	r := run(t, a.addr)
	r.welcomed()
	for i := range uint64(1000) {
		r.link.Send(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Heartbeat{Heartbeat: &fettlev1.Heartbeat{Seq: i}}})
	}
	<-a.got // hello
	for i := range uint64(1000) {
		if m := <-a.got; m.GetHeartbeat().GetSeq() != i {
			t.Fatalf("%v at %d", m, i)
		}
	}
}

func TestControllerThatDoesNotReadIsGivenUp(t *testing.T) {
	t.Parallel()
	a := listen(t, "127.0.0.1:0")
	a.hang = true
	r := run(t, a.addr)
	first := r.next()
	big := &fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Hello{Hello: &fettlev1.Hello{Node: string(make([]byte, 1<<20))}}}
	r.link.Send(big) // fills the window, so that the rest queues
	for range 2 * maxQueue {
		r.link.Send(&fettlev1.NodeMessage{})
	}
	for {
		if e := r.next(); e.Closed && e.Stream == first.Stream {
			return
		}
	}
}

func TestWithoutAStreamMessagesAreDropped(t *testing.T) {
	t.Parallel()
	l := New(Config{Controllers: []string{"127.0.0.1:1"}})
	l.Send(&fettlev1.NodeMessage{})
	l.Close("nothing")
	if l.Service() != nil {
		t.Error("a service of nobody")
	}
}
