package place

import (
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	busy := func(n *Node) { n.GPUs[0].BusyOutside = true }
	down := func(n *Node) { n.Ready = false }
	tests := []struct {
		name  string
		nodes []string
		edit  []func(*Node)
		req   Request
		what  Missing
		text  string
	}{
		{"it fits", []string{"n1=hh"}, nil, Request{GPUs: 2}, MissingNothing, ""},
		{"no such type", []string{"n1=hh"}, nil, Request{GPUs: 1, GPUType: "b200"}, MissingNodes, "no node has what it asks for"},
		{"too few such nodes", []string{"n1=hh", "n2=hh"}, nil, Request{Nodes: 3, GPUs: 2}, MissingNodes, "needs 3 nodes, only 2 could hold a share"},
		{"a total that is more than there is", []string{"n1=hh", "n2=hh"}, nil, Request{Total: true, GPUs: 5, GPUType: "h100"}, MissingNodes, "needs 5 h100 in all, the nodes that could give some have 4"},
		{"nodes are down", []string{"n1=hh"}, []func(*Node){down}, Request{GPUs: 1}, MissingReady, "the nodes that could hold it are down, drained or out of contact"},
		{"cards are taken", []string{"n1=hHhH", "n2=hHHH"}, nil, Request{GPUs: 4, GPUType: "h100"}, MissingGPUs, "needs 4 h100 on a node, at most 2 free together"},
		{"a gang lacks nodes", []string{"n1=hh", "n2=hH"}, nil, Request{Nodes: 2, GPUs: 2}, MissingGPUs, "needs 2 GPUs on each of 2 nodes, free on 1"},
		{"a total lacks cards", []string{"n1=hH", "n2=hH"}, nil, Request{Total: true, GPUs: 3}, MissingGPUs, "needs 3 GPUs in all, at most 2 free together"},
		{"the closest alternative", []string{"n1=HH", "n2=hH"}, []func(*Node){only("n2", model("a100", 40_000))}, Request{GPUs: 2, GPUType: "h100", Alternatives: []GPUChoice{{"a100", 2}}}, MissingGPUs, "needs 2 a100 on a node, at most 1 free together"},
		{"cards are busy outside", []string{"n1=hh"}, []func(*Node){busy}, Request{GPUs: 2}, MissingBusyOutside, "something outside of jobs uses n1:0"},
		{"CPUs", []string{"n1=Hh"}, nil, Request{GPUs: 1, CPUs: 64}, MissingCPUs, "needs 64 CPUs on each node, at most 63 free where the GPUs are"},
		{"memory", []string{"n1=Hh"}, []func(*Node){func(n *Node) { n.MemMiB = 500 }}, Request{GPUs: 1, MemMiB: 400}, MissingMemory, "needs 400 MiB of memory on each node, at most 200 free where the GPUs are"},
		{"a share", []string{"n1=HS"}, nil, Request{GPUs: 1, VRAMMiB: 60_000}, MissingVRAM, "needs 60000 MiB on 1 GPU on a node, at most 48464 are left on a card"},
		{"an exclusive node", []string{"n1=Hh"}, nil, Request{GPUs: 1, Exclusive: true}, MissingIdleNodes, "needs 1 node to itself, 0 idle"},
		{"a card that it names", []string{"n1=Hh"}, nil, Request{GPUs: 1, DeviceIndexes: []uint32{0}}, MissingNamed, "the GPUs that it names are in use"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := site(t, tc.nodes, tc.edit...)
			switch tc.what {
			case MissingMemory:
				c.Hold(1, []*fettlev1.NodeAllocation{{Node: "n1", MemMib: 300}})
			case MissingVRAM:
				c.Hold(1, []*fettlev1.NodeAllocation{{Node: "n1", GpuUuids: []string{"n1-1"}, Cpus: 1, VramMib: 30_000}})
			}
			r := tc.req
			r.CPUs = max(r.CPUs, 1)
			if got := c.Explain(&r, c.Eligible(&r)); got.What != tc.what || got.String() != tc.text {
				t.Errorf("missing %d %q, want %d %q", got.What, got, tc.what, tc.text)
			}
		})
	}
}
