package leader

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	"github.com/fettle-hpc/fettle/plugins/host"
	"github.com/fettle-hpc/fettle/plugins/policy"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Explainer takes scores apart.
type Explainer interface {
	Explain(ctx context.Context, nowMS int64, jobs *policy.Columns) (host.Explanation, host.Source, error)
}

// configure gives the policy the settings of the cluster's policy when they are not those that it has. True means that it
// may order otherwise now.
func (s *Scheduler) configure(ctx context.Context, snap *state.Snapshot) bool {
	want := snap.Policy().GetScheduling()
	same := slices.EqualFunc(want, s.settings, func(a, b *fettlev1.KeyValue) bool {
		return a.GetKey() == b.GetKey() && a.GetValue() == b.GetValue()
	})
	// nil: nothing was given in this term; the settings of an earlier one may still be in the plugin.
	if s.cfg.Configure == nil || same && s.settings != nil {
		return false
	}
	if err := s.cfg.Configure(ctx, want); err != nil {
		s.cfg.Logger.Error("the scheduling policy keeps its settings", "err", err)
	}
	// What it refuses is not put to it again until it changes.
	s.settings = append([]*fettlev1.KeyValue{}, want...)
	return true
}

// account works out anew who has used how much, when that is due, and names the accounts that changed.
func (s *Scheduler) account(snap *state.Snapshot, now int64, anew bool) map[accountKey]bool {
	if s.accounts != nil && !anew && now < s.accounts.madeMS+accountsFor {
		return nil
	}
	old := s.accounts
	s.accounts = newAccounts(snap, now)
	if old == nil {
		return nil
	}
	return s.accounts.follow(old)
}

// preempts says whether any partition lets its jobs be preempted.
func preempts(snap *state.Snapshot) bool {
	return slices.ContainsFunc(snap.Policy().GetPartitions(), func(p *fettlev1.Partition) bool {
		return p.GetPreempt() > fettlev1.PreemptMode_PREEMPT_MODE_OFF
	})
}

// rank has the policy score a running job where that matters; false where it does not.
func (s *Scheduler) rank(j *state.Job, now int64, cols *policy.Columns) bool {
	if !s.preempting {
		return false
	}
	row := s.columnsOf(j)
	row.Running = true
	if start := j.Current().GetStartMs(); start > 0 && now > start {
		row.RunS += (now - start) / 1000
	}
	if s.cfg.Remaining != nil {
		row.RemainingS = max(s.cfg.Remaining(j.ID, j.Attempt), 0)
	}
	cols.Append(row)
	s.ranked[j.ID] = true
	return true
}

// Order says what the place of a job in the queue is made of. The job need not wait.
func (s *Scheduler) Order(ctx context.Context, j *state.Job) (host.Explanation, host.Source, error) {
	if s.cfg.Explain == nil {
		return host.Explanation{}, host.Source{}, errors.New("the scheduling policy does not say what its scores are made of")
	}
	var cols policy.Columns
	now := int64(0)
	if err := s.ask(ctx, func(_ *Feed, _ *state.Snapshot, nowMS int64) {
		cols.Append(s.columnsOf(j))
		now = nowMS
	}); err != nil {
		return host.Explanation{}, host.Source{}, err
	}
	return s.cfg.Explain.Explain(ctx, now, &cols)
}

// scoreOf is what the policy would say of a job that does not wait yet; the built-in policy with its usual weights when it
// does not say.
func (s *Scheduler) scoreOf(ctx context.Context, j *state.Job) (int64, error) {
	ex, _, err := s.Order(ctx, j)
	if err == nil && len(ex.Jobs) == 1 && len(ex.Jobs[0].Terms) > 0 {
		return ex.Jobs[0].Score, nil
	}
	var score int64
	err = s.ask(ctx, func(*Feed, *state.Snapshot, int64) { score = policy.Defaults().ScoreJob(s.columnsOf(j)) })
	return score, err
}

// predict gives jobs that are new a prediction of their start, now and then. It returns when to do so again.
func (s *Scheduler) predict(now int64) time.Duration {
	p, clock := s.predictions.Load(), s.cfg.Now()
	if len(p.fresh) == 0 {
		return idle
	}
	if pause := p.again.Sub(clock); pause > 0 {
		return pause
	}
	began := time.Now()
	starts := s.feed.Planner().Forecast(now, horizon.Milliseconds())
	p.made(starts, clock, time.Since(began))
	return idle
}

// Predicted is when a waiting job was first said to start, in Unix milliseconds; 0 when nothing was said.
func (s *Scheduler) Predicted(job uint64) int64 {
	p := s.predictions.Load()
	if p == nil {
		return 0
	}
	start, _ := p.of(job)
	return start.AtMS
}

// PredictionStats compares predicted starts with real ones, of all jobs first and then by partition; none on a controller
// that does not lead.
func (s *Scheduler) PredictionStats() []*fettlev1.PredictionStats {
	if p := s.predictions.Load(); p != nil {
		return p.stats()
	}
	return nil
}

// starts is the newest forecast, made anew when it is old for what it costs.
func (f *Feed) starts(nowMS int64) map[uint64]sched.Start {
	if f.forecast.starts == nil || nowMS >= f.forecast.untilMS {
		began := time.Now()
		starts := f.Planner().Forecast(nowMS, horizon.Milliseconds())
		f.forecast = forecast{untilMS: nowMS + min(forecastFor, forecastShare*time.Since(began)).Milliseconds(), starts: starts}
	}
	return f.forecast.starts
}
