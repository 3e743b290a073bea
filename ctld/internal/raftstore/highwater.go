package raftstore

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/fettle-hpc/fettle/ctld/internal/raftstore/datadir"
	"github.com/fettle-hpc/fettle/ctld/internal/raftstore/guard"
)

const (
	// highwaterEvery and highwaterInterval: the mark is written when this many
	// entries were applied since, or this long ago.
	highwaterEvery    = 1000
	highwaterInterval = 10 * time.Second
)

// keyHighwater holds a copy of the mark in the log's own file: index and term.
var keyHighwater = []byte("FettleHighWater")

// highwater keeps the mark that the next start compares the log with. It counts
// applied entries only: those are committed and can never legally be missing.
type highwater struct {
	dir     *datadir.Dir
	stable  *guard.Store
	applied func() uint64
	term    func() uint64
	wake    chan struct{}
	next    atomic.Uint64 // applied index that asks for a new mark

	mu   sync.Mutex
	last datadir.Mark
}

func newHighwater(dir *datadir.Dir) *highwater {
	return &highwater{dir: dir, wake: make(chan struct{}, 1)}
}

// read takes the higher of the two copies of the mark as the last one. One
// unreadable copy is tolerated.
func (h *highwater) read(stable raft.StableStore) (datadir.Mark, error) {
	mark, fileErr := h.dir.Mark()
	copied, err := stable.Get(keyHighwater)
	if err == nil && len(copied) == 16 {
		mark.Started = true
		mark.Index = max(mark.Index, binary.BigEndian.Uint64(copied))
		mark.Term = max(mark.Term, binary.BigEndian.Uint64(copied[8:]))
	} else if fileErr != nil {
		return mark, fileErr
	}
	h.last = mark
	h.next.Store(mark.Index + 1)
	return mark, nil
}

// start notes that the log has entries. It comes before anyone is told so.
func (h *highwater) start() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last.Started {
		return nil
	}
	m := h.last
	m.Started = true
	if err := h.dir.SetMark(m); err != nil {
		return err
	}
	h.last = m
	return nil
}

// note is called with the applied index after each batch.
func (h *highwater) note(index uint64) {
	if index >= h.next.Load() {
		h.next.Store(index + highwaterEvery)
		h.kick()
	}
}

// kick asks for a new mark soon.
func (h *highwater) kick() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// run writes marks until ctx ends, and a last one then.
func (h *highwater) run(ctx context.Context) {
	tick := time.NewTicker(highwaterInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			h.write()
			return
		case <-tick.C:
		case <-h.wake:
		}
		h.write()
	}
}

func (h *highwater) write() {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := datadir.Mark{Index: max(h.applied(), h.last.Index), Term: max(h.term(), h.last.Term)}
	m.Started = h.last.Started || m.Index > 0
	if m == h.last {
		return
	}
	h.stable.Do("highwater", func() error { return h.dir.SetMark(m) })
	if m.Index/highwaterEvery != h.last.Index/highwaterEvery || m.Term != h.last.Term {
		both := binary.BigEndian.AppendUint64(nil, m.Index)
		_ = h.stable.Set(keyHighwater, binary.BigEndian.AppendUint64(both, m.Term)) // the guard never returns an error
	}
	h.last = m
}
