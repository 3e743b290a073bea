package fsm

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// Exit codes of a process that must not go on.
const (
	// ExitDiverged: this replica's state differs from the leader's at the same index.
	ExitDiverged = 66
	// ExitUnreadable: a committed entry cannot be read here.
	ExitUnreadable = 67
)

// Config says how a FSM behaves. The zero value of every field has a meaning.
type Config struct {
	// Fatal ends the process with a code and one line that says what to do. It should not return; when it does, the FSM
	// refuses every further entry. nil panics.
	Fatal func(code int, msg string)
	// CheckpointEvery is after how many entries a leader should propose a hash checkpoint. 0 means 1024.
	CheckpointEvery uint64
	// Logger receives what an operator must know; nil discards it.
	Logger *slog.Logger
}

// FSM applies the log to a state.Store. It implements raft.BatchingFSM; raft calls it from one goroutine.
type FSM struct {
	cfg   Config
	store *state.Store
	ring  *hashRing
	dead  bool
	// checkpoint is the index of the newest hash checkpoint in the log.
	checkpoint atomic.Uint64
}

var _ raft.BatchingFSM = (*FSM)(nil)

// New returns the state machine over store.
func New(store *state.Store, cfg Config) *FSM {
	if cfg.CheckpointEvery == 0 {
		cfg.CheckpointEvery = 1024
	}
	if cfg.Fatal == nil {
		cfg.Fatal = func(code int, msg string) { panic(fmt.Sprintf("exit %d: %s", code, msg)) }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &FSM{cfg: cfg, store: store, ring: newHashRing()}
}

// Store returns the state that the FSM writes.
func (f *FSM) Store() *state.Store { return f.store }

// CheckpointDue returns the hash checkpoint that a leader should propose now, nil when the newest one is recent enough. It
// may be called from any goroutine.
func (f *FSM) CheckpointDue() *raftlogv1.HashCheckpoint {
	s := f.store.Snapshot()
	if s.Index() < f.checkpoint.Load()+f.cfg.CheckpointEvery {
		return nil
	}
	h := s.Hash()
	return &raftlogv1.HashCheckpoint{Index: s.Index(), Hash: h[:]}
}

// Apply applies one entry and answers a *Result.
func (f *FSM) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies entries in order and shows the outcome to readers once. It answers a *Result for each command and nil
// for other kinds of log entries.
func (f *FSM) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	b := f.store.Batch()
	defer b.Publish()
	for i, l := range logs {
		switch {
		case l.Type != raft.LogCommand:
			b.Advance(l.Index, 0)
			f.ring.add(l.Index, b.Hash())
		case f.dead:
			out[i] = &Result{Index: l.Index, Err: &model.FieldError{Kind: model.Internal, Problem: "this controller has stopped"}}
		default:
			out[i] = f.applyOne(b, l)
		}
	}
	return out
}

func (f *FSM) applyOne(b *state.Batch, l *raft.Log) *Result {
	e, err := Decode(l.Data)
	if err != nil {
		return f.fatal(l.Index, ExitUnreadable, fmt.Sprintf("entry %d of the log cannot be read: %v; "+
			"install the version that the other controllers run, or wipe this controller's data and start it with --join", l.Index, err))
	}
	b.Advance(l.Index, min(e.GetNowMs(), model.MaxBeginMS))
	if c := e.GetHashCheckpoint(); c != nil && !f.ring.agrees(c.GetIndex(), c.GetHash()) {
		return f.fatal(l.Index, ExitDiverged, fmt.Sprintf("this controller's state differs from the leader's at index %d; "+
			"wipe its data and start it with --join", c.GetIndex()))
	}
	if c := e.GetHashCheckpoint(); c != nil {
		f.checkpoint.Store(l.Index)
	}
	r := f.execute(b, e)
	r.Index = l.Index
	f.ring.add(l.Index, b.Hash())
	return r
}

// execute applies an entry's operation as a transaction, which is kept only when the entry is not refused.
func (f *FSM) execute(b *state.Batch, e *raftlogv1.Entry) *Result {
	t := b.Begin()
	r := f.guarded(t, e)
	if r.Err == nil {
		// Outside the guard: a half-made commit must end the process, not go on.
		t.Commit()
	}
	return r
}

// guarded carries out an operation; a panic in it refuses the entry.
func (f *FSM) guarded(t *state.Txn, e *raftlogv1.Entry) (r *Result) {
	defer func() {
		if p := recover(); p != nil {
			// The text must not differ between replicas, so what panicked goes to the log only.
			f.cfg.Logger.Error("entry refused after a panic", "index", t.Index(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			r = &Result{Err: &model.FieldError{Kind: model.Internal, Problem: "the request hit a fault in fettle and was dropped", Remedy: "please report it"}}
		}
	}()
	if r = apply(t, e); r.Err == nil {
		settle(t)
	}
	return r
}

func (f *FSM) fatal(index uint64, code int, msg string) *Result {
	f.dead = true
	f.cfg.Fatal(code, msg)
	return &Result{Index: index, Err: &model.FieldError{Kind: model.Internal, Problem: msg}}
}
