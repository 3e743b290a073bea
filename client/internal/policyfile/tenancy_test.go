package policyfile_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/fettle-hpc/fettle/client/internal/policyfile"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func drawLimits(t *rapid.T, timed bool) *fettlev1.Limits {
	n := func(name string) uint32 {
		return rapid.SampledFrom([]uint32{0, 0, 1, 7, 10_000_000}).Draw(t, name)
	}
	l := &fettlev1.Limits{
		MaxGpus: n("gpus"), MaxJobsRunning: n("running"), MaxJobsQueued: n("queued"), MaxGpusPerJob: n("gpus per job"), MaxNodesPerJob: n("nodes per job"),
		GpuHours: int64(n("hours")),
	}
	if l.GpuHours > 0 {
		l.GpuHoursWindowS = rapid.SampledFrom([]int64{0, 60, 86_400, 366 * 86_400}).Draw(t, "window")
	}
	if timed {
		l.MaxTimeS = rapid.SampledFrom([]int64{0, 61, 86_400}).Draw(t, "time")
	}
	if proto.Size(l) == 0 {
		return nil
	}
	return l
}

func drawPreemption(t *rapid.T, p *fettlev1.Partition) {
	p.Preempt = fettlev1.PreemptMode(rapid.IntRange(0, 4).Draw(t, "mode"))
	p.PreemptGraceS = rapid.SampledFrom([]int64{0, 90, 3600}).Draw(t, "grace")
	p.AllowNoPreemptible = rapid.Bool().Draw(t, "no preemptible")
	if rapid.Bool().Draw(t, "set") {
		p.MinRunS = proto.Int64(rapid.SampledFrom([]int64{0, 600}).Draw(t, "min run"))
		p.PreemptBudget = proto.Uint32(rapid.Uint32Range(1, 1000).Draw(t, "budget"))
		p.PriorityGap = proto.Uint32(rapid.Uint32Range(0, 9).Draw(t, "gap"))
	}
	p.Limits = drawLimits(t, false)
}

func drawTenancy(t *rapid.T, p *fettlev1.ClusterPolicy) {
	for i, name := range rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z][a-z0-9_.-]{0,5}`), 0, 4, rapid.ID[string]).Draw(t, "projects") {
		q := &fettlev1.Project{Name: name, Weight: rapid.Uint32Range(0, 1_000_000).Draw(t, "weight"), Limits: drawLimits(t, true)}
		if i > 0 && rapid.Bool().Draw(t, "below") {
			q.Parent = p.Projects[i-1].GetName()
		}
		q.Members = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"*", "ada", "o'neill \"x\"", "bob"}), 0, 4, rapid.ID[string]).Draw(t, "members")
		if len(q.Members) == 0 {
			q.Members = nil
		}
		q.GuaranteeGpus = min(rapid.Uint32Range(0, 9).Draw(t, "guarantee"), max(q.GetLimits().GetMaxGpus(), 1))
		p.Projects = append(p.Projects, q)
	}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"*", "ada", "bob"}), 0, 3, rapid.ID[string]).Draw(t, "users") {
		p.Users = append(p.Users, &fettlev1.UserLimits{User: name, Limits: drawLimits(t, true)})
	}
	p.UsageHalfLifeS = rapid.SampledFrom([]int64{0, 60, 604_800}).Draw(t, "half life")
}

const labFile = `
[[partition]]
name = "gpu"
preempt = "Checkpoint"
preempt_grace = "5m"
min_run = "0"
preempt_budget = 2
priority_gap = 0
allow_no_preemptible = true
max_jobs_running = 100

[[project]]
name = "lab"
max_gpus = 64
gpu_hours = 5000
gpu_hours_window = "30d"

[[project]]
name = "nlp"
parent = "lab"
weight = 3
members = ["ada", "bob"]
guarantee = 16
max_time = "2d"

[[user]]
name = "*"
max_gpus = 8
max_jobs_queued = 1000

[usage]
half_life = "2w"
`

func TestParseTenancy(t *testing.T) {
	t.Parallel()
	got, err := policyfile.Parse([]byte(labFile))
	if err != nil {
		t.Fatal(err)
	}
	want := &fettlev1.ClusterPolicy{
		Partitions: []*fettlev1.Partition{{
			Name: "gpu", Preempt: fettlev1.PreemptMode_PREEMPT_MODE_CHECKPOINT, PreemptGraceS: 300, MinRunS: proto.Int64(0), PreemptBudget: proto.Uint32(2),
			PriorityGap: proto.Uint32(0), AllowNoPreemptible: true, Limits: &fettlev1.Limits{MaxJobsRunning: 100},
		}},
		Projects: []*fettlev1.Project{
			{Name: "lab", Limits: &fettlev1.Limits{MaxGpus: 64, GpuHours: 5000, GpuHoursWindowS: 30 * 86_400}},
			{Name: "nlp", Parent: "lab", Weight: 3, Members: []string{"ada", "bob"}, GuaranteeGpus: 16, Limits: &fettlev1.Limits{MaxTimeS: 2 * 86_400}},
		},
		Users:          []*fettlev1.UserLimits{{User: "*", Limits: &fettlev1.Limits{MaxGpus: 8, MaxJobsQueued: 1000}}},
		UsageHalfLifeS: 14 * 86_400,
	}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// Each refusal is one line that names the table, what is wrong and what to do.
func TestTenancyRefusals(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"[[project]]\nname = \"a\"\nmax_gpu = 1":             `line 3: unknown key "project.max_gpu"; a project has name, parent, weight, members, guarantee, max_time, max_gpus, max_jobs_running, max_jobs_queued, max_gpus_per_job, max_nodes_per_job, gpu_hours, gpu_hours_window`,
		"[[user]]\nmember = 1":                               `line 2: unknown key "user.member"; a user has name, max_time, max_gpus, max_jobs_running, max_jobs_queued, max_gpus_per_job, max_nodes_per_job, gpu_hours, gpu_hours_window`,
		"[usage]\nhalflife = \"7d\"":                         `line 2: unknown key "usage.halflife"; usage has half_life`,
		"[[projects]]\nname = \"a\"":                         `line 1: unknown key "projects"; known are version, [[partition]], [[project]], [[user]], [usage] and [scheduling]`,
		"[[project]]\nweight = 1":                            `project: one has no name; add name = "..."`,
		"[[user]]\nmax_gpus = 1":                             `user: one has no name; add name = "...", or "*" for every user without limits of their own`,
		"[[project]]\nname = \"a b\"":                        `project "a b".name: "a b" is not a name; use letters, digits, dots, dashes and underscores, starting with a letter or digit`,
		"[[project]]\nname = \"a\"\n[[project]]\nname=\"a\"": `project "a": is defined twice; keep one`,
		"[[project]]\nname = \"a\"\nparent = \"b\"":          `project "a".parent: "b" does not exist; define it, or leave parent out`,
		"[[project]]\nname = \"a\"\nparent = \"b\"\n[[project]]\nname = \"b\"\nparent = \"a\"": `project "a".parent: leads back to the project itself; leave parent out in one of them`,
		"[[project]]\nname = \"a\"\nmembers = [\"x\", \"x\"]":                                  `project "a".members: "x" is there twice; keep one`,
		"[[project]]\nname = \"a\"\nmembers = [\"\"]":                                          `project "a".members: is empty; name a user, or "*" for everyone`,
		"[[project]]\nname = \"a\"\nmembers = \"x\"":                                           `line 3: project.members: is a string where a list is wanted; mend the line`,
		"[[project]]\nname = \"a\"\nweight = 0":                                                `project "a": weight is 0; use a number from 1 on, or leave it out`,
		"[[project]]\nname = \"a\"\nguarantee = 9\nmax_gpus = 8":                               `project "a".guarantee: is above max_gpus; lower it`,
		"[[project]]\nname = \"a\"\nmax_gpus = -1":                                             `project "a": max_gpus is -1; use a number from 1 on, or leave it out`,
		"[[project]]\nname = \"a\"\nmax_gpus = 0":                                              `project "a": max_gpus is 0; use a number from 1 on, or leave it out`,
		"[[project]]\nname = \"a\"\nmax_gpus = 1.5":                                            `line 3: project.max_gpus: is a float where an integer is wanted; mend the line`,
		"[[project]]\nname = \"a\"\ngpu_hours_window = \"7d\"":                                 `project "a".gpu_hours_window: is set without gpu_hours; set both, or neither`,
		"[[project]]\nname = \"a\"\ngpu_hours = 5\ngpu_hours_window = \"400d\"":                `project "a".gpu_hours_window: is out of range; use 1 minute to 366 days`,
		"[[project]]\nname = \"a\"\nmax_time = \"31d\"":                                        `project "a".max_time: is out of range; use 0 to 30 days`,
		"[[project]]\nname = \"a\"\nmax_time = \"soon\"":                                       `project "a": max_time "soon": is not a time; use minutes, HH:MM:SS, D-HH:MM:SS or 90m`,
		"[[user]]\nname = \"x\"\n[[user]]\nname = \"x\"":                                       `user "x": has limits twice; keep one`,
		"[usage]\nhalf_life = \"1s\"":                                                          `usage.half_life: is out of range; use 1 minute to 366 days`,
		"[[partition]]\nname = \"a\"\npreempt = \"kill\"":                                      `partition "a": preempt "kill" is not a mode; use off, checkpoint, requeue or cancel`,
		"[[partition]]\nname = \"a\"\npreempt_grace = \"2h\"":                                  `partition "a".preempt_grace: is out of range; use 0 to 1 hour`,
		"[[partition]]\nname = \"a\"\nmin_run = \"unlimited\"":                                 `partition "a": min_run is unlimited; give a time`,
		"[[partition]]\nname = \"a\"\npreempt_budget = 0":                                      `partition "a": preempt_budget is 0; use a number from 1 on, or preempt = "off"`,
		"[[partition]]\nname = \"a\"\npriority_gap = 10":                                       `partition "a": priority_gap is 10; use 0 to 9`,
		"[[partition]]\nname = \"a\"\nmax_gpus = 20000000":                                     `partition "a".max_gpus: is above 10000000; lower it, or leave it out for no limit`,
	} {
		_, err := policyfile.Parse([]byte(text))
		if err == nil || err.Error() != want {
			t.Errorf("%q:\ngot  %v\nwant %s", text, err, want)
		}
	}
}

func TestTenancyDiff(t *testing.T) {
	t.Parallel()
	parse := func(text string) *fettlev1.ClusterPolicy {
		p, err := policyfile.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	from := parse(labFile)
	to := parse(strings.NewReplacer("max_gpus = 64", "max_gpus = 96", "name = \"*\"", "name = \"ada\"", "\"2w\"", "\"1w\"", "\"Checkpoint\"", "\"off\"").Replace(labFile))
	want := []string{
		`  partition "gpu"`, `- preempt = "checkpoint"`, `+ preempt = "off"`,
		`  project "lab"`, `- max_gpus = 64`, `+ max_gpus = 96`,
		`- user "*"`, `- max_gpus = 8`, `- max_jobs_queued = 1000`,
		`  usage`, `- half_life = "14-00:00:00"`, `+ half_life = "7-00:00:00"`,
		`+ user "ada"`, `+ max_gpus = 8`, `+ max_jobs_queued = 1000`,
	}
	if got := policyfile.Diff(from, to); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
