package place

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// word is a constraint that one feature meets.
type word string

func (w word) Matches(features []string) bool { return slices.Contains(features, string(w)) }

// drawNode makes a node of one of a few kinds of hardware.
func drawNode(t *rapid.T, name string) Node {
	n := Node{
		Name: name, Ready: rapid.IntRange(0, 9).Draw(t, "ready") > 0, CPUs: uint32(rapid.SampledFrom([]int{0, 4, 16}).Draw(t, "cpus")),
		MemMiB: int64(rapid.SampledFrom([]int{1000, 4000}).Draw(t, "mem")), Switch: rapid.SampledFrom([]string{"", "s1", "s2"}).Draw(t, "switch"),
	}
	if rapid.Bool().Draw(t, "feature") {
		n.Features = []string{"ib"}
	}
	kind := rapid.SampledFrom([]string{"none", "nvswitch", "pairs", "pcie", "mixed"}).Draw(t, "kind")
	cards := map[string]int{"nvswitch": 8, "pairs": 4, "pcie": 4, "mixed": 5}[kind]
	for i := range cards {
		g := GPU{UUID: fmt.Sprintf("%s-%d", name, i), Index: uint32(i), Type: "h100", MemMiB: 80_000, NUMA: i * 2 / cards, Usable: true}
		switch kind {
		case "nvswitch":
			g.Island = 1
		case "pairs":
			g.Type, g.MemMiB, g.Island = "a100", 40_000, 1+i/2
		case "pcie":
			g.Type, g.MemMiB = "a100", 40_000
		case "mixed":
			if i > 2 {
				g.Type, g.MemMiB = "a100", 40_000
			}
		}
		g.Usable = rapid.IntRange(0, 9).Draw(t, "usable") > 0
		g.BusyOutside = rapid.IntRange(0, 9).Draw(t, "busy") == 0
		n.GPUs = append(n.GPUs, g)
	}
	return n
}

func drawRequest(t *rapid.T, nodes int) Request {
	types := rapid.SampledFrom([]string{"", "h100", "a100"})
	r := Request{
		Nodes: rapid.SampledFrom([]int{1, 1, 2, 3}).Draw(t, "span"), GPUs: rapid.IntRange(0, 5).Draw(t, "gpus"), GPUType: types.Draw(t, "type"),
		CPUs: uint32(rapid.IntRange(1, 4).Draw(t, "cpu")), MemMiB: int64(rapid.SampledFrom([]int{0, 0, 900}).Draw(t, "mem")),
	}
	switch rapid.IntRange(0, 9).Draw(t, "form") {
	case 0, 1:
		r.VRAMMiB = int64(rapid.SampledFrom([]int{5_000, 19_000, 45_000}).Draw(t, "vram"))
		r.GPUs = rapid.IntRange(1, 2).Draw(t, "shares")
	case 2, 3:
		r.Total, r.Nodes = true, rapid.SampledFrom([]int{0, 0, 2}).Draw(t, "most")
		r.GPUs = rapid.IntRange(1, 14).Draw(t, "total")
		r.Even = rapid.Bool().Draw(t, "even")
	case 4:
		r.Alternatives = []GPUChoice{{types.Draw(t, "other"), rapid.IntRange(1, 4).Draw(t, "count")}}
	case 5:
		r.Exclusive = rapid.Bool().Draw(t, "exclusive")
		r.Constraint = word("ib")
	case 6:
		r.GPUs = max(r.GPUs, 1)
		if rapid.Bool().Draw(t, "by index") {
			r.DeviceIndexes = []uint32{uint32(rapid.IntRange(0, 4).Draw(t, "index"))}
		} else {
			r.DeviceUUIDs = []string{fmt.Sprintf("n%d-%d", rapid.IntRange(0, nodes-1).Draw(t, "of"), rapid.IntRange(0, 4).Draw(t, "card"))}
		}
	case 7:
		r.MinCardMiB = 50_000
	}
	return r
}

var someDemand = []Demand{{GPUs: 1, Weight: 2}, {Type: "h100", GPUs: 8, Weight: 6}, {GPUs: 4, Weight: 2}}

// world is a cluster with what it was told, so that it can be built again from nothing.
type world struct {
	c     *Cluster
	nodes map[string]Node
	held  map[uint64][]*fettlev1.NodeAllocation
	next  uint64
}

func newWorld() *world {
	return &world{c: New(), nodes: map[string]Node{}, held: map[uint64][]*fettlev1.NodeAllocation{}}
}

func (w *world) set(n Node) { w.nodes[n.Name] = n; w.c.SetNode(n) }

// start places and holds a request.
func (w *world) start(r *Request) bool {
	allocs, ok := w.c.Place(r, w.c.Eligible(r))
	if ok {
		w.next++
		w.held[w.next] = allocs
		w.c.Hold(w.next, allocs)
	}
	return ok
}

// step does something at random.
func (w *world) step(t *rapid.T, names int) {
	switch rapid.IntRange(0, 9).Draw(t, "step") {
	case 0, 1:
		w.set(drawNode(t, fmt.Sprintf("n%d", rapid.IntRange(0, names-1).Draw(t, "which"))))
	case 2:
		name := fmt.Sprintf("n%d", rapid.IntRange(0, names-1).Draw(t, "gone"))
		delete(w.nodes, name)
		w.c.RemoveNode(name)
	case 3, 4:
		if len(w.held) > 0 {
			id := rapid.SampledFrom(slices.Sorted(maps.Keys(w.held))).Draw(t, "release")
			delete(w.held, id)
			w.c.Release(id)
		}
	default:
		r := drawRequest(t, names)
		w.start(&r)
	}
}

// rebuilt makes the same cluster from nothing, in random order.
func (w *world) rebuilt(t *rapid.T) *Cluster {
	c := New()
	var todo []func()
	for _, name := range slices.Sorted(maps.Keys(w.nodes)) {
		n := w.nodes[name]
		n.GPUs = rapid.Permutation(n.GPUs).Draw(t, "cards")
		todo = append(todo, func() { c.SetNode(n) })
	}
	for _, id := range slices.Sorted(maps.Keys(w.held)) {
		todo = append(todo, func() { c.Hold(id, w.held[id]) })
	}
	for _, f := range rapid.Permutation(todo).Draw(t, "order") {
		f()
	}
	return c
}

// dump says all that a cluster knows, in an order that does not depend on its history.
func dump(c *Cluster) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(c.byName)) {
		rec := c.byName[name]
		fmt.Fprintf(&b, "%s present=%v cpus=%d mem=%d free=%b usable=%b room=%d cards=%v:", name, rec.present, rec.cpusFree, rec.memFree, rec.free, rec.usable, rec.room, rec.cards)
		for _, h := range rec.holds {
			fmt.Fprintf(&b, " %d=%b,%d", h.holder, h.cards, h.alloc.GetVramMib())
		}
		b.WriteByte('\n')
	}
	for _, typ := range []string{"", "h100", "a100"} {
		fmt.Fprintf(&b, "%q free %d usable %d\n", typ, c.Free(typ), c.Usable(typ))
	}
	return b.String()
}

// checkIndex compares the index with the records that it is derived from.
func checkIndex(t *rapid.T, c *Cluster) {
	t.Helper()
	in, sharing := 0, 0
	free, usable := map[string]int{}, map[string]int{}
	for pos, rec := range c.recs {
		if rec == nil {
			continue
		}
		if rec.pos != pos || c.byName[rec.node.Name] != rec {
			t.Fatalf("%s is not where it says", rec.node.Name)
		}
		ready := rec.present && rec.node.Ready
		if c.ready.Has(pos) != ready || rec.entered != ready || (rec.class != nil) != (ready && rec.cpusFree > 0) {
			t.Fatalf("%s: ready %v, entered %v, in a class %v", rec.node.Name, ready, rec.entered, rec.class != nil)
		}
		if ready {
			for g, card := range rec.node.GPUs {
				f, u := int(rec.free>>g&1), int(rec.usable>>g&1)
				free[card.Type] += f
				free[""] += f
				usable[card.Type] += u
				usable[""] += u
			}
		}
		if rec.class == nil {
			continue
		}
		in++
		if m := rec.class.members[rec.at]; m.pos != pos || m.cpus != rec.cpusFree || m.mem != rec.memFree || m.room != rec.room {
			t.Fatalf("%s: member %+v", rec.node.Name, m)
		}
		if rec.class.classKey != (classKey{rec.profile, rec.free, rec.idle()}) || c.classes[rec.class.classKey] != rec.class {
			t.Fatalf("%s is in the wrong class", rec.node.Name)
		}
		if rec.room > 0 {
			sharing++
			if rec.bucket != bits.Len64(uint64(rec.room)) || c.sharing[rec.bucket][rec.bucketAt] != rec {
				t.Fatalf("%s is in the wrong bucket", rec.node.Name)
			}
		}
	}
	for _, typ := range []string{"", "h100", "a100"} {
		if c.Free(typ) != free[typ] || c.Usable(typ) != usable[typ] {
			t.Fatalf("%q: %d free of %d, want %d of %d", typ, c.Free(typ), c.Usable(typ), free[typ], usable[typ])
		}
	}
	members, buckets := 0, 0
	for _, cl := range c.byType[""] {
		members += len(cl.members)
	}
	for _, list := range c.sharing {
		buckets += len(list)
	}
	if members != in || buckets != sharing || len(c.byType[""]) != len(c.classes) {
		t.Fatalf("%d members, %d in buckets, want %d and %d", members, buckets, in, sharing)
	}
}

func names(c *Cluster, s NodeSet) (list []string) {
	for i := range s.All() {
		list = append(list, c.Name(i))
	}
	slices.Sort(list)
	return list
}

// What a cluster answers depends on facts and holdings alone, whatever way it came there.
func TestHistoryDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const nodes = 6
		w := newWorld()
		w.c.SetDemand(someDemand)
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			w.step(t, nodes)
			checkIndex(t, w.c)
		}
		other := w.rebuilt(t)
		other.SetDemand(someDemand)
		if diff := cmp.Diff(dump(other), dump(w.c)); diff != "" {
			t.Fatalf("built from nothing (-) and step by step (+) differ:\n%s", diff)
		}
		for range 8 {
			r := drawRequest(t, nodes)
			if a, b := names(w.c, w.c.Eligible(&r)), names(other, other.Eligible(&r)); !slices.Equal(a, b) {
				t.Fatalf("%+v: eligible %v, built from nothing %v", r, a, b)
			}
			a, okA := w.c.Place(&r, w.c.Eligible(&r))
			b, okB := other.Place(&r, other.Eligible(&r))
			if diff := cmp.Diff(b, a, protocmp.Transform()); okA != okB || diff != "" {
				t.Fatalf("%+v: placed differently (- from nothing):\n%s", r, diff)
			}
			sa, sb := w.c.Explain(&r, w.c.Eligible(&r)), other.Explain(&r, other.Eligible(&r))
			sa.Busy, sb.Busy = nil, nil
			if diff := cmp.Diff(sb, sa); diff != "" {
				t.Fatalf("%+v: explained differently:\n%s", r, diff)
			}
			if (sa.What == MissingNothing) != okA || (sa.String() == "") != okA {
				t.Fatalf("%+v: placed %v, yet missing is %d %q", r, okA, sa.What, sa)
			}
		}
	})
}

// Undo restores exactly what was held at its mark, however deep marks nest; Keep leaves it to the outer mark.
func TestUndoRestores(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		for i := range 4 {
			w.set(drawNode(t, fmt.Sprintf("n%d", i)))
		}
		var dig func(depth int)
		dig = func(depth int) {
			before, held := dump(w.c), maps.Clone(w.held)
			m := w.c.Mark()
			for range rapid.IntRange(0, 4).Draw(t, "changes") {
				switch k := rapid.IntRange(0, 5).Draw(t, "change"); {
				case k == 0 && depth < 3:
					dig(depth + 1)
				case k == 1 && len(w.held) > 0:
					id := rapid.SampledFrom(slices.Sorted(maps.Keys(w.held))).Draw(t, "release")
					delete(w.held, id)
					w.c.Release(id)
				case k == 2:
					// A holding that overlaps with others, on a node that may not exist.
					w.next++
					w.held[w.next] = []*fettlev1.NodeAllocation{{Node: "n0", GpuUuids: []string{"n0-0", "n0-1"}, Cpus: 9}, {Node: "n9", GpuUuids: []string{"n9-0"}}}
					w.c.Hold(w.next, w.held[w.next])
				default:
					r := drawRequest(t, 4)
					w.start(&r)
				}
			}
			if depth > 0 && rapid.IntRange(0, 3).Draw(t, "keep") == 0 {
				w.c.Keep(m)
				return
			}
			w.c.Undo(m)
			w.held = held
			if diff := cmp.Diff(before, dump(w.c)); diff != "" {
				t.Fatalf("before (-) and after the undo (+):\n%s", diff)
			}
			checkIndex(t, w.c)
		}
		for range 3 {
			r := drawRequest(t, 4)
			w.start(&r)
			dig(0)
		}
		if len(w.c.journal) != 0 || w.c.marks != 0 {
			t.Fatalf("%d changes are remembered without a mark", len(w.c.journal))
		}
	})
}

// checkFair checks that holdings that Place made give nothing twice, keep to the facts, and never mix whole cards and shares.
func checkFair(t *rapid.T, w *world) {
	t.Helper()
	whole, shared := map[string]int{}, map[string]int64{}
	cpus, mem := map[string]int64{}, map[string]int64{}
	for _, id := range slices.Sorted(maps.Keys(w.held)) {
		for _, a := range w.held[id] {
			cpus[a.GetNode()] += int64(a.GetCpus())
			mem[a.GetNode()] += a.GetMemMib()
			for _, u := range a.GetGpuUuids() {
				if a.GetVramMib() > 0 {
					shared[u] += a.GetVramMib() + DefaultHeadroomMiB
				} else {
					whole[u]++
				}
			}
		}
	}
	for name, n := range w.nodes {
		if cpus[name] > int64(n.CPUs) || mem[name] > n.MemMiB {
			t.Fatalf("%s: %d of %d CPUs, %d of %d MiB", name, cpus[name], n.CPUs, mem[name], n.MemMiB)
		}
		for _, g := range n.GPUs {
			switch {
			case whole[g.UUID] > 1:
				t.Fatalf("%s was given %d times", g.UUID, whole[g.UUID])
			case whole[g.UUID] > 0 && shared[g.UUID] > 0:
				t.Fatalf("%s was given whole and in shares", g.UUID)
			case shared[g.UUID] > g.MemMiB:
				t.Fatalf("%s: %d of %d MiB given", g.UUID, shared[g.UUID], g.MemMiB)
			case (!g.Usable || g.BusyOutside) && whole[g.UUID]+int(shared[g.UUID]) > 0:
				t.Fatalf("%s was given although it may not be", g.UUID)
			}
		}
	}
}

// checkAnswer checks that an allocation is what was asked for.
func checkAnswer(t *rapid.T, w *world, r *Request, allocs []*fettlev1.NodeAllocation) {
	t.Helper()
	total, counts := 0, map[int]bool{}
	var types []string
	for i, a := range allocs {
		n := w.nodes[a.GetNode()]
		if !n.Ready || r.Constraint != nil && !r.Constraint.Matches(n.Features) {
			t.Fatalf("%s may not be used", n.Name)
		}
		if i > 0 && cmpRank(w.nodes[allocs[i-1].GetNode()], n) >= 0 {
			t.Fatalf("ranks %v are not in the order of switches and names", allocs)
		}
		total += len(a.GetGpuUuids())
		counts[len(a.GetGpuUuids())] = true
		own := ""
		for _, u := range a.GetGpuUuids() {
			g := n.GPUs[slices.IndexFunc(n.GPUs, func(g GPU) bool { return g.UUID == u })]
			if own != "" && own != g.Type {
				t.Fatalf("%s: cards of two types", n.Name)
			}
			if own = g.Type; g.MemMiB < r.MinCardMiB {
				t.Fatalf("%s has too little memory", u)
			}
		}
		types = append(types, own)
		if r.Exclusive && (a.GetCpus() != n.CPUs || a.GetMemMib() != n.MemMiB) {
			t.Fatalf("an exclusive node is not taken whole: %v", a)
		}
		if len(a.GetGpuUuids()) > 0 && a.GetVramMib() != r.VRAMMiB {
			t.Fatalf("share of %d MiB, want %d", a.GetVramMib(), r.VRAMMiB)
		}
		for _, x := range r.DeviceIndexes {
			if !slices.Contains(a.GetGpuUuids(), fmt.Sprintf("%s-%d", n.Name, x)) {
				t.Fatalf("card %d of %s is missing: %v", x, n.Name, a)
			}
		}
	}
	for _, u := range r.DeviceUUIDs {
		if !slices.ContainsFunc(allocs, func(a *fettlev1.NodeAllocation) bool { return slices.Contains(a.GetGpuUuids(), u) }) {
			t.Fatalf("card %s is missing: %v", u, allocs)
		}
	}
	for _, choice := range append([]GPUChoice{{r.GPUType, r.GPUs}}, r.Alternatives...) {
		right := choice.Type == "" || choice.Count == 0 || !slices.ContainsFunc(types, func(typ string) bool { return typ != choice.Type })
		if r.Total && right && total == choice.Count && len(allocs) <= r.bound() && (!r.Even || len(counts) == 1) {
			return
		}
		if !r.Total && right && len(allocs) == r.bound() && len(counts) == 1 && counts[choice.Count] {
			return
		}
	}
	t.Fatalf("%+v is not met by %v", r, allocs)
}

func cmpRank(a, b Node) int {
	if a.Switch != b.Switch {
		return strings.Compare(a.Switch, b.Switch)
	}
	return strings.Compare(a.Name, b.Name)
}

// Nothing is given twice, answers are what was asked for, and whole cards and shares never mix.
func TestNeverOvercommits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		const nodes = 6
		for i := range nodes {
			w.set(drawNode(t, fmt.Sprintf("n%d", i)))
		}
		for range 25 {
			r := drawRequest(t, nodes)
			if w.start(&r) {
				checkAnswer(t, w, &r, w.held[w.next])
			}
			if len(w.held) > 0 && rapid.IntRange(0, 3).Draw(t, "end") == 0 {
				id := rapid.SampledFrom(slices.Sorted(maps.Keys(w.held))).Draw(t, "which")
				delete(w.held, id)
				w.c.Release(id)
			}
			checkFair(t, w)
		}
	})
}
