package state

import (
	"sync"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// ChangeSet tells what one batch changed. Its contents are shared and must not be changed.
type ChangeSet struct {
	// Index is the newest log index of the batch.
	Index uint64
	// Jobs and Nodes name the rows that were added, changed or removed, each once per entry that did so.
	Jobs  []uint64
	Nodes []string
	// Policy is set when the cluster policy changed, Servers when the controllers or the leader did.
	Policy, Servers bool
	// Reservations is set when a reservation was set or removed.
	Reservations bool
	Events       []*fettlev1.Event
	// Resync means that changes were missed, or that the state was replaced whole: take a Snapshot and start from it. The
	// other fields are empty then.
	Resync bool
}

// Subscription receives change sets in the order of their indexes.
type Subscription struct {
	feed *feed
	ch   chan *ChangeSet
	lost bool
}

// C is where change sets arrive; it is closed by Close. A change set is sent after its snapshot is visible.
func (s *Subscription) C() <-chan *ChangeSet { return s.ch }

// Close ends the subscription. It may be called more than once.
func (s *Subscription) Close() {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	if _, ok := s.feed.subs[s]; ok {
		delete(s.feed.subs, s)
		close(s.ch)
	}
}

// feed hands out changes and remembers the newest events.
type feed struct {
	mu   sync.Mutex
	subs map[*Subscription]struct{}

	// ring grows up to keep events; then next is the oldest, which the next event replaces.
	ring []*fettlev1.Event
	keep int
	next int
	// floor is the index up to which events may be missing, newest that of the last batch.
	floor, newest uint64
}

func newFeed(keep int) *feed {
	return &feed{subs: make(map[*Subscription]struct{}), keep: keep}
}

func (f *feed) subscribe(buffer int) *Subscription {
	// The last slot is kept for the mark that says changes were missed.
	s := &Subscription{feed: f, ch: make(chan *ChangeSet, max(buffer, 1)+1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs[s] = struct{}{}
	return s
}

func (f *feed) publish(c *ChangeSet) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range c.Events {
		if len(f.ring) < f.keep {
			f.ring = append(f.ring, e)
			continue
		}
		f.floor = max(f.floor, f.ring[f.next].GetIndex())
		f.ring[f.next] = e
		f.next = (f.next + 1) % f.keep
	}
	f.newest = max(f.newest, c.Index)
	if len(c.Jobs) == 0 && len(c.Nodes) == 0 && !c.Policy && !c.Servers && !c.Reservations {
		return
	}
	f.send(c)
}

// send never blocks: a subscriber that is behind gets one mark in place of what it missed.
func (f *feed) send(c *ChangeSet) {
	for s := range f.subs {
		switch free := cap(s.ch) - len(s.ch); {
		case s.lost && len(s.ch) > 0:
			// The mark has not been received yet; whoever receives it will look at a state that has this change.
		case free > 1:
			s.lost = false
			s.ch <- c
		default:
			s.lost = true
			s.ch <- &ChangeSet{Index: c.Index, Resync: true}
		}
	}
}

// replaced forgets all events and tells everyone to start afresh from the state at index.
func (f *feed) replaced(index uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring, f.next, f.floor, f.newest = nil, 0, index, index
	mark := &ChangeSet{Index: index, Resync: true}
	for s := range f.subs {
		if s.lost && len(s.ch) > 0 {
			continue
		}
		// One slot is always free here: only the mark takes the last.
		s.lost = cap(s.ch)-len(s.ch) == 1
		s.ch <- mark
	}
}

func (f *feed) after(index uint64) ([]*fettlev1.Event, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if index < f.floor || index > f.newest {
		return nil, false
	}
	// Newest first until the asked index, then turned round.
	n := 0
	for n < len(f.ring) && f.at(n).GetIndex() > index {
		n++
	}
	events := make([]*fettlev1.Event, n)
	for i := range n {
		events[i] = f.at(n - 1 - i)
	}
	return events, true
}

// at returns the event that is back steps before the newest.
func (f *feed) at(back int) *fettlev1.Event {
	n := len(f.ring)
	return f.ring[(f.next+n-1-back)%n]
}
