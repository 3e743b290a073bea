package raftstore

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// barrierRetry is the pause between attempts to become ready as a new leader.
const barrierRetry = 50 * time.Millisecond

// leadership turns Raft's notifications into OnGained and OnLost. One goroutine
// takes every notification at once, because Raft's main loop waits for it;
// another runs the callbacks one after the other.
type leadership struct {
	store  *Store
	notify chan bool
	// changed wakes those who wait for a leader or for readiness.
	changed broadcast

	mu    sync.Mutex
	epoch *epoch // nil while not leading
	ready uint64 // term in which this server is a ready leader, or 0
	wake  chan struct{}
}

// epoch is one stretch of leading.
type epoch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func newLeadership(s *Store) *leadership {
	return &leadership{store: s, notify: make(chan bool, 1), wake: make(chan struct{}, 1)}
}

// pump runs until stop, which must come after Raft ended.
func (l *leadership) pump(stop <-chan struct{}) {
	for {
		select {
		case leading := <-l.notify:
			l.set(leading)
		case <-stop:
			return
		}
	}
}

func (l *leadership) set(leading bool) {
	l.mu.Lock()
	if l.epoch != nil { // lost, or lost and regained
		l.epoch.cancel(ErrNotLeader)
		l.epoch = nil
	}
	l.ready = 0
	if leading {
		ctx, cancel := context.WithCancelCause(context.Background())
		l.epoch = &epoch{ctx, cancel}
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	l.changed.wake()
}

// observe wakes waiters when Raft hears of another leader. Raft drops
// observations that do not fit the channel, but then one is waiting there.
func (l *leadership) observe(ch <-chan raft.Observation, stop <-chan struct{}) {
	for {
		select {
		case <-ch:
			l.changed.wake()
		case <-stop:
			return
		}
	}
}

// run calls OnGained and OnLost until stop.
func (l *leadership) run(stop <-chan struct{}) {
	for {
		l.mu.Lock()
		e := l.epoch
		l.mu.Unlock()
		if e == nil {
			select {
			case <-l.wake:
				continue
			case <-stop:
				return
			}
		}
		l.lead(e, stop)
		select {
		case <-stop:
			return
		default:
		}
	}
}

// lead serves one epoch from its start to its end, or to stop.
func (l *leadership) lead(e *epoch, stop <-chan struct{}) {
	ctx, cancel := context.WithCancelCause(e.ctx)
	defer cancel(ErrClosed)
	defer context.AfterFunc(ctx, l.changed.wake)()
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-stop:
			cancel(ErrClosed)
		case <-over:
		}
	}()
	term, ok := l.establish(ctx)
	if !ok {
		return
	}
	l.mu.Lock()
	if l.epoch != e {
		l.mu.Unlock()
		return
	}
	l.ready = term
	l.mu.Unlock()
	l.changed.wake()
	s := l.store
	s.log.Info("leadership gained", "term", term)
	s.high.kick()
	if s.cfg.OnGained != nil {
		s.cfg.OnGained(ctx, term)
	}
	<-ctx.Done()
	l.mu.Lock()
	if l.epoch == e {
		l.ready = 0 // stopped while still leading
	}
	l.mu.Unlock()
	s.log.Info("leadership lost", "term", term)
	if s.cfg.OnLost != nil {
		s.cfg.OnLost(term)
	}
}

// establish waits until the local FSM has applied all entries of earlier terms.
// It reports false when the epoch ended first.
func (l *leadership) establish(ctx context.Context) (term uint64, ok bool) {
	s := l.store
	for {
		term = s.raft.CurrentTerm()
		err := s.barrier(ctx)
		if err == nil && s.raft.State() == raft.Leader && s.raft.CurrentTerm() == term {
			return term, true
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("new leader is not ready yet", "err", err)
		}
		select {
		case <-ctx.Done():
			return 0, false
		case <-time.After(barrierRetry):
		}
	}
}

// readyTerm is the term in which this server is a ready leader, or 0.
func (l *leadership) readyTerm() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready
}

// waitReady waits until this server is a ready leader and returns the term. It
// fails at once when the server does not lead.
func (s *Store) waitReady(ctx context.Context) (uint64, error) {
	for {
		changed := s.lead.changed.wait()
		if term := s.lead.readyTerm(); term != 0 {
			return term, nil
		}
		if s.raft.State() != raft.Leader || s.flight.isClosed() {
			return 0, s.notLeader()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// LeaderInfo returns the leader as far as this server knows.
func (s *Store) LeaderInfo() Leader {
	address, id := s.raft.LeaderWithID()
	l := Leader{ID: string(id), Addr: string(address), Term: s.raft.CurrentTerm()}
	if l.ID == "" {
		return l
	}
	l.Name = ServerName(l.ID)
	l.Self = l.ID == s.ident.ServerID
	l.Ready = l.Self && s.lead.readyTerm() == l.Term
	return l
}

// WaitLeader waits until a leader is known; if it is this server, until it is
// ready.
func (s *Store) WaitLeader(ctx context.Context) (Leader, error) {
	for {
		changed := s.lead.changed.wait()
		if l := s.LeaderInfo(); l.ID != "" && (!l.Self || l.Ready) {
			return l, nil
		}
		select {
		case <-changed:
		case <-s.done:
			return Leader{}, ErrClosed
		case <-ctx.Done():
			return Leader{}, context.Cause(ctx)
		}
	}
}
