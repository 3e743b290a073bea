package raftstore

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// acks notes what the other servers acknowledge to this one while it leads. Raft
// keeps such a table to itself, and its VerifyLeader may count an answer to a
// call that was made before the question; this one can tell, because every call
// carries the value of a counter at its start.
type acks struct {
	changed broadcast

	mu    sync.Mutex
	seq   uint64
	peers map[raft.ServerID]*ack
}

type ack struct {
	term      uint64
	seq       uint64    // of the latest acknowledged call, at its start
	at        time.Time // of the same
	match     uint64    // last index known to be on its disk
	regressed bool      // it later showed a shorter log than match
}

// call is one call under way.
type call struct {
	id    raft.ServerID
	term  uint64
	seq   uint64
	at    time.Time
	match uint64
}

func newAcks() *acks { return &acks{peers: make(map[raft.ServerID]*ack)} }

// now returns a moment; calls begun later are after it.
func (a *acks) now() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seq++
	return a.seq
}

func (a *acks) begin(id raft.ServerID, term uint64) call {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seq++
	c := call{id: id, term: term, seq: a.seq, at: time.Now()}
	if p := a.peers[id]; p != nil && p.term == term {
		c.match = p.match
	}
	return c
}

// end notes an answer in the caller's own term. success means that the peer took
// the caller for its leader; lastLog is the last index it had before the call.
func (a *acks) end(c call, success bool, match, lastLog uint64) {
	a.mu.Lock()
	p := a.peers[c.id]
	if p == nil || p.term < c.term {
		p = &ack{term: c.term}
		a.peers[c.id] = p
	}
	if p.term == c.term {
		if lastLog < c.match {
			p.regressed = true
		}
		if success && c.seq > p.seq {
			p.seq, p.at = c.seq, c.at
		}
		p.match = max(p.match, match)
	}
	a.mu.Unlock()
	a.changed.wake()
}

// peer returns what is known of a server in a term.
func (a *acks) peer(id raft.ServerID, term uint64) ack {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.peers[id]; p != nil && p.term == term {
		return *p
	}
	return ack{}
}

// retain forgets servers that are not in c.
func (a *acks) retain(c raft.Configuration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	in := make(map[raft.ServerID]bool, len(c.Servers))
	for _, s := range c.Servers {
		in[s.ID] = true
	}
	for id := range a.peers {
		if !in[id] {
			delete(a.peers, id)
		}
	}
}

// broadcast wakes everyone who waits.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

// wait returns a channel that the next wake closes. Take it before looking at
// what is waited for.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
