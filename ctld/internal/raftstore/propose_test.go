package raftstore

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

func TestDefiniteFailures(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start("c1", "c2", "c3")
	lead := c.leader()
	var follower *node
	for _, n := range c.running() {
		if n != lead {
			follower = n
		}
	}
	c.eventually("the follower knows its leader", func() bool { return follower.LeaderInfo().ID != "" })
	check := func(what string, want error, n *node, ctx context.Context, data []byte) {
		t.Helper()
		_, _, err := n.Apply(ctx, data)
		if !errors.Is(err, want) || errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("on a follower", ErrNotLeader, follower, c.bound(), []byte("x"))
	check("too large", ErrTooLarge, lead, c.bound(), make([]byte, MaxEntryBytes+1))
	over, cancel := context.WithCancel(context.Background())
	cancel()
	check("context over before", context.Canceled, lead, over, []byte("x"))
	_, _, err := follower.Apply(c.bound(), []byte("x"))
	var nl *NotLeaderError
	if !errors.As(err, &nl) || nl.LeaderID != lead.Identity().ServerID {
		t.Errorf("no hint at the leader: %v", err)
	}
	c.put("last")
	c.same([]string{"last"})
}

func TestOverload(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.mustOpen("c1", bootstrap, func(cfg *Config) { cfg.MaxInFlight = 2 })
	c.leader()
	gate := make(chan struct{})
	n.notes.mu.Lock()
	n.notes.gate = gate
	n.notes.mu.Unlock()
	a, b := n.ApplyAsync(c.bound(), []byte("a")), n.ApplyAsync(c.bound(), []byte("b"))
	if _, _, err := n.Apply(c.bound(), []byte("c")); !errors.Is(err, ErrOverloaded) || errors.Is(err, ErrUnknown) {
		t.Errorf("third of two: %v", err)
	}
	// A caller that gives up does not know; the proposal goes on.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := a.Wait(ctx); !errors.Is(err, ErrUnknown) || !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	close(gate)
	for i, f := range []*Future{a, b} {
		if resp, _, err := f.Wait(c.bound()); err != nil || resp != i+1 {
			t.Errorf("future %d: %v, %v", i, resp, err)
		}
	}
	if _, _, err := n.Apply(c.bound(), []byte("d")); err != nil {
		t.Errorf("after the rush: %v", err)
	}
	c.same([]string{"a", "b", "d"})
}

func TestOrderOfOneProposer(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start("c1", "c2", "c3")
	lead := c.leader()
	var want []string
	var futures []*Future
	for i := range 100 {
		want = append(want, fmt.Sprint(i))
		futures = append(futures, lead.ApplyAsync(c.bound(), []byte(want[i])))
	}
	var last uint64
	for i, f := range futures {
		resp, index, err := f.Wait(c.bound())
		if err != nil || index <= last || resp != i+1 {
			t.Fatalf("entry %d: %v at %d after %d, %v", i, resp, index, last, err)
		}
		last = index
	}
	c.same(want)
}

// TestLeadershipLostIsUnknown cuts a leader off while an entry is on its way.
func TestLeadershipLostIsUnknown(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	v := newValve()
	c.mustOpen("c1", bootstrap, v.fit)
	c.mustOpen("c2", join("c1"))
	c.mustOpen("c3", join("c1"))
	old := c.leader()
	if old.name != "c1" {
		t.Skip("leadership moved while joining")
	}
	c.put("before")
	c.same([]string{"before"})
	v.set(true, true)
	_, _, err := old.Apply(c.bound(), []byte("maybe"))
	if !errors.Is(err, ErrUnknown) || errors.Is(err, ErrNotLeader) {
		t.Errorf("got %v", err)
	}
	c.eventually("a new leader", func() bool { return c.leader() != old })
	c.put("after")
	v.set(false, false)
	// What the two others agreed on without it stands everywhere.
	c.same([]string{"before", "after"})
}

func TestShutdownSettlesProposals(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.start("c1", "c2", "c3")
	lead := c.leader()
	var futures []*Future
	for i := range 50 {
		futures = append(futures, lead.ApplyAsync(c.bound(), []byte(fmt.Sprint(i))))
	}
	c.stop(lead)
	acknowledged := 0
	for i, f := range futures {
		_, _, err := f.Wait(c.bound())
		switch {
		case err == nil:
			acknowledged++
		case errors.Is(err, ErrUnknown), errors.Is(err, ErrTransferring), errors.Is(err, ErrNotLeader), errors.Is(err, ErrClosed):
		default:
			t.Errorf("entry %d: %v", i, err)
		}
	}
	c.leader()
	for _, n := range nodes {
		if n == lead {
			continue
		}
		c.eventually("acknowledged entries are there", func() bool { return len(n.notes.all()) >= acknowledged })
	}
}
