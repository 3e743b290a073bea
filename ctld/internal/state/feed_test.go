package state

import (
	"fmt"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

func next(t *testing.T, s *Subscription) *ChangeSet {
	t.Helper()
	select {
	case c := <-s.C():
		return c
	default:
		return nil
	}
}

func TestSubscribersSeeEachChange(t *testing.T) {
	t.Parallel()
	s := New("c")
	sub := s.Subscribe(8)
	defer sub.Close()
	write(t, s, func(x *Txn) {
		x.AddJob(newJob(7, "a"))
		x.AddNode(&Node{Name: "n", State: NodeUp, Inventory: &fettlev1.Inventory{}})
	})
	c := next(t, sub)
	if c == nil || c.Index != 1 || len(c.Jobs) != 1 || len(c.Nodes) != 1 || len(c.Events) != 2 || c.Resync {
		t.Fatalf("changes = %+v", c)
	}
	if e := c.Events[1]; e.GetJobId() != 1 || e.GetOldState() != 0 || e.GetState() != model.Pending || e.GetUser() != "u7" || e.GetIndex() != 1 {
		t.Errorf("event = %v", e)
	}
	if e := c.Events[0]; e.GetNode() != "n" || e.GetDetail() != "registered" || e.GetJobId() != 0 {
		t.Errorf("event = %v", e)
	}
	write(t, s, func(x *Txn) { x.EditNode("n").State = NodeUnreachable })
	if c := next(t, sub); len(c.Events) != 1 || c.Events[0].GetDetail() != "unreachable" {
		t.Errorf("changes = %+v", c)
	}
	write(t, s, func(x *Txn) { x.SetTerm(Leader{ID: "x", Term: 2}) })
	if c := next(t, sub); c == nil || !c.Servers || c.Policy {
		t.Errorf("changes = %+v", c)
	}
	write(t, s, func(*Txn) {})
	if c := next(t, sub); c != nil {
		t.Errorf("an entry that changes nothing is told: %+v", c)
	}
	sub.Close()
	sub.Close()
	if _, open := <-sub.C(); open {
		t.Error("the feed is open after Close")
	}
	write(t, s, func(x *Txn) { x.EditJob(1).Held = true })
}

// A subscriber that falls behind holds nobody up: it is told once to start afresh, then hears again.
func TestSlowSubscriber(t *testing.T) {
	t.Parallel()
	s := New("c")
	sub := s.Subscribe(2)
	defer sub.Close()
	add := func(n int) {
		for range n {
			write(t, s, func(x *Txn) { x.AddJob(newJob(1, fmt.Sprint(x.Index()))) })
		}
	}
	add(10)
	for i := range 2 {
		if c := next(t, sub); c.Resync || c.Index != uint64(i+1) {
			t.Fatalf("change %d = %+v", i, c)
		}
	}
	// The mark is still unread, so later changes are covered by it.
	add(3)
	if c := next(t, sub); !c.Resync {
		t.Fatalf("change = %+v", c)
	}
	if c := next(t, sub); c != nil {
		t.Fatalf("more than one mark: %+v", c)
	}
	add(1)
	if c := next(t, sub); c == nil || c.Resync || c.Jobs[0] != 14 {
		t.Errorf("after the mark: %+v", c)
	}
}

func TestEventsAfter(t *testing.T) {
	t.Parallel()
	f := newFeed(4)
	put := func(indexes ...uint64) {
		c := &ChangeSet{Index: indexes[len(indexes)-1]}
		for _, i := range indexes {
			c.Events = append(c.Events, &fettlev1.Event{Index: i})
		}
		f.publish(c)
	}
	check := func(index uint64, ok bool, want ...uint64) {
		t.Helper()
		events, got := f.after(index)
		if got != ok || len(events) != len(want) {
			t.Fatalf("after %d: %v, %v", index, events, got)
		}
		for i, e := range events {
			if e.GetIndex() != want[i] {
				t.Fatalf("after %d: %v", index, events)
			}
		}
	}
	check(0, true)
	check(1, false)
	put(1, 1, 2)
	check(0, true, 1, 1, 2)
	check(1, true, 2)
	check(2, true)
	check(3, false)
	put(3)
	check(0, true, 1, 1, 2, 3)
	// One event of entry 1 is gone: what came after 0 is no longer whole.
	put(4)
	check(0, false)
	check(1, true, 2, 3, 4)
	put(5, 6)
	check(1, false)
	check(2, true, 3, 4, 5, 6)
	f.replaced(20)
	check(6, false)
	check(20, true)
	put(21)
	check(20, true, 21)
}

func TestReplacedStateTellsSubscribers(t *testing.T) {
	t.Parallel()
	s := New("c")
	sub := s.Subscribe(1)
	defer sub.Close()
	write(t, s, func(x *Txn) { x.AddJob(newJob(1, "a")) })
	b := NewBuilder("c")
	s.Snapshot().Records(func(r *raftlogv1.SnapshotRecord) bool {
		if err := b.Add(r); err != nil {
			t.Fatal(err)
		}
		return true
	})
	if _, err := b.Finish(); err != nil {
		t.Fatal(err)
	}
	s.Replace(b)
	if c := next(t, sub); c == nil || c.Resync {
		t.Errorf("first = %+v", c)
	}
	if c := next(t, sub); c == nil || !c.Resync || c.Index != 1 {
		t.Errorf("second = %+v", c)
	}
	write(t, s, func(x *Txn) { x.EditJob(1).Held = true })
	if c := next(t, sub); c == nil || c.Resync {
		t.Errorf("third = %+v", c)
	}
	if _, ok := s.EventsAfter(0); ok {
		t.Error("events from before the replacement are promised")
	}
}
