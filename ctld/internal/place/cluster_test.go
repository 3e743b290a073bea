package place

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func TestPositionsAreStable(t *testing.T) {
	t.Parallel()
	c := site(t, []string{"b=hh", "a=hh", "c=hh"})
	before := map[string]int{}
	for _, n := range []string{"a", "b", "c"} {
		before[n], _ = c.Position(n)
	}
	version := c.Version()
	n := *c.Node(before["c"])
	n.Ready = false
	c.SetNode(n)
	n.GPUs = slices.Clone(n.GPUs)
	n.GPUs[0].BusyOutside = true
	c.SetNode(n)
	if c.Version() != version {
		t.Error("readiness and what is busy outside changed the version")
	}
	c.RemoveNode("b")
	if c.Version() == version || c.Nodes() != 2 || c.Name(before["b"]) != "" || c.Node(before["b"]) != nil {
		t.Errorf("version %d, %d nodes, %q where b was", c.Version(), c.Nodes(), c.Name(before["b"]))
	}
	c.SetNode(Node{Name: "d", Ready: true, CPUs: 1})
	for _, n := range []string{"a", "c"} {
		if at, ok := c.Position(n); !ok || at != before[n] || c.Name(at) != n {
			t.Errorf("%s moved from %d to %d", n, before[n], at)
		}
	}
	if got := names(c, c.Named([]string{"a", "b", "d"})); !cmp.Equal(got, []string{"a", "d"}) {
		t.Errorf("named %v", got)
	}
	if got := names(c, c.Ready()); !cmp.Equal(got, []string{"a", "d"}) {
		t.Errorf("ready %v", got)
	}
}

// What is held outlives changes of the node, its absence, and cards that it does not list for a while.
func TestHoldingsSurvive(t *testing.T) {
	t.Parallel()
	c := site(t, []string{"n1=hh"})
	at, _ := c.Position("n1")
	whole := *c.Node(at)
	held := []*fettlev1.NodeAllocation{{Node: "n1", GpuUuids: []string{"n1-0"}, Cpus: 4}}
	c.Hold(7, held)
	less := whole
	less.GPUs = whole.GPUs[1:]
	c.SetNode(less)
	if got := placed(c, Request{GPUs: 2}); got != nil || c.Free("h100") != 1 {
		t.Errorf("placed %v, %d free", got, c.Free("h100"))
	}
	c.RemoveNode("n1")
	if c.Free("") != 0 || placed(c, Request{}) != nil || len(c.Holding(7)) != 1 {
		t.Errorf("%d cards free without nodes, holding %v", c.Free(""), c.Holding(7))
	}
	c.SetNode(whole)
	if got := placed(c, Request{GPUs: 1}); !cmp.Equal(got, []string{"n1:1"}) {
		t.Errorf("placed %v, card 0 is held", got)
	}
	if again, _ := c.Position("n1"); again != at || !slices.Equal(slices.Collect(c.HoldersOn(at)), []uint64{7}) {
		t.Errorf("position %d, was %d; holders %v", again, at, slices.Collect(c.HoldersOn(again)))
	}
	// Holding again replaces; what is held twice is free after both let go.
	c.Hold(7, []*fettlev1.NodeAllocation{{Node: "n1", GpuUuids: []string{"n1-1"}, Cpus: 2}})
	c.Hold(8, []*fettlev1.NodeAllocation{{Node: "n1", GpuUuids: []string{"n1-1"}, Cpus: 80}})
	if c.Free("h100") != 1 || placed(c, Request{}) != nil {
		t.Errorf("%d free, CPUs %v", c.Free("h100"), placed(c, Request{}))
	}
	c.Release(7)
	if c.Free("h100") != 1 {
		t.Errorf("%d free while one of two holds the card", c.Free("h100"))
	}
	c.Release(8)
	c.Release(9)
	if c.Free("h100") != 2 || c.Usable("h100") != 2 {
		t.Errorf("%d of %d free", c.Free("h100"), c.Usable("h100"))
	}
}

// A kept mark leaves what happened since; only an outer one takes it back.
func TestKeep(t *testing.T) {
	t.Parallel()
	c := site(t, []string{"n1=hhhh"})
	held := func(card string) []*fettlev1.NodeAllocation {
		return []*fettlev1.NodeAllocation{{Node: "n1", GpuUuids: []string{card}}}
	}
	m := c.Mark()
	c.Hold(1, held("n1-0"))
	c.Keep(m)
	outer := c.Mark()
	inner := c.Mark()
	c.Hold(2, held("n1-1"))
	c.Keep(inner)
	c.Hold(3, held("n1-2"))
	if c.Free("h100") != 1 {
		t.Errorf("%d free, want 1", c.Free("h100"))
	}
	c.Undo(outer)
	if c.Free("h100") != 3 || c.Holding(1) == nil || c.Holding(2) != nil {
		t.Errorf("%d free, want all but the card of before", c.Free("h100"))
	}
}

func TestFromInventory(t *testing.T) {
	t.Parallel()
	link := func(peers ...uint32) (l []*fettlev1.NVLink) {
		for _, p := range peers {
			l = append(l, &fettlev1.NVLink{Peer: p, Links: 4})
		}
		return l
	}
	n := FromInventory("n1", &fettlev1.Inventory{Cpus: 8, MemoryMib: 100, Features: []string{"ib"}, SwitchName: "s1", Gpus: []*fettlev1.GPU{
		{Index: 0, Uuid: "a", Type: "h100", MemoryMib: 80_000, Links: link(2)},
		{Index: 1, Uuid: "b", Type: "h100", NumaNode: 1, Unhealthy: true},
		{Index: 2, Uuid: "c", Type: "h100", Links: link(0, 5)},
		{Index: 3, Uuid: "d", Type: "h100", Mig: "enabled"},
		{Index: 3, Uuid: "d1", Type: "h100-1g.10gb", Mig: "instance", MigParent: "d"},
		{Index: 5, Uuid: "e", Type: "h100", Links: link(2)},
		{Index: 6, Uuid: "f", Type: "h100", Links: link(7)},
	}})
	want := Node{Name: "n1", CPUs: 8, MemMiB: 100, Features: []string{"ib"}, Switch: "s1", GPUs: []GPU{
		{UUID: "a", Type: "h100", MemMiB: 80_000, Island: 1, Usable: true},
		{UUID: "b", Type: "h100", Index: 1, NUMA: 1},
		{UUID: "c", Type: "h100", Index: 2, Island: 1, Usable: true},
		{UUID: "d", Type: "h100", Index: 3},
		{UUID: "d1", Type: "h100-1g.10gb", Index: 3, Usable: true},
		{UUID: "e", Type: "h100", Index: 5, Island: 1, Usable: true},
		{UUID: "f", Type: "h100", Index: 6, Island: 2, Usable: true},
	}}
	if diff := cmp.Diff(want, n); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
}

func TestNodeSets(t *testing.T) {
	t.Parallel()
	set := func(n int, members ...int) NodeSet {
		s := NewNodeSet(n)
		for _, m := range members {
			s.Add(m)
		}
		return s
	}
	small, large := set(10, 1, 3), set(200, 1, 150)
	if got := slices.Collect(small.And(large).All()); !slices.Equal(got, []int{1}) {
		t.Errorf("and: %v", got)
	}
	if got := slices.Collect(large.Without(small).All()); !slices.Equal(got, []int{150}) {
		t.Errorf("without: %v", got)
	}
	if small.Has(150) || !large.Has(150) || small.Equal(large) || !set(200, 1, 3).Equal(small) {
		t.Error("membership across sizes")
	}
	u := large.Clone()
	u.Union(small)
	if u.Len() != 3 || large.Len() != 2 {
		t.Errorf("union has %d, the original %d", u.Len(), large.Len())
	}
	u.Remove(150)
	u.Remove(1)
	u.Remove(3)
	u.Remove(9999)
	if !u.Empty() {
		t.Errorf("left over: %v", slices.Collect(u.All()))
	}
	for i := range large.All() {
		if i != 1 {
			t.Errorf("went on after a break: %d", i)
		}
		break
	}
}
