package state

import (
	"reflect"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// fullLinks makes a row both an element and an array's own, which none ever is, to see all of it hashed.
func fullLinks(j *Job) {
	j.ArrayJobID, j.ArrayIndex = 15, 16
	j.Array = &Array{Left: []*fettlev1.ArrayRange{{First: 1, Last: 2, Step: 1}}, Pending: 1}
	j.WaitingFor = []*fettlev1.Dependency{{Kind: model.AfterOK, JobId: 17}}
	j.Spec.Exclusive = true
}

// plainJob is fullJob as a job by itself.
func plainJob() *Job {
	j := fullJob()
	j.ArrayJobID, j.ArrayIndex, j.Array = 0, 0, nil
	j.Claim = nil
	return j
}

// What an array's row counts, what is left of it, and what rows wait for is in the hash, each number for itself.
func TestLinksAreInTheHash(t *testing.T) {
	t.Parallel()
	var buf canon
	seen := make(map[sum]int)
	for i, change := range []func(j *Job){
		func(*Job) {},
		func(j *Job) { j.Array.Left[0].First++ },
		func(j *Job) { j.Array.Left[0].Last++ },
		func(j *Job) { j.Array.Left[0].Step++ },
		func(j *Job) { j.Array.Left = nil },
		func(j *Job) { j.Array.Pending++ },
		func(j *Job) { j.Array.Active++ },
		func(j *Job) { j.Array.Completed++ },
		func(j *Job) { j.Array.Failed++ },
		func(j *Job) { j.Array.Cancelled++ },
		func(j *Job) { j.WaitingFor[0].Kind++ },
		func(j *Job) { j.WaitingFor[0].JobId++ },
		func(j *Job) { j.WaitingFor[0].Index = proto.Uint32(0) },
		func(j *Job) { j.WaitingFor[0].Index = proto.Uint32(1) },
		func(j *Job) { j.WaitingFor = nil },
		func(j *Job) { j.Spec.DeadlineMs++ },
		func(j *Job) { j.Spec.EstimatedRunS++ },
		func(j *Job) { j.Spec.Array = &fettlev1.ArraySpec{MaxRunning: 1} },
	} {
		j := fullJob()
		change(j)
		h := hashJob(&buf, j)
		if other, dup := seen[h]; dup {
			t.Errorf("changes %d and %d hash alike", other, i)
		}
		seen[h] = i
	}
}

// An array, one of its elements and a job that waits for it come back from a snapshot as they were, indexes and all.
func TestLinksAreRestored(t *testing.T) {
	t.Parallel()
	spec := &fettlev1.JobSpec{Name: "a", DeadlineMs: 900, Array: &fettlev1.ArraySpec{Ranges: []*fettlev1.ArrayRange{{First: 0, Last: 9, Step: 1}}, MaxRunning: 3}}
	array := &Job{
		ID: 1, Spec: spec, User: "u", UID: 1, State: model.Pending, RequestID: "r1",
		Array: &Array{Left: []*fettlev1.ArrayRange{{First: 4, Last: 9, Step: 1}}, Pending: 1, Completed: 1, Failed: 1, Cancelled: 1},
	}
	elem := &Job{ID: 2, Spec: proto.Clone(spec).(*fettlev1.JobSpec), User: "u", UID: 1, State: model.Pending, ArrayJobID: 1, ArrayIndex: 3}
	deps := []*fettlev1.Dependency{{Kind: model.AfterOK, JobId: 1}, {Kind: model.AfterAny, JobId: 1, Index: proto.Uint32(3)}, {Kind: model.Singleton}}
	waits := &Job{ID: 3, Spec: &fettlev1.JobSpec{Name: "b", Dependencies: deps}, User: "u", UID: 1, State: model.Pending, RequestID: "r2", WaitingFor: deps}
	b := NewBuilder("c")
	recs := []*raftlogv1.SnapshotRecord{{Record: &raftlogv1.SnapshotRecord_Meta{Meta: &raftlogv1.MetaRecord{NextJobId: 4}}}}
	for _, j := range []*Job{array, elem, waits} {
		recs = append(recs, &raftlogv1.SnapshotRecord{Record: &raftlogv1.SnapshotRecord_Job{Job: j.record()}})
	}
	for _, r := range recs {
		if err := b.Add(proto.Clone(r).(*raftlogv1.SnapshotRecord)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(); err != nil {
		t.Fatal(err)
	}
	got := s.Job(1)
	if !reflect.DeepEqual(got.Array.Pending+got.Array.Completed<<4+got.Array.Failed<<8+got.Array.Cancelled<<12+got.Array.Active<<16, uint32(0x1111)) ||
		model.ArrayLen(got.Array.Left) != 6 || got.Array.Total() != 10 {
		t.Errorf("the array is restored as %+v", got.Array)
	}
	if e := s.Element(1, 3); e == nil || e.ID != 2 || e.Spec != got.Spec {
		t.Errorf("the element is restored as %+v", e)
	}
	if s.Element(1, 4) != nil || s.Element(2, 3) != nil {
		t.Error("elements without a row are found")
	}
	if d := s.Dependents(1); !slices.Equal(d, []uint64{3}) || len(s.Job(3).WaitingFor) != 3 || s.Job(3).Startable() {
		t.Errorf("dependents = %v, waiting for %v", d, s.Job(3).WaitingFor)
	}
	if n, limited := s.ArrayRoom(s.Job(2)); n != 3 || !limited {
		t.Errorf("room = %d, %v", n, limited)
	}
	if due := s.DueDeadlines(901, 9); !slices.Equal(due, []uint64{1, 2}) || len(s.DueDeadlines(900, 9)) != 0 || len(s.DueDeadlines(901, 1)) != 1 {
		t.Errorf("due = %v", due)
	}
	if at, ok := s.NextDeadlineMS(); at != 900 || !ok {
		t.Errorf("next deadline = %d, %v", at, ok)
	}
	if s.Counts().ArrayLeft != 6 {
		t.Errorf("counts = %+v", s.Counts())
	}
}

func TestNodesAreShared(t *testing.T) {
	t.Parallel()
	n := &Node{Name: "n", Inventory: &fettlev1.Inventory{Cpus: 8}}
	share := func(mib int64) *fettlev1.NodeAllocation {
		return &fettlev1.NodeAllocation{Node: "n", GpuUuids: []string{"GPU-1"}, Cpus: 1, VramMib: mib}
	}
	n.Take(7, 1, share(100))
	n.Take(3, 2, share(50))
	n.Take(9, 1, &fettlev1.NodeAllocation{GpuUuids: []string{"GPU-2"}})
	if h := n.Holders("GPU-1"); len(h) != 2 || h[0].JobID != 3 || h[1].VRAMMiB != 100 || len(n.Holders("GPU-2")) != 1 || n.Holders("GPU-3") != nil {
		t.Errorf("held = %v", n.Held)
	}
	n.Exclusive = 3
	n.Free(7, 1, share(100))
	if h := n.Holders("GPU-1"); len(h) != 1 || h[0].JobID != 3 || n.Exclusive != 3 {
		t.Errorf("held = %v", n.Held)
	}
	if n.Free(3, 2, share(50)); n.Exclusive != 0 || len(n.Held) != 1 {
		t.Errorf("held = %v, exclusive %d", n.Held, n.Exclusive)
	}
}
