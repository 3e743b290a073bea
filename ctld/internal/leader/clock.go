package leader

import (
	"sync"
	"time"
)

// Clock is the cluster's time as this controller tells it. The log's time never goes back; a leader whose own clock is
// behind it goes on from the log's time at its own pace, so that a back-off set by a leader with a fast clock passes all
// the same. So does one whose clock is set back while it leads. Its zero value tells the machine's time.
type Clock struct {
	mu sync.Mutex
	// ahead is what is added to the machine's time.
	ahead time.Duration
	// told is the newest time of this term, at an instant of the clock that is never set.
	told, at time.Time
	// read replaces the machine's clock in tests: the time of day, and an instant to measure pace by.
	read func() (wall, pace time.Time)
}

func (c *Clock) now() (wall, pace time.Time) {
	if c.read != nil {
		return c.read()
	}
	now := time.Now()
	// Round(0) takes away the reading that is never set.
	return now.Round(0), now
}

// Begin starts a term with the log's time in Unix milliseconds.
func (c *Clock) Begin(logMS int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, _ := c.now()
	c.ahead = max(time.UnixMilli(logMS).Sub(wall), 0)
	c.told, c.at = time.Time{}, time.Time{}
}

// Now is the cluster's time. It never goes back within a term.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, pace := c.now()
	now := wall.Add(c.ahead)
	if !c.at.IsZero() {
		if own := c.told.Add(pace.Sub(c.at)); own.After(now) {
			now = own
		}
	}
	c.told, c.at = now, pace
	return now
}
