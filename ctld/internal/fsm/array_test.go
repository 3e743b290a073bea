package fsm

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// arrayOf is a CPU job that is an array of these elements, such as "0-9%2".
func arrayOf(t tb, text string) *fettlev1.JobSpec {
	t.Helper()
	a, err := gres.ParseArray(text)
	if err != nil {
		t.Fatalf("%v", err)
	}
	s := script(1, 1, 0)
	s.Array = &fettlev1.ArraySpec{Ranges: model.ArrayRanges(a.Ranges), MaxRunning: a.MaxRunning}
	return s
}

func placeElement(array uint64, index uint32, node string) *raftlogv1.Placement {
	return &raftlogv1.Placement{JobId: array, Attempt: 1, ArrayIndex: &index, Nodes: []*fettlev1.NodeAllocation{part(script(1, 1, 0), node)}}
}

// start starts an element of an array and returns the key of its attempt.
func (r *rig) start(array uint64, index uint32, node string) *fettlev1.AttemptKey {
	r.t.Helper()
	out := r.ok(r.planOp(placeElement(array, index, node))).Placements[0]
	if out.Err != nil {
		r.t.Fatalf("%d_%d is refused: %v", array, index, out.Err)
	}
	key := &fettlev1.AttemptKey{JobId: out.Started, Attempt: 1, Fence: r.index}
	r.prepared(key, node)
	return key
}

func these(array uint64, indexes ...uint32) []*raftlogv1.ArrayElement {
	out := make([]*raftlogv1.ArrayElement, 0, len(indexes))
	for _, i := range indexes {
		out = append(out, &raftlogv1.ArrayElement{JobId: array, Index: i})
	}
	return out
}

func (r *rig) wantArray(id uint64, want string) {
	r.t.Helper()
	a := r.job(id).Array
	got := fmt.Sprintf("[%s] pd=%d act=%d cd=%d f=%d ca=%d", gres.FormatRanges(model.GresRanges(a.Left)), a.Pending, a.Active, a.Completed, a.Failed, a.Cancelled)
	if got != want {
		r.t.Fatalf("array %d is %s, want %s", id, got, want)
	}
}

func TestArrayLife(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	id := r.submit(arrayOf(t, "0-4%2"))
	r.wantArray(id, "[0-4] pd=0 act=0 cd=0 f=0 ca=0")
	a := r.start(id, 0, "n1")
	b := r.start(id, 1, "n1")
	r.wantArray(id, "[2-4] pd=0 act=2 cd=0 f=0 ca=0")
	e := r.job(a.GetJobId())
	if e.ArrayJobID != id || e.ArrayIndex != 0 || e.RequestID != "" || e.Spec != r.job(id).Spec || e.State != model.Running || r.snap().Element(id, 1).ID != b.GetJobId() {
		t.Errorf("the element's row is %+v", e)
	}
	for _, c := range []struct {
		p    *raftlogv1.Placement
		line string
	}{
		{placeElement(id, 2, "n1"), "array: as many elements of 1 run as may"},
		{placeElement(id, 1, "n1"), "job: 1_1 does not wait for its first start"},
		{placeElement(id, 9, "n1"), "job: 1_9 does not wait for its first start"},
		{&raftlogv1.Placement{JobId: id, Attempt: 1, Nodes: placeElement(id, 2, "n1").Nodes}, "job: 1 is an array, and no element is named"},
	} {
		wantRefusal(t, r.ok(r.planOp(c.p)).Placements[0].Err, model.Conflict, c.line)
	}
	r.ended(a, "n1", &fettlev1.Exit{})
	r.ended(b, "n1", &fettlev1.Exit{Code: 3})
	// Two in one plan, and a third that is one too many.
	res := r.ok(r.planOp(placeElement(id, 2, "n1"), placeElement(id, 4, "n1"), placeElement(id, 3, "n1")))
	if res.Placements[0].Err != nil || res.Placements[1].Err != nil || res.Placements[2].Err == nil {
		t.Fatalf("placements = %+v", res.Placements)
	}
	fence := r.index
	r.wantArray(id, "[3] pd=0 act=2 cd=1 f=1 ca=0")
	for _, p := range res.Placements[:2] {
		r.ended(&fettlev1.AttemptKey{JobId: p.Started, Attempt: 1, Fence: fence}, "n1", &fettlev1.Exit{})
	}
	r.wantState(id, model.Pending)
	last := r.start(id, 3, "n1")
	r.wantArray(id, "[] pd=0 act=1 cd=3 f=1 ca=0")
	if r.job(id).Startable() {
		t.Error("an array with nothing left to start is startable")
	}
	r.ended(last, "n1", &fettlev1.Exit{})
	j := r.job(id)
	if j.State != model.Failed || j.ExitCode != 3 || j.Reason != fettlev1.Reason_REASON_NON_ZERO_EXIT || j.Detail != "1 of 5 elements failed" || j.StartMS == 0 {
		t.Errorf("the array ended as %+v", j)
	}
	r.wantIdle("n1")
}

// An element that is requeued waits as a job of its own, and its array's limit still holds for it.
func TestRequeuedElement(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	id := r.submit(arrayOf(t, "0-1%1"))
	a := r.start(id, 0, "n1")
	if err := r.ok(requeueOp(id)).Actions[0].Err; err != nil {
		t.Fatal(err)
	}
	r.ended(a, "n1", &fettlev1.Exit{Signal: 15})
	r.wantArray(id, "[1] pd=1 act=0 cd=0 f=0 ca=0")
	r.start(id, 1, "n1")
	again := &raftlogv1.Placement{JobId: a.GetJobId(), Attempt: 2, Nodes: placeElement(id, 0, "n1").Nodes}
	wantRefusal(t, r.ok(r.planOp(again)).Placements[0].Err, model.Conflict, "array: as many elements of 1 run as may")
	r.ended(&fettlev1.AttemptKey{JobId: r.snap().Element(id, 1).ID, Attempt: 1, Fence: r.snap().Element(id, 1).Current().GetFence()}, "n1", &fettlev1.Exit{})
	key := r.dispatch(a.GetJobId(), again.Nodes...)
	r.ended(key, "n1", &fettlev1.Exit{})
	if j := r.job(id); j.State != model.Completed || j.ExitCode != 0 {
		t.Errorf("the array ended as %+v", j)
	}
}

func TestActionsOnElements(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	id := r.submit(arrayOf(t, "0-5"))
	plain := r.submit(script(1, 1, 0))
	running := r.start(id, 5, "n1")
	on := func(e *raftlogv1.Entry, indexes ...uint32) *model.FieldError {
		t.Helper()
		switch op := e.GetOp().(type) {
		case *raftlogv1.Entry_Cancel:
			op.Cancel.Elements = these(id, indexes...)
		case *raftlogv1.Entry_Hold:
			op.Hold.Elements = these(id, indexes...)
		case *raftlogv1.Entry_Release:
			op.Release.Elements = these(id, indexes...)
		case *raftlogv1.Entry_Requeue:
			op.Requeue.Elements = these(id, indexes...)
		}
		out := r.ok(e).Actions[0]
		if !out.Element || out.JobID != id || out.Index != indexes[0] {
			t.Fatalf("answered for %+v", out)
		}
		return out.Err
	}
	if err := on(holdOp(), 1); err != nil {
		t.Fatal(err)
	}
	held := r.snap().Element(id, 1)
	if !held.Held || held.State != model.Pending || r.job(id).Held {
		t.Errorf("held: %+v", held)
	}
	if err := on(cancelOp(), 2); err != nil {
		t.Fatal(err)
	}
	r.wantArray(id, "[0,3-4] pd=1 act=1 cd=0 f=0 ca=1")
	wantRefusal(t, on(requeueOp(), 3), model.Conflict, "job: 1_3 is waiting already")
	if on(releaseOp(), 3) != nil || r.snap().Element(id, 3) != nil {
		t.Error("a release of what is not held gave an element a row")
	}
	wantRefusal(t, on(cancelOp(), 6), model.NotFound, "job: 1_6 does not exist; the array has 0-5")
	if err := on(releaseOp(), 1); err != nil || r.snap().Element(id, 1).Held {
		t.Errorf("not released: %v", err)
	}
	e := cancelOp()
	e.GetCancel().Elements = these(plain, 0)
	wantRefusal(t, r.ok(e).Actions[0].Err, model.Invalid, "job: 2 is not an array, so there is no 2_0; name 2")
	foreign := cancelOp()
	foreign.Actor, foreign.GetCancel().Elements = bob, these(id, 0)
	wantRefusal(t, r.ok(foreign).Actions[0].Err, model.Denied, "job: 1 belongs to another user; ask its owner or an admin")

	// The whole array: what waits is held, and one of it is let go by itself.
	if err := r.ok(holdOp(id)).Actions[0].Err; err != nil {
		t.Fatal(err)
	}
	if !r.job(id).Held || !r.snap().Element(id, 1).Held || r.job(running.GetJobId()).Held {
		t.Error("hold of an array holds the wrong elements")
	}
	if err := on(releaseOp(), 4); err != nil {
		t.Fatal(err)
	}
	if got := r.snap().Element(id, 4); got == nil || got.Held || !r.job(id).Held {
		t.Errorf("4 is %+v", got)
	}
	if err := r.ok(releaseOp(id)).Actions[0].Err; err != nil || r.job(id).Held || r.snap().Element(id, 1).Held {
		t.Errorf("release of the array: %v", err)
	}

	// Only what has no row.
	unstarted := cancelOp()
	unstarted.GetCancel().Unstarted = []uint64{id}
	if err := r.ok(unstarted).Actions[0].Err; err != nil {
		t.Fatal(err)
	}
	r.wantArray(id, "[] pd=2 act=1 cd=0 f=0 ca=3")
	wantRefusal(t, r.ok(withUnstarted(holdOp(), id)).Actions[0].Err, model.Conflict, "job: all elements of 1 have started and cannot be held; requeue them first, or cancel them")

	if err := r.ok(cancelOp(id)).Actions[0].Err; err != nil {
		t.Fatal(err)
	}
	r.wantArray(id, "[] pd=0 act=1 cd=0 f=0 ca=5")
	if j := r.job(id); j.State != model.Pending || !j.CancelRequested {
		t.Errorf("before its last element is over the array is %+v", j)
	}
	r.ended(running, "n1", &fettlev1.Exit{Signal: 15})
	if j := r.job(id); j.State != model.Cancelled || j.ExitCode == 0 || j.Reason != fettlev1.Reason_REASON_CANCELLED_BY_USER {
		t.Errorf("the array ended as %+v", j)
	}
}

func withUnstarted(e *raftlogv1.Entry, ids ...uint64) *raftlogv1.Entry {
	e.GetHold().Unstarted = ids
	return e
}

// A request is remembered element by element, and a cancel of an array that nothing of has started ends it at once.
func TestElementRequestsAreRemembered(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	id := r.submit(arrayOf(t, "0-3"))
	ask := func(indexes ...uint32) *Result {
		e := cancelOp()
		e.RequestId, e.GetCancel().Elements = "c-1", these(id, indexes...)
		return r.ok(e)
	}
	first := ask(0, 7)
	again := ask(0, 7)
	if first.Duplicate || !again.Duplicate || again.Actions[0].Err != nil || again.Actions[1].Err == nil || again.Actions[1].Err.Error() != first.Actions[1].Err.Error() {
		t.Errorf("first %+v, then %+v", first, again)
	}
	if more := ask(0, 1); more.Duplicate || more.Actions[1].Err != nil {
		t.Errorf("more: %+v", more)
	}
	r.wantArray(id, "[2-3] pd=0 act=0 cd=0 f=0 ca=2")
	e := cancelOp()
	e.RequestId, e.GetCancel().Unstarted = "c-2", []uint64{id}
	r.ok(e)
	if res := r.ok(clone(e)); !res.Duplicate || r.job(id).State != model.Cancelled {
		t.Errorf("repeat: %+v, the array is %+v", res, r.job(id))
	}
}

func TestUpdateOfArrays(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	id := r.submit(arrayOf(t, "0-3%1"))
	plain := r.submit(script(1, 1, 0))
	r.start(id, 0, "n1")
	r.ok(updateJobOp(&fettlev1.UpdateJobRequest{JobId: id, ArrayMaxRunning: proto.Uint32(2), TimeLimitS: proto.Int64(60)}))
	r.start(id, 1, "n1")
	if s := r.snap().Element(id, 1).Spec; s.GetTimeLimitS() != 60 || r.snap().Element(id, 0).Spec.GetTimeLimitS() == 60 {
		t.Error("an update of an array is for the elements that have not started")
	}
	r.ok(updateJobOp(&fettlev1.UpdateJobRequest{JobId: id, ArrayIndex: proto.Uint32(3), Priority: proto.Uint32(1)}))
	if e := r.snap().Element(id, 3); e.Spec.GetPriority() != 1 || r.job(id).Spec.GetPriority() == 1 {
		t.Errorf("element 3 is %+v", e)
	}
	for line, u := range map[string]*fettlev1.UpdateJobRequest{
		"array: 2 is no array; name an array's own number":                           {JobId: plain, ArrayMaxRunning: proto.Uint32(2)},
		"job: 1_7 does not exist; the array has 0-3":                                 {JobId: id, ArrayIndex: proto.Uint32(7), Priority: proto.Uint32(1)},
		"array: has a limit above 10000 running elements; lower it, or leave it out": {JobId: id, ArrayMaxRunning: proto.Uint32(10_001)},
	} {
		if err := r.apply(updateJobOp(u)).Err; err == nil || err.Error() != line {
			t.Errorf("got %v\nwant %s", err, line)
		}
	}
	// Lowered below what runs: those go on, and nothing starts.
	r.ok(updateJobOp(&fettlev1.UpdateJobRequest{JobId: id, ArrayMaxRunning: proto.Uint32(1)}))
	if n, limited := r.snap().ArrayRoom(r.job(id)); n != 0 || !limited {
		t.Errorf("room = %d, %v", n, limited)
	}
}

// Each element counts against the limits on unfinished jobs before it has a row.
func TestArraysCountWithTheirElements(t *testing.T) {
	t.Parallel()
	r := up(t)
	n := 0
	for ; ; n++ {
		s := arrayOf(t, "0-9999")
		out := r.ok(&raftlogv1.Entry{Actor: alice, Op: submitOp(fmt.Sprint("r", n), s)}).Submit[0]
		if out.Err != nil {
			if out.Err.Kind != model.Exhausted {
				t.Fatal(out.Err)
			}
			break
		}
	}
	if want := (model.MaxUnfinishedPerUser - 1) / 10_001; n != want {
		t.Errorf("%d arrays of 10,000 were accepted, want %d", n, want)
	}
	if left := r.snap().Counts().ArrayLeft; left != n*10_000 {
		t.Errorf("%d elements are counted", left)
	}
	r.ok(cancelOp(1))
	if out := r.ok(&raftlogv1.Entry{Actor: alice, Op: submitOp("again", arrayOf(t, "0-9999"))}).Submit[0]; out.Err != nil {
		t.Errorf("after a cancel: %v", out.Err)
	}
}

// A purged element is no longer found, its array counts it still, and the array goes when it is over.
func TestPurgeOfElements(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	id := r.submit(arrayOf(t, "0-1"))
	a := r.start(id, 0, "n1")
	r.ended(a, "n1", &fettlev1.Exit{})
	if err := r.ok(purgeOp(a.GetJobId())).Actions[0].Err; err != nil {
		t.Fatal(err)
	}
	e := cancelOp()
	e.GetCancel().Elements = these(id, 0)
	wantRefusal(t, r.ok(e).Actions[0].Err, model.NotFound, "job: 1_0 is no longer on record")
	wantRefusal(t, r.ok(purgeOp(id)).Actions[0].Err, model.Conflict, "job: 1 is PENDING; only finished jobs can be purged")
	b := r.start(id, 1, "n1")
	r.ended(b, "n1", &fettlev1.Exit{})
	r.wantState(id, model.Completed)
	if err := r.ok(purgeOp(id)).Actions[0].Err; err != nil {
		t.Fatal(err)
	}
	if r.snap().Element(id, 1) == nil {
		t.Error("the element went with its array")
	}
	if out := r.ok(&raftlogv1.Entry{Actor: alice, Op: submitOp("req-2", arrayOf(t, "0-1"))}).Submit[0]; out.Err != nil || out.JobID == id && !out.Duplicate {
		t.Errorf("repeat: %+v", out)
	}
}

func TestWishesInPlans(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.newTerm(2)
	for _, n := range []string{"n1", "n2"} {
		inv := inventory(n, 8, 4)
		inv.Features = []string{"ib", n}
		if n == "n2" {
			for _, g := range inv.Gpus {
				g.Type = "a100"
			}
		}
		r.ok(&raftlogv1.Entry{Actor: system, Op: helloOp(n, "boot-1", inv)})
	}
	try := func(s *fettlev1.JobSpec, parts ...*fettlev1.NodeAllocation) *model.FieldError {
		t.Helper()
		id := r.submit(s)
		return r.ok(r.planOp(&raftlogv1.Placement{JobId: id, Attempt: 1, Nodes: parts})).Placements[0].Err
	}
	gang := script(2, 1, 2)
	gang.GpusPerNode.Type, gang.GpuAlternatives = "h100", []*fettlev1.GPURequest{{Type: "a100", Count: 1}, {Count: 1}}
	wantRefusal(t, try(clone(gang), part(gang, "n1", 0, 1), part(gang, "n2", 0)), model.Conflict, "gpus: 1 given on n2 fit none of the job's alternatives on all nodes")
	if err := try(clone(gang), part(gang, "n1", 0), part(gang, "n2", 0)); err != nil {
		t.Error(err)
	}
	total := script(0, 1, 0)
	total.GpusTotal = &fettlev1.GPURequest{Count: 3}
	wantRefusal(t, try(clone(total), part(total, "n1", 1), part(total, "n2", 1)), model.Conflict, "gpus: 2 given in all, job 3 asks for 3")
	wantRefusal(t, try(clone(total), part(total, "n1", 1, 2, 3), part(total, "n2")), model.Conflict, `gpus: none given on "n2", where job 4 is placed`)
	if err := try(clone(total), part(total, "n1", 1, 2), part(total, "n2", 1)); err != nil {
		t.Error(err)
	}
	want := script(1, 1, 0)
	want.Constraint = "ib&!n1"
	wantRefusal(t, try(clone(want), part(want, "n1")), model.Conflict, "constraint: ib&!n1 of the job is not met by n1")
	if err := try(clone(want), part(want, "n2")); err != nil {
		t.Error(err)
	}
	share := func(mib int64) *fettlev1.JobSpec {
		s := script(1, 1, 1)
		s.VramMib = mib
		return s
	}
	alloc := func(mib int64, gpu int) *fettlev1.NodeAllocation {
		a := part(script(1, 1, 0), "n1", gpu)
		a.VramMib = mib
		return a
	}
	if err := try(share(50_000), alloc(50_000, 3)); err != nil {
		t.Error(err)
	}
	if err := try(share(31_920), alloc(31_920, 3)); err != nil {
		t.Error(err)
	}
	wantRefusal(t, try(share(1), alloc(1, 3)), model.Conflict, `vram: "GPU-n1-3" on n1 has 81920 of 81920 MiB given away`)
	wantRefusal(t, try(share(5), alloc(4, 3)), model.Conflict, "vram: 4 MiB given on n1, the job asks for 5")
	wantRefusal(t, try(script(1, 1, 1), alloc(0, 3)), model.Conflict, `gpus: "GPU-n1-3" on n1 is held by job 8`)
	wantRefusal(t, try(share(5), alloc(5, 1)), model.Conflict, `gpus: "GPU-n1-1" on n1 is held by job 5`)
}

func TestExclusiveNodes(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2")
	alone := script(1, 1, 0)
	alone.Exclusive = true
	a := r.submit(clone(alone))
	key := r.dispatch(a, part(alone, "n1"))
	if r.node("n1").Exclusive != a {
		t.Error("the node is not the job's own")
	}
	b := r.submit(script(1, 1, 0))
	wantRefusal(t, r.ok(r.planOp(&raftlogv1.Placement{JobId: b, Attempt: 1, Nodes: []*fettlev1.NodeAllocation{part(script(1, 1, 0), "n1")}})).Placements[0].Err,
		model.Conflict, "node: job 1 has n1 for itself")
	r.dispatch(b, part(script(1, 1, 0), "n2"))
	c := r.submit(clone(alone))
	wantRefusal(t, r.ok(r.planOp(&raftlogv1.Placement{JobId: c, Attempt: 1, Nodes: []*fettlev1.NodeAllocation{part(alone, "n2")}})).Placements[0].Err,
		model.Conflict, "node: n2 is in use, and the job wants it for itself")
	r.ended(key, "n1", &fettlev1.Exit{})
	r.wantIdle("n1")
	if r.node("n1").Exclusive != 0 {
		t.Error("the node is still kept for one job")
	}
	r.dispatch(c, part(alone, "n1"))
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	due := func(inMS int64, limitS int64) *fettlev1.JobSpec {
		s := script(1, 1, 0)
		s.DeadlineMs, s.TimeLimitS = r.now+inMS, limitS
		return s
	}
	refused := func(s *fettlev1.JobSpec) *model.FieldError {
		t.Helper()
		return r.ok(&raftlogv1.Entry{Actor: alice, Op: submitOp(fmt.Sprint("d", r.index), s)}).Submit[0].Err
	}
	wantRefusal(t, refused(due(-1, 0)), model.Invalid, "deadline: has passed; use a later one")
	wantRefusal(t, refused(due(59_999, 60)), model.Invalid, "deadline: is too near for the time limit of 60 s; use a later deadline or a shorter limit")
	a, b := r.submit(due(60_000, 60)), r.submit(due(5_000, 0))
	arr := arrayOf(t, "0-2")
	arr.DeadlineMs = r.now + 7_000
	c := r.submit(arr)
	first := r.start(c, 0, "n1")
	if ids := r.snap().DueDeadlines(r.now, 9); len(ids) != 0 {
		t.Errorf("%v are due at once", ids)
	}
	expire := func(ids ...uint64) []ActionOutcome {
		return r.ok(&raftlogv1.Entry{Actor: system, Op: &raftlogv1.Entry_Expire{Expire: &raftlogv1.ExpireJobs{Ids: ids}}}).Actions
	}
	r.now++
	// a could not be over in time any more, though its deadline is far.
	wantRefusal(t, r.ok(r.planOp(&raftlogv1.Placement{JobId: a, Attempt: 1, Nodes: []*fettlev1.NodeAllocation{part(script(1, 1, 0), "n1")}})).Placements[0].Err,
		model.Conflict, "deadline: of job 1 can no longer be met")
	wantRefusal(t, expire(b)[0].Err, model.Conflict, "deadline: of job 2 can still be met")
	if err := expire(r.snap().DueDeadlines(r.now, 9)...)[0].Err; err != nil {
		t.Fatal(err)
	}
	if j := r.job(a); j.State != model.Cancelled || j.Reason != fettlev1.Reason_REASON_DEADLINE || j.ExitCode == 0 || j.Detail != "its deadline is too near for its time limit of 60 s" {
		t.Errorf("a ended as %+v", j)
	}
	wantRefusal(t, expire(a)[0].Err, model.Conflict, "job: 1 does not wait any more")
	if at, ok := r.snap().NextDeadlineMS(); !ok || at != r.now-1+5_000 {
		t.Errorf("next = %d, %v", at, ok)
	}
	// A later deadline keeps it.
	r.ok(updateJobOp(&fettlev1.UpdateJobRequest{JobId: b, DeadlineMs: proto.Int64(r.now + 100_000)}))
	r.now += 8_000
	if out := expire(b, c); out[0].Err == nil || out[1].Err != nil {
		t.Fatalf("%+v", out)
	}
	r.wantArray(c, "[] pd=0 act=1 cd=0 f=0 ca=2")
	r.ended(first, "n1", &fettlev1.Exit{})
	if j := r.job(c); j.State != model.Cancelled || j.Reason != fettlev1.Reason_REASON_DEADLINE {
		t.Errorf("the array ended as %+v", j)
	}
	r.ok(updateJobOp(&fettlev1.UpdateJobRequest{JobId: b, DeadlineMs: proto.Int64(0)}))
	if _, ok := r.snap().NextDeadlineMS(); ok {
		t.Error("a deadline is left")
	}
	wantRefusal(t, r.apply(updateJobOp(&fettlev1.UpdateJobRequest{JobId: b, DeadlineMs: proto.Int64(r.now - 1)})).Err, model.Invalid, "deadline: has passed; use a later one")
	denied := r.apply(&raftlogv1.Entry{Actor: alice, Op: &raftlogv1.Entry_Expire{Expire: &raftlogv1.ExpireJobs{Ids: []uint64{b}}}})
	wantRefusal(t, denied.Err, model.Denied, "only admins may do that; ask an admin")
}
