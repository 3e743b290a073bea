package fsm

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// world is a cluster as it really is, told apart from what the state machine believes of it: which attempts run where
// is changed only by accepted placements and by evidence.
type world struct {
	r *rig
	// live are the parts of attempts that may have processes, by "job node".
	live map[string]livePart
	// keys are all parts ever dispatched, for reports that are true, late or made up.
	keys []livePart
	// seen is each job's row after the entry before.
	seen map[uint64]*state.Job
	// number is the highest attempt number of each job so far.
	number map[uint64]uint32
	// requests are the answers given to idempotency keys; purged jobs are gone by request.
	requests  map[string]answered
	cancelled map[uint64]bool
	purged    map[uint64]bool
	nodes     map[string]*worldNode
}

type livePart struct {
	key  *fettlev1.AttemptKey
	node string
	gpus []string
}

type answered struct {
	id      uint64
	variant int
}

type worldNode struct {
	boot    int
	session uint64
	state   fettlev1.NodeState
}

const (
	worldNodes = 3
	worldGPUs  = 4
	worldCPUs  = 8
)

func newWorld(t tb) *world {
	w := &world{
		r: newRig(t), live: make(map[string]livePart), seen: make(map[uint64]*state.Job), number: make(map[uint64]uint32),
		requests: make(map[string]answered), cancelled: make(map[uint64]bool), purged: make(map[uint64]bool), nodes: make(map[string]*worldNode),
	}
	w.r.newTerm(1)
	for i := range worldNodes {
		name := fmt.Sprintf("n%d", i+1)
		w.nodes[name] = &worldNode{}
		w.hello(name, false)
	}
	return w
}

func (w *world) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"submit": w.submit, "act": w.act, "plan": w.plan, "plan again": w.plan, "report": w.report, "report again": w.report, "report more": w.report,
		"node": w.node, "tick": w.tick, "term": w.term, "purge": w.purge, "update": w.update, "": w.check,
	}
}

func (w *world) use(t *rapid.T) { w.r.t = t }

func liveKey(job uint64, node string) string { return fmt.Sprintf("%d %s", job, node) }

func (w *world) anyJob(t *rapid.T) uint64 {
	return rapid.Uint64Range(1, w.r.snap().NextJobID()).Draw(t, "job")
}

func (w *world) anyNode(t *rapid.T) string {
	return fmt.Sprintf("n%d", rapid.IntRange(1, worldNodes).Draw(t, "node"))
}

func anyActor(t *rapid.T) *raftlogv1.Actor {
	return rapid.SampledFrom([]*raftlogv1.Actor{alice, alice, bob, admin}).Draw(t, "actor")
}

func variant(n int) *fettlev1.JobSpec {
	s := script([]uint32{1, 1, 2, 2, 3}[n%5], uint32(1+n%3), []uint32{0, 1, 1, 2}[n%4])
	s.NoRequeue = n%7 == 3
	s.Hold = n%11 == 5
	if s.GetNodes() == 1 && s.GetGpusPerNode() != nil && n%6 == 1 {
		s.DeviceIndexes = []uint32{2}
	}
	return s
}

func (w *world) submit(t *rapid.T) {
	w.use(t)
	a := anyActor(t)
	rid := fmt.Sprintf("r%d", rapid.IntRange(0, 30).Draw(t, "request"))
	v := rapid.IntRange(0, 20).Draw(t, "spec")
	out := w.r.ok(&raftlogv1.Entry{Actor: a, Op: submitOp(rid, variant(v))}).Submit[0]
	name := a.GetUser() + " " + rid
	switch old, known := w.requests[name]; {
	case known && old.variant != v && out.Err == nil:
		t.Fatalf("request %s made job %d of another spec than before", name, out.JobID)
	case known && old.variant == v && (out.Err != nil || out.JobID != old.id || !out.Duplicate):
		t.Fatalf("request %s is answered %+v, it was job %d before", name, out, old.id)
	case known:
	case out.Err != nil:
		t.Fatalf("submit is refused: %v", out.Err)
	case w.seen[out.JobID] != nil || out.Duplicate:
		t.Fatalf("job %d was given out twice", out.JobID)
	default:
		w.requests[name] = answered{out.JobID, v}
		w.seen[out.JobID] = nil
	}
}

func (w *world) act(t *rapid.T) {
	w.use(t)
	op := rapid.SampledFrom([]func(...uint64) *raftlogv1.Entry{cancelOp, holdOp, releaseOp, requeueOp, requeueOp}).Draw(t, "op")
	ids := []uint64{w.anyJob(t), w.anyJob(t)}
	e := op(ids...)
	e.Actor = anyActor(t)
	if rapid.Bool().Draw(t, "named") {
		e.RequestId = fmt.Sprintf("a%d", rapid.IntRange(0, 20).Draw(t, "request"))
	}
	for _, out := range w.r.apply(e).Actions {
		// A repeat may answer for a job that is gone.
		if e.GetCancel() != nil && out.Err == nil && !w.purged[out.JobID] {
			w.cancelled[out.JobID] = true
		}
	}
}

func (w *world) update(t *rapid.T) {
	w.use(t)
	p := rapid.Uint32Range(0, 11).Draw(t, "priority")
	u := &fettlev1.UpdateJobRequest{JobId: w.anyJob(t), Priority: &p}
	if rapid.IntRange(0, 3).Draw(t, "more") == 0 {
		b := rapid.Bool().Draw(t, "no requeue")
		u.NoRequeue = &b
	}
	w.r.apply(updateJobOp(u))
}

// plan places jobs, mostly as a scheduler would, sometimes wrongly.
func (w *world) plan(t *rapid.T) {
	w.use(t)
	e := w.r.planOp()
	if rapid.IntRange(0, 9).Draw(t, "other term") == 0 {
		e.GetPlan().Term++
	}
	for range rapid.IntRange(1, 3).Draw(t, "placements") {
		id := w.anyJob(t)
		j := w.r.snap().Job(id)
		if j == nil {
			continue
		}
		p := &raftlogv1.Placement{JobId: id, Attempt: j.Attempt + 1}
		if rapid.IntRange(0, 9).Draw(t, "other attempt") == 0 {
			p.Attempt = rapid.Uint32Range(0, 3).Draw(t, "attempt")
		}
		first := rapid.IntRange(0, worldNodes-1).Draw(t, "first")
		count, _ := model.GPUs(j.Spec)
		for i := range int(j.Spec.GetNodes()) {
			node := fmt.Sprintf("n%d", (first+i)%worldNodes+1)
			a := part(j.Spec, node)
			start := rapid.IntRange(0, worldGPUs-1).Draw(t, "gpu")
			for g := range int(count) {
				a.GpuUuids = append(a.GpuUuids, fmt.Sprintf("GPU-%s-%d", node, (start+g)%worldGPUs))
			}
			p.Nodes = append(p.Nodes, a)
		}
		e.GetPlan().Placements = append(e.GetPlan().Placements, p)
	}
	term := w.r.snap().Term()
	res := w.r.apply(e)
	if res.Err != nil {
		if e.GetPlan().GetTerm() == term {
			t.Fatalf("plan is refused: %v", res.Err)
		}
		return
	}
	if e.GetPlan().GetTerm() != term {
		t.Fatalf("a plan of term %d is accepted in term %d", e.GetPlan().GetTerm(), term)
	}
	for i, out := range res.Placements {
		if out.Err == nil {
			w.accepted(t, e.GetPlan().GetPlacements()[i])
		}
	}
}

// accepted checks what must be true of the world when an attempt is committed.
func (w *world) accepted(t *rapid.T, p *raftlogv1.Placement) {
	id := p.GetJobId()
	if w.cancelled[id] {
		t.Fatalf("job %d is started after its cancel was acknowledged", id)
	}
	if p.GetAttempt() <= w.number[id] {
		t.Fatalf("attempt %d of job %d is numbered like or below an earlier one, %d", p.GetAttempt(), id, w.number[id])
	}
	w.number[id] = p.GetAttempt()
	for _, l := range w.live {
		if l.key.GetJobId() == id {
			t.Fatalf("job %d is started while attempt %d may run on %s", id, l.key.GetAttempt(), l.node)
		}
		for _, a := range p.GetNodes() {
			for _, g := range a.GetGpuUuids() {
				if slices.Contains(l.gpus, g) {
					t.Fatalf("GPU %s is given to job %d while job %d holds it", g, id, l.key.GetJobId())
				}
			}
		}
	}
	for _, a := range p.GetNodes() {
		if w.nodes[a.GetNode()].state != state.NodeUp {
			t.Fatalf("job %d is placed on %s, which is %s", id, a.GetNode(), w.nodes[a.GetNode()].state)
		}
		l := livePart{key: &fettlev1.AttemptKey{JobId: id, Attempt: p.GetAttempt(), Fence: w.r.index}, node: a.GetNode(), gpus: a.GetGpuUuids()}
		w.live[liveKey(id, a.GetNode())] = l
		w.keys = append(w.keys, l)
	}
}

var worldExits = []*fettlev1.Exit{
	{}, {}, {Code: 1}, {Code: -1, Signal: 15}, {Code: 1, Class: classTransient}, {Class: classDone}, {Class: classPermanent}, {Code: 1, Class: classOOM},
	{Code: -1, NeverStarted: true}, {Code: -1, NeverStarted: true, UserError: true}, {TimedOut: true}, {LeaseExpired: true}, {ShimLost: true}, {OomKilled: true},
}

func (w *world) report(t *rapid.T) {
	w.use(t)
	if len(w.keys) == 0 {
		t.Skip("nothing was dispatched")
	}
	// Recent ones are more interesting.
	i := len(w.keys) - 1 - min(rapid.IntRange(0, 8).Draw(t, "age"), len(w.keys)-1)
	l := w.keys[i]
	key, node := clone(l.key), l.node
	switch rapid.IntRange(0, 11).Draw(t, "lie") {
	case 0:
		key.Fence--
	case 1:
		key.Attempt++
	case 2:
		node = w.anyNode(t)
	}
	kind := fettlev1.ReportKind(rapid.IntRange(1, 4).Draw(t, "kind"))
	var exit *fettlev1.Exit
	if kind >= 3 {
		kind, exit = fettlev1.ReportKind_REPORT_KIND_ENDED, rapid.SampledFrom(worldExits).Draw(t, "exit")
	}
	cur, isLive := w.live[liveKey(key.GetJobId(), node)]
	isLive = isLive && cur.key.GetAttempt() == key.GetAttempt() && cur.key.GetFence() == key.GetFence()
	got := w.r.report(key, node, kind, exit)
	if kind == fettlev1.ReportKind_REPORT_KIND_ENDED {
		if (got == ReportApplied) != isLive {
			t.Fatalf("the end of %v on %s is %s, it is live: %v", key, node, got, isLive)
		}
		if isLive {
			delete(w.live, liveKey(key.GetJobId(), node))
		}
	}
}

func (w *world) hello(name string, fresh bool) {
	n := w.nodes[name]
	e := &raftlogv1.Entry{Actor: system, Op: helloOp(name, fmt.Sprintf("boot-%d", n.boot), inventory(name, worldCPUs, worldGPUs))}
	e.GetNodeHello().FreshJournal = fresh
	n.session, n.state = w.r.ok(e).Session, state.NodeUp
}

// endOn removes what evidence shows to be over on a node.
func (w *world) endOn(name string, only func(l livePart) bool) {
	for k, l := range w.live {
		if l.node == name && only(l) {
			delete(w.live, k)
		}
	}
}

func (w *world) node(t *rapid.T) {
	w.use(t)
	name := w.anyNode(t)
	n := w.nodes[name]
	session := n.session
	stale := rapid.IntRange(0, 3).Draw(t, "stale") == 0
	if stale {
		session--
	}
	everything := func(livePart) bool { return true }
	switch what := rapid.SampledFrom([]string{"reconnect", "journal", "reboot", "lost", "lost", "back", "fence", "fence", "drain", "resume", "resume", "dead"}).Draw(t, "what"); what {
	case "reconnect", "journal":
		w.hello(name, what == "journal")
	case "reboot":
		n.boot++
		w.endOn(name, everything)
		w.hello(name, false)
	case "lost", "back":
		to := state.NodeUnreachable
		if what == "back" {
			to = state.NodeUp
		}
		if w.r.apply(nodeStateOp(name, to, session)).Err == nil {
			if stale || n.state == state.NodeDown {
				t.Fatalf("%s changed to %s from session %d, the newest is %d", name, to, session, n.session)
			}
			n.state = to
		}
	case "fence":
		// The lease runs out only where contact was really lost; jobs without a lease run on.
		err := w.r.apply(fenceOp(name, session)).Err
		if (err == nil) != (!stale && n.state == state.NodeUnreachable) {
			t.Fatalf("fence of %s, which is %s, stale %v: %v", name, n.state, stale, err)
		}
		if err == nil {
			w.endOn(name, func(l livePart) bool { return !w.seen[l.key.GetJobId()].Spec.GetNoRequeue() })
		}
	case "drain":
		w.r.ok(nodeAction(name, drainAction, ""))
	case "resume":
		w.r.ok(nodeAction(name, resumeAction, ""))
	case "dead":
		w.endOn(name, everything)
		w.r.ok(nodeAction(name, deadAction, ""))
		n.state, n.session = state.NodeDown, 0
	}
}

func (w *world) tick(t *rapid.T) { w.r.now += rapid.Int64Range(-1000, 30_000).Draw(t, "ms") }

func (w *world) term(t *rapid.T) {
	w.use(t)
	w.r.newTerm(w.r.term + uint64(rapid.IntRange(0, 2).Draw(t, "more")))
}

func (w *world) purge(t *rapid.T) {
	w.use(t)
	id := w.anyJob(t)
	if w.r.ok(purgeOp(id)).Actions[0].Err == nil {
		if !w.seen[id].Finished() {
			t.Fatalf("job %d was purged as %s", id, model.StateName(w.seen[id].State))
		}
		w.purged[id] = true
	}
}

// check compares the state with the world.
func (w *world) check(t *rapid.T) {
	w.use(t)
	s := w.r.snap()
	for id, old := range w.seen {
		j := s.Job(id)
		switch {
		case w.purged[id]:
			continue
		case j == nil:
			t.Fatalf("job %d is lost", id)
		case old == nil && j.State != model.Pending:
			t.Fatalf("job %d was born %s", id, model.StateName(j.State))
		case old != nil && old.State != j.State && !model.CanMove(old.State, j.State):
			t.Fatalf("job %d moved from %s to %s", id, model.StateName(old.State), model.StateName(j.State))
		case old != nil && old.Finished() && old != j:
			t.Fatalf("job %d changed after its end", id)
		case w.cancelled[id] && j.State != model.Cancelled && !(j.CancelRequested && (j.State == model.Completing || j.State == model.Fencing)):
			t.Fatalf("job %d is %s after its cancel was acknowledged", id, model.StateName(j.State))
		}
		w.seen[id] = j
	}
	parts := 0
	for name := range w.nodes {
		var want []string
		gpus := 0
		for _, l := range w.live {
			if l.node == name {
				want = append(want, fmt.Sprint(l.key.GetJobId()))
				gpus += len(l.gpus)
			}
		}
		var got []string
		for _, id := range s.ActiveOn(name) {
			got = append(got, fmt.Sprint(id))
		}
		slices.Sort(want)
		slices.Sort(got)
		parts += len(want)
		if !slices.Equal(want, got) {
			t.Fatalf("on %s run jobs %v, the state says %v", name, want, got)
		}
		n := s.Node(name)
		if len(n.Held) != gpus || n.CPUsUsed > worldCPUs {
			t.Fatalf("%s holds %v for %d GPUs in use and uses %d CPUs", name, n.Held, gpus, n.CPUsUsed)
		}
	}
	if parts != len(w.live) {
		t.Fatalf("%d parts on nodes, %d live", parts, len(w.live))
	}
}

// replicas applies the whole log again, in batches and from a snapshot in the middle, and wants equal states (I8).
func (w *world) replicas(t *rapid.T) {
	want := w.r.snap()
	replay := func(f *FSM, logs []*raft.Log) {
		for len(logs) > 0 {
			n := rapid.IntRange(1, min(8, len(logs))).Draw(t, "batch")
			f.ApplyBatch(logs[:n])
			logs = logs[n:]
		}
	}
	full := New(state.New(testCluster), Config{})
	replay(full, w.r.log)
	cut := rapid.IntRange(0, len(w.r.log)).Draw(t, "snapshot at")
	early := New(state.New(testCluster), Config{})
	replay(early, w.r.log[:cut])
	var buf bytes.Buffer
	if err := WriteSnapshot(&buf, early.Store().Snapshot()); err != nil {
		t.Fatalf("snapshot after %d entries: %v", cut, err)
	}
	late := New(state.New(testCluster), Config{})
	if err := late.Restore(io.NopCloser(&buf)); err != nil {
		t.Fatalf("restore after %d entries: %v", cut, err)
	}
	replay(late, w.r.log[cut:])
	for name, f := range map[string]*FSM{"a full replay": full, "snapshot and tail": late} {
		s := f.Store().Snapshot()
		if s.Hash() != want.Hash() || s.Index() != want.Index() {
			t.Fatalf("%s leads to another state", name)
		}
		if err := s.Verify(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if len(w.r.fatal) > 0 {
		t.Fatalf("fatal: %s", strings.Join(w.r.fatal, "; "))
	}
}

func worldProperty(t *rapid.T) {
	w := newWorld(t)
	t.Repeat(w.actions())
	w.replicas(t)
}
