package sched

import (
	"fmt"
	"slices"
	"testing"

	"github.com/fettle-hpc/fettle/ctld/internal/place"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// world is a planner with the partition main on all nodes, and what it was told.
type world struct {
	*Planner
	next uint64
}

func newWorld(opt Options, parts ...Partition) *world {
	w := &world{Planner: NewPlanner(opt)}
	if len(parts) == 0 {
		parts = []Partition{{Name: "main"}}
	}
	w.SetPolicy(Policy{Partitions: parts})
	return w
}

func node(name, typ string, gpus int, edit ...func(*Node)) Node {
	n := Node{Node: place.Node{Name: name, Ready: true, CPUs: 16, MemMiB: 64_000}}
	for i := range gpus {
		n.GPUs = append(n.GPUs, place.GPU{UUID: fmt.Sprintf("%s-%d", name, i), Type: typ, Index: uint32(i), Usable: true})
	}
	for _, e := range edit {
		e(&n)
	}
	return n
}

// job adds a job with one CPU a node and a score as late as its number.
func (w *world) job(needs Needs, edit ...func(*Job)) uint64 {
	w.next++
	if needs.Partition == "" {
		needs.Partition = "main"
	}
	needs.Request.CPUs = max(needs.Request.CPUs, 1)
	j := Job{ID: w.next, Score: int64(w.next) * 1000, Needs: &needs, User: "u", EligibleMS: 1000}
	for _, e := range edit {
		e(&j)
	}
	w.SetJob(j)
	return j.ID
}

// runs adds a job that holds cards of a node, by their numbers.
func (w *world) runs(n string, cards []int, edit ...func(*Running)) uint64 {
	w.next++
	a := &fettlev1.NodeAllocation{Node: n, Cpus: 1}
	for _, c := range cards {
		a.GpuUuids = append(a.GpuUuids, fmt.Sprintf("%s-%d", n, c))
	}
	r := Running{ID: w.next, Allocs: []*fettlev1.NodeAllocation{a}, User: "u", Partition: "main", StartMS: 1000}
	for _, e := range edit {
		e(&r)
	}
	w.SetRunning(r)
	return r.ID
}

func gpus(n int) Needs { return Needs{Request: place.Request{GPUs: n}} }

func typed(typ string, n int) Needs { return Needs{Request: place.Request{GPUs: n, GPUType: typ}} }

func gang(nodes, n int) Needs { return Needs{Request: place.Request{Nodes: nodes, GPUs: n}} }

func limit(s int64) func(*Job) { return func(j *Job) { j.LimitS = s } }

func endsAt(ms int64) func(*Running) { return func(r *Running) { r.PredictedEndMS = ms } }

func started(p Plan) []uint64 {
	var ids []uint64
	for _, pl := range p.Placements {
		ids = append(ids, pl.Job)
	}
	return ids
}

const now = 10_000

func wantStarted(t *testing.T, p Plan, want ...uint64) {
	t.Helper()
	if got := started(p); !slices.Equal(got, want) {
		t.Errorf("started %v, want %v (waits %v)", got, want, p.Waits)
	}
}

func wantReason(t *testing.T, p Plan, id uint64, want fettlev1.Reason) {
	t.Helper()
	if w, ok := p.Waits[id]; !ok && want != fettlev1.Reason_REASON_PRIORITY || ok && w.Reason != want {
		t.Errorf("job %d waits for %v, want %v", id, w, want)
	}
}

func TestImpossibleJobBlocksNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	w.SetNode(node("n1", "h100", 4))
	big, small := w.job(gpus(8)), w.job(gpus(1))
	p := w.Plan(now)
	wantStarted(t, p, small)
	wantReason(t, p, big, fettlev1.Reason_REASON_NO_SUITABLE_NODE)
	// A node that could hold it makes it a job like any other.
	w.SetNode(node("n2", "h100", 8))
	wantStarted(t, w.Plan(now), big, small)
	w.RemoveNode("n2")
	wantStarted(t, w.Plan(now), small)
}

func TestBlockedJobIsNotOvertaken(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	w.SetNode(node("n1", "h100", 4))
	w.runs("n1", []int{0})
	four, one := w.job(gpus(4)), w.job(gpus(1))
	p := w.Plan(now)
	wantStarted(t, p)
	wantReason(t, p, four, fettlev1.Reason_REASON_RESOURCES)
	wantReason(t, p, one, fettlev1.Reason_REASON_PRIORITY)
}

func TestBlockedJobKeepsOnlyWhatItCouldUse(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	w.SetNode(node("a1", "a100", 4))
	w.SetNode(node("h1", "h100", 2))
	w.runs("h1", []int{0})
	wants, other, anyType := w.job(typed("h100", 2)), w.job(typed("a100", 1)), w.job(gpus(1))
	p := w.Plan(now)
	wantStarted(t, p, other, anyType)
	for _, pl := range p.Placements {
		if pl.Allocs[0].GetNode() == "h1" {
			t.Errorf("job %d was put on the node that job %d waits for", pl.Job, wants)
		}
	}
}

// Backfill: what is gone by the time at which the blocked job can start goes ahead, and what leaves its cards alone.
func TestBackfill(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	w.SetNode(node("n1", "h100", 4))
	w.SetNode(node("n2", "h100", 4))
	w.runs("n1", []int{0, 1}, endsAt(now+100_000))
	w.runs("n2", []int{0, 1, 2}, endsAt(now+900_000))
	head := w.job(gpus(4))
	long := w.job(gpus(2), limit(500)) // would be on n1 when the head can start
	endless := w.job(gpus(1))          // n2 has a card that the head does not wait for
	short := w.job(gpus(2), limit(100))
	p := w.Plan(now)
	wantStarted(t, p, endless, short)
	if got := p.Placements[0].Allocs[0].GetNode(); got != "n2" {
		t.Errorf("a job without a limit was put on %s, which the head waits for", got)
	}
	if !p.Placements[1].Backfilled || p.Placements[1].Allocs[0].GetNode() != "n1" {
		t.Errorf("the short job: %+v, want it on n1 ahead of the head", p.Placements[1])
	}
	wantReason(t, p, head, fettlev1.Reason_REASON_RESOURCES)
	wantReason(t, p, long, fettlev1.Reason_REASON_PRIORITY)
	if p.Heads[0].Job != head || p.Heads[0].ShadowMS != now+100_000 || p.Heads[0].Allocs[0].GetNode() != "n1" {
		t.Errorf("heads %+v, want job %d on n1 in 100 s", p.Heads, head)
	}
}

// A prediction stands in for a limit that there is not, until the head has waited for long.
func TestPredictionsAreTrustedForATime(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	w.SetNode(node("n1", "h100", 4))
	w.runs("n1", []int{0, 1}, endsAt(now+100_000))
	w.job(gpus(4), func(j *Job) { j.EligibleMS = now })
	slow := w.job(gpus(1), func(j *Job) { j.EstimateS = 90 }) // a fifth more is 108 s
	quick := w.job(gpus(1), func(j *Job) { j.EstimateS = 80 })
	sure := w.job(gpus(1), limit(100))
	wantStarted(t, w.Plan(now), quick, sure)
	later := now + DefaultTrust.Milliseconds()
	w.runs("n1", []int{0, 1}, endsAt(later+100_000))
	w.Remove(1)
	wantStarted(t, w.Plan(later), sure)
	_ = slow
}

// Each class of cards has its own reservation: a blocked job of one holds up nothing of another.
func TestReservationPerClass(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	for _, typ := range []string{"a100", "h100"} {
		w.SetNode(node(typ, typ, 4))
		w.runs(typ, []int{0}, endsAt(now+100_000))
		w.job(typed(typ, 4))
		w.job(typed(typ, 4))
	}
	late, fits := w.job(typed("a100", 1), limit(1000)), w.job(typed("h100", 3), limit(60))
	p := w.Plan(now)
	wantStarted(t, p, fits)
	if len(p.Heads) != 2 {
		t.Errorf("heads %+v, want one of each type", p.Heads)
	}
	_ = late
}

func TestDepthKeepsTheSecondTooOnlyWhenAsked(t *testing.T) {
	t.Parallel()
	for depth, want := range map[int]int{1: 1, 2: 0} {
		w := newWorld(Options{Depth: depth})
		for i := range 2 {
			name := fmt.Sprintf("n%d", i)
			w.SetNode(node(name, "h100", 4))
			w.runs(name, []int{0}, endsAt(now+100_000*int64(i+1)))
		}
		w.job(gpus(4))
		w.job(gpus(4))
		w.job(gpus(1))
		if got := len(w.Plan(now).Placements); got != want {
			t.Errorf("depth %d: %d jobs started, want %d", depth, got, want)
		}
	}
}

func TestGangIsAllOrNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	w.SetNode(node("n1", "h100", 8))
	w.SetNode(node("n2", "h100", 8))
	w.runs("n2", []int{0}, endsAt(now+60_000))
	g := w.job(gang(2, 8))
	small := w.job(gpus(2), limit(61))
	p := w.Plan(now)
	wantStarted(t, p)
	wantReason(t, p, g, fettlev1.Reason_REASON_RESOURCES)
	w.SetNode(node("n3", "h100", 8))
	p = w.Plan(now)
	wantStarted(t, p, g, small)
	if a := p.Placements[0].Allocs; a[0].GetNode() != "n1" || a[1].GetNode() != "n3" {
		t.Errorf("ranks on %v", a)
	}
}

func TestUnavailableNodesBlockNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	down := func(n *Node) { n.Ready = false }
	w.SetNode(node("n1", "h100", 1, down))
	w.SetNode(node("n2", "h100", 1))
	w.SetNode(node("n3", "h100", 1, down))
	pinned := w.job(Needs{Request: place.Request{GPUs: 1, Nodelist: []string{"n1"}}})
	devices := w.job(Needs{Request: place.Request{GPUs: 1, Nodes: 2, DeviceUUIDs: []string{"n3-0"}}})
	free := w.job(gpus(1))
	p := w.Plan(now)
	wantStarted(t, p, free)
	wantReason(t, p, pinned, fettlev1.Reason_REASON_NODES_UNAVAILABLE)
	wantReason(t, p, devices, fettlev1.Reason_REASON_NODES_UNAVAILABLE)
}

func TestPartitionLimitsNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{}, Partition{Name: "dev", Allows: func(n string) bool { return n == "n2" }}, Partition{Name: "off", Down: true})
	w.SetNode(node("n1", "h100", 4))
	w.SetNode(node("n2", "h100", 1))
	dev, off, none := gpus(1), gpus(1), gpus(1)
	dev.Partition, off.Partition, none.Partition = "dev", "off", "gone"
	d, o, n := w.job(dev), w.job(off), w.job(none)
	p := w.Plan(now)
	wantStarted(t, p, d)
	if p.Placements[0].Allocs[0].GetNode() != "n2" {
		t.Errorf("placed on %v", p.Placements[0].Allocs)
	}
	wantReason(t, p, o, fettlev1.Reason_REASON_PARTITION_DOWN)
	wantReason(t, p, n, fettlev1.Reason_REASON_PARTITION_DOWN)
}

func TestLauncherMustBeInstalled(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	w.SetNode(node("n1", "h100", 1))
	w.SetNode(node("n2", "h100", 1, func(n *Node) { n.Methods = []string{"lora"} }))
	lora, full := gpus(1), gpus(1)
	lora.Method, full.Method = "lora", "full"
	l, f := w.job(lora), w.job(full)
	p := w.Plan(now)
	wantStarted(t, p, l)
	wantReason(t, p, f, fettlev1.Reason_REASON_NO_SUITABLE_NODE)
	if p.Placements[0].Allocs[0].GetNode() != "n2" {
		t.Errorf("placed on %v", p.Placements[0].Allocs)
	}
}

func TestPlanIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{MaxPlacements: 3})
	w.SetNode(node("n1", "h100", 0))
	for range 8 {
		w.job(Needs{})
	}
	if p := w.Plan(now); len(p.Placements) != 3 || !p.More {
		t.Errorf("%d placements, more %v; want 3 and more", len(p.Placements), p.More)
	}
}

// A plan must fit into one entry of the log, however many nodes and GPUs its jobs get.
func TestPlansFitIntoTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	const nodes, cards = 900, 16
	for i := range nodes {
		n := node(fmt.Sprintf("node-with-a-long-name-%04d", i), "h100", cards)
		for g := range n.GPUs {
			n.GPUs[g].UUID = fmt.Sprintf("GPU-%08d-%s-%04d", i, "aaaa-bbbb-cccc", g)
		}
		w.SetNode(n)
	}
	huge, first, second, third := w.job(gang(700, cards)), w.job(gang(400, cards)), w.job(gang(400, cards)), w.job(gang(50, cards))
	p := w.Plan(now)
	wantStarted(t, p, first)
	if !p.More {
		t.Error("no other plan follows")
	}
	if r := p.Waits[huge]; r.Reason != fettlev1.Reason_REASON_NO_SUITABLE_NODE || r.Detail == "" {
		t.Errorf("a job that no entry can hold waits for %v", r)
	}
	w.Remove(first)
	wantStarted(t, w.Plan(now), second, third)
}

func TestArrayStartsElementsUpToItsBound(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	w.SetNode(node("n1", "h100", 8))
	arr := w.job(gpus(1), func(j *Job) {
		j.Array, j.ArrayMax = []Range{{First: 3, Last: 7, Step: 2}, {First: 20, Last: 90, Step: 1}}, 5
	})
	w.runs("n1", []int{7}, func(r *Running) { r.ArrayID = arr })
	after := w.job(gpus(1))
	p := w.Plan(now)
	var got []int
	for _, pl := range p.Placements {
		if pl.Job == arr {
			got = append(got, pl.Index)
		}
	}
	if !slices.Equal(got, []int{3, 5, 7, 20}) {
		t.Errorf("elements %v, want the first four: one runs already", got)
	}
	wantReason(t, p, arr, fettlev1.Reason_REASON_ARRAY_LIMIT)
	if got := started(p); !slices.Contains(got, after) {
		t.Errorf("the job behind did not start: %v", got)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	pol := Policy{
		Partitions:  []Partition{{Name: "main", Limits: Limits{GPUs: 7}}},
		Projects:    []Project{{Name: "lab", Limits: Limits{GPUs: 4}}, {Name: "team", Parent: "lab"}},
		Users:       map[string]Limits{"vip": {}, "spent": {GPUMS: 3_600_000, WindowMS: 86_400_000}},
		UserDefault: Limits{Jobs: 2},
	}
	w := newWorld(Options{})
	w.SetPolicy(pol)
	w.SetNode(node("n1", "h100", 16))
	as := func(user, project string) func(*Job) { return func(j *Job) { j.User, j.Project = user, project } }
	w.runs("n1", []int{0}, func(r *Running) { r.User, r.Project = "vip", "team" })
	team := w.job(gpus(4), as("vip", "team"))
	lab := w.job(gpus(3), as("vip", "lab"))
	a, b, c := w.job(gpus(1), as("ada", "")), w.job(gpus(1), as("ada", "")), w.job(gpus(1), as("ada", ""))
	w.SetUsage(Scope{ScopeUser, "spent"}, 3_600_000)
	spent := w.job(gpus(1), as("spent", ""))
	d, e := w.job(gpus(1), as("bob", "")), w.job(gpus(1), as("bob", ""))
	p := w.Plan(now)
	wantStarted(t, p, lab, a, b, d)
	wantReason(t, p, team, fettlev1.Reason_REASON_LIMIT_PROJECT)
	wantReason(t, p, c, fettlev1.Reason_REASON_LIMIT_USER)
	wantReason(t, p, spent, fettlev1.Reason_REASON_LIMIT_USER)
	wantReason(t, p, e, fettlev1.Reason_REASON_LIMIT_PARTITION)
	if d := p.Waits[team].Detail; d != "project lab: 1 of at most 4 GPUs are in use" {
		t.Errorf("detail %q", d)
	}
}

func TestReservations(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	w.SetNode(node("n1", "h100", 4))
	w.SetNode(node("n2", "h100", 4))
	w.SetPolicy(Policy{Partitions: []Partition{{Name: "main"}}, Reservations: []Reservation{
		{Name: "work", Nodes: []string{"n1"}, StartMS: now + 100_000, EndMS: now + 200_000},
		{Name: "demo", Nodes: []string{"n2"}, StartMS: now - 1, EndMS: now + 300_000, Users: []string{"eve"}},
	}})
	endless, long, short := w.job(gpus(1)), w.job(gpus(1), limit(101)), w.job(gpus(1), limit(100))
	in := func(user string, s int64) func(*Job) {
		return func(j *Job) { j.Reservation, j.User, j.LimitS = "demo", user, s }
	}
	eve, mallory, beyond := w.job(gpus(2), in("eve", 100)), w.job(gpus(2), in("mallory", 100)), w.job(gpus(1), in("eve", 301))
	p := w.Plan(now)
	wantStarted(t, p, short, eve)
	for i, want := range []string{"n1", "n2"} {
		if got := p.Placements[i].Allocs[0].GetNode(); got != want {
			t.Errorf("job %d on %s, want %s", p.Placements[i].Job, got, want)
		}
	}
	for _, id := range []uint64{endless, long, mallory, beyond} {
		wantReason(t, p, id, fettlev1.Reason_REASON_RESERVATION)
	}
	if p.WakeMS != now+100_000 {
		t.Errorf("wake at %d, want when the next reservation begins", p.WakeMS)
	}
}

func TestReservationOfSomeCards(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	w.SetNode(node("n1", "h100", 8))
	w.SetPolicy(Policy{Partitions: []Partition{{Name: "main"}}, Reservations: []Reservation{
		{Name: "demo", Cards: []*fettlev1.NodeAllocation{{Node: "n1", GpuUuids: []string{"n1-4", "n1-5", "n1-6", "n1-7"}}},
			StartMS: now + 100_000, EndMS: now + 300_000, Users: []string{"eve"}},
	}})
	w.runs("n1", []int{0, 1}, endsAt(now+200_000))
	three, brief := w.job(gpus(3)), w.job(gpus(4), limit(100))
	wantStarted(t, w.Plan(now), brief)
	// Once it has begun, its cards are for those whom it is for, and they get no others.
	w.SetNode(node("n2", "h100", 8))
	eve := func(j *Job) { j.Reservation, j.User = "demo", "eve" }
	five, four := w.job(gpus(5), eve), w.job(gpus(4), eve)
	p := w.Plan(now + 100_000)
	if got := started(p); slices.Contains(got, five) || !slices.Contains(got, four) || !slices.Contains(got, three) {
		t.Fatalf("started %v, want all but %d", got, five)
	}
	for _, pl := range p.Placements {
		in := pl.Allocs[0].GetNode() == "n1" && pl.Allocs[0].GetGpuUuids()[0] >= "n1-4"
		if in != (pl.Job == four) {
			t.Errorf("job %d on %v", pl.Job, pl.Allocs)
		}
	}
}

func TestClaimIsItsOwners(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	w.SetNode(node("n1", "h100", 4))
	w.runs("n1", []int{3}, func(r *Running) { r.Ending = true })
	thief := w.job(gpus(1), limit(1))
	owner := w.job(gpus(4), func(j *Job) {
		j.Claim = []*fettlev1.NodeAllocation{{Node: "n1", GpuUuids: []string{"n1-0", "n1-1", "n1-2", "n1-3"}, Cpus: 1}}
	})
	wantStarted(t, w.Plan(now))
	w.Remove(1)
	wantStarted(t, w.Plan(now), owner)
	w.Remove(owner)
	wantStarted(t, w.Plan(now), thief)
}

// On a large cluster the ends on a few nodes are found by looking at these: the answer is that of looking at everybody.
func TestEndsOnFewNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(Options{})
	for i := range 100 {
		name := fmt.Sprintf("n%02d", i)
		w.SetNode(node(name, "h100", 2))
		for c := range 2 {
			w.runs(name, []int{c}, endsAt(now+int64(1+(i*37+c*61)%100)*1000))
		}
	}
	n := typed("h100", 2)
	n.Request.Nodelist = []string{"n07", "n50", "n93"}
	job := w.job(n)
	w.settled = true
	p := w.Plan(now)
	at, want := int64(0), ""
	for _, name := range n.Request.Nodelist {
		last := int64(0)
		for _, a := range w.running {
			if a.Allocs[0].GetNode() == name {
				last = max(last, a.endMS)
			}
		}
		if at == 0 || last < at {
			at, want = last, name
		}
	}
	if len(p.Heads) != 1 || p.Heads[0].Job != job || p.Heads[0].ShadowMS != at || p.Heads[0].Allocs[0].GetNode() != want {
		t.Errorf("heads %+v, want %s at %d", p.Heads, want, at)
	}
}
