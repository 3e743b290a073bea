package raftstore

import (
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/fettle-hpc/fettle/ctld/internal/raftstore/datadir"
)

// snapshots is Raft's file snapshot store with three additions: it refuses to
// start a snapshot without room for it, leaves nothing behind when one fails, and
// hands out readers that know their index.
type snapshots struct {
	raft.SnapshotStore
	dir *datadir.Dir
	log *slog.Logger
	// onSnapshot is called after a snapshot was stored.
	onSnapshot func()

	mu     sync.Mutex
	active map[string]bool // IDs being written
}

func newSnapshots(inner raft.SnapshotStore, dir *datadir.Dir, log *slog.Logger) *snapshots {
	return &snapshots{SnapshotStore: inner, dir: dir, log: log, onSnapshot: func() {}, active: make(map[string]bool)}
}

// Create implements raft.SnapshotStore.
func (s *snapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, cIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	if err := s.dir.RoomForSnapshot(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sink, err := s.SnapshotStore.Create(v, index, term, c, cIndex, t)
	if err != nil {
		s.sweepLocked()
		return nil, err
	}
	s.active[sink.ID()] = true
	return &snapshotSink{SnapshotSink: sink, store: s}, nil
}

// sweepLocked removes the leftovers of snapshots that are not being written.
func (s *snapshots) sweepLocked() {
	if _, err := s.dir.SweepSnapshots(func(id string) bool { return s.active[id] }); err != nil {
		s.log.Warn("unfinished snapshot cannot be removed", "err", err)
	}
}

// Open implements raft.SnapshotStore.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, r, err := s.SnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, &snapshotReader{ReadCloser: r, meta: meta}, nil
}

// newest returns the newest snapshot whose checksum is right, nil when there is
// none, and how many newer ones had to be passed over.
func (s *snapshots) newest() (meta *raft.SnapshotMeta, bad int, err error) {
	list, err := s.List()
	if err != nil {
		return nil, 0, fmt.Errorf("list snapshots: %w", err)
	}
	for _, m := range list {
		meta, r, err := s.SnapshotStore.Open(m.ID)
		if err != nil {
			s.log.Error("snapshot is unreadable", "id", m.ID, "err", err)
			bad++
			continue
		}
		_ = r.Close()
		return meta, bad, nil
	}
	return nil, bad, nil
}

type snapshotReader struct {
	io.ReadCloser
	meta *raft.SnapshotMeta
}

type snapshotSink struct {
	raft.SnapshotSink
	store *snapshots
	once  sync.Once
}

// Close implements raft.SnapshotSink.
func (s *snapshotSink) Close() error {
	err := s.SnapshotSink.Close()
	s.finish(err == nil)
	return err
}

// Cancel implements raft.SnapshotSink.
func (s *snapshotSink) Cancel() error {
	err := s.SnapshotSink.Cancel()
	s.finish(false)
	return err
}

func (s *snapshotSink) finish(stored bool) {
	s.once.Do(func() {
		s.store.mu.Lock()
		delete(s.store.active, s.ID())
		if !stored {
			s.store.sweepLocked()
		}
		s.store.mu.Unlock()
		if stored {
			s.store.onSnapshot()
		}
	})
}
