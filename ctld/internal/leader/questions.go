package leader

import (
	"context"
	"errors"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// ErrNotLeading is the answer to questions about the plan on a controller that does not make one.
var ErrNotLeading = errors.New("this controller does not schedule")

// ask has the scheduling loop answer a question between two cycles.
func (s *Scheduler) ask(ctx context.Context, question func(f *Feed, snap *state.Snapshot, nowMS int64)) error {
	term := s.term.Load()
	if term == nil {
		return ErrNotLeading
	}
	err, done := error(nil), make(chan struct{})
	q := func(f *Feed, snap *state.Snapshot, nowMS int64) {
		defer close(done)
		if f == nil {
			err = ErrNotLeading
			return
		}
		question(f, snap, nowMS)
	}
	select {
	case s.questions <- q:
		<-done
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-*term:
		return ErrNotLeading
	}
}

// Position is a job's place among those that wait, from 1: of all, of its partition, of its project.
type Position struct{ All, Partition, Project int }

// Why says why a job waits that may start, and what would start it now. It says nothing of a job that may not: its row does.
func (s *Scheduler) Why(ctx context.Context, job uint64) (why sched.Why, at Position, err error) {
	err = s.ask(ctx, func(f *Feed, _ *state.Snapshot, nowMS int64) {
		p := f.Planner()
		if _, ok := p.Job(job); !ok {
			return
		}
		why = p.Why(job, nowMS)
		a, b, c := p.Position(job)
		at = Position{a + 1, b + 1, c + 1}
	})
	return why, at, err
}

// A forecast serves for a while: forecastShare times as long as it took, at most forecastFor.
const (
	forecastFor   = 2 * time.Second
	forecastShare = 20
)

// horizon is how far forecasts look ahead.
const horizon = 30 * 24 * time.Hour

// forecast is the newest one.
type forecast struct {
	untilMS int64
	starts  map[uint64]sched.Start
}

// Forecast says when the jobs that may start probably do. The answer is shared and not to be changed.
func (s *Scheduler) Forecast(ctx context.Context) (starts map[uint64]sched.Start, err error) {
	err = s.ask(ctx, func(f *Feed, _ *state.Snapshot, nowMS int64) {
		starts = f.starts(nowMS)
	})
	return starts, err
}

// Candidate is a job that might be submitted.
type Candidate struct {
	Spec *fettlev1.JobSpec
	User string
	// Project that it would count for.
	Project string
}

// newest is a number that no job has.
const newest = uint64(1)<<59 - 1

// Predict says when a job would probably start if it were submitted now; ok is false when not within the horizon.
func (s *Scheduler) Predict(ctx context.Context, c Candidate) (start sched.Start, ok bool, err error) {
	submitted := s.cfg.Now().UnixMilli()
	row := &state.Job{ID: newest, Spec: c.Spec, User: c.User, Project: c.Project, SubmitMS: submitted, EligibleMS: submitted}
	row.Array = state.NewArray(c.Spec.GetArray())
	score, err := s.scoreOf(ctx, row)
	if err != nil {
		return sched.Start{}, false, err
	}
	err = s.ask(ctx, func(f *Feed, snap *state.Snapshot, nowMS int64) {
		p := f.Planner()
		p.SetJob(sched.JobOf(snap, row, score, sched.NeedsOf(c.Spec)))
		defer p.Remove(newest)
		start, ok = p.Forecast(nowMS, horizon.Milliseconds())[newest]
	})
	return start, ok, err
}
