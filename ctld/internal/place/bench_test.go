package place

import (
	"fmt"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// The goals that benchmarks here are read against: see DESIGN.md. 5,000 nodes of 8 GPUs each.
const (
	benchNodes = 5000
	benchCards = 8
)

func benchNode(i int) Node {
	n := Node{Name: fmt.Sprintf("node%04d", i), Ready: true, CPUs: 128, MemMiB: 1 << 20, Switch: fmt.Sprintf("leaf%03d", i/32)}
	typ, mem := "h100", int64(80_000)
	if i%5 == 4 {
		typ, mem = "a100", 40_000
	}
	for g := range benchCards {
		n.GPUs = append(n.GPUs, GPU{UUID: fmt.Sprintf("GPU-%08d-0000-0000-0000-%012d", i, g), Index: uint32(g), Type: typ, MemMiB: mem, Island: 1, NUMA: g / 4, Usable: true})
	}
	return n
}

func benchCluster() *Cluster {
	c := New()
	c.SetDemand([]Demand{{GPUs: 1, Weight: 2}, {GPUs: 4, Weight: 2}, {GPUs: 8, Weight: 6}})
	for i := range benchNodes {
		c.SetNode(benchNode(i))
	}
	return c
}

// fill takes all but every keep-th node's last cards, in the way that jobs of mixed sizes leave them.
func fill(c *Cluster, keep int) (holders int) {
	for i := range benchNodes {
		free := 0
		if i%keep == 0 {
			free = 1 + i/keep%7
		}
		a := &fettlev1.NodeAllocation{Node: fmt.Sprintf("node%04d", i), Cpus: uint32(128 - 2*free), MemMib: 1 << 19}
		for g := range benchCards - free {
			a.GpuUuids = append(a.GpuUuids, fmt.Sprintf("GPU-%08d-0000-0000-0000-%012d", i, g))
		}
		holders++
		c.Hold(uint64(holders), []*fettlev1.NodeAllocation{a})
	}
	return holders
}

var benchRequests = []struct {
	name string
	r    Request
}{
	{"one", Request{GPUs: 1, CPUs: 1}},
	{"four", Request{GPUs: 4, GPUType: "h100", CPUs: 1}},
	{"node", Request{GPUs: 8, GPUType: "h100", CPUs: 1}},
	{"gang16x8", Request{Nodes: 16, GPUs: 8, GPUType: "h100", CPUs: 1}},
	{"total100", Request{GPUs: 100, Total: true, GPUType: "h100", CPUs: 1}},
	{"share", Request{GPUs: 1, VRAMMiB: 20_000, CPUs: 1}},
	{"cpu", Request{CPUs: 4}},
}

// BenchmarkPlace chooses, takes and undoes on a cluster that is empty, one that is nearly full, and one that is full.
func BenchmarkPlace(b *testing.B) {
	for _, load := range []struct {
		name string
		keep int
	}{{"empty", 0}, {"nearly-full", 50}, {"full", benchNodes + 1}} {
		c := benchCluster()
		if load.keep > 0 {
			fill(c, load.keep)
		}
		for _, req := range benchRequests {
			b.Run(load.name+"/"+req.name, func(b *testing.B) {
				allowed := c.Eligible(&req.r)
				b.ReportAllocs()
				for b.Loop() {
					m := c.Mark()
					if allocs, ok := c.Place(&req.r, allowed); ok {
						c.Hold(1<<40, allocs)
					}
					c.Undo(m)
				}
			})
		}
	}
}

// BenchmarkFill fills an empty cluster job by job, as a forward simulation does: the time is for all of it.
func BenchmarkFill(b *testing.B) {
	for _, req := range benchRequests[:4] {
		b.Run(req.name, func(b *testing.B) {
			c := benchCluster()
			allowed := c.Eligible(&req.r)
			for b.Loop() {
				m, jobs := c.Mark(), 0
				for {
					allocs, ok := c.Place(&req.r, allowed)
					if !ok {
						break
					}
					jobs++
					c.Hold(uint64(1<<40+jobs), allocs)
				}
				b.ReportMetric(float64(jobs), "jobs")
				c.Undo(m)
			}
		})
	}
}

// BenchmarkSetNode reports a node that goes away and comes back; BenchmarkBuild is a new term.
func BenchmarkSetNode(b *testing.B) {
	c := benchCluster()
	fill(c, 50)
	n := benchNode(2500)
	b.ReportAllocs()
	for b.Loop() {
		n.Ready = !n.Ready
		c.SetNode(n)
	}
}

func BenchmarkBuild(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		fill(benchCluster(), 50)
	}
}

func BenchmarkEligible(b *testing.B) {
	c := benchCluster()
	r := Request{GPUs: 4, GPUType: "h100", CPUs: 1, Constraint: word("ib")}
	for b.Loop() {
		c.Eligible(&r)
	}
}

func BenchmarkExplain(b *testing.B) {
	c := benchCluster()
	fill(c, 50)
	r := Request{Nodes: 16, GPUs: 8, GPUType: "h100", CPUs: 1}
	allowed := c.Eligible(&r)
	for b.Loop() {
		c.Explain(&r, allowed)
	}
}
