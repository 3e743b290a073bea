// Package sched plans: one cycle takes a snapshot, the queue's order and the time, and says which jobs start where.
//
// Order is honoured strictly. A job that could start on some nodes but does not fit now keeps those nodes to itself:
// nothing behind it may use them, since that could delay it. Jobs behind it may start on nodes that it could never use.
// A job that no node could hold (pinned to a node that is down, say) keeps nothing and blocks nobody.
package sched

import (
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/fettle-hpc/fettle/ctld/internal/place"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// reasonsBeyond is how many jobs are told why they wait once nothing can start any more.
const reasonsBeyond = 100

// Input is everything a cycle depends on.
type Input struct {
	Snapshot *state.Snapshot
	// NowMS is the time of the cycle in Unix milliseconds.
	NowMS int64
	// Order yields waiting jobs, first in line first. Jobs that are not pending in the snapshot are skipped.
	Order iter.Seq[uint64]
	// Connected reports whether the leader has a session with a node; nil means all are connected.
	Connected func(node string) bool
	// MaxPlacements bounds the plan; 0 means DefaultMaxPlacements.
	MaxPlacements int
}

// CyclePlan is what a cycle proposes.
type CyclePlan struct {
	Placements []*raftlogv1.Placement
	// Waits holds the jobs that were looked at and did not start. Eligible jobs that are not in it wait for those ahead of
	// them.
	Waits map[uint64]Wait
	// WakeMS is the next time at which a waiting job becomes eligible; 0 when none will by itself.
	WakeMS int64
	// More is true when the plan is full and another cycle should follow at once.
	More bool
}

// Cycle makes a plan. It is a pure function of its input.
func Cycle(in Input) CyclePlan {
	c := newCycle(in)
	looked := 0
	for id := range in.Order {
		if c.full() {
			c.plan.More = true
			break
		}
		if c.ready.Len() == 0 {
			// No node takes anything, or every one is kept by a job ahead: nothing further down can start before
			// something changes. A few more are looked at for their reasons.
			if looked++; looked > reasonsBeyond {
				break
			}
		}
		if j := in.Snapshot.Job(id); j != nil && j.State == fettlev1.JobState_JOB_STATE_PENDING {
			c.consider(j)
		}
	}
	return c.plan
}

type cycle struct {
	in       Input
	cluster  *place.Cluster
	partSets map[string]cyclePartition
	methods  map[string]place.NodeSet
	// ready nodes that no blocked job ahead keeps to itself.
	ready  place.NodeSet
	shapes map[string]*cycleShape
	// bySpec finds the shape of jobs that share a spec, as those of one template do, without building its key.
	bySpec map[*fettlev1.JobSpec]*cycleShape
	plan   CyclePlan
	max    int
	// bytes and parts are the size of the plan so far; stuffed says that the next placement does not go into it.
	bytes, parts int
	stuffed      bool
}

type cyclePartition struct {
	known bool
	down  bool
	nodes place.NodeSet
}

// shape is what jobs with the same needs share within a cycle: resources only shrink, so a verdict stands.
type cycleShape struct {
	req      place.Request
	eligible place.NodeSet
	// pinned are the nodes that have to be among those it gets.
	pinned  place.NodeSet
	verdict *Wait
}

func newCycle(in Input) *cycle {
	c := &cycle{in: in, shapes: map[string]*cycleShape{}, bySpec: map[*fettlev1.JobSpec]*cycleShape{}, partSets: map[string]cyclePartition{}, methods: map[string]place.NodeSet{}, max: in.MaxPlacements}
	if c.max == 0 {
		c.max = DefaultMaxPlacements
	}
	c.plan.Waits = map[uint64]Wait{}
	var nodes []place.Node
	for n := range in.Snapshot.Nodes {
		nodes = append(nodes, NodeView(n, in.Connected == nil || in.Connected(n.Name)))
	}
	c.cluster = place.NewCluster(nodes)
	c.ready = c.cluster.Ready()
	return c
}

// NodeView turns a node's row into what placement sees. A node without a session takes nothing new.
func NodeView(n *state.Node, connected bool) place.Node {
	inv := n.Inventory
	v := place.Node{
		Name: n.Name, Ready: connected && !n.Drained && n.State == fettlev1.NodeState_NODE_STATE_UP,
		CPUs: inv.GetCpus(), MemMiB: inv.GetMemoryMib(),
		CPUsFree: inv.GetCpus() - min(n.CPUsUsed, inv.GetCpus()), MemFreeMiB: inv.GetMemoryMib() - n.MemUsedMiB,
	}
	for _, g := range inv.GetGpus() {
		_, held := n.Holder(g.GetUuid())
		v.GPUs = append(v.GPUs, place.GPU{UUID: g.GetUuid(), Type: g.GetType(), Index: g.GetIndex(), Usable: !g.GetUnhealthy(), Free: !held})
	}
	return v
}

func (c *cycle) full() bool { return c.stuffed || len(c.plan.Placements) >= c.max }

// start puts a placement into the plan, unless the plan is full with what it has.
func (c *cycle) start(j *state.Job, allocs []*fettlev1.NodeAllocation) {
	bytes := weigh(allocs)
	if len(c.plan.Placements) > 0 && (c.bytes+bytes > planBudget || c.parts+len(allocs) > model.MaxAllocationsPerEntry) {
		c.stuffed = true
		return
	}
	c.bytes, c.parts = c.bytes+bytes, c.parts+len(allocs)
	c.cluster.Take(allocs)
	c.plan.Placements = append(c.plan.Placements, &raftlogv1.Placement{JobId: j.ID, Attempt: j.Attempt + 1, Nodes: allocs})
}

func (c *cycle) consider(j *state.Job) {
	if w, ok := c.notYet(j); ok {
		c.plan.Waits[j.ID] = w
		return
	}
	part := c.partition(j.Spec.GetPartition())
	if part.down || !part.known {
		c.plan.Waits[j.ID] = Wait{fettlev1.Reason_REASON_PARTITION_DOWN, "partition " + j.Spec.GetPartition() + " is down"}
		return
	}
	s := c.shape(j, part)
	if s.verdict != nil {
		if *s.verdict != behindOthers {
			c.plan.Waits[j.ID] = *s.verdict
		}
		return
	}
	if allocs, ok := c.cluster.Place(&s.req, s.eligible.And(c.ready)); ok {
		if weigh(allocs) <= planBudget {
			c.start(j, allocs)
			return
		}
		s.verdict = &Wait{fettlev1.Reason_REASON_NO_SUITABLE_NODE, "its nodes and GPUs are too many for one entry of the log: ask for fewer"}
		c.plan.Waits[j.ID] = *s.verdict
		return
	}
	w := c.block(s)
	c.plan.Waits[j.ID] = w
	// Later jobs of this shape wait behind this one.
	behind := w
	if w.Reason == fettlev1.Reason_REASON_RESOURCES {
		behind = behindOthers
	}
	s.verdict = &behind
}

// notYet reports whether a job may not start whatever is free.
func (c *cycle) notYet(j *state.Job) (Wait, bool) {
	switch {
	case j.Held:
		return Wait{Reason: HoldReason(j)}, true
	case j.Spec.GetBeginMs() > c.in.NowMS:
		c.wake(j.Spec.GetBeginMs())
		return Wait{Reason: fettlev1.Reason_REASON_BEGIN_TIME}, true
	case j.RetryAtMS > c.in.NowMS:
		c.wake(j.RetryAtMS)
		return Wait{Reason: fettlev1.Reason_REASON_BACKOFF, Detail: j.Detail}, true
	}
	return Wait{}, false
}

// HoldReason says who holds a held job.
func HoldReason(j *state.Job) fettlev1.Reason {
	if j.HeldByAdmin {
		return fettlev1.Reason_REASON_HELD_BY_ADMIN
	}
	return fettlev1.Reason_REASON_HELD_BY_USER
}

func (c *cycle) wake(ms int64) {
	if c.plan.WakeMS == 0 || ms < c.plan.WakeMS {
		c.plan.WakeMS = ms
	}
}

// block keeps the nodes that the job could use to itself, and says what it waits for.
func (c *cycle) block(s *cycleShape) Wait {
	want := max(s.req.Nodes, 1)
	if n := s.eligible.Len(); n < want {
		if n == 0 {
			return Wait{fettlev1.Reason_REASON_NO_SUITABLE_NODE, "no node has what it asks for"}
		}
		return Wait{fettlev1.Reason_REASON_NO_SUITABLE_NODE, "it asks for " + strconv.Itoa(want) + " nodes, only " + strconv.Itoa(n) + " could hold a share"}
	}
	up := s.eligible.And(c.cluster.Ready())
	if up.Len() < want || s.pinned.Without(up).Len() > 0 {
		return Wait{fettlev1.Reason_REASON_NODES_UNAVAILABLE, "the nodes that could hold it are down, drained or out of contact"}
	}
	free := s.eligible.And(c.ready)
	ahead := free.Len() < want || s.pinned.Without(free).Len() > 0
	c.ready = c.ready.Without(s.eligible)
	if ahead {
		// Other blocked jobs keep the nodes: it waits for them, not for resources of its own.
		return behindOthers
	}
	return Wait{Reason: fettlev1.Reason_REASON_RESOURCES}
}

func (c *cycle) partition(name string) cyclePartition {
	if p, ok := c.partSets[name]; ok {
		return p
	}
	var p cyclePartition
	if def := c.in.Snapshot.Partition(name); def != nil {
		p = cyclePartition{known: true, down: def.GetDown(), nodes: place.NewNodeSet(c.cluster.Len())}
		for i := range c.cluster.Len() {
			if def.Allows(c.cluster.Name(i)) {
				p.nodes.Add(i)
			}
		}
	}
	c.partSets[name] = p
	return p
}

func (c *cycle) shape(j *state.Job, part cyclePartition) *cycleShape {
	spec := j.Spec
	if s, ok := c.bySpec[spec]; ok {
		return s
	}
	key := shapeKey(spec)
	if s, ok := c.shapes[key]; ok {
		c.bySpec[spec] = s
		return s
	}
	s := &cycleShape{req: RequestOf(spec)}
	s.eligible = c.cluster.Eligible(&s.req).And(part.nodes)
	if m := spec.GetMethod(); m != "" && m != model.MethodScript {
		s.eligible = s.eligible.And(c.withLauncher(m))
	}
	if s.pinned, _ = c.cluster.Pinned(&s.req); s.pinned.Without(s.eligible).Len() > 0 {
		s.eligible = place.NewNodeSet(c.cluster.Len())
	}
	c.shapes[key], c.bySpec[spec] = s, s
	return s
}

// withLauncher is the nodes that have the launcher of a method.
func (c *cycle) withLauncher(method string) place.NodeSet {
	if s, ok := c.methods[method]; ok {
		return s
	}
	s := place.NewNodeSet(c.cluster.Len())
	for i := range c.cluster.Len() {
		if n := c.in.Snapshot.Node(c.cluster.Name(i)); n != nil && slices.Contains(n.Inventory.GetMethods(), method) {
			s.Add(i)
		}
	}
	c.methods[method] = s
	return s
}

// RequestOf turns a job's spec into what placement needs.
func RequestOf(spec *fettlev1.JobSpec) place.Request {
	return place.Request{
		Nodes: int(max(spec.GetNodes(), 1)), GPUs: int(spec.GetGpusPerNode().GetCount()), GPUType: spec.GetGpusPerNode().GetType(),
		CPUs: max(spec.GetCpusPerNode(), 1), MemMiB: spec.GetMemMibPerNode(),
		Nodelist: spec.GetNodelist(), Exclude: spec.GetExclude(),
		DeviceIndexes: spec.GetDeviceIndexes(), DeviceUUIDs: spec.GetDeviceUuids(),
	}
}

// shapeKey is equal for jobs that placement cannot tell apart.
func shapeKey(s *fettlev1.JobSpec) string {
	var b strings.Builder
	b.WriteString(s.GetPartition())
	b.WriteByte('|')
	b.WriteString(s.GetMethod())
	num := func(v int64) { b.WriteByte('|'); b.WriteString(strconv.FormatInt(v, 36)) }
	num(int64(s.GetNodes()))
	num(int64(s.GetCpusPerNode()))
	num(s.GetMemMibPerNode())
	num(int64(s.GetGpusPerNode().GetCount()))
	b.WriteByte('|')
	b.WriteString(s.GetGpusPerNode().GetType())
	list := func(tag byte, names []string) {
		for _, n := range slices.Sorted(slices.Values(names)) {
			b.WriteByte(tag)
			b.WriteString(n)
		}
	}
	list('+', s.GetNodelist())
	list('-', s.GetExclude())
	list('#', s.GetDeviceUuids())
	for _, i := range s.GetDeviceIndexes() {
		b.WriteByte(':')
		b.WriteString(strconv.Itoa(int(i)))
	}
	return b.String()
}

// WaitOf says why a pending job waits, from its row and the newest cycle's findings.
func WaitOf(j *state.Job, found func(job uint64) (Wait, bool), nowMS int64) Wait {
	switch {
	case j.Held:
		return Wait{Reason: HoldReason(j), Detail: j.Detail}
	case j.Spec.GetBeginMs() > nowMS:
		return Wait{Reason: fettlev1.Reason_REASON_BEGIN_TIME}
	case j.RetryAtMS > nowMS:
		return Wait{Reason: fettlev1.Reason_REASON_BACKOFF, Detail: j.Detail}
	}
	if w, ok := found(j.ID); ok {
		return w
	}
	return behindOthers
}
