package fsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

func seedFiles(f *testing.F, pattern string) {
	f.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds in %s: %v", pattern, err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// FuzzDecodeEntry: any bytes are refused or decoded, what is decoded is encoded to something that decodes alike, and
// applying it to a lively state leaves a consistent one, the same on two replicas. A checksum is put on the input, as
// otherwise nothing would get past it.
func FuzzDecodeEntry(f *testing.F) {
	seedFiles(f, filepath.Join(opsDir, "*.bin"))
	f.Add([]byte{})
	f.Add([]byte{FormatV1})
	f.Add([]byte{2, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := Decode(raw); err != nil && len(raw) > crcLen {
			raw = seal(raw[:len(raw)-crcLen]...)
		}
		e, err := Decode(raw)
		if err != nil {
			return
		}
		again, err := Encode(e)
		if err != nil {
			return
		}
		if _, err := Decode(again); err != nil {
			t.Fatalf("what was decoded and encoded cannot be decoded: %v", err)
		}
		a, b := livedFast(t), livedFast(t)
		l := &raft.Log{Index: 21, Type: raft.LogCommand, Data: raw}
		ra, rb := a.Apply(l).(*Result), b.Apply(l).(*Result)
		if (ra.Err == nil) != (rb.Err == nil) || a.Store().Snapshot().Hash() != b.Store().Snapshot().Hash() {
			t.Fatal("two replicas differ")
		}
		if err := a.Store().Snapshot().Verify(); err != nil {
			t.Fatalf("after %v: %v", e, err)
		}
		if ra.Err != nil && ra.Err.Problem == "the request hit a fault in fettle and was dropped" {
			t.Fatalf("a panic in %v", e)
		}
	})
}

// livedFast is the state after the first steps of the scenario, without checks in between.
func livedFast(t *testing.T) *FSM {
	t.Helper()
	f := New(state.New(testCluster), Config{Fatal: func(int, string) {}})
	for i, s := range scenario()[:20] {
		b, err := Encode(s.entry)
		if err != nil {
			t.Fatal(err)
		}
		f.Apply(&raft.Log{Index: uint64(i + 1), Type: raft.LogCommand, Data: b})
	}
	return f
}

// reseal gives the records that can be read from raw a trailer with the right counts and hashes.
func reseal(raw []byte) []byte {
	rr := &recordReader{r: bufio.NewReader(bytes.NewReader(raw)), h: sha256.New()}
	b := state.NewBuilder(testCluster)
	var out bytes.Buffer
	w := &recordWriter{w: &out, h: sha256.New()}
	records := uint64(0)
	for n := 0; ; n++ {
		rec, err := rr.next()
		if err != nil || rec.GetTrailer() != nil {
			break
		}
		if n > 0 && b.Add(rec) != nil {
			break
		}
		if n > 0 {
			records++
		}
		w.write(rec)
	}
	s, err := b.Finish()
	if err != nil || w.err != nil {
		return raw
	}
	h := s.Hash()
	w.write(&raftlogv1.SnapshotRecord{Record: &raftlogv1.SnapshotRecord_Trailer{Trailer: &raftlogv1.SnapshotTrailer{Records: records, StateHash: h[:], FileHash: w.h.Sum(nil)}}})
	return out.Bytes()
}

// FuzzRestore: any bytes are refused without touching the state in use, or restored to a consistent state that is written
// again to the same state.
func FuzzRestore(f *testing.F) {
	seedFiles(f, "testdata/snapshots/*.snap")
	f.Add([]byte{})
	f.Add([]byte{0})
	f.Add([]byte{0xff, 0xff, 0xff, 0x1f})
	small := newRig(f)
	f.Add(persist(f, small.f))
	small.submit(script(1, 1, 0))
	f.Add(persist(f, small.f))
	r := lived(f)
	f.Add(persist(f, r.f))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := New(state.New(testCluster), Config{})
		before := m.Store().Snapshot()
		if err := m.Restore(io.NopCloser(bytes.NewReader(raw))); err != nil {
			// The hashes stop nearly everything: let the records through to the checks behind them.
			raw = reseal(raw)
		}
		if err := m.Restore(io.NopCloser(bytes.NewReader(raw))); err != nil {
			if m.Store().Snapshot() != before {
				t.Fatalf("refused (%v), but the state was touched", err)
			}
			return
		}
		s := m.Store().Snapshot()
		if err := s.Verify(); err != nil {
			t.Fatal(err)
		}
		s.Jobs(0, func(j *state.Job) bool { _ = j.Proto(false); return true })
		var buf bytes.Buffer
		if err := WriteSnapshot(&buf, s); err != nil {
			t.Fatal(err)
		}
		b, err := ReadSnapshot(&buf, testCluster)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := b.Finish(); err != nil || again.Hash() != s.Hash() {
			t.Fatalf("written and read again: %v", err)
		}
		// The restored state takes entries.
		enc, err := Encode(cancelOp(1, 2, 3))
		if err != nil {
			t.Fatal(err)
		}
		m.Apply(&raft.Log{Index: s.Index() + 1, Type: raft.LogCommand, Data: enc})
		if err := m.Store().Snapshot().Verify(); err != nil {
			t.Fatal(err)
		}
	})
}
