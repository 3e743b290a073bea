package state

import (
	"sync"
	"sync/atomic"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// EventsKept is how many events the store remembers for watchers that fall behind.
const EventsKept = 65_536

// Store holds the current state. There is one writer at a time, which works through a Batch; readers take snapshots.
type Store struct {
	clusterID string
	// mu is held by the writer for a whole batch.
	mu        sync.Mutex
	cur       *tables
	intern    *interner
	buf       canon
	txn       Txn
	published atomic.Pointer[Snapshot]
	feed      *feed
}

// New returns an empty state of the named cluster.
func New(clusterID string) *Store {
	s := &Store{clusterID: clusterID, cur: newTables(clusterID), intern: newInterner(), feed: newFeed(EventsKept)}
	s.published.Store(s.cur.snapshot())
	return s
}

// Snapshot returns the state after the newest batch. It costs next to nothing.
func (s *Store) Snapshot() *Snapshot { return s.published.Load() }

// Subscribe opens a feed of changes that holds up to buffer (at least 1) change sets that were not yet received. Close
// it when done.
func (s *Store) Subscribe(buffer int) *Subscription { return s.feed.subscribe(buffer) }

// EventsAfter returns the events of entries after index, oldest first, as far as they are remembered. ok is false when
// some of them are not, or index is ahead of the newest entry seen: the watcher must list again and go on from there.
func (s *Store) EventsAfter(index uint64) (events []*fettlev1.Event, ok bool) {
	return s.feed.after(index)
}

// Batch begins a batch of changes and keeps other writers out until Publish. Callers must always publish.
func (s *Store) Batch() *Batch {
	s.mu.Lock()
	return &Batch{s: s, t: s.cur, changes: new(ChangeSet)}
}

// Batch is a run of log entries that readers see at once.
type Batch struct {
	s       *Store
	t       *tables
	changes *ChangeSet
	open    bool
}

// Advance moves the log's position and clock; the clock never goes back. It returns the clock.
func (b *Batch) Advance(index uint64, nowMS int64) int64 {
	b.t.meta.index = max(b.t.meta.index, index)
	b.t.meta.nowMS = max(b.t.meta.nowMS, nowMS)
	return b.t.meta.nowMS
}

// Begin starts the changes of one log entry at the position of the newest Advance. Nothing of them is kept unless Commit
// is called: to drop them, begin the next.
func (b *Batch) Begin() *Txn {
	b.s.txn.reset(b)
	b.open = true
	return &b.s.txn
}

// Index is the position of the newest Advance.
func (b *Batch) Index() uint64 { return b.t.meta.index }

// Hash is the hash of the state as it is now in this batch.
func (b *Batch) Hash() [32]byte { return b.t.hash() }

// Publish shows the batch to readers, tells subscribers, and lets other writers in. The batch must not be used again.
func (b *Batch) Publish() {
	s := b.s
	b.changes.Index = b.t.meta.index
	s.published.Store(b.t.snapshot())
	s.feed.publish(b.changes)
	s.txn.b = nil
	b.s, b.t = nil, nil
	s.mu.Unlock()
}
