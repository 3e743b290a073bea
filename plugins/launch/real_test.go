package launch

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// The tests in this file run the real trainer. They want
//
//	FETTLE_TEST_ENGINE  the path of llamafactory-cli
//	FETTLE_TEST_MODEL   the directory of a tiny model (packaging/quickstart/tiny_model.py makes one)
//
// and are skipped without.
type trainer struct {
	t             *testing.T
	l             *Launcher
	engine, model string
	root          string
}

func newTrainer(t *testing.T, method string) *trainer {
	t.Helper()
	tr := &trainer{t: t, engine: os.Getenv("FETTLE_TEST_ENGINE"), model: os.Getenv("FETTLE_TEST_MODEL"), root: t.TempDir()}
	if tr.engine == "" || tr.model == "" {
		t.Skip("FETTLE_TEST_ENGINE and FETTLE_TEST_MODEL are not set")
	}
	l, err := New(Config{Method: method, Accelerator: func() bool { return false }})
	if err != nil {
		t.Fatal(err)
	}
	tr.l = l
	var data strings.Builder
	for range 40 {
		data.WriteString(`{"instruction":"What holds the pump?","output":"Four bolts of the size M8."}` + "\n")
	}
	tr.write("data.jsonl", data.String())
	return tr
}

func (tr *trainer) write(name, text string) {
	tr.t.Helper()
	path := filepath.Join(tr.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tr.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr *trainer) request(yaml string, attempt, gpus uint32, dir string) *pluginv1.PlanRequest {
	yaml = "model_name_or_path: " + tr.model + "\n" + yaml
	tr.write("train.yaml", yaml)
	return &pluginv1.PlanRequest{
		Config: &pluginv1.TrainingConfig{Yaml: []byte(yaml), Path: filepath.Join(tr.root, "train.yaml"), WorkDir: tr.root, Nodes: 1, GpusPerNode: gpus},
		JobId:  9, Attempt: attempt, AttemptDir: dir, MasterPort: 29777, Cpus: 1, Engine: tr.engine,
		Env: []*fettlev1.KeyValue{{Key: "PATH", Value: os.Getenv("PATH")}},
	}
}

// outcome is what a node would know of an attempt.
type outcome struct {
	plan     *pluginv1.PlanResponse
	progress *fettlev1.Progress
	class    fettlev1.ExitClass
	detail   string
	log      string
}

// run carries out one attempt as a node does. stop, when not nil, is asked at each look at the progress whether to kill.
func (tr *trainer) run(yaml string, attempt uint32, gpus uint32, stop func(*fettlev1.Progress) bool) outcome {
	t := tr.t
	t.Helper()
	ctx := context.Background()
	dir, err := os.MkdirTemp(tr.root, "attempt")
	if err != nil {
		t.Fatal(err)
	}
	req := tr.request(yaml, attempt, gpus, dir)
	checked, err := tr.l.Validate(ctx, &pluginv1.ValidateRequest{Config: req.Config})
	if err != nil || len(checked.Problems) > 0 {
		t.Fatalf("validate: %v %s", err, texts(checked.GetProblems(), tr.root))
	}
	plan, err := tr.l.Plan(ctx, req)
	if err != nil || len(plan.Problems) > 0 {
		t.Fatalf("plan: %v %s", err, texts(plan.GetProblems(), tr.root))
	}
	for _, f := range plan.Files {
		if err := os.WriteFile(filepath.Join(dir, f.Path), f.Content, os.FileMode(f.Mode)); err != nil {
			t.Fatal(err)
		}
	}
	logFile, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer logFile.Close()
	cmd := exec.Command(plan.Argv[0], plan.Argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = tr.root, logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = append(os.Environ(), "CUDA_VISIBLE_DEVICES=")
	for _, kv := range plan.Env {
		cmd.Env = append(cmd.Env, kv.Key+"="+kv.Value)
	}
	began := time.Now().UnixMilli()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	out := outcome{plan: plan}
	offset, cursor := plan.ProgressOffset, []byte(nil)
	look := func() {
		data := readFrom(plan.ProgressFile, &offset)
		p, err := tr.l.Progress(ctx, &pluginv1.ProgressRequest{Attempt: attempt, Data: data, NowMs: time.Now().UnixMilli(), AttemptStartMs: began, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		out.progress, cursor = p.Progress, p.Cursor
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-ended:
			running = false
		case <-tick.C:
			look()
			if stop != nil && stop(out.progress) {
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
				<-ended
				running = false
			}
		}
	}
	look()
	log, err := os.ReadFile(logFile.Name())
	if err != nil {
		t.Fatal(err)
	}
	out.log = string(log)
	exit := &fettlev1.Exit{Code: int32(cmd.ProcessState.ExitCode())}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		exit.Signal = int32(ws.Signal())
	}
	verdict, err := tr.l.Classify(ctx, &pluginv1.ClassifyRequest{
		Attempt: attempt, Exit: exit, LogTail: log[max(0, len(log)-256<<10):], Progress: out.progress, OutputDir: plan.OutputDir, AttemptDir: dir,
	})
	if err != nil {
		t.Fatal(err)
	}
	out.class, out.detail = verdict.Class, verdict.Detail
	t.Logf("attempt %d: exit %v, %v %q, progress %v, resumed from %q", attempt, exit, out.class, out.detail, out.progress, plan.ResumeFrom)
	if t.Failed() || testing.Verbose() {
		t.Logf("log:\n%s", log[max(0, len(log)-3000):])
	}
	return out
}

// readFrom reads what a file holds past an offset, or all of it when it became shorter.
func readFrom(path string, offset *int64) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() < *offset {
		*offset = 0
	}
	if _, err := f.Seek(*offset, io.SeekStart); err != nil {
		return nil
	}
	var b bytes.Buffer
	n, _ := b.ReadFrom(f)
	*offset += n
	return b.Bytes()
}

const quick = "per_device_train_batch_size: 4\ngradient_accumulation_steps: 1\nlearning_rate: 5e-3\nlogging_steps: 2\ncutoff_len: 128\n"

func TestRealLoRA(t *testing.T) {
	tr := newTrainer(t, "lora")
	yaml := "data_path: data.jsonl\nlora_rank: 8\nfp16: true\noutput_dir: out\nmax_steps: 40\nsave_steps: 10\n" + quick
	out := tr.run(yaml, 1, 0, nil)
	if out.class != fettlev1.ExitClass_EXIT_CLASS_DONE || out.detail != "trained 40 of 40 steps" {
		t.Fatalf("%v %q\n%s", out.class, out.detail, out.log)
	}
	if p := out.progress; p.GetStep() != 40 || p.GetTotalSteps() != 40 || p.Loss == nil || p.GetRemainingS() != 0 {
		t.Errorf("progress %v", p)
	}
	if _, err := os.Stat(filepath.Join(tr.root, "out/adapter_model.safetensors")); err != nil {
		t.Errorf("no adapter: %v", err)
	}
	list, err := tr.l.Checkpoint(context.Background(), &pluginv1.CheckpointRequest{OutputDir: out.plan.OutputDir})
	if err != nil || len(list.Checkpoints) != 2 || !list.Checkpoints[0].Complete || list.Checkpoints[0].Step != 40 {
		t.Errorf("checkpoints %v %v", list, err)
	}
	// The same again has nothing to do, and is refused before it writes over the results.
	again, err := tr.l.Plan(context.Background(), tr.request(yaml, 1, 0, tr.root))
	if err != nil || !strings.Contains(texts(again.Problems, tr.root), "already holds a finished run of 40 steps") {
		t.Errorf("run again: %v %s", err, texts(again.GetProblems(), tr.root))
	}
}

func TestRealResume(t *testing.T) {
	tr := newTrainer(t, "full")
	yaml := "data_path: data.jsonl\nfinetuning_type: full\nbf16: true\noutput_dir: out\nmax_steps: 400\nsave_steps: 20\n" + quick
	out := tr.run(yaml, 1, 0, func(p *fettlev1.Progress) bool { return p.GetStep() >= 60 })
	if out.class != fettlev1.ExitClass_EXIT_CLASS_TRANSIENT {
		t.Fatalf("killed: %v %q", out.class, out.detail)
	}
	yaml = strings.Replace(yaml, "400", "120", 1)
	out = tr.run(yaml, 2, 0, nil)
	if out.class != fettlev1.ExitClass_EXIT_CLASS_DONE || !strings.Contains(out.plan.ResumeFrom, "checkpoint-") {
		t.Errorf("resumed: %v %q from %q", out.class, out.detail, out.plan.ResumeFrom)
	}
}

func TestRealTwoProcesses(t *testing.T) {
	tr := newTrainer(t, "lora")
	out := tr.run("data_path: data.jsonl\nlora_rank: 8\noutput_dir: out\nmax_steps: 8\n"+quick, 1, 2, nil)
	if out.class != fettlev1.ExitClass_EXIT_CLASS_DONE || !strings.Contains(out.log, "world size: 2") {
		t.Errorf("%v %q\n%s", out.class, out.detail, out.log)
	}
}

func TestRealFailures(t *testing.T) {
	tr := newTrainer(t, "lora")
	out := tr.run("data_path: data.jsonl\nlora_rank: 8\nlora_target: no_such_layer\noutput_dir: out\nmax_steps: 4\n"+quick, 1, 0, nil)
	if out.class != fettlev1.ExitClass_EXIT_CLASS_PERMANENT || !strings.Contains(out.detail, "no_such_layer") {
		t.Errorf("%v %q", out.class, out.detail)
	}
	// The same from two ranks, through torchrun.
	out = tr.run("data_path: data.jsonl\nlora_rank: 8\nlora_target: no_such_layer\noutput_dir: out\nmax_steps: 4\n"+quick, 1, 2, nil)
	if out.class != fettlev1.ExitClass_EXIT_CLASS_PERMANENT || !strings.Contains(out.detail, "no_such_layer") {
		t.Errorf("two ranks: %v %q\n%s", out.class, out.detail, out.log)
	}
}

func TestRealQLoRA(t *testing.T) {
	tr := newTrainer(t, "qlora")
	out := tr.run("data_path: data.jsonl\nlora_rank: 8\nload_in_4bit: true\noutput_dir: out\nmax_steps: 8\n"+quick, 1, 0, nil)
	if out.class != fettlev1.ExitClass_EXIT_CLASS_DONE {
		t.Errorf("%v %q\n%s", out.class, out.detail, out.log)
	}
}
