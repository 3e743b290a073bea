package session

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// maxReportsPerEntry keeps a batch of reports well under the size limit of a log entry.
const maxReportsPerEntry = 256

// reportGap is the least time between two entries with reports: under load what comes in meanwhile goes into one. A report
// after a quiet time is proposed at once.
const reportGap = 5 * time.Millisecond

// verifyEvery is how often leadership is proven: twice within verifiedWithinMS.
const verifyEvery = verifiedWithinMS / 2 * time.Millisecond

// Proposer puts an entry into the log and waits until it is applied here. The index is that of the entry. An error that
// holds a *model.FieldError is the state machine's refusal; any other leaves open what became of the entry.
type Proposer interface {
	Propose(ctx context.Context, e *raftlogv1.Entry) (index uint64, err error)
}

// loop drives one Machine for one term: everything happens on its goroutine, in the order it comes in.
type loop struct {
	srv     *Server
	machine *Machine
	ctx     context.Context
	calls   chan func()
	// exited is closed when the goroutine runs no more calls.
	exited   chan struct{}
	senders  map[ConnID]*sender
	pending  []*Propose
	inFlight bool
	// flushed is when reports were last proposed; wait fires when more may be.
	flushed time.Time
	wait    *time.Timer
	// verifiedMS is when leadership was last proven to a quorum, on the machine's clock.
	verifiedMS int64
	workers    sync.WaitGroup
}

func newLoop(ctx context.Context, srv *Server, term uint64) *loop {
	return &loop{
		wait: time.NewTimer(time.Hour),
		srv:  srv, ctx: ctx, calls: make(chan func(), 256), exited: make(chan struct{}), senders: map[ConnID]*sender{},
		machine:    NewMachine(srv.cfg.Times, srv.cfg.ClusterID, term, srv.cfg.Store.Snapshot(), srv.cfg.Clock()),
		verifiedMS: math.MinInt64 / 2,
	}
}

// do runs f on the loop's goroutine and waits for it; false when the term is over and f was not run and never will be.
func (l *loop) do(f func()) bool {
	done := make(chan struct{})
	select {
	case l.calls <- func() { f(); close(done) }:
	case <-l.exited:
		return false
	}
	select {
	case <-done:
		return true
	case <-l.exited:
	}
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// post runs f on the loop's goroutine without waiting, or not at all when the term is over.
func (l *loop) post(f func()) {
	select {
	case l.calls <- f:
	case <-l.exited:
	}
}

func (l *loop) nowMS() int64 { return l.srv.cfg.Clock() }

// run works until the term is over, and returns when nothing that it started is left.
func (l *loop) run() {
	l.workers.Go(l.verifyLeadership)
	l.serve()
	close(l.exited)
	l.workers.Wait()
	for _, s := range l.senders {
		s.close(codes.Aborted, "this controller no longer leads")
	}
}

func (l *loop) serve() {
	store := l.srv.cfg.Store
	changes := store.Subscribe(1024)
	defer changes.Close()
	tick := time.NewTicker(l.srv.tickEvery())
	defer tick.Stop()
	defer l.wait.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.wait.C:
			l.flushReports()
		case f := <-l.calls:
			f()
		case set := <-changes.C():
			snap := store.Snapshot()
			jobs := set.Jobs
			if set.Resync {
				jobs = nil
				for j := range snap.Active {
					jobs = append(jobs, j.ID)
				}
			}
			l.srv.telemetry.changed(jobs, set.Resync, snap)
			l.apply(l.machine.Changed(jobs, snap))
		case <-tick.C:
			snap := store.Snapshot()
			l.srv.telemetry.keepNodes(snap)
			l.apply(l.machine.Tick(snap, l.nowMS()))
		}
	}
}

// verifyLeadership proves leadership to a quorum again and again, so that leases are never granted by a leader that
// has been replaced without knowing it.
func (l *loop) verifyLeadership() {
	every := time.NewTicker(verifyEvery)
	defer every.Stop()
	for {
		before := l.nowMS()
		ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
		err := l.srv.cfg.VerifyLeader(ctx)
		cancel()
		if err == nil {
			l.post(func() {
				l.verifiedMS = before
				l.apply(l.machine.Verified(l.nowMS(), before))
			})
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
				code := codes.Aborted
				if o.Close.Refused {
					code = codes.FailedPrecondition
				}
				s.close(code, o.Close.Reason)
				l.srv.connectivity()
			}
		case o.Propose.Report != nil:
			l.pending = append(l.pending, o.Propose)
		default:
			l.propose(o.Propose)
		}
	}
	l.flushReports()
}

func (l *loop) propose(p *Propose) {
	l.start(p.Entry, []*Propose{p}, func() {})
}

// start proposes an entry and tells the machine how it went for each of what went into it.
func (l *loop) start(e *raftlogv1.Entry, parts []*Propose, over func()) {
	l.workers.Go(func() {
		index, err := l.srv.cfg.Proposer.Propose(l.ctx, e)
		l.post(func() {
			over()
			var out []Output
			if err != nil {
				var refusal *model.FieldError
				refused := errors.As(err, &refusal)
				l.srv.log.Warn("node entry not committed", "parts", len(parts), "refused", refused, "err", err)
				for _, p := range parts {
					out = append(out, l.machine.Failed(p, err, refused)...)
				}
				l.apply(out)
				return
			}
			snap := l.srv.cfg.Store.Snapshot()
			opened := false
			for _, p := range parts {
				out = append(out, l.machine.Committed(p, index, snap, l.nowMS())...)
				opened = opened || p.hello != 0
			}
			l.apply(out)
			if opened {
				l.srv.connectivity()
			}
		})
	})
}

// flushReports proposes the waiting reports as one entry, one batch at a time: what comes in meanwhile makes the next.
func (l *loop) flushReports() {
	if l.inFlight || len(l.pending) == 0 {
		return
	}
	if pause := reportGap - time.Since(l.flushed); pause > 0 {
		l.wait.Reset(pause)
		return
	}
	l.flushed = time.Now()
	batch := l.pending[:min(len(l.pending), maxReportsPerEntry)]
	l.pending = append([]*Propose(nil), l.pending[len(batch):]...)
	l.inFlight = true
	reports := make([]*fettlev1.AttemptReport, len(batch))
	for i, p := range batch {
		reports[i] = p.Report.Report
	}
	entry := &raftlogv1.Entry{Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: reports}}}
	l.start(entry, batch, func() { l.inFlight = false })
}

// sendTo sends on a node's open session and returns its sender; nil when it has none.
func (l *loop) sendTo(node string, msg *fettlev1.ControllerMessage) *sender {
	c := l.machine.open(node)
	if c == nil {
		return nil
	}
	s := l.senders[c.id]
	if s != nil {
		l.apply([]Output{l.machine.send(c, msg)})
	}
	return s
}
