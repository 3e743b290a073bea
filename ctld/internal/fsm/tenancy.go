package fsm

import (
	"fmt"
	"slices"
	"strings"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// tenancy is what the checks of a specification read of projects, limits and reservations: an entry's transaction, or a
// snapshot for dry runs.
type tenancy interface {
	NowMS() int64
	Policy() *fettlev1.ClusterPolicy
	Partition(name string) *state.Partition
	Project(name string) *state.Project
	HomeProject(user string) *state.Project
	Bounds(partition, project, user string) []state.Bound
	Use(scope state.Scope) state.Use
	Reservation(name string) *state.Reservation
}

// CheckTenancy is what a submit of s by the actor would be refused for by projects, limits and reservations, nil when it
// would not. It fills in s what a submit would; the partition must be filled in already.
func CheckTenancy(s *state.Snapshot, a *raftlogv1.Actor, spec *fettlev1.JobSpec) *model.FieldError {
	_, err := fitTenancy(s, a, spec)
	return err
}

// fitTenancy puts a new job into its project and checks what its limits and reservation say of it. It returns the project
// that the policy gives it, empty when the policy has none.
func fitTenancy(t tenancy, a *raftlogv1.Actor, s *fettlev1.JobSpec) (project string, err *model.FieldError) {
	if project, err = fitProject(t, a, s); err != nil {
		return "", err
	}
	if err := fitLimits(t, a.GetUser(), s, elementsOf(s)); err != nil {
		return "", err
	}
	if err := fitPreemption(t, s); err != nil {
		return "", err
	}
	return project, fitReservation(t, a.GetUser(), s)
}

// elementsOf is how many jobs a specification stands for.
func elementsOf(s *fettlev1.JobSpec) int64 {
	if s.GetArray() == nil {
		return 1
	}
	return int64(model.ArrayLen(s.GetArray().GetRanges()))
}

// fitProject fills in the project of a job that names none. Without projects in the policy any word will do.
func fitProject(t tenancy, a *raftlogv1.Actor, s *fettlev1.JobSpec) (string, *model.FieldError) {
	if len(t.Policy().GetProjects()) == 0 {
		return "", nil
	}
	if s.GetProject() == "" {
		p := t.HomeProject(a.GetUser())
		if p == nil {
			return "", &model.FieldError{Kind: model.Denied, Field: "project", Problem: fmt.Sprintf("%.64s is in no project", a.GetUser()), Remedy: "ask an admin to be made a member of one"}
		}
		s.Project = p.GetName()
		return s.Project, nil
	}
	p := t.Project(s.GetProject())
	switch {
	case p == nil:
		return "", &model.FieldError{Field: "project", Problem: fmt.Sprintf("%q does not exist", s.GetProject()), Remedy: "use " + projectsOf(t, a)}
	case !p.Admits(a.GetUser()) && !a.GetAdmin():
		return "", &model.FieldError{Kind: model.Denied, Field: "project", Problem: fmt.Sprintf("%.64s is not a member of %s", a.GetUser(), p.GetName()), Remedy: "use " + projectsOf(t, a)}
	}
	return p.GetName(), nil
}

// projectsOf names the projects that the actor may submit to, as many as fit into a line.
func projectsOf(t tenancy, a *raftlogv1.Actor) string {
	const shown = 8
	var names []string
	for _, p := range t.Policy().GetProjects() {
		if q := t.Project(p.GetName()); !q.Admits(a.GetUser()) && !a.GetAdmin() {
			continue
		}
		if len(names) == shown {
			return strings.Join(names, ", ") + ", …"
		}
		names = append(names, p.GetName())
	}
	if len(names) == 0 {
		return "none: ask an admin to be made a member of one"
	}
	return strings.Join(names, ", ")
}

// leastGPUs is how few GPUs, of all nodes together, would do for a job.
func leastGPUs(s *fettlev1.JobSpec) int64 {
	if g := s.GetGpusTotal(); g.GetCount() > 0 {
		return int64(g.GetCount())
	}
	least := int64(0)
	for i, g := range model.GPUChoices(s) {
		if n := int64(g.GetCount()) * int64(s.GetNodes()); i == 0 || n < least {
			least = n
		}
	}
	return least
}

// fitLimits fills in the time limit that limits ask for, and refuses a job that they would never let start, or of which
// there would be too many in the queue. more is by how many jobs the queue grows.
func fitLimits(t tenancy, user string, s *fettlev1.JobSpec, more int64) *model.FieldError {
	bounds := t.Bounds(s.GetPartition(), s.GetProject(), user)
	if s.GetTimeLimitS() == 0 {
		for _, b := range bounds {
			if m := b.Limits.GetMaxTimeS(); m > 0 && (s.TimeLimitS == 0 || m < s.TimeLimitS) {
				s.TimeLimitS = m
			}
		}
	}
	for _, b := range bounds {
		if err := fitBound(s, b); err != nil {
			return err
		}
		if m := int64(b.Limits.GetMaxJobsQueued()); m > 0 && more > 0 {
			if have := t.Use(b.Scope).Queued; have+more > m {
				return &model.FieldError{Kind: model.Exhausted, Field: "jobs", Problem: fmt.Sprintf("%s has %d of its %d jobs in the queue", scopeText(b.Scope), have, m),
					Remedy: "try again when some have finished"}
			}
		}
	}
	return nil
}

// fitBound refuses what one scope would never let start.
func fitBound(s *fettlev1.JobSpec, b state.Bound) *model.FieldError {
	l, gpus, who := b.Limits, leastGPUs(s), scopeText(b.Scope)
	refuse := func(field, remedy, format string, args ...any) *model.FieldError {
		return &model.FieldError{Field: field, Problem: fmt.Sprintf(format, args...), Remedy: remedy}
	}
	switch {
	case l.GetMaxTimeS() > 0 && s.GetTimeLimitS() > l.GetMaxTimeS():
		return refuse("time", "use a shorter limit", "%d s is above the %d s of %s", s.GetTimeLimitS(), l.GetMaxTimeS(), who)
	case l.GetMaxNodesPerJob() > 0 && s.GetNodes() > l.GetMaxNodesPerJob():
		return refuse("nodes", "ask for fewer nodes", "%d asked for, %s allows %d for each job", s.GetNodes(), who, l.GetMaxNodesPerJob())
	case l.GetMaxGpusPerJob() > 0 && gpus > int64(l.GetMaxGpusPerJob()):
		return refuse("gpus", "ask for fewer GPUs", "%d asked for, %s allows %d for each job", gpus, who, l.GetMaxGpusPerJob())
	}
	if s.GetVramMib() > 0 {
		// How much of a GPU its share is shows when it is placed.
		return nil
	}
	if l.GetMaxGpus() > 0 && gpus > int64(l.GetMaxGpus()) {
		return refuse("gpus", "ask for fewer GPUs", "%d asked for, %s may hold %d at once", gpus, who, l.GetMaxGpus())
	}
	if w := model.WindowMS(l); w > 0 && state.Commitment(gpus*1000, s.GetTimeLimitS()*1000, w) > l.GetGpuHours()*gpuHourMS {
		return refuse("time", "give a time limit, or a shorter one", "%d GPUs for that long are more than the %d GPU-hours of %s", gpus, l.GetGpuHours(), who)
	}
	return nil
}

// fitPreemption refuses the wish not to be preempted where the partition does not grant it.
func fitPreemption(t tenancy, s *fettlev1.JobSpec) *model.FieldError {
	p := t.Partition(s.GetPartition())
	if s.GetNoPreemptible() && p != nil && model.PreemptModeOf(p.Partition) != fettlev1.PreemptMode_PREEMPT_MODE_OFF && !p.GetAllowNoPreemptible() {
		return &model.FieldError{Kind: model.Denied, Field: "no-preemptible", Problem: fmt.Sprintf("partition %s does not let jobs ask for that", p.GetName()),
			Remedy: "leave it out, or use another partition"}
	}
	return nil
}

// fitReservation refuses a reservation that the job could never run in.
func fitReservation(t tenancy, user string, s *fettlev1.JobSpec) *model.FieldError {
	name := s.GetReservation()
	if name == "" {
		return nil
	}
	r := t.Reservation(name)
	if r == nil || r.Over(t.NowMS()) {
		return &model.FieldError{Field: "reservation", Problem: fmt.Sprintf("%q does not exist, or is over", name), Remedy: "see fctl reservation list for those there are"}
	}
	if !r.Permits(user, chainOf(t, s.GetProject())) {
		return &model.FieldError{Kind: model.Denied, Field: "reservation", Problem: fmt.Sprintf("%s is not for %.64s", name, user), Remedy: "leave it out, or ask an admin"}
	}
	return nil
}

// chainOf is a project and those above it.
func chainOf(t tenancy, project string) []string {
	if p := t.Project(project); p != nil {
		return p.Chain()
	}
	if project == "" {
		return nil
	}
	return []string{project}
}

// refit checks a changed specification of a job: its limits, and what it already holds when they count it.
func refit(t *state.Txn, j *state.Job, s *fettlev1.JobSpec) *model.FieldError {
	more := int64(0)
	if s.GetPartition() != j.Spec.GetPartition() {
		more = state.LoadOf(j).Queued
	}
	if err := fitLimits(t, j.User, s, more); err != nil {
		return err
	}
	if !j.Active() || s.GetTimeLimitS() == j.Spec.GetTimeLimitS() {
		return nil
	}
	load := state.LoadOf(j)
	for _, b := range t.Bounds(s.GetPartition(), j.Account(), j.User) {
		w := model.WindowMS(b.Limits)
		if w == 0 {
			continue
		}
		was, is := state.Commitment(load.GPUMilli, load.LimitMS, w), state.Commitment(load.GPUMilli, s.GetTimeLimitS()*1000, w)
		if is > was && t.SpentWithin(b.Scope, w)+t.Use(b.Scope).CommittedMS-was+is > b.Limits.GetGpuHours()*gpuHourMS {
			return &model.FieldError{Kind: model.Exhausted, Field: "time", Problem: fmt.Sprintf("that long is more than is left of the %d GPU-hours of %s", b.Limits.GetGpuHours(), scopeText(b.Scope)),
				Remedy: "use a shorter limit"}
		}
	}
	return nil
}

// moved reports whether a job with these changes may no longer want the room that was made for it.
func moved(from, to *fettlev1.JobSpec) bool {
	return from.GetPartition() != to.GetPartition() || from.GetBeginMs() != to.GetBeginMs() || !slices.Equal(from.GetNodelist(), to.GetNodelist())
}
