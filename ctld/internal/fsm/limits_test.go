package fsm

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// labPolicy is a lab with two projects, limits of all kinds of scopes, and one partition.
func labPolicy(change func(*fettlev1.ClusterPolicy)) *raftlogv1.Entry {
	p := &fettlev1.ClusterPolicy{
		Partitions: []*fettlev1.Partition{{Name: "gpu", IsDefault: true, Limits: &fettlev1.Limits{MaxJobsRunning: 3}}},
		Projects: []*fettlev1.Project{
			{Name: "lab", Limits: &fettlev1.Limits{MaxGpus: 5}},
			{Name: "nlp", Parent: "lab", Members: []string{"alice"}, Limits: &fettlev1.Limits{MaxGpus: 3, MaxGpusPerJob: 2, MaxNodesPerJob: 1, MaxTimeS: 7200}},
			{Name: "vision", Parent: "lab", Members: []string{"alice", "bob"}},
		},
		Users: []*fettlev1.UserLimits{{User: "*", Limits: &fettlev1.Limits{MaxJobsQueued: 6}}},
	}
	if change != nil {
		change(p)
	}
	return policyOp(p)
}

func inProject(s *fettlev1.JobSpec, name string) *fettlev1.JobSpec {
	s.Project = name
	return s
}

func (r *rig) trySubmit(a *raftlogv1.Actor, s *fettlev1.JobSpec) SubmitOutcome {
	r.t.Helper()
	return r.ok(&raftlogv1.Entry{Actor: a, Op: submitOp(fmt.Sprintf("req-%d", r.index), s)}).Submit[0]
}

func (r *rig) tryStart(id uint64, parts ...*fettlev1.NodeAllocation) PlacementOutcome {
	r.t.Helper()
	return r.ok(r.planOp(&raftlogv1.Placement{JobId: id, Attempt: r.job(id).Attempt + 1, Nodes: parts})).Placements[0]
}

// Without projects in the policy any word will do; with them a job goes to one of its user's.
func TestSubmitIntoProjects(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	if j := r.job(r.submit(inProject(script(1, 1, 1), "anything"))); j.Project != "" || j.Account() != "anything" {
		t.Errorf("project %q, account %q", j.Project, j.Account())
	}
	r.ok(labPolicy(nil))
	if j := r.job(r.submit(script(1, 1, 1))); j.Project != "nlp" || j.Spec.GetProject() != "nlp" || j.Spec.GetTimeLimitS() != 7200 {
		t.Errorf("project %q, %v", j.Project, j.Spec)
	}
	bobs := r.trySubmit(bob, script(1, 1, 1))
	if bobs.Err != nil || r.job(bobs.JobID).Project != "vision" || r.job(bobs.JobID).Spec.GetTimeLimitS() != 0 {
		t.Errorf("bob's: %v, %v", bobs.Err, r.job(bobs.JobID).Spec)
	}
	eve := &raftlogv1.Actor{User: "eve", Uid: 1003}
	for _, c := range []struct {
		who  *raftlogv1.Actor
		what *fettlev1.JobSpec
		kind model.Kind
		want string
	}{
		{eve, script(1, 1, 1), model.Denied, "project: eve is in no project; ask an admin to be made a member of one"},
		{bob, inProject(script(1, 1, 1), "nlp"), model.Denied, "project: bob is not a member of nlp; use vision"},
		{bob, inProject(script(1, 1, 1), "nope"), model.Invalid, `project: "nope" does not exist; use vision`},
		{eve, inProject(script(1, 1, 1), "nope"), model.Invalid, `project: "nope" does not exist; use none: ask an admin to be made a member of one`},
		{alice, script(1, 1, 3), model.Invalid, "gpus: 3 asked for, project nlp allows 2 for each job; ask for fewer GPUs"},
		{alice, script(2, 1, 1), model.Invalid, "nodes: 2 asked for, project nlp allows 1 for each job; ask for fewer nodes"},
		{alice, inProject(script(2, 1, 3), "vision"), model.Invalid, "gpus: 6 asked for, project lab may hold 5 at once; ask for fewer GPUs"},
		{alice, timed(script(1, 1, 1), 7201), model.Invalid, "time: 7201 s is above the 7200 s of project nlp; use a shorter limit"},
	} {
		wantRefusal(t, r.trySubmit(c.who, c.what).Err, c.kind, c.want)
	}
	if out := r.trySubmit(admin, inProject(script(1, 1, 1), "nlp")); out.Err != nil {
		t.Errorf("an admin in any project: %v", out.Err)
	}
}

func timed(s *fettlev1.JobSpec, limitS int64) *fettlev1.JobSpec {
	s.TimeLimitS = limitS
	return s
}

// The number of jobs in the queue is held at submit, an array with all its elements, and a job that comes back into the queue
// is never too many.
func TestQueueLimit(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	r.ok(labPolicy(nil))
	a := script(1, 1, 1)
	a.Array = &fettlev1.ArraySpec{Ranges: []*fettlev1.ArrayRange{{First: 0, Last: 4, Step: 1}}}
	array := r.submit(a)
	last := r.submit(script(1, 1, 1))
	full := "jobs: user alice has 6 of its 6 jobs in the queue; try again when some have finished"
	wantRefusal(t, r.trySubmit(alice, script(1, 1, 1)).Err, model.Exhausted, full)
	if out := r.trySubmit(bob, script(1, 1, 1)); out.Err != nil {
		t.Errorf("bob has a limit of his own: %v", out.Err)
	}
	key := r.dispatch(last, part(script(1, 1, 1), "n1", 0))
	r.started(key, "n1")
	wantRefusal(t, r.trySubmit(alice, script(1, 1, 1)).Err, model.Exhausted, full)
	r.ok(requeueOp(last))
	r.ended(key, "n1", &fettlev1.Exit{Code: -1, Signal: 15})
	r.wantState(last, model.Pending)
	zero := uint32(0)
	out := r.ok(r.planOp(&raftlogv1.Placement{JobId: array, Attempt: 1, ArrayIndex: &zero, Nodes: allocs(part(script(1, 1, 1), "n1", 0))})).Placements[0]
	if out.Err != nil {
		t.Fatal(out.Err)
	}
	if u := r.snap().Use(state.Scope{Kind: state.ScopeUser, Name: "alice"}); u.Queued != 6 || u.Running != 1 || u.GPUMilli != 1000 {
		t.Errorf("alice's use %+v", u)
	}
	r.ok(cancelOp(last))
	if out := r.trySubmit(alice, script(1, 1, 1)); out.Err != nil {
		t.Errorf("there is room again: %v", out.Err)
	}
	// Several in one entry count together.
	r.ok(cancelOp(array))
	e := submitOp("many", script(1, 1, 1))
	for i := range 6 {
		e.Submit.Jobs = append(e.Submit.Jobs, &fettlev1.JobSubmission{RequestId: fmt.Sprint("many-", i), Spec: script(1, 1, 1)})
	}
	refused := 0
	for _, out := range r.ok(&raftlogv1.Entry{Actor: alice, Op: e}).Submit {
		if out.Err != nil {
			refused++
		}
	}
	if u := r.snap().Use(state.Scope{Kind: state.ScopeUser, Name: "alice"}); u.Queued != 6 || refused == 0 {
		t.Errorf("%d refused, alice has %+v", refused, u)
	}
}

// Every start is held against the limits of its partition, its projects and its user, whatever the plan's other placements
// and whatever the limits were at submit; the refusal carries the scope as a reason.
func TestLimitsAtStart(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2")
	r.ok(labPolicy(nil))
	one, two := script(1, 1, 1), script(1, 1, 2)
	a, b := r.submit(clone(two)), r.submit(clone(two))
	c := r.submit(inProject(clone(two), "vision"))
	d := r.submit(inProject(clone(two), "vision"))
	// In one plan: a holds two of nlp's three.
	res := r.ok(r.planOp(
		&raftlogv1.Placement{JobId: a, Attempt: 1, Nodes: allocs(part(two, "n1", 0, 1))},
		&raftlogv1.Placement{JobId: b, Attempt: 1, Nodes: allocs(part(two, "n1", 2, 3))},
		&raftlogv1.Placement{JobId: c, Attempt: 1, Nodes: allocs(part(two, "n1", 2, 3))},
		&raftlogv1.Placement{JobId: d, Attempt: 1, Nodes: allocs(part(two, "n2", 2, 3))},
	)).Placements
	wantRefusal(t, res[1].Err, model.Conflict, "gpus: project nlp holds 2 GPUs of its 3, job 2 would take 2 GPUs")
	wantRefusal(t, res[3].Err, model.Conflict, "gpus: project lab holds 4 GPUs of its 5, job 4 would take 2 GPUs")
	if res[0].Err != nil || res[2].Err != nil || res[1].Reason != fettlev1.Reason_REASON_LIMIT_PROJECT || res[3].Reason != fettlev1.Reason_REASON_LIMIT_PROJECT {
		t.Errorf("%+v", res)
	}
	// One more GPU of the lab's five, and three jobs of the partition.
	e := r.submit(inProject(clone(one), "vision"))
	if out := r.tryStart(e, part(one, "n2", 0)); out.Err != nil {
		t.Fatal(out.Err)
	}
	f := r.submit(inProject(script(1, 1, 0), "vision"))
	out := r.tryStart(f, part(script(1, 1, 0), "n2"))
	wantRefusal(t, out.Err, model.Conflict, "jobs: partition gpu runs 3 of its 3")
	if out.Reason != fettlev1.Reason_REASON_LIMIT_PARTITION {
		t.Errorf("reason %s", out.Reason)
	}
	// Limits that come after the submit hold too.
	r.ok(labPolicy(func(p *fettlev1.ClusterPolicy) {
		p.Partitions[0].Limits = nil
		p.Projects[0].Limits, p.Projects[1].Limits = nil, nil
		p.Users = []*fettlev1.UserLimits{{User: "alice", Limits: &fettlev1.Limits{MaxGpusPerJob: 1}}}
	}))
	out = r.tryStart(b, part(two, "n2", 1, 2))
	wantRefusal(t, out.Err, model.Conflict, "gpus: job 2 has 2, user alice allows 1 for each job")
	if out.Reason != fettlev1.Reason_REASON_LIMIT_USER {
		t.Errorf("reason %s", out.Reason)
	}
}

// GPU-hours in a window: what was used and what runs with all of its time limit, never more than the limit at a start.
func TestGPUHours(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	r.ok(labPolicy(func(p *fettlev1.ClusterPolicy) {
		p.Projects[1].Limits = &fettlev1.Limits{GpuHours: 10, GpuHoursWindowS: 86_400}
	}))
	wantRefusal(t, r.trySubmit(alice, script(1, 1, 2)).Err, model.Invalid,
		"time: 2 GPUs for that long are more than the 10 GPU-hours of project nlp; give a time limit, or a shorter one")
	wantRefusal(t, r.trySubmit(alice, timed(script(1, 1, 4), 3*3600)).Err, model.Invalid,
		"time: 4 GPUs for that long are more than the 10 GPU-hours of project nlp; give a time limit, or a shorter one")
	s := timed(script(1, 1, 2), 3*3600)
	a, b := r.submit(clone(s)), r.submit(clone(s))
	key := r.dispatch(a, part(s, "n1", 0, 1))
	r.started(key, "n1")
	out := r.tryStart(b, part(s, "n1", 2, 3))
	wantRefusal(t, out.Err, model.Conflict, "gpu_hours: project nlp has used 0 and may still use 6 of its 10 GPU-hours with what runs, job 2 would add up to 6")
	// Nor may what runs be given more time than is left.
	longer := r.apply(updateJobOp(&fettlev1.UpdateJobRequest{JobId: a, TimeLimitS: proto.Int64(6 * 3600)}))
	wantRefusal(t, longer.Err, model.Invalid, "time: 2 GPUs for that long are more than the 10 GPU-hours of project nlp; give a time limit, or a shorter one")
	if res := r.apply(updateJobOp(&fettlev1.UpdateJobRequest{JobId: a, TimeLimitS: proto.Int64(5 * 3600)})); res.Err != nil {
		t.Fatal(res.Err)
	}
	if u := r.snap().Use(state.Scope{Kind: state.ScopeProject, Name: "nlp"}); u.CommittedMS != 10*3_600_000 {
		t.Errorf("committed %+v", u)
	}
	// It ends after an hour: two GPU-hours are used, eight are left.
	r.now += 3_600_000
	r.ended(key, "n1", &fettlev1.Exit{})
	spent := r.snap().SpendOf(state.Scope{Kind: state.ScopeProject, Name: "nlp"}).Within(r.now, 86_400_000)
	if spent < 2*3_600_000-100 || spent > 2*3_600_000 {
		t.Errorf("%d GPU-ms are booked", spent)
	}
	key = r.dispatch(b, part(s, "n1", 2, 3))
	r.started(key, "n1")
	r.now += 3 * 3_600_000
	r.ended(key, "n1", &fettlev1.Exit{})
	c := r.submit(timed(script(1, 1, 2), 2*3600))
	out = r.tryStart(c, part(s, "n1", 0, 1))
	wantRefusal(t, out.Err, model.Conflict, "gpu_hours: project nlp has used 8 and may still use 0 of its 10 GPU-hours with what runs, job 3 would add up to 4")
	// A day later the window is empty again.
	r.now += 90_000_000
	if out = r.tryStart(c, part(s, "n1", 0, 1)); out.Err != nil {
		t.Error(out.Err)
	}
}

// What attempts held goes into the ledger when their parts end, by project and user, and halves with time. Plans that do not
// ask for it, as those of earlier versions, are not charged.
func TestLedger(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2")
	r.ok(labPolicy(func(p *fettlev1.ClusterPolicy) { p.UsageHalfLifeS = 3600; p.Projects[1].Limits = nil }))
	s := script(2, 1, 2)
	id := r.submit(clone(s))
	key := r.dispatch(id, part(s, "n1", 0, 1), part(s, "n2", 0, 1))
	r.prepared(key, "n1")
	r.prepared(key, "n2")
	r.now += 1_800_000
	r.ended(key, "n1", &fettlev1.Exit{})
	if u := r.snap().UsageOf("nlp", "alice"); u.At(r.now, 3_600_000) != 3_600_000 {
		t.Errorf("after one part %+v", u)
	}
	r.now += 1_800_000
	r.ended(key, "n2", &fettlev1.Exit{})
	want := uint64(7_200_000 + 2_545_584) // 3,600,000 half a half life ago
	if got := r.snap().UsageOf("nlp", "alice").At(r.now, 3_600_000); got < want-20 || got > want {
		t.Errorf("after both %d, want %d", got, want)
	}
	if got := r.snap().UsageOf("nlp", "alice").At(r.now+2*3_600_000, 3_600_000); got < want/4-20 || got > want/4+20 {
		t.Errorf("two half lives later %d", got)
	}
	before := r.snap().UsageOf("nlp", "alice")
	one := script(1, 1, 1)
	id = r.submit(clone(one))
	e := r.planOp(&raftlogv1.Placement{JobId: id, Attempt: 1, Nodes: allocs(part(one, "n1", 0))})
	e.GetPlan().Ledger = false
	r.ok(e)
	old := &fettlev1.AttemptKey{JobId: id, Attempt: 1, Fence: r.index}
	r.now += 3_600_000
	r.ended(old, "n1", &fettlev1.Exit{})
	if after := r.snap().UsageOf("nlp", "alice"); after != before {
		t.Errorf("an attempt of an earlier version is charged: %+v", after)
	}
}

// A share of a GPU counts as its part of the GPU's memory.
func TestSharesCountInPart(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	r.ok(labPolicy(func(p *fettlev1.ClusterPolicy) { p.Projects[1].Limits = &fettlev1.Limits{MaxGpus: 1} }))
	s := script(1, 1, 1)
	s.VramMib = 32768 // of 81920: 0.4 GPUs
	share := func() *fettlev1.NodeAllocation {
		a := part(s, "n1", 0)
		a.VramMib = s.VramMib
		return a
	}
	a, b, c := r.submit(clone(s)), r.submit(clone(s)), r.submit(clone(s))
	r.dispatch(a, share())
	r.dispatch(b, share())
	other := share()
	other.GpuUuids = []string{"GPU-n1-1"}
	wantRefusal(t, r.tryStart(c, other).Err, model.Conflict, "gpus: project nlp holds 0.800 GPUs of its 1, job 3 would take 0.400 GPUs")
}

// A policy that moves projects moves what their jobs count.
func TestRecount(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	r.ok(labPolicy(nil))
	two := script(1, 1, 2)
	id := r.submit(clone(two))
	r.dispatch(id, part(two, "n1", 0, 1))
	lab := state.Scope{Kind: state.ScopeProject, Name: "lab"}
	if u := r.snap().Use(lab); u.GPUMilli != 2000 {
		t.Errorf("the lab holds %+v", u)
	}
	r.ok(labPolicy(func(p *fettlev1.ClusterPolicy) { p.Projects[1].Parent = "" }))
	if u := r.snap().Use(lab); u != (state.Use{}) {
		t.Errorf("the lab holds %+v of what is not its any more", u)
	}
	r.ok(cancelOp(id))
}
