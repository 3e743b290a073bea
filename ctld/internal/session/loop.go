package session

import (
	"context"
	"log/slog"
	"sync"
	"time"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// maxReportsPerEntry keeps a batch of reports well under the size limit of a log entry.
const maxReportsPerEntry = 256

// Proposer puts an entry into the log and waits until it is applied here. The index is that of the entry.
type Proposer interface {
	Propose(ctx context.Context, e *raftlogv1.Entry) (index uint64, err error)
}

// loop drives one Machine for one term: everything happens on its goroutine, in the order it comes in.
type loop struct {
	srv      *Server
	machine  *Machine
	ctx      context.Context
	calls    chan func()
	senders  map[ConnID]*sender
	pending  []*PendingReport
	inFlight bool
	// verified is when leadership was last proven to a quorum.
	verified time.Time
	workers  sync.WaitGroup
}

// do runs f on the loop's goroutine and waits for it; false when the term is over.
func (l *loop) do(f func()) bool {
	done := make(chan struct{})
	select {
	case l.calls <- func() { f(); close(done) }:
	case <-l.ctx.Done():
		return false
	}
	select {
	case <-done:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// post runs f on the loop's goroutine without waiting.
func (l *loop) post(f func()) {
	select {
	case l.calls <- f:
	case <-l.ctx.Done():
	}
}

func (l *loop) nowMS() int64 { return l.srv.cfg.Now().UnixMilli() }

func (l *loop) run() {
	changes := l.srv.cfg.Store.Subscribe(1024)
	defer changes.Close()
	tick := time.NewTicker(l.srv.tickEvery())
	defer tick.Stop()
	l.workers.Go(l.verifyLeadership)
	defer l.workers.Wait()
	defer func() {
		for _, s := range l.senders {
			s.close("this controller no longer leads")
		}
	}()
	for {
		select {
		case <-l.ctx.Done():
			return
		case f := <-l.calls:
			f()
		case set := <-changes.C():
			snap := l.srv.cfg.Store.Snapshot()
			jobs := set.Jobs
			if set.Resync {
				jobs = nil
				for j := range snap.Active {
					jobs = append(jobs, j.ID)
				}
			}
			l.apply(l.machine.Changed(jobs, snap))
		case <-tick.C:
			l.apply(l.machine.Tick(l.srv.cfg.Store.Snapshot(), l.nowMS()))
		}
	}
}

// verifyLeadership proves leadership to a quorum again and again, so that leases are never granted by a leader that
// has been replaced without knowing it.
func (l *loop) verifyLeadership() {
	every := time.NewTicker(500 * time.Millisecond)
	defer every.Stop()
	for {
		before := l.srv.cfg.Now()
		ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
		err := l.srv.cfg.VerifyLeader(ctx)
		cancel()
		if err == nil {
			l.post(func() { l.verified = before })
		}
		select {
		case <-l.ctx.Done():
			return
		case <-every.C:
		}
	}
}

// apply does what a step of the machine asks for.
func (l *loop) apply(outputs []Output) {
	for _, o := range outputs {
		switch {
		case o.Send != nil:
			if s := l.senders[o.Send.Conn]; s != nil {
				s.push(o.Send.Msg)
			}
		case o.Close != nil:
			if s := l.senders[o.Close.Conn]; s != nil {
				s.close(o.Close.Reason)
			}
		case o.Propose != nil && o.Propose.Report != nil:
			l.pending = append(l.pending, o.Propose.Report)
		case o.Propose != nil:
			l.propose(o.Propose)
		}
	}
	l.flushReports()
}

func (l *loop) propose(p *Propose) {
	l.workers.Go(func() {
		index, err := l.srv.cfg.Proposer.Propose(l.ctx, p.Entry)
		l.post(func() {
			if err != nil {
				l.srv.log.Warn("node change not committed", "err", err)
				l.proposalFailed(p, err)
				return
			}
			if p.Hello != 0 {
				l.apply(l.machine.Opened(p.Hello, index, l.srv.cfg.Store.Snapshot(), l.nowMS()))
				l.srv.connectivity()
			}
		})
	})
}

func (l *loop) proposalFailed(p *Propose, err error) {
	switch op := p.Entry.GetOp().(type) {
	case *raftlogv1.Entry_NodeHello:
		if s := l.senders[p.Hello]; s != nil {
			s.close("registration not committed: " + err.Error())
		}
	case *raftlogv1.Entry_NodeState:
		l.machine.JudgementFailed(op.NodeState.GetNode())
	case *raftlogv1.Entry_FenceNode:
		l.machine.JudgementFailed(op.FenceNode.GetNode())
	}
}

// flushReports proposes the waiting reports as one entry, one batch at a time: what comes in meanwhile makes the next.
func (l *loop) flushReports() {
	if l.inFlight || len(l.pending) == 0 {
		return
	}
	batch := l.pending
	if len(batch) > maxReportsPerEntry {
		batch = batch[:maxReportsPerEntry]
	}
	l.pending = append([]*PendingReport(nil), l.pending[len(batch):]...)
	l.inFlight = true
	reports := make([]*fettlev1.AttemptReport, len(batch))
	for i, p := range batch {
		reports[i] = p.Report
	}
	entry := &raftlogv1.Entry{Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: reports}}}
	l.workers.Go(func() {
		index, err := l.srv.cfg.Proposer.Propose(l.ctx, entry)
		l.post(func() {
			l.inFlight = false
			var out []Output
			for _, p := range batch {
				if err != nil {
					out = append(out, l.machine.ReportFailed(p)...)
				} else {
					out = append(out, l.machine.ReportCommitted(p, index)...)
				}
			}
			if err != nil {
				l.srv.log.Warn("reports not committed", "count", len(batch), "err", err)
			}
			l.apply(out)
		})
	})
}

// sender is the outgoing half of one node's connection: an ordered queue that a slow node cannot make the loop wait on.
type sender struct {
	mu     sync.Mutex
	queue  []*fettlev1.ControllerMessage
	wake   chan struct{}
	closed string
	done   chan struct{}
	log    *slog.Logger
}

// maxQueued orders for one node; a node that far behind is cut off and told everything again when it comes back.
const maxQueued = 100_000

func newSender(log *slog.Logger) *sender {
	return &sender{wake: make(chan struct{}, 1), done: make(chan struct{}), log: log}
}

func (s *sender) push(m *fettlev1.ControllerMessage) {
	s.mu.Lock()
	s.queue = append(s.queue, m)
	over := len(s.queue) > maxQueued
	s.mu.Unlock()
	if over {
		s.close("too far behind")
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *sender) take() []*fettlev1.ControllerMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queue
	s.queue = nil
	return q
}

func (s *sender) close(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
	default:
		s.closed = reason
		close(s.done)
	}
}

func (s *sender) reason() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}
