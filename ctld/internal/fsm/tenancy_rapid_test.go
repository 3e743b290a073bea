package fsm

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// estate is a cluster with projects, limits and preemption, and an account of its own of who may do what.
type estate struct {
	*world
	// stopped counts how often each job was ended for another.
	stopped map[uint64]uint32
	// held is what ended parts held since the policy was set, for the limits on GPU-hours.
	held []held
	// last is the state after the entry before.
	last *state.Snapshot
	subs int
}

type held struct {
	scopes   []state.Scope
	milli    int64
	from, to int64
}

func newEstate(t *rapid.T) *estate {
	e := &estate{world: &world{r: newRig(t)}, stopped: make(map[uint64]uint32)}
	e.r.newTerm(1)
	e.r.hello("n1")
	e.r.hello("n2")
	e.setPolicy(t)
	for range 4 {
		e.submit(t)
		e.submit(t)
		e.begin(t)
		e.r.now += 60_000
	}
	e.last = e.r.snap()
	return e
}

func anyLimits(t *rapid.T, name string) *fettlev1.Limits {
	if rapid.IntRange(0, 4).Draw(t, name+" free") > 0 {
		return nil
	}
	some := func(what string, vs ...uint32) uint32 { return rapid.SampledFrom(vs).Draw(t, name+" "+what) }
	l := &fettlev1.Limits{
		MaxGpus: some("gpus", 0, 0, 2, 3, 5), MaxJobsRunning: some("running", 0, 0, 1, 2, 3), MaxJobsQueued: some("queued", 0, 0, 4, 8),
		MaxGpusPerJob: some("gpus per job", 0, 0, 0, 2), MaxNodesPerJob: some("nodes per job", 0, 0, 0, 1),
	}
	if l.GpuHours = int64(some("hours", 0, 0, 4, 9)); l.GpuHours > 0 {
		l.GpuHoursWindowS = 4 * 3600
	}
	return l
}

func (e *estate) setPolicy(t *rapid.T) {
	e.use(t)
	p := &fettlev1.ClusterPolicy{UsageHalfLifeS: 3600}
	for _, name := range []string{"gpu", "other"} {
		p.Partitions = append(p.Partitions, &fettlev1.Partition{
			Name: name, IsDefault: name == "gpu", Limits: anyLimits(t, name),
			Preempt:            fettlev1.PreemptMode(rapid.SampledFrom([]int{0, 1, 2, 3, 3, 3, 4}).Draw(t, "mode")),
			MinRunS:            proto.Int64(rapid.SampledFrom([]int64{0, 0, 60}).Draw(t, "min run")),
			PreemptBudget:      proto.Uint32(rapid.SampledFrom([]uint32{1, 1, 1, 2}).Draw(t, "budget")),
			PriorityGap:        proto.Uint32(rapid.SampledFrom([]uint32{0, 0, 1, 2}).Draw(t, "gap")),
			AllowNoPreemptible: rapid.Bool().Draw(t, "allow"),
		})
	}
	p.Projects = []*fettlev1.Project{
		{Name: "lab", Limits: anyLimits(t, "lab")},
		{Name: "nlp", Parent: rapid.SampledFrom([]string{"", "lab"}).Draw(t, "parent"), Members: []string{"alice", "bob"}, Limits: anyLimits(t, "nlp")},
		{Name: "vision", Parent: "lab", Members: []string{"*"}},
	}
	p.Users = []*fettlev1.UserLimits{{User: "*", Limits: anyLimits(t, "users")}}
	e.r.ok(policyOp(p))
	e.held = nil
}

func (e *estate) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"submit": e.submit, "submit more": e.submit, "start": e.start, "start more": e.start, "run": e.run, "begin": e.begin, "begin more": e.begin, "begin again": e.begin,
		"preempt": e.preempt, "preempt more": e.preempt, "preempt again": e.preempt, "use claim": e.useClaim,
		"end": e.end, "make room": e.makeRoom, "act": e.act, "tick": e.tick, "policy": e.policy, "reserve": e.reserve, "": e.check,
	}
}

func (e *estate) submit(t *rapid.T) {
	e.use(t)
	e.subs++
	s := script(rapid.SampledFrom([]uint32{1, 1, 1, 2}).Draw(t, "nodes"), 1, rapid.SampledFrom([]uint32{0, 1, 1, 2, 4}).Draw(t, "gpus"))
	if s.Priority = rapid.Uint32Range(1, 4).Draw(t, "priority"); s.Priority < 3 {
		s.Preempt = rapid.IntRange(0, 3).Draw(t, "preempt") > 0
	}
	s.NoPreemptible = rapid.IntRange(0, 4).Draw(t, "not") == 0
	s.NoRequeue = rapid.IntRange(0, 4).Draw(t, "no requeue") == 0
	s.TimeLimitS = rapid.SampledFrom([]int64{0, 600, 3600}).Draw(t, "limit")
	s.Partition = rapid.SampledFrom([]string{"", "other"}).Draw(t, "partition")
	s.Project = rapid.SampledFrom([]string{"", "nlp", "vision"}).Draw(t, "project")
	a := rapid.SampledFrom([]*raftlogv1.Actor{alice, bob}).Draw(t, "actor")
	e.r.ok(&raftlogv1.Entry{Actor: a, Op: submitOp(fmt.Sprint("s-", e.subs), s)})
}

// pick draws one of the jobs that are like that, nil when there is none.
func (e *estate) pick(t *rapid.T, like func(*state.Job) bool) *state.Job {
	var ids []uint64
	e.r.snap().Jobs(0, func(j *state.Job) bool {
		if like(j) {
			ids = append(ids, j.ID)
		}
		return true
	})
	if len(ids) == 0 {
		return nil
	}
	return e.r.job(rapid.SampledFrom(ids).Draw(t, "job"))
}

// room draws nodes and GPUs for a job, whoever holds them.
func (e *estate) room(t *rapid.T, j *state.Job) []*fettlev1.NodeAllocation {
	first := rapid.IntRange(0, 1).Draw(t, "first")
	var out []*fettlev1.NodeAllocation
	for i := range int(j.Spec.GetNodes()) {
		from := rapid.IntRange(0, 3).Draw(t, "gpu")
		a := part(j.Spec, fmt.Sprintf("n%d", (first+i)%2+1))
		for g := range int(j.Spec.GetGpusPerNode().GetCount()) {
			a.GpuUuids = append(a.GpuUuids, fmt.Sprintf("GPU-%s-%d", a.GetNode(), (from+g)%4))
		}
		out = append(out, a)
	}
	return out
}

// roomOf draws GPUs of one node for a job, beginning with those of a running job.
func (e *estate) roomOf(t *rapid.T, j *state.Job) []*fettlev1.NodeAllocation {
	again := rapid.Bool().Draw(t, "again")
	v := e.pick(t, func(v *state.Job) bool {
		return v.State == model.Running && v.Spec.GetGpusPerNode() != nil && (!again || v.PreemptedCount > 0)
	})
	if v == nil {
		return e.room(t, j)
	}
	from := v.Current().GetNodes()[0]
	a := part(j.Spec, from.GetNode())
	gpus := slices.Clone(from.GetGpuUuids())
	for i := range 4 {
		if u := fmt.Sprintf("GPU-%s-%d", from.GetNode(), i); !slices.Contains(gpus, u) {
			gpus = append(gpus, u)
		}
	}
	a.GpuUuids = gpus[:j.Spec.GetGpusPerNode().GetCount()]
	return allocs(a)
}

// begin starts a job where there is room, and lets it run.
func (e *estate) begin(t *rapid.T) {
	e.use(t)
	again := rapid.Bool().Draw(t, "again")
	j := e.pick(t, func(j *state.Job) bool {
		return j.State == model.Pending && j.Claim == nil && j.Spec.GetNodes() == 1 && (!again || j.PreemptedCount > 0)
	})
	if j == nil {
		return
	}
	n := e.r.node(fmt.Sprintf("n%d", rapid.IntRange(1, 2).Draw(t, "node")))
	a := part(j.Spec, n.Name)
	for _, g := range n.Inventory.GetGpus() {
		if _, held := n.Holder(g.GetUuid()); !held && len(a.GpuUuids) < int(j.Spec.GetGpusPerNode().GetCount()) {
			a.GpuUuids = append(a.GpuUuids, g.GetUuid())
		}
	}
	if out := e.r.ok(e.r.planOp(&raftlogv1.Placement{JobId: j.ID, Attempt: j.Attempt + 1, Nodes: allocs(a)})).Placements[0]; out.Err == nil {
		e.r.started(&fettlev1.AttemptKey{JobId: j.ID, Attempt: j.Attempt + 1, Fence: e.r.index}, n.Name)
	}
}

func (e *estate) start(t *rapid.T) {
	e.use(t)
	plan := e.r.planOp()
	for range rapid.IntRange(1, 3).Draw(t, "placements") {
		j := e.pick(t, func(j *state.Job) bool { return j.State == model.Pending })
		if j == nil {
			continue
		}
		plan.GetPlan().Placements = append(plan.GetPlan().Placements, &raftlogv1.Placement{JobId: j.ID, Attempt: j.Attempt + 1, Nodes: e.room(t, j)})
	}
	e.r.ok(plan)
}

// run reports a dispatched job's parts started, so that it may be preempted.
func (e *estate) run(t *rapid.T) {
	e.use(t)
	j := e.pick(t, func(j *state.Job) bool { return j.State == model.Dispatching })
	if j == nil {
		return
	}
	for _, a := range j.Current().GetNodes() {
		e.r.started(&fettlev1.AttemptKey{JobId: j.ID, Attempt: j.Attempt, Fence: j.Current().GetFence()}, a.GetNode())
	}
}

// preempt asks for room, mostly naming those who hold it, sometimes another.
func (e *estate) preempt(t *rapid.T) {
	e.use(t)
	wishes := rapid.IntRange(0, 9).Draw(t, "wish") > 0
	j := e.pick(t, func(j *state.Job) bool {
		return j.State == model.Pending && j.Spec.GetPreempt() == wishes && (!wishes || j.Startable() && j.Claim == nil)
	})
	if j == nil {
		return
	}
	p := &raftlogv1.Preemption{Beneficiary: j.ID, Nodes: e.room(t, j)}
	if rapid.IntRange(0, 3).Draw(t, "aimed") > 0 && j.Spec.GetNodes() == 1 {
		p.Nodes = e.roomOf(t, j)
	}
	name := func(v *state.Job) {
		if v == nil || !v.Active() || slices.ContainsFunc(p.Victims, func(w *raftlogv1.Victim) bool { return w.GetJobId() == v.ID }) {
			return
		}
		part := e.r.snap().Partition(v.Spec.GetPartition())
		p.Victims = append(p.Victims, &raftlogv1.Victim{JobId: v.ID, Attempt: v.Attempt, Mode: model.PreemptModeOf(part.Partition), LostGpuS: 10})
	}
	for _, a := range p.GetNodes() {
		for _, u := range a.GetGpuUuids() {
			if h, ok := e.r.node(a.GetNode()).Holder(u); ok {
				name(e.r.job(h.JobID))
			}
		}
	}
	if rapid.IntRange(0, 5).Draw(t, "more") == 0 {
		name(e.pick(t, func(j *state.Job) bool { return j.Active() }))
	}
	plan := e.r.planOp()
	plan.GetPlan().Preemptions = []*raftlogv1.Preemption{p}
	if e.r.ok(plan).Preemptions[0].Err != nil || rapid.Bool().Draw(t, "wait") {
		return
	}
	// The whole exchange at once, so that jobs come to be preempted again.
	e.check(t)
	for range p.Victims {
		e.makeRoom(t)
		e.check(t)
	}
	e.useClaim(t)
	e.check(t)
	if e.r.job(j.ID).Active() {
		e.r.ok(&raftlogv1.Entry{Actor: admin, Op: requeueOp(j.ID).Op})
		e.check(t)
		e.makeRoom(t)
	}
}

// useClaim starts a job where room was made for it, or gives the room up.
func (e *estate) useClaim(t *rapid.T) {
	e.use(t)
	j := e.pick(t, func(j *state.Job) bool { return j.Claim != nil })
	if j == nil {
		return
	}
	plan := e.r.planOp(&raftlogv1.Placement{JobId: j.ID, Attempt: j.Attempt + 1, Nodes: j.Claim.GetNodes()})
	if rapid.IntRange(0, 3).Draw(t, "drop") == 0 {
		plan.GetPlan().Placements = nil
		plan.GetPlan().DropClaims = []uint64{j.ID}
	}
	e.r.ok(plan)
}

func (e *estate) end(t *rapid.T) {
	e.use(t)
	j := e.pick(t, (*state.Job).Active)
	if j == nil {
		return
	}
	at := j.Current()
	a := at.GetNodes()[rapid.IntRange(0, len(at.GetNodes())-1).Draw(t, "rank")]
	e.r.ended(&fettlev1.AttemptKey{JobId: j.ID, Attempt: j.Attempt, Fence: at.GetFence()}, a.GetNode(), rapid.SampledFrom(worldExits).Draw(t, "exit"))
}

// makeRoom ends what has to make room for others.
func (e *estate) makeRoom(t *rapid.T) {
	e.use(t)
	j := e.pick(t, func(j *state.Job) bool { return j.State == model.Completing })
	if j == nil {
		return
	}
	for _, a := range j.Current().GetNodes() {
		e.r.ended(&fettlev1.AttemptKey{JobId: j.ID, Attempt: j.Attempt, Fence: j.Current().GetFence()}, a.GetNode(), &fettlev1.Exit{Code: -1, Signal: 15})
	}
}

func (e *estate) act(t *rapid.T) {
	e.use(t)
	op := rapid.SampledFrom([]func(...uint64) *raftlogv1.Entry{cancelOp, holdOp, releaseOp, releaseOp, releaseOp, requeueOp, requeueOp}).Draw(t, "op")
	j := e.pick(t, func(j *state.Job) bool { return !j.Finished() })
	if j == nil {
		return
	}
	entry := op(j.ID)
	entry.Actor = admin
	e.r.ok(entry)
}

func (e *estate) tick(t *rapid.T) { e.r.now += rapid.Int64Range(0, 1_200_000).Draw(t, "ms") }

func (e *estate) policy(t *rapid.T) {
	if rapid.IntRange(0, 9).Draw(t, "really") > 0 {
		return
	}
	e.setPolicy(t)
}

func (e *estate) reserve(t *rapid.T) {
	e.use(t)
	name := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name")
	if rapid.IntRange(0, 3).Draw(t, "set") > 0 {
		e.r.apply(unreserveOp(name))
		return
	}
	r := &fettlev1.Reservation{Name: name, StartMs: e.r.now + rapid.Int64Range(0, 3_600_000).Draw(t, "in"), Users: []string{"alice"}}
	r.EndMs = r.StartMs + 600_000
	if rapid.Bool().Draw(t, "gpus") {
		r.Gpus = 2
	} else {
		r.Nodes = "n2"
	}
	e.r.apply(reserveOp(r))
}

// scopes of a job, told from the policy's text.
func (e *estate) scopes(j *state.Job) []state.Scope {
	out := []state.Scope{{Kind: state.ScopePartition, Name: j.Spec.GetPartition()}, {Kind: state.ScopeUser, Name: j.User}}
	for name := j.Project; name != ""; {
		out = append(out, state.Scope{Kind: state.ScopeProject, Name: name})
		up := ""
		for _, p := range e.r.snap().Policy().GetProjects() {
			if p.GetName() == name {
				up = p.GetParent()
			}
		}
		name = up
	}
	return out
}

type tally struct{ gpus, running, committedMS int64 }

// tallies counts what active jobs hold by scope.
func (e *estate) tallies(s *state.Snapshot) map[state.Scope]tally {
	out := make(map[state.Scope]tally)
	for j := range s.Active {
		gpus := int64(0)
		for _, a := range j.Current().GetNodes() {
			if a.GetExit() == nil {
				gpus += int64(len(a.GetGpuUuids()))
			}
		}
		most := int64(4 * 3_600_000)
		if l := j.Spec.GetTimeLimitS() * 1000; l > 0 {
			most = min(most, l)
		}
		for _, scope := range e.scopes(j) {
			v := out[scope]
			out[scope] = tally{v.gpus + gpus, v.running + 1, v.committedMS + gpus*most}
		}
	}
	return out
}

// check holds every rule against what the newest entry changed.
func (e *estate) check(t *rapid.T) {
	e.use(t)
	s, before := e.r.snap(), e.last
	e.last = s
	was, is := e.tallies(before), e.tallies(s)
	s.Jobs(0, func(j *state.Job) bool {
		old := before.Job(j.ID)
		if old != nil && old != j {
			e.followJob(t, old, j)
		}
		if old != nil && j.Attempt > old.Attempt {
			e.checkStart(t, before, j, was, is)
		}
		return true
	})
	for scope, now := range is {
		l := s.LimitsOf(scope)
		if l.GetMaxGpus() > 0 && now.gpus > int64(l.GetMaxGpus()) && now.gpus > was[scope].gpus {
			t.Fatalf("%v holds %d GPUs, its limit is %d", scope, now.gpus, l.GetMaxGpus())
		}
		if l.GetMaxJobsRunning() > 0 && now.running > int64(l.GetMaxJobsRunning()) && now.running > was[scope].running {
			t.Fatalf("%v runs %d jobs, its limit is %d", scope, now.running, l.GetMaxJobsRunning())
		}
	}
}

// checkStart checks a new attempt.
func (e *estate) checkStart(t *rapid.T, before *state.Snapshot, j *state.Job, was, is map[state.Scope]tally) {
	s, now := e.r.snap(), e.r.snap().NowMS()
	gpus := 0
	for _, a := range j.Current().GetNodes() {
		gpus += len(a.GetGpuUuids())
		s.ClaimsOn(a.GetNode(), func(o *state.Job, c *fettlev1.NodeAllocation) bool {
			for _, u := range a.GetGpuUuids() {
				if before.Job(o.ID).Claim == o.Claim && claimsGPU(c, u) {
					t.Fatalf("GPU %s, which is kept for job %d, goes to job %d", u, o.ID, j.ID)
				}
			}
			return true
		})
	}
	for _, scope := range e.scopes(j) {
		l := s.LimitsOf(scope)
		if l.GetMaxGpusPerJob() > 0 && gpus > int(l.GetMaxGpusPerJob()) || l.GetMaxNodesPerJob() > 0 && len(j.Current().GetNodes()) > int(l.GetMaxNodesPerJob()) {
			t.Fatalf("job %d starts with %d GPUs on %d nodes, against %v of %v", j.ID, gpus, len(j.Current().GetNodes()), l, scope)
		}
		if l.GetGpuHours() == 0 || gpus == 0 {
			continue
		}
		used := is[scope].committedMS
		for _, h := range e.held {
			if slices.Contains(h.scopes, scope) {
				used += h.milli * max(h.to-max(h.from, now-4*3_600_000), 0) / 1000
			}
		}
		if used > l.GetGpuHours()*gpuHourMS {
			t.Fatalf("job %d starts with %d GPU-ms used and promised of the %d GPU-hours of %v", j.ID, used, l.GetGpuHours(), scope)
		}
	}
	_ = was
}

// followJob checks what became of a job that was preempted, and keeps account.
func (e *estate) followJob(t *rapid.T, old, j *state.Job) {
	s, now := e.r.snap(), e.r.snap().NowMS()
	if a := old.Current(); old.Active() {
		for i, p := range a.GetNodes() {
			if p.GetExit() == nil && (!j.Active() || j.Current().GetNodes()[i].GetExit() != nil) {
				e.held = append(e.held, held{e.scopes(j), 1000 * int64(len(p.GetGpuUuids())), a.GetDispatchMs(), now})
			}
		}
	}
	if !old.Active() || old.Current().GetPreemptedBy() != 0 || j.Current().GetPreemptedBy() == 0 {
		if a := j.Current(); old.Active() && j.State == model.Pending && a.GetOutcome() == model.Preempted && !j.Held && j.EligibleMS != old.EligibleMS {
			t.Fatalf("job %d was eligible at %d and is at %d after it was preempted", j.ID, old.EligibleMS, j.EligibleMS)
		}
		return
	}
	e.stopped[j.ID]++
	by, part := s.Job(j.Current().GetPreemptedBy()), s.Partition(j.Spec.GetPartition())
	switch {
	case part.GetPreempt() <= fettlev1.PreemptMode_PREEMPT_MODE_OFF:
		t.Fatalf("job %d is preempted, its partition says %s", j.ID, part.GetPreempt())
	case by == nil || !by.Spec.GetPreempt():
		t.Fatalf("job %d is preempted for %v, which did not ask for it", j.ID, by)
	case e.stopped[j.ID] > part.GetPreemptBudget():
		t.Fatalf("job %d is preempted for the %d. time, its budget is %d", j.ID, e.stopped[j.ID], part.GetPreemptBudget())
	case now-old.StartMS < part.GetMinRunS()*1000 || old.State != model.Running:
		t.Fatalf("job %d is preempted as %s, %d ms after its start", j.ID, model.StateName(old.State), now-old.StartMS)
	case j.Spec.GetNoPreemptible() && part.GetAllowNoPreemptible(), part.GetPriorityGap() > 0 && j.Spec.GetPriority() < by.Spec.GetPriority()+part.GetPriorityGap():
		t.Fatalf("job %d of priority %d is preempted for one of %d", j.ID, j.Spec.GetPriority(), by.Spec.GetPriority())
	}
}

func tenancyProperty(t *rapid.T) {
	e := newEstate(t)
	t.Repeat(e.actions())
	e.replicas(t)
}

// Random histories with changing policies keep limits at every index (I4), claims from everybody else, and running jobs from
// being ended without both permissions; replicas are equal however they came there (I8).
func TestEstate(t *testing.T) { rapid.Check(t, tenancyProperty) }
