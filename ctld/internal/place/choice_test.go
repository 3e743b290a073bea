package place

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// site makes ready nodes with 80 GB h100 cards in one NVLink island, or what edit makes of them; the upper-case letters of each
// "name=cards" are held.
func site(t *testing.T, nodes []string, edit ...func(*Node)) *Cluster {
	t.Helper()
	c := New()
	for i, s := range nodes {
		name, cards, ok := strings.Cut(s, "=")
		if !ok {
			t.Fatalf("node %q", s)
		}
		n := Node{Name: name, Ready: true, CPUs: 64, MemMiB: 64_000}
		held := &fettlev1.NodeAllocation{Node: name, Cpus: 1}
		for g, letter := range cards {
			u := fmt.Sprintf("%s-%d", name, g)
			n.GPUs = append(n.GPUs, GPU{UUID: u, Index: uint32(g), Type: "h100", MemMiB: 80_000, Island: 1, Usable: true})
			if letter == 'H' {
				held.GpuUuids = append(held.GpuUuids, u)
			}
		}
		for _, e := range edit {
			e(&n)
		}
		c.SetNode(n)
		if len(held.GetGpuUuids()) > 0 {
			c.Hold(uint64(1000+i), []*fettlev1.NodeAllocation{held})
		}
	}
	return c
}

// show is "node:card,card" for each node.
func show(allocs []*fettlev1.NodeAllocation) (list []string) {
	for _, a := range allocs {
		s := a.GetNode() + ":"
		for i, u := range a.GetGpuUuids() {
			if i > 0 {
				s += ","
			}
			s += u[len(a.GetNode())+1:]
		}
		list = append(list, s)
	}
	return list
}

func placed(c *Cluster, r Request) []string {
	r.CPUs = max(r.CPUs, 1)
	allocs, _ := c.Place(&r, c.Eligible(&r))
	return show(allocs)
}

func pairs(n *Node) {
	for g := range n.GPUs {
		n.GPUs[g].Island, n.GPUs[g].NUMA = 1+g/2, g*2/len(n.GPUs)
	}
}

func pcie(n *Node) {
	for g := range n.GPUs {
		n.GPUs[g].Island, n.GPUs[g].NUMA = 0, g*2/len(n.GPUs)
	}
}

func only(name string, f func(*Node)) func(*Node) {
	return func(n *Node) {
		if n.Name == name {
			f(n)
		}
	}
}

// racks hangs nodes on the switch that the first letter of their name says.
func racks(n *Node) { n.Switch = n.Name[:1] }

func model(typ string, mib int64) func(*Node) {
	return func(n *Node) {
		for g := range n.GPUs {
			n.GPUs[g].Type, n.GPUs[g].MemMiB = typ, mib
		}
	}
}

func TestChoice(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		nodes []string
		edit  []func(*Node)
		req   Request
		want  []string
	}{
		{"two cards of one NVLink pair", []string{"n1=Hhhh"}, []func(*Node){pairs}, Request{GPUs: 2}, []string{"n1:2,3"}},
		{"one card does not break a pair", []string{"n1=hhHh"}, []func(*Node){pairs}, Request{GPUs: 1}, []string{"n1:3"}},
		{"three cards touch two islands, not three", []string{"n1=hHhHhh"}, []func(*Node){pairs}, Request{GPUs: 3}, []string{"n1:0,4,5"}},
		{"a whole island rather than the fuller node", []string{"n1=hHhH", "n2=hhhh"}, []func(*Node){pairs}, Request{GPUs: 2}, []string{"n2:0,1"}},
		{"islands count beyond what the node needs anyway", []string{"n1=hHhHHHHH", "n2=hHHh"}, []func(*Node){only("n1", pairs), only("n2", pcie)}, Request{GPUs: 2}, []string{"n2:0,3"}},
		{"NVLink before PCIe", []string{"n1=hh", "n2=hhhh"}, []func(*Node){only("n1", pcie)}, Request{GPUs: 2}, []string{"n2:0,1"}},
		{"without NVLink, one NUMA node", []string{"n1=hHhh"}, []func(*Node){pcie}, Request{GPUs: 2}, []string{"n1:2,3"}},
		{"one NUMA node rather than the fuller node", []string{"n1=hHHh", "n2=hhhh"}, []func(*Node){pcie}, Request{GPUs: 2}, []string{"n2:0,1"}},
		{"the smallest memory that is there", []string{"n1=hh", "n2=hhhh"}, []func(*Node){only("n2", model("a100", 40_000))}, Request{GPUs: 1}, []string{"n2:0"}},
		{"the smallest memory that suffices", []string{"n1=hh", "n2=hhhh"}, []func(*Node){only("n2", model("a100", 40_000))}, Request{GPUs: 1, MinCardMiB: 50_000}, []string{"n1:0"}},
		{"no card has the memory", []string{"n1=hh"}, nil, Request{GPUs: 1, MinCardMiB: 90_000}, nil},
		{"fewer CPUs left", []string{"n1=hh", "n2=hh"}, []func(*Node){only("n2", func(n *Node) { n.CPUs = 8 })}, Request{GPUs: 1}, []string{"n2:0"}},

		{"the first choice where it fits", []string{"n1=hh", "n2=hhhh"}, []func(*Node){only("n2", model("a100", 40_000))}, Request{GPUs: 2, GPUType: "h100", Alternatives: []GPUChoice{{"a100", 1}}}, []string{"n1:0,1"}},
		{"the next choice where it does not", []string{"n1=hH", "n2=hhhh"}, []func(*Node){only("n2", model("a100", 40_000))}, Request{GPUs: 2, GPUType: "h100", Alternatives: []GPUChoice{{"l40", 1}, {"a100", 4}}}, []string{"n2:0,1,2,3"}},
		{"a gang is of one type where it can", []string{"n1=hh", "n2=hhH", "n3=hhh"}, []func(*Node){only("n1", model("a100", 40_000))}, Request{Nodes: 2, GPUs: 2}, []string{"n2:0,1", "n3:0,1"}},

		{"a gang on one switch", []string{"a1=hh", "b1=hh", "b2=hhH"}, []func(*Node){racks}, Request{Nodes: 2, GPUs: 2}, []string{"b1:0,1", "b2:0,1"}},
		{"a gang leaves the larger block whole", []string{"a1=hh", "a2=hh", "a3=hh", "b1=hh", "b2=hh"}, []func(*Node){racks}, Request{Nodes: 2, GPUs: 2}, []string{"b1:0,1", "b2:0,1"}},
		{"a gang on as few switches as possible", []string{"a1=hh", "b1=hh", "b2=hh", "c1=hh", "c2=hh", "c3=hh"}, []func(*Node){racks}, Request{Nodes: 4, GPUs: 2}, []string{"a1:0,1", "c1:0,1", "c2:0,1", "c3:0,1"}},
		{"a gang near the card that it names", []string{"a1=hh", "a2=hh", "a3=hh", "b1=hh", "b2=hh"}, []func(*Node){racks}, Request{Nodes: 2, GPUs: 1, DeviceUUIDs: []string{"a3-1"}}, []string{"a1:0", "a3:1"}},

		{"a total on one node", []string{"n1=hhhhhhhh", "n2=hhhhhhHH"}, nil, Request{Total: true, GPUs: 6}, []string{"n2:0,1,2,3,4,5"}},
		{"a total: whole nodes, the rest by best fit", []string{"n1=hhhhhhhh", "n2=hhhhhhHH", "n3=hhhhhhhh", "n4=hhhhHHHH"}, nil, Request{Total: true, GPUs: 12}, []string{"n1:0,1,2,3,4,5,6,7", "n4:0,1,2,3"}},
		{"a total on fewer nodes rather than fuller ones", []string{"n1=hhHH", "n2=hhHH", "n3=hhhh"}, nil, Request{Total: true, GPUs: 4}, []string{"n3:0,1,2,3"}},
		{"a total on one switch", []string{"a1=hhhh", "b1=hhhh", "b2=hhhh"}, []func(*Node){racks}, Request{Total: true, GPUs: 8}, []string{"b1:0,1,2,3", "b2:0,1,2,3"}},
		{"a total takes its rest from a switch that it touches", []string{"a1=hhH", "b1=hhhh", "b2=hhhh", "c1=hhhh", "c2=hhhH"}, []func(*Node){racks}, Request{Total: true, GPUs: 14}, []string{"b1:0,1,2,3", "b2:0,1,2,3", "c1:0,1,2,3", "c2:0,1"}},
		{"an even total", []string{"n1=hhhh", "n2=hhhh", "n3=hhhH", "n4=hhHH"}, nil, Request{Total: true, Even: true, GPUs: 6}, []string{"n1:0,1,2", "n3:0,1,2"}},
		{"an even total that does not divide", []string{"n1=hhhh", "n2=hhhh"}, nil, Request{Total: true, Even: true, GPUs: 7}, nil},
		{"a total bounded in nodes", []string{"n1=hh", "n2=hh", "n3=hh"}, nil, Request{Total: true, GPUs: 5, Nodes: 2}, nil},
		{"a total with a card that it names", []string{"n1=hhhh", "n2=hhhh", "n3=hh"}, nil, Request{Total: true, GPUs: 5, DeviceUUIDs: []string{"n3-1"}}, []string{"n1:0,1,2", "n3:0,1"}},

		{"an exclusive node is one without others", []string{"n1=Hh", "n2=hh"}, nil, Request{GPUs: 1, Exclusive: true}, []string{"n2:0"}},
		{"no node without others", []string{"n1=Hh"}, nil, Request{GPUs: 1, Exclusive: true}, nil},
		{"a constraint", []string{"n1=hh", "n2=hh"}, []func(*Node){only("n2", func(n *Node) { n.Features = []string{"ib", "big"} })}, Request{GPUs: 1, Constraint: word("ib")}, []string{"n2:0"}},
		{"a card that is busy outside is not given", []string{"n1=hh"}, []func(*Node){func(n *Node) { n.GPUs[0].BusyOutside = true }}, Request{GPUs: 1}, []string{"n1:1"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := placed(site(t, tc.nodes, tc.edit...), tc.req); !cmp.Equal(got, tc.want) {
				t.Errorf("Place = %v, want %v", got, tc.want)
			}
		})
	}
}

// A small gang on many equal nodes without switches gets the first ones that have the fewest CPUs left.
func TestGangAmongMany(t *testing.T) {
	t.Parallel()
	var nodes []string
	for i := range 60 {
		nodes = append(nodes, fmt.Sprintf("n%02d=hh", i))
	}
	c := site(t, nodes, only("n50", func(n *Node) { n.CPUs = 8 }), only("n31", func(n *Node) { n.CPUs = 8 }))
	if got := placed(c, Request{Nodes: 4, GPUs: 2}); !cmp.Equal(got, []string{"n00:0,1", "n01:0,1", "n31:0,1", "n50:0,1"}) {
		t.Errorf("placed %v", got)
	}
}

// An exclusive job keeps everyone else away by what it takes, without cards as well.
func TestExclusiveKeepsOthersAway(t *testing.T) {
	t.Parallel()
	c := site(t, []string{"n1=hh"})
	r := Request{GPUs: 1, CPUs: 1, Exclusive: true}
	allocs, ok := c.Place(&r, c.Eligible(&r))
	if !ok || allocs[0].GetCpus() != 64 || allocs[0].GetMemMib() != 64_000 {
		t.Fatalf("got %v, want all of the node", allocs)
	}
	c.Hold(1, allocs)
	for _, other := range []Request{{GPUs: 1, CPUs: 1}, {CPUs: 1}, {}} {
		if got := placed(c, other); got != nil {
			t.Errorf("%+v joined on %v", other, got)
		}
	}
	c.Release(1)
	if got := placed(c, Request{GPUs: 1}); got == nil {
		t.Error("the node stayed closed after the job")
	}
}

func TestShares(t *testing.T) {
	t.Parallel()
	c := site(t, []string{"n1=hh", "n2=hhH"})
	share := func(id uint64, mib int64, cards int) []string {
		r := Request{GPUs: cards, CPUs: 1, VRAMMiB: mib}
		allocs, ok := c.Place(&r, c.Eligible(&r))
		if ok {
			c.Hold(id, allocs)
		}
		return show(allocs)
	}
	steps := []struct {
		what  string
		mib   int64
		cards int
		want  []string
	}{
		{"the first share opens a card by best fit", 30_000, 1, []string{"n2:0"}},
		{"the next goes beside it", 30_000, 1, []string{"n2:0"}},
		{"one that does not fit there opens another", 30_000, 1, []string{"n2:1"}},
		{"a small one goes to the card with the least room", 17_500, 1, []string{"n2:0"}},
		{"the context is counted", 49_000, 1, []string{"n1:0"}},
		{"two cards: a shared one first, then a free one", 20_000, 2, []string{"n1:0,1"}},
		{"two cards of which each node has one", 10_000, 2, nil},
		{"more than a card has", 80_000, 1, nil},
	}
	for i, s := range steps {
		if got := share(uint64(i+1), s.mib, s.cards); !cmp.Equal(got, s.want) {
			t.Fatalf("%s: %v, want %v", s.what, got, s.want)
		}
	}
	if got := placed(c, Request{GPUs: 1}); got != nil {
		t.Errorf("a shared card was given whole: %v", got)
	}
	for i := range steps {
		c.Release(uint64(i + 1))
	}
	if got := placed(c, Request{GPUs: 2}); !cmp.Equal(got, []string{"n2:0,1"}) {
		t.Errorf("cards without shares are whole again: %v", got)
	}
}

// Among nodes with shared cards the one with the least room that suffices is taken, also when another has fewer free cards.
func TestSharesPackAcrossNodes(t *testing.T) {
	t.Parallel()
	c := site(t, []string{"n1=h", "n2=hhh"})
	for i, mib := range []int64{20_000, 50_000} {
		n := fmt.Sprintf("n%d", i+1)
		c.Hold(uint64(i+1), []*fettlev1.NodeAllocation{{Node: n, GpuUuids: []string{n + "-0"}, Cpus: 1, VramMib: mib}})
	}
	for mib, want := range map[int64]string{10_000: "n2:0", 40_000: "n1:0", 60_000: "n2:1"} {
		if got := placed(c, Request{GPUs: 1, VRAMMiB: mib}); !cmp.Equal(got, []string{want}) {
			t.Errorf("%d MiB: %v, want %s", mib, got, want)
		}
	}
}

// With the demand of the Philly trace the expected waste is what the paper's table has, and decides where jobs go.
func TestDemandDecides(t *testing.T) {
	t.Parallel()
	c := site(t, []string{"n1=hhhhhHHH", "n2=hhhhhhhh", "n3=hhhhhhHH"})
	philly := []Demand{{GPUs: 1, Weight: 2}, {GPUs: 4, Weight: 2}, {GPUs: 16, Weight: 6}}
	c.SetDemand(philly)
	if diff := cmp.Diff([]int64{0, 8, 16, 24, 24, 30, 36, 42, 0}, c.fragments("h100", 8)); diff != "" {
		t.Errorf("expected waste (-want +got):\n%s", diff)
	}
	// Five free become four, of which a job of four can use all: 24 - 30. Six become five: 30 - 36. Eight become seven: 42 - 0.
	if got := placed(c, Request{GPUs: 1}); !cmp.Equal(got, []string{"n1:0"}) {
		t.Errorf("one card: %v", got)
	}
	// Of five, two leave three: 24 - 30. Of six, two leave four: 24 - 36.
	if got := placed(c, Request{GPUs: 2}); !cmp.Equal(got, []string{"n3:0,1"}) {
		t.Errorf("two cards: %v", got)
	}
	c.SetDemand(nil)
	if got := placed(c, Request{GPUs: 2}); !cmp.Equal(got, []string{"n1:0,1"}) {
		t.Errorf("two cards by best fit: %v", got)
	}
	// Weights of any size do not overflow.
	huge := []Demand{{GPUs: 1, Weight: 1 << 61}, {GPUs: 4, Weight: 1 << 61}, {GPUs: 8, Weight: 3 << 61}}
	c.SetDemand(huge)
	if f := c.fragments("h100", 8); f[8] != 0 || f[7] <= f[6] || f[1] <= 0 {
		t.Errorf("expected waste with large weights: %v", f)
	}
}
