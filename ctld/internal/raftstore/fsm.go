package raftstore

import (
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// machine stands between Raft and the caller's state machine. It knows which
// entry was really applied (raft.AppliedIndex only says which was handed over),
// wakes those who wait for one, and watches the membership go by.
type machine struct {
	inner raft.FSM
	batch raft.BatchingFSM // inner, if it takes batches

	applied    atomic.Uint64
	restoreErr error // of the latest restore, for the start alone
	// onApplied is called with the applied index after each batch and restore.
	onApplied func(index uint64)
	// onMembership is called with each committed membership.
	onMembership func(index uint64, c raft.Configuration)

	mu      sync.Mutex
	waiters []waiter
}

type waiter struct {
	index uint64
	ready chan struct{}
}

func newMachine(inner raft.FSM) *machine {
	m := &machine{inner: inner}
	m.batch, _ = inner.(raft.BatchingFSM)
	return m
}

// Apply implements raft.FSM. Raft calls ApplyBatch instead.
func (m *machine) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM. The inner machine sees commands only.
func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	last := logs[len(logs)-1].Index
	commands := logs
	if slices.ContainsFunc(logs, func(l *raft.Log) bool { return l.Type != raft.LogCommand }) {
		commands = nil
		for _, l := range logs {
			switch l.Type {
			case raft.LogCommand:
				commands = append(commands, l)
			case raft.LogConfiguration:
				m.onMembership(l.Index, raft.DecodeConfiguration(l.Data))
			}
		}
	}
	var results []any
	switch {
	case len(commands) == 0:
	case m.batch != nil:
		results = m.batch.ApplyBatch(commands)
	default:
		results = make([]any, len(commands))
		for i, l := range commands {
			results[i] = m.inner.Apply(l)
		}
	}
	n := 0
	for i, l := range logs {
		if l.Type == raft.LogCommand {
			out[i] = results[n]
			n++
		}
	}
	m.advance(last)
	return out
}

// Snapshot implements raft.FSM.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) { return m.inner.Snapshot() }

// Restore implements raft.FSM. The reader is one of snapshots.Open, perhaps
// wrapped by Raft, and so knows the index of the snapshot.
func (m *machine) Restore(r io.ReadCloser) error {
	m.restoreErr = errors.New("the state machine panicked")
	m.restoreErr = m.inner.Restore(r)
	if m.restoreErr != nil {
		return m.restoreErr
	}
	for {
		if s, ok := r.(*snapshotReader); ok {
			m.onMembership(s.meta.ConfigurationIndex, s.meta.Configuration)
			m.advance(s.meta.Index)
			return nil
		}
		w, ok := r.(raft.ReadCloserWrapper)
		if !ok {
			return nil
		}
		r = w.WrappedReadCloser()
	}
}

func (m *machine) advance(index uint64) {
	m.applied.Store(index)
	m.mu.Lock()
	m.waiters = slices.DeleteFunc(m.waiters, func(w waiter) bool {
		if w.index <= index {
			close(w.ready)
			return true
		}
		return false
	})
	m.mu.Unlock()
	m.onApplied(index)
}

// wait returns a channel that is closed once index is applied, and a function
// that gives up waiting.
func (m *machine) wait(index uint64) (ready <-chan struct{}, stop func()) {
	w := waiter{index: index, ready: make(chan struct{})}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.applied.Load() >= index {
		close(w.ready)
		return w.ready, func() {}
	}
	m.waiters = append(m.waiters, w)
	return w.ready, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.waiters = slices.DeleteFunc(m.waiters, func(o waiter) bool { return o.ready == w.ready })
	}
}
