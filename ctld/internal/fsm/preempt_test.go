package fsm

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

const (
	modeRequeue = fettlev1.PreemptMode_PREEMPT_MODE_REQUEUE
	modeCancel  = fettlev1.PreemptMode_PREEMPT_MODE_CANCEL
	day         = 86_400_000
)

// preemptPolicy has one partition of that mode.
func preemptPolicy(mode fettlev1.PreemptMode, change func(*fettlev1.Partition)) *raftlogv1.Entry {
	p := &fettlev1.Partition{Name: "gpu", IsDefault: true, Preempt: mode, PreemptGraceS: 90}
	if change != nil {
		change(p)
	}
	return policyOp(&fettlev1.ClusterPolicy{Partitions: []*fettlev1.Partition{p}})
}

func ranked(s *fettlev1.JobSpec, priority uint32) *fettlev1.JobSpec {
	s.Priority = priority
	return s
}

func urgent(gpus uint32) *fettlev1.JobSpec {
	s := ranked(script(1, 1, gpus), 1)
	s.Preempt = true
	return s
}

// running submits a job of bob's, starts it on these GPUs of n1 and lets it run for ms.
func (r *rig) running(s *fettlev1.JobSpec, ms int64, gpus ...int) (uint64, *fettlev1.AttemptKey) {
	r.t.Helper()
	id := r.submit(s)
	key := r.dispatch(id, part(s, "n1", gpus...))
	r.started(key, "n1")
	r.now += ms
	return id, key
}

func (r *rig) victim(id uint64) *raftlogv1.Victim {
	r.t.Helper()
	j := r.job(id)
	p := r.snap().Partition(j.Spec.GetPartition())
	return &raftlogv1.Victim{JobId: id, Attempt: j.Attempt, Mode: model.PreemptModeOf(p.Partition), LostGpuS: 60}
}

func (r *rig) preempt(beneficiary uint64, nodes []*fettlev1.NodeAllocation, victims ...uint64) *model.FieldError {
	r.t.Helper()
	p := &raftlogv1.Preemption{Beneficiary: beneficiary, Nodes: nodes, Reason: "least lost work"}
	for _, v := range victims {
		p.Victims = append(p.Victims, r.victim(v))
	}
	e := r.planOp()
	e.GetPlan().Preemptions = []*raftlogv1.Preemption{p}
	return r.ok(e).Preemptions[0].Err
}

func allocs(parts ...*fettlev1.NodeAllocation) []*fettlev1.NodeAllocation { return parts }

// A preempted job is ended with the partition's grace, keeps its place in the queue, and the room that it makes belongs to
// the job that it was ended for until that starts.
func TestPreemption(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	r.ok(preemptPolicy(modeRequeue, nil))
	old, key := r.running(ranked(script(1, 1, 3), 9), 2*3_600_000, 0, 1, 2)
	eligible := r.job(old).EligibleMS
	high := r.submit(urgent(4))
	other := r.submit(ranked(script(1, 1, 1), 1))
	at := allocs(part(urgent(4), "n1", 0, 1, 2, 3))
	if err := r.preempt(high, at, old); err != nil {
		t.Fatal(err)
	}
	v := r.job(old)
	if v.State != model.Completing || v.Reason != fettlev1.Reason_REASON_PREEMPTED || v.PreemptedCount != 1 || v.StopGraceMS() != 90_000 {
		t.Errorf("the victim is %s for %s, preempted %d times, with %d ms", model.StateName(v.State), v.Reason, v.PreemptedCount, v.StopGraceMS())
	}
	if a := v.Current(); a.GetPreemptedBy() != high || a.GetLostGpuS() != 60 {
		t.Errorf("its attempt: %v", a)
	}
	if c := r.job(high).Claim; c.GetIndex() != r.index || len(c.GetVictims()) != 1 {
		t.Errorf("claim %v", c)
	}
	// A free GPU of the claim goes to nobody else, before and after the victim is gone.
	steal := func(gpu int) PlacementOutcome {
		return r.ok(r.planOp(&raftlogv1.Placement{JobId: other, Attempt: 1, Nodes: allocs(part(script(1, 1, 1), "n1", gpu))})).Placements[0]
	}
	wantRefusal(t, steal(3).Err, model.Conflict, `gpus: "GPU-n1-3" on n1 is kept for job 2`)
	r.now += 60_000
	r.ended(key, "n1", &fettlev1.Exit{Code: -1, Signal: 15})
	v = r.job(old)
	if v.State != model.Pending || v.EligibleMS != eligible || v.StopGraceS != 0 || v.RequeueRequested || v.EndReason != 0 {
		t.Errorf("after its end the victim is %s, eligible %d (was %d): %+v", model.StateName(v.State), v.EligibleMS, eligible, v)
	}
	if a := v.Attempts[0]; a.GetOutcome() != model.Preempted || a.GetReason() != fettlev1.Reason_REASON_PREEMPTED || !strings.HasPrefix(a.GetDetail(), "for job 2: least") {
		t.Errorf("its attempt ended as %v", a)
	}
	wantRefusal(t, steal(0).Err, model.Conflict, `gpus: "GPU-n1-0" on n1 is kept for job 2`)
	back := r.ok(r.planOp(&raftlogv1.Placement{JobId: old, Attempt: 2, Nodes: allocs(part(script(1, 1, 3), "n1", 0, 1, 2))})).Placements[0]
	if back.Err == nil {
		t.Error("the victim took the room back")
	}
	key = r.dispatch(high, at...)
	if r.job(high).Claim != nil {
		t.Error("the claim outlives the start")
	}
	r.started(key, "n1")
	r.ended(key, "n1", &fettlev1.Exit{})
	if out := steal(3); out.Err != nil {
		t.Errorf("after all that: %v", out.Err)
	}
}

// Mode cancel ends a victim for good, whether it may be requeued or not; a cancel by its owner goes before.
func TestPreemptionThatCancels(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	r.ok(preemptPolicy(modeCancel, nil))
	s := ranked(script(1, 1, 2), 9)
	s.NoRequeue = true
	a, keyA := r.running(s, 3_600_000, 0, 1)
	b, keyB := r.running(ranked(script(1, 1, 2), 9), 3_600_000, 2, 3)
	high := r.submit(urgent(4))
	if err := r.preempt(high, allocs(part(urgent(4), "n1", 0, 1, 2, 3)), a, b); err != nil {
		t.Fatal(err)
	}
	r.ok(cancelOp(b))
	r.ended(keyA, "n1", &fettlev1.Exit{})
	r.ended(keyB, "n1", &fettlev1.Exit{Code: -1, Signal: 9})
	r.wantState(a, model.Preempted)
	r.wantState(b, model.Cancelled)
	if j := r.job(a); j.ExitCode == 0 || j.Reason != fettlev1.Reason_REASON_PREEMPTED {
		t.Errorf("it ended with %d, %s", j.ExitCode, j.Reason)
	}
	if j := r.job(b); j.Reason != fettlev1.Reason_REASON_CANCELLED_BY_USER {
		t.Errorf("the cancelled one ended for %s", j.Reason)
	}
}

// Without both permissions, that of the partition and the wish of the job that waits, a running job is left alone: nothing
// of a week-old experiment is touched.
func TestNoPreemptionWithoutBothPermissions(t *testing.T) {
	t.Parallel()
	whole := allocs(part(urgent(4), "n1", 0, 1, 2, 3))
	for name, c := range map[string]struct {
		policy func(*fettlev1.Partition)
		mode   fettlev1.PreemptMode
		victim func(*fettlev1.JobSpec)
		wish   func(*fettlev1.JobSpec)
		name   func(*raftlogv1.Victim)
		nodes  []*fettlev1.NodeAllocation
		runMS  int64
		want   string
	}{
		"the partition says nothing": {want: "victim: partition gpu leaves its running jobs alone"},
		"the partition says off":     {mode: fettlev1.PreemptMode_PREEMPT_MODE_OFF, want: "victim: partition gpu leaves its running jobs alone"},
		"the job did not ask":        {mode: modeRequeue, wish: func(s *fettlev1.JobSpec) { s.Preempt = false }, want: "job: 2 did not ask to preempt"},
		"too little above":           {mode: modeRequeue, policy: func(p *fettlev1.Partition) { p.PriorityGap = proto.Uint32(9) }, want: "priority: 1 of job 2 is not enough above 9 of job 1"},
		"equal rank":                 {mode: modeRequeue, wish: func(s *fettlev1.JobSpec) { s.Priority = 9 }, want: "priority: 9 of job 2 is not enough above 9 of job 1"},
		"it asked to be left alone": {mode: modeRequeue, policy: func(p *fettlev1.Partition) { p.AllowNoPreemptible = true },
			victim: func(s *fettlev1.JobSpec) { s.NoPreemptible = true }, want: "victim: job 1 asked not to be preempted"},
		"it may not be requeued": {mode: modeRequeue, victim: func(s *fettlev1.JobSpec) { s.NoRequeue = true }, want: "victim: job 1 must not be started again"},
		"it has just begun":      {mode: modeRequeue, runMS: 599_000, want: "victim: job 1 has run for 599 s, the least is 600"},
		"by a minimum of its partition": {mode: modeRequeue, policy: func(p *fettlev1.Partition) { p.MinRunS = proto.Int64(8 * 86400) },
			want: "victim: job 1 has run for 604800 s, the least is 691200"},
		"another mode":       {mode: modeRequeue, name: func(v *raftlogv1.Victim) { v.Mode = modeCancel }, want: "mode: of job 1 is PREEMPT_MODE_CANCEL, that of its partition is PREEMPT_MODE_REQUEUE"},
		"an earlier attempt": {mode: modeRequeue, name: func(v *raftlogv1.Victim) { v.Attempt = 7 }, want: "victims: attempt 7 of job 1 is over, the newest is 1"},
		"not enough room":    {mode: modeRequeue, nodes: allocs(part(urgent(4), "n1", 0, 1)), want: "gpus: 2 given on n1, the job asks for 4"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := up(t, "n1")
			r.ok(preemptPolicy(c.mode, c.policy))
			old, high := ranked(script(1, 1, 4), 9), urgent(4)
			for _, f := range []struct {
				s *fettlev1.JobSpec
				f func(*fettlev1.JobSpec)
			}{{old, c.victim}, {high, c.wish}} {
				if f.f != nil {
					f.f(f.s)
				}
			}
			if c.runMS == 0 {
				c.runMS = 7 * day
			}
			id, _ := r.running(old, c.runMS, 0, 1, 2, 3)
			waiting := r.submit(high)
			v := r.victim(id)
			if c.name != nil {
				c.name(v)
			}
			nodes := whole
			if c.nodes != nil {
				nodes = c.nodes
			}
			before := r.job(id)
			e := r.planOp()
			e.GetPlan().Preemptions = []*raftlogv1.Preemption{{Beneficiary: waiting, Nodes: nodes, Victims: []*raftlogv1.Victim{v}}}
			err := r.ok(e).Preemptions[0].Err
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if r.job(id) != before || r.job(waiting).Claim != nil {
				t.Error("the running job was touched")
			}
		})
	}
}

// No more victims than are needed, each once, and each as often as its budget says.
func TestVictims(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	r.ok(preemptPolicy(modeRequeue, func(p *fettlev1.Partition) { p.PreemptBudget = proto.Uint32(1) }))
	a, keyA := r.running(ranked(script(1, 1, 2), 9), 3_600_000, 0, 1)
	b, _ := r.running(ranked(script(1, 1, 2), 9), 3_600_000, 2, 3)
	high := r.submit(urgent(2))
	at := allocs(part(urgent(2), "n1", 0, 1))
	wantRefusal(t, r.preempt(high, at, a, b), model.Conflict, "victims: job 2 makes no room that job 3 needs")
	wantRefusal(t, r.preempt(high, at, a, a), model.Conflict, "victims: job 1 is named twice")
	wantRefusal(t, r.preempt(high, at), model.Conflict, "victims: none are named for job 3")
	wantRefusal(t, r.preempt(high, at, b), model.Conflict, `gpus: "GPU-n1-0" on n1 is held by job 1`)
	if err := r.preempt(high, at, a); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, r.preempt(high, at, b), model.Conflict, "job: 3 has a claim already")
	next := r.submit(urgent(2))
	wantRefusal(t, r.preempt(next, at, a), model.Conflict, "victim: job 1 is COMPLETING")
	r.ended(keyA, "n1", &fettlev1.Exit{Code: -1, Signal: 15})
	key := r.dispatch(high, at...)
	r.started(key, "n1")
	r.ended(key, "n1", &fettlev1.Exit{})
	keyA = r.dispatch(a, part(script(1, 1, 2), "n1", 0, 1))
	r.started(keyA, "n1")
	r.now += day
	wantRefusal(t, r.preempt(next, at, a), model.Conflict, "victim: job 1 was preempted 1 times, the most that its partition allows")
}

// A claim goes with the wait of its job: cancelled, held, moved elsewhere or dropped by the leader, the room is everybody's.
func TestClaimsEnd(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(r *rig, high uint64){
		"cancel": func(r *rig, high uint64) { r.ok(cancelOp(high)) },
		"hold":   func(r *rig, high uint64) { r.ok(holdOp(high)) },
		"begin": func(r *rig, high uint64) {
			r.ok(updateJobOp(&fettlev1.UpdateJobRequest{JobId: high, BeginMs: proto.Int64(r.now + 60_000)}))
		},
		"nodelist": func(r *rig, high uint64) {
			r.ok(updateJobOp(&fettlev1.UpdateJobRequest{JobId: high, Nodelist: []string{"n1"}}))
		},
		"drop": func(r *rig, high uint64) {
			e := r.planOp()
			e.GetPlan().DropClaims = []uint64{high, 4711}
			r.ok(e)
		},
		"start elsewhere": func(r *rig, high uint64) {
			r.hello("n2")
			r.dispatch(high, part(urgent(2), "n2", 0, 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := up(t, "n1")
			r.ok(preemptPolicy(modeRequeue, nil))
			old, key := r.running(ranked(script(1, 1, 4), 9), 3_600_000, 0, 1, 2, 3)
			high := r.submit(urgent(2))
			if err := r.preempt(high, allocs(part(urgent(2), "n1", 0, 1)), old); err != nil {
				t.Fatal(err)
			}
			end(r, high)
			if r.job(high).Claim != nil {
				t.Error("the claim is still there")
			}
			r.ended(key, "n1", &fettlev1.Exit{Code: -1, Signal: 15})
			// The victim goes on where it was.
			r.dispatch(old, part(script(1, 1, 4), "n1", 0, 1, 2, 3))
		})
	}
	t.Run("priority", func(t *testing.T) {
		t.Parallel()
		r := up(t, "n1")
		r.ok(preemptPolicy(modeRequeue, nil))
		old, _ := r.running(ranked(script(1, 1, 4), 9), 3_600_000, 0, 1, 2, 3)
		high := r.submit(urgent(2))
		if err := r.preempt(high, allocs(part(urgent(2), "n1", 0, 1)), old); err != nil {
			t.Fatal(err)
		}
		r.ok(updateJobOp(&fettlev1.UpdateJobRequest{JobId: high, Priority: proto.Uint32(2)}))
		if r.job(high).Claim == nil {
			t.Error("a change that moves nothing took the claim")
		}
	})
}

// The CPUs and memory that a claim needs are kept too.
func TestClaimsKeepCPUs(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	r.ok(preemptPolicy(modeRequeue, nil))
	old, key := r.running(ranked(script(1, 6, 1), 9), 3_600_000, 0)
	s := urgent(1)
	s.CpusPerNode = 7
	high := r.submit(s)
	if err := r.preempt(high, allocs(part(s, "n1", 0)), old); err != nil {
		t.Fatal(err)
	}
	small, large := r.submit(script(1, 1, 1)), r.submit(script(1, 2, 1))
	try := func(id uint64, cpus uint32, gpu int) *model.FieldError {
		return r.ok(r.planOp(&raftlogv1.Placement{JobId: id, Attempt: 1, Nodes: allocs(part(script(1, cpus, 1), "n1", gpu))})).Placements[0].Err
	}
	wantRefusal(t, try(large, 2, 2), model.Conflict, "cpus: of n1 are kept for another job")
	if err := try(small, 1, 1); err != nil {
		t.Errorf("what the claim leaves is refused: %v", err)
	}
	r.ended(key, "n1", &fettlev1.Exit{Code: -1, Signal: 15})
	wantRefusal(t, try(large, 2, 2), model.Conflict, "cpus: of n1 are kept for another job")
	r.dispatch(high, part(s, "n1", 0))
}

// A gang's room spans nodes: what is free on one and what is made on the other.
func TestPreemptionForAGang(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2")
	r.ok(preemptPolicy(modeRequeue, nil))
	old, key := r.running(ranked(script(1, 1, 4), 9), 3_600_000, 0, 1, 2, 3)
	s := ranked(script(2, 1, 4), 1)
	s.Preempt = true
	gang := r.submit(s)
	at := allocs(part(s, "n1", 0, 1, 2, 3), part(s, "n2", 0, 1, 2, 3))
	if err := r.preempt(gang, at, old); err != nil {
		t.Fatal(err)
	}
	third := r.submit(script(1, 1, 1))
	out := r.ok(r.planOp(&raftlogv1.Placement{JobId: third, Attempt: 1, Nodes: allocs(part(script(1, 1, 1), "n2", 0))})).Placements[0]
	wantRefusal(t, out.Err, model.Conflict, `gpus: "GPU-n2-0" on n2 is kept for job 2`)
	r.ended(key, "n1", &fettlev1.Exit{Code: -1, Signal: 15})
	r.dispatch(gang, at...)
	if state.LoadOf(r.job(gang)).GPUMilli != 8000 {
		t.Error("the gang does not hold its eight GPUs")
	}
}
