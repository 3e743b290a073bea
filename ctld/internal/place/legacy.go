package place

import fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"

// NewCluster makes a cluster of nodes of which something is taken already: cards that are not Free, and the difference between
// CPUs and CPUsFree, MemMiB and MemFreeMiB.
func NewCluster(nodes []Node) *Cluster {
	c := New()
	for i := range nodes {
		n := &nodes[i]
		c.SetNode(*n)
		a := &fettlev1.NodeAllocation{Node: n.Name, Cpus: n.CPUs - n.CPUsFree, MemMib: n.MemMiB - n.MemFreeMiB}
		for g := range n.GPUs {
			if !n.GPUs[g].Free {
				a.GpuUuids = append(a.GpuUuids, n.GPUs[g].UUID)
			}
		}
		if a.GetCpus() > 0 || a.GetMemMib() > 0 || len(a.GetGpuUuids()) > 0 {
			c.Take([]*fettlev1.NodeAllocation{a})
		}
	}
	return c
}

// Take books an allocation for a holder that is never released.
func (c *Cluster) Take(allocs []*fettlev1.NodeAllocation) {
	c.phantom++
	c.Hold(c.phantom, allocs)
}
