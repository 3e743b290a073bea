package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var data = filepath.Join("..", "..", "internal", "fsim", "testdata")

// call runs the command; FILE.csv in its arguments is one of the test data.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	for i, a := range args {
		if strings.HasSuffix(a, ".csv") && !filepath.IsAbs(a) {
			args[i] = filepath.Join(data, a)
		}
	}
	var out, err bytes.Buffer
	one.Lock()
	defer one.Unlock()
	code = run(context.Background(), append([]string{"fsim"}, args...), &out, &err)
	return code, out.String(), err.String()
}

// one lets the tests run the command one by one: the library that reads the flags has variables of its own.
var one sync.Mutex

// measured are the lines that differ from run to run.
var measured = regexp.MustCompile(`(?m)^p99 pass .*\n`)

func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != text {
		t.Errorf("%s:\ngot\n%s\nwant\n%s", name, text, want)
	}
}

// TestReference pins the figures of the reference model on both excerpts: they change when the model does, and it must not.
func TestReference(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"philly", "hpc2n"} {
		code, out, stderr := call(t, "compare", "--model", "reference", "--trace", name+".csv", "--srsf",
			"--policy", "fifo", "--policy", "greedy", "--policy", "easy-exact", "--policy", "easy-limit", "--policy", "sjf", "--policy", "sjf-easy", "--policy", "vst48-limit")
		if code != 0 || stderr != "" {
			t.Fatal(code, stderr)
		}
		golden(t, name+".txt", measured.ReplaceAllString(out, ""))
	}
}

func TestFettle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	page, starts := filepath.Join(dir, "report.html"), filepath.Join(dir, "starts.csv")
	code, out, stderr := call(t, "--trace", "hpc2n.csv", "--set", "size_weight=24h", "--repeat", "2", "--json", "--html", page, "--schedule", starts)
	if code != 0 || stderr != "" {
		t.Fatal(code, stderr)
	}
	var got struct {
		Copies  int `json:"perturbed_copies"`
		Results []struct {
			Name string
			Runs []struct {
				Jobs  int
				Bound int64 `json:"order_bound_s"`
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if got.Copies != 2 || len(got.Results) != 1 || got.Results[0].Name != "multifactor" || len(got.Results[0].Runs) != 2 || got.Results[0].Runs[1].Jobs != 600 {
		t.Errorf("got %+v", got)
	}
	// 9 levels of 12 h, 24 h for the size and 12 h of fair share.
	if bound := got.Results[0].Runs[0].Bound; bound != 144*3600 {
		t.Errorf("bound %d s", bound)
	}
	if text, err := os.ReadFile(page); err != nil || !bytes.Contains(text, []byte("<svg")) {
		t.Errorf("page: %v", err)
	}
	if text, err := os.ReadFile(starts); err != nil || bytes.Count(text, []byte("\n")) != 601 {
		t.Errorf("schedule: %v", err)
	}
}

// TestCompare: settings of one policy do not reach the others, and simulation settings have their prefix.
func TestCompare(t *testing.T) {
	t.Parallel()
	code, out, stderr := call(t, "compare", "--trace", "hpc2n.csv", "--json", "--policy", "fifo", "--policy", "fifo:sim.strict=true",
		"--policy", "multifactor:size_weight=0s,priority_step=0s,fair_share_weight=0s", "--policy", "multifactor:sim.preemptible=50%,sim.checkpoint=30m",
		"--policy", "multifactor:sim.limits=none,sim.history=true,sim.progress=10%,sim.depth=2,sim.kill=true,sim.no-fair-share=true,sim.shares=true")
	if code != 0 {
		t.Fatal(code, stderr)
	}
	var got struct {
		Results []struct {
			Name    string
			Figures []struct {
				Key  string
				Mean float64
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	for i, r := range got.Results {
		for _, f := range r.Figures {
			if f.Key == "preemptions" && (f.Mean > 0) != (i == 3) {
				t.Errorf("%s: %f preemptions", r.Name, f.Mean)
			}
		}
	}
	easy, strict, plain := got.Results[0].Figures[0].Mean, got.Results[1].Figures[0].Mean, got.Results[2].Figures[0].Mean
	if easy >= strict || easy != plain {
		t.Errorf("average completions: fifo %f, strict %f, multifactor without weights %f", easy, strict, plain)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no trace":           {nil, "--trace: missing"},
		"no cluster":         {[]string{"--trace", "/nowhere/x.csv"}, "--cluster: missing, and there is no /nowhere/x.cluster.csv"},
		"unknown flag":       {[]string{"--tracks", "x"}, "flag provided but not defined: -tracks"},
		"unknown policy":     {[]string{"--trace", "hpc2n.csv", "--policy", "best"}, `--policy "best": unknown; use multifactor, fifo or the path of a plugin, such as ./best`},
		"missing plugin":     {[]string{"--trace", "hpc2n.csv", "--policy", "./nothing"}, "--policy stat ./nothing: no such file or directory"},
		"unknown setting":    {[]string{"--trace", "hpc2n.csv", "--set", "size=1h"}, `--set setting "size": unknown`},
		"setting of fifo":    {[]string{"--trace", "hpc2n.csv", "--policy", "fifo", "--set", "size_weight=1h"}, "--set size_weight: fifo has no settings"},
		"no value":           {[]string{"--trace", "hpc2n.csv", "--set", "size_weight"}, `--set "size_weight": write it as KEY=VALUE`},
		"unknown sim":        {[]string{"--trace", "hpc2n.csv", "--set", "sim.speed=1"}, "--set sim.speed: unknown; there are sim.limits, sim.kill"},
		"bad sim":            {[]string{"--trace", "hpc2n.csv", "--set", "sim.depth=0"}, `--set sim.depth: "0" is not a whole number from 1 to 1000`},
		"bad progress":       {[]string{"--trace", "hpc2n.csv", "--progress", "120%"}, `--progress: "120%" is not a share`},
		"bad checkpoint":     {[]string{"--trace", "hpc2n.csv", "--checkpoint", "often"}, `--checkpoint: "often" is not a time from 1s to a year`},
		"bad preemptible":    {[]string{"--trace", "hpc2n.csv", "--set", "sim.preemptible=all"}, `--set sim.preemptible: "all" is not a share`},
		"bad budget":         {[]string{"--trace", "hpc2n.csv", "--preempt-budget", "-1"}, `--preempt-budget: "-1" is not a whole number from 0 to 1000`},
		"no such plugin":     {[]string{"--trace", "hpc2n.csv", "--preempt-policy", "./nothing"}, "--preempt-policy: stat ./nothing: no such file or directory"},
		"bad limits":         {[]string{"--trace", "hpc2n.csv", "--limits", "some"}, `--limits: "some": unknown; use synthetic, own or none`},
		"bad model":          {[]string{"--trace", "hpc2n.csv", "--model", "x"}, `--model "x": unknown; use fettle or reference`},
		"reference settings": {[]string{"--trace", "hpc2n.csv", "--model", "reference", "--set", "a=b"}, "--set a: the reference model's policies have no settings"},
		"two policies":       {[]string{"--trace", "hpc2n.csv", "--policy", "fifo", "--policy", "multifactor"}, "--policy: given 2 times; fsim compare takes several"},
		"compare nothing":    {[]string{"compare", "--trace", "hpc2n.csv"}, "--policy: missing; name at least two"},
		"repeat":             {[]string{"--trace", "hpc2n.csv", "--repeat", "-1"}, "--repeat -1: use 0 to 1000"},
		"scale":              {[]string{"--trace", "hpc2n.csv", "--scale", "65"}, "--scale 65: use 1 to 64"},
		"parallel":           {[]string{"--trace", "hpc2n.csv", "--parallel", "0"}, "--parallel 0: use at least 1"},
		"stray argument":     {[]string{"philly"}, `unexpected argument "philly"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, out, stderr := call(t, c.args...)
			if code != exitUsage || out != "" || !strings.HasPrefix(stderr, "fsim: error: "+c.want) || strings.Count(stderr, "\n") != 2 {
				t.Errorf("status %d, %q, %q; want %q", code, out, stderr, c.want)
			}
		})
	}
}

// TestBadFile: what is wrong with a file is an error of its own, not of the command line.
func TestBadFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.csv")
	if err := os.WriteFile(path, []byte("job_id,submit_s,duration_s,gpus\na,0,-5,1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := call(t, "--trace", path, "--cluster", "hpc2n.cluster.csv")
	if code != exitFailed || stderr != "fsim: error: x.csv:2: duration_s: \"-5\" is not a whole number from 1 to 68719476736\n" {
		t.Errorf("status %d, %q", code, stderr)
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out, err bytes.Buffer
	one.Lock()
	defer one.Unlock()
	code := run(ctx, []string{"fsim", "--trace", filepath.Join(data, "philly.csv")}, &out, &err)
	if code != exitInterrupted || err.String() != "fsim: interrupted\n" || out.Len() != 0 {
		t.Errorf("status %d, %q", code, err.String())
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"compare", "--help"}, {"policies"}, {"--version"}} {
		if code, out, stderr := call(t, args...); code != 0 || out == "" || stderr != "" {
			t.Errorf("%v: status %d, %q, %q", args, code, out, stderr)
		}
	}
	_, out, _ := call(t, "policies")
	for _, want := range []string{"multifactor", "fifo", "vst48-limit", "288 h later"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
}

// TestHistory replays what a cluster wrote of itself.
func TestHistory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	history, nodes := filepath.Join(dir, "jobs.json"), filepath.Join(dir, "nodes.json")
	job := func(id, submitMS, gpus string) string {
		return `{"id":` + id + `,"user":"ann","state":"completed","submit_ms":` + submitMS + `,"eligible_ms":0,"end_ms":9,"attempt":1,
"attempts":[{"start_ms":1000,"end_ms":61000,"nodes":[{"gpu_uuids":[` + gpus + `]}]}],"spec":{"priority":5,"time_limit_s":90}}`
	}
	for path, text := range map[string]string{
		history: `{"header":{},"jobs":[` + job("1", "5000", `"a"`) + `,` + job("2", "6000", `"a","b"`) + `,` + job("3", "7000", ``) + `]}`,
		nodes:   `{"header":{},"nodes":[{"name":"n1","inventory":{"cpus":8,"memory_mib":1,"gpus":[{"uuid":"a","type":"x"},{"uuid":"b","type":"x"}]}}]}`,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	starts := filepath.Join(dir, "starts.csv")
	code, out, stderr := call(t, "--trace", history, "--cluster", nodes, "--schedule", starts)
	if code != 0 || stderr != "fsim: 1 jobs of the history are left out: they have not ended, never ran, or had no GPU\n" {
		t.Fatal(code, stderr)
	}
	if !strings.HasPrefix(out, "jobs: 2 jobs, ") {
		t.Errorf("got %s", out)
	}
	want := "job_id,submit_s,start_s,end_s,gpus,wait_s,preempted,lost_gpu_s\n1,0,0,60,1,0,0,0\n2,1,60,120,2,59,0,0\n"
	if text, err := os.ReadFile(starts); err != nil || string(text) != want {
		t.Errorf("schedule %s, %v", text, err)
	}
}
