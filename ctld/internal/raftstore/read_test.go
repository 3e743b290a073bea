package raftstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestReadShowsEveryAcknowledgedWrite(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start("c1", "c2", "c3")
	lead := c.leader()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 25 {
				data := fmt.Sprint(w, "/", i)
				if _, _, err := lead.Apply(c.bound(), []byte(data)); err != nil {
					t.Errorf("apply: %v", err)
					return
				}
				index, err := lead.WaitLinearizable(c.bound())
				if err != nil || !slices.Contains(lead.notes.all(), data) {
					t.Errorf("read at %d lacks %q: %v", index, data, err)
					return
				}
				follower := c.running()[w%3]
				if err := follower.WaitApplied(c.bound(), index); err != nil || !slices.Contains(follower.notes.all(), data) {
					t.Errorf("%s at %d lacks %q: %v", follower.name, index, data, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestFollowerServesNoLinearizableRead(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start("c1", "c2", "c3")
	lead := c.leader()
	for _, n := range c.running() {
		if n == lead {
			continue
		}
		c.eventually("the follower knows its leader", func() bool { return n.LeaderInfo().ID != "" })
		_, err := n.WaitLinearizable(c.bound())
		var nl *NotLeaderError
		if !errors.As(err, &nl) || nl.LeaderID != lead.Identity().ServerID || nl.LeaderAddr != lead.layer.Addr().String() {
			t.Errorf("%s: %v", n.name, err)
		}
		if age := time.Since(n.LastContact()); age > patience {
			t.Errorf("%s was last in contact %v ago", n.name, age)
		}
	}
}

// TestDeposedLeaderServesNoRead holds back the answers to a leader, lets the
// others elect a new one and write, and then delivers the old answers just when
// the old leader wants to prove that it still leads.
func TestDeposedLeaderServesNoRead(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start("c1", "c2")
	v := newValve()
	// Its lease is so long that it goes on believing in itself.
	old := c.mustOpen("c3", join("c1"), v.fit, func(cfg *Config) { cfg.Timing = 100 })
	c.put("old")
	for c.leader() != old {
		lead := c.leader()
		if err := lead.TransferTo(c.bound(), old.Identity().ServerID); err != nil {
			t.Log(err) // not heard from yet
		}
	}
	v.set(true, false)
	c.eventually("answers are held back", func() bool { return v.holding() >= 2 })
	v.set(true, true)
	c.eventually("a new leader", func() bool {
		return c.node("c1").LeaderInfo().Ready || c.node("c2").LeaderInfo().Ready
	})
	next := c.node("c1")
	if !next.LeaderInfo().Ready {
		next = c.node("c2")
	}
	if _, _, err := next.Apply(c.bound(), []byte("new")); err != nil {
		t.Fatal(err)
	}
	if !old.LeaderInfo().Ready {
		t.Fatal("the old leader has noticed; the test needs it not to")
	}
	begun := func() uint64 { // calls and questions so far
		old.acks.mu.Lock()
		defer old.acks.mu.Unlock()
		return old.acks.seq
	}
	before := begun()
	result := make(chan error, 1)
	go func() {
		_, err := old.WaitLinearizable(c.bound())
		result <- err
	}()
	c.eventually("the old leader asks both others", func() bool { return begun() >= before+3 })
	v.set(false, true)
	c.eventually("the old answers arrive", func() bool { return v.holding() == 0 })
	select {
	case err := <-result:
		if err == nil {
			t.Fatalf("served %v without the write acknowledged before", old.notes.all())
		}
		t.Logf("refused: %v", err)
	case <-time.After(300 * time.Millisecond):
		v.set(false, false)
		if err := <-result; err == nil && !slices.Contains(old.notes.all(), "new") {
			t.Fatalf("served %v without the write acknowledged before", old.notes.all())
		} else if !errors.Is(err, ErrNotLeader) {
			t.Errorf("got %v", err)
		}
	}
	v.set(false, false)
	c.same([]string{"old", "new"})
}

func TestReadsEndWithTheirContext(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.mustOpen("c1", bootstrap)
	c.leader()
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("enough")
	cancel(stop)
	if err := n.WaitApplied(ctx, n.AppliedIndex()+1000); !errors.Is(err, stop) {
		t.Errorf("WaitApplied: %v", err)
	}
	if err := n.WaitApplied(ctx, n.AppliedIndex()); err != nil {
		t.Errorf("WaitApplied of what is there: %v", err)
	}
}

// TestWaitForEntriesThatNoMachineSees waits for an index at which Raft wrote for
// itself alone.
func TestWaitForEntriesThatNoMachineSees(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.start("c1", "c2", "c3")
	c.put("a")
	lead := c.leader()
	if err := lead.Barrier(c.bound()); err != nil {
		t.Fatal(err)
	}
	barrier := lead.raft.LastIndex()
	if barrier <= lead.AppliedIndex() {
		t.Fatalf("the barrier at %d is not past %d", barrier, lead.AppliedIndex())
	}
	for _, n := range nodes {
		if err := n.WaitApplied(c.bound(), barrier); err != nil {
			t.Errorf("%s: %v", n.name, err)
		}
	}
	index, err := lead.WaitLinearizable(c.bound())
	if err != nil || index != lead.AppliedIndex() {
		t.Errorf("read index %d, applied %d, %v", index, lead.AppliedIndex(), err)
	}
}
