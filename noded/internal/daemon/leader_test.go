package daemon

import (
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// leader is a controller that follows the protocol and does what a test says.
type leader struct {
	fettlev1.UnimplementedNodeServiceServer
	t      testing.TB
	server *grpc.Server
	addr   string

	mu      sync.Mutex
	cluster string
	term    uint64
	session uint64
	ttlMS   int64
	noAcks  bool
	out     chan *fettlev1.ControllerMessage
	closed  chan struct{}

	hellos   chan *fettlev1.Hello
	reports  chan *fettlev1.AttemptReport
	progress chan *fettlev1.NodeProgress
	chunks   chan *fettlev1.PushLogRequest
	// readings are the newest.
	readings []*fettlev1.GPUReading
}

func newLeader(t testing.TB) *leader {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &leader{
		t: t, server: grpc.NewServer(), addr: l.Addr().String(), cluster: "c1", term: 1, session: 100, ttlMS: 60_000,
		hellos: make(chan *fettlev1.Hello, 100), reports: make(chan *fettlev1.AttemptReport, 100_000),
		progress: make(chan *fettlev1.NodeProgress, 1000), chunks: make(chan *fettlev1.PushLogRequest, 1000),
	}
	fettlev1.RegisterNodeServiceServer(c.server, c)
	var serving sync.WaitGroup
	serving.Go(func() { _ = c.server.Serve(l) })
	t.Cleanup(func() {
		c.server.Stop()
		serving.Wait()
	})
	return c
}

func (c *leader) Session(s grpc.BidiStreamingServer[fettlev1.NodeMessage, fettlev1.ControllerMessage]) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	out, closed := make(chan *fettlev1.ControllerMessage, 100_000), make(chan struct{})
	c.mu.Lock()
	c.session++
	session := c.session
	out <- &fettlev1.ControllerMessage{Session: session, Msg: &fettlev1.ControllerMessage_Welcome{Welcome: &fettlev1.Welcome{
		ClusterId: c.cluster, Term: c.term, Session: session, LeaseTtlMs: c.ttlMS, HeartbeatMs: 200}}}
	c.out, c.closed = out, closed
	c.mu.Unlock()
	c.hellos <- first.GetHello()
	for _, r := range first.GetHello().GetAttempts() {
		c.report(r, out, session)
	}
	var sending sync.WaitGroup
	sending.Go(func() {
		for {
			select {
			case m := <-out:
				m.Session = session
				if s.Send(m) != nil {
					return
				}
			case <-closed:
				return
			}
		}
	})
	defer sending.Wait()
	defer close(closed)
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		switch x := m.GetMsg().(type) {
		case *fettlev1.NodeMessage_Heartbeat:
			c.mu.Lock()
			ttl := c.ttlMS
			c.mu.Unlock()
			if ttl > 0 {
				out <- &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Lease{Lease: &fettlev1.LeaseGrant{
					Seq: x.Heartbeat.GetSeq(), SentBoottimeMs: x.Heartbeat.GetSentBoottimeMs(), TtlMs: ttl}}}
			}
		case *fettlev1.NodeMessage_Report:
			c.report(x.Report, out, session)
		case *fettlev1.NodeMessage_Progress:
			c.progress <- x.Progress
		case *fettlev1.NodeMessage_Readings:
			c.mu.Lock()
			c.readings = x.Readings.GetGpus()
			c.mu.Unlock()
		}
	}
}

func (c *leader) report(r *fettlev1.AttemptReport, out chan *fettlev1.ControllerMessage, session uint64) {
	c.mu.Lock()
	acks := !c.noAcks
	c.mu.Unlock()
	if acks && r.GetKind() == fettlev1.ReportKind_REPORT_KIND_ENDED {
		out <- &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Ack{Ack: &fettlev1.Ack{Key: r.GetKey(), CommittedIndex: session}}}
	}
	c.reports <- r
}

func (c *leader) PushLog(s grpc.ClientStreamingServer[fettlev1.PushLogRequest, fettlev1.PushLogResponse]) error {
	for {
		m, err := s.Recv()
		if err != nil {
			return s.SendAndClose(&fettlev1.PushLogResponse{})
		}
		c.chunks <- m
	}
}

// order gives an order in the newest session.
func (c *leader) order(m *fettlev1.ControllerMessage) {
	c.mu.Lock()
	out := c.out
	c.mu.Unlock()
	out <- m
}

func (c *leader) prepare(p *fettlev1.Prepare) {
	c.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Prepare{Prepare: p}})
}

func (c *leader) kill(k *fettlev1.AttemptKey, graceMS int64) {
	c.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Kill{Kill: &fettlev1.Kill{Key: k, GraceMs: graceMS}}})
}

func (c *leader) acks(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noAcks = !on
}

// reading is the newest of a GPU, nil when there is none.
func (c *leader) reading(uuid string) *fettlev1.GPUReading {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.readings {
		if r.GetUuid() == uuid {
			return r
		}
	}
	return nil
}

const patience = 30 * time.Second

func (c *leader) hello() *fettlev1.Hello {
	c.t.Helper()
	select {
	case h := <-c.hellos:
		return h
	case <-time.After(patience):
		c.t.Fatal("no hello")
		return nil
	}
}

// next is the next report about a job of one of the kinds.
func (c *leader) next(job uint64, kind fettlev1.ReportKind) *fettlev1.AttemptReport {
	c.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case r := <-c.reports:
			if r.GetKey().GetJobId() != job {
				continue
			}
			if r.GetKind() == kind {
				return r
			}
			if r.GetExit().GetNeverStarted() && kind == fettlev1.ReportKind_REPORT_KIND_STARTED {
				c.t.Fatalf("job %d was not started: %s", job, r.GetExit().GetDetail())
			}
		case <-deadline:
			c.t.Fatalf("no %v of job %d", kind, job)
			return nil
		}
	}
}

func (c *leader) ended(job uint64) *fettlev1.Exit {
	c.t.Helper()
	return c.next(job, fettlev1.ReportKind_REPORT_KIND_ENDED).GetExit()
}

func (c *leader) started(job uint64) {
	c.t.Helper()
	c.next(job, fettlev1.ReportKind_REPORT_KIND_STARTED)
}
