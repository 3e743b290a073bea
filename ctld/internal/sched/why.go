package sched

import (
	"fmt"
	"slices"

	"github.com/fettle-hpc/fettle/ctld/internal/place"
	"github.com/fettle-hpc/fettle/plugins/preempt"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Why is why a job waits, and what would start it now.
type Why struct {
	// Wait is the binding constraint; its reason is 0 when the job starts with the next plan.
	Wait
	// Behind are blocked jobs ahead of it that keep what it could use, at most maxBehind of them; Running are those whose end
	// it waits for.
	Behind, Running []uint64
	// ShadowMS is when it can start at the latest by what is known now, if it keeps a place in time; 0 if it does not.
	ShadowMS int64
	// Changes would start it now, each tried on the planner.
	Changes []Change
}

// ChangeKind says what a change is about.
type ChangeKind uint8

// The kinds of changes. Their numbers do not change.
const (
	ChangeGPUs ChangeKind = iota + 1
	ChangeNodes
	ChangeType
	ChangeLimit
	ChangeNodelist
	ChangeCPUs
	ChangeMemory
	ChangePartition
	ChangeReservation
	ChangePreempt
)

// Change is a small change to a job with which it would start now. The fields that are not about it are 0.
type Change struct {
	Kind ChangeKind
	// GPUs on each node, or in all where the job asks so; Nodes; Type of GPUs; LimitS in seconds; CPUs and MemMiB on each node.
	GPUs, Nodes int
	Type        string
	LimitS      int64
	CPUs        uint32
	MemMiB      int64
	Partition   string
	// Victims are the jobs that would make room, LostGPUS what that costs in GPU-seconds.
	Victims  []uint64
	LostGPUS int64
	// Text goes after "would start now", such as "with 2 GPUs".
	Text string
}

// maxBehind bounds the jobs that an answer names.
const maxBehind = 8

// Why says why a waiting job does not start, and tries what would start it. An unknown job has no reason.
func (p *Planner) Why(id uint64, nowMS int64) Why {
	e := p.jobs[id]
	if e == nil {
		return Why{}
	}
	opt := p.opt
	defer func() { p.opt, p.settled = opt, false }()
	p.opt.MaxPlacements, p.settled = -1, true
	p.opt.NoWaits = false
	plan := p.Plan(nowMS)
	p.opt.NoWaits = true
	if has(&plan, id) {
		return Why{}
	}
	w := Why{Wait: p.reason(&plan, e)}
	for _, h := range plan.Heads {
		o := p.jobs[h.Job]
		switch {
		case h.Job == id:
			w.ShadowMS = h.ShadowMS
			w.Running = p.holdersOf(h.Allocs)
		case o != nil && before(o, e) && len(w.Behind) < maxBehind && p.compete(o, e):
			w.Behind = append(w.Behind, h.Job)
		}
	}
	t := trial{p: p, e: e, now: nowMS}
	t.all()
	w.Changes = t.found
	return w
}

func has(plan *Plan, id uint64) bool {
	return slices.ContainsFunc(plan.Placements, func(pl Placement) bool { return pl.Job == id })
}

// reason is why a job waits, also one that the plan did not come to.
func (p *Planner) reason(plan *Plan, e *entry) Wait {
	if w, ok := plan.Waits[e.ID]; ok {
		return w
	}
	switch {
	case e.unfit:
		return *e.shape.unfit
	case e.shape.eligible.And(p.cluster.Ready()).Len() < span(&e.Needs.Request):
		return Wait{fettlev1.Reason_REASON_NODES_UNAVAILABLE, "the nodes that could hold it are down, drained or out of contact"}
	}
	if h := e.account.over(p.pass, e.least); h.kind != 0 {
		return h.wait()
	}
	return behindOthers
}

// compete reports whether two jobs could use the same nodes.
func (p *Planner) compete(a, b *entry) bool { return !a.shape.eligible.And(b.shape.eligible).Empty() }

// holdersOf are the running jobs that hold cards of allocations, or something on their nodes when there are no cards.
func (p *Planner) holdersOf(allocs []*fettlev1.NodeAllocation) []uint64 {
	var ids []uint64
	for _, a := range allocs {
		i, ok := p.cluster.Position(a.GetNode())
		if !ok {
			continue
		}
		for h := range p.cluster.HoldersOn(i) {
			if p.running[h] == nil || slices.Contains(ids, h) || len(ids) == maxBehind {
				continue
			}
			for _, held := range p.cluster.Holding(h) {
				if held.GetNode() == a.GetNode() && (len(a.GetGpuUuids()) == 0 || slices.ContainsFunc(held.GetGpuUuids(), func(u string) bool { return slices.Contains(a.GetGpuUuids(), u) })) {
					ids = append(ids, h)
					break
				}
			}
		}
	}
	return ids
}

// trial tries changes of a job.
type trial struct {
	p     *Planner
	e     *entry
	now   int64
	found []Change
}

// starts plans with the job changed, and puts it back.
func (t *trial) starts(edit func(j *Job, n *Needs)) (Plan, bool) {
	was := t.e.Job
	j, n := was, *was.Needs
	edit(&j, &n)
	j.Needs = &n
	t.p.SetJob(j)
	plan := t.p.Plan(t.now)
	t.p.SetJob(was)
	t.e = t.p.jobs[was.ID]
	return plan, has(&plan, was.ID)
}

// try adds a change when the job starts with it.
func (t *trial) try(c Change, edit func(j *Job, n *Needs)) bool {
	_, ok := t.starts(edit)
	if ok {
		t.found = append(t.found, c)
	}
	return ok
}

func (t *trial) all() {
	t.fewerGPUs()
	t.fewerNodes()
	t.otherType()
	t.shorter()
	r := &t.e.Needs.Request
	if len(r.Nodelist)+len(r.Exclude)+len(r.DeviceIndexes)+len(r.DeviceUUIDs) > 0 || r.Constraint != nil {
		t.try(Change{Kind: ChangeNodelist, Text: "if it did not name nodes, GPUs or features"}, func(_ *Job, n *Needs) {
			n.Request.Nodelist, n.Request.Exclude, n.Request.DeviceIndexes, n.Request.DeviceUUIDs, n.Request.Constraint = nil, nil, nil, nil, nil
		})
	}
	t.lighter()
	if t.e.Reservation != "" {
		t.try(Change{Kind: ChangeReservation, Text: "outside of its reservation"}, func(j *Job, _ *Needs) { j.Reservation = "" })
	}
	t.otherPartition()
	t.preempt()
}

// fewerGPUs finds the most GPUs with which it would start.
func (t *trial) fewerGPUs() {
	r := t.e.Needs.Request
	for g := r.GPUs - 1; g > 0; g = fewer(g, r.GPUs) {
		what := cardsText(g, r.GPUType)
		switch {
		case r.Total:
			what += " in all"
		case r.Nodes > 1:
			what += " on each node"
		}
		if t.try(Change{Kind: ChangeGPUs, GPUs: g, Text: "with " + what}, func(_ *Job, n *Needs) { n.Request.GPUs, n.Request.Alternatives = g, nil }) {
			return
		}
	}
}

// fewer is the next smaller number to try: one by one at first, then by halves.
func fewer(n, of int) int {
	if of-n < 8 {
		return n - 1
	}
	return n / 2
}

func cardsText(n int, typ string) string {
	if typ == "" {
		typ = "GPU"
		if n > 1 {
			typ = "GPUs"
		}
	}
	return fmt.Sprintf("%d %s", n, typ)
}

// fewerNodes finds the most nodes with which a gang would start.
func (t *trial) fewerNodes() {
	r := t.e.Needs.Request
	if r.Total {
		return
	}
	for k := r.Nodes - 1; k > 0; k = fewer(k, r.Nodes) {
		text := fmt.Sprintf("on %d nodes", k)
		if k == 1 {
			text = "on 1 node"
		}
		if t.try(Change{Kind: ChangeNodes, Nodes: k, Text: text}, func(_ *Job, n *Needs) { n.Request.Nodes = k }) {
			return
		}
	}
}

func (t *trial) otherType() {
	r := t.e.Needs.Request
	if r.GPUs == 0 || r.GPUType == "" {
		return
	}
	for _, typ := range t.p.typesOn(t.p.nodesOf(t.e.Needs.Partition)) {
		if typ != r.GPUType {
			t.try(Change{Kind: ChangeType, Type: typ, GPUs: r.GPUs, Text: "with " + cardsText(r.GPUs, typ)}, func(_ *Job, n *Needs) { n.Request.GPUType, n.Request.Alternatives = typ, nil })
		}
	}
}

// leastLimitS is the shortest time limit that is worth proposing.
const leastLimitS = 60

// shorter finds the longest time limit with which it would start ahead of those that wait.
func (t *trial) shorter() {
	plan, ok := t.starts(func(j *Job, _ *Needs) { j.LimitS = leastLimitS })
	if !ok || t.e.LimitS > 0 && t.e.LimitS <= leastLimitS {
		return
	}
	limits := []int64{leastLimitS}
	for _, h := range plan.Heads {
		if s := (h.ShadowMS - t.now) / 1000; s > leastLimitS && (t.e.LimitS == 0 || s < t.e.LimitS) {
			// Whole minutes are easier to say, and leave a moment to say it.
			limits = append(limits, s/60*60)
		}
	}
	for _, r := range t.p.reservations {
		if s := (r.StartMS - t.now) / 1000; s > leastLimitS && (t.e.LimitS == 0 || s < t.e.LimitS) {
			limits = append(limits, s/60*60)
		}
	}
	slices.Sort(limits)
	for _, s := range slices.Backward(slices.Compact(limits)) {
		if t.try(Change{Kind: ChangeLimit, LimitS: s, Text: fmt.Sprintf("with a time limit of %d min", s/60)}, func(j *Job, _ *Needs) { j.LimitS = s }) {
			return
		}
	}
}

// lighter tries fewer CPUs or less memory when that is what it lacks.
func (t *trial) lighter() {
	short := t.p.cluster.Explain(&t.e.Needs.Request, t.e.shape.eligible)
	switch short.What {
	case place.MissingCPUs:
		if c := uint32(max(short.Best, 0)); c > 0 {
			t.try(Change{Kind: ChangeCPUs, CPUs: c, Text: fmt.Sprintf("with %d CPUs on each node", c)}, func(_ *Job, n *Needs) { n.Request.CPUs = c })
		}
	case place.MissingMemory:
		if m := int64(short.Best); m > 0 {
			t.try(Change{Kind: ChangeMemory, MemMiB: m, Text: fmt.Sprintf("with %d MiB of memory on each node", m)}, func(_ *Job, n *Needs) { n.Request.MemMiB = m })
		}
	}
}

func (t *trial) otherPartition() {
	var names []string
	for name, part := range t.p.partitions {
		if !part.Down && name != t.e.Needs.Partition {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		t.try(Change{Kind: ChangePartition, Partition: name, Text: "in partition " + name}, func(_ *Job, n *Needs) { n.Partition = name })
	}
}

// preempt tries whether others could make room.
func (t *trial) preempt() {
	if t.e.Preempt || len(t.e.Claim) > 0 {
		return
	}
	was := t.e.Job
	j := was
	j.Preempt = true
	t.p.SetJob(j)
	defer func() {
		t.p.SetJob(was)
		t.e = t.p.jobs[was.ID]
	}()
	plan := t.p.Plan(t.now)
	if plan.Ask == nil {
		return
	}
	list, err := t.p.Preempt(&plan, preempt.Select(plan.Ask))
	if err != nil {
		return
	}
	for _, pr := range list {
		if pr.Job != was.ID {
			continue
		}
		c := Change{Kind: ChangePreempt}
		for _, v := range pr.Victims {
			c.Victims = append(c.Victims, v.Job)
			c.LostGPUS += v.LostGPUS
		}
		c.Text = fmt.Sprintf("with --preempt, once %d running jobs have made room", len(c.Victims))
		if len(c.Victims) == 1 {
			c.Text = fmt.Sprintf("with --preempt, once job %d has made room", c.Victims[0])
		}
		t.found = append(t.found, c)
	}
}
