package fsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// sink is a raft.SnapshotSink in memory, which fails after limit bytes when that is not 0.
type sink struct {
	bytes.Buffer
	limit             int
	closed, cancelled bool
}

func (s *sink) ID() string { return "test" }

func (s *sink) Write(b []byte) (int, error) {
	if s.limit > 0 && s.Len()+len(b) > s.limit {
		return 0, errors.New("disk full")
	}
	return s.Buffer.Write(b)
}

func (s *sink) Close() error  { s.closed = true; return nil }
func (s *sink) Cancel() error { s.cancelled = true; return nil }

// lived returns a state machine in which the frozen scenario has happened, up to an entry with much going on.
func lived(t testing.TB) *rig {
	r := newRig(t)
	for _, s := range scenario()[:20] {
		r.ok(clone(s.entry))
	}
	r.ok(&raftlogv1.Entry{Actor: alice, RequestId: "c-2", Op: &raftlogv1.Entry_Cancel{Cancel: &raftlogv1.CancelJobs{Ids: []uint64{55}}}})
	r.ok(server("old", true))
	return r
}

func persist(t testing.TB, f *FSM) []byte {
	t.Helper()
	snap, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Release()
	s := &sink{}
	if err := snap.Persist(s); err != nil {
		t.Fatal(err)
	}
	if !s.closed || s.cancelled {
		t.Fatal("the sink was not closed")
	}
	return s.Bytes()
}

func TestSnapshotRestores(t *testing.T) {
	t.Parallel()
	r := lived(t)
	data := persist(t, r.f)
	other := New(state.New(testCluster), Config{})
	sub := other.Store().Subscribe(1)
	defer sub.Close()
	if err := other.Restore(io.NopCloser(bytes.NewReader(data))); err != nil {
		t.Fatal(err)
	}
	a, b := r.snap(), other.Store().Snapshot()
	if a.Hash() != b.Hash() || a.Index() != b.Index() || a.Term() != b.Term() || a.NowMS() != b.NowMS() || a.Counts() != b.Counts() || a.Leader() != b.Leader() || a.NextJobID() != b.NextJobID() {
		t.Error("the restored state differs")
	}
	var left, right []*raftlogv1.SnapshotRecord
	a.Records(func(r *raftlogv1.SnapshotRecord) bool { left = append(left, r); return true })
	b.Records(func(r *raftlogv1.SnapshotRecord) bool { right = append(right, r); return true })
	if len(left) != len(right) {
		t.Fatalf("%d records, %d restored", len(left), len(right))
	}
	for i := range left {
		if !proto.Equal(left[i], right[i]) {
			t.Errorf("record %d\n%v\nis restored as\n%v", i, left[i], right[i])
		}
	}
	if c := <-sub.C(); !c.Resync || c.Index != a.Index() {
		t.Errorf("subscribers got %+v", c)
	}
	if !bytes.Equal(persist(t, other), data) {
		t.Error("a snapshot of the restored state has other bytes")
	}
	// Both go on alike, remembered requests included.
	for _, s := range scenario()[20:] {
		enc, err := Encode(clone(s.entry))
		if err != nil {
			t.Fatal(err)
		}
		res := r.raw(enc)
		o := other.Apply(&raft.Log{Index: r.index, Type: raft.LogCommand, Data: enc}).(*Result)
		if res.Duplicate != o.Duplicate || (res.Err == nil) != (o.Err == nil) || r.snap().Hash() != other.Store().Snapshot().Hash() {
			t.Fatalf("the replicas differ after %s", s.name)
		}
	}
}

// A snapshot is of the moment it was taken, however much later it is written.
func TestSnapshotIsFrozen(t *testing.T) {
	t.Parallel()
	r := lived(t)
	want := persist(t, r.f)
	snap, err := r.f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scenario()[20:] {
		r.apply(clone(s.entry))
	}
	got := &sink{}
	if err := snap.Persist(got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("later entries are in an earlier snapshot")
	}
}

func TestPersistFails(t *testing.T) {
	t.Parallel()
	r := lived(t)
	snap, err := r.f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{limit: 100}
	if err := snap.Persist(s); err == nil || !s.cancelled || s.closed {
		t.Errorf("err %v, cancelled %v, closed %v", err, s.cancelled, s.closed)
	}
}

// Whatever is wrong with a file, it is refused and the state in use stays as it is.
func TestDamagedSnapshotsAreRefused(t *testing.T) {
	t.Parallel()
	r := lived(t)
	good := persist(t, r.f)
	before := r.snap()
	refused := func(what string, data []byte, want error) {
		t.Helper()
		err := r.f.Restore(io.NopCloser(bytes.NewReader(data)))
		if err == nil {
			t.Fatalf("%s: accepted", what)
		}
		if want != nil && !errors.Is(err, want) {
			t.Fatalf("%s: %v, want %v", what, err, want)
		}
		if strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%s: more than one line: %q", what, err)
		}
		if r.snap() != before {
			t.Fatalf("%s: the state in use was touched", what)
		}
	}
	for n := 0; n < len(good); n += 1 + n%5 {
		refused("cut", good[:n], ErrTorn)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		refused("flipped", bad, nil)
	}
	refused("longer", append(bytes.Clone(good), 0), ErrDamaged)
	refused("twice", append(bytes.Clone(good), good...), ErrDamaged)
	refused("version", rewrite(t, good, func(recs []*raftlogv1.SnapshotRecord) []*raftlogv1.SnapshotRecord {
		recs[0].GetHeader().Version = 2
		return recs
	}), ErrVersion)
	refused("cluster", rewrite(t, good, func(recs []*raftlogv1.SnapshotRecord) []*raftlogv1.SnapshotRecord {
		recs[0].GetHeader().ClusterId = "another"
		return recs
	}), ErrCluster)
}

// Files whose bytes and counts are in order but whose contents are not are refused too.
func TestInconsistentSnapshotsAreRefused(t *testing.T) {
	t.Parallel()
	r := lived(t)
	good := persist(t, r.f)
	type records = []*raftlogv1.SnapshotRecord
	find := func(recs records, want func(*raftlogv1.SnapshotRecord) bool) int {
		for i, rec := range recs {
			if want(rec) {
				return i
			}
		}
		t.Fatal("no such record")
		return 0
	}
	job := func(r *raftlogv1.SnapshotRecord) bool { return r.GetJob() != nil }
	node := func(r *raftlogv1.SnapshotRecord) bool { return r.GetNode() != nil }
	request := func(r *raftlogv1.SnapshotRecord) bool { return r.GetRequest() != nil }
	active := func(r *raftlogv1.SnapshotRecord) bool {
		return r.GetJob() != nil && r.GetJob().GetJob().GetState() == 2
	}
	for name, change := range map[string]func(recs records) records{
		"a job changed":   func(recs records) records { recs[find(recs, job)].GetJob().GetJob().Spec.Priority = 9; return recs },
		"a job left out":  func(recs records) records { i := find(recs, job); return append(recs[:i], recs[i+1:]...) },
		"a job twice":     func(recs records) records { i := find(recs, job); return append(recs[:i+1], recs[i:]...) },
		"no meta":         func(recs records) records { return append(recs[:1], recs[2:]...) },
		"meta twice":      func(recs records) records { return append(recs[:2], recs[1:]...) },
		"no header":       func(recs records) records { return recs[1:] },
		"a node left out": func(recs records) records { i := find(recs, node); return append(recs[:i], recs[i+1:]...) },
		"a GPU freed": func(recs records) records {
			n := recs[find(recs, node)].GetNode().GetNode()
			n.GpuHolders = nil
			return recs
		},
		"a node's CPUs":        func(recs records) records { recs[find(recs, node)].GetNode().GetNode().CpusUsed++; return recs },
		"a node's inventory":   func(recs records) records { recs[find(recs, node)].GetNode().GetNode().Inventory = nil; return recs },
		"an attempt forgotten": func(recs records) records { recs[find(recs, active)].GetJob().GetJob().Attempts = nil; return recs },
		"an unknown state":     func(recs records) records { recs[find(recs, job)].GetJob().GetJob().State = 99; return recs },
		"no spec":              func(recs records) records { recs[find(recs, job)].GetJob().GetJob().Spec = nil; return recs },
		"no submit hash":       func(recs records) records { recs[find(recs, job)].GetJob().SubmitHash = nil; return recs },
		"a request's hash":     func(recs records) records { recs[find(recs, request)].GetRequest().SpecHash = []byte("x"); return recs },
		"a request's number":   func(recs records) records { recs[find(recs, request)].GetRequest().Seq += 1000; return recs },
		"the next job number":  func(recs records) records { recs[1].GetMeta().NextJobId = 1; return recs },
		"the term":             func(recs records) records { recs[0].GetHeader().Term++; return recs },
		"an empty record":      func(recs records) records { return append(recs, &raftlogv1.SnapshotRecord{}) },
		"a second header":      func(recs records) records { return append(recs, recs[0]) },
	} {
		f := New(state.New(testCluster), Config{})
		if err := f.Restore(io.NopCloser(bytes.NewReader(rewrite(t, good, change)))); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := New(state.New(testCluster), Config{}).Restore(io.NopCloser(bytes.NewReader(rewrite(t, good, func(r records) records { return r })))); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

// rewrite changes a snapshot's records and gives it a trailer with the right count and file hash.
func rewrite(t testing.TB, data []byte, change func([]*raftlogv1.SnapshotRecord) []*raftlogv1.SnapshotRecord) []byte {
	t.Helper()
	var recs []*raftlogv1.SnapshotRecord
	for r := bytes.NewReader(data); r.Len() > 0; {
		size, err := binary.ReadUvarint(r)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, size)
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatal(err)
		}
		rec := new(raftlogv1.SnapshotRecord)
		if err := proto.Unmarshal(b, rec); err != nil {
			t.Fatal(err)
		}
		recs = append(recs, rec)
	}
	trailer := recs[len(recs)-1]
	recs = change(recs[:len(recs)-1])
	var out []byte
	put := func(r *raftlogv1.SnapshotRecord) {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(binary.AppendUvarint(out, uint64(len(b))), b...)
	}
	for _, r := range recs {
		put(r)
	}
	sum := sha256.Sum256(out)
	trailer.GetTrailer().Records = uint64(len(recs) - 1)
	trailer.GetTrailer().FileHash = sum[:]
	put(trailer)
	return out
}
