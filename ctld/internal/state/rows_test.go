package state

import (
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// fullJob and fullNode are rows in which nothing is zero.
func fullJob() *Job {
	j := &Job{
		ID: 1, Spec: &fettlev1.JobSpec{Name: "x"}, User: "u", UID: 2, GID: 3, State: model.Completing, Reason: 4, Detail: "d",
		SubmitMS: 5, EligibleMS: 6, StartMS: 7, EndMS: 8, RetryAtMS: 9, Attempt: 10, Failures: 11, Held: true, HeldByAdmin: true,
		CancelRequested: true, RequeueRequested: true, EndReason: 12, ExitCode: 13, FirstBad: 1, RequestID: "r", SubmitHash: [32]byte{1}, ModifiedIndex: 14,
	}
	fullLinks(j)
	fullTenant(j)
	j.Attempts = []*fettlev1.Attempt{{Number: 10, Nodes: []*fettlev1.NodeAllocation{{Node: "n", Cpus: 10, MemMib: 11, GpuUuids: []string{"GPU-0"}}}}}
	return j
}

func fullNode() *Node {
	return &Node{
		Name: "n", State: NodeUp, Drained: true, DrainReason: "d", BootID: "b", Session: 6, Inventory: &fettlev1.Inventory{Cpus: 1},
		RegisteredMS: 7, StateSinceMS: 8, LaunchFailures: 9, CPUsUsed: 10, MemUsedMiB: 11, Exclusive: 1, Held: []GPUHold{{UUID: "GPU-0", JobID: 1, Attempt: 10}},
	}
}

func fullRequest() *Request {
	return &Request{UID: 1, ID: "r", Seq: 2, Index: 3, Hash: [32]byte{4}, JobID: 5, Result: []byte{6}, Weight: 7}
}

// Every exported field of a row is in its hash, but for the lines for people and what other fields stand for.
func TestRowHashesAreComplete(t *testing.T) {
	t.Parallel()
	var buf canon
	hash := func(row any) sum {
		switch r := row.(type) {
		case *Job:
			return hashJob(&buf, r)
		case *Node:
			r.inventorySum = hashMessage(tagInventory, r.Inventory)
			return hashNode(&buf, r)
		default:
			return hashRequest(&buf, row.(*Request))
		}
	}
	left := map[string]string{"Detail": "for people", "DrainReason": "for people", "Result": "for people; Weight and Hash stand for it"}
	for _, fresh := range []func() any{func() any { return fullJob() }, func() any { return fullNode() }, func() any { return fullRequest() }} {
		full := hash(fresh())
		typ := reflect.TypeOf(fresh()).Elem()
		for i := range typ.NumField() {
			f := typ.Field(i)
			if !f.IsExported() {
				continue
			}
			row := fresh()
			v := reflect.ValueOf(row).Elem().Field(i)
			if v.IsZero() {
				t.Fatalf("%s.%s is zero in the full row", typ.Name(), f.Name)
			}
			v.SetZero()
			if changed := hash(row) != full; changed == (left[f.Name] != "") {
				t.Errorf("%s.%s: in the hash is %v", typ.Name(), f.Name, changed)
			}
		}
	}
}

// Every exported field of a row is in its snapshot record.
func TestRecordsAreComplete(t *testing.T) {
	t.Parallel()
	b := NewBuilder("c")
	for _, r := range []*raftlogv1.SnapshotRecord{
		{Record: &raftlogv1.SnapshotRecord_Meta{Meta: &raftlogv1.MetaRecord{NextJobId: 2, RequestSeq: 2}}},
		{Record: &raftlogv1.SnapshotRecord_Node{Node: &raftlogv1.NodeRecord{Node: fullNode().Proto()}}},
		{Record: &raftlogv1.SnapshotRecord_Job{Job: plainJob().record()}},
		{Record: &raftlogv1.SnapshotRecord_Request{Request: fullRequest().record()}},
	} {
		if err := b.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	s, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	key := fullRequest()
	request, _ := s.requests.Get(key)
	for _, c := range []struct{ want, got any }{{plainJob(), s.Job(1)}, {fullNode(), s.Node("n")}, {key, request}} {
		want, got := reflect.ValueOf(c.want).Elem(), reflect.ValueOf(c.got).Elem()
		for i := range want.NumField() {
			f := want.Type().Field(i)
			if !f.IsExported() {
				continue
			}
			if m, ok := want.Field(i).Interface().(proto.Message); ok && proto.Equal(m, got.Field(i).Interface().(proto.Message)) {
				continue
			}
			if !reflect.DeepEqual(want.Field(i).Interface(), got.Field(i).Interface()) {
				t.Errorf("%s.%s was %v, is restored as %v", want.Type().Name(), f.Name, want.Field(i), got.Field(i))
			}
		}
	}
}
