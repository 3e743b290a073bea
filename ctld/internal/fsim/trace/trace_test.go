package trace

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

const head = "job_id,submit_s,duration_s,gpus,gpu_type,gpu_milli,cpu_milli,mem_mib,user,vc,priority,qos,status,limit_s,pred_s\n"

func TestReadJobs(t *testing.T) {
	t.Parallel()
	jobs, err := ReadJobs(strings.NewReader(head+
		"b,7,100,1,T4|V100,500,4000,1024,ann,vision,8,LS,Failed,900,\n"+
		"a,5,10,16,,1000,,,,,,,,,\n"), "x.csv")
	if err != nil {
		t.Fatal(err)
	}
	want := []Job{
		{ID: "a", Row: 1, SubmitS: 5, DurationS: 10, GPUs: 16, Priority: 5},
		{ID: "b", Row: 0, SubmitS: 7, DurationS: 100, GPUs: 1, Types: []string{"T4", "V100"}, GPUMilli: 500, CPUMilli: 4000, MemMiB: 1024,
			User: "ann", VC: "vision", Priority: 3, Status: "Failed", LimitS: 900},
	}
	if !reflect.DeepEqual(jobs, want) {
		t.Errorf("got %+v\nwant %+v", jobs, want)
	}
	if jobs[1].Project() != "vision" || !jobs[1].Wasted() || jobs[0].Wasted() || jobs[0].Service() != 160 {
		t.Error("project, wasted or service is wrong")
	}
}

// TestReadJobsColumns checks that columns go by name and that only four have to be there.
func TestReadJobsColumns(t *testing.T) {
	t.Parallel()
	jobs, err := ReadJobs(strings.NewReader("gpus,duration_s,submit_s,job_id\n2,30,0,x\n"), "x.csv")
	if err != nil || len(jobs) != 1 || jobs[0].GPUs != 2 || jobs[0].DurationS != 30 || jobs[0].Priority != 5 {
		t.Errorf("got %+v, %v", jobs, err)
	}
}

func TestReadJobsNamesBadRows(t *testing.T) {
	t.Parallel()
	row := func(id, submit, duration, gpus, rest string) string {
		return "job_id,submit_s,duration_s,gpus,gpu_milli,priority,gpu_type\nfirst,0,1,1,,,\n" + strings.Join([]string{id, submit, duration, gpus, rest}, ",") + "\n"
	}
	for name, c := range map[string]struct{ text, want string }{
		"empty":            {"", "x.csv: empty"},
		"no rows":          {head, "x.csv: no jobs"},
		"missing column":   {"job_id,submit_s,gpus\n", "x.csv:1: duration_s: missing"},
		"unknown column":   {"job_id,submit_s,duration_s,gpus,colour\n", "x.csv:1: colour: unknown column"},
		"column twice":     {"job_id,submit_s,duration_s,gpus,gpus\n", "x.csv:1: gpus: named twice"},
		"too few fields":   {"job_id,submit_s,duration_s,gpus\na,1,2\n", "x.csv:2: wrong number of fields"},
		"no name":          {row("", "0", "1", "1", ",,"), "x.csv:3: job_id: empty"},
		"same name":        {row("first", "0", "1", "1", ",,"), `x.csv:3: job_id: "first" is the job of line 2 too`},
		"negative submit":  {row("b", "-1", "1", "1", ",,"), `x.csv:3: submit_s: "-1" is not a whole number from 0`},
		"fraction":         {row("b", "0", "1.5", "1", ",,"), `x.csv:3: duration_s: "1.5" is not a whole number from 1`},
		"no duration":      {row("b", "0", "", "1", ",,"), `x.csv:3: duration_s: "" is not`},
		"no GPUs":          {row("b", "0", "1", "0", ",,"), `x.csv:3: gpus: "0" is not a whole number from 1`},
		"overflow":         {row("b", "0", "99999999999999999999", "1", ",,"), "x.csv:3: duration_s:"},
		"priority":         {row("b", "0", "1", "1", ",11,"), `x.csv:3: priority: "11" is not a whole number from 1 to 10`},
		"share of a gang":  {row("b", "0", "1", "2", "500,,"), "x.csv:3: gpu_milli: a share of a card for a job of 2 GPUs"},
		"empty type":       {row("b", "0", "1", "1", ",,T4|"), `x.csv:3: gpu_type: "T4|" has an empty name`},
		"unfinished quote": {"job_id,submit_s,duration_s,gpus\n\"a,1,2,3\n", "x.csv:2:"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ReadJobs(strings.NewReader(c.text), "x.csv")
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got %v, want %s…", err, c.want)
			}
		})
	}
}

func TestReadNodes(t *testing.T) {
	t.Parallel()
	nodes, err := ReadNodes(strings.NewReader("node,gpus,gpu_type,cpu_milli,mem_mib\na,8,T4,96000,1000\nb,8,T4,,\nc,2,P100,,\nd,8,T4,,\n"), "c.csv")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := nodes.String(), "26 GPUs = 3x8 T4 + 1x2 P100"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for text, want := range map[string]string{
		"node,gpus\na,8\na,8\n":          `c.csv:3: node: "a" is the node of line 2 too`,
		"node,gpus\na,x\n":               `c.csv:2: gpus: "x" is not a whole number`,
		"node,gpus\n,1\n":                "c.csv:2: node: empty",
		"node,gpus\na,0\n":               "c.csv: no GPUs",
		"node,gpus,gpu_type\na,8,T4|P\n": `c.csv:2: gpu_type: "T4|P"`,
	} {
		if _, err := ReadNodes(strings.NewReader(text), "c.csv"); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: got %v, want %s…", text, err, want)
		}
	}
}

func TestRowError(t *testing.T) {
	t.Parallel()
	_, err := ReadJobs(strings.NewReader("job_id,submit_s,duration_s,gpus\na,0,1,1\nb,0,0,1\n"), "x.csv")
	var bad *RowError
	if !errors.As(err, &bad) || bad.Line != 3 || bad.Column != "duration_s" || bad.File != "x.csv" {
		t.Errorf("got %+v", err)
	}
}

func FuzzReadJobs(f *testing.F) {
	f.Add(head + "b,7,100,1,T4|V100,500,4000,1024,ann,vision,8,LS,Failed,900,\n")
	f.Add("job_id,submit_s,duration_s,gpus\na,0,1,1\n")
	f.Fuzz(func(t *testing.T, text string) {
		jobs, err := ReadJobs(strings.NewReader(text), "x.csv")
		if err != nil {
			return
		}
		for i, j := range jobs {
			if j.ID == "" || j.DurationS < 1 || j.GPUs < 1 || j.Priority < 1 || j.Priority > 10 || i > 0 && j.SubmitS < jobs[i-1].SubmitS {
				t.Errorf("bad job %+v", j)
			}
		}
	})
}

// TestSyntheticLimit has limits computed by hand: rows 0 to 4 have the factors 1.1, 8, 4, 4 and 2.
func TestSyntheticLimit(t *testing.T) {
	t.Parallel()
	const day = 86400
	for _, c := range []struct {
		row            int
		duration, want int64
	}{
		{0, 1, 900}, {0, 818, 900}, {0, 819, 3600}, {0, 30 * day, 60 * day}, {0, 60 * day, 66 * day},
		{1, 112, 900}, {1, 113, 3600}, {2, 225, 900}, {2, 226, 3600}, {4, 450, 900}, {4, 451, 3600}, {4, 7201, 12 * 3600},
	} {
		if got := SyntheticLimit(c.row, c.duration); got != c.want {
			t.Errorf("row %d, %d s: got %d, want %d", c.row, c.duration, got, c.want)
		}
	}
	seen := map[string]bool{}
	for row := range 64 {
		for _, d := range []int64{1, 100, 5000, 100_000, 10_000_000} {
			if SyntheticLimit(row, d) < d {
				t.Errorf("row %d: the limit ends a job of %d s", row, d)
			}
		}
		seen[fmt.Sprint(SyntheticLimit(row, 1800))] = true
	}
	// Half an hour times 1.1 and 2 rounds up to an hour, times 4 and 8 to four.
	if len(seen) != 2 || !seen["3600"] || !seen["14400"] {
		t.Errorf("limits %v", seen)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	jobs := []Job{{Row: 0, DurationS: 10, LimitS: 77}, {Row: 1, DurationS: 10}}
	for _, c := range []struct {
		source      string
		first, then int64
	}{{"synthetic", 77, 900}, {"own", 77, 0}, {"none", 0, 0}} {
		l, err := ParseLimits(c.source)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Apply(jobs); got[0].LimitS != c.first || got[1].LimitS != c.then {
			t.Errorf("%s: got %d and %d", c.source, got[0].LimitS, got[1].LimitS)
		}
	}
	if jobs[0].LimitS != 77 || jobs[1].LimitS != 0 {
		t.Error("the jobs that were given changed")
	}
	if _, err := ParseLimits("maybe"); err == nil || !strings.Contains(err.Error(), "use synthetic, own or none") {
		t.Errorf("got %v", err)
	}
}

func TestShake(t *testing.T) {
	t.Parallel()
	var jobs []Job
	for i := range 500 {
		j := Job{ID: fmt.Sprint(i), Row: i, SubmitS: int64(i) * 10, DurationS: int64(1 + i*i), GPUs: 1}
		if i%2 == 0 {
			j.LimitS = j.DurationS
		}
		jobs = append(jobs, j)
	}
	if !reflect.DeepEqual(Shake(jobs, 0), jobs) {
		t.Error("seed 0 changes something")
	}
	a := Shake(jobs, 1)
	if !reflect.DeepEqual(a, Shake(jobs, 1)) {
		t.Error("one seed gives two workloads")
	}
	if reflect.DeepEqual(a, Shake(jobs, 2)) {
		t.Error("two seeds give one workload")
	}
	moved := 0
	for i, j := range a {
		was := jobs[j.Row]
		if d := j.SubmitS - was.SubmitS; d < -60 || d > 60 {
			t.Errorf("job %s moved by %d s", j.ID, d)
		} else if d != 0 {
			moved++
		}
		if f := float64(j.DurationS) / float64(was.DurationS); was.DurationS > 1000 && (f < 0.979 || f > 1.021) {
			t.Errorf("job %s runs %f times as long", j.ID, f)
		}
		if j.LimitS != 0 && j.LimitS < j.DurationS {
			t.Errorf("job %s would be ended at its limit now", j.ID)
		}
		if i > 0 && j.SubmitS < a[i-1].SubmitS {
			t.Error("not in order of arrival")
		}
	}
	if moved < 400 {
		t.Errorf("only %d jobs moved", moved)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	jobs := []Job{{SubmitS: 0, DurationS: 100, GPUs: 2}, {SubmitS: 50, DurationS: 100, GPUs: 1}}
	if got := Load(jobs, Cluster{{GPUs: 4}}); got != 1.5 {
		t.Errorf("got %f, want 300 GPU-s over 50 s of 4 GPUs", got)
	}
}

func TestScale(t *testing.T) {
	t.Parallel()
	jobs := []Job{{ID: "a", Row: 0, SubmitS: 0, DurationS: 5, GPUs: 1, User: "ann"}, {ID: "b", Row: 1, SubmitS: 40_000, DurationS: 5, GPUs: 1, VC: "v"}}
	js, ns := Scale(jobs, Cluster{{Name: "n", GPUs: 2}}, 4)
	if len(js) != 8 || len(ns) != 4 || ns.GPUs() != 8 || ns[3].Name != "n#3" {
		t.Fatalf("%d jobs, %v", len(js), ns)
	}
	rows := map[int]bool{}
	for i, j := range js {
		if rows[j.Row] || i > 0 && j.SubmitS < js[i-1].SubmitS {
			t.Errorf("row %d comes twice, or out of order", j.Row)
		}
		rows[j.Row] = true
	}
	if last := js[7]; last.ID != "b#3" || last.SubmitS != 40_000+3*21_600 || last.VC != "v#3" || last.User != "" {
		t.Errorf("last %+v", last)
	}
	if one, same := Scale(jobs, Cluster{{Name: "n"}}, 1); len(one) != 2 || same[0].Name != "n" {
		t.Error("once is not the same")
	}
}
