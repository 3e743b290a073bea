package guard

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is an in-memory store that notes the order of its writes.
type recorder struct {
	*raft.InmemStore
	writes []string
	err    error
}

func (r *recorder) StoreLogs(logs []*raft.Log) error {
	r.writes = append(r.writes, "logs")
	if r.err != nil {
		return r.err
	}
	return r.InmemStore.StoreLogs(logs)
}

func (r *recorder) Set(k, v []byte) error {
	r.writes = append(r.writes, string(k)+"="+string(v))
	return r.InmemStore.Set(k, v)
}

func (r *recorder) SetUint64(k []byte, v uint64) error {
	r.writes = append(r.writes, string(k))
	return r.InmemStore.SetUint64(k, v)
}

// survives runs fn on a goroutine and reports whether it returned.
func survives(fn func()) bool {
	done := make(chan bool, 1)
	go func() {
		returned := false
		defer func() { done <- returned }()
		fn()
		returned = true
	}()
	return <-done
}

func entries(n uint64) []*raft.Log { return []*raft.Log{{Index: n, Term: 1}} }

func TestErrorEndsTheWriter(t *testing.T) {
	t.Parallel()
	broken := errors.New("i/o error")
	var reported []error
	inner := &recorder{InmemStore: raft.NewInmemStore(), err: broken}
	s := New(inner, Config{Limit: time.Second, OnSlow: func(string) { t.Error("slow") },
		OnError: func(op string, err error) { reported = append(reported, err) }})
	defer s.Close()
	if survives(func() { _ = s.StoreLogs(entries(1)) }) {
		t.Error("the writer went on after a failed write")
	}
	inner.err = nil
	if survives(func() { _ = s.StoreLogs(entries(1)) }) {
		t.Error("a later write was let through")
	}
	if len(reported) != 1 || !errors.Is(reported[0], broken) {
		t.Errorf("reported %v", reported)
	}
	if len(inner.writes) != 1 {
		t.Errorf("the dead store wrote: %v", inner.writes)
	}
}

func TestHungWriteIsReportedWhileItHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		slow := make(chan string, 1)
		inner := &recorder{InmemStore: raft.NewInmemStore()}
		s := New(inner, Config{Limit: 3 * time.Second, OnSlow: func(op string) { slow <- op },
			OnError: func(string, error) { t.Error("error reported") },
			Before:  func(string) error { <-release; return nil }})
		start := time.Now()
		result := make(chan bool, 1)
		go func() { result <- survives(func() { _ = s.StoreLogs(entries(1)) }) }()
		if op := <-slow; op != "StoreLogs" {
			t.Errorf("slow operation %q", op)
		}
		if took := time.Since(start); took < 3*time.Second || took > 4*time.Second {
			t.Errorf("reported after %v", took)
		}
		close(release)
		if <-result {
			t.Error("the hung writer went on after it was reported")
		}
		if len(inner.writes) != 0 {
			t.Errorf("the dead store wrote: %v", inner.writes)
		}
		s.Close()
	})
}

func TestSlowButWithinLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New(raft.NewInmemStore(), Config{Limit: 3 * time.Second,
			OnSlow:  func(op string) { t.Errorf("%s reported as slow", op) },
			OnError: func(string, error) { t.Error("error reported") },
			Before:  func(string) error { time.Sleep(2900 * time.Millisecond); return nil }})
		for i := uint64(1); i <= 5; i++ {
			if !survives(func() { _ = s.StoreLogs(entries(i)) }) {
				t.Fatal("a write within the limit ended its writer")
			}
		}
		s.Close()
	})
}

func TestVoteIsForNobodyUntilItIsWhole(t *testing.T) {
	t.Parallel()
	inner := &recorder{InmemStore: raft.NewInmemStore()}
	s := New(inner, Config{Limit: time.Second})
	defer s.Close()
	if err := s.Set([]byte(keyVoteCand), []byte("10.0.0.1:1")); err != nil {
		t.Fatal(err)
	}
	// Raft writes the term, then the candidate. At no point between may the term of
	// the new vote stand beside the candidate of the old one.
	if err := s.SetUint64([]byte(keyVoteTerm), 7); err != nil {
		t.Fatal(err)
	}
	cand, err := s.Get([]byte(keyVoteCand))
	if err != nil || string(cand) != noCandidate {
		t.Errorf("candidate after the term was set: %q, %v", cand, err)
	}
	want := []string{keyVoteCand + "=10.0.0.1:1", keyVoteCand + "=" + noCandidate, keyVoteTerm}
	if len(inner.writes) != len(want) {
		t.Fatalf("writes %v, want %v", inner.writes, want)
	}
	for i := range want {
		if inner.writes[i] != want[i] {
			t.Errorf("write %d is %q, want %q", i, inner.writes[i], want[i])
		}
	}
}

func TestFirstEntries(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	s := New(raft.NewInmemStore(), Config{Limit: time.Second, OnFirstEntries: func() error { calls.Add(1); return nil }})
	defer s.Close()
	for i := uint64(1); i <= 3; i++ {
		if err := s.StoreLogs(entries(i)); err != nil {
			t.Fatal(err)
		}
	}
	if calls.Load() != 1 {
		t.Errorf("called %d times", calls.Load())
	}
}

func TestMonotonicPassesThrough(t *testing.T) {
	t.Parallel()
	plain := New(raft.NewInmemStore(), Config{Limit: time.Second})
	defer plain.Close()
	mono := New(monotonic{raft.NewInmemStore()}, Config{Limit: time.Second})
	defer mono.Close()
	if plain.IsMonotonic() || !mono.IsMonotonic() {
		t.Error("the inner store's answer was not passed on")
	}
}

type monotonic struct{ *raft.InmemStore }

func (monotonic) IsMonotonic() bool { return true }
