package leader

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	"github.com/fettle-hpc/fettle/plugins/host"
	"github.com/fettle-hpc/fettle/plugins/policy"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// localLog applies entries to a state machine at once, as a log of one member would.
type localLog struct {
	mu    sync.Mutex
	index uint64
	fsm   *fsm.FSM
	// refuse, when set, answers instead.
	refuse func(*raftlogv1.Entry) error
}

func (l *localLog) Propose(_ context.Context, e *raftlogv1.Entry) (*fsm.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse != nil {
		if err := l.refuse(e); err != nil {
			return nil, err
		}
	}
	e.NowMs = time.Now().UnixMilli()
	if e.Actor == nil {
		e.Actor = &raftlogv1.Actor{System: true}
	}
	data, err := fsm.Encode(e)
	if err != nil {
		return nil, err
	}
	l.index++
	return l.fsm.Apply(&raft.Log{Index: l.index, Type: raft.LogCommand, Data: data}).(*fsm.Result), nil
}

// rig is a scheduler over a local log, in term 1, with one node of 4 GPUs.
type rig struct {
	t     *testing.T
	log   *localLog
	store *state.Store
	sched *Scheduler
}

func newRig(t *testing.T) *rig {
	t.Helper()
	store := state.New("t")
	r := &rig{t: t, store: store, log: &localLog{fsm: fsm.New(store, fsm.Config{})}}
	scorer, err := host.NewScheduling(t.Context(), host.SchedulingConfig{Builtin: policy.Defaults()})
	if err != nil {
		t.Fatal(err)
	}
	r.sched = NewScheduler(SchedulerConfig{
		Store: store, Log: r.log, Scorer: scorer, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
		Connected: func() func(string) bool { return func(string) bool { return true } },
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
	if spec.GpusPerNode == nil {
		spec.GpusPerNode = &fettlev1.GPURequest{Count: 4}
	}
	spec.Method, spec.Script, spec.WorkDir = "script", []byte("#!/bin/true\n"), "/tmp"
	res := r.must(&raftlogv1.Entry{Actor: &raftlogv1.Actor{User: "ada", Uid: 1000}, Op: &raftlogv1.Entry_Submit{Submit: &raftlogv1.SubmitJobs{
		Jobs: []*fettlev1.JobSubmission{{RequestId: fmt.Sprint(r.log.index), Spec: spec}},
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
		advance(19 * time.Hour)
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
		r.log.refuse = func(e *raftlogv1.Entry) error {
			if e.GetPlan() != nil && failures > 0 {
				failures--
				return fmt.Errorf("no quorum")
			}
			return nil
		}
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
