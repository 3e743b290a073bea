package raftstore

import (
	"context"
	"fmt"
	"sync"
)

// maxInFlightBytes bounds the payload of proposals that wait for their outcome.
const maxInFlightBytes = 64 << 20

// flight counts what waits for Raft, so that proposals are bounded and Shutdown
// can wait for their outcome.
type flight struct {
	max int

	mu     sync.Mutex
	n      int // proposals
	bytes  int
	all    int // proposals and everything else that waits
	closed bool
	idle   chan struct{} // closed when all falls to zero; nil when nobody waits
}

// enter admits a proposal.
func (f *flight) enter(bytes int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return ErrClosed
	case f.n >= f.max:
		return fmt.Errorf("%w: %d, the most allowed", ErrOverloaded, f.n)
	case f.n > 0 && f.bytes+bytes > maxInFlightBytes:
		return fmt.Errorf("%w: %d MiB of %d", ErrOverloaded, f.bytes>>20, maxInFlightBytes>>20)
	}
	f.n++
	f.all++
	f.bytes += bytes
	return nil
}

// leave ends what enter admitted.
func (f *flight) leave(bytes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n--
	f.bytes -= bytes
	f.lower()
}

// add counts something else that waits for Raft; done ends it.
func (f *flight) add() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all++
}

func (f *flight) done() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lower()
}

func (f *flight) lower() {
	f.all--
	if f.all == 0 && f.idle != nil {
		close(f.idle)
		f.idle = nil
	}
}

// close refuses later proposals.
func (f *flight) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
}

// isClosed reports whether close was called.
func (f *flight) isClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

// wait waits until nothing is in flight.
func (f *flight) wait(ctx context.Context) error {
	f.mu.Lock()
	if f.all == 0 {
		f.mu.Unlock()
		return nil
	}
	if f.idle == nil {
		f.idle = make(chan struct{})
	}
	idle := f.idle
	f.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
