package fsm

import (
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// applyPlan dispatches what a scheduling cycle decided. The cycle saw an older state, so every condition is checked
// again; each placement is accepted or refused for itself, with all of its nodes.
func applyPlan(t *state.Txn, op *raftlogv1.ApplyPlan) *Result {
	if op.GetTerm() != t.Term() {
		return &Result{Err: conflict("plan", "was made in term %d, the term is %d", op.GetTerm(), t.Term())}
	}
	if n := len(op.GetPlacements()); n > model.MaxPlacementsPerEntry {
		return &Result{Err: tooMany("placements", n, model.MaxPlacementsPerEntry)}
	}
	nodes := 0
	for _, p := range op.GetPlacements() {
		nodes += len(p.GetNodes())
	}
	if nodes > model.MaxAllocationsPerEntry {
		return &Result{Err: tooMany("allocations", nodes, model.MaxAllocationsPerEntry)}
	}
	r := &Result{Placements: make([]PlacementOutcome, 0, len(op.GetPlacements()))}
	for _, p := range op.GetPlacements() {
		out := PlacementOutcome{JobID: p.GetJobId(), Attempt: p.GetAttempt()}
		if out.Err = checkPlacement(t, p); out.Err == nil {
			dispatch(t, p)
		}
		r.Placements = append(r.Placements, out)
	}
	return r
}

// checkPlacement refuses a placement that the job, the nodes or the policy do not allow at this very entry.
func checkPlacement(t *state.Txn, p *raftlogv1.Placement) *model.FieldError {
	j := t.Job(p.GetJobId())
	if j == nil {
		return noJob(p.GetJobId())
	}
	now, s := t.NowMS(), j.Spec
	switch {
	case j.State != model.Pending:
		return conflict("job", "%d is %s", j.ID, model.StateName(j.State))
	case j.Held:
		return conflict("job", "%d is held", j.ID)
	case s.GetBeginMs() > now:
		return conflict("job", "%d may not begin yet", j.ID)
	case j.RetryAtMS > now:
		return conflict("job", "%d waits for its back-off", j.ID)
	case p.GetAttempt() != j.Attempt+1:
		return conflict("attempt", "%d is not the next of job %d, that is %d", p.GetAttempt(), j.ID, j.Attempt+1)
	case len(p.GetNodes()) != int(s.GetNodes()):
		return conflict("nodes", "%d placed, job %d asks for %d", len(p.GetNodes()), j.ID, s.GetNodes())
	}
	part := t.Partition(s.GetPartition())
	switch {
	case part == nil:
		return conflict("partition", "%q of job %d does not exist", s.GetPartition(), j.ID)
	case part.GetDown():
		return conflict("partition", "%q is down", s.GetPartition())
	}
	c := partCheck{t: t, part: part, spec: s, only: setOf(s.GetNodelist()), never: setOf(s.GetExclude())}
	placed := make(map[string]bool, len(p.GetNodes()))
	for _, a := range p.GetNodes() {
		if placed[a.GetNode()] {
			return conflict("nodes", "%.64q is placed twice", a.GetNode())
		}
		placed[a.GetNode()] = true
		if err := c.check(a); err != nil {
			return err
		}
	}
	return checkPinnedUUIDs(s, p)
}

// partCheck checks what single nodes would give to one job.
type partCheck struct {
	t    *state.Txn
	part *state.Partition
	spec *fettlev1.JobSpec
	// only and never are the job's nodelist and exclude list.
	only, never map[string]bool
}

func setOf(names []string) map[string]bool {
	if len(names) == 0 {
		return nil
	}
	set := make(map[string]bool, len(names))
	for _, n := range names {
		set[n] = true
	}
	return set
}

func (c *partCheck) check(a *fettlev1.NodeAllocation) *model.FieldError {
	n, s := c.t.Node(a.GetNode()), c.spec
	switch {
	case n == nil:
		return noNode(a.GetNode())
	case n.State != state.NodeUp:
		return conflict("node", "%s is not up", n.Name)
	case n.Drained:
		return conflict("node", "%s is drained", n.Name)
	case !c.part.Allows(n.Name):
		return conflict("node", "%s is not in partition %s", n.Name, c.part.GetName())
	case c.only != nil && !c.only[n.Name]:
		return conflict("node", "%s is not in the job's nodelist", n.Name)
	case c.never[n.Name]:
		return conflict("node", "%s is excluded by the job", n.Name)
	case a.GetCpus() != s.GetCpusPerNode():
		return conflict("cpus", "%d given on %s, the job asks for %d", a.GetCpus(), n.Name, s.GetCpusPerNode())
	case a.GetMemMib() != s.GetMemMibPerNode():
		return conflict("mem", "%d MiB given on %s, the job asks for %d", a.GetMemMib(), n.Name, s.GetMemMibPerNode())
	case uint64(n.CPUsUsed)+uint64(a.GetCpus()) > uint64(n.Inventory.GetCpus()):
		return conflict("cpus", "%s has %d of %d in use", n.Name, n.CPUsUsed, n.Inventory.GetCpus())
	case a.GetMemMib() > 0 && n.MemUsedMiB > n.Inventory.GetMemoryMib()-a.GetMemMib():
		return conflict("mem", "%s has %d of %d MiB in use", n.Name, n.MemUsedMiB, n.Inventory.GetMemoryMib())
	}
	return checkGPUs(n, s, a)
}

func checkGPUs(n *state.Node, s *fettlev1.JobSpec, a *fettlev1.NodeAllocation) *model.FieldError {
	count, kind := model.GPUs(s)
	if len(a.GetGpuUuids()) != int(count) {
		return conflict("gpus", "%d given on %s, the job asks for %d", len(a.GetGpuUuids()), n.Name, count)
	}
	pinned := 0
	for i, u := range a.GetGpuUuids() {
		if slices.Contains(a.GetGpuUuids()[:i], u) {
			return conflict("gpus", "%.64q is given twice", u)
		}
		g := n.GPU(u)
		switch {
		case g == nil:
			return conflict("gpus", "%s has no %.64q", n.Name, u)
		case g.GetUnhealthy():
			return conflict("gpus", "%.64q on %s is unhealthy", u, n.Name)
		case kind != "" && g.GetType() != kind:
			return conflict("gpus", "%.64q on %s is of type %q, not %q", u, n.Name, g.GetType(), kind)
		}
		if h, held := n.Holder(u); held && !bugPlanGPURecheckSkipped {
			return conflict("gpus", "%.64q on %s is held by job %d", u, n.Name, h.JobID)
		}
		if slices.Contains(s.GetDeviceIndexes(), g.GetIndex()) {
			pinned++
		}
	}
	if pinned != len(s.GetDeviceIndexes()) {
		return conflict("device", "not all of the job's pinned GPUs are given on %s", n.Name)
	}
	return nil
}

// checkPinnedUUIDs wants every pinned GPU to be given on some node of the gang.
func checkPinnedUUIDs(s *fettlev1.JobSpec, p *raftlogv1.Placement) *model.FieldError {
	for _, u := range s.GetDeviceUuids() {
		if !slices.ContainsFunc(p.GetNodes(), func(a *fettlev1.NodeAllocation) bool { return slices.Contains(a.GetGpuUuids(), u) }) {
			return conflict("device", "the pinned %.64q is not given", u)
		}
	}
	return nil
}

// dispatch commits an attempt: from here on its resources are held until there is evidence that it is over.
func dispatch(t *state.Txn, p *raftlogv1.Placement) {
	now := t.NowMS()
	a := &fettlev1.Attempt{Number: p.GetAttempt(), Fence: t.Index(), DispatchMs: now}
	a.Nodes = make([]*fettlev1.NodeAllocation, 0, len(p.GetNodes()))
	for _, n := range p.GetNodes() {
		row := t.EditNode(n.GetNode())
		// The row's own strings, so that attempts do not keep copies.
		part := &fettlev1.NodeAllocation{Node: row.Name, Cpus: n.GetCpus(), MemMib: n.GetMemMib()}
		for _, u := range n.GetGpuUuids() {
			part.GpuUuids = append(part.GpuUuids, row.GPU(u).GetUuid())
		}
		row.Take(p.GetJobId(), a.Number, part)
		a.Nodes = append(a.Nodes, part)
	}
	j := t.EditJob(p.GetJobId())
	setState(j, model.Dispatching)
	j.Reason, j.Detail, j.EndReason = 0, "", 0
	j.RetryAtMS, j.StartMS, j.EndMS, j.FirstBad, j.ExitCode = 0, 0, 0, 0, 0
	t.AddAttempt(j.ID, a)
}
