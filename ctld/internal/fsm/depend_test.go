package fsm

import (
	"fmt"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// dependent is a CPU job with these dependencies, such as "afterok:1,singleton".
func dependent(t tb, text string) *fettlev1.JobSpec {
	t.Helper()
	s := script(1, 1, 0)
	s.Name = "dependent"
	if text == "" {
		return s
	}
	d, err := gres.ParseDependencies(text)
	if err != nil {
		t.Fatalf("%v", err)
	}
	s.Dependencies, s.DependencyAny = model.ToDependencies(d), d.Any
	return s
}

func (r *rig) waitsFor(id uint64) string {
	r.t.Helper()
	j := r.job(id)
	return model.DependenciesText(j.WaitingFor, j.Spec.GetDependencyAny())
}

// run starts a job on n1 and, unless code is negative, ends it.
func (r *rig) run(id uint64, code int32) *fettlev1.AttemptKey {
	r.t.Helper()
	key := r.dispatch(id, part(script(1, 1, 0), "n1"))
	r.prepared(key, "n1")
	if code >= 0 {
		r.ended(key, "n1", &fettlev1.Exit{Code: code})
	}
	return key
}

func TestDependencies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		on   string
		code int32
		want fettlev1.JobState
		left string
	}{
		{"afterok:1", 0, model.Pending, ""},
		{"afterok:1", 1, model.Cancelled, "afterok:1"},
		{"afternotok:1", 1, model.Pending, ""},
		{"afternotok:1", 0, model.Cancelled, "afternotok:1"},
		{"afterany:1", 1, model.Pending, ""},
		{"after:1", -1, model.Pending, ""},
		{"afterok:1", -1, model.Pending, "afterok:1"},
		{"afterok:1,afterany:2", 0, model.Pending, "afterany:2"},
		{"afterok:1?afterok:2", 0, model.Pending, ""},
		{"afterok:1?afterok:2", 1, model.Pending, "afterok:2"},
		{"afterok:1?afternotok:1", 1, model.Pending, ""},
	} {
		t.Run(fmt.Sprint(c.on, " ", c.code), func(t *testing.T) {
			t.Parallel()
			r := up(t, "n1")
			a, _ := r.submit(dependent(t, "")), r.submit(dependent(t, ""))
			d := r.submit(dependent(t, c.on))
			if j := r.job(d); j.Reason != fettlev1.Reason_REASON_DEPENDENCY || j.EligibleMS != 0 || j.Startable() {
				t.Errorf("waits as %+v", j)
			}
			wantRefusal(t, r.ok(r.planOp(&raftlogv1.Placement{JobId: d, Attempt: 1, Nodes: []*fettlev1.NodeAllocation{part(script(1, 1, 0), "n1")}})).Placements[0].Err,
				model.Conflict, "dependency: "+model.DependencyText(r.job(d).WaitingFor[0])+" of job 3 is not met")
			r.now += 5000
			r.run(a, c.code)
			j := r.job(d)
			if j.State != c.want || r.waitsFor(d) != c.left {
				t.Fatalf("it is %s and waits for %q", model.StateName(j.State), r.waitsFor(d))
			}
			switch {
			case c.want == model.Cancelled && (j.Reason != fettlev1.Reason_REASON_DEPENDENCY_NEVER || j.ExitCode == 0 || j.Detail == ""):
				t.Errorf("ended as %+v", j)
			case c.want == model.Pending && c.left == "" && (j.Reason != 0 || j.EligibleMS != r.now || !j.Startable()):
				t.Errorf("let go as %+v", j)
			}
			// Asked for afterwards it comes out the same.
			if late := r.job(r.submit(dependent(t, c.on))); late.State != c.want || c.want == model.Pending && r.waitsFor(late.ID) != c.left {
				t.Errorf("submitted late it is %s and waits for %q", model.StateName(late.State), r.waitsFor(late.ID))
			}
		})
	}
}

func TestDependencyRefusals(t *testing.T) {
	t.Parallel()
	r := up(t)
	r.submit(dependent(t, ""))
	r.submit(arrayOf(t, "0-3"))
	for _, c := range []struct {
		actor *raftlogv1.Actor
		on    string
		kind  model.Kind
		line  string
	}{
		{alice, "afterok:9", model.NotFound, "dependency: afterok:9 names a job that does not exist; name one that fqueue shows"},
		// Its own number, and whatever comes after it.
		{alice, "afterok:3", model.NotFound, "dependency: afterok:3 names a job that does not exist; name one that fqueue shows"},
		{bob, "afterok:1", model.Denied, "dependency: afterok:1 names another user's job; depend on your own jobs, or ask an admin"},
		{alice, "afterok:1_0", model.Invalid, "dependency: afterok:1_0 names an element of a job that is no array; name the job without _"},
		{alice, "afterok:2_4", model.NotFound, "dependency: afterok:2_4 names an element that the array does not have; it has 0-3"},
	} {
		out := r.ok(&raftlogv1.Entry{Actor: c.actor, Op: submitOp("d", dependent(t, c.on))}).Submit[0]
		wantRefusal(t, out.Err, c.kind, c.line)
	}
	if out := r.ok(&raftlogv1.Entry{Actor: admin, Op: submitOp("d", dependent(t, "afterok:1"))}).Submit[0]; out.Err != nil {
		t.Errorf("an admin is refused: %v", out.Err)
	}
}

// The end of one job runs down a whole chain in one entry, and a chain of holds and requeues changes nothing of it.
func TestChains(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	first := r.submit(dependent(t, ""))
	last := first
	for range 20 {
		last = r.submit(dependent(t, fmt.Sprintf("afterok:%d", last)))
	}
	any1 := r.submit(dependent(t, fmt.Sprintf("afterany:%d", last)))
	r.ok(holdOp(last))
	key := r.run(first, -1)
	r.ok(requeueOp(first))
	r.ended(key, "n1", &fettlev1.Exit{Signal: 15})
	if r.job(first+1).State != model.Pending || r.waitsFor(first+1) == "" {
		t.Error("a requeue is taken for an end")
	}
	r.ok(cancelOp(first))
	for id := first + 1; id <= last; id++ {
		if j := r.job(id); j.State != model.Cancelled || j.Reason != fettlev1.Reason_REASON_DEPENDENCY_NEVER || j.Held {
			t.Fatalf("job %d is %+v", id, j)
		}
	}
	if r.job(any1).State != model.Pending || r.waitsFor(any1) != "" {
		t.Error("afterany is not met by a job that was cancelled with its chain")
	}
}

// A held job is told why it does not start in the order in which it can be helped.
func TestHeldDependents(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	a := r.submit(dependent(t, ""))
	d := r.submit(dependent(t, fmt.Sprint("afterok:", a)))
	r.ok(holdOp(d))
	if j := r.job(d); j.Reason != fettlev1.Reason_REASON_HELD_BY_USER {
		t.Errorf("held: %+v", j)
	}
	r.ok(releaseOp(d))
	if j := r.job(d); j.Reason != fettlev1.Reason_REASON_DEPENDENCY {
		t.Errorf("released: %+v", j)
	}
	r.ok(holdOp(d))
	r.run(a, 0)
	if j := r.job(d); j.Reason != fettlev1.Reason_REASON_HELD_BY_USER || r.waitsFor(d) != "" || j.Startable() {
		t.Errorf("met while held: %+v", j)
	}
	r.ok(releaseOp(d))
	if !r.job(d).Startable() {
		t.Error("not startable after its release")
	}
}

func TestArrayDependencies(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	arr := r.submit(arrayOf(t, "0-2"))
	whole := r.submit(dependent(t, fmt.Sprintf("afterok:%d", arr)))
	begun := r.submit(dependent(t, fmt.Sprintf("after:%d", arr)))
	one := r.submit(dependent(t, fmt.Sprintf("afterok:%d_1", arr)))
	second := arrayOf(t, "0-9")
	second.Name, second.Dependencies = "second", dependent(t, fmt.Sprintf("afterany:%d", arr)).Dependencies
	follower := r.submit(second)
	// An element that was held by itself waits like its array.
	e := holdOp()
	e.GetHold().Elements = these(follower, 4)
	r.ok(e)
	held := r.snap().Element(follower, 4).ID
	if r.waitsFor(held) == "" {
		t.Fatal("the element waits for nothing")
	}
	a := r.start(arr, 0, "n1")
	if r.waitsFor(begun) != "" || r.waitsFor(whole) == "" {
		t.Error("the start of an element is the start of its array, and no more")
	}
	b := r.start(arr, 1, "n1")
	// By its own number too.
	byRow := r.submit(dependent(t, fmt.Sprintf("afterok:%d", b.GetJobId())))
	r.ended(b, "n1", &fettlev1.Exit{})
	if r.waitsFor(one) != "" || r.waitsFor(byRow) != "" {
		t.Error("the element's end is not told")
	}
	r.ended(a, "n1", &fettlev1.Exit{Code: 1})
	r.wantState(whole, model.Pending)
	c := r.start(arr, 2, "n1")
	if late := r.submit(dependent(t, fmt.Sprintf("afterok:%d_0", arr))); r.job(late).State != model.Cancelled {
		t.Error("a failed element is taken for a good one")
	}
	r.ended(c, "n1", &fettlev1.Exit{})
	r.wantState(arr, model.Failed)
	r.wantState(whole, model.Cancelled)
	if r.waitsFor(follower) != "" || r.waitsFor(held) != "" || !r.job(follower).Startable() {
		t.Error("the array that follows is not let go")
	}
	// An array that can never start is over at once, with what was split off.
	third := arrayOf(t, "0-9")
	third.Dependencies = dependent(t, fmt.Sprintf("afterok:%d", arr)).Dependencies
	if j := r.job(r.submit(third)); j.State != model.Cancelled || j.Array.Cancelled != 10 {
		t.Errorf("the third array is %+v", j)
	}
}

func TestSingletons(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	single := func(actor *raftlogv1.Actor, name string) uint64 {
		s := dependent(t, "singleton")
		s.Name = name
		return r.ok(&raftlogv1.Entry{Actor: actor, Op: submitOp(fmt.Sprint("s", r.index), s)}).Submit[0].JobID
	}
	plain := dependent(t, "")
	plain.Name = "x"
	a := r.submit(plain)
	b, c := single(alice, "x"), single(alice, "x")
	other, foreign := single(alice, "y"), single(bob, "x")
	if r.waitsFor(b) == "" || r.waitsFor(c) == "" || r.waitsFor(other) != "" || r.waitsFor(foreign) != "" {
		t.Fatal("the wrong ones wait")
	}
	r.run(a, 1)
	if r.waitsFor(b) != "" || r.waitsFor(c) == "" {
		t.Error("the first of a name is not let go, or another is too")
	}
	// A new name is another line: b leaves, so c is the first of the old one, and waits in the new one behind b no more.
	r.ok(updateJobOp(&fettlev1.UpdateJobRequest{JobId: b, Name: proto.String("y")}))
	if r.waitsFor(c) != "" {
		t.Error("a name that is left does not let the next one go")
	}
	d := single(alice, "x")
	r.ok(updateJobOp(&fettlev1.UpdateJobRequest{JobId: d, Name: proto.String("z")}))
	if r.waitsFor(d) != "" {
		t.Error("alone in its new name it waits still")
	}
	// In one entry.
	var jobs []*fettlev1.JobSubmission
	for i := range 3 {
		s := dependent(t, "singleton")
		s.Name = "batch"
		jobs = append(jobs, &fettlev1.JobSubmission{RequestId: fmt.Sprint("b", i), Spec: s})
	}
	out := r.ok(&raftlogv1.Entry{Actor: alice, Op: &raftlogv1.Entry_Submit{Submit: &raftlogv1.SubmitJobs{Jobs: jobs}}}).Submit
	if r.waitsFor(out[0].JobID) != "" || r.waitsFor(out[1].JobID) == "" || r.waitsFor(out[2].JobID) == "" {
		t.Error("of three in one entry not just the first may go")
	}
	r.ok(cancelOp(out[0].JobID, out[1].JobID))
	if r.waitsFor(out[2].JobID) != "" {
		t.Error("the third is not let go by two cancels in one entry")
	}
	// An array is one job of its name until its last element is over.
	arr := arrayOf(t, "0-1")
	arr.Name = "arr"
	arrID := r.submit(arr)
	s := single(alice, "arr")
	r.ended(r.start(arrID, 0, "n1"), "n1", &fettlev1.Exit{})
	if r.waitsFor(s) == "" {
		t.Error("let go with an element left")
	}
	r.ended(r.start(arrID, 1, "n1"), "n1", &fettlev1.Exit{})
	if r.waitsFor(s) != "" {
		t.Error("not let go when the array was over")
	}
}

// A thousand jobs that wait for one are let go in one entry.
func TestManyDependents(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.newTerm(2)
	r.hello("n1")
	first := r.submit(dependent(t, ""))
	var jobs []*fettlev1.JobSubmission
	for i := range 1000 {
		jobs = append(jobs, &fettlev1.JobSubmission{RequestId: fmt.Sprint("m", i), Spec: dependent(t, fmt.Sprint("afterok:", first))})
	}
	out := r.ok(&raftlogv1.Entry{Actor: alice, Op: &raftlogv1.Entry_Submit{Submit: &raftlogv1.SubmitJobs{Jobs: jobs}}}).Submit
	if n := len(r.snap().Dependents(first)); n != 1000 {
		t.Fatalf("%d depend on it", n)
	}
	r.run(first, 0)
	for _, o := range out {
		if !r.job(o.JobID).Startable() {
			t.Fatalf("job %d is not let go", o.JobID)
		}
	}
	if n := len(r.snap().Dependents(first)); n != 0 {
		t.Errorf("%d still depend on it", n)
	}
}

// BenchmarkReleaseDependents ends a job that a thousand others wait for, in one entry.
func BenchmarkReleaseDependents(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		r := &rig{t: b, f: New(state.New(testCluster), Config{}), now: 1_000_000}
		do := func(e *raftlogv1.Entry) {
			r.index++
			e.NowMs = r.now
			data, err := Encode(e)
			if err != nil {
				b.Fatal(err)
			}
			r.f.Apply(&raft.Log{Index: r.index, Type: raft.LogCommand, Data: data})
		}
		first := &raftlogv1.SubmitJobs{Jobs: []*fettlev1.JobSubmission{{RequestId: "first", Spec: script(1, 1, 0)}}}
		do(&raftlogv1.Entry{Actor: alice, Op: &raftlogv1.Entry_Submit{Submit: first}})
		rest := &raftlogv1.SubmitJobs{}
		for i := range 1000 {
			rest.Jobs = append(rest.Jobs, &fettlev1.JobSubmission{RequestId: fmt.Sprint(i), Spec: dependent(b, "afterany:1")})
		}
		do(&raftlogv1.Entry{Actor: alice, Op: &raftlogv1.Entry_Submit{Submit: rest}})
		if n := len(r.snap().Dependents(1)); n != 1000 {
			b.Fatalf("%d wait", n)
		}
		b.StartTimer()
		do(cancelOp(1))
		if n := len(r.snap().Dependents(1)); n != 0 {
			b.Fatalf("%d wait still", n)
		}
	}
}
