package state

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// write runs one entry that changes what do changes.
func write(t *testing.T, s *Store, do func(x *Txn)) {
	t.Helper()
	b := s.Batch()
	b.Advance(b.Index()+1, int64(b.Index())*1000)
	x := b.Begin()
	do(x)
	x.Commit()
	b.Publish()
	if err := s.Snapshot().Verify(); err != nil {
		t.Fatal(err)
	}
}

func newJob(uid uint32, rid string) *Job {
	return &Job{
		Spec: &fettlev1.JobSpec{Name: rid, Nodes: 1, CpusPerNode: 1}, User: fmt.Sprintf("u%d", uid), UID: uid,
		State: model.Pending, RequestID: rid, SubmitHash: [32]byte{byte(uid), rid[0]},
	}
}

func collect(walk func(func(*Job) bool)) (ids []uint64) {
	walk(func(j *Job) bool { ids = append(ids, j.ID); return true })
	return ids
}

func TestIndexesFollowTheRows(t *testing.T) {
	t.Parallel()
	s := New("c")
	write(t, s, func(x *Txn) {
		for i := range 6 {
			x.AddJob(newJob(uint32(1+i%2), fmt.Sprint(i)))
		}
		x.AddNode(&Node{Name: "n2", State: NodeUp, Inventory: &fettlev1.Inventory{Cpus: 4}})
		x.AddNode(&Node{Name: "n1", State: NodeUp, Inventory: &fettlev1.Inventory{Cpus: 4}})
	})
	old := s.Snapshot()
	write(t, s, func(x *Txn) {
		x.EditJob(2).State = model.Dispatching
		a := &fettlev1.NodeAllocation{Node: "n1", Cpus: 1, GpuUuids: []string{"GPU-1", "GPU-0"}}
		x.AddAttempt(2, &fettlev1.Attempt{Number: 1, Nodes: []*fettlev1.NodeAllocation{a}})
		x.EditNode("n1").Take(2, 1, a)
		x.EditJob(3).State = model.Cancelled
		x.RemoveJob(4)
	})
	now := s.Snapshot()
	for name, c := range map[string]struct{ got, want []uint64 }{
		"pending before": {collect(old.Pending), []uint64{1, 2, 3, 4, 5, 6}},
		"active before":  {collect(old.Active), nil},
		"pending":        {collect(now.Pending), []uint64{1, 5, 6}},
		"active":         {collect(now.Active), []uint64{2}},
		"all after 2":    {collect(func(y func(*Job) bool) { now.Jobs(2, y) }), []uint64{3, 5, 6}},
		"all after last": {collect(func(y func(*Job) bool) { now.Jobs(^uint64(0), y) }), nil},
		"of user 1":      {collect(func(y func(*Job) bool) { now.JobsOfUser(1, y) }), []uint64{1, 5}},
		"of user 2":      {collect(func(y func(*Job) bool) { now.JobsOfUser(2, y) }), []uint64{2, 6}},
		"of user 3":      {collect(func(y func(*Job) bool) { now.JobsOfUser(3, y) }), nil},
		"on n1":          {now.ActiveOn("n1"), []uint64{2}},
		"on n1 before":   {old.ActiveOn("n1"), nil},
		"on n":           {now.ActiveOn("n"), nil},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	if h, ok := now.Node("n1").Holder("GPU-0"); !ok || h.JobID != 2 {
		t.Errorf("holder = %v, %v", h, ok)
	}
	if _, ok := old.Node("n1").Holder("GPU-0"); ok {
		t.Error("an older snapshot changed")
	}
	if j := now.JobByRequest(1, "0"); j == nil || j.ID != 1 {
		t.Errorf("by request: %v", j)
	}
	if now.JobByRequest(2, "0") != nil || now.JobByRequest(2, "3") != nil || old.JobByRequest(2, "3") == nil {
		t.Error("requests of other users or purged jobs are found")
	}
	var names []string
	now.Nodes(func(n *Node) bool { names = append(names, n.Name); return true })
	if !slices.Equal(names, []string{"n1", "n2"}) {
		t.Errorf("nodes = %v", names)
	}
	c := now.Counts()
	if c.Total() != 5 || c.Pending() != 3 || c.Active() != 1 || c.Finished() != 1 || c.Unfinished() != 4 || c.In(model.Cancelled) != 1 || c.Nodes != 2 || c.In(99) != 0 {
		t.Errorf("counts = %+v", c)
	}
	first := 0
	now.Pending(func(*Job) bool { first++; return false })
	if first != 1 {
		t.Error("a walk went on after false")
	}
}

// A transaction that is not committed leaves nothing: no row, no number, no hash.
func TestDroppedTransaction(t *testing.T) {
	t.Parallel()
	s := New("c")
	write(t, s, func(x *Txn) {
		x.AddJob(newJob(1, "a"))
		x.AddNode(&Node{Name: "n", Inventory: &fettlev1.Inventory{}})
	})
	before := s.Snapshot()
	b := s.Batch()
	b.Advance(2, 0)
	x := b.Begin()
	x.AddJob(newJob(1, "b"))
	x.EditJob(1).Held = true
	x.EditNode("n").Drained = true
	x.RemoveNode("n")
	x.SetTerm(Leader{ID: "x", Term: 9})
	x.SetServer(&raftlogv1.ServerChange{ServerId: "x"})
	x.Remember(&Request{ID: "r"})
	if err := x.SetPolicy(&fettlev1.ClusterPolicy{Version: 8}); err != nil {
		t.Fatal(err)
	}
	x = b.Begin()
	if x.Job(2) != nil || x.Job(1).Held || x.Node("n") == nil || x.Term() != 0 || x.Request(0, "r") != nil || x.Policy().GetVersion() != 0 || x.JobByRequest(1, "b") != nil {
		t.Error("the next transaction sees the dropped one")
	}
	b.Publish()
	after := s.Snapshot()
	if err := after.Verify(); err != nil || after.Job(1) != before.Job(1) || after.NextJobID() != 2 || len(after.Servers()) != 0 {
		t.Errorf("something was left behind: %v", err)
	}
}

func TestTransactionSeesItsOwnChanges(t *testing.T) {
	t.Parallel()
	s := New("c")
	write(t, s, func(x *Txn) {
		id := x.AddJob(newJob(1, "a"))
		if x.Job(id) == nil || x.JobByRequest(1, "a").ID != id || x.EditJob(id) != x.Job(id) {
			t.Error("an added job is not seen")
		}
		if all, mine := x.Unfinished(1); all != 1 || mine != 1 {
			t.Errorf("unfinished: %d, %d", all, mine)
		}
		x.RemoveJob(id)
		if x.Job(id) != nil || x.EditJob(id) != nil || x.JobByRequest(1, "a") != nil {
			t.Error("a removed job is seen")
		}
		if x.EditJob(99) != nil || x.EditAttempt(99) != nil || x.EditPart(99, 0) != nil || x.EditNode("n") != nil {
			t.Error("what does not exist can be edited")
		}
	})
	if c := s.Snapshot().Counts(); c.Total() != 0 {
		t.Errorf("counts = %+v", c)
	}
}

// Readers' rows never change: attempts and parts are copied before they are edited.
func TestRowsAreImmutable(t *testing.T) {
	t.Parallel()
	s := New("c")
	write(t, s, func(x *Txn) {
		x.AddJob(newJob(1, "a"))
		x.AddNode(&Node{Name: "n", Inventory: &fettlev1.Inventory{Cpus: 1}})
	})
	write(t, s, func(x *Txn) {
		a := &fettlev1.NodeAllocation{Node: "n", Cpus: 1}
		x.EditJob(1).State = model.Dispatching
		x.AddAttempt(1, &fettlev1.Attempt{Number: 1, Nodes: []*fettlev1.NodeAllocation{a}})
		x.EditNode("n").Take(1, 1, a)
	})
	before := s.Snapshot()
	write(t, s, func(x *Txn) {
		x.EditPart(1, 0).Prepared = true
		x.EditAttempt(1).StartMs = 7
		x.EditJob(1).State = model.Running
	})
	if err := before.Verify(); err != nil {
		t.Error(err)
	}
	old, now := before.Job(1), s.Snapshot().Job(1)
	if old.State != model.Dispatching || old.Current().GetStartMs() != 0 || old.Current().GetNodes()[0].GetPrepared() {
		t.Errorf("the older row changed: %+v", old)
	}
	if now.State != model.Running || now.Current().GetStartMs() != 7 || !now.Current().GetNodes()[0].GetPrepared() || now.ModifiedIndex != 3 {
		t.Errorf("row = %+v", now)
	}
}

// Verify notices rows that a reader has changed in place.
func TestVerifyNoticesMeddling(t *testing.T) {
	t.Parallel()
	for name, meddle := range map[string]func(s *Snapshot){
		"a state":     func(s *Snapshot) { s.Job(1).State = model.Completed },
		"a priority":  func(s *Snapshot) { s.Job(1).Spec.Priority = 9 },
		"a count":     func(s *Snapshot) { s.Node("n").CPUsUsed++ },
		"a GPU":       func(s *Snapshot) { s.Node("n").Held = []GPUHold{{UUID: "GPU-0"}} },
		"inventory":   func(s *Snapshot) { s.Node("n").Inventory.Cpus++ },
		"a partition": func(s *Snapshot) { s.Policy().Version++ },
	} {
		s := New("c")
		write(t, s, func(x *Txn) {
			x.AddJob(newJob(1, "a"))
			x.AddNode(&Node{Name: "n", Inventory: &fettlev1.Inventory{Cpus: 2}})
		})
		meddle(s.Snapshot())
		if err := s.Snapshot().Verify(); !errors.Is(err, ErrInconsistent) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestProtoViews(t *testing.T) {
	t.Parallel()
	j := newJob(1, "a")
	j.Spec.Script, j.Spec.Config, j.Spec.Args = []byte("s"), []byte("c"), []string{"x"}
	j.Spec.Env, j.Spec.Set = []*fettlev1.KeyValue{{Key: "K"}}, []*fettlev1.KeyValue{{Key: "S"}}
	j.Attempts = []*fettlev1.Attempt{{Number: 1}, {Number: 2}}
	full, brief := j.Proto(true), j.Proto(false)
	if full.Spec != j.Spec || len(full.Attempts) != 2 {
		t.Errorf("full = %v", full)
	}
	b := brief.Spec
	if len(b.Script)+len(b.Config)+len(b.Args)+len(b.Env)+len(b.Set) != 0 || len(brief.Attempts) != 1 || brief.Attempts[0].Number != 2 || b.GetName() != "a" {
		t.Errorf("brief = %v", brief)
	}
	if len(j.Spec.Script) == 0 || len(j.Attempts) != 2 {
		t.Error("the row was changed")
	}
}

// CloneSpec must copy every field there is, also those that are added later.
func TestCloneSpecIsComplete(t *testing.T) {
	t.Parallel()
	var s fettlev1.JobSpec
	fields := s.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		fillField(s.ProtoReflect(), f)
	}
	c := CloneSpec(&s)
	for i := range fields.Len() {
		if f := fields.Get(i); !c.ProtoReflect().Has(f) {
			t.Errorf("CloneSpec forgets %s", f.Name())
		}
	}
	if CloneSpec(nil) != nil {
		t.Error("a clone of nothing is something")
	}
}
