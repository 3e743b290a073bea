package launch_test

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fettle-hpc/fettle/plugins/host"
	"github.com/fettle-hpc/fettle/plugins/launch"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// TestBinaries takes each shipped launcher through an attempt's life as a host does, which also checks every answer.
func TestBinaries(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "../cmd/fettle-launch-lora", "../cmd/fettle-launch-qlora", "../cmd/fettle-launch-full")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for method, extra := range map[string]string{"lora": "lora_rank: 4\n", "qlora": "quantization_bit: 4\n", "full": "finetuning_type: full\n"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			sockets, err := os.MkdirTemp("", "fl")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(sockets) })
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			t.Cleanup(cancel)
			p, err := host.Start(ctx, host.Config{
				Path: filepath.Join(bin, "fettle-launch-"+method), Kind: pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER, Method: method,
				SocketDir: filepath.Join(sockets, "s"), StartTimeout: 30 * time.Second, CallTimeout: 30 * time.Second,
				Settings: map[string]string{"check_files": "auto"}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Close)
			life(ctx, t, host.NewLauncher(p, method), extra)
		})
	}
}

func life(ctx context.Context, t *testing.T, l *host.Launcher, extra string) {
	t.Helper()
	root := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("model/config.json", `{"model_type":"qwen3","hidden_size":1024,"intermediate_size":3072,"num_hidden_layers":28,"num_attention_heads":16,"num_key_value_heads":8,"head_dim":128,"vocab_size":151936,"tie_word_embeddings":true}`)
	write("data.json", `[{"instruction":"a","output":"b"}]`)
	yaml := "model_name_or_path: ./model\ndata_path: data.json\noutput_dir: out\nlearning_rate: 1e-4\n" + extra
	tc := &pluginv1.TrainingConfig{Yaml: []byte(yaml), Path: write("train.yaml", yaml), WorkDir: root, Nodes: 1, GpusPerNode: 1}

	bad := &pluginv1.TrainingConfig{Yaml: []byte("lora_rnk: 8\n" + yaml), Path: tc.Path, Nodes: 1}
	checked, err := l.Validate(ctx, &pluginv1.ValidateRequest{Config: bad})
	if err != nil || len(checked.Problems) != 1 || checked.Problems[0].Line != 1 || checked.Problems[0].Remedy != "did you mean lora_rank?" {
		t.Errorf("a slip: %v %v", checked, err)
	}
	checked, err = l.Validate(ctx, &pluginv1.ValidateRequest{Config: tc})
	if err != nil || len(checked.Problems) > 0 || !strings.Contains(string(checked.Rendered), "model_name_or_path: "+root+"/model\n") {
		t.Fatalf("validate: %v %v", checked, err)
	}
	need, err := l.Estimate(ctx, &pluginv1.EstimateRequest{Config: tc})
	if err != nil || need.GetMemory().GetNeedMib() < 2000 {
		t.Errorf("estimate: %v %v", need, err)
	}
	engine := write("bin/llamafactory-cli", "#!/bin/sh\n")
	dir := filepath.Join(root, "attempt")
	plan, err := l.Plan(ctx, &pluginv1.PlanRequest{Config: tc, JobId: 1, Attempt: 1, AttemptDir: dir, Engine: engine, Cpus: 2, Env: []*fettlev1.KeyValue{{Key: "PATH", Value: "/usr/bin"}}})
	if err != nil || len(plan.Problems) > 0 || plan.Argv[0] != engine || plan.OutputDir != filepath.Join(root, "out") {
		t.Fatalf("plan: %v %v", plan, err)
	}
	for _, f := range plan.Files {
		write(filepath.Join("attempt", f.Path), string(f.Content))
	}
	p, err := l.Progress(ctx, &pluginv1.ProgressRequest{Attempt: 1, NowMs: 2000, Data: []byte(`{"current_steps": 10, "total_steps": 10, "loss": 1.5, "lr": 0.1, "epoch": 1.0, "elapsed_time": "0:00:01"}` + "\n")})
	if err != nil || p.GetProgress().GetStep() != 10 || p.GetProgress().GetLoss() != 1.5 {
		t.Errorf("progress: %v %v", p, err)
	}
	end, err := l.Classify(ctx, &pluginv1.ClassifyRequest{Attempt: 1, Exit: &fettlev1.Exit{}, Progress: p.GetProgress(), TrainerState: []byte(`{"global_step":10,"max_steps":10}`), OutputDir: plan.OutputDir, AttemptDir: dir})
	if err != nil || end.Class != fettlev1.ExitClass_EXIT_CLASS_DONE {
		t.Errorf("classify: %v %v", end, err)
	}
	less, err := l.Adapt(ctx, &pluginv1.AdaptRequest{Config: tc, Class: fettlev1.ExitClass_EXIT_CLASS_OUT_OF_MEMORY, Failures: 1})
	if err != nil || len(less.Set) != 2 {
		t.Errorf("adapt: %v %v", less, err)
	}
	list, err := l.Checkpoint(ctx, &pluginv1.CheckpointRequest{OutputDir: plan.OutputDir})
	if err != nil || len(list.Checkpoints) != 0 {
		t.Errorf("checkpoint: %v %v", list, err)
	}
}

// FuzzPlan checks that no config makes a launcher answer what a host would not carry out.
func FuzzPlan(f *testing.F) {
	for _, s := range []string{
		"model_name_or_path: ./model\ndata_path: data.json\n", "model_name_or_path: a/b\ndataset: x\ndataset_dir: ONLINE\noutput_dir: /o\n",
		"model_name_or_path: a/b\ndata_path: [a.json, ~/b.json]\nfinetuning_type: full\ndeepspeed: {zero_optimization: {stage: 3}}\n",
		"model_name_or_path: a\ndata_path: /\noutput_dir: ../../..\nresume_from_checkpoint: true\nquantization_bit: 4\n",
	} {
		f.Add([]byte(s), uint32(1), uint32(1))
	}
	root := f.TempDir()
	for name, text := range map[string]string{"data.json": `[{"instruction":"a","output":"b"}]`, "model/config.json": `{"model_type":"qwen3"}`} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			f.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	ctx := context.Background()
	f.Fuzz(func(t *testing.T, yaml []byte, gpus, attempt uint32) {
		for _, method := range launch.Methods {
			l, err := launch.New(launch.Config{Method: method, Accelerator: func() bool { return gpus%2 == 0 }})
			if err != nil {
				t.Fatal(err)
			}
			tc := &pluginv1.TrainingConfig{Yaml: yaml, Path: filepath.Join(root, "train.yaml"), WorkDir: root, Nodes: 1, GpusPerNode: gpus % 9}
			if _, err := l.Validate(ctx, &pluginv1.ValidateRequest{Config: tc}); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Estimate(ctx, &pluginv1.EstimateRequest{Config: tc}); err != nil {
				t.Fatal(err)
			}
			p, err := l.Plan(ctx, &pluginv1.PlanRequest{Config: tc, JobId: 1, Attempt: attempt, AttemptDir: "/attempt"})
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Problems) > 0 {
				continue
			}
			for _, path := range []string{p.OutputDir, p.ProgressFile} {
				if !filepath.IsAbs(path) || len(path) > 4096 || strings.ContainsAny(path, "\n\x00") {
					t.Fatalf("path %q", path)
				}
			}
			for _, file := range p.Files {
				if !filepath.IsLocal(file.Path) || len(file.Content) == 0 {
					t.Fatalf("file %v", file)
				}
			}
		}
	})
}
