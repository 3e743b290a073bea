package host

import (
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// TestLauncherMethods: each method reaches the plugin and its answer comes back checked.
func TestLauncherMethods(t *testing.T) {
	t.Parallel()
	l := NewLauncher(start(t, quickLaunch(t, plugin(t, "launch-lora"))), "lora")
	ctx := t.Context()
	if r, err := l.Validate(ctx, &pluginv1.ValidateRequest{Config: &pluginv1.TrainingConfig{Yaml: []byte("12")}}); err != nil || r.GetWarnings()[0] != "2 bytes" {
		t.Errorf("validate: %v, %v", r, err)
	}
	if r, err := l.Estimate(ctx, &pluginv1.EstimateRequest{}); err != nil || r.GetMemory() != nil {
		t.Errorf("estimate: %v, %v", r, err)
	}
	if r, err := l.Plan(ctx, &pluginv1.PlanRequest{Engine: "trainer"}); err != nil || !slices.Equal(r.GetArgv(), []string{"trainer", "train"}) {
		t.Errorf("plan: %v, %v", r, err)
	}
	if r, err := l.Plan(ctx, &pluginv1.PlanRequest{Config: &pluginv1.TrainingConfig{Yaml: []byte("escape")}, Engine: "x"}); !errors.Is(err, ErrInvalid) || r != nil {
		t.Errorf("a plan that writes outside its directory: %v, %v; want ErrInvalid", r, err)
	}
	if r, err := l.Progress(ctx, &pluginv1.ProgressRequest{Cursor: []byte("c")}); err != nil || string(r.GetCursor()) != "c" {
		t.Errorf("progress: %v, %v", r, err)
	}
	if _, err := l.Classify(ctx, &pluginv1.ClassifyRequest{}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "exit class 99") {
		t.Errorf("a class that there is not: %v, want ErrInvalid", err)
	}
	if r, err := l.Adapt(ctx, &pluginv1.AdaptRequest{}); err != nil || len(r.GetSet()) != 0 {
		t.Errorf("adapt: %v, %v", r, err)
	}
	r, err := l.Checkpoint(ctx, &pluginv1.CheckpointRequest{OutputDir: "/data/out"})
	if err != nil || r.GetCheckpoints()[0].GetPath() != "/data/out/checkpoint-5" {
		t.Errorf("checkpoint: %v, %v", r, err)
	}
}

// TestLauncherFaults: errors say what happened, and the next call finds the launcher at work.
func TestLauncherFaults(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]error{
		"error": ErrRefused, "panic": ErrRefused, "exit": ErrUnavailable, "hang": ErrLate, "spin": ErrLate, "huge": ErrInvalid,
	} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			cfg := quickLaunch(t, plugin(t, "launch-lora"))
			p := start(t, cfg)
			ready(t, p)
			if want == ErrLate {
				p.cfg.CallTimeout = 50 * time.Millisecond
			}
			_, err := tryValidate(t, p, command)
			if !errors.Is(err, want) {
				t.Fatalf("got %v, want %v", err, want)
			}
			p.cfg.CallTimeout = patience
			if got := validate(t, p, "1").GetWarnings(); got[0] != "1 bytes" {
				t.Errorf("the next call answers %q", got)
			}
			if got := p.Status().GetFailures(); got != 1 {
				t.Errorf("%d failures counted, want 1", got)
			}
		})
	}
}

// TestOneUserCannotSwitchItOff: configs that make a launcher answer errors do not open its breaker for everyone.
func TestOneUserCannotSwitchItOff(t *testing.T) {
	t.Parallel()
	p := start(t, quickLaunch(t, plugin(t, "launch-lora")))
	ready(t, p)
	pid := pidOf(t, p)
	for range 10 {
		for _, command := range []string{"panic", "error", "huge"} {
			if _, err := tryValidate(t, p, command); err == nil {
				t.Fatalf("%s is no error", command)
			}
		}
	}
	validate(t, p, "1")
	if pidOf(t, p) != pid {
		t.Error("the launcher was started again")
	}
}

// TestHungLauncherIsReplaced: calls that hang open the breaker, and a fresh process answers after it.
func TestHungLauncherIsReplaced(t *testing.T) {
	t.Parallel()
	cfg := quickLaunch(t, plugin(t, "launch-lora"))
	p := start(t, cfg)
	ready(t, p)
	pid := pidOf(t, p)
	p.cfg.CallTimeout = 30 * time.Millisecond
	var err error
	eventually(t, "it is left alone", func() bool {
		_, err = tryValidate(t, p, "spin")
		return errors.Is(err, ErrUnavailable)
	})
	if !strings.Contains(err.Error(), "left alone") {
		t.Errorf("got %v, want to be told that it is left alone", err)
	}
	eventually(t, "a fresh one answers", func() bool {
		_, err := tryValidate(t, p, "1")
		return err == nil
	})
	if !gone(pid) {
		t.Error("the hung process is still there")
	}
}

// TestConcurrentCalls: one job's slow call does not hold up the others', and there are never too many.
func TestConcurrentCalls(t *testing.T) {
	t.Parallel()
	cfg := quickLaunch(t, plugin(t, "launch-lora"))
	cfg.MaxCalls = 2
	p := start(t, cfg)
	ready(t, p)
	p.cfg.CallTimeout = 5 * time.Second
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := tryValidate(t, p, "hang"); !errors.Is(err, ErrLate) {
			t.Errorf("got %v, want ErrLate", err)
		}
	})
	eventually(t, "the slow call is under way", func() bool { return len(p.calls) == 1 })
	var mostly sync.WaitGroup
	for range 20 {
		mostly.Go(func() {
			if _, err := tryValidate(t, p, "1"); err != nil {
				t.Errorf("beside a slow call: %v", err)
			}
		})
	}
	mostly.Wait()
	wg.Wait()
}

// TestCallsThatEndTogether: a crash or a reload that takes many calls with it is one failure, or none, and not the many that
// would open the breaker.
func TestCallsThatEndTogether(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *Plugin){
		"reload": func(_ *testing.T, p *Plugin) { p.Reload() },
		"crash": func(t *testing.T, p *Plugin) {
			if err := unix.Kill(pidOf(t, p), unix.SIGKILL); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := quickLaunch(t, plugin(t, "launch-lora"))
			cfg.CallTimeout = patience
			// Were it to open, the test would wait for it in vain.
			cfg.Breaker.Open, cfg.Breaker.MaxOpen = time.Hour, time.Hour
			p := start(t, cfg)
			ready(t, p)
			var calls sync.WaitGroup
			for range 10 {
				calls.Go(func() {
					if _, err := tryValidate(t, p, "hang"); !errors.Is(err, ErrUnavailable) {
						t.Errorf("got %v, want ErrUnavailable", err)
					}
				})
			}
			eventually(t, "all calls are under way", func() bool { return len(p.calls) == 10 })
			end(t, p)
			calls.Wait()
			validate(t, p, "1")
		})
	}
}

// TestWords: what a user is shown has no control characters and ends somewhere.
func TestWords(t *testing.T) {
	t.Parallel()
	p := start(t, quickLaunch(t, plugin(t, "launch-lora")))
	got := validate(t, p, "wordy").GetProblems()[0]
	if got.GetField() != "a b" || got.GetProblem() != `\x1b[31mred\u202e` || len(got.GetRemedy()) > maxUserText+len("…") {
		t.Errorf("problem %q, %q, remedy of %d bytes", got.GetField(), got.GetProblem(), len(got.GetRemedy()))
	}
}

func TestRequestsHaveABound(t *testing.T) {
	t.Parallel()
	cfg := quickLaunch(t, plugin(t, "launch-lora"))
	cfg.MaxRequestBytes = 1000
	p := start(t, cfg)
	if _, err := tryValidate(t, p, strings.Repeat("x", 1000)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	validate(t, p, "small")
}

// TestCheckPlan: what a launcher may not plan.
func TestCheckPlan(t *testing.T) {
	t.Parallel()
	file := func(path string) func(*pluginv1.PlanResponse) {
		return func(r *pluginv1.PlanResponse) { r.Files = []*pluginv1.PlannedFile{{Path: path}} }
	}
	variable := func(key, value string) func(*pluginv1.PlanResponse) {
		return func(r *pluginv1.PlanResponse) { r.Env = []*fettlev1.KeyValue{{Key: key, Value: value}} }
	}
	for name, c := range map[string]struct {
		change func(*pluginv1.PlanResponse)
		want   string
	}{
		"good":                      {func(*pluginv1.PlanResponse) {}, ""},
		"good files and variables":  {func(r *pluginv1.PlanResponse) { file("conf/train.yaml")(r); variable("HF_HOME", "/hf")(r) }, ""},
		"refused, so nothing else":  {func(r *pluginv1.PlanResponse) { r.Argv, r.Problems = nil, []*pluginv1.Problem{{Problem: "no"}} }, ""},
		"refused without words":     {func(r *pluginv1.PlanResponse) { r.Problems = []*pluginv1.Problem{{}} }, "without words"},
		"no command":                {func(r *pluginv1.PlanResponse) { r.Argv = nil }, "without a command"},
		"empty command":             {func(r *pluginv1.PlanResponse) { r.Argv = []string{""} }, "without a command"},
		"zero byte in an argument":  {func(r *pluginv1.PlanResponse) { r.Argv = []string{"a", "b\x00c"} }, "zero byte"},
		"argument beyond the limit": {func(r *pluginv1.PlanResponse) { r.Argv = []string{"a", strings.Repeat("x", maxArgBytes+1)} }, "argument of"},
		"too many arguments":        {func(r *pluginv1.PlanResponse) { r.Argv = slices.Repeat([]string{"x"}, maxArgs+1) }, "arguments"},
		"too much in all":           {func(r *pluginv1.PlanResponse) { r.Argv = slices.Repeat([]string{strings.Repeat("x", 100_000)}, 11) }, "at most"},
		"absolute file":             {file("/etc/passwd"), "does not lie"},
		"file above":                {file("../x"), "does not lie"},
		"file above in the middle":  {file("a/../../x"), "does not lie"},
		"unclean file":              {file("a//b"), "does not lie"},
		"the directory itself":      {file("."), "does not lie"},
		"file without a name":       {file(""), "does not lie"},
		"zero byte in a file":       {file("a\x00"), "does not lie"},
		"file twice":                {func(r *pluginv1.PlanResponse) { r.Files = []*pluginv1.PlannedFile{{Path: "a"}, {Path: "a"}} }, "twice"},
		"setuid file":               {func(r *pluginv1.PlanResponse) { r.Files = []*pluginv1.PlannedFile{{Path: "a", Mode: 0o4755}} }, "mode 4755"},
		"variable of the node":      {variable("FETTLE_JOB_ID", "1"), "node's to set"},
		"GPUs of others":            {variable("CUDA_VISIBLE_DEVICES", "7"), "node's to set"},
		"variable without a name":   {variable("", "1"), "variable name"},
		"variable with =":           {variable("A=B", "1"), "variable name"},
		"zero byte in a value":      {variable("A", "\x00"), "zero byte"},
		"relative progress file":    {func(r *pluginv1.PlanResponse) { r.ProgressFile = "log" }, "progress_file"},
		"relative output":           {func(r *pluginv1.PlanResponse) { r.OutputDir = "out" }, "output_dir"},
		"relative checkpoint":       {func(r *pluginv1.PlanResponse) { r.ResumeFrom = "checkpoint-1" }, "resume_from"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &pluginv1.PlanResponse{Argv: []string{"llamafactory-cli", "train"}, OutputDir: "/out", ProgressFile: "/out/log"}
			c.change(r)
			expectInvalid(t, checkPlan(nil, r), c.want)
		})
	}
}

func expectInvalid(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want)):
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestCheckOtherAnswers(t *testing.T) {
	t.Parallel()
	out := &pluginv1.CheckpointRequest{OutputDir: "/out"}
	checkpoint := func(path string, step int64) error {
		return checkCheckpoint(out, &pluginv1.CheckpointResponse{Checkpoints: []*pluginv1.CheckpointInfo{{Path: path, Step: step}}})
	}
	change := func(key, value string) error {
		return checkAdapt(nil, &pluginv1.AdaptResponse{Set: []*fettlev1.KeyValue{{Key: key, Value: value}}})
	}
	progress := func(p *fettlev1.Progress) error { return checkProgress(nil, &pluginv1.ProgressResponse{Progress: p}) }
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"checkpoint inside":        {checkpoint("/out/checkpoint-1", 1), ""},
		"checkpoint outside":       {checkpoint("/other/checkpoint-1", 1), "does not lie"},
		"checkpoint through ..":    {checkpoint("/out/../etc", 1), "does not lie"},
		"checkpoint of no step":    {checkpoint("/out/checkpoint-1", -1), "step -1"},
		"relative checkpoint":      {checkpoint("checkpoint-1", 1), "does not lie"},
		"changed key":              {change("per_device_train_batch_size", "1"), ""},
		"changed key, no name":     {change("", "1"), "change of key"},
		"changed key, two lines":   {change("a", "1\nb: 2"), "change of key"},
		"progress":                 {progress(&fettlev1.Progress{Step: 5, TotalSteps: 3, RemainingS: -1}), ""},
		"no progress yet":          {progress(nil), ""},
		"negative step":            {progress(&fettlev1.Progress{Step: -5}), "step -5"},
		"negative remaining time":  {progress(&fettlev1.Progress{RemainingS: -2}), "-2 s left"},
		"long cursor":              {checkProgress(nil, &pluginv1.ProgressResponse{Cursor: make([]byte, maxCursor+1)}), "cursor"},
		"class of a done attempt":  {checkClassify(nil, &pluginv1.ClassifyResponse{Class: 1}), ""},
		"class that is not known":  {checkClassify(nil, &pluginv1.ClassifyResponse{Class: 5}), "exit class 5"},
		"estimate":                 {checkEstimate(nil, &pluginv1.EstimateResponse{Memory: &fettlev1.MemoryEstimate{NeedMib: 5}}), ""},
		"negative estimate":        {checkEstimate(nil, &pluginv1.EstimateResponse{Memory: &fettlev1.MemoryEstimate{NeedMib: -5}}), "-5 MiB"},
		"no estimate":              {checkEstimate(nil, &pluginv1.EstimateResponse{}), ""},
		"too many checkpoints":     {checkCheckpoint(out, &pluginv1.CheckpointResponse{Checkpoints: make([]*pluginv1.CheckpointInfo, maxCheckpoints+1)}), "checkpoints"},
		"too many changes":         {checkAdapt(nil, &pluginv1.AdaptResponse{Set: make([]*fettlev1.KeyValue, maxEnv+1)}), "keys changed"},
		"warnings are never wrong": {checkValidate(nil, &pluginv1.ValidateResponse{Warnings: make([]string, 5000)}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			expectInvalid(t, c.err, c.want)
		})
	}
}

// launchers makes a directory of plugins.
func launchers(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		if err := os.Link(binaries.test, dir+"/fettle-"+name); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDiscover(t *testing.T) {
	t.Parallel()
	dir := launchers(t, "launch-lora", "sched-fifo", "preempt-lostwork", "preempt-", "ctld", "launch-", "launch-UPPER", "launch-not-there")
	err := errors.Join(
		os.WriteFile(dir+"/fettle-launch-readme", []byte("text"), 0o644),
		os.Mkdir(dir+"/fettle-launch-dir", 0o755),
		os.Remove(dir+"/fettle-launch-not-there"),
		os.Symlink("/nowhere", dir+"/fettle-launch-not-there"),
		os.Symlink("fettle-launch-lora", dir+"/fettle-launch-qlora"))
	if err != nil {
		t.Fatal(err)
	}
	found, err := Discover(dir)
	want := []Found{
		{"launch-lora", dir + "/fettle-launch-lora", pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER, "lora"},
		{"launch-qlora", dir + "/fettle-launch-qlora", pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER, "qlora"},
		{"preempt-lostwork", dir + "/fettle-preempt-lostwork", pluginv1.PluginKind_PLUGIN_KIND_PREEMPTION, ""},
		{"sched-fifo", dir + "/fettle-sched-fifo", pluginv1.PluginKind_PLUGIN_KIND_SCHEDULING, ""},
	}
	if err != nil || !slices.Equal(found, want) {
		t.Errorf("found %v, %v; want %v", found, err, want)
	}
	if found, err := Discover(dir + "/none"); err != nil || len(found) != 0 {
		t.Errorf("in no directory: %v, %v", found, err)
	}
	if _, err := Discover(dir + "/fettle-ctld"); err == nil {
		t.Error("a file passes for a directory")
	}
}

func registry(t *testing.T, dir string, eager bool) *Registry {
	t.Helper()
	defaults := quickLaunch(t, "/replaced")
	r, err := NewRegistry(RegistryConfig{Dir: dir, Defaults: defaults, Eager: eager})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func states(r *Registry) (out []string) {
	for _, st := range r.Status() {
		out = append(out, st.GetName()+" "+st.GetState())
	}
	return out
}

// TestRegistry: launchers are found by method, started when they are needed, and kept.
func TestRegistry(t *testing.T) {
	t.Parallel()
	dir := launchers(t, "launch-lora", "launch-full", "sched-fifo")
	r := registry(t, dir, false)
	if got := r.Methods(); !slices.Equal(got, []string{"full", "lora"}) {
		t.Errorf("methods %q", got)
	}
	if got := states(r); !slices.Equal(got, []string{"launch-full idle", "launch-lora idle"}) {
		t.Errorf("states %q before the first call", got)
	}
	l, err := r.Launcher("lora")
	if err != nil || l.Method() != "lora" {
		t.Fatal(l, err)
	}
	validate(t, l.Plugin(), "1")
	pid := pidOf(t, l.Plugin())
	validate(t, l.Plugin(), "1")
	if got := states(r); !slices.Equal(got, []string{"launch-full idle", "launch-lora running"}) || pidOf(t, l.Plugin()) != pid {
		t.Errorf("states %q after two calls to lora, process %d then %d", got, pid, pidOf(t, l.Plugin()))
	}
	_, err = r.Launcher("loraa")
	if !errors.Is(err, ErrUnknownMethod) || !strings.HasSuffix(err.Error(), `"loraa"; use one of full, lora`) {
		t.Errorf("an unknown method answers %v", err)
	}
	if r.Plugin("launch-lora") != l.Plugin() || r.Plugin("launch-none") != nil {
		t.Error("plugins are not found by name")
	}

	if err := errors.Join(os.Link(binaries.test, dir+"/fettle-launch-dpo"), os.Remove(dir+"/fettle-launch-lora"), r.Rescan()); err != nil {
		t.Fatal(err)
	}
	if got := r.Methods(); !slices.Equal(got, []string{"dpo", "full"}) || !gone(pid) {
		t.Errorf("methods %q after one came and one went (gone: %v)", got, gone(pid))
	}
	r.Close()
	if err := r.Rescan(); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed registry rescans: %v", err)
	}
}

func TestEagerRegistry(t *testing.T) {
	t.Parallel()
	r := registry(t, launchers(t, "launch-lora", "launch-full"), true)
	eventually(t, "all run", func() bool {
		return slices.Equal(states(r), []string{"launch-full running", "launch-lora running"})
	})
}

func TestEmptyRegistry(t *testing.T) {
	t.Parallel()
	r := registry(t, "", true)
	if _, err := r.Launcher("lora"); !errors.Is(err, ErrUnknownMethod) || !strings.Contains(err.Error(), "no launcher plugin is installed") {
		t.Errorf("got %v", err)
	}
	bad := RegistryConfig{Dir: launchers(t, "launch-lora"), Defaults: Config{SocketDir: "relative"}}
	if _, err := NewRegistry(bad); err == nil || !strings.Contains(err.Error(), "plugin launch-lora: socket_dir") {
		t.Errorf("a bad configuration: %v", err)
	}
}
