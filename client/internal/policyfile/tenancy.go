package policyfile

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

// limits are the keys that partitions, projects and users share. What is not set is not limited.
type limits struct {
	MaxGPUs        *int64 `toml:"max_gpus"`
	MaxJobsRunning *int64 `toml:"max_jobs_running"`
	MaxJobsQueued  *int64 `toml:"max_jobs_queued"`
	MaxGPUsPerJob  *int64 `toml:"max_gpus_per_job"`
	MaxNodesPerJob *int64 `toml:"max_nodes_per_job"`
	GPUHours       *int64 `toml:"gpu_hours"`
	Window         string `toml:"gpu_hours_window"`
}

// preemption are a partition's keys of that.
type preemption struct {
	Preempt            string  `toml:"preempt"`
	PreemptGrace       string  `toml:"preempt_grace"`
	MinRun             *string `toml:"min_run"`
	PreemptBudget      *int64  `toml:"preempt_budget"`
	PriorityGap        *int64  `toml:"priority_gap"`
	AllowNoPreemptible bool    `toml:"allow_no_preemptible"`
}

type project struct {
	Name      string   `toml:"name"`
	Parent    string   `toml:"parent"`
	Weight    *int64   `toml:"weight"`
	Members   []string `toml:"members"`
	Guarantee *int64   `toml:"guarantee"`
	MaxTime   string   `toml:"max_time"`
	limits
}

type user struct {
	Name    string `toml:"name"`
	MaxTime string `toml:"max_time"`
	limits
}

type usage struct {
	HalfLife string `toml:"half_life"`
}

// The keys that each table may hold, for the refusal of others.
const (
	limitKeys     = "max_gpus, max_jobs_running, max_jobs_queued, max_gpus_per_job, max_nodes_per_job, gpu_hours, gpu_hours_window"
	partitionKeys = "name, nodes, default, default_time, max_time, state, preempt, preempt_grace, min_run, preempt_budget, priority_gap, allow_no_preemptible, " + limitKeys
	projectKeys   = "name, parent, weight, members, guarantee, max_time, " + limitKeys
	userKeys      = "name, max_time, " + limitKeys
)

// knownKeys says which keys could have been meant instead of an unknown one.
func knownKeys(key string) string {
	table, _, _ := strings.Cut(key, ".")
	switch {
	case !strings.Contains(key, "."):
	case table == "partition":
		return "a partition has " + partitionKeys
	case table == "project":
		return "a project has " + projectKeys
	case table == "user":
		return "a user has " + userKeys
	case table == "usage":
		return "usage has half_life"
	}
	return "known are version, [[partition]], [[project]], [[user]], [usage] and [scheduling]"
}

// number reads a count that is at least 1; nil is 0, which is no limit.
func number(where, field string, v *int64) (uint32, error) {
	switch {
	case v == nil:
		return 0, nil
	case *v < 1 || *v > math.MaxUint32:
		return 0, &Error{Field: where, Problem: fmt.Sprintf("%s is %d", field, *v), Remedy: "use a number from 1 on, or leave it out"}
	}
	return uint32(*v), nil
}

// parse returns nil when nothing is limited.
func (in limits) parse(where, maxTime string) (*fettlev1.Limits, error) {
	l := &fettlev1.Limits{}
	var err error
	for _, n := range []struct {
		field string
		from  *int64
		to    *uint32
	}{
		{"max_gpus", in.MaxGPUs, &l.MaxGpus}, {"max_jobs_running", in.MaxJobsRunning, &l.MaxJobsRunning}, {"max_jobs_queued", in.MaxJobsQueued, &l.MaxJobsQueued},
		{"max_gpus_per_job", in.MaxGPUsPerJob, &l.MaxGpusPerJob}, {"max_nodes_per_job", in.MaxNodesPerJob, &l.MaxNodesPerJob},
	} {
		if *n.to, err = number(where, n.field, n.from); err != nil {
			return nil, err
		}
	}
	hours, err := number(where, "gpu_hours", in.GPUHours)
	if err != nil {
		return nil, err
	}
	l.GpuHours = int64(hours)
	if l.GpuHoursWindowS, err = seconds(where, "gpu_hours_window", in.Window); err != nil {
		return nil, err
	}
	if l.MaxTimeS, err = seconds(where, "max_time", maxTime); err != nil {
		return nil, err
	}
	if proto.Size(l) == 0 {
		return nil, nil
	}
	return l, nil
}

var modes = map[string]fettlev1.PreemptMode{
	"":           fettlev1.PreemptMode_PREEMPT_MODE_UNSPECIFIED,
	"off":        fettlev1.PreemptMode_PREEMPT_MODE_OFF,
	"checkpoint": fettlev1.PreemptMode_PREEMPT_MODE_CHECKPOINT,
	"requeue":    fettlev1.PreemptMode_PREEMPT_MODE_REQUEUE,
	"cancel":     fettlev1.PreemptMode_PREEMPT_MODE_CANCEL,
}

// span reads a time that may be zero, in seconds.
func span(where, field, v string) (int64, error) {
	d, err := gres.ParseDuration(v)
	if err != nil {
		return 0, &Error{Field: where, Problem: gres.Rename(err, field).Error()}
	}
	if d == gres.Unlimited {
		return 0, &Error{Field: where, Problem: field + " is unlimited", Remedy: "give a time"}
	}
	return int64(d / time.Second), nil
}

func (in preemption) parse(where string, out *fettlev1.Partition) error {
	mode, ok := modes[strings.ToLower(in.Preempt)]
	if !ok {
		return &Error{Field: where, Problem: "preempt " + gres.Quote(in.Preempt) + " is not a mode", Remedy: "use off, checkpoint, requeue or cancel"}
	}
	out.Preempt, out.AllowNoPreemptible = mode, in.AllowNoPreemptible
	var err error
	if in.PreemptGrace != "" {
		if out.PreemptGraceS, err = span(where, "preempt_grace", in.PreemptGrace); err != nil {
			return err
		}
	}
	if in.MinRun != nil {
		s, err := span(where, "min_run", *in.MinRun)
		if err != nil {
			return err
		}
		out.MinRunS = &s
	}
	if in.PreemptBudget != nil {
		n, err := number(where, "preempt_budget", in.PreemptBudget)
		if err != nil {
			return &Error{Field: where, Problem: fmt.Sprintf("preempt_budget is %d", *in.PreemptBudget), Remedy: "use a number from 1 on, or preempt = \"off\""}
		}
		out.PreemptBudget = &n
	}
	if in.PriorityGap != nil {
		if *in.PriorityGap < 0 || *in.PriorityGap >= model.MaxPriority {
			return &Error{Field: where, Problem: fmt.Sprintf("priority_gap is %d", *in.PriorityGap), Remedy: "use 0 to " + strconv.Itoa(model.MaxPriority-1)}
		}
		n := uint32(*in.PriorityGap)
		out.PriorityGap = &n
	}
	return nil
}

func (in project) parse() (*fettlev1.Project, error) {
	if in.Name == "" {
		return nil, &Error{Field: "project", Problem: "one has no name", Remedy: "add name = \"...\""}
	}
	where := "project " + gres.Quote(in.Name)
	p := &fettlev1.Project{Name: in.Name, Parent: in.Parent, Members: in.Members}
	var err error
	if p.Weight, err = number(where, "weight", in.Weight); err != nil {
		return nil, err
	}
	if p.GuaranteeGpus, err = number(where, "guarantee", in.Guarantee); err != nil {
		return nil, err
	}
	p.Limits, err = in.limits.parse(where, in.MaxTime)
	return p, err
}

func (in user) parse() (*fettlev1.UserLimits, error) {
	if in.Name == "" {
		return nil, &Error{Field: "user", Problem: "one has no name", Remedy: "add name = \"...\", or \"*\" for every user without limits of their own"}
	}
	l, err := in.limits.parse("user "+gres.Quote(in.Name), in.MaxTime)
	return &fettlev1.UserLimits{User: in.Name, Limits: l}, err
}

// tenancy reads projects, users and usage into p, and checks what they say of each other.
func (f *file) tenancy(p *fettlev1.ClusterPolicy) error {
	for _, in := range f.Project {
		out, err := in.parse()
		if err != nil {
			return err
		}
		p.Projects = append(p.Projects, out)
	}
	for _, in := range f.User {
		out, err := in.parse()
		if err != nil {
			return err
		}
		p.Users = append(p.Users, out)
	}
	var err error
	if p.UsageHalfLifeS, err = seconds("usage", "half_life", f.Usage.HalfLife); err != nil {
		return err
	}
	if fe := model.ValidateTenancy(p); fe != nil {
		return &Error{Field: fe.Field, Problem: fe.Problem, Remedy: fe.Remedy}
	}
	return nil
}

// put writes one setting.
func put(b *strings.Builder, name, v string) { b.WriteString(name + " = " + v + "\n") }

func putNumber[N uint32 | int64](b *strings.Builder, name string, n N) {
	if n != 0 {
		put(b, name, strconv.FormatInt(int64(n), 10))
	}
}

func putTime(b *strings.Builder, name string, s int64) {
	if s != 0 {
		put(b, name, quote(gres.FormatDuration(time.Duration(s)*time.Second)))
	}
}

func putLimits(b *strings.Builder, l *fettlev1.Limits) {
	putNumber(b, "max_gpus", l.GetMaxGpus())
	putNumber(b, "max_jobs_running", l.GetMaxJobsRunning())
	putNumber(b, "max_jobs_queued", l.GetMaxJobsQueued())
	putNumber(b, "max_gpus_per_job", l.GetMaxGpusPerJob())
	putNumber(b, "max_nodes_per_job", l.GetMaxNodesPerJob())
	putNumber(b, "gpu_hours", l.GetGpuHours())
	putTime(b, "gpu_hours_window", l.GetGpuHoursWindowS())
	putTime(b, "max_time", l.GetMaxTimeS())
}

func putPreemption(b *strings.Builder, p *fettlev1.Partition) {
	for name, m := range modes {
		if m == p.GetPreempt() && name != "" {
			put(b, "preempt", quote(name))
		}
	}
	putTime(b, "preempt_grace", p.GetPreemptGraceS())
	if p.MinRunS != nil {
		put(b, "min_run", quote(gres.FormatDuration(time.Duration(p.GetMinRunS())*time.Second)))
	}
	putNumber(b, "preempt_budget", p.GetPreemptBudget())
	if p.PriorityGap != nil {
		put(b, "priority_gap", strconv.FormatUint(uint64(p.GetPriorityGap()), 10))
	}
	if p.GetAllowNoPreemptible() {
		put(b, "allow_no_preemptible", "true")
	}
}

func formatProject(p *fettlev1.Project) string {
	var b strings.Builder
	b.WriteString("[[project]]\n")
	put(&b, "name", quote(p.GetName()))
	if p.GetParent() != "" {
		put(&b, "parent", quote(p.GetParent()))
	}
	putNumber(&b, "weight", p.GetWeight())
	if len(p.GetMembers()) > 0 {
		quoted := make([]string, 0, len(p.GetMembers()))
		for _, m := range p.GetMembers() {
			quoted = append(quoted, quote(m))
		}
		put(&b, "members", "["+strings.Join(quoted, ", ")+"]")
	}
	putNumber(&b, "guarantee", p.GetGuaranteeGpus())
	putLimits(&b, p.GetLimits())
	return b.String() + "\n"
}

func formatUser(u *fettlev1.UserLimits) string {
	var b strings.Builder
	b.WriteString("[[user]]\n")
	put(&b, "name", quote(u.GetUser()))
	putLimits(&b, u.GetLimits())
	return b.String() + "\n"
}

func formatTenancy(p *fettlev1.ClusterPolicy) string {
	var b strings.Builder
	for _, q := range p.GetProjects() {
		b.WriteString(formatProject(q))
	}
	for _, u := range p.GetUsers() {
		b.WriteString(formatUser(u))
	}
	if s := p.GetUsageHalfLifeS(); s > 0 {
		b.WriteString("[usage]\n")
		putTime(&b, "half_life", s)
		b.WriteString("\n")
	}
	return b.String()
}

// table is a named table of a policy with its settings, one a line, without its name.
type table struct {
	kind, name string
	lines      []string
}

func (t table) title() string {
	if t.name == "" {
		return t.kind
	}
	return t.kind + " " + quote(t.name)
}

// tables are the projects, users and the usage of a policy.
func tables(p *fettlev1.ClusterPolicy) []table {
	var out []table
	for _, q := range p.GetProjects() {
		out = append(out, table{"project", q.GetName(), strings.Split(strings.TrimSpace(formatProject(q)), "\n")[2:]})
	}
	for _, u := range p.GetUsers() {
		out = append(out, table{"user", u.GetUser(), strings.Split(strings.TrimSpace(formatUser(u)), "\n")[2:]})
	}
	if s := p.GetUsageHalfLifeS(); s > 0 {
		var b strings.Builder
		putTime(&b, "half_life", s)
		out = append(out, table{kind: "usage", lines: []string{strings.TrimSpace(b.String())}})
	}
	return out
}

// diffTenancy lists what differs in projects, users and usage.
func diffTenancy(from, to *fettlev1.ClusterPolicy) []string {
	a, b := tables(from), tables(to)
	find := func(all []table, t table) *table {
		i := slices.IndexFunc(all, func(o table) bool { return o.kind == t.kind && o.name == t.name })
		if i < 0 {
			return nil
		}
		return &all[i]
	}
	var out []string
	for _, t := range a {
		switch now := find(b, t); {
		case now == nil:
			out = append(append(out, "- "+t.title()), changes(t.lines, nil)...)
		case !slices.Equal(now.lines, t.lines):
			out = append(append(out, "  "+t.title()), changes(t.lines, now.lines)...)
		}
	}
	for _, t := range b {
		if find(a, t) == nil {
			out = append(append(out, "+ "+t.title()), changes(nil, t.lines)...)
		}
	}
	titles := func(all []table) (list []string) {
		for _, t := range all {
			list = append(list, t.title())
		}
		return list
	}
	if len(out) == 0 && !slices.Equal(titles(a), titles(b)) {
		out = append(out, "- order: "+strings.Join(titles(a), ", "), "+ order: "+strings.Join(titles(b), ", "))
	}
	return out
}
