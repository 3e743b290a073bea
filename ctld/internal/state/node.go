package state

import (
	"cmp"
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Short names for the node states.
const (
	NodeUp          = fettlev1.NodeState_NODE_STATE_UP
	NodeUnreachable = fettlev1.NodeState_NODE_STATE_UNREACHABLE
	NodeDown        = fettlev1.NodeState_NODE_STATE_DOWN
)

// GPUHold says which attempt holds a GPU, or a share of its memory.
type GPUHold struct {
	UUID    string
	JobID   uint64
	Attempt uint32
	// VRAMMiB is the share of the GPU's memory; 0 means the whole GPU.
	VRAMMiB int64
}

// cmpHolds orders holds by GPU, then by job: a shared GPU has several.
func cmpHolds(a, b GPUHold) int {
	return cmp.Or(cmp.Compare(a.UUID, b.UUID), cmp.Compare(a.JobID, b.JobID), cmp.Compare(a.Attempt, b.Attempt))
}

// Node is one row of the node table, immutable like a Job.
type Node struct {
	Name        string
	State       fettlev1.NodeState
	Drained     bool
	DrainReason string
	// BootID tells one boot of the node's kernel from the next.
	BootID string
	// Session is the log index of the node's newest Hello; orders of older sessions are void.
	Session   uint64
	Inventory *fettlev1.Inventory
	// Unix milliseconds of the log's clock.
	RegisteredMS, StateSinceMS int64
	// LaunchFailures counts launches in a row that failed through the node's fault.
	LaunchFailures uint32
	// Resources that attempts hold here.
	CPUsUsed   uint32
	MemUsedMiB int64
	// Held are the GPUs in use, by UUID ascending, then by job. A GPU may be held that the inventory no longer lists.
	Held []GPUHold
	// Exclusive is the job that has the node for itself, 0 for none.
	Exclusive uint64

	inventorySum sum
	sum          sum
}

// Usable reports whether new attempts may be placed on the node.
func (n *Node) Usable() bool { return n.State == NodeUp && !n.Drained }

// Holders returns the attempts that hold the GPU or shares of it, by job ascending. Not to be changed.
func (n *Node) Holders(uuid string) []GPUHold {
	i, ok := n.findHold(uuid)
	if !ok {
		return nil
	}
	k := i + 1
	for k < len(n.Held) && n.Held[k].UUID == uuid {
		k++
	}
	return n.Held[i:k]
}

// Holder returns which attempt holds the GPU; of several that share it, that of the lowest job.
func (n *Node) Holder(uuid string) (GPUHold, bool) {
	i, ok := n.findHold(uuid)
	if !ok {
		return GPUHold{}, false
	}
	return n.Held[i], true
}

func (n *Node) findHold(uuid string) (int, bool) {
	return slices.BinarySearchFunc(n.Held, uuid, func(h GPUHold, u string) int { return cmp.Compare(h.UUID, u) })
}

// GPU returns the inventory's entry for uuid, nil when it has none.
func (n *Node) GPU(uuid string) *fettlev1.GPU {
	for _, g := range n.Inventory.GetGpus() {
		if g.GetUuid() == uuid {
			return g
		}
	}
	return nil
}

// Idle reports whether no attempt holds anything that is counted here: GPUs, CPUs or memory.
func (n *Node) Idle() bool { return len(n.Held) == 0 && n.CPUsUsed == 0 && n.MemUsedMiB == 0 }

// Take adds what an attempt holds. n must be a private copy (see Txn.EditNode); whether it fits is the caller's to check.
func (n *Node) Take(jobID uint64, attempt uint32, a *fettlev1.NodeAllocation) {
	n.CPUsUsed += a.GetCpus()
	n.MemUsedMiB += a.GetMemMib()
	if len(a.GetGpuUuids()) == 0 {
		return
	}
	held := make([]GPUHold, 0, len(n.Held)+len(a.GetGpuUuids()))
	held = append(held, n.Held...)
	for _, u := range a.GetGpuUuids() {
		held = append(held, GPUHold{UUID: u, JobID: jobID, Attempt: attempt, VRAMMiB: a.GetVramMib()})
	}
	slices.SortFunc(held, cmpHolds)
	n.Held = held
}

// Free removes what that attempt holds, and nothing of any other. n must be a private copy.
func (n *Node) Free(jobID uint64, attempt uint32, a *fettlev1.NodeAllocation) {
	n.CPUsUsed -= min(a.GetCpus(), n.CPUsUsed)
	n.MemUsedMiB -= min(a.GetMemMib(), n.MemUsedMiB)
	if n.Exclusive == jobID {
		n.Exclusive = 0
	}
	if len(a.GetGpuUuids()) == 0 {
		return
	}
	held := make([]GPUHold, 0, len(n.Held))
	for _, h := range n.Held {
		if h.JobID != jobID || h.Attempt != attempt || !slices.Contains(a.GetGpuUuids(), h.UUID) {
			held = append(held, h)
		}
	}
	if len(held) == 0 {
		held = nil
	}
	n.Held = held
}

// Proto returns the node as clients see it, sharing the inventory with the row. Readings and last contact are the
// leader's to fill in.
func (n *Node) Proto() *fettlev1.Node {
	p := &fettlev1.Node{
		Name: n.Name, State: n.State, Drained: n.Drained, DrainReason: n.DrainReason,
		BootId: n.BootID, Session: n.Session, Inventory: n.Inventory,
		RegisteredMs: n.RegisteredMS, StateSinceMs: n.StateSinceMS,
		ConsecutiveLaunchFailures: n.LaunchFailures, CpusUsed: n.CPUsUsed, MemUsedMib: n.MemUsedMiB,
		ExclusiveJob: n.Exclusive,
	}
	for _, h := range n.Held {
		p.GpuHolders = append(p.GpuHolders, &fettlev1.GPUHolder{Uuid: h.UUID, JobId: h.JobID, Attempt: h.Attempt, VramMib: h.VRAMMiB})
	}
	return p
}
