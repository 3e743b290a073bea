package sched

import (
	"cmp"
	"iter"

	"github.com/google/btree"
)

// Queue keeps waiting jobs in the order that the scheduling policy gave: ascending score, then ascending id.
// It is leader memory: a new leader fills it from the job table. Not safe for concurrent use.
type Queue struct {
	tree   *btree.BTreeG[queued]
	scores map[uint64]int64
}

type queued struct {
	score int64
	id    uint64
}

// NewQueue makes an empty queue.
func NewQueue() *Queue {
	return &Queue{
		tree: btree.NewG(32, func(a, b queued) bool {
			return cmp.Or(cmp.Compare(a.score, b.score), cmp.Compare(a.id, b.id)) < 0
		}),
		scores: map[uint64]int64{},
	}
}

// Set puts a job at its score, or moves it there.
func (q *Queue) Set(id uint64, score int64) {
	if old, ok := q.scores[id]; ok {
		if old == score {
			return
		}
		q.tree.Delete(queued{old, id})
	}
	q.scores[id] = score
	q.tree.ReplaceOrInsert(queued{score, id})
}

// Delete takes a job out; an unknown one is ignored.
func (q *Queue) Delete(id uint64) {
	if score, ok := q.scores[id]; ok {
		q.tree.Delete(queued{score, id})
		delete(q.scores, id)
	}
}

// Score returns a job's score.
func (q *Queue) Score(id uint64) (int64, bool) {
	s, ok := q.scores[id]
	return s, ok
}

// Len is the number of jobs in the queue.
func (q *Queue) Len() int { return len(q.scores) }

// All yields job ids in queue order.
func (q *Queue) All() iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		q.tree.Ascend(func(item queued) bool { return yield(item.id) })
	}
}
