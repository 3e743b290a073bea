package sched

import (
	"slices"

	"github.com/fettle-hpc/fettle/ctld/internal/place"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

// NodeOf turns a node's row into what the planner sees. A node without a session takes nothing new. busy tells the cards that
// something outside of jobs uses; nil: none.
func NodeOf(n *state.Node, connected bool, busy func(uuid string) bool) Node {
	v := Node{Node: place.FromInventory(n.Name, n.Inventory), Methods: n.Inventory.GetMethods()}
	v.Ready = connected && n.Usable()
	if busy != nil {
		for i := range v.GPUs {
			v.GPUs[i].BusyOutside = busy(v.GPUs[i].UUID)
		}
	}
	return v
}

// NodeView is a node's row as placement sees it, with what is held told by its Free fields for place.NewCluster.
func NodeView(n *state.Node, connected bool) place.Node {
	v := NodeOf(n, connected, nil).Node
	v.CPUsFree, v.MemFreeMiB = v.CPUs-min(n.CPUsUsed, v.CPUs), v.MemMiB-n.MemUsedMiB
	for i := range v.GPUs {
		_, held := n.Holder(v.GPUs[i].UUID)
		v.GPUs[i].Free = !held
	}
	return v
}

// RequestOf turns a job's spec into what placement has to find.
func RequestOf(spec *fettlev1.JobSpec) place.Request {
	r := place.Request{
		Nodes: int(max(spec.GetNodes(), 1)), GPUs: int(spec.GetGpusPerNode().GetCount()), GPUType: spec.GetGpusPerNode().GetType(),
		CPUs: max(spec.GetCpusPerNode(), 1), MemMiB: spec.GetMemMibPerNode(), VRAMMiB: spec.GetVramMib(), Exclusive: spec.GetExclusive(),
		Nodelist: spec.GetNodelist(), Exclude: spec.GetExclude(),
		DeviceIndexes: spec.GetDeviceIndexes(), DeviceUUIDs: spec.GetDeviceUuids(),
	}
	for _, a := range spec.GetGpuAlternatives() {
		r.Alternatives = append(r.Alternatives, place.GPUChoice{Type: a.GetType(), Count: int(a.GetCount())})
	}
	if total := spec.GetGpusTotal(); total.GetCount() > 0 {
		r.Total, r.Nodes, r.GPUs, r.GPUType = true, int(spec.GetNodes()), int(total.GetCount()), total.GetType()
		// A launcher runs as many processes on each of its nodes.
		r.Even = launched(spec.GetMethod())
	}
	if spec.GetConstraint() != "" {
		if c, err := gres.ParseConstraint(spec.GetConstraint()); err == nil {
			r.Constraint = c
		} else {
			r.Constraint = unreadable{}
		}
	}
	return r
}

// unreadable matches no node.
type unreadable struct{}

func (unreadable) Matches([]string) bool { return false }

func launched(method string) bool { return method != "" && method != model.MethodScript }

// NeedsOf is what jobs of this spec ask of nodes.
func NeedsOf(spec *fettlev1.JobSpec) *Needs {
	n := &Needs{Request: RequestOf(spec), Partition: spec.GetPartition()}
	if launched(spec.GetMethod()) {
		n.Method = spec.GetMethod()
	}
	return n
}

// JobOf turns a waiting job's row into what the planner sees, at the score that the scheduling policy gave.
func JobOf(snap *state.Snapshot, j *state.Job, score int64, needs *Needs) Job {
	s := j.Spec
	v := Job{
		ID: j.ID, Score: score, Needs: needs, User: j.User, Project: j.Account(), Priority: s.GetPriority(),
		SubmitMS: j.SubmitMS, EligibleMS: j.EligibleMS, LimitS: s.GetTimeLimitS(), EstimateS: s.GetEstimatedRunS(),
		Preempt: s.GetPreempt(), NoPreemptible: s.GetNoPreemptible(), Reservation: s.GetReservation(),
		Claim: j.Claim.GetNodes(), ArrayID: j.ArrayJobID,
	}
	if j.IsElement() {
		if a := snap.Job(j.ArrayJobID); a != nil {
			v.ArrayMax = int(a.Spec.GetArray().GetMaxRunning())
		}
	}
	if j.IsArray() {
		v.ArrayMax = int(s.GetArray().GetMaxRunning())
		for _, r := range j.Array.Left {
			v.Array = append(v.Array, Range{First: r.GetFirst(), Last: r.GetLast(), Step: max(r.GetStep(), 1)})
		}
	}
	return v
}

// RunningOf turns an active job's row into what the planner sees: what it still holds. left is how long its own progress says
// that it goes on, in milliseconds from nowMS; below 0: it does not say.
func RunningOf(snap *state.Snapshot, j *state.Job, score int64, nowMS, left int64) Running {
	s, at := j.Spec, j.Current()
	r := Running{
		ID: j.ID, ArrayID: j.ArrayJobID, User: j.User, Project: j.Account(), Partition: s.GetPartition(), Priority: s.GetPriority(),
		Score: score, Reservation: s.GetReservation(), StartMS: j.StartMS, LimitS: s.GetTimeLimitS(), NoPreemptible: s.GetNoPreemptible(),
		Preempted: j.PreemptedCount, Fixed: j.State != model.Running,
		Ending: j.CancelRequested || j.RequeueRequested || j.EndReason != 0 || j.State == model.Completing || j.State == model.Fencing,
	}
	if r.StartMS == 0 {
		r.StartMS = at.GetDispatchMs()
	}
	switch {
	case left >= 0:
		r.PredictedEndMS = nowMS + left
	case s.GetEstimatedRunS() > 0:
		r.PredictedEndMS = r.StartMS + s.GetEstimatedRunS()*1000
	}
	mode := fettlev1.PreemptMode_PREEMPT_MODE_OFF
	if p := snap.Partition(s.GetPartition()); p != nil {
		mode = model.PreemptModeOf(p.Partition)
	}
	// One that must not be started again could only be ended for good. Launchers save when they are asked to.
	r.Fixed = r.Fixed || s.GetNoRequeue() && mode != fettlev1.PreemptMode_PREEMPT_MODE_CANCEL
	r.OnSignal = mode == fettlev1.PreemptMode_PREEMPT_MODE_CHECKPOINT && launched(s.GetMethod())
	for _, a := range at.GetNodes() {
		if a.GetExit() != nil {
			continue
		}
		if s.GetExclusive() {
			a = wholeNode(snap, a)
		}
		r.Allocs = append(r.Allocs, a)
	}
	return r
}

// wholeNode is an allocation with all CPUs and memory of its node, as jobs hold it that have nodes to themselves.
func wholeNode(snap *state.Snapshot, a *fettlev1.NodeAllocation) *fettlev1.NodeAllocation {
	n := snap.Node(a.GetNode())
	if n == nil {
		return a
	}
	return &fettlev1.NodeAllocation{
		Node: a.GetNode(), GpuUuids: a.GetGpuUuids(), VramMib: a.GetVramMib(), GpuMilli: a.GetGpuMilli(),
		Cpus: max(a.GetCpus(), n.Inventory.GetCpus()), MemMib: max(a.GetMemMib(), n.Inventory.GetMemoryMib()),
	}
}

// AskedFor gives each allocation the CPUs and the memory that the job asks for: the log books those, also for jobs that have
// nodes to themselves.
func AskedFor(spec *fettlev1.JobSpec, allocs []*fettlev1.NodeAllocation) []*fettlev1.NodeAllocation {
	if !spec.GetExclusive() {
		return allocs
	}
	out := make([]*fettlev1.NodeAllocation, len(allocs))
	for i, a := range allocs {
		out[i] = &fettlev1.NodeAllocation{Node: a.GetNode(), GpuUuids: a.GetGpuUuids(), VramMib: a.GetVramMib(), Cpus: max(spec.GetCpusPerNode(), 1), MemMib: spec.GetMemMibPerNode()}
	}
	return out
}

// PolicyOf turns the cluster policy and the reservations into what the planner sees.
func PolicyOf(snap *state.Snapshot) Policy {
	pol := snap.Policy()
	p := Policy{Users: map[string]Limits{}}
	add := func(part *state.Partition) {
		p.Partitions = append(p.Partitions, Partition{
			Name: part.GetName(), Down: part.GetDown(), Allows: part.Allows, Limits: LimitsOf(part.GetLimits()),
			Preempt: modeOf(model.PreemptModeOf(part.Partition)), MinRunMS: model.MinRunMS(part.Partition),
			Budget: model.PreemptBudget(part.Partition), PriorityGap: model.PriorityGap(part.Partition), AllowNoPreemptible: part.GetAllowNoPreemptible(),
		})
	}
	for _, part := range pol.GetPartitions() {
		add(snap.Partition(part.GetName()))
	}
	if len(pol.GetPartitions()) == 0 {
		add(snap.DefaultPartition())
	}
	for _, q := range pol.GetProjects() {
		p.Projects = append(p.Projects, Project{Name: q.GetName(), Parent: q.GetParent(), Limits: LimitsOf(q.GetLimits()), Guarantee: int(q.GetGuaranteeGpus())})
	}
	for _, u := range pol.GetUsers() {
		if u.GetUser() == model.Everyone {
			p.UserDefault = LimitsOf(u.GetLimits())
		} else {
			p.Users[u.GetUser()] = LimitsOf(u.GetLimits())
		}
	}
	for r := range snap.Reservations {
		v := Reservation{Name: r.GetName(), StartMS: r.GetStartMs(), EndMS: r.GetEndMs(), Users: r.GetUsers(), Projects: r.GetProjects(), Cards: r.GetPicked()}
		if r.GetNodes() != "" {
			v.Nodes, _ = gres.ExpandHosts(r.GetNodes())
		}
		p.Reservations = append(p.Reservations, v)
	}
	return p
}

// LimitsOf turns limits of the policy into what the planner sees.
func LimitsOf(l *fettlev1.Limits) Limits {
	return Limits{
		GPUs: int(l.GetMaxGpus()), Jobs: int(l.GetMaxJobsRunning()), GPUMS: l.GetGpuHours() * 3_600_000, WindowMS: model.WindowMS(l),
		GPUsPerJob: int(l.GetMaxGpusPerJob()), NodesPerJob: int(l.GetMaxNodesPerJob()),
	}
}

var modes = []fettlev1.PreemptMode{
	PreemptOff: fettlev1.PreemptMode_PREEMPT_MODE_OFF, PreemptCheckpoint: fettlev1.PreemptMode_PREEMPT_MODE_CHECKPOINT,
	PreemptRequeue: fettlev1.PreemptMode_PREEMPT_MODE_REQUEUE, PreemptCancel: fettlev1.PreemptMode_PREEMPT_MODE_CANCEL,
}

// Proto is the mode as the log has it.
func (m PreemptMode) Proto() fettlev1.PreemptMode { return modes[m] }

func modeOf(m fettlev1.PreemptMode) PreemptMode { return PreemptMode(max(slices.Index(modes, m), 0)) }

// HoldReason says who holds a held job.
func HoldReason(j *state.Job) fettlev1.Reason {
	if j.HeldByAdmin {
		return fettlev1.Reason_REASON_HELD_BY_ADMIN
	}
	return fettlev1.Reason_REASON_HELD_BY_USER
}

// WaitOf says why a pending job waits, from its row and the newest plan's findings.
func WaitOf(j *state.Job, found func(job uint64) (Wait, bool), nowMS int64) Wait {
	switch {
	case j.Held:
		return Wait{Reason: HoldReason(j), Detail: j.Detail}
	case len(j.WaitingFor) > 0:
		return Wait{Reason: fettlev1.Reason_REASON_DEPENDENCY, Detail: model.DependencyText(j.WaitingFor[0])}
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
