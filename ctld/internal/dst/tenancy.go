package dst

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/leader"
	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	"github.com/fettle-hpc/fettle/plugins/preempt"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// claimMS is how long a simulated leader keeps room for a job that does not start.
const claimMS = 30_000

// startTenancy gives two runs of three a policy with limits and preemption, some of them another one later.
func (c *client) startTenancy() {
	if c.sim.rng.IntN(3) == 0 {
		return
	}
	c.sim.after(0, c.setPolicy)
	for range c.sim.rng.IntN(3) {
		c.sim.after(c.sim.between(1_000, c.sim.cfg.FaultMS), c.setPolicy)
	}
}

// setPolicy sets limits under which every job of the simulation fits by itself, and some mode of preemption.
func (c *client) setPolicy() {
	some := func(vs ...uint32) uint32 { return vs[c.sim.rng.IntN(len(vs))] }
	limits := func() *fettlev1.Limits {
		return &fettlev1.Limits{MaxGpus: some(0, 0, 4, 5), MaxJobsRunning: some(0, 0, 2, 3)}
	}
	p := &fettlev1.ClusterPolicy{
		Partitions: []*fettlev1.Partition{{
			Name: model.DefaultPartition, IsDefault: true, Limits: limits(), PreemptGraceS: 1, AllowNoPreemptible: true,
			Preempt: fettlev1.PreemptMode(some(0, 1, 2, 3, 3, 4)), MinRunS: proto.Int64(int64(some(0, 0, 2))),
			PreemptBudget: proto.Uint32(some(1, 1, 2)), PriorityGap: proto.Uint32(some(0, 0, 1, 3)),
		}},
		Projects: []*fettlev1.Project{
			{Name: "lab", Limits: limits()},
			{Name: "nlp", Parent: "lab", Members: []string{"*"}, Limits: limits()},
			{Name: "vision", Members: []string{"*"}, Limits: limits()},
		},
		Users:          []*fettlev1.UserLimits{{User: "*", Limits: limits()}},
		UsageHalfLifeS: 60,
	}
	c.ask(func() *raftlogv1.Entry {
		return &raftlogv1.Entry{Actor: &raftlogv1.Actor{User: "root", Admin: true}, Op: &raftlogv1.Entry_SetPolicy{SetPolicy: proto.Clone(p).(*fettlev1.ClusterPolicy)}}
	}, func(r *fsm.Result) {
		if r.Err != nil {
			c.sim.fail("the policy is refused: %v", r.Err)
		}
	})
}

// tenant gives a specification wishes about preemption and a project. The project is there when there are any.
func (c *client) tenant(s *fettlev1.JobSpec) {
	rng := c.sim.rng
	s.Preempt = rng.IntN(2) == 0
	s.NoPreemptible = rng.IntN(6) == 0
	if g := s.GetGpusPerNode(); rng.IntN(3) > 0 && g.GetCount() == 0 {
		g.Count = 1
	}
	if rng.IntN(2) == 0 {
		s.Project = "vision"
	}
}

// room asks the planner's twin of the preemption policy for victims, and gives up what was kept in vain.
func (c *controller) room(snap *state.Snapshot, plan *sched.Plan, op *raftlogv1.ApplyPlan) {
	if plan.Ask != nil {
		chosen, err := c.feed.Planner().Preempt(plan, preempt.Select(plan.Ask))
		if err != nil {
			c.sim.fail("victims of the built-in policy cannot be used: %v", err)
			return
		}
		op.Preemptions = leader.Preemptions(snap, chosen)
	}
	for j := range snap.Claims {
		stale := snap.NowMS()-j.Claim.GetMadeMs() > claimMS || c.sim.chance(0.05)
		for _, a := range j.Claim.GetNodes() {
			n := snap.Node(a.GetNode())
			stale = stale || n == nil || !n.Usable()
		}
		if stale {
			op.DropClaims = append(op.DropClaims, j.ID)
		}
	}
	if c.sim.chance(0.3) {
		c.rash(snap, op)
	}
}

// rash adds what a planner without any rules would do: start a job where it likes, or end others for it. Mostly it looks for
// jobs that may be ended, so that some are.
func (c *controller) rash(snap *state.Snapshot, op *raftlogv1.ApplyPlan) {
	var waiting []*state.Job
	wishes := c.sim.rng.IntN(4) > 0
	for j := range snap.Pending {
		if !j.IsArray() && j.Spec.GetNodes() == 1 && (!wishes || j.Spec.GetPreempt() && j.Startable()) {
			waiting = append(waiting, j)
		}
	}
	if len(waiting) == 0 {
		return
	}
	for o := range snap.Claims {
		if c.sim.rng.IntN(2) == 0 {
			c.steal(snap, o, op)
			return
		}
	}
	lawful := c.sim.rng.IntN(3) > 0
	for range 8 {
		j, n := waiting[c.sim.rng.IntN(len(waiting))], snap.Node(c.sim.nodes[c.sim.rng.IntN(len(c.sim.nodes))].name)
		if n == nil || slices.ContainsFunc(op.Placements, func(p *raftlogv1.Placement) bool { return p.GetJobId() == j.ID }) {
			continue
		}
		a, victims := c.seize(j, n)
		nodes := []*fettlev1.NodeAllocation{a}
		if len(victims) == 0 {
			op.Placements = append(op.Placements, &raftlogv1.Placement{JobId: j.ID, Attempt: j.Attempt + 1, Nodes: nodes})
			return
		}
		p := &raftlogv1.Preemption{Beneficiary: j.ID, Nodes: nodes}
		allowed := true
		for _, id := range victims {
			v := snap.Job(id)
			part := snap.Partition(v.Spec.GetPartition())
			allowed = allowed && part != nil && state.Preemptible(part, v, snap.NowMS()) == nil && state.Outranks(part, j, v)
			if part != nil {
				p.Victims = append(p.Victims, &raftlogv1.Victim{JobId: v.ID, Attempt: v.Attempt, Mode: model.PreemptModeOf(part.Partition)})
			}
		}
		if allowed || !lawful {
			op.Preemptions = append(op.Preemptions, p)
			return
		}
	}
}

// steal starts a job on what is free of the room that is kept for another.
func (c *controller) steal(snap *state.Snapshot, o *state.Job, op *raftlogv1.ApplyPlan) {
	kept := o.Claim.GetNodes()[0]
	n := snap.Node(kept.GetNode())
	for j := range snap.Pending {
		if n == nil || j.ID == o.ID || j.IsArray() || !j.Startable() || j.Spec.GetNodes() != 1 || slices.ContainsFunc(op.Placements, func(p *raftlogv1.Placement) bool { return p.GetJobId() == j.ID }) {
			continue
		}
		a := &fettlev1.NodeAllocation{Node: n.Name, Cpus: j.Spec.GetCpusPerNode(), MemMib: j.Spec.GetMemMibPerNode(), VramMib: j.Spec.GetVramMib()}
		for _, u := range kept.GetGpuUuids() {
			if _, held := n.Holder(u); !held && len(a.GpuUuids) < int(j.Spec.GetGpusPerNode().GetCount()) {
				a.GpuUuids = append(a.GpuUuids, u)
			}
		}
		op.Placements = append(op.Placements, &raftlogv1.Placement{JobId: j.ID, Attempt: j.Attempt + 1, Nodes: []*fettlev1.NodeAllocation{a}})
		return
	}
}

// seize picks GPUs of a node for a job, held ones where it must or likes to, and says who holds them.
func (c *controller) seize(j *state.Job, n *state.Node) (*fettlev1.NodeAllocation, []uint64) {
	a := &fettlev1.NodeAllocation{Node: n.Name, Cpus: j.Spec.GetCpusPerNode(), MemMib: j.Spec.GetMemMibPerNode(), VramMib: j.Spec.GetVramMib()}
	count := int(j.Spec.GetGpusPerNode().GetCount())
	heldFirst := c.sim.rng.IntN(2) == 0
	var victims []uint64
	for pass := range 2 {
		for _, g := range n.Inventory.GetGpus() {
			h, held := n.Holder(g.GetUuid())
			if len(a.GpuUuids) == count || held != ((pass == 0) == heldFirst) {
				continue
			}
			a.GpuUuids = append(a.GpuUuids, g.GetUuid())
			if held && !slices.Contains(victims, h.JobID) {
				victims = append(victims, h.JobID)
			}
		}
	}
	return a, victims
}
