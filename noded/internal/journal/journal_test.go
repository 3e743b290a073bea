package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig opens journals on one path and waits for syncs.
type rig struct {
	t      *testing.T
	path   string
	mu     sync.Mutex
	cond   *sync.Cond
	synced uint64
	failed error
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "journal")}
	r.cond = sync.NewCond(&r.mu)
	return r
}

func (r *rig) open(lazy time.Duration) (*Journal, []string) {
	r.t.Helper()
	j, recs, _, err := Open(Config{Path: r.path, LazyDelay: lazy, Reserve: 1 << 16,
		Synced: func(upto uint64) {
			r.mu.Lock()
			r.synced = upto
			r.cond.Broadcast()
			r.mu.Unlock()
		},
		Failed: func(err error) {
			r.mu.Lock()
			r.failed = err
			r.cond.Broadcast()
			r.mu.Unlock()
		}})
	if err != nil {
		r.t.Fatal(err)
	}
	return j, texts(recs)
}

func (r *rig) wait(ok func() bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for !ok() {
		r.cond.Wait()
	}
}

func (r *rig) waitSynced(seq uint64) { r.wait(func() bool { return r.synced >= seq }) }

func texts(recs [][]byte) []string {
	var ts []string
	for _, b := range recs {
		ts = append(ts, string(b))
	}
	return ts
}

func TestWhatWasSyncedComesBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	j, recs := r.open(0)
	if len(recs) != 0 {
		t.Fatalf("a new journal holds %q", recs)
	}
	var want []string
	for i := range uint64(200) {
		s := fmt.Sprint("record ", i, string(bytes.Repeat([]byte{'x'}, int(i)*37)))
		want = append(want, s)
		j.Append(i+1, []byte(s), i%3 == 1)
	}
	r.waitSynced(199)
	// As after kill -9: nothing is closed.
	b, err := os.ReadFile(r.path)
	if err != nil {
		t.Fatal(err)
	}
	got, torn, err := parse(b)
	if err != nil || torn != 0 || len(got) < 199 || !slices.Equal(texts(got), want[:len(got)]) {
		t.Fatalf("%d records, torn %d, %v", len(got), torn, err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j, recs = r.open(0)
	if !slices.Equal(recs, want) {
		t.Fatalf("%d of %d records", len(recs), len(want))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLazyRecordsAreSyncedInTheEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	j, _ := r.open(time.Millisecond)
	j.Append(1, []byte("a"), true)
	r.waitSynced(1)
	j.Append(2, []byte("b"), true)
	j.Append(3, []byte("c"), false)
	r.waitSynced(3)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRewriteKeepsWhatCameAfterIt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	j, _ := r.open(time.Hour)
	for i := range uint64(100) {
		j.Append(i+1, bytes.Repeat([]byte{byte(i)}, 1000), false)
	}
	r.waitSynced(100)
	before := j.Size()
	j.Append(101, []byte("covered"), true)
	j.Rewrite(101, [][]byte{[]byte("live")})
	j.Append(102, []byte("after"), false)
	r.waitSynced(102)
	if j.Size() >= before {
		t.Errorf("%d bytes before, %d after", before, j.Size())
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j, recs := r.open(0)
	if !slices.Equal(recs, []string{"live", "after"}) {
		t.Errorf("%q", recs)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestErrorIsFinal(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	j, _ := r.open(0)
	ro, err := os.Open(r.path)
	if err != nil {
		t.Fatal(err)
	}
	rw := j.f
	j.f = ro
	j.Append(1, []byte("a"), false)
	r.wait(func() bool { return r.failed != nil })
	if r.synced != 0 {
		t.Error("a failed write counts as synced")
	}
	if err := j.Close(); err == nil {
		t.Error("close hides the error")
	}
	_ = rw.Close()
}

// file builds a journal of groups by hand.
func file(salt uint64, groups ...[]string) []byte {
	b := appendHeader(nil, salt)
	for _, g := range groups {
		var recs [][]byte
		for _, s := range g {
			recs = append(recs, []byte(s))
		}
		b = appendFrame(b, salt, recs)
	}
	return b
}

func TestTornTailIsDropped(t *testing.T) {
	t.Parallel()
	first := file(7, []string{"a", "bb"})
	whole := file(7, []string{"a", "bb"}, []string{"ccc", "dddd"})
	for cut := len(first); cut < len(whole); cut++ {
		for _, b := range [][]byte{
			whole[:cut],
			append(bytes.Clone(whole[:cut]), make([]byte, 4096)...), // reserved space after it
		} {
			recs, _, err := parse(b)
			if err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			if got := texts(recs); !slices.Equal(got, []string{"a", "bb"}) && len(bytes.TrimRight(whole[cut:], "\x00")) != 0 {
				t.Fatalf("cut at %d: %q", cut, got)
			}
		}
	}
	// Pages of one write may reach the disk in any order: the tail's end without its start.
	b := bytes.Clone(whole)
	clear(b[len(first) : len(first)+frameHead])
	if recs, _, err := parse(b); err != nil || len(recs) != 2 {
		t.Errorf("tail without its head: %q, %v", recs, err)
	}
}

func TestDamageBeforeWholeRecordsIsRefused(t *testing.T) {
	t.Parallel()
	first := file(7, []string{"a", "bb"})
	whole := file(7, []string{"a", "bb"}, []string{"ccc"}, []string{"d"})
	for i := len(first); i < len(first)+frameHead+4; i++ {
		b := bytes.Clone(whole)
		b[i] ^= 1
		if _, _, err := parse(b); !errors.Is(err, ErrDamaged) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
	for i := range headerSize {
		b := bytes.Clone(whole)
		b[i] ^= 1
		if _, _, err := parse(b); err == nil {
			t.Errorf("header byte %d: taken", i)
		}
	}
	if _, _, _, err := Open(Config{Path: t.TempDir()}); err == nil {
		t.Error("a directory was taken for a journal")
	}
}

func TestFrameInARecordIsNotAFrame(t *testing.T) {
	t.Parallel()
	// A job's script may hold anything, also what looks like a journal with another salt.
	inner := file(8, []string{"evil"})
	whole := file(7, []string{"a"}, []string{string(make([]byte, 3)) + string(inner)})
	torn := bytes.Clone(whole)
	torn[len(file(7, []string{"a"}))+8] ^= 1
	if recs, _, err := parse(torn); err != nil || !slices.Equal(texts(recs), []string{"a"}) {
		t.Errorf("%q, %v", recs, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(file(7))
	f.Add(file(7, []string{"a", ""}, []string{"ccc"}))
	f.Add(append(file(7, []string{"a"}), make([]byte, 64)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		recs, torn, err := parse(b)
		if err != nil {
			return
		}
		if torn < 0 || torn > len(b) {
			t.Errorf("torn %d of %d", torn, len(b))
		}
		again := appendFrame(appendHeader(nil, 3), 3, recs)
		back, _, err := parse(again)
		if err != nil || !slices.Equal(texts(back), texts(recs)) {
			t.Errorf("%q became %q, %v", recs, back, err)
		}
	})
}

func BenchmarkGroupCommit(b *testing.B) {
	var mu sync.Mutex
	cond := sync.NewCond(&mu)
	var synced uint64
	j, _, _, err := Open(Config{Path: filepath.Join(b.TempDir(), "journal"),
		Synced: func(u uint64) { mu.Lock(); synced = u; cond.Broadcast(); mu.Unlock() },
		Failed: func(err error) { b.Error(err) }})
	if err != nil {
		b.Fatal(err)
	}
	rec := make([]byte, 600)
	var seq uint64
	for b.Loop() {
		for range 16 {
			seq++
			j.Append(seq, rec, false)
		}
		mu.Lock()
		for synced < seq {
			cond.Wait()
		}
		mu.Unlock()
	}
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
}
