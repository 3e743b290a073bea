// Package locallog is a replicated log of one member in memory: what tests stand on that need a log, but no Raft. An
// entry is committed and applied when Propose returns, unless the test decides otherwise.
package locallog

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// Hook sees an entry before it is proposed. An error is what Propose answers; with lost set the entry is committed all
// the same, as when an answer is lost on its way.
type Hook func(e *raftlogv1.Entry) (lost bool, err error)

// Log is safe for concurrent use.
type Log struct {
	// Now stamps entries; nil means time.Now. Set it before the first entry.
	Now func() time.Time

	mu    sync.Mutex
	index uint64
	fsm   *fsm.FSM
	hook  Hook
}

// New returns an empty log over a state machine of the named cluster.
func New(clusterID string) *Log {
	return &Log{Now: time.Now, fsm: fsm.New(state.New(clusterID), fsm.Config{})}
}

// Store is the state that the log makes.
func (l *Log) Store() *state.Store { return l.fsm.Store() }

// OnPropose sets a hook, nil for none.
func (l *Log) OnPropose(h Hook) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hook = h
}

// Propose commits and applies an entry.
func (l *Log) Propose(ctx context.Context, e *raftlogv1.Entry) (*fsm.Result, error) {
	l.mu.Lock()
	hook := l.hook
	l.mu.Unlock()
	var failure error
	if hook != nil {
		// Outside the lock: a hook may wait for what another entry brings about.
		lost, err := hook(e)
		if failure = err; err != nil && !lost {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e.NowMs = l.Now().UnixMilli()
	if e.GetActor() == nil {
		e.Actor = &raftlogv1.Actor{System: true}
	}
	data, err := fsm.Encode(e)
	if err != nil {
		return nil, err
	}
	l.index++
	res := l.fsm.Apply(&raft.Log{Index: l.index, Type: raft.LogCommand, Data: data}).(*fsm.Result)
	if failure != nil {
		return nil, failure
	}
	return res, nil
}

// ForNodes narrows the log to what node sessions need.
func (l *Log) ForNodes() NodeLog { return NodeLog{l} }

// NodeLog implements session.Proposer.
type NodeLog struct{ log *Log }

// Propose commits an entry; a refusal of the state machine is an error.
func (n NodeLog) Propose(ctx context.Context, e *raftlogv1.Entry) (uint64, error) {
	res, err := n.log.Propose(ctx, e)
	if err != nil {
		return 0, err
	}
	if res.Err != nil {
		return 0, res.Err
	}
	return res.Index, nil
}
