package fsm

import (
	"fmt"
	"sync"
	"testing"

	"github.com/hashicorp/raft"

	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// Readers walk whole snapshots, and raft persists them, while entries are applied: what they see is consistent, and with
// the race detector, untouched by the writer.
func TestReadersDuringWrites(t *testing.T) {
	t.Parallel()
	f := New(state.New(testCluster), Config{})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				s := f.Store().Snapshot()
				if err := s.Verify(); err != nil {
					t.Error(err)
					return
				}
				s.Jobs(0, func(j *state.Job) bool { _ = j.Proto(false); return true })
				if err := (&snapshot{s: s}).Persist(&sink{}); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	sub := f.Store().Subscribe(4)
	wg.Go(func() {
		for c := range sub.C() {
			if c.Index > f.Store().Snapshot().Index() {
				t.Error("a change is told before it can be seen")
			}
		}
	})
	index := uint64(0)
	apply := func(e *raftlogv1.Entry) {
		b, err := Encode(e)
		if err != nil {
			t.Error(err)
			return
		}
		index++
		f.Apply(&raft.Log{Index: index, Type: raft.LogCommand, Data: b})
	}
	for i := range 300 {
		apply(&raftlogv1.Entry{Actor: alice, Op: submitOp(fmt.Sprint(i), script(1, 1, 0))})
		if i%3 == 0 {
			apply(cancelOp(uint64(i + 1)))
		}
	}
	close(stop)
	sub.Close()
	wg.Wait()
}
