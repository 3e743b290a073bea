package leader

import (
	"sync/atomic"
	"time"
)

// Clock is the cluster's time as this controller tells it. The log's time never goes back; a leader whose own clock is
// behind it goes on from the log's time at its own pace, so that a back-off set by a leader with a fast clock passes all
// the same. Its zero value tells the machine's time.
type Clock struct{ ahead atomic.Int64 }

// Begin starts a term with the log's time in Unix milliseconds.
func (c *Clock) Begin(logMS int64) {
	c.ahead.Store(max(logMS-time.Now().UnixMilli(), 0))
}

// Now is the cluster's time.
func (c *Clock) Now() time.Time {
	return time.Now().Add(time.Duration(c.ahead.Load()) * time.Millisecond)
}
