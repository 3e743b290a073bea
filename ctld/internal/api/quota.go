package api

import (
	"sync"

	"github.com/fettle-hpc/fettle/proto/model"
)

// Limits on streams that stay open, which watch or follow.
const (
	maxStreams        = 4096
	maxStreamsPerUser = 512
)

// quota counts open streams, so that no user takes them all.
type quota struct {
	mu     sync.Mutex
	all    int
	byUser map[uint32]int
}

// enter admits a stream of a user; leave ends it.
func (q *quota) enter(uid uint32) (leave func(), err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.byUser[uid] >= maxStreamsPerUser:
		return nil, refuse(model.Exhausted, "", "you have 512 streams open on this controller, the limit", "end some of those that watch or follow")
	case q.all >= maxStreams:
		return nil, refuse(model.Exhausted, "", "4096 streams are open on this controller, the limit", "ask another controller")
	}
	if q.byUser == nil {
		q.byUser = map[uint32]int{}
	}
	q.all++
	q.byUser[uid]++
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.all--
		if q.byUser[uid]--; q.byUser[uid] == 0 {
			delete(q.byUser, uid)
		}
	}, nil
}
