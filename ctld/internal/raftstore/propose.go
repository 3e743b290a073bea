package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// Future is a proposal on its way. It is settled exactly once.
type Future struct {
	done     chan struct{}
	response any
	index    uint64
	err      error
}

// Done is closed when the outcome is there.
func (f *Future) Done() <-chan struct{} { return f.done }

// Wait returns the outcome as Apply does. When ctx ends first the outcome is
// ErrUnknown for this caller; the future goes on and may be waited for again.
func (f *Future) Wait(ctx context.Context) (response any, index uint64, err error) {
	select {
	case <-f.done:
		return f.response, f.index, f.err
	default:
	}
	select {
	case <-f.done:
		return f.response, f.index, f.err
	case <-ctx.Done():
		return nil, 0, &unknownError{context.Cause(ctx)}
	}
}

func failed(err error) *Future {
	f := &Future{done: make(chan struct{}), err: err}
	close(f.done)
	return f
}

// Apply proposes data and waits until it is on the disks of a quorum and the
// local FSM has applied it. response is what the FSM returned and index is the
// entry's place in the log. See ErrUnknown for what errors mean; definite
// failures are ErrNotLeader, ErrTransferring, ErrOverloaded, ErrTooLarge,
// ErrClosed, and ctx's own error if it had ended before the call.
//
// Entries proposed at the same time share one sync: throughput comes from many
// concurrent callers, or from many commands in one entry.
func (s *Store) Apply(ctx context.Context, data []byte) (response any, index uint64, err error) {
	return s.ApplyAsync(ctx, data).Wait(ctx)
}

// ApplyAsync proposes data and returns once the leader's loop took it (or refused
// it), without waiting for the outcome. Entries that one goroutine proposes stand
// in the log in the order of its calls. ctx's deadline bounds the hand-over, as
// does Config.EnqueueTimeout; ending ctx later does not withdraw the proposal.
// data must not be changed afterwards.
func (s *Store) ApplyAsync(ctx context.Context, data []byte) *Future {
	if len(data) > MaxEntryBytes {
		return failed(fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(data), MaxEntryBytes))
	}
	timeout, err := s.enqueueTimeout(ctx)
	if err != nil {
		return failed(err)
	}
	if err := s.flight.enter(len(data)); err != nil {
		return failed(err)
	}
	if s.raft.State() != raft.Leader {
		s.flight.leave(len(data))
		return failed(s.notLeader())
	}
	rf := s.raft.Apply(data, timeout)
	f := &Future{done: make(chan struct{})}
	go func() {
		if err := rf.Error(); err != nil {
			f.err = s.outcome(err)
		} else {
			f.response, f.index = rf.Response(), rf.Index()
		}
		s.flight.leave(len(data))
		close(f.done)
	}()
	return f
}

// Barrier waits until the leader's FSM has applied everything proposed before.
// Leader only.
func (s *Store) Barrier(ctx context.Context) error {
	if s.flight.isClosed() {
		return ErrClosed
	}
	return s.barrier(ctx)
}

func (s *Store) barrier(ctx context.Context) error {
	timeout, err := s.enqueueTimeout(ctx)
	if err != nil {
		return err
	}
	return s.outcome(s.await(ctx, func() raft.Future { return s.raft.Barrier(timeout) }))
}

func (s *Store) enqueueTimeout(ctx context.Context) (time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return 0, context.Cause(ctx)
	}
	timeout := s.cfg.EnqueueTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(min(timeout, time.Until(deadline)), time.Microsecond)
	}
	return timeout, nil
}

// await makes a request of Raft and waits for its future or for ctx.
func (s *Store) await(ctx context.Context, request func() raft.Future) error {
	ch := make(chan error, 1)
	s.flight.add()
	go func() {
		defer s.flight.done()
		ch <- request().Error()
	}()
	select {
	case err := <-ch:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// outcome sorts Raft's errors into definite failures and unknown outcomes.
func (s *Store) outcome(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader):
		return s.notLeader()
	case errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return ErrTransferring
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: the leader's loop is busy", ErrOverloaded)
	}
	return &unknownError{err}
}

// notLeader is the error for calls that only the leader can serve.
func (s *Store) notLeader() error {
	address, id := s.raft.LeaderWithID()
	if string(id) == s.ident.ServerID {
		return &NotLeaderError{} // leading just now, but not for this call
	}
	return &NotLeaderError{LeaderID: string(id), LeaderAddr: string(address)}
}
