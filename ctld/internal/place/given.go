package place

import fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"

// NewCluster makes a cluster of nodes of which something is taken already: cards that are not Free, and the difference between
// CPUs and CPUsFree, MemMiB and MemFreeMiB. What is taken has holders from 1<<63 up.
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
			c.Hold(1<<63|uint64(i), []*fettlev1.NodeAllocation{a})
		}
	}
	return c
}
