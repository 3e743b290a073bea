package fsm

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// inEachState returns a rig with one job of alice's in each state that matters, by number:
// 1 pending, 2 dispatching, 3 running, 4 completing (cancelled), 5 cancelled, 6 completed, 7 held, 8 held by an admin,
// 9 completing (requeue asked for).
func inEachState(t *testing.T) *rig {
	t.Helper()
	r := up(t, "n1")
	for range 9 {
		r.submit(script(1, 1, 0))
	}
	r.dispatch(2, part(r.job(2).Spec, "n1"))
	r.started(r.dispatch(3, part(r.job(3).Spec, "n1")), "n1")
	r.started(r.dispatch(4, part(r.job(4).Spec, "n1")), "n1")
	r.ok(cancelOp(4, 5))
	r.ended(r.dispatch(6, part(r.job(6).Spec, "n1")), "n1", &fettlev1.Exit{})
	r.ok(holdOp(7))
	byAdmin := holdOp(8)
	byAdmin.Actor = admin
	r.ok(byAdmin)
	r.started(r.dispatch(9, part(r.job(9).Spec, "n1")), "n1")
	r.ok(requeueOp(9))
	return r
}

func TestActionsInEachState(t *testing.T) {
	t.Parallel()
	const done = ""
	ended := func(id int, s string) string { return fmt.Sprintf("job: %d has already ended (%s)", id, s) }
	for name, c := range map[string]struct {
		op     func(id ...uint64) *raftlogv1.Entry
		actor  *raftlogv1.Actor
		lines  [10]string
		states map[uint64]fettlev1.JobState
	}{
		"cancel": {op: cancelOp, lines: [10]string{6: ended(6, "COMPLETED")},
			states: map[uint64]fettlev1.JobState{1: model.Cancelled, 2: model.Completing, 3: model.Completing, 4: model.Completing, 5: model.Cancelled, 7: model.Cancelled, 8: model.Cancelled, 9: model.Completing}},
		"hold": {op: holdOp, lines: [10]string{
			2: "job: 2 is DISPATCHING and cannot be held; hold works on waiting jobs; requeue it first, or cancel it",
			3: "job: 3 is RUNNING and cannot be held; hold works on waiting jobs; requeue it first, or cancel it",
			4: "job: 4 is COMPLETING and cannot be held; hold works on waiting jobs; requeue it first, or cancel it",
			5: ended(5, "CANCELLED"), 6: ended(6, "COMPLETED"),
			9: "job: 9 is COMPLETING and cannot be held; hold works on waiting jobs; requeue it first, or cancel it"}},
		"release": {op: releaseOp, lines: [10]string{
			2: "job: 2 is DISPATCHING, not held", 3: "job: 3 is RUNNING, not held", 4: "job: 4 is COMPLETING, not held",
			5: ended(5, "CANCELLED"), 6: ended(6, "COMPLETED"),
			8: "job: 8 is held by an admin; ask an admin to release it", 9: "job: 9 is COMPLETING, not held"}},
		"release by admin": {op: releaseOp, actor: admin, lines: [10]string{
			2: "job: 2 is DISPATCHING, not held", 3: "job: 3 is RUNNING, not held", 4: "job: 4 is COMPLETING, not held",
			5: ended(5, "CANCELLED"), 6: ended(6, "COMPLETED"), 9: "job: 9 is COMPLETING, not held"}},
		"requeue": {op: requeueOp, lines: [10]string{
			1: "job: 1 is waiting already", 4: "job: 4 is being cancelled", 5: ended(5, "CANCELLED") + "; submit it again",
			6: ended(6, "COMPLETED") + "; submit it again", 7: "job: 7 is waiting already", 8: "job: 8 is waiting already"},
			states: map[uint64]fettlev1.JobState{2: model.Completing, 3: model.Completing}},
		"purge": {op: purgeOp, actor: admin, lines: [10]string{
			1: "job: 1 is PENDING; only finished jobs can be purged", 2: "job: 2 is DISPATCHING; only finished jobs can be purged",
			3: "job: 3 is RUNNING; only finished jobs can be purged", 4: "job: 4 is COMPLETING; only finished jobs can be purged",
			7: "job: 7 is PENDING; only finished jobs can be purged", 8: "job: 8 is PENDING; only finished jobs can be purged",
			9: "job: 9 is COMPLETING; only finished jobs can be purged"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := inEachState(t)
			for id := uint64(1); id <= 9; id++ {
				e := c.op(id)
				if c.actor != nil {
					e.Actor = c.actor
				}
				before := r.snap().Job(id)
				err := r.ok(e).Actions[0].Err
				if c.lines[id] == done {
					if err != nil {
						t.Errorf("job %d: refused: %v", id, err)
					}
					if want, ok := c.states[id]; ok {
						r.wantState(id, want)
					}
					continue
				}
				if err == nil || err.Error() != c.lines[id] {
					t.Errorf("job %d: got %v\nwant %q", id, err, c.lines[id])
				}
				if err != nil && err.Kind != model.Conflict && err.Kind != model.Denied {
					t.Errorf("job %d: kind %s", id, err.Kind)
				}
				if r.snap().Job(id) != before {
					t.Errorf("job %d was refused and changed", id)
				}
			}
		})
	}
}

func TestActionsAreForOwnersAndAdmins(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		actor   *raftlogv1.Actor
		allowed bool
	}{
		"owner": {alice, true}, "admin": {admin, true}, "controller": {system, true},
		"another user": {bob, false}, "nobody": {nil, false}, "uid without a name": {&raftlogv1.Actor{Uid: 1001}, false},
		"root who is no admin": {&raftlogv1.Actor{User: "root"}, false},
	} {
		r := up(t)
		r.submit(script(1, 1, 0))
		e := cancelOp(1)
		e.Actor = c.actor
		err := r.ok(e).Actions[0].Err
		if c.allowed != (err == nil) || r.job(1).State == model.Cancelled != c.allowed {
			t.Errorf("%s: %v", name, err)
		}
		if !c.allowed {
			wantRefusal(t, err, model.Denied, "job: 1 belongs to another user; ask its owner or an admin")
			u := updateJobOp(&fettlev1.UpdateJobRequest{JobId: 1, Priority: proto.Uint32(1)})
			u.Actor = c.actor
			wantRefusal(t, r.apply(u).Err, model.Denied, "job: 1 belongs to another user; ask its owner or an admin")
		}
	}
}

func TestActionsRefusedWhole(t *testing.T) {
	t.Parallel()
	r := up(t)
	for _, op := range []func(...uint64) *raftlogv1.Entry{cancelOp, holdOp, releaseOp, requeueOp, purgeOp} {
		wantRefusal(t, r.apply(op()).Err, model.Invalid, "jobs: no job is named; name at least one")
		wantRefusal(t, r.ok(op(77)).Actions[0].Err, model.NotFound, "job: 77 does not exist; see fqueue for the jobs there are")
	}
	wantRefusal(t, r.apply(cancelOp(make([]uint64, model.MaxIDsPerEntry+1)...)).Err, model.Invalid, "jobs: 1001 in one request, the limit is 1000; split the request")
	wantRefusal(t, r.apply(purgeOp(make([]uint64, model.MaxPurgePerEntry+1)...)).Err, model.Invalid, "jobs: 501 in one request, the limit is 500; split the request")
	byUser := purgeOp(1)
	byUser.Actor = alice
	wantRefusal(t, r.apply(byUser).Err, model.Denied, "only admins may do that; ask an admin")
}

// A cancel at any moment of a job's life ends it, and nothing starts it again (I12).
func TestCancelRaces(t *testing.T) {
	t.Parallel()
	one := func() *fettlev1.JobSpec { return script(1, 1, 1) }
	t.Run("before the plan", func(t *testing.T) {
		t.Parallel()
		r := up(t, "n1")
		id := r.submit(one())
		plan := r.planOp(&raftlogv1.Placement{JobId: id, Attempt: 1, Nodes: []*fettlev1.NodeAllocation{part(r.job(id).Spec, "n1", 0)}})
		r.ok(cancelOp(id))
		wantRefusal(t, r.ok(plan).Placements[0].Err, model.Conflict, "job: 1 is CANCELLED")
		r.wantIdle("n1")
	})
	t.Run("between dispatch and start", func(t *testing.T) {
		t.Parallel()
		r := up(t, "n1")
		id := r.submit(one())
		k := r.dispatch(id, part(r.job(id).Spec, "n1", 0))
		r.ok(cancelOp(id))
		r.wantState(id, model.Completing)
		// The start was under way already: it does not bring the job back.
		r.started(k, "n1")
		r.wantState(id, model.Completing)
		if r.node("n1").Idle() {
			t.Error("the GPU was freed without evidence")
		}
		r.ended(k, "n1", &fettlev1.Exit{Code: -1, Signal: 15})
		r.wantState(id, model.Cancelled)
		r.wantIdle("n1")
		if j := r.job(id); j.Reason != fettlev1.Reason_REASON_CANCELLED_BY_USER || j.ExitCode != 143 {
			t.Errorf("job = %+v", j)
		}
	})
	t.Run("never started after all", func(t *testing.T) {
		t.Parallel()
		r := up(t, "n1")
		id := r.submit(one())
		k := r.dispatch(id, part(r.job(id).Spec, "n1", 0))
		r.ok(cancelOp(id))
		r.ended(k, "n1", &fettlev1.Exit{Code: -1, NeverStarted: true, Detail: "killed before it was known"})
		r.wantState(id, model.Cancelled)
		if n := r.node("n1").LaunchFailures; n != 0 {
			t.Errorf("the node is blamed %d times for a cancel", n)
		}
		if c := r.job(id).ExitCode; c != 1 {
			t.Errorf("exit code %d", c)
		}
	})
	t.Run("as it completes", func(t *testing.T) {
		t.Parallel()
		r := up(t, "n1")
		id := r.submit(one())
		k := r.dispatch(id, part(r.job(id).Spec, "n1", 0))
		r.ended(k, "n1", &fettlev1.Exit{})
		wantRefusal(t, r.ok(cancelOp(id)).Actions[0].Err, model.Conflict, "job: 1 has already ended (COMPLETED)")
		r.wantState(id, model.Completed)
	})
	t.Run("beats a requeue", func(t *testing.T) {
		t.Parallel()
		r := up(t, "n1")
		id := r.submit(one())
		k := r.dispatch(id, part(r.job(id).Spec, "n1", 0))
		r.ok(requeueOp(id))
		r.ok(cancelOp(id))
		r.ended(k, "n1", &fettlev1.Exit{Code: -1, Signal: 15})
		r.wantState(id, model.Cancelled)
	})
	t.Run("by an admin", func(t *testing.T) {
		t.Parallel()
		r := up(t)
		id := r.submit(one())
		e := cancelOp(id)
		e.Actor = admin
		r.ok(e)
		if got := r.job(id).Reason; got != fettlev1.Reason_REASON_CANCELLED_BY_ADMIN {
			t.Errorf("reason %s", got)
		}
	})
}

func TestRequeueStartsAfresh(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	id := r.submit(script(1, 1, 1))
	k := r.dispatch(id, part(r.job(id).Spec, "n1", 0))
	r.started(k, "n1")
	r.ok(requeueOp(id))
	r.wantState(id, model.Completing)
	r.ended(k, "n1", &fettlev1.Exit{Code: -1, Signal: 15})
	j := r.job(id)
	if j.State != model.Pending || j.Failures != 0 || j.RetryAtMS != 0 || j.Attempt != 1 || j.Reason != fettlev1.Reason_REASON_REQUEUED_BY_USER || j.RequeueRequested {
		t.Fatalf("job = %+v", j)
	}
	k2 := r.dispatch(id, part(j.Spec, "n1", 0))
	if k2.GetAttempt() != 2 || k2.GetFence() <= k.GetFence() {
		t.Errorf("the second attempt is %v after %v", k2, k)
	}
	if j := r.job(id); len(j.Attempts) != 2 || j.Attempts[0].GetOutcome() != model.Cancelled || j.Attempts[0].GetNodes()[0].GetExit().GetSignal() != 15 {
		t.Errorf("attempts = %v", j.Attempts)
	}
}

// The first answer to a request is its answer for ever, for each job that it named.
func TestActionsOncePerRequest(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	for range 3 {
		r.submit(script(1, 1, 0))
	}
	k := r.dispatch(1, part(r.job(1).Spec, "n1"))
	requeue := func(id ...uint64) *Result {
		e := requeueOp(id...)
		e.RequestId = "q"
		return r.ok(e)
	}
	if res := requeue(1, 99); res.Duplicate || res.Actions[0].Err != nil || res.Actions[1].Err == nil {
		t.Fatalf("first = %+v", res)
	}
	r.ended(k, "n1", &fettlev1.Exit{Code: -1, Signal: 15})
	r.dispatch(1, part(r.job(1).Spec, "n1"))
	// The repeat must not stop the second attempt.
	res := requeue(1, 99)
	if !res.Duplicate || res.Actions[0].Err != nil {
		t.Errorf("repeat = %+v", res)
	}
	wantRefusal(t, res.Actions[1].Err, model.NotFound, "job: 99 does not exist; see fqueue for the jobs there are")
	r.wantState(1, model.Dispatching)
	// Jobs that the selector finds only now are dealt with now, those answered before are not touched again.
	res = requeue(2, 1)
	if res.Duplicate || res.Actions[1].Err != nil {
		t.Errorf("with another job = %+v", res)
	}
	wantRefusal(t, res.Actions[0].Err, model.Conflict, "job: 2 is waiting already")
	r.wantState(1, model.Dispatching)
	if res = requeue(2); !res.Duplicate {
		t.Errorf("repeat of the addition = %+v", res)
	}
	// The same key for something else is a mistake.
	e := cancelOp(1)
	e.RequestId = "q"
	wantRefusal(t, r.apply(e).Err, model.Conflict, "request_id: was used before for a different request; use a new one for each request")
	// Another user's key is another key.
	e = clone(e)
	e.Actor = bob
	wantRefusal(t, r.ok(e).Actions[0].Err, model.Denied, "job: 1 belongs to another user; ask its owner or an admin")
}

func TestRememberedRequestsAreBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("100,000 entries")
	}
	t.Parallel()
	r := newRig(t)
	b := r.f.Store().Batch()
	const over = 500
	for i := range model.MaxRemembered + over {
		b.Advance(uint64(i+1), 0)
		e := cancelOp(1)
		e.RequestId = fmt.Sprintf("r%d", i)
		if res := r.f.execute(b, e); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	b.Publish()
	s := r.snap()
	if got := s.Counts().Requests; got != model.MaxRemembered {
		t.Errorf("%d requests are remembered, the limit is %d", got, model.MaxRemembered)
	}
	if err := s.Verify(); err != nil {
		t.Error(err)
	}
	r.index = s.Index()
	oldest, newest := cancelOp(1), cancelOp(1)
	oldest.RequestId, newest.RequestId = "r0", fmt.Sprintf("r%d", model.MaxRemembered+over-1)
	if r.ok(newest).Duplicate != true || r.ok(oldest).Duplicate != false {
		t.Error("not the oldest were forgotten")
	}
}
