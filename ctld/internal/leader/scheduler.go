// Package leader does what only the leader does beside serving nodes: it scores and plans, tells the log its term, sets
// hash checkpoints and retires old jobs. All of it is rebuilt from the job table when a term begins.
package leader

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	"github.com/fettle-hpc/fettle/plugins/host"
	"github.com/fettle-hpc/fettle/plugins/policy"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// Log puts entries into the replicated log.
type Log interface {
	Propose(ctx context.Context, e *raftlogv1.Entry) (*fsm.Result, error)
}

// SchedulerConfig is what a Scheduler needs; all fields are required.
type SchedulerConfig struct {
	Store *state.Store
	Log   Log
	// Scorer orders waiting jobs, by the policy plugin or its built-in twin.
	Scorer host.Scorer
	// Connected returns a test for nodes that have a session with this leader.
	Connected func() func(node string) bool
	Logger    *slog.Logger
	Now       func() time.Time
}

// Scheduler runs scheduling cycles while this controller leads.
type Scheduler struct {
	cfg   SchedulerConfig
	wake  chan struct{}
	waits atomic.Pointer[map[uint64]sched.Wait]
	// queue holds the jobs that may start, later those that may at a known time. Held jobs are in neither.
	queue, later *sched.Queue
	// refused are the waiting jobs whose placement the log refused lately.
	refused map[uint64]refusal
	// mu guards queue against readers of scores.
	mu     sync.RWMutex
	stats  stats
	source atomic.Pointer[host.Source]
}

// NewScheduler makes a scheduler that does nothing until Lead.
func NewScheduler(cfg SchedulerConfig) *Scheduler {
	return &Scheduler{cfg: cfg, wake: make(chan struct{}, 1), queue: sched.NewQueue(), later: sched.NewQueue(), refused: map[uint64]refusal{}}
}

// Wake asks for a cycle soon: something outside the log changed, such as a node's session.
func (s *Scheduler) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Waits are the newest cycle's findings; nil when this controller does not schedule.
func (s *Scheduler) Waits() map[uint64]sched.Wait {
	if p := s.waits.Load(); p != nil {
		return *p
	}
	return nil
}

// Score returns a waiting job's score from the newest cycle.
func (s *Scheduler) Score(job uint64) (int64, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.queue.Score(job)
}

// Stats describes the newest cycles; zero on a controller that has not led.
func (s *Scheduler) Stats() *fettlev1.SchedulerStats {
	st := s.stats.proto()
	if src := s.source.Load(); src != nil {
		st.Policy = src.String()
		if src.Builtin {
			st.Policy, st.FallbackReason = src.Name+" (built in)", src.Reason
		}
	}
	return st
}

// retryAfterRejection is how long the scheduler waits when the log refused a whole plan without anything having changed.
const retryAfterRejection = time.Second

// Lead schedules for one term, until ctx ends.
func (s *Scheduler) Lead(ctx context.Context, term uint64) {
	sub := s.cfg.Store.Subscribe(4096)
	defer sub.Close()
	defer s.forget()
	changes := newChanges()
	changes.resync()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case set := <-sub.C():
			changes.add(set)
		case <-s.wake:
		case <-timer.C:
		}
		if pause := minGap - time.Since(last); pause > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
		last = time.Now()
		for drained := false; !drained; {
			select {
			case set := <-sub.C():
				changes.add(set)
			default:
				drained = true
			}
		}
		timer.Reset(s.cycle(ctx, term, changes))
	}
}

// forget drops what is known of the queue: another leader orders it now.
func (s *Scheduler) forget() {
	s.waits.Store(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue, s.later = sched.NewQueue(), sched.NewQueue()
	clear(s.refused)
}

// minGap is the least time between the starts of two cycles: what happens meanwhile goes into one. A change after a
// quiet time is planned at once.
const minGap = 4 * time.Millisecond

// idle is how long the scheduler sleeps when nothing will become eligible by itself.
const idle = time.Hour

// cycle scores what changed, plans and proposes. It returns when to run again if nothing happens before.
func (s *Scheduler) cycle(ctx context.Context, term uint64, ch *changes) time.Duration {
	began := time.Now()
	snap := s.cfg.Store.Snapshot()
	now := s.cfg.Now().UnixMilli()
	s.mu.Lock()
	s.ripen(now, ch)
	scored := s.rescore(ctx, snap, now, ch)
	s.mu.Unlock()
	plan := sched.Cycle(sched.Input{Snapshot: snap, NowMS: now, Order: s.order(now), Connected: s.cfg.Connected()})
	next := s.parked(now, plan.Waits)
	s.waits.Store(&plan.Waits)
	s.stats.add(time.Since(began))
	for id := range s.later.All() {
		at, _ := s.later.Score(id)
		next = min(next, max(time.Duration(at-now)*time.Millisecond, time.Millisecond))
		break
	}
	if !scored {
		next = min(next, retryAfterRejection)
	}
	if len(plan.Placements) == 0 {
		return next
	}
	res, err := s.cfg.Log.Propose(ctx, &raftlogv1.Entry{Op: &raftlogv1.Entry_Plan{Plan: &raftlogv1.ApplyPlan{Term: term, Placements: plan.Placements, Ledger: true}}})
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			s.cfg.Logger.Warn("plan not committed", "placements", len(plan.Placements), "err", err)
		}
		return retryAfterRejection
	}
	if res.Err != nil {
		s.cfg.Logger.Warn("plan refused", "placements", len(plan.Placements), "err", res.Err.Error())
		return retryAfterRejection
	}
	switch rejected, parked := s.note(res.Placements, now); {
	case rejected == len(plan.Placements) && parked == 0:
		return min(next, retryAfterRejection)
	case plan.More || rejected > 0:
		return 0
	}
	return next
}

// rescore brings the queue up to the snapshot; false when there was no answer to what changed.
func (s *Scheduler) rescore(ctx context.Context, snap *state.Snapshot, now int64, ch *changes) bool {
	var cols policy.Columns
	var removed []uint64
	reset := ch.all
	if reset {
		s.queue, s.later = sched.NewQueue(), sched.NewQueue()
		clear(s.refused)
		for j := range snap.Pending {
			if s.sort(j, now) {
				cols.Append(columnsOf(j))
			}
		}
	} else {
		for _, id := range slices.Compact(slices.Sorted(slices.Values(ch.jobs))) {
			delete(s.refused, id)
			if j := snap.Job(id); j != nil && j.State == fettlev1.JobState_JOB_STATE_PENDING && s.sort(j, now) {
				cols.Append(columnsOf(j))
				continue
			} else if j == nil || j.State != fettlev1.JobState_JOB_STATE_PENDING {
				s.later.Delete(id)
			}
			if _, queued := s.queue.Score(id); queued {
				s.queue.Delete(id)
				removed = append(removed, id)
			}
		}
	}
	ch.reset()
	if !reset && cols.Len() == 0 && len(removed) == 0 {
		return true
	}
	scores, source, err := s.cfg.Scorer.Score(ctx, host.Delta{Full: reset, NowMS: now, Changed: cols, Removed: removed})
	if err != nil {
		// The next cycle hands everything over again.
		if ctx.Err() == nil {
			s.cfg.Logger.Error("queue not scored", "changed", cols.Len(), "removed", len(removed), "err", err)
		}
		ch.resync()
		return false
	}
	if old := s.source.Swap(&source); old == nil || old.Builtin != source.Builtin {
		s.cfg.Logger.Info("scheduling policy in use", "policy", source.String())
	}
	for i, id := range scores.ID {
		if j := snap.Job(id); j != nil && j.State == fettlev1.JobState_JOB_STATE_PENDING {
			s.queue.Set(id, scores.Score[i])
		}
	}
	return true
}

// sort puts a waiting job where it belongs for now; true means into the queue.
func (s *Scheduler) sort(j *state.Job, now int64) bool {
	if j.Held {
		s.later.Delete(j.ID)
		return false
	}
	if at := max(j.Spec.GetBeginMs(), j.RetryAtMS); at > now {
		s.later.Set(j.ID, at)
		return false
	}
	s.later.Delete(j.ID)
	return true
}

// ripen hands jobs whose time has come to the next scoring.
func (s *Scheduler) ripen(now int64, ch *changes) {
	for id := range s.later.All() {
		if at, _ := s.later.Score(id); at > now {
			break
		}
		ch.jobs = append(ch.jobs, id)
	}
}

func columnsOf(j *state.Job) policy.Job {
	size := j.Spec.GetGpusPerNode().GetCount() * max(j.Spec.GetNodes(), 1)
	if size == 0 {
		size = max(j.Spec.GetCpusPerNode()*max(j.Spec.GetNodes(), 1)/8, 1)
	}
	return policy.Job{
		ID: j.ID, Priority: j.Spec.GetPriority(), EligibleMS: j.EligibleMS, Size: size,
		TimeLimitS: j.Spec.GetTimeLimitS(), User: j.User, Project: j.Spec.GetProject(),
	}
}

// changes gathers what happened to jobs since the last cycle.
type changes struct {
	all  bool
	jobs []uint64
}

func newChanges() *changes { return &changes{} }

func (c *changes) resync() { c.all = true }

func (c *changes) reset() { c.all, c.jobs = false, c.jobs[:0] }

func (c *changes) add(set *state.ChangeSet) {
	if set == nil {
		return
	}
	if set.Resync {
		c.all = true
		return
	}
	c.jobs = append(c.jobs, set.Jobs...)
	if len(c.jobs) > 1<<16 {
		slices.Sort(c.jobs)
		c.jobs = slices.Compact(c.jobs)
	}
}
