package fsm

import (
	"fmt"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// gpuHourMS is the GPU-milliseconds in a GPU-hour.
const gpuHourMS = 3_600_000

// limitReasons are why a job waits that is held up by a limit of such a scope.
var limitReasons = map[fettlev1.ScopeKind]fettlev1.Reason{
	state.ScopePartition: fettlev1.Reason_REASON_LIMIT_PARTITION,
	state.ScopeProject:   fettlev1.Reason_REASON_LIMIT_PROJECT,
	state.ScopeUser:      fettlev1.Reason_REASON_LIMIT_USER,
}

// scopeText names a scope for people.
func scopeText(s state.Scope) string {
	switch s.Kind {
	case state.ScopePartition:
		return "partition " + s.Name
	case state.ScopeProject:
		return "project " + s.Name
	}
	return "user " + s.Name
}

// demand is what one start would take from the limits of its job.
type demand struct {
	job *state.Job
	// gpuMilli is in thousandths of GPUs, gpus in GPUs that it has at least a share of.
	gpuMilli int64
	gpus     int
	nodes    int
	// ending are jobs that make room: what they hold does not count any more.
	ending []*state.Job
}

// demandOf is what a placement takes.
func demandOf(t *state.Txn, j *state.Job, parts []*fettlev1.NodeAllocation, ending []*state.Job) demand {
	d := demand{job: j, nodes: len(parts), ending: ending}
	for _, a := range parts {
		d.gpus += len(a.GetGpuUuids())
		if n := t.Node(a.GetNode()); n != nil {
			d.gpuMilli += n.AllocationMilli(a)
		}
	}
	return d
}

// checkLimits holds every limit of the job's partition, projects and user against a start. Whatever was checked before, at
// submit or by the planner, this is where limits are kept.
func checkLimits(t *state.Txn, d demand) (*model.FieldError, fettlev1.Reason) {
	if bugLimitsAtSubmitOnly {
		return nil, 0
	}
	s := d.job.Spec
	for _, b := range t.Bounds(s.GetPartition(), d.job.Account(), d.job.User) {
		if err := checkBound(t, d, b); err != nil {
			return err, limitReasons[b.Scope.Kind]
		}
	}
	return nil, 0
}

func checkBound(t *state.Txn, d demand, b state.Bound) *model.FieldError {
	l, id, limitS := b.Limits, d.job.ID, d.job.Spec.GetTimeLimitS()
	switch {
	case l.GetMaxGpusPerJob() > 0 && d.gpus > int(l.GetMaxGpusPerJob()):
		return conflict("gpus", "job %d has %d, %s allows %d for each job", id, d.gpus, scopeText(b.Scope), l.GetMaxGpusPerJob())
	case l.GetMaxNodesPerJob() > 0 && d.nodes > int(l.GetMaxNodesPerJob()):
		return conflict("nodes", "job %d has %d, %s allows %d for each job", id, d.nodes, scopeText(b.Scope), l.GetMaxNodesPerJob())
	case l.GetMaxTimeS() > 0 && (limitS == 0 || limitS > l.GetMaxTimeS()):
		return conflict("time", "job %d may run %d s, %s allows %d", id, limitS, scopeText(b.Scope), l.GetMaxTimeS())
	}
	use := t.Use(b.Scope)
	for _, v := range d.ending {
		use = t.Without(use, b.Scope, v)
	}
	switch {
	case l.GetMaxGpus() > 0 && d.gpuMilli > 0 && use.GPUMilli+d.gpuMilli > int64(l.GetMaxGpus())*1000:
		return conflict("gpus", "%s holds %s of its %d, job %d would take %s", scopeText(b.Scope), gpuText(use.GPUMilli), l.GetMaxGpus(), id, gpuText(d.gpuMilli))
	case l.GetMaxJobsRunning() > 0 && use.Running+1 > int64(l.GetMaxJobsRunning()):
		return conflict("jobs", "%s runs %d of its %d", scopeText(b.Scope), use.Running, l.GetMaxJobsRunning())
	}
	w := model.WindowMS(l)
	if w == 0 || d.gpuMilli == 0 {
		return nil
	}
	spent, more := t.SpentWithin(b.Scope, w), state.Commitment(d.gpuMilli, limitS*1000, w)
	if spent+use.CommittedMS+more > l.GetGpuHours()*gpuHourMS {
		return conflict("gpu_hours", "%s has used %d and may still use %d of its %d GPU-hours with what runs, job %d would add up to %d",
			scopeText(b.Scope), spent/gpuHourMS, use.CommittedMS/gpuHourMS, l.GetGpuHours(), id, more/gpuHourMS)
	}
	return nil
}

// gpuText writes thousandths of GPUs as people count them.
func gpuText(milli int64) string {
	if milli%1000 == 0 {
		return fmt.Sprintf("%d GPUs", milli/1000)
	}
	return fmt.Sprintf("%d.%03d GPUs", milli/1000, milli%1000)
}

// checkRoom refuses a placement that a limit, another job's claim or a reservation does not allow, and says which it was.
func checkRoom(t *state.Txn, p *raftlogv1.Placement, ending []*state.Job) (*model.FieldError, fettlev1.Reason) {
	j := t.Job(p.GetJobId())
	if err := checkReservations(t, j, p.GetNodes()); err != nil {
		return err, fettlev1.Reason_REASON_RESERVATION
	}
	for _, a := range p.GetNodes() {
		if err := checkClaims(t, j, a, ending); err != nil {
			return err, fettlev1.Reason_REASON_RESOURCES
		}
	}
	return checkLimits(t, demandOf(t, j, p.GetNodes(), ending))
}

// started counts what a start takes, so that the rest of the entry sees it, and gives up the claim of the job, or of the
// array that it is an element of.
func started(t *state.Txn, placed uint64, j *state.Job) {
	load := state.LoadOf(j)
	load.Queued = 0
	t.AddUse(j, load)
	if t.Job(placed).Claim != nil {
		t.EditJob(placed).Claim = nil
	}
}

// checkClaims refuses GPUs that another waiting job claims, and CPUs or memory without which that job's claim would not fit.
func checkClaims(t *state.Txn, j *state.Job, a *fettlev1.NodeAllocation, ending []*state.Job) *model.FieldError {
	n := t.Node(a.GetNode())
	cpus, mem := int64(n.CPUsUsed), n.MemUsedMiB
	claims := 0
	var err *model.FieldError
	t.ClaimsOn(a.GetNode(), func(owner *state.Job, c *fettlev1.NodeAllocation) bool {
		if owner.ID == j.ID {
			return true
		}
		claims++
		cpus, mem = cpus+int64(c.GetCpus()), mem+c.GetMemMib()
		// What has to make room for the claim will be gone.
		for _, v := range owner.Claim.GetVictims() {
			if w := t.Job(v.GetJobId()); w != nil && w.Attempt == v.GetAttempt() {
				cpus, mem = less(w, a.GetNode(), cpus, mem)
			}
		}
		for _, u := range a.GetGpuUuids() {
			if claimsGPU(c, u) && !bugClaimIgnored {
				err = conflict("gpus", "%.64q on %s is kept for job %d", u, a.GetNode(), owner.ID)
				return false
			}
		}
		return true
	})
	if err != nil || claims == 0 || bugClaimIgnored {
		return err
	}
	for _, v := range ending {
		cpus, mem = less(v, a.GetNode(), cpus, mem)
	}
	switch {
	case cpus+int64(a.GetCpus()) > int64(n.Inventory.GetCpus()):
		return conflict("cpus", "of %s are kept for another job", n.Name)
	case a.GetMemMib() > 0 && mem > n.Inventory.GetMemoryMib()-a.GetMemMib():
		return conflict("mem", "of %s is kept for another job", n.Name)
	}
	return nil
}

// less takes off what the job's unended part on the node holds.
func less(j *state.Job, node string, cpus, mem int64) (int64, int64) {
	if !j.Active() {
		return cpus, mem
	}
	for _, q := range j.Current().GetNodes() {
		if q.GetNode() == node && q.GetExit() == nil {
			return cpus - int64(q.GetCpus()), mem - q.GetMemMib()
		}
	}
	return cpus, mem
}

func claimsGPU(c *fettlev1.NodeAllocation, uuid string) bool {
	for _, u := range c.GetGpuUuids() {
		if u == uuid {
			return true
		}
	}
	return false
}
