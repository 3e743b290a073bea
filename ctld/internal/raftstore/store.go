package raftstore

import (
	"context"
	"time"
)

// Store is one server of the replicated log. Its methods may be called from any
// goroutine.
type Store struct{}

// Future is a proposal on its way.
type Future struct{}

// Open checks the data directory, starts Raft, and joins the cluster if asked to.
// ctx bounds the opening alone.
func Open(ctx context.Context, cfg Config) (*Store, error) { return nil, ErrClosed }

// Identity returns who this server is.
func (s *Store) Identity() Identity { return Identity{} }

// Warnings lists what Open found odd about the data directory, one line each.
func (s *Store) Warnings() []string { return nil }

// Done is closed when the store stopped, by Shutdown or by itself.
func (s *Store) Done() <-chan struct{} { return nil }

// Apply proposes data and waits until the local FSM has applied it.
func (s *Store) Apply(ctx context.Context, data []byte) (response any, index uint64, err error) {
	return nil, 0, ErrClosed
}

// ApplyAsync proposes data and returns without waiting for the outcome.
func (s *Store) ApplyAsync(ctx context.Context, data []byte) *Future { return nil }

// Done is closed when the outcome is there.
func (f *Future) Done() <-chan struct{} { return nil }

// Wait returns the outcome, or an unknown one when ctx ends first.
func (f *Future) Wait(ctx context.Context) (response any, index uint64, err error) {
	return nil, 0, ErrClosed
}

// Barrier waits until the leader's FSM has applied everything proposed before.
func (s *Store) Barrier(ctx context.Context) error { return ErrClosed }

// WaitLinearizable waits until the local FSM shows every write acknowledged
// before the call, and returns the index it reached. Leader only.
func (s *Store) WaitLinearizable(ctx context.Context) (index uint64, err error) { return 0, ErrClosed }

// WaitApplied waits until the local FSM has applied index.
func (s *Store) WaitApplied(ctx context.Context, index uint64) error { return ErrClosed }

// AppliedIndex is the last index the local FSM has applied.
func (s *Store) AppliedIndex() uint64 { return 0 }

// LastContact is the last time this server was known to be up to date with a
// quorum: on a follower when it last heard the leader, on the leader when a
// quorum last answered it. Zero means never.
func (s *Store) LastContact() time.Time { return time.Time{} }

// LeaderInfo returns the leader as far as this server knows.
func (s *Store) LeaderInfo() Leader { return Leader{} }

// WaitLeader waits until a leader is known.
func (s *Store) WaitLeader(ctx context.Context) (Leader, error) { return Leader{}, ErrClosed }

// Transfer hands leadership to the most up-to-date other voter.
func (s *Store) Transfer(ctx context.Context) error { return ErrClosed }

// AddServer adds a server: as non-voter, and as voter once it has caught up. An
// older server of the same name is removed. Leader only, safe to repeat.
func (s *Store) AddServer(ctx context.Context, req JoinRequest) error { return ErrClosed }

// RemoveServer removes a server for good. Leader only, safe to repeat.
func (s *Store) RemoveServer(ctx context.Context, serverID string) error { return ErrClosed }

// Members lists the latest membership.
func (s *Store) Members() []Member { return nil }

// Status summarizes the local server.
func (s *Store) Status() Status { return Status{} }

// Disk returns the state of the data directory's file system.
func (s *Store) Disk() Disk { return Disk{} }

// Snapshot takes a snapshot now and returns its index.
func (s *Store) Snapshot(ctx context.Context) (index uint64, err error) { return 0, ErrClosed }

// Shutdown hands over leadership, stops Raft and closes the files.
func (s *Store) Shutdown(ctx context.Context) error { return nil }

// Recover makes this server the only voter of a cluster that lost its quorum for
// good. The process must not be running a Store on the directory.
func Recover(ctx context.Context, cfg Config) error { return ErrClosed }

// Discard moves the content of a data directory aside, so that the next Open can
// join under a new identity, and returns where to.
func Discard(dataDir string) (movedTo string, err error) { return "", ErrClosed }
