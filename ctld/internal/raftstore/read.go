package raftstore

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// invisibleRetry is how often a waiter looks again whether the entries up to its
// index are of the kinds that no state machine sees.
const invisibleRetry = 25 * time.Millisecond

// reader gathers linearizable reads so that all that arrive during one round to
// the quorum share the next.
type reader struct {
	mu      sync.Mutex
	pending *round
	wake    chan struct{}
}

type round struct {
	done  chan struct{}
	index uint64
	err   error
}

func newReader() *reader { return &reader{wake: make(chan struct{}, 1)} }

// join returns the round that has not begun yet.
func (r *reader) join() *round {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending == nil {
		r.pending = &round{done: make(chan struct{})}
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	return r.pending
}

func (r *reader) take() *round {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pending
	r.pending = nil
	return p
}

// serveReads runs rounds until ctx ends.
func (s *Store) serveReads(ctx context.Context) {
	for {
		select {
		case <-s.reads.wake:
		case <-ctx.Done():
			if p := s.reads.take(); p != nil {
				p.err = ErrClosed
				close(p.done)
			}
			return
		}
		if p := s.reads.take(); p != nil {
			p.index, p.err = s.readIndex(ctx)
			close(p.done)
		}
	}
}

// WaitLinearizable waits until the local FSM shows every write that was
// acknowledged to anyone before the call, and returns the index it shows. It
// fails with ErrNotLeader on a server that does not lead, or only believes so.
func (s *Store) WaitLinearizable(ctx context.Context) (index uint64, err error) {
	if s.flight.isClosed() {
		return 0, ErrClosed
	}
	if s.raft.State() != raft.Leader {
		return 0, s.notLeader()
	}
	p := s.reads.join()
	select {
	case <-p.done:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-s.done:
		return 0, ErrClosed
	}
	if p.err != nil {
		return 0, p.err
	}
	return p.index, s.WaitApplied(ctx, p.index)
}

// readIndex proves that this server leads now and returns an index at or above
// everything acknowledged before the call.
func (s *Store) readIndex(ctx context.Context) (uint64, error) {
	term, err := s.waitReady(ctx)
	if err != nil {
		return 0, err
	}
	// The order matters: the commit index is read before the question is asked, and
	// only answers to calls begun after that count.
	index := s.visible(s.raft.CommitIndex())
	asked := s.acks.now()
	for {
		changed := s.acks.changed.wait()
		err := s.await(ctx, func() raft.Future { return s.raft.VerifyLeader() })
		switch {
		case ctx.Err() != nil:
			return 0, ErrClosed
		case errors.Is(err, raft.ErrRaftShutdown):
			return 0, ErrClosed
		case err != nil, s.raft.CurrentTerm() != term, s.lead.readyTerm() != term:
			return 0, s.notLeader()
		case s.quorumSince(asked, term):
			return index, nil
		}
		// VerifyLeader was content with an answer that had been under way already.
		// It has also sent out new calls: wait for their answers, then ask again.
		select {
		case <-changed:
		case <-time.After(s.heartbeat / 4):
		case <-ctx.Done():
			return 0, ErrClosed
		}
	}
}

// quorumSince reports whether a majority of voters has taken this server for the
// leader of the term in calls begun after a moment.
func (s *Store) quorumSince(moment, term uint64) bool {
	voters, have := 0, 0
	for _, v := range s.configuration().Servers {
		if v.Suffrage != raft.Voter {
			continue
		}
		voters++
		if string(v.ID) == s.ident.ServerID || s.acks.peer(v.ID, term).seq > moment {
			have++
		}
	}
	return have > voters/2
}

// visible is the last index up to index whose entry the FSM sees. Entries that
// Raft writes for itself never reach it.
func (s *Store) visible(index uint64) uint64 {
	for index > s.fsm.applied.Load() && s.invisible(index) {
		index--
	}
	return index
}

func (s *Store) invisible(index uint64) bool {
	var l raft.Log
	if err := s.logs.GetLog(index, &l); err != nil {
		return false
	}
	return l.Type != raft.LogCommand && l.Type != raft.LogConfiguration
}

// WaitApplied waits until the local FSM has applied everything up to index.
func (s *Store) WaitApplied(ctx context.Context, index uint64) error {
	if s.fsm.applied.Load() >= index {
		return nil
	}
	ready, stop := s.fsm.wait(index)
	defer stop()
	for {
		select {
		case <-ready:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.done:
			return ErrClosed
		case <-time.After(invisibleRetry):
			if s.appliedThrough(index) {
				return nil
			}
		}
	}
}

// appliedThrough reports whether only entries that no FSM sees lie between what
// the FSM has applied and index.
func (s *Store) appliedThrough(index uint64) bool {
	applied := s.fsm.applied.Load()
	if index > s.raft.CommitIndex() {
		return false
	}
	for i := applied + 1; i <= index; i++ {
		if !s.invisible(i) {
			return false
		}
	}
	return true
}

// AppliedIndex is the last index the local FSM has applied.
func (s *Store) AppliedIndex() uint64 { return s.fsm.applied.Load() }

// LastContact is the last time this server was known to be up to date with a
// quorum: on a follower when it last heard the leader, on the leader when the
// calls began that a quorum last answered. Zero means never. Reads from the local
// FSM are at least as fresh as that moment, give or take a commit on its way.
func (s *Store) LastContact() time.Time {
	if s.raft.State() != raft.Leader {
		return s.raft.LastContact()
	}
	term := s.raft.CurrentTerm()
	var at []time.Time
	for _, v := range s.configuration().Servers {
		switch {
		case v.Suffrage != raft.Voter:
		case string(v.ID) == s.ident.ServerID:
			at = append(at, time.Now())
		default:
			at = append(at, s.acks.peer(v.ID, term).at)
		}
	}
	if len(at) == 0 {
		return time.Time{}
	}
	slices.SortFunc(at, func(a, b time.Time) int { return b.Compare(a) })
	return at[len(at)/2]
}

func (s *Store) configuration() raft.Configuration {
	return s.raft.GetConfiguration().Configuration()
}
