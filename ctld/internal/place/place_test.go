package place

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// stand is a node with what is held on it.
type stand struct {
	Node
	held *fettlev1.NodeAllocation
}

// node makes a ready node; each letter of cards is a GPU: h or a for a free h100 or a100, upper case when taken, x when broken.
func node(name string, cpus uint32, cards string) stand {
	s := stand{Node: Node{Name: name, Ready: true, CPUs: cpus, MemMiB: 1000}, held: &fettlev1.NodeAllocation{Node: name}}
	for i, c := range cards {
		g := GPU{UUID: fmt.Sprintf("%s-%d", name, i), Index: uint32(i), Type: "h100", Usable: c != 'x'}
		if c == 'a' || c == 'A' {
			g.Type = "a100"
		}
		if c == 'H' || c == 'A' {
			s.held.GpuUuids = append(s.held.GpuUuids, g.UUID)
		}
		s.GPUs = append(s.GPUs, g)
	}
	return s
}

func cluster(stands []stand) *Cluster {
	c := New()
	for i, s := range stands {
		c.SetNode(s.Node)
		c.Hold(uint64(i+1), []*fettlev1.NodeAllocation{s.held})
	}
	return c
}

func TestPlace(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		nodes []stand
		req   Request
		want  []string // "node:card,card"; nil when it must not fit
	}{
		{"best fit leaves the whole node free", []stand{node("n1", 8, "hhhh"), node("n2", 8, "hhHH")}, Request{GPUs: 2, CPUs: 1}, []string{"n2:0,1"}},
		{"ties go to the first node", []stand{node("n1", 8, "hh"), node("n2", 8, "hh")}, Request{GPUs: 1, CPUs: 1}, []string{"n1:0"}},
		{"type is honoured", []stand{node("n1", 8, "aa"), node("n2", 8, "hhhh")}, Request{GPUs: 1, GPUType: "h100", CPUs: 1}, []string{"n2:0"}},
		{"any type does not mix types", []stand{node("n1", 8, "ah")}, Request{GPUs: 2, CPUs: 1}, nil},
		{"any type prefers the scarcer sufficient one", []stand{node("n1", 8, "hhhaa")}, Request{GPUs: 2, CPUs: 1}, []string{"n1:3,4"}},
		{"a broken card is not given", []stand{node("n1", 8, "xh")}, Request{GPUs: 2, CPUs: 1}, nil},
		{"a taken card is not given", []stand{node("n1", 8, "Hh")}, Request{GPUs: 1, CPUs: 1}, []string{"n1:1"}},
		{"pin by index", []stand{node("n1", 8, "hhhh")}, Request{GPUs: 1, CPUs: 1, DeviceIndexes: []uint32{2}}, []string{"n1:2"}},
		{"pin by index waits for that card", []stand{node("n1", 8, "hhHh")}, Request{GPUs: 1, CPUs: 1, DeviceIndexes: []uint32{2}}, nil},
		{"pin by uuid among more", []stand{node("n1", 8, "hhhh")}, Request{GPUs: 2, CPUs: 1, DeviceUUIDs: []string{"n1-3"}}, []string{"n1:0,3"}},
		{"pins on two nodes of a gang", []stand{node("n1", 8, "hh"), node("n2", 8, "hh"), node("n3", 8, "hh")}, Request{Nodes: 2, GPUs: 1, CPUs: 1, DeviceUUIDs: []string{"n1-1", "n3-0"}}, []string{"n1:1", "n3:0"}},
		{"a pin on one node of a gang", []stand{node("n1", 8, "hh"), node("n2", 8, "hh"), node("n3", 8, "hhhh")}, Request{Nodes: 2, GPUs: 2, CPUs: 1, DeviceUUIDs: []string{"n3-2"}}, []string{"n1:0,1", "n3:0,2"}},
		{"pins on more nodes than asked for", []stand{node("n1", 8, "hh"), node("n2", 8, "hh")}, Request{GPUs: 2, CPUs: 1, DeviceUUIDs: []string{"n1-1", "n2-0"}}, nil},
		{"a pinned card that is taken", []stand{node("n1", 8, "hH"), node("n2", 8, "hh")}, Request{Nodes: 2, GPUs: 1, CPUs: 1, DeviceUUIDs: []string{"n1-1"}}, nil},
		{"a pinned card that nobody has", []stand{node("n1", 8, "hh")}, Request{GPUs: 1, CPUs: 1, DeviceUUIDs: []string{"n9-0"}}, nil},
		{"a pinned card on an excluded node", []stand{node("n1", 8, "hh"), node("n2", 8, "hh")}, Request{GPUs: 1, CPUs: 1, DeviceUUIDs: []string{"n1-0"}, Exclude: []string{"n1"}}, nil},
		{"a pinned card outside the nodelist", []stand{node("n1", 8, "hh"), node("n2", 8, "hh")}, Request{GPUs: 1, CPUs: 1, DeviceUUIDs: []string{"n1-0"}, Nodelist: []string{"n2"}}, nil},
		{"a job without GPUs avoids free cards", []stand{node("n1", 8, "hhhh"), node("n2", 8, "")}, Request{CPUs: 1}, []string{"n2:"}},
		{"gang is all or nothing", []stand{node("n1", 8, "hhhh"), node("n2", 8, "HHHH")}, Request{Nodes: 2, GPUs: 4, CPUs: 1}, nil},
		{"gang ranks follow node order", []stand{node("n1", 8, "hhhh"), node("n2", 8, "hhH"), node("n3", 8, "hh")}, Request{Nodes: 2, GPUs: 2, CPUs: 1}, []string{"n2:0,1", "n3:0,1"}},
		{"nodelist", []stand{node("n1", 8, "h"), node("n2", 8, "h")}, Request{GPUs: 1, CPUs: 1, Nodelist: []string{"n2"}}, []string{"n2:0"}},
		{"exclude", []stand{node("n1", 8, "h"), node("n2", 8, "h")}, Request{GPUs: 1, CPUs: 1, Exclude: []string{"n1"}}, []string{"n2:0"}},
		{"CPUs bind", []stand{node("n1", 2, "h")}, Request{GPUs: 1, CPUs: 4}, nil},
		{"memory binds", []stand{node("n1", 2, "h")}, Request{GPUs: 1, CPUs: 1, MemMiB: 1001}, nil},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := cluster(tc.nodes)
			allocs, ok := c.Place(&tc.req, c.Eligible(&tc.req))
			got := show(allocs)
			if ok != (tc.want != nil) || !cmp.Equal(got, tc.want) {
				t.Errorf("Place = %v, %v; want %v", got, ok, tc.want)
			}
		})
	}
}

func TestNotReadyNodeTakesNothing(t *testing.T) {
	t.Parallel()
	n := node("n1", 8, "h")
	n.Ready = false
	c := cluster([]stand{n})
	r := Request{GPUs: 1, CPUs: 1}
	if c.Eligible(&r).Len() != 1 {
		t.Error("a drained node must still count as able to hold the job later")
	}
	if _, ok := c.Place(&r, c.Eligible(&r)); ok {
		t.Error("placed on a node that is not ready")
	}
}
