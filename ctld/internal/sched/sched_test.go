package sched

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// world builds a state: nodes with GPUs of a type, and waiting jobs.
type world struct {
	store *state.Store
	index uint64
	jobs  []uint64
}

func newWorld() *world { return &world{store: state.New("test")} }

func (w *world) change(f func(*state.Txn)) {
	b := w.store.Batch()
	defer b.Publish()
	w.index++
	b.Advance(w.index, 1000)
	t := b.Begin()
	f(t)
	t.Commit()
}

func (w *world) node(name, typ string, gpus int, edit ...func(*state.Node)) {
	inv := &fettlev1.Inventory{Cpus: 16, MemoryMib: 64_000}
	for i := range gpus {
		inv.Gpus = append(inv.Gpus, &fettlev1.GPU{Index: uint32(i), Uuid: fmt.Sprintf("%s-%d", name, i), Type: typ})
	}
	n := &state.Node{Name: name, State: state.NodeUp, Inventory: inv}
	for _, e := range edit {
		e(n)
	}
	w.change(func(t *state.Txn) { t.AddNode(n) })
}

func (w *world) job(spec *fettlev1.JobSpec) uint64 {
	model.NormalizeSpec(spec)
	if spec.Partition == "" {
		spec.Partition = model.DefaultPartition
	}
	var id uint64
	w.change(func(t *state.Txn) {
		key := fmt.Sprint(len(w.jobs))
		id = t.AddJob(&state.Job{Spec: spec, User: "u", RequestID: key, SubmitHash: sha256.Sum256([]byte(key)), State: fettlev1.JobState_JOB_STATE_PENDING, EligibleMS: 1000, Held: spec.Hold})
	})
	w.jobs = append(w.jobs, id)
	return id
}

func (w *world) cycle(order ...uint64) CyclePlan {
	if order == nil {
		order = w.jobs
	}
	return Cycle(Input{Snapshot: w.store.Snapshot(), NowMS: 10_000, Order: slices.Values(order)})
}

func started(p CyclePlan) []uint64 {
	var ids []uint64
	for _, pl := range p.Placements {
		ids = append(ids, pl.GetJobId())
	}
	return ids
}

func gpus(n uint32) *fettlev1.JobSpec {
	return &fettlev1.JobSpec{GpusPerNode: &fettlev1.GPURequest{Count: n}}
}

func typed(typ string, n uint32) *fettlev1.JobSpec {
	return &fettlev1.JobSpec{GpusPerNode: &fettlev1.GPURequest{Type: typ, Count: n}}
}

func TestOrderIsStrict(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.node("n1", "h100", 4)
	big, small := w.job(gpus(8)), w.job(gpus(1))
	p := w.cycle()
	// Nobody can ever hold 8 GPUs on one node here: such a job must not block the small one.
	if got := started(p); !cmp.Equal(got, []uint64{small}) {
		t.Errorf("started %v, want only %d", got, small)
	}
	if p.Waits[big].Reason != fettlev1.Reason_REASON_NO_SUITABLE_NODE {
		t.Errorf("reason of the impossible job: %v", p.Waits[big].Reason)
	}
}

func TestBlockedJobIsNotOvertaken(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.node("n1", "h100", 4, func(n *state.Node) {
		n.Take(99, 1, &fettlev1.NodeAllocation{GpuUuids: []string{"n1-0"}, Cpus: 1})
	})
	four, one := w.job(gpus(4)), w.job(gpus(1))
	p := w.cycle()
	if got := started(p); len(got) != 0 {
		t.Errorf("started %v although the first in line waits for all four cards", got)
	}
	if p.Waits[four].Reason != fettlev1.Reason_REASON_RESOURCES {
		t.Errorf("first in line waits for %v, want resources", p.Waits[four].Reason)
	}
	if r := WaitOf(w.store.Snapshot().Job(one), func(id uint64) (Wait, bool) { found, ok := p.Waits[id]; return found, ok }, 10_000).Reason; r != fettlev1.Reason_REASON_PRIORITY {
		t.Errorf("second in line waits for %v, want priority", r)
	}
}

func TestBlockedJobKeepsOnlyNodesItCouldUse(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.node("a1", "a100", 4)
	w.node("h1", "h100", 2, func(n *state.Node) {
		n.Take(99, 1, &fettlev1.NodeAllocation{GpuUuids: []string{"h1-0"}, Cpus: 1})
	})
	wants := w.job(typed("h100", 2))
	other := w.job(typed("a100", 1))
	anyType := w.job(gpus(1))
	p := w.cycle()
	if got := started(p); !cmp.Equal(got, []uint64{other, anyType}) {
		t.Errorf("started %v, want %v: they use cards the blocked job never could", got, []uint64{other, anyType})
	}
	for _, pl := range p.Placements {
		if pl.GetNodes()[0].GetNode() == "h1" {
			t.Errorf("job %d was put on the node that job %d waits for", pl.GetJobId(), wants)
		}
	}
}

func TestGangIsAllOrNothing(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.node("n1", "h100", 8)
	w.node("n2", "h100", 8, func(n *state.Node) {
		n.Take(99, 1, &fettlev1.NodeAllocation{GpuUuids: []string{"n2-0"}, Cpus: 1})
	})
	spec := gpus(8)
	spec.Nodes = 2
	gang := w.job(spec)
	if p := w.cycle(); len(p.Placements) != 0 || p.Waits[gang].Reason != fettlev1.Reason_REASON_RESOURCES {
		t.Errorf("plan %v, waits %v", p.Placements, p.Waits)
	}
	w.node("n3", "h100", 8)
	p := w.cycle()
	if len(p.Placements) != 1 || p.Placements[0].GetNodes()[0].GetNode() != "n1" || p.Placements[0].GetNodes()[1].GetNode() != "n3" {
		t.Errorf("plan %v, want ranks on n1 and n3", p.Placements)
	}
}

func TestNotYetEligible(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.node("n1", "h100", 1)
	held := w.job(&fettlev1.JobSpec{Hold: true})
	later := w.job(&fettlev1.JobSpec{BeginMs: 60_000})
	retry := w.job(gpus(1))
	w.change(func(t *state.Txn) { t.EditJob(retry).RetryAtMS = 20_000 })
	now := w.job(gpus(1))
	p := w.cycle()
	if got := started(p); !cmp.Equal(got, []uint64{now}) {
		t.Errorf("started %v, want %d: jobs that may not start block nobody", got, now)
	}
	want := map[uint64]fettlev1.Reason{
		held: fettlev1.Reason_REASON_HELD_BY_USER, later: fettlev1.Reason_REASON_BEGIN_TIME, retry: fettlev1.Reason_REASON_BACKOFF,
	}
	for id, r := range want {
		if p.Waits[id].Reason != r {
			t.Errorf("job %d waits for %v, want %v", id, p.Waits[id].Reason, r)
		}
	}
	if p.WakeMS != 20_000 {
		t.Errorf("wake at %d, want 20000, the earliest", p.WakeMS)
	}
}

func TestUnavailableNodesBlockNobody(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.node("n1", "h100", 1, func(n *state.Node) { n.Drained = true })
	w.node("n2", "h100", 1)
	w.node("n3", "h100", 1, func(n *state.Node) { n.State = state.NodeUnreachable })
	pinned := w.job(&fettlev1.JobSpec{GpusPerNode: &fettlev1.GPURequest{Count: 1}, Nodelist: []string{"n1"}})
	free := w.job(gpus(1))
	p := w.cycle()
	if got := started(p); !cmp.Equal(got, []uint64{free}) || p.Placements[0].GetNodes()[0].GetNode() != "n2" {
		t.Errorf("plan %v, want job %d on n2", p.Placements, free)
	}
	if p.Waits[pinned].Reason != fettlev1.Reason_REASON_NODES_UNAVAILABLE {
		t.Errorf("the pinned job waits for %v", p.Waits[pinned].Reason)
	}
}

func TestNodeWithoutSessionTakesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.node("n1", "h100", 1)
	w.job(gpus(1))
	p := Cycle(Input{
		Snapshot: w.store.Snapshot(), NowMS: 10_000, Order: slices.Values(w.jobs), Connected: func(string) bool { return false },
	})
	if len(p.Placements) != 0 {
		t.Errorf("placed on a node that the leader has no session with: %v", p.Placements)
	}
}

func TestPartitionLimitsNodes(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.change(func(t *state.Txn) {
		if fe := t.SetPolicy(&fettlev1.ClusterPolicy{Partitions: []*fettlev1.Partition{
			{Name: "main", IsDefault: true}, {Name: "dev", Nodes: "n[2-3]"}, {Name: "off", Down: true},
		}}); fe != nil {
			panic(fe)
		}
	})
	w.node("n1", "h100", 4)
	w.node("n2", "h100", 1)
	dev, off := gpus(1), gpus(1)
	dev.Partition, off.Partition = "dev", "off"
	d, o := w.job(dev), w.job(off)
	p := w.cycle()
	if got := started(p); !cmp.Equal(got, []uint64{d}) || p.Placements[0].GetNodes()[0].GetNode() != "n2" {
		t.Errorf("plan %v, want job %d on n2", p.Placements, d)
	}
	if p.Waits[o].Reason != fettlev1.Reason_REASON_PARTITION_DOWN {
		t.Errorf("job in a partition that is down waits for %v", p.Waits[o].Reason)
	}
}

func TestPlanIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.node("n1", "h100", 0)
	for range 8 {
		w.job(&fettlev1.JobSpec{})
	}
	p := Cycle(Input{Snapshot: w.store.Snapshot(), NowMS: 1, Order: slices.Values(w.jobs), MaxPlacements: 3})
	if len(p.Placements) != 3 || !p.More {
		t.Errorf("%d placements, more %v; want 3 and more", len(p.Placements), p.More)
	}
}

// TestNeverOvertaken checks, for random clusters and queues, that a started job never uses a node that a blocked job
// ahead of it could use, that nothing is given twice, and that equal input gives an equal plan.
func TestNeverOvertaken(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		for i := range rapid.IntRange(1, 5).Draw(t, "nodes") {
			name := fmt.Sprintf("n%d", i)
			typ := rapid.SampledFrom([]string{"h100", "a100"}).Draw(t, "type")
			total := rapid.IntRange(0, 4).Draw(t, "gpus")
			taken := rapid.IntRange(0, total).Draw(t, "taken")
			w.node(name, typ, total, func(n *state.Node) {
				for k := range taken {
					n.Take(999, 1, &fettlev1.NodeAllocation{GpuUuids: []string{fmt.Sprintf("%s-%d", name, k)}})
				}
			})
		}
		for range rapid.IntRange(1, 12).Draw(t, "jobs") {
			spec := typed(rapid.SampledFrom([]string{"", "h100", "a100"}).Draw(t, "want"), uint32(rapid.IntRange(0, 4).Draw(t, "count")))
			spec.Nodes = uint32(rapid.IntRange(1, 3).Draw(t, "span"))
			w.job(spec)
		}
		p := w.cycle()
		if diff := cmp.Diff(p, w.cycle(), protocmp.Transform()); diff != "" {
			t.Fatalf("equal input, different plans: %s", diff)
		}
		placed := map[uint64]int{}
		used := map[string]bool{}
		for i, pl := range p.Placements {
			placed[pl.GetJobId()] = i
			for _, a := range pl.GetNodes() {
				for _, u := range a.GetGpuUuids() {
					if used[u] {
						t.Fatalf("card %s given twice", u)
					}
					used[u] = true
				}
			}
		}
		c := newCycle(Input{Snapshot: w.store.Snapshot()})
		blocked := map[string]uint64{}
		for _, id := range w.jobs {
			j := w.store.Snapshot().Job(id)
			if i, ok := placed[id]; ok {
				for _, a := range p.Placements[i].GetNodes() {
					if by, kept := blocked[a.GetNode()]; kept {
						t.Fatalf("job %d overtook job %d on %s", id, by, a.GetNode())
					}
				}
				continue
			}
			req := RequestOf(j.Spec)
			if el := c.cluster.Eligible(&req); el.Len() >= req.Nodes {
				for n := range el.All() {
					blocked[c.cluster.Name(n)] = id
				}
			}
		}
	})
}

func TestLauncherMustBeInstalled(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.node("n1", "h100", 1)
	w.node("n2", "h100", 1, func(n *state.Node) { n.Inventory.Methods = []string{"lora"} })
	lora, full := gpus(1), gpus(1)
	lora.Method, full.Method = "lora", "full"
	l, f := w.job(lora), w.job(full)
	p := w.cycle()
	if got := started(p); !cmp.Equal(got, []uint64{l}) || p.Placements[0].GetNodes()[0].GetNode() != "n2" {
		t.Errorf("plan %v, want job %d on n2, which has its launcher", p.Placements, l)
	}
	if p.Waits[f].Reason != fettlev1.Reason_REASON_NO_SUITABLE_NODE {
		t.Errorf("a job whose launcher no node has waits for %v", p.Waits[f].Reason)
	}
}

// A plan must fit into one entry of the log, however many nodes and GPUs its jobs get.
func TestPlansFitIntoTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld()
	const nodes, cards = 900, 16
	for i := range nodes {
		name := fmt.Sprintf("node-with-a-long-name-%04d", i)
		w.node(name, "h100", cards, func(n *state.Node) {
			for g, gpu := range n.Inventory.Gpus {
				gpu.Uuid = fmt.Sprintf("GPU-%08d-%s-%04d", i, "aaaa-bbbb-cccc", g)
			}
		})
	}
	wide := func(n uint32) *fettlev1.JobSpec {
		s := gpus(cards)
		s.Nodes = n
		return s
	}
	huge, first, second, third := w.job(wide(700)), w.job(wide(400)), w.job(wide(400)), w.job(wide(50))
	p := w.cycle()
	if got := started(p); !cmp.Equal(got, []uint64{first}) || !p.More {
		t.Errorf("started %v, more %v; want only job %d and another cycle", got, p.More, first)
	}
	if r := p.Waits[huge]; r.Reason != fettlev1.Reason_REASON_NO_SUITABLE_NODE || r.Detail == "" {
		t.Errorf("a job that no entry can hold waits for %v", r)
	}
	entry := &raftlogv1.Entry{Op: &raftlogv1.Entry_Plan{Plan: &raftlogv1.ApplyPlan{Term: 9, Placements: p.Placements}}}
	if size := proto.Size(entry); size > model.MaxEntryBytes-4096 {
		t.Errorf("the plan has %d bytes", size)
	}
	w.change(func(t *state.Txn) { t.EditJob(first).State = fettlev1.JobState_JOB_STATE_CANCELLED })
	if got := started(w.cycle()); !cmp.Equal(got, []uint64{second, third}) {
		t.Errorf("then started %v, want %v", got, []uint64{second, third})
	}
}

// A job that is pinned to a card on a node that is away keeps nothing: the nodes that could complete it work on.
func TestPinnedNodeAway(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.node("n1", "h100", 1, func(n *state.Node) { n.State = state.NodeUnreachable })
	w.node("n2", "h100", 1)
	w.node("n3", "h100", 1)
	spec := gpus(1)
	spec.Nodes, spec.DeviceUuids = 2, []string{"n1-0"}
	pinned, other := w.job(spec), w.job(gpus(1))
	p := w.cycle()
	if got := started(p); !cmp.Equal(got, []uint64{other}) {
		t.Errorf("started %v, want %d", got, other)
	}
	if r := p.Waits[pinned].Reason; r != fettlev1.Reason_REASON_NODES_UNAVAILABLE {
		t.Errorf("the pinned job waits for %v", r)
	}
}
