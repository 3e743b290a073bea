package fsm

import (
	"testing"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

func TestDispatchCommitsTheAttempt(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2")
	s := script(2, 3, 2)
	s.MemMibPerNode = 1000
	id := r.submit(s)
	k := r.dispatch(id, part(s, "n2", 1, 0), part(s, "n1", 2, 3))
	j := r.job(id)
	a := j.Current()
	if j.State != model.Dispatching || j.Attempt != 1 || a.GetFence() != r.index || a.GetNumber() != 1 || a.GetDispatchMs() != r.now {
		t.Errorf("job = %+v", j)
	}
	// Rank order and GPU order are the plan's.
	if a.GetNodes()[0].GetNode() != "n2" || a.GetNodes()[0].GetGpuUuids()[0] != "GPU-n2-1" {
		t.Errorf("attempt = %v", a)
	}
	for _, name := range []string{"n1", "n2"} {
		n := r.node(name)
		if n.CPUsUsed != 3 || n.MemUsedMiB != 1000 || len(n.Held) != 2 || n.Held[0].JobID != id || n.Held[0].Attempt != 1 {
			t.Errorf("node = %+v", n)
		}
		if on := r.snap().ActiveOn(name); len(on) != 1 || on[0] != id {
			t.Errorf("active on %s: %v", name, on)
		}
	}
	if k.GetFence() != r.index {
		t.Error("the fence is not the entry's index")
	}
}

// Every precondition is checked again in Apply (R5): the plan was made from an older state.
func TestPlacementRefusals(t *testing.T) {
	t.Parallel()
	type world struct {
		r  *rig
		id uint64
		p  *raftlogv1.Placement
	}
	alloc := func(w *world) *fettlev1.NodeAllocation { return w.p.Nodes[0] }
	for name, c := range map[string]struct {
		spec   func(s *fettlev1.JobSpec)
		break_ func(w *world)
		kind   model.Kind
		line   string
	}{
		"unknown job":    {break_: func(w *world) { w.p.JobId = 99 }, kind: model.NotFound, line: "job: 99 does not exist; see fqueue for the jobs there are"},
		"cancelled":      {break_: func(w *world) { w.r.ok(cancelOp(w.id)) }, line: "job: 1 is CANCELLED"},
		"held":           {break_: func(w *world) { w.r.ok(holdOp(w.id)) }, line: "job: 1 is held"},
		"already placed": {break_: func(w *world) { w.r.dispatch(w.id, part(w.r.job(w.id).Spec, "n2", 0)) }, line: "job: 1 is DISPATCHING"},
		"not yet": {break_: func(w *world) {
			w.r.ok(updateJobOp(&fettlev1.UpdateJobRequest{JobId: w.id, BeginMs: proto.Int64(w.r.now + 1)}))
		}, line: "job: 1 may not begin yet"},
		"back-off": {break_: func(w *world) {
			k := w.r.dispatch(w.id, part(w.r.job(w.id).Spec, "n1", 0))
			w.r.ended(k, "n1", &fettlev1.Exit{Code: 1, Class: fettlev1.ExitClass_EXIT_CLASS_TRANSIENT})
			w.p.Attempt = 2
		}, line: "job: 1 waits for its back-off"},
		"stale attempt":    {break_: func(w *world) { w.p.Attempt = 2 }, line: "attempt: 2 is not the next of job 1, that is 1"},
		"attempt 0":        {break_: func(w *world) { w.p.Attempt = 0 }, line: "attempt: 0 is not the next of job 1, that is 1"},
		"too few nodes":    {break_: func(w *world) { w.p.Nodes = nil }, line: "nodes: 0 placed, job 1 asks for 1"},
		"too many nodes":   {break_: func(w *world) { w.p.Nodes = append(w.p.Nodes, part(w.r.job(1).Spec, "n2", 0)) }, line: "nodes: 2 placed, job 1 asks for 1"},
		"a node twice":     {spec: func(s *fettlev1.JobSpec) { s.Nodes = 2 }, break_: func(w *world) { w.p.Nodes = append(w.p.Nodes, part(w.r.job(1).Spec, "n1", 1)) }, line: `nodes: "n1" is placed twice`},
		"unknown node":     {break_: func(w *world) { alloc(w).Node = "n9" }, kind: model.NotFound, line: `node: "n9" does not exist; see finfo for the nodes there are`},
		"unreachable node": {break_: func(w *world) { w.r.ok(nodeStateOp("n1", state.NodeUnreachable, w.r.node("n1").Session)) }, line: "node: n1 is not up"},
		"dead node": {break_: func(w *world) {
			w.r.ok(nodeAction("n1", fettlev1.NodeAction_NODE_ACTION_DECLARE_DEAD, ""))
		}, line: "node: n1 is not up"},
		"drained node": {break_: func(w *world) { w.r.ok(nodeAction("n1", fettlev1.NodeAction_NODE_ACTION_DRAIN, "fan")) }, line: "node: n1 is drained"},
		"partition moved": {break_: func(w *world) {
			w.r.ok(policyOp(&fettlev1.ClusterPolicy{Partitions: []*fettlev1.Partition{{Name: "main", Nodes: "n2"}}}))
		}, line: "node: n1 is not in partition main"},
		"partition gone": {break_: func(w *world) {
			w.r.ok(policyOp(&fettlev1.ClusterPolicy{Partitions: []*fettlev1.Partition{{Name: "other"}}}))
		}, line: `partition: "main" of job 1 does not exist`},
		"partition down": {break_: func(w *world) {
			w.r.ok(policyOp(&fettlev1.ClusterPolicy{Partitions: []*fettlev1.Partition{{Name: "main", Down: true}}}))
		}, line: `partition: "main" is down`},
		"not in nodelist": {spec: func(s *fettlev1.JobSpec) { s.Nodelist = []string{"n2"} }, line: "node: n1 is not in the job's nodelist"},
		"excluded":        {spec: func(s *fettlev1.JobSpec) { s.Exclude = []string{"n1"} }, line: "node: n1 is excluded by the job"},
		"fewer cpus":      {break_: func(w *world) { alloc(w).Cpus = 1 }, line: "cpus: 1 given on n1, the job asks for 2"},
		"more memory":     {break_: func(w *world) { alloc(w).MemMib = 9 }, line: "mem: 9 MiB given on n1, the job asks for 0"},
		"cpus in use": {break_: func(w *world) {
			other := w.r.submit(script(1, 7, 0))
			w.r.dispatch(other, part(w.r.job(other).Spec, "n1"))
		}, line: "cpus: n1 has 7 of 8 in use"},
		"memory in use": {spec: func(s *fettlev1.JobSpec) { s.MemMibPerNode = 65000 }, break_: func(w *world) {
			s := script(1, 1, 0)
			s.MemMibPerNode = 537
			other := w.r.submit(s)
			w.r.dispatch(other, part(w.r.job(other).Spec, "n1"))
		}, line: "mem: n1 has 537 of 65536 MiB in use"},
		"fewer gpus":     {break_: func(w *world) { alloc(w).GpuUuids = nil }, line: "gpus: 0 given on n1, the job asks for 1"},
		"more gpus":      {break_: func(w *world) { alloc(w).GpuUuids = []string{"GPU-n1-0", "GPU-n1-1"} }, line: "gpus: 2 given on n1, the job asks for 1"},
		"a gpu twice":    {spec: func(s *fettlev1.JobSpec) { s.GpusPerNode.Count = 2 }, break_: func(w *world) { alloc(w).GpuUuids = []string{"GPU-n1-0", "GPU-n1-0"} }, line: `gpus: "GPU-n1-0" is given twice`},
		"another's gpu":  {break_: func(w *world) { alloc(w).GpuUuids = []string{"GPU-n2-0"} }, line: `gpus: n1 has no "GPU-n2-0"`},
		"wrong gpu type": {spec: func(s *fettlev1.JobSpec) { s.GpusPerNode.Type = "h200" }, line: `gpus: "GPU-n1-0" on n1 is of type "h100", not "h200"`},
		"gpu held": {break_: func(w *world) {
			other := w.r.submit(script(1, 1, 1))
			w.r.dispatch(other, part(w.r.job(other).Spec, "n1", 0))
		}, line: `gpus: "GPU-n1-0" on n1 is held by job 2`},
		"gpu gone": {break_: func(w *world) {
			w.r.ok(&raftlogv1.Entry{Op: &raftlogv1.Entry_NodeInventory{NodeInventory: &raftlogv1.NodeInventory{Node: "n1", Session: w.r.node("n1").Session, Inventory: inventory("n1", 8, 0)}}})
		}, line: `gpus: n1 has no "GPU-n1-0"`},
		"gpu unhealthy": {break_: func(w *world) {
			inv := inventory("n1", 8, 4)
			inv.Gpus[0].Unhealthy = true
			w.r.ok(&raftlogv1.Entry{Op: &raftlogv1.Entry_NodeInventory{NodeInventory: &raftlogv1.NodeInventory{Node: "n1", Session: w.r.node("n1").Session, Inventory: inv}}})
		}, line: `gpus: "GPU-n1-0" on n1 is unhealthy`},
		"pinned index": {spec: func(s *fettlev1.JobSpec) { s.DeviceIndexes = []uint32{3} }, line: "device: not all of the job's pinned GPUs are given on n1"},
		"pinned uuid":  {spec: func(s *fettlev1.JobSpec) { s.DeviceUuids = []string{"GPU-n1-3"} }, line: `device: the pinned "GPU-n1-3" is not given`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &world{r: up(t, "n1", "n2")}
			s := script(1, 2, 1)
			if c.spec != nil {
				c.spec(s)
			}
			w.id = w.r.submit(s)
			w.p = &raftlogv1.Placement{JobId: w.id, Attempt: 1, Nodes: []*fettlev1.NodeAllocation{part(s, "n1", 0)}}
			if c.break_ != nil {
				c.break_(w)
			}
			kind := c.kind
			if kind == 0 {
				kind = model.Conflict
			}
			before := w.r.snap()
			wantRefusal(t, w.r.ok(w.r.planOp(w.p)).Placements[0].Err, kind, c.line)
			if w.r.snap().Job(w.id) != before.Job(w.id) || w.r.snap().Node("n1") != before.Node("n1") {
				t.Error("a refused placement changed something")
			}
		})
	}
}

func TestPlacementsHonourPins(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2")
	for _, s := range []*fettlev1.JobSpec{
		{Nodelist: []string{"n1"}}, {Exclude: []string{"n2"}}, {DeviceIndexes: []uint32{1}}, {DeviceUuids: []string{"GPU-n1-1"}}, {GpusPerNode: &fettlev1.GPURequest{Type: "h100", Count: 1}},
	} {
		s.Script = []byte("#!/bin/sh\n")
		if s.GpusPerNode == nil {
			s.GpusPerNode = &fettlev1.GPURequest{Count: 1}
		}
		id := r.submit(s)
		k := r.dispatch(id, part(r.job(id).Spec, "n1", 1))
		r.ended(k, "n1", &fettlev1.Exit{})
	}
}

// One gang's refusal leaves nothing behind, and later placements of the plan see what earlier ones took.
func TestPlanItemsStandAlone(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2")
	gang, one, two := r.submit(script(2, 1, 4)), r.submit(script(1, 1, 3)), r.submit(script(1, 1, 2))
	bad := part(r.job(gang).Spec, "n2", 0, 1, 2)
	bad.GpuUuids = append(bad.GpuUuids, "GPU-x")
	res := r.ok(r.planOp(
		&raftlogv1.Placement{JobId: gang, Attempt: 1, Nodes: []*fettlev1.NodeAllocation{part(r.job(gang).Spec, "n1", 0, 1, 2, 3), bad}},
		&raftlogv1.Placement{JobId: one, Attempt: 1, Nodes: []*fettlev1.NodeAllocation{part(r.job(one).Spec, "n1", 0, 1, 2)}},
		&raftlogv1.Placement{JobId: two, Attempt: 1, Nodes: []*fettlev1.NodeAllocation{part(r.job(two).Spec, "n1", 2, 3)}},
		&raftlogv1.Placement{JobId: one, Attempt: 1, Nodes: []*fettlev1.NodeAllocation{part(r.job(one).Spec, "n2", 0, 1, 2)}},
	))
	wantRefusal(t, res.Placements[0].Err, model.Conflict, `gpus: n2 has no "GPU-x"`)
	if res.Placements[1].Err != nil {
		t.Errorf("the second is refused: %v", res.Placements[1].Err)
	}
	wantRefusal(t, res.Placements[2].Err, model.Conflict, `gpus: "GPU-n1-2" on n1 is held by job 2`)
	wantRefusal(t, res.Placements[3].Err, model.Conflict, "job: 2 is DISPATCHING")
	r.wantState(gang, model.Pending)
	r.wantState(two, model.Pending)
	r.wantIdle("n2")
}

func TestPlanRefusedWhole(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	id := r.submit(script(1, 1, 0))
	p := &raftlogv1.Placement{JobId: id, Attempt: 1, Nodes: []*fettlev1.NodeAllocation{part(r.job(id).Spec, "n1")}}
	for _, term := range []uint64{0, 1, 3} {
		e := r.planOp(p)
		e.GetPlan().Term = term
		err := r.apply(e).Err
		if err == nil || err.Kind != model.Conflict {
			t.Errorf("a plan of term %d in term 2: %v", term, err)
		}
	}
	many := make([]*raftlogv1.Placement, model.MaxPlacementsPerEntry+1)
	for i := range many {
		many[i] = p
	}
	wantRefusal(t, r.apply(r.planOp(many...)).Err, model.Invalid, "placements: 1001 in one request, the limit is 1000; split the request")
	wide := &raftlogv1.Placement{Nodes: make([]*fettlev1.NodeAllocation, model.MaxAllocationsPerEntry+1)}
	for i := range wide.Nodes {
		wide.Nodes[i] = &fettlev1.NodeAllocation{}
	}
	wantRefusal(t, r.apply(r.planOp(wide)).Err, model.Invalid, "allocations: 8193 in one request, the limit is 8192; split the request")
	r.wantState(id, model.Pending)
}

// The log's clock decides when a delayed job may start, and it never goes back.
func TestClockOnlyMovesForward(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	s := script(1, 1, 0)
	s.BeginMs = r.now + 100
	id := r.submit(s)
	r.now += 100
	r.ok(holdOp(id))
	r.ok(releaseOp(id))
	r.now -= 90
	r.dispatch(id, part(r.job(id).Spec, "n1"))
	if got := r.job(id).Current().GetDispatchMs(); got != r.now+90 {
		t.Errorf("dispatched at %d, want %d", got, r.now+90)
	}
}
