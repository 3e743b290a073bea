// Package leader does what only the leader does beside serving nodes: it scores and plans, tells the log its term, sets
// hash checkpoints and retires old jobs. All of it is rebuilt from the job table when a term begins.
package leader

import (
	"context"
	"errors"
	"log/slog"
	"maps"
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

// SchedulerConfig is what a Scheduler needs; all fields are required but for those that say otherwise.
type SchedulerConfig struct {
	Store *state.Store
	Log   Log
	// Scorer orders waiting jobs, by the policy plugin or its built-in twin.
	Scorer host.Scorer
	// Connected returns a test for nodes that have a session with this leader.
	Connected func() func(node string) bool
	Logger    *slog.Logger
	Now       func() time.Time
	// Remaining says how many seconds an attempt that runs has to go by its own progress, below 0 when it does not say;
	// optional.
	Remaining func(job uint64, attempt uint32) int64
	// BusyOutside are the cards of a node, by UUID, that something outside of jobs uses; optional. NodeChanged tells that they
	// changed.
	BusyOutside func(node string) []string
	// Configure hands over the settings of the cluster's policy to whoever orders the queue; optional.
	Configure func(ctx context.Context, settings []*fettlev1.KeyValue) error
	// Explain takes scores apart; optional.
	Explain Explainer
	// Victims picks who makes room for jobs that ask for it; optional: without it the built-in policy does.
	Victims host.Selector
	// Options of the planner; the zero value is the usual.
	Options sched.Options
}

// Scheduler runs scheduling cycles while this controller leads.
type Scheduler struct {
	cfg   SchedulerConfig
	wake  chan struct{}
	waits atomic.Pointer[map[uint64]sched.Wait]
	// feed has the planner, which holds the jobs that may start; later are those that may at a known time. Held jobs are in neither.
	feed  *Feed
	later *sched.Queue
	// refused are the waiting jobs whose placement the log refused lately.
	refused map[uint64]refusal
	// scores are those of the jobs that may start; mu guards them against readers.
	scores map[uint64]int64
	mu     sync.RWMutex
	stats  stats
	// accounts is the use of the cluster as the policy is told of it, settings what the policy was last given.
	accounts *accounts
	settings []*fettlev1.KeyValue
	// preempting says that some partition lets jobs be preempted: then the policy ranks running jobs too. ranked are those it
	// was told of.
	preempting  bool
	ranked      map[uint64]bool
	predictions atomic.Pointer[predictions]
	asked       asked
	// questions are answered between cycles, until term is closed; nil when this controller does not lead.
	questions chan func(*Feed, *state.Snapshot, int64)
	term      atomic.Pointer[chan struct{}]
	// stirred are nodes of which something changed that is not in the log; stirMu guards them.
	stirMu  sync.Mutex
	stirred map[string]bool
	source  atomic.Pointer[host.Source]
}

// NewScheduler makes a scheduler that does nothing until Lead.
func NewScheduler(cfg SchedulerConfig) *Scheduler {
	return &Scheduler{
		cfg: cfg, wake: make(chan struct{}, 1), later: sched.NewQueue(), refused: map[uint64]refusal{}, scores: map[uint64]int64{}, ranked: map[uint64]bool{},
		questions: make(chan func(*Feed, *state.Snapshot, int64)), stirred: map[string]bool{},
	}
}

// Wake asks for a cycle soon: something outside the log changed, such as a node's session.
func (s *Scheduler) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// NodeChanged says that something of a node changed that is not in the log, such as what else runs on its cards.
func (s *Scheduler) NodeChanged(node string) {
	s.stirMu.Lock()
	s.stirred[node] = true
	s.stirMu.Unlock()
	s.Wake()
}

// stir returns the nodes that NodeChanged named since.
func (s *Scheduler) stir() []string {
	s.stirMu.Lock()
	defer s.stirMu.Unlock()
	nodes := slices.Sorted(maps.Keys(s.stirred))
	clear(s.stirred)
	return nodes
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
	score, ok := s.scores[job]
	return score, ok
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
	s.predictions.Store(newPredictions(s.cfg.Now().UnixMilli()))
	over := make(chan struct{})
	s.term.Store(&over)
	defer func() { s.term.Store(nil); close(over) }()
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
		case q := <-s.questions:
			if s.feed != nil {
				q(s.feed, s.cfg.Store.Snapshot(), s.cfg.Now().UnixMilli())
			} else {
				q(nil, nil, 0)
			}
			continue
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
	s.feed, s.later = nil, sched.NewQueue()
	s.asked = asked{}
	s.accounts, s.settings = nil, nil
	s.predictions.Store(nil)
	clear(s.scores)
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
	s.ripen(now, ch)
	scored := s.follow(ctx, snap, now, ch)
	s.feed.Planner().AskForVictims(now >= s.asked.untilMS)
	plan := s.feed.Planner().Plan(now)
	next := s.parked(now, plan.Waits)
	s.waits.Store(&plan.Waits)
	s.stats.add(time.Since(began))
	next = min(next, s.nextRipe(now), until(plan.WakeMS, now), s.predict(now))
	if s.feed.Planner().Jobs() > 0 {
		next = min(next, until(s.accounts.madeMS+accountsFor, now))
	}
	if !scored {
		next = min(next, retryAfterRejection)
	}
	next = min(next, s.expire(ctx, snap, now))
	placements := Placements(snap, &plan)
	entry := &raftlogv1.ApplyPlan{
		Term: term, Placements: placements, Preemptions: s.victims(ctx, snap, &plan, now), DropClaims: staleClaims(snap, now), Ledger: true,
	}
	if len(placements)+len(entry.Preemptions)+len(entry.DropClaims) == 0 {
		return next
	}
	res, err := s.cfg.Log.Propose(ctx, &raftlogv1.Entry{Op: &raftlogv1.Entry_Plan{Plan: entry}})
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			s.cfg.Logger.Warn("plan not committed", "placements", len(placements), "err", err)
		}
		return retryAfterRejection
	}
	if res.Err != nil {
		s.cfg.Logger.Warn("plan refused", "placements", len(placements), "err", res.Err.Error())
		return retryAfterRejection
	}
	// Their rows are read again whether or not their change sets have come by then.
	for _, o := range res.Placements {
		ch.again = append(ch.again, o.JobID)
		if o.Started != 0 {
			ch.again = append(ch.again, o.Started)
		}
	}
	s.notePreemptions(entry.Preemptions, res.Preemptions, ch)
	ch.again = append(ch.again, entry.DropClaims...)
	switch rejected, parked := s.note(res.Placements, now); {
	case rejected > 0 && rejected == len(placements) && parked == 0:
		return min(next, retryAfterRejection)
	case plan.More || rejected > 0:
		return 0
	}
	return next
}

// nextRipe is how long it takes until the next job that may start later may.
func (s *Scheduler) nextRipe(now int64) time.Duration {
	for id := range s.later.All() {
		at, _ := s.later.Score(id)
		return until(at, now)
	}
	return idle
}

// until is the time to a moment in Unix milliseconds; 0 is none.
func until(at, now int64) time.Duration {
	if at == 0 {
		return idle
	}
	return max(time.Duration(at-now)*time.Millisecond, time.Millisecond)
}

// maxExpire keeps one entry of deadlines small.
const maxExpire = 512

// expire has the log end the waiting jobs that can no longer meet their deadlines, and returns when the next one is due.
func (s *Scheduler) expire(ctx context.Context, snap *state.Snapshot, now int64) time.Duration {
	if ids := snap.DueDeadlines(now, maxExpire); len(ids) > 0 {
		res, err := s.cfg.Log.Propose(ctx, &raftlogv1.Entry{Op: &raftlogv1.Entry_Expire{Expire: &raftlogv1.ExpireJobs{Ids: ids}}})
		switch {
		case err != nil && !errors.Is(err, context.Canceled):
			s.cfg.Logger.Warn("deadlines not committed", "jobs", len(ids), "err", err)
		case err == nil && res.Err != nil:
			s.cfg.Logger.Warn("deadlines refused", "jobs", len(ids), "err", res.Err.Error())
		}
		return retryAfterRejection
	}
	if at, ok := snap.NextDeadlineMS(); ok {
		return until(at+1, now)
	}
	return idle
}

// follow brings the planner up to the snapshot; false when there was no answer to how jobs that changed score.
func (s *Scheduler) follow(ctx context.Context, snap *state.Snapshot, now int64, ch *changes) bool {
	connected := s.cfg.Connected()
	var cols policy.Columns
	var removed []uint64
	reset := ch.all || s.feed == nil
	if (reset || ch.policy) && s.configure(ctx, snap) {
		// Other weights: everybody's score may be another one.
		reset = true
	}
	if on := preempts(snap); on != s.preempting {
		s.preempting, reset = on, true
	}
	moved := s.account(snap, now, reset || ch.policy)
	if reset {
		s.feed, s.later = NewFeed(FeedConfig{Options: s.cfg.Options, Remaining: s.cfg.Remaining, BusyOutside: s.cfg.BusyOutside}), sched.NewQueue()
		clear(s.refused)
		s.feed.Reset(snap, connected, now)
		for j := range snap.Pending {
			if s.sort(j, now) {
				cols.Append(s.columnsOf(j))
			}
		}
		clear(s.ranked)
		for j := range snap.Active {
			s.rank(j, now, &cols)
		}
	} else {
		if len(moved) > 0 {
			for j := range snap.Pending {
				if moved[accountKey{j.Account(), j.User}] {
					ch.again = append(ch.again, j.ID)
				}
			}
			for j := range snap.Active {
				if moved[accountKey{j.Account(), j.User}] {
					ch.again = append(ch.again, j.ID)
				}
			}
		}
		if ch.policy {
			s.feed.Policy(snap)
		}
		s.feed.Nodes(snap, append(ch.nodes, s.stir()...), connected)
		for _, id := range ch.jobs {
			delete(s.refused, id)
		}
		for _, id := range slices.Compact(slices.Sorted(slices.Values(append(ch.jobs, ch.again...)))) {
			j := snap.Job(id)
			switch {
			case j != nil && j.State == fettlev1.JobState_JOB_STATE_PENDING && s.sort(j, now):
				cols.Append(s.columnsOf(j))
				continue
			case j != nil && j.State == fettlev1.JobState_JOB_STATE_PENDING:
				s.feed.Hold(id)
			case j != nil && j.Active():
				s.later.Delete(id)
				s.predictions.Load().started(j)
				s.feed.Active(snap, j, now)
				if s.rank(j, now, &cols) {
					s.mu.Lock()
					delete(s.scores, id)
					s.mu.Unlock()
					continue
				}
			default:
				s.later.Delete(id)
				s.predictions.Load().gone(id)
				s.feed.Gone(id)
			}
			if _, queued := s.scores[id]; queued || s.ranked[id] {
				removed = append(removed, id)
				delete(s.ranked, id)
			}
		}
	}
	ch.reset()
	scored := true
	if reset || cols.Len() > 0 || len(removed) > 0 {
		scored = s.score(ctx, snap, now, host.Delta{Full: reset, NowMS: now, Changed: cols, Removed: removed})
		if !scored {
			ch.resync()
		}
	}
	s.feed.Tick(snap, now)
	return scored
}

// score has the policy order what changed.
func (s *Scheduler) score(ctx context.Context, snap *state.Snapshot, now int64, d host.Delta) bool {
	s.mu.Lock()
	if d.Full {
		clear(s.scores)
	}
	for _, id := range d.Removed {
		delete(s.scores, id)
	}
	s.mu.Unlock()
	scores, source, err := s.cfg.Scorer.Score(ctx, d)
	if err != nil {
		// The next cycle hands everything over again.
		if ctx.Err() == nil {
			s.cfg.Logger.Error("queue not scored", "changed", d.Changed.Len(), "removed", len(d.Removed), "err", err)
		}
		return false
	}
	if old := s.source.Swap(&source); old == nil || old.Builtin != source.Builtin {
		s.cfg.Logger.Info("scheduling policy in use", "policy", source.String())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, id := range scores.ID {
		switch j := snap.Job(id); {
		case j == nil:
		case j.State == fettlev1.JobState_JOB_STATE_PENDING:
			if j.Spec.GetPreempt() {
				s.asked.untilMS = 0
			}
			s.scores[id] = scores.Score[i]
			s.predictions.Load().waits(id)
			s.feed.Pending(snap, j, scores.Score[i])
		case j.Active():
			s.feed.Rank(snap, j, scores.Score[i], now)
		}
	}
	return true
}

// sort puts a waiting job where it belongs for now; true means among those that may start.
func (s *Scheduler) sort(j *state.Job, now int64) bool {
	if !j.Startable() {
		s.later.Delete(j.ID)
		return false
	}
	if at := max(j.Spec.GetBeginMs(), j.RetryAtMS, s.refused[j.ID].untilMS); at > now {
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
		ch.again = append(ch.again, id)
	}
}

// columnsOf is what the policy is told of a job.
func (s *Scheduler) columnsOf(j *state.Job) policy.Job {
	size := j.Spec.GetGpusPerNode().GetCount() * max(j.Spec.GetNodes(), 1)
	if total := j.Spec.GetGpusTotal().GetCount(); total > 0 {
		size = total
	}
	if size == 0 {
		size = max(j.Spec.GetCpusPerNode()*max(j.Spec.GetNodes(), 1)/8, 1)
	}
	var ranMS int64
	for _, a := range j.Attempts {
		if a.GetStartMs() > 0 && a.GetEndMs() > a.GetStartMs() {
			ranMS += a.GetEndMs() - a.GetStartMs()
		}
	}
	return policy.Job{
		RunS: ranMS / 1000, Account: s.accounts.of(j),
		ID: j.ID, Priority: j.Spec.GetPriority(), EligibleMS: j.EligibleMS, Size: size,
		TimeLimitS: j.Spec.GetTimeLimitS(), User: j.User, Project: j.Account(),
		Partition: j.Spec.GetPartition(), EstimateS: j.Spec.GetEstimatedRunS(),
	}
}
