package leader

import (
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// refusal is what the log said of a job's placement. The first may be a race and is tried again at once; a job that is
// refused again is parked, longer each time, so that it neither spins nor keeps nodes from the jobs behind it.
type refusal struct {
	times   int
	untilMS int64
	text    string
}

// maxPark bounds how long a refused job is left out.
const maxPark = time.Minute

// note remembers what the log refused of a plan, and how many of them are parked from now on.
func (s *Scheduler) note(outcomes []fsm.PlacementOutcome, nowMS int64) (rejected, parked int) {
	for _, o := range outcomes {
		if o.Err == nil {
			delete(s.refused, o.JobID)
			continue
		}
		rejected++
		s.cfg.Logger.Warn("placement rejected", "job", o.JobID, "err", o.Err.Error())
		r := s.refused[o.JobID]
		r.times++
		r.text = o.Err.Error()
		if r.times > 1 {
			parked++
			r.untilMS = nowMS + min(time.Second<<min(r.times-1, 10), maxPark).Milliseconds()
		}
		s.refused[o.JobID] = r
	}
	return rejected, parked
}

// parked tells the jobs that are left out why, and returns when the first of them is tried again.
func (s *Scheduler) parked(nowMS int64, waits map[uint64]sched.Wait) time.Duration {
	next := idle
	for id, r := range s.refused {
		if r.untilMS <= nowMS {
			continue
		}
		next = min(next, time.Duration(r.untilMS-nowMS)*time.Millisecond)
		waits[id] = sched.Wait{Reason: fettlev1.Reason_REASON_NO_SUITABLE_NODE, Detail: "its placement was refused and is tried again: " + r.text}
	}
	return next
}
