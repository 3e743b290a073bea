package leader

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/locallog"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	"github.com/fettle-hpc/fettle/plugins/host"
	"github.com/fettle-hpc/fettle/plugins/policy"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a scheduler over a local log, in term 1, with one node of 4 GPUs.
type rig struct {
	t     *testing.T
	log   *locallog.Log
	store *state.Store
	sched *Scheduler
}

func newRig(t *testing.T) *rig {
	t.Helper()
	log := locallog.New("t")
	store := log.Store()
	r := &rig{t: t, store: store, log: log}
	scorer, err := host.NewScheduling(t.Context(), host.SchedulingConfig{Builtin: policy.Defaults()})
	if err != nil {
		t.Fatal(err)
	}
	r.sched = NewScheduler(SchedulerConfig{
		Store: store, Log: r.log, Scorer: scorer, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
		Connected: func() func(string) bool { return func(string) bool { return true } },
		Explain:   scorer,
		Configure: func(ctx context.Context, settings []*fettlev1.KeyValue) error {
			set := map[string]string{}
			for _, kv := range settings {
				set[kv.GetKey()] = kv.GetValue()
			}
			params, err := policy.ParseSettings(set)
			if err != nil {
				return err
			}
			return scorer.Configure(ctx, set, params)
		},
	})
	r.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_NewTerm{NewTerm: &raftlogv1.NewTerm{Term: 1, LeaderId: "a"}}})
	inv := &fettlev1.Inventory{Cpus: 64, MemoryMib: 1 << 20}
	for i := range 4 {
		inv.Gpus = append(inv.Gpus, &fettlev1.GPU{Index: uint32(i), Uuid: fmt.Sprintf("GPU-%d", i), Type: "h100"})
	}
	r.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_NodeHello{NodeHello: &raftlogv1.NodeHello{Node: "n1", BootId: "b", Inventory: inv}}})
	return r
}

func (r *rig) must(e *raftlogv1.Entry) *fsm.Result {
	r.t.Helper()
	res, err := r.log.Propose(r.t.Context(), e)
	if err != nil || res.Err != nil {
		r.t.Fatalf("propose: %v %v", err, res)
	}
	return res
}

func (r *rig) submit(spec *fettlev1.JobSpec) uint64 {
	r.t.Helper()
	return r.submitAs("ada", 1000, spec)
}

func (r *rig) submitAs(user string, uid uint32, spec *fettlev1.JobSpec) uint64 {
	r.t.Helper()
	if spec.GpusPerNode == nil {
		spec.GpusPerNode = &fettlev1.GPURequest{Count: 4}
	}
	spec.Method, spec.Script, spec.WorkDir = "script", []byte("#!/bin/true\n"), "/tmp"
	res := r.must(&raftlogv1.Entry{Actor: &raftlogv1.Actor{User: user, Uid: uid}, Op: &raftlogv1.Entry_Submit{Submit: &raftlogv1.SubmitJobs{
		Jobs: []*fettlev1.JobSubmission{{RequestId: fmt.Sprint(r.store.Snapshot().Index()), Spec: spec}},
	}}})
	if e := res.Submit[0].Err; e != nil {
		r.t.Fatal(e)
	}
	return res.Submit[0].JobID
}

// end reports the job's attempt as ended with exit code 0.
func (r *rig) end(id uint64) {
	r.t.Helper()
	at := r.store.Snapshot().Job(id).Current()
	r.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: []*fettlev1.AttemptReport{{
		Key:  &fettlev1.AttemptKey{JobId: id, Attempt: at.GetNumber(), Fence: at.GetFence()},
		Kind: fettlev1.ReportKind_REPORT_KIND_ENDED, Exit: &fettlev1.Exit{}, Node: "n1",
	}}}}})
}

func (r *rig) active() []uint64 {
	synctest.Wait()
	var ids []uint64
	for j := range r.store.Snapshot().Active {
		ids = append(ids, j.ID)
	}
	return ids
}

func (r *rig) lead() (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan struct{})
	go func() { r.sched.Lead(ctx, 1); close(done) }()
	return func() { cancel(); <-done }
}

// advance lets virtual time pass.
func advance(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func wantActive(t *testing.T, r *rig, want ...uint64) {
	t.Helper()
	advance(50 * time.Millisecond)
	if got := r.active(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("active jobs %v, want %v (waits: %v)", got, want, r.sched.Waits())
	}
}

func TestStartsByPriorityThenAge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		routine, urgent, older := r.submit(&fettlev1.JobSpec{Priority: 5}), r.submit(&fettlev1.JobSpec{Priority: 1}), r.submit(&fettlev1.JobSpec{Priority: 5})
		defer r.lead()()
		wantActive(t, r, urgent)
		r.end(urgent)
		wantActive(t, r, routine)
		r.end(routine)
		wantActive(t, r, older)
	})
}

func TestAgeingBeatsPriorityInTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		running := r.submit(&fettlev1.JobSpec{Priority: 1})
		defer r.lead()()
		wantActive(t, r, running)
		old := r.submit(&fettlev1.JobSpec{Priority: 10})
		// More than nine levels are worth.
		advance(109 * time.Hour)
		young := r.submit(&fettlev1.JobSpec{Priority: 1})
		r.end(running)
		wantActive(t, r, old)
		r.end(old)
		wantActive(t, r, young)
	})
}

func TestHeldAndLaterJobs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		one := &fettlev1.GPURequest{Count: 1}
		held := r.submit(&fettlev1.JobSpec{Hold: true, GpusPerNode: one})
		later := r.submit(&fettlev1.JobSpec{BeginMs: time.Now().Add(time.Hour).UnixMilli(), GpusPerNode: one})
		defer r.lead()()
		wantActive(t, r)
		r.must(&raftlogv1.Entry{Actor: &raftlogv1.Actor{User: "ada", Uid: 1000}, Op: &raftlogv1.Entry_Release{Release: &raftlogv1.ReleaseJobs{Ids: []uint64{held}}}})
		wantActive(t, r, held)
		advance(time.Hour)
		wantActive(t, r, held, later)
	})
}

func TestRetryWaitsForItsBackoff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := r.submit(&fettlev1.JobSpec{})
		defer r.lead()()
		wantActive(t, r, id)
		at := r.store.Snapshot().Job(id).Current()
		r.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: []*fettlev1.AttemptReport{{
			Key:  &fettlev1.AttemptKey{JobId: id, Attempt: at.GetNumber(), Fence: at.GetFence()},
			Kind: fettlev1.ReportKind_REPORT_KIND_ENDED, Exit: &fettlev1.Exit{Code: 1, Class: fettlev1.ExitClass_EXIT_CLASS_TRANSIENT}, Node: "n1",
		}}}}})
		wantActive(t, r)
		advance(time.Minute)
		wantActive(t, r, id)
		if n := r.store.Snapshot().Job(id).Attempt; n != 2 {
			t.Errorf("attempt %d, want 2", n)
		}
	})
}

func TestPlanThatIsNotCommittedIsMadeAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		failures := 3
		r.log.OnPropose(func(e *raftlogv1.Entry) (bool, error) {
			if e.GetPlan() != nil && failures > 0 {
				failures--
				return false, fmt.Errorf("no quorum")
			}
			return false, nil
		})
		id := r.submit(&fettlev1.JobSpec{})
		defer r.lead()()
		wantActive(t, r)
		advance(5 * time.Second)
		wantActive(t, r, id)
	})
}

func TestPlanOfAnotherTermIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := r.submit(&fettlev1.JobSpec{})
		r.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_NewTerm{NewTerm: &raftlogv1.NewTerm{Term: 2, LeaderId: "b"}}})
		defer r.lead()()
		advance(10 * time.Second)
		if got := r.active(); len(got) != 0 {
			t.Errorf("job %d was started by a leader of an old term", id)
		}
	})
}

func TestKeeperPurgesOldJobsOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		stop := r.lead()
		old := r.submit(&fettlev1.JobSpec{})
		wantActive(t, r, old)
		r.end(old)
		waiting := r.submit(&fettlev1.JobSpec{Hold: true})
		advance(48 * time.Hour)
		young := r.submit(&fettlev1.JobSpec{})
		wantActive(t, r, young)
		r.end(young)
		stop()
		k := &Keeper{
			Store: r.store, Log: r.log, Retention: Retention{MaxAge: 24 * time.Hour}, CheckpointEvery: time.Minute,
			Checkpoint: func() (uint64, []byte, bool) { return 0, nil, false }, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
		}
		ctx, cancel := context.WithCancel(t.Context())
		go k.Lead(ctx)
		advance(2 * time.Minute)
		cancel()
		synctest.Wait()
		snap := r.store.Snapshot()
		if snap.Job(old) != nil || snap.Job(waiting) == nil || snap.Job(young) == nil {
			t.Errorf("kept old %v, waiting %v, young %v; want only the last two", snap.Job(old) != nil, snap.Job(waiting) != nil, snap.Job(young) != nil)
		}
	})
}

func TestClockGoesOnFromTheLogsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c Clock
		ahead := time.Now().Add(time.Hour).UnixMilli()
		c.Begin(ahead)
		advance(time.Minute)
		if got := c.Now().UnixMilli(); got != ahead+time.Minute.Milliseconds() {
			t.Errorf("clock is %d ms off", got-ahead-time.Minute.Milliseconds())
		}
		c.Begin(0)
		if got := c.Now(); !got.Equal(time.Now()) {
			t.Errorf("a log that is behind moved the clock to %v", got)
		}
	})
}

// A clock that is set back in the middle of a term goes on at its own pace; one that is set forward is believed.
func TestClockThatIsSet(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	wall, pace := start, start
	c := Clock{read: func() (time.Time, time.Time) { return wall, pace }}
	c.Begin(start.Add(-time.Hour).UnixMilli())
	pass := func(d time.Duration) { wall, pace = wall.Add(d), pace.Add(d) }
	want := func(what string, at time.Time) {
		t.Helper()
		if got := c.Now(); !got.Equal(at) {
			t.Errorf("%s: %v, want %v", what, got, at)
		}
	}
	want("at first", start)
	pass(time.Minute)
	wall = wall.Add(-10 * 365 * 24 * time.Hour)
	want("set back", start.Add(time.Minute))
	pass(time.Minute)
	want("a minute later", start.Add(2*time.Minute))
	wall = start.Add(time.Hour)
	want("set forward", start.Add(time.Hour))
	c.Begin(0)
	wall = start
	want("in the next term", start)
}

// refusePlacements has the log refuse a job's placements as long as it says so.
func refusePlacements(r *rig, id *atomic.Uint64) *atomic.Int64 {
	var plans atomic.Int64
	r.log.OnPropose(func(e *raftlogv1.Entry) (bool, error) {
		for _, p := range e.GetPlan().GetPlacements() {
			if p.GetJobId() == id.Load() {
				plans.Add(1)
				p.Nodes[0].Cpus = 7 // not what the job asks for
			}
		}
		return false, nil
	})
	return &plans
}

// A job whose placement the log refuses for ever neither spins nor keeps the others waiting.
func TestRefusedPlacementIsParked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var bad atomic.Uint64
		plans := refusePlacements(r, &bad)
		first, second := r.submit(&fettlev1.JobSpec{Priority: 1}), r.submit(&fettlev1.JobSpec{Priority: 5})
		bad.Store(first)
		defer r.lead()()
		advance(1500 * time.Millisecond)
		wantActive(t, r, second)
		if w := r.sched.Waits()[first]; w.Reason != fettlev1.Reason_REASON_NO_SUITABLE_NODE || w.Detail == "" {
			t.Errorf("the refused job waits for %v", w)
		}
		r.end(second)
		advance(time.Hour)
		if n := plans.Load(); n < 20 || n > 120 {
			t.Errorf("it was tried %d times in an hour", n)
		}
		// Once the log takes it, it starts.
		bad.Store(0)
		advance(2 * time.Minute)
		wantActive(t, r, first)
	})
}

func TestChangedJobIsTriedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var bad atomic.Uint64
		refusePlacements(r, &bad)
		id := r.submit(&fettlev1.JobSpec{})
		bad.Store(id)
		defer r.lead()()
		advance(time.Hour)
		wantActive(t, r)
		bad.Store(0)
		prio := uint32(1)
		r.must(&raftlogv1.Entry{Actor: &raftlogv1.Actor{User: "ada", Uid: 1000}, Op: &raftlogv1.Entry_UpdateJob{UpdateJob: &fettlev1.UpdateJobRequest{JobId: id, Priority: &prio}}})
		wantActive(t, r, id)
	})
}

// brokenScorer fails until told otherwise.
type brokenScorer struct {
	host.Scorer
	broken atomic.Bool
}

func (s *brokenScorer) Score(ctx context.Context, d host.Delta) (host.Scores, host.Source, error) {
	if s.broken.Load() {
		return host.Scores{}, host.Source{}, fmt.Errorf("delta: it does not fit")
	}
	return s.Scorer.Score(ctx, d)
}

func TestScorerThatFailsIsAskedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		scorer := &brokenScorer{Scorer: r.sched.cfg.Scorer}
		scorer.broken.Store(true)
		r.sched.cfg.Scorer = scorer
		id := r.submit(&fettlev1.JobSpec{})
		defer r.lead()()
		wantActive(t, r)
		scorer.broken.Store(false)
		advance(5 * time.Second) // nothing else happens that would wake it
		wantActive(t, r, id)
	})
}

func TestNothingIsShownAfterTheTerm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		running, waiting := r.submit(&fettlev1.JobSpec{}), r.submit(&fettlev1.JobSpec{})
		stop := r.lead()
		wantActive(t, r, running)
		if _, ok := r.sched.Score(waiting); !ok || len(r.sched.Waits()) == 0 {
			t.Error("the leader does not know its queue")
		}
		stop()
		if _, ok := r.sched.Score(waiting); ok || r.sched.Waits() != nil {
			t.Error("a former leader shows the queue as it was")
		}
	})
}

// finished makes a job that has run to its end.
func (r *rig) finished() uint64 {
	r.t.Helper()
	id := r.submit(&fettlev1.JobSpec{Hold: true})
	r.must(&raftlogv1.Entry{Actor: &raftlogv1.Actor{User: "ada", Uid: 1000}, Op: &raftlogv1.Entry_Cancel{Cancel: &raftlogv1.CancelJobs{Ids: []uint64{id}}}})
	return id
}

func TestKeeperKeepsUpWithWhatEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		old := r.submit(&fettlev1.JobSpec{Hold: true})
		for range 3 * maxPurge {
			r.finished()
		}
		k := &Keeper{
			Store: r.store, Log: r.log, Retention: Retention{MaxJobs: 10}, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
			Checkpoint: func() (uint64, []byte, bool) { return 0, nil, false },
		}
		k.purge(t.Context())
		if n := r.store.Snapshot().Counts().Finished(); n != 10 {
			t.Errorf("%d finished jobs are left after one round, want 10", n)
		}
		// A job with a low number that has only just ended hides none of the older ends behind it.
		k.Retention = Retention{MaxAge: time.Hour}
		advance(2 * time.Hour)
		r.must(&raftlogv1.Entry{Actor: &raftlogv1.Actor{User: "ada", Uid: 1000}, Op: &raftlogv1.Entry_Cancel{Cancel: &raftlogv1.CancelJobs{Ids: []uint64{old}}}})
		k.purge(t.Context())
		if n := r.store.Snapshot().Counts().Finished(); n != 1 || r.store.Snapshot().Job(old) == nil {
			t.Errorf("%d finished jobs are left, want the one that has just ended", n)
		}
	})
}

func TestKeeperSetsCheckpoints(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var set []uint64
		r.log.OnPropose(func(e *raftlogv1.Entry) (bool, error) {
			if c := e.GetHashCheckpoint(); c != nil {
				set = append(set, c.GetIndex())
			}
			return false, nil
		})
		k := &Keeper{
			Store: r.store, Log: r.log, Logger: slog.New(slog.DiscardHandler), Now: time.Now, CheckpointEvery: time.Minute,
			Checkpoint: func() (uint64, []byte, bool) {
				snap := r.store.Snapshot()
				h := snap.Hash()
				return snap.Index(), h[:], true
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { k.Lead(ctx); close(done) }()
		advance(3*time.Minute + time.Second)
		cancel()
		<-done
		if len(set) != 3 {
			t.Errorf("checkpoints at %v, want three", set)
		}
	})
}

func TestAnnounce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	self := &raftlogv1.ServerChange{ServerId: "b.1", Name: "b", ClientAddr: "127.0.0.1:7100", RaftAddr: "127.0.0.1:7101"}
	if err := Announce(t.Context(), r.log, self, 3); err != nil {
		t.Fatal(err)
	}
	snap := r.store.Snapshot()
	if snap.Term() != 3 || snap.Leader().Name != "b" || len(snap.Servers()) != 1 || snap.Servers()[0].GetClientAddr() != "127.0.0.1:7100" {
		t.Errorf("term %d, leader %+v, servers %v", snap.Term(), snap.Leader(), snap.Servers())
	}
	if err := Announce(t.Context(), r.log, self, 2); err == nil {
		t.Error("a term that is over was announced")
	}
	r.log.OnPropose(func(*raftlogv1.Entry) (bool, error) { return false, fmt.Errorf("no quorum") })
	if err := Announce(t.Context(), r.log, self, 4); err == nil || err.Error() != "announce term 4: no quorum" {
		t.Errorf("answer %v", err)
	}
}
