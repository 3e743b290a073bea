package model

import (
	"fmt"
	"strconv"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Bounds on what a policy says of projects and users, and on reservations and preemptions.
const (
	MaxProjects     = 1024
	MaxProjectDepth = 8
	// MaxMembers bounds the members of one project, MaxUserLimits the users with limits of their own.
	MaxMembers    = 1024
	MaxUserLimits = 4096
	MaxWeight     = 1_000_000
	// MaxLimitGPUs bounds limits and guarantees that count GPUs or jobs, MaxGPUHours those in GPU-hours.
	MaxLimitGPUs = 10_000_000
	MaxGPUHours  = 100_000_000
	// MinWindowS and MaxWindowS bound the window of a limit on GPU-hours, MinHalfLifeS and MaxHalfLifeS the half life of usage.
	MinWindowS   = 60
	MaxWindowS   = 366 * 24 * 3600
	MinHalfLifeS = 60
	MaxHalfLifeS = 366 * 24 * 3600
	// MaxPreemptGraceS is one hour, MaxPreemptBudget how often a policy may let one job be preempted.
	MaxPreemptGraceS = 3600
	MaxPreemptBudget = 1000
	// MaxUsageRows bounds the pairs of project and user whose usage is remembered.
	MaxUsageRows = 100_000
	// MaxReservations bounds the reservations that are not over.
	MaxReservations = 256
	// MaxPreemptionsPerEntry bounds the preemptions of one plan, MaxVictims the victims of one of them.
	MaxPreemptionsPerEntry = 64
	MaxVictims             = 256
)

// Defaults of a policy.
const (
	DefaultHalfLifeS     = 7 * 24 * 3600
	DefaultWindowS       = 30 * 24 * 3600
	DefaultMinRunS       = 600
	DefaultPreemptBudget = 3
	DefaultPriorityGap   = 1
)

// Everyone is the name that stands for all users, as a member of a project or in limits.
const Everyone = "*"

// HalfLifeMS is after how many milliseconds usage counts half.
func HalfLifeMS(p *fettlev1.ClusterPolicy) int64 {
	if s := p.GetUsageHalfLifeS(); s > 0 {
		return s * 1000
	}
	return DefaultHalfLifeS * 1000
}

// WindowMS is the window of a limit on GPU-hours in milliseconds; 0 when there is no such limit.
func WindowMS(l *fettlev1.Limits) int64 {
	switch {
	case l.GetGpuHours() == 0:
		return 0
	case l.GetGpuHoursWindowS() > 0:
		return l.GetGpuHoursWindowS() * 1000
	}
	return DefaultWindowS * 1000
}

// PreemptModeOf is what happens to the partition's jobs that have to make room; OFF when nothing does.
func PreemptModeOf(p *fettlev1.Partition) fettlev1.PreemptMode {
	if m := p.GetPreempt(); m != fettlev1.PreemptMode_PREEMPT_MODE_UNSPECIFIED {
		return m
	}
	return fettlev1.PreemptMode_PREEMPT_MODE_OFF
}

// MinRunMS is how long a job of the partition has run, in milliseconds, before it may be ended for another.
func MinRunMS(p *fettlev1.Partition) int64 {
	if p == nil || p.MinRunS == nil {
		return DefaultMinRunS * 1000
	}
	return p.GetMinRunS() * 1000
}

// PreemptBudget is how often a job of the partition may be ended for others.
func PreemptBudget(p *fettlev1.Partition) uint32 {
	if p == nil || p.PreemptBudget == nil {
		return DefaultPreemptBudget
	}
	return p.GetPreemptBudget()
}

// PriorityGap is by how many steps of priority a job must be more urgent than those of the partition that are ended for
// it; 0 leaves it to the scheduling order.
func PriorityGap(p *fettlev1.Partition) uint32 {
	if p == nil || p.PriorityGap == nil {
		return DefaultPriorityGap
	}
	return p.GetPriorityGap()
}

// Weight is the project's share among its siblings, at least 1.
func Weight(p *fettlev1.Project) uint32 { return max(p.GetWeight(), 1) }

// ValidateTenancy checks what a policy says of projects, limits, usage and preemption. ValidatePolicy does so too.
func ValidateTenancy(p *fettlev1.ClusterPolicy) *FieldError {
	for _, part := range p.GetPartitions() {
		if err := checkPreempt("partition "+quote(part.GetName()), part); err != nil {
			return err
		}
	}
	return checkTenancy(p)
}

// checkTenancy checks projects, limits of users and the half life of usage.
func checkTenancy(p *fettlev1.ClusterPolicy) *FieldError {
	if h := p.GetUsageHalfLifeS(); h != 0 && (h < MinHalfLifeS || h > MaxHalfLifeS) {
		return invalid("usage.half_life", "is out of range", "use 1 minute to 366 days")
	}
	if err := checkProjects(p.GetProjects()); err != nil {
		return err
	}
	if len(p.GetUsers()) > MaxUserLimits {
		return invalid("users", "more than "+strconv.Itoa(MaxUserLimits), "give limits to fewer; user \"*\" stands for all others")
	}
	seen := make(map[string]bool, len(p.GetUsers()))
	for _, u := range p.GetUsers() {
		name := u.GetUser()
		field := "user " + quote(name)
		if err := checkUser("user.name", name); err != nil {
			return err
		}
		if seen[name] {
			return invalid(field, "has limits twice", "keep one")
		}
		seen[name] = true
		if err := checkLimits(field, u.GetLimits()); err != nil {
			return err
		}
	}
	return nil
}

// checkUser accepts a user's name, or Everyone.
func checkUser(field, name string) *FieldError {
	switch {
	case name == "":
		return invalid(field, "is empty", "name a user, or \"*\" for everyone")
	case name == Everyone:
		return nil
	}
	return checkText(field, name, MaxUser)
}

func checkProjects(projects []*fettlev1.Project) *FieldError {
	if len(projects) > MaxProjects {
		return invalid("projects", "more than "+strconv.Itoa(MaxProjects), "define fewer")
	}
	parent := make(map[string]string, len(projects))
	for _, p := range projects {
		name := p.GetName()
		if name == "" {
			return invalid("project.name", "is empty", "name every project")
		}
		field := "project " + quote(name)
		if err := checkWord(field+".name", name, MaxProject); err != nil {
			return err
		}
		if _, twice := parent[name]; twice {
			return invalid(field, "is defined twice", "keep one")
		}
		parent[name] = p.GetParent()
		if err := checkProject(field, p); err != nil {
			return err
		}
	}
	for _, p := range projects {
		if err := checkAncestors(p.GetName(), parent); err != nil {
			return err
		}
	}
	return nil
}

func checkProject(field string, p *fettlev1.Project) *FieldError {
	if p.GetWeight() > MaxWeight {
		return invalid(field+".weight", "is above "+strconv.Itoa(MaxWeight), "use 1 to "+strconv.Itoa(MaxWeight))
	}
	if p.GetGuaranteeGpus() > MaxLimitGPUs {
		return invalid(field+".guarantee", "is above "+strconv.Itoa(MaxLimitGPUs)+" GPUs", "lower it")
	}
	if m := p.GetLimits().GetMaxGpus(); m > 0 && p.GetGuaranteeGpus() > m {
		return invalid(field+".guarantee", "is above max_gpus", "lower it")
	}
	if len(p.GetMembers()) > MaxMembers {
		return invalid(field+".members", "more than "+strconv.Itoa(MaxMembers), "use \"*\" for everyone")
	}
	seen := make(map[string]bool, len(p.GetMembers()))
	for _, m := range p.GetMembers() {
		if err := checkUser(field+".members", m); err != nil {
			return err
		}
		if seen[m] {
			return invalid(field+".members", quote(m)+" is there twice", "keep one")
		}
		seen[m] = true
	}
	return checkLimits(field, p.GetLimits())
}

// checkAncestors wants the way up from a project to end, at a project that is there, within MaxProjectDepth steps.
func checkAncestors(name string, parent map[string]string) *FieldError {
	field := "project " + quote(name) + ".parent"
	at := name
	for range MaxProjectDepth {
		up := parent[at]
		if up == "" {
			return nil
		}
		if _, ok := parent[up]; !ok {
			return invalid("project "+quote(at)+".parent", quote(up)+" does not exist", "define it, or leave parent out")
		}
		if up == name {
			return invalid(field, "leads back to the project itself", "leave parent out in one of them")
		}
		at = up
	}
	return invalid(field, "has more than "+strconv.Itoa(MaxProjectDepth-1)+" projects above it", "use fewer levels")
}

// checkLimits checks the numbers of one set of limits.
func checkLimits(field string, l *fettlev1.Limits) *FieldError {
	for _, n := range []struct {
		name  string
		value uint32
	}{
		{"max_gpus", l.GetMaxGpus()}, {"max_jobs_running", l.GetMaxJobsRunning()}, {"max_jobs_queued", l.GetMaxJobsQueued()},
		{"max_gpus_per_job", l.GetMaxGpusPerJob()}, {"max_nodes_per_job", l.GetMaxNodesPerJob()},
	} {
		if n.value > MaxLimitGPUs {
			return invalid(field+"."+n.name, "is above "+strconv.Itoa(MaxLimitGPUs), "lower it, or leave it out for no limit")
		}
	}
	switch {
	case l.GetGpuHours() < 0 || l.GetGpuHours() > MaxGPUHours:
		return invalid(field+".gpu_hours", "is out of range", fmt.Sprintf("use 1 to %d, or leave it out for no limit", MaxGPUHours))
	case l.GetGpuHoursWindowS() != 0 && l.GetGpuHours() == 0:
		return invalid(field+".gpu_hours_window", "is set without gpu_hours", "set both, or neither")
	case l.GetGpuHoursWindowS() != 0 && (l.GetGpuHoursWindowS() < MinWindowS || l.GetGpuHoursWindowS() > MaxWindowS):
		return invalid(field+".gpu_hours_window", "is out of range", "use 1 minute to 366 days")
	case l.GetMaxTimeS() < 0 || l.GetMaxTimeS() > MaxTimeLimitS:
		return invalid(field+".max_time", "is out of range", "use 0 to 30 days")
	}
	return nil
}

// checkPreempt checks a partition's limits and what it says of preemption.
func checkPreempt(field string, p *fettlev1.Partition) *FieldError {
	if err := checkLimits(field, p.GetLimits()); err != nil {
		return err
	}
	switch {
	case p.GetLimits().GetMaxTimeS() != 0:
		return invalid(field+".limits", "have a time of their own", "use the partition's max_time")
	case p.GetPreempt() < 0 || p.GetPreempt() > fettlev1.PreemptMode_PREEMPT_MODE_CANCEL:
		return invalid(field+".preempt", "is not a mode", "use off, checkpoint, requeue or cancel")
	case p.GetPreemptGraceS() < 0 || p.GetPreemptGraceS() > MaxPreemptGraceS:
		return invalid(field+".preempt_grace", "is out of range", "use 0 to 1 hour")
	case p.GetMinRunS() < 0 || p.GetMinRunS() > MaxTimeLimitS:
		return invalid(field+".min_run", "is out of range", "use 0 to 30 days")
	case p.PreemptBudget != nil && p.GetPreemptBudget() == 0:
		return invalid(field+".preempt_budget", "is 0", "use preempt = \"off\" to let no job be preempted")
	case p.GetPreemptBudget() > MaxPreemptBudget:
		return invalid(field+".preempt_budget", "is above "+strconv.Itoa(MaxPreemptBudget), "lower it")
	case p.GetPriorityGap() >= MaxPriority:
		return invalid(field+".priority_gap", "is above "+strconv.Itoa(MaxPriority-1), "use 0 to "+strconv.Itoa(MaxPriority-1))
	}
	return nil
}

// ValidateReservation checks what can be judged of a reservation without the cluster.
func ValidateReservation(r *fettlev1.Reservation) *FieldError {
	switch {
	case r == nil:
		return invalid("reservation", "is missing", "send one")
	case r.GetName() == "":
		return invalid("name", "is empty", "name the reservation")
	}
	for _, w := range []struct {
		field, value string
		limit        int
	}{{"name", r.GetName(), MaxReservation}, {"gpu_type", r.GetGpuType(), MaxName}, {"partition", r.GetPartition(), MaxPartition}} {
		if err := checkWord(w.field, w.value, w.limit); err != nil {
			return err
		}
	}
	if err := checkText("comment", r.GetComment(), MaxComment); err != nil {
		return err
	}
	switch {
	case r.GetNodes() == "" && r.GetGpus() == 0:
		return invalid("nodes", "is missing", "name nodes, or give a number of gpus")
	case r.GetNodes() != "" && (r.GetGpus() != 0 || r.GetGpuType() != "" || r.GetPartition() != ""):
		return invalid("gpus", "is set beside nodes", "reserve either nodes or a number of GPUs")
	case r.GetGpus() > MaxGPUsPerNode*MaxNodesPerJob:
		return invalid("gpus", "is above "+strconv.Itoa(MaxGPUsPerNode*MaxNodesPerJob), "reserve fewer")
	case r.GetStartMs() < 0 || r.GetStartMs() > MaxBeginMS:
		return invalid("start", "is out of range", "use a time before the year 2200")
	case r.GetEndMs() < 0 || r.GetEndMs() > MaxBeginMS:
		return invalid("end", "is out of range", "use a time before the year 2200, or none")
	case r.GetEndMs() != 0 && r.GetEndMs() <= r.GetStartMs():
		return invalid("end", "is not after the start", "give a later end")
	case len(r.GetUsers()) > MaxMembers || len(r.GetProjects()) > MaxMembers:
		return invalid("users", "more than "+strconv.Itoa(MaxMembers)+" users or projects", "use \"*\" for everyone")
	}
	for _, u := range r.GetUsers() {
		if err := checkUser("users", u); err != nil {
			return err
		}
	}
	for _, p := range r.GetProjects() {
		if p == "" {
			return invalid("projects", "one is empty", "name projects")
		}
		if err := checkWord("projects", p, MaxProject); err != nil {
			return err
		}
	}
	return nil
}
