package leader

import (
	"slices"
	"sync"
	"time"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// stats remembers the times of the newest cycles.
type stats struct {
	mu     sync.Mutex
	cycles uint64
	recent [256]time.Duration
}

func (s *stats) add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recent[s.cycles%uint64(len(s.recent))] = d
	s.cycles++
}

func (s *stats) proto() *fettlev1.SchedulerStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &fettlev1.SchedulerStats{Cycles: s.cycles}
	if s.cycles == 0 {
		return out
	}
	out.LastCycleUs = s.recent[(s.cycles-1)%uint64(len(s.recent))].Microseconds()
	n := min(s.cycles, uint64(len(s.recent)))
	sorted := slices.Sorted(slices.Values(s.recent[:n]))
	out.P99CycleUs = sorted[(n-1)*99/100].Microseconds()
	return out
}
