package fsm

import (
	"cmp"
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
	if n := len(op.GetPreemptions()); n > model.MaxPreemptionsPerEntry {
		return &Result{Err: tooMany("preemptions", n, model.MaxPreemptionsPerEntry)}
	}
	dropClaims(t, op.GetDropClaims())
	r := &Result{Placements: make([]PlacementOutcome, 0, len(op.GetPlacements()))}
	for _, p := range op.GetPlacements() {
		out := PlacementOutcome{JobID: p.GetJobId(), Attempt: p.GetAttempt()}
		if out.Err = checkPlacement(t, p, nil); out.Err == nil {
			out.Err, out.Reason = checkRoom(t, p, nil)
		}
		if out.Err == nil {
			if id := dispatch(t, p, op.GetLedger()); p.ArrayIndex != nil {
				out.Started = id
			}
		}
		r.Placements = append(r.Placements, out)
	}
	for _, p := range op.GetPreemptions() {
		r.Preemptions = append(r.Preemptions, PreemptionOutcome{Beneficiary: p.GetBeneficiary(), Err: preempt(t, p)})
	}
	return r
}

// checkPlacement refuses a placement that the job, the nodes or the partition do not allow at this very entry, with nodes as
// see shows them (nil: as they are). What others may hold against it is checkRoom's.
func checkPlacement(t *state.Txn, p *raftlogv1.Placement, see nodeView) *model.FieldError {
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
	case len(j.WaitingFor) > 0:
		return conflict("dependency", "%s of job %d is not met", model.DependencyText(j.WaitingFor[0]), j.ID)
	case s.GetBeginMs() > now:
		return conflict("job", "%d may not begin yet", j.ID)
	case j.RetryAtMS > now:
		return conflict("job", "%d waits for its back-off", j.ID)
	case p.GetAttempt() != j.Attempt+1:
		return conflict("attempt", "%d is not the next of job %d, that is %d", p.GetAttempt(), j.ID, j.Attempt+1)
	}
	if err := cmp.Or(checkElement(t, j, p), checkDue(now, j), checkShape(j, p)); err != nil {
		return err
	}
	part := t.Partition(s.GetPartition())
	switch {
	case part == nil:
		return conflict("partition", "%q of job %d does not exist", s.GetPartition(), j.ID)
	case part.GetDown():
		return conflict("partition", "%q is down", s.GetPartition())
	}
	w, err := wishesOf(s)
	if err != nil {
		return err
	}
	if see == nil {
		see = t.Node
	}
	c := partCheck{see: see, part: part, spec: s, wishes: w, only: setOf(s.GetNodelist()), never: setOf(s.GetExclude())}
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
	see  nodeView
	part *state.Partition
	spec *fettlev1.JobSpec
	wishes
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
	n, s := c.see(a.GetNode()), c.spec
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
	if err := c.wishes.check(n, s); err != nil {
		return err
	}
	return c.checkGPUs(n, a)
}

func (c *partCheck) checkGPUs(n *state.Node, a *fettlev1.NodeAllocation) *model.FieldError {
	s := c.spec
	if a.GetVramMib() != s.GetVramMib() {
		return conflict("vram", "%d MiB given on %s, the job asks for %d", a.GetVramMib(), n.Name, s.GetVramMib())
	}
	pinned := 0
	types := make([]string, 0, len(a.GetGpuUuids()))
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
		}
		if err := checkHolders(n, g, s.GetVramMib()); err != nil && !bugPlanGPURecheckSkipped {
			return err
		}
		types = append(types, g.GetType())
		if slices.Contains(s.GetDeviceIndexes(), g.GetIndex()) {
			pinned++
		}
	}
	if pinned != len(s.GetDeviceIndexes()) {
		return conflict("device", "not all of the job's pinned GPUs are given on %s", n.Name)
	}
	return c.narrow(n, a.GetGpuUuids(), types)
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

// dispatch commits an attempt: from here on its resources are held until there is evidence that it is over. It returns the
// job's number: an array's element gets its own. With ledger, what it holds is charged when it ends.
func dispatch(t *state.Txn, p *raftlogv1.Placement, ledger bool) uint64 {
	now, id := t.NowMS(), p.GetJobId()
	if p.ArrayIndex != nil {
		id = split(t, id, p.GetArrayIndex()).ID
	}
	a := &fettlev1.Attempt{Number: p.GetAttempt(), Fence: t.Index(), DispatchMs: now}
	a.Nodes = make([]*fettlev1.NodeAllocation, 0, len(p.GetNodes()))
	for _, n := range p.GetNodes() {
		row := t.EditNode(n.GetNode())
		// The row's own strings, so that attempts do not keep copies.
		part := &fettlev1.NodeAllocation{Node: row.Name, Cpus: n.GetCpus(), MemMib: n.GetMemMib(), VramMib: n.GetVramMib()}
		for _, u := range n.GetGpuUuids() {
			part.GpuUuids = append(part.GpuUuids, row.GPU(u).GetUuid())
		}
		if ledger {
			part.GpuMilli = uint32(row.AllocationMilli(part))
		}
		row.Take(id, a.Number, part)
		if t.Job(id).Spec.GetExclusive() {
			row.Exclusive = id
		}
		a.Nodes = append(a.Nodes, part)
	}
	j := t.EditJob(id)
	if j.IsElement() {
		t.NoteStart(j.ArrayJobID)
	}
	setState(j, model.Dispatching)
	j.Reason, j.Detail, j.EndReason = 0, "", 0
	j.RetryAtMS, j.StartMS, j.EndMS, j.FirstBad, j.ExitCode = 0, 0, 0, 0, 0
	t.AddAttempt(j.ID, a)
	started(t, p.GetJobId(), j)
	return j.ID
}
