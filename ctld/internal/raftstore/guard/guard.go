// Package guard puts a watchdog around a Raft log and vote store: a write that
// fails or hangs is reported at once, and its caller never continues.
package guard

import (
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Names of Raft's own keys in the stable store.
const (
	keyVoteTerm = "LastVoteTerm"
	keyVoteCand = "LastVoteCand"
)

// noCandidate is stored as the candidate of a term until the real one is. It is
// no server's address, so a crash between the two writes of a vote leaves a vote
// for nobody instead of one for the candidate of an earlier term.
const noCandidate = "!none"

// ticksPerLimit is how finely the watchdog measures. A stopped process sees at
// most two ticks for the whole pause, so a pause is never taken for a slow disk.
const ticksPerLimit = 30

// Inner is the store that is guarded.
type Inner interface {
	raft.LogStore
	raft.StableStore
}

// Config says what to watch for. Limit, OnSlow and OnError are required.
type Config struct {
	// Limit is how long one write may take.
	Limit time.Duration
	// OnSlow is called once, on the watchdog's goroutine, for the first write that
	// exceeds Limit, while that write is still stuck.
	OnSlow func(op string)
	// OnError is called once, on the writer's goroutine, for the first write that
	// fails.
	OnError func(op string, err error)
	// OnFirstEntries is called before the first StoreLogs of this process reports
	// success. Its error counts as the write's.
	OnFirstEntries func() error
	// Before and After run around each write, within the watched time. Their
	// error counts as the write's.
	Before, After func(op string) error
}

// Store is a raft.LogStore and raft.StableStore. Once a write was slow or failed
// the store is dead: the goroutine of that write and of every later one is ended
// with runtime.Goexit, because Raft must neither go on after a failed sync nor see
// an error that it answers with a panic. Normally OnSlow and OnError end the
// process long before.
type Store struct {
	Inner
	cfg  Config
	stop chan struct{}
	done chan struct{}
	once sync.Once

	mu    sync.Mutex
	ops   map[*operation]struct{}
	dead  bool
	first bool
}

type operation struct {
	name  string
	ticks int
}

// New starts the watchdog.
func New(inner Inner, cfg Config) *Store {
	s := &Store{Inner: inner, cfg: cfg, stop: make(chan struct{}), done: make(chan struct{}), ops: make(map[*operation]struct{})}
	go s.watch()
	return s
}

// Close ends the watchdog. Later writes end their goroutine. It does not close
// the inner store.
func (s *Store) Close() {
	s.once.Do(func() {
		s.mu.Lock()
		s.dead = true
		s.mu.Unlock()
		close(s.stop)
	})
	<-s.done
}

// Idle reports whether no write is under way.
func (s *Store) Idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ops) == 0
}

func (s *Store) watch() {
	defer close(s.done)
	tick := time.NewTicker(max(s.cfg.Limit/ticksPerLimit, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
			if op, slow := s.age(); slow {
				s.cfg.OnSlow(op)
				return
			}
		}
	}
}

// age adds a tick to every write under way and returns the first one over the limit.
func (s *Store) age() (op string, slow bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return "", false
	}
	for o := range s.ops {
		o.ticks++
		if o.ticks > ticksPerLimit && !slow {
			op, slow = o.name, true
		}
	}
	s.dead = slow
	return op, slow
}

// Do runs a write of the caller's own under the watchdog, with the same rules as
// the store's.
func (s *Store) Do(name string, fn func() error) {
	op := &operation{name: name}
	s.mu.Lock()
	if s.dead {
		s.mu.Unlock()
		runtime.Goexit()
	}
	s.ops[op] = struct{}{}
	s.mu.Unlock()
	err := s.run(name, fn)
	s.mu.Lock()
	delete(s.ops, op)
	report := err != nil && !s.dead
	s.dead = s.dead || report
	dead := s.dead
	s.mu.Unlock()
	if report {
		s.cfg.OnError(name, err)
	}
	if dead {
		runtime.Goexit()
	}
}

var errDead = errors.New("store is dead")

func (s *Store) run(name string, fn func() error) error {
	if s.cfg.Before != nil {
		if err := s.cfg.Before(name); err != nil {
			return err
		}
		// A hook that acted as a hung disk must not write after its process is gone.
		s.mu.Lock()
		dead := s.dead
		s.mu.Unlock()
		if dead {
			return errDead
		}
	}
	if err := fn(); err != nil {
		return err
	}
	if s.cfg.After != nil {
		return s.cfg.After(name)
	}
	return nil
}

// StoreLog implements raft.LogStore.
func (s *Store) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore.
func (s *Store) StoreLogs(logs []*raft.Log) error {
	s.Do("StoreLogs", func() error {
		if err := s.Inner.StoreLogs(logs); err != nil {
			return err
		}
		s.mu.Lock()
		tell := !s.first && s.cfg.OnFirstEntries != nil
		s.first = true
		s.mu.Unlock()
		if tell {
			return s.cfg.OnFirstEntries()
		}
		return nil
	})
	return nil
}

// DeleteRange implements raft.LogStore.
func (s *Store) DeleteRange(from, to uint64) error {
	s.Do("DeleteRange", func() error { return s.Inner.DeleteRange(from, to) })
	return nil
}

// Set implements raft.StableStore.
func (s *Store) Set(key, val []byte) error {
	s.Do("Set", func() error { return s.Inner.Set(key, val) })
	return nil
}

// SetUint64 implements raft.StableStore. Setting the term of a vote first makes
// the vote one for nobody.
func (s *Store) SetUint64(key []byte, val uint64) error {
	if string(key) == keyVoteTerm {
		if err := s.Set([]byte(keyVoteCand), []byte(noCandidate)); err != nil {
			return err
		}
	}
	s.Do("SetUint64", func() error { return s.Inner.SetUint64(key, val) })
	return nil
}

// IsMonotonic passes on what the inner store says of itself.
func (s *Store) IsMonotonic() bool {
	m, ok := s.Inner.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}
