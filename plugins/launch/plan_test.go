package launch

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// article is the short form, all of it.
const article = `model_name_or_path: ../models/tiny
data_path: data.json
output_dir: ./out
lora_rank: 8
per_device_train_batch_size: 4
gradient_accumulation_steps: 8
learning_rate: 1e-4
fp16: true
`

// shipped is an example as LLaMA-Factory ships it, comments and all.
const shipped = `### model
model_name_or_path: Qwen/Qwen3-4B-Instruct-2507
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all

### dataset
dataset: identity
template: qwen3_nothink
cutoff_len: 2048
max_samples: 1000
preprocessing_num_workers: 16
dataloader_num_workers: 4

### output
output_dir: saves/qwen3-4b/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none  # choices: [none, wandb, tensorboard, swanlab, mlflow]

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
`

// show writes a plan for a golden file.
func show(p *pluginv1.PlanResponse, root string) string {
	var b strings.Builder
	for _, problem := range p.GetProblems() {
		fmt.Fprintln(&b, "problem:", problem)
	}
	fmt.Fprintf(&b, "argv: %s\n", strings.Join(p.GetArgv(), " "))
	for _, kv := range p.GetEnv() {
		fmt.Fprintf(&b, "env: %s=%s\n", kv.GetKey(), kv.GetValue())
	}
	fmt.Fprintf(&b, "resume_from: %s\nprogress_file: %s (from %d)\noutput_dir: %s\n", p.GetResumeFrom(), p.GetProgressFile(), p.GetProgressOffset(), p.GetOutputDir())
	for _, n := range p.GetNotes() {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	for _, f := range p.GetFiles() {
		fmt.Fprintf(&b, "--- %s %o\n%s", f.GetPath(), f.GetMode(), f.GetContent())
	}
	return strings.ReplaceAll(b.String(), root, "ROOT")
}

func TestPlanGolden(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, method, yaml string
		set                []string
		prepare            func(*site)
		change             func(*pluginv1.PlanRequest)
		attempt            uint32
		noGPU              bool
	}{
		{name: "article", method: "lora", yaml: article},
		{name: "article-cpu", method: "lora", yaml: article, change: func(r *pluginv1.PlanRequest) { r.Config.GpusPerNode = 0 }},
		{name: "article-declared-gpus", method: "lora", yaml: article, noGPU: true, change: func(r *pluginv1.PlanRequest) { r.Config.GpusPerNode = 2 }},
		{name: "article-qlora", method: "qlora", yaml: article + "load_in_4bit: true\n"},
		{name: "shipped", method: "lora", yaml: shipped},
		{name: "shipped-retry", method: "lora", yaml: shipped, attempt: 2, prepare: func(s *site) {
			s.checkpoint("configs/saves/qwen3-4b/lora/sft", 500)
			s.checkpoint("configs/saves/qwen3-4b/lora/sft", 1000)
			if err := os.Remove(filepath.Join(s.root, "configs/saves/qwen3-4b/lora/sft/checkpoint-1000/optimizer.pt")); err != nil {
				s.t.Fatal(err)
			}
			s.write("configs/saves/qwen3-4b/lora/sft/trainer_log.jsonl", strings.Repeat("x", 1234))
		}},
		{name: "two-nodes", method: "full", yaml: good + "finetuning_type: full\ndeepspeed: z3.json\nbf16: true\noutput_dir: ROOT/out\n", change: func(r *pluginv1.PlanRequest) {
			r.Config.Nodes, r.Config.GpusPerNode, r.Rank, r.Cpus = 2, 8, 1, 64
		}},
		{name: "overrides", method: "lora", yaml: shipped, set: []string{"output_dir=results", "model_name_or_path=ROOT/models/tiny", "dataset=", "data_path=extra.json", "max_steps=50", "bf16="}},
		{name: "pairs", method: "lora", yaml: "model_name_or_path: ../models/tiny\ndata_path: pairs.json\nstage: dpo\npref_loss: sigmoid\nlogging_steps: 500\nsave_total_limit: 1\nsave_only_model: true\n"},
		{name: "text", method: "full", yaml: "model_name_or_path: ../models/tiny\ndata_path: text.txt\nfinetuning_type: freeze\nfreeze_trainable_layers: 1\n"},
		{name: "evaluates", method: "lora", yaml: good + "val_size: 0.1\neval_strategy: steps\nload_best_model_at_end: true\nearly_stopping_steps: 3\nlogging_strategy: epoch\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			if tt.prepare != nil {
				tt.prepare(s)
			}
			req := s.plan(s.config(tt.yaml, tt.set...), max(tt.attempt, 1))
			if tt.change != nil {
				tt.change(req)
			}
			l, err := New(Config{Method: tt.method, Accelerator: func() bool { return !tt.noGPU }})
			if err != nil {
				t.Fatal(err)
			}
			p, err := l.Plan(context.Background(), req)
			if err != nil {
				t.Fatal(err)
			}
			got := show(p, s.root)
			golden := filepath.Join("testdata", "plan", tt.name+".golden")
			if *update {
				if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("plan differs from %s (go test -update writes it anew):\n%s", golden, got)
			}
		})
	}
}

// TestPlanWritesNothing checks that a plan leaves the user's files and the attempt's directory alone.
func TestPlanWritesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	req := s.plan(s.config(article), 1)
	before := listing(t, s.root)
	if _, err := launcher(t, "lora").Plan(context.Background(), req); err != nil {
		t.Fatal(err)
	}
	if after := listing(t, s.root); !slices.Equal(before, after) {
		t.Errorf("files before %v, after %v", before, after)
	}
}

func listing(t *testing.T, root string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil {
			info, _ := d.Info()
			files = append(files, fmt.Sprintf("%s %d %s", path, info.Size(), info.ModTime()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestPlanStart(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		yaml    string
		attempt uint32
		leave   func(*site)
		// resume is relative to ROOT/configs/out.
		resume    string
		overwrite string
		problem   string
	}{
		{name: "fresh", attempt: 1, overwrite: "false"},
		{name: "goes on with an earlier run's checkpoints", attempt: 1, leave: func(s *site) { s.checkpoint("configs/out", 10) }, resume: "checkpoint-10", overwrite: "false"},
		{name: "overwrites as told", yaml: "overwrite_output_dir: true\n", attempt: 1, leave: func(s *site) { s.checkpoint("configs/out", 10) }, overwrite: "true"},
		{name: "does not overwrite its own checkpoints", yaml: "overwrite_output_dir: true\n", attempt: 2, leave: func(s *site) { s.checkpoint("configs/out", 10) }, resume: "checkpoint-10", overwrite: "false"},
		{name: "newest whole one", attempt: 3, leave: func(s *site) {
			s.checkpoint("configs/out", 90)
			s.checkpoint("configs/out", 100)
			s.write("configs/out/checkpoint-110/rng_state_1.pth", "x")
		}, resume: "checkpoint-100", overwrite: "false"},
		{name: "only a torn one", attempt: 2, leave: func(s *site) { s.write("configs/out/checkpoint-5/rng_state_1.pth", "x") }, overwrite: "true"},
		{name: "only a torn one of an earlier run", attempt: 1, leave: func(s *site) { s.write("configs/out/checkpoint-5/rng_state_1.pth", "x") }, overwrite: "true"},
		{name: "retry before the first checkpoint", attempt: 2, leave: func(s *site) { s.write("configs/out/trainer_log.jsonl", "x") }, overwrite: "false"},
		{name: "finished weights in the way", attempt: 1, leave: func(s *site) { s.write("configs/out/adapter_model.safetensors", "x") },
			problem: "line 3: output_dir: ROOT/configs/out already holds a trained model (adapter_model.safetensors) and no checkpoint to go on from; choose another, or set overwrite_output_dir: true"},
		{name: "finished weights to overwrite", yaml: "overwrite_output_dir: true\n", attempt: 1, leave: func(s *site) { s.write("configs/out/adapter_model.safetensors", "x") }, overwrite: "true"},
		{name: "finished weights of its own", attempt: 2, leave: func(s *site) { s.write("configs/out/adapter_model.safetensors", "x") }, overwrite: "true"},
		{name: "from where the user says", yaml: "resume_from_checkpoint: old/checkpoint-7\n", attempt: 1, leave: func(s *site) {
			s.checkpoint("configs/old", 7)
			s.checkpoint("configs/out", 3)
		}, resume: "../old/checkpoint-7", overwrite: "false"},
		{name: "then from its own", yaml: "resume_from_checkpoint: old/checkpoint-7\n", attempt: 2, leave: func(s *site) {
			s.checkpoint("configs/old", 7)
			s.checkpoint("configs/out", 9)
		}, resume: "checkpoint-9", overwrite: "false"},
		{name: "from the user's again when there is no own", yaml: "resume_from_checkpoint: old/checkpoint-7\n", attempt: 2, leave: func(s *site) { s.checkpoint("configs/old", 7) }, resume: "../old/checkpoint-7", overwrite: "false"},
		{name: "from a torn one that the user names", yaml: "resume_from_checkpoint: old/checkpoint-7\n", attempt: 1, leave: func(s *site) {
			s.checkpoint("configs/old", 7)
			s.write("configs/old/checkpoint-7/optimizer.pt", "")
		}, problem: "line 4: resume_from_checkpoint: ROOT/configs/old/checkpoint-7 is not complete: optimizer.pt is empty; give a complete checkpoint-N directory"},
		{name: "from nowhere", yaml: "resume_from_checkpoint: old\n", attempt: 1, problem: "line 4: resume_from_checkpoint: ROOT/configs/old does not exist; give a complete checkpoint-N directory"},
		{name: "a finished run in the way", attempt: 1, leave: func(s *site) { s.checkpoint("configs/out", 100) },
			problem: "line 3: output_dir: ROOT/configs/out already holds a finished run of 100 steps; choose another, ask for more steps or epochs, or set overwrite_output_dir: true"},
		{name: "a finished run, as many steps", yaml: "max_steps: 100\n", attempt: 1, leave: func(s *site) { s.checkpoint("configs/out", 100) },
			problem: "line 3: output_dir: ROOT/configs/out already holds a finished run of 100 steps; choose another, ask for more steps or epochs, or set overwrite_output_dir: true"},
		{name: "a finished run to go on with", yaml: "max_steps: 200\n", attempt: 1, leave: func(s *site) { s.checkpoint("configs/out", 100) }, resume: "checkpoint-100", overwrite: "false"},
		{name: "more epochs than the finished run", yaml: "num_train_epochs: 5\n", attempt: 1, leave: func(s *site) { s.checkpoint("configs/out", 100) }, resume: "checkpoint-100", overwrite: "false"},
		{name: "its own run, finished but for the end", attempt: 2, leave: func(s *site) { s.checkpoint("configs/out", 100) }, resume: "checkpoint-100", overwrite: "false"},
		{name: "latest, as told", yaml: "resume_from_checkpoint: true\noverwrite_output_dir: true\n", attempt: 1, leave: func(s *site) { s.checkpoint("configs/out", 10) }, resume: "checkpoint-10", overwrite: "false"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			if tt.leave != nil {
				tt.leave(s)
			}
			p, err := launcher(t, "lora").Plan(context.Background(), s.plan(s.config(good+"output_dir: out\n"+tt.yaml), tt.attempt))
			if err != nil {
				t.Fatal(err)
			}
			if got := texts(p.Problems, s.root); got != tt.problem {
				t.Fatalf("problem\n %s\nwant\n %s", got, tt.problem)
			}
			if tt.problem != "" {
				return
			}
			want := ""
			if tt.resume != "" {
				want = filepath.Join(s.root, "configs/out", tt.resume)
			}
			final := string(p.Files[0].Content)
			if p.ResumeFrom != want || strings.Contains(final, "resume_from_checkpoint") != (want != "") || !strings.Contains(final, want) {
				t.Errorf("resumes from %q, want %q:\n%s", p.ResumeFrom, want, final)
			}
			if !strings.Contains(final, "overwrite_output_dir: "+tt.overwrite+"\n") {
				t.Errorf("overwrite_output_dir should be %s:\n%s", tt.overwrite, final)
			}
		})
	}
}

func TestPlanOfStagesThatCannotResume(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.checkpoint("configs/out", 10)
	yaml := "model_name_or_path: ../models/tiny\ndata_path: pairs.json\noutput_dir: out\nstage: rm\n"
	p, err := launcher(t, "full").Plan(context.Background(), s.plan(s.config(yaml+"finetuning_type: full\n"), 2))
	if err != nil || p.ResumeFrom != "" || !slices.Contains(p.Notes, "starts from the beginning: the trainer cannot resume stage: rm with finetuning_type: full") {
		t.Errorf("full reward model: %v %v %v", err, p.GetResumeFrom(), p.GetNotes())
	}
	p, err = launcher(t, "lora").Plan(context.Background(), s.plan(s.config(yaml), 2))
	ckpt := filepath.Join(s.root, "configs/out/checkpoint-10")
	if err != nil || p.ResumeFrom != ckpt || !strings.Contains(string(p.Files[0].Content), "adapter_name_or_path: "+ckpt+"\n") {
		t.Errorf("adapter reward model: %v %s", err, show(p, s.root))
	}
}

func TestPlanEngine(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.write("my tools/train", "")
	if err := os.Chmod(filepath.Join(s.root, "my tools/train"), 0o755); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(s.root, "bin")
	tests := []struct {
		name, engine, path string
		nodes              uint32
		dir                string
		// Words before "train" and what PATH becomes, ROOT for the site.
		argv, newPath string
		problem       string
	}{
		{name: "default", path: bin, argv: "ROOT/bin/llamafactory-cli"},
		{name: "default, PATH not known", argv: "llamafactory-cli"},
		{name: "not in PATH", path: "/usr/bin:" + s.root, problem: "engine: llamafactory-cli is not in the job's PATH on this node (/usr/bin:ROOT); install LLaMA-Factory, put its environment's bin on PATH, or name the engine by its path"},
		{name: "by path", engine: bin + "/llamafactory-cli", path: "/usr/bin", argv: "ROOT/bin/llamafactory-cli", newPath: "ROOT/bin:/usr/bin"},
		{name: "by path that is gone", engine: "/no/such/llamafactory-cli", path: "/usr/bin", problem: "engine: /no/such/llamafactory-cli does not exist on this node; install LLaMA-Factory there, or name another engine"},
		{name: "with arguments", engine: bin + "/llamafactory-cli -v 'a b'", path: bin, argv: "ROOT/bin/llamafactory-cli|-v|a b"},
		{name: "with spaces", engine: `"` + s.root + `/my tools/train"`, path: "/usr/bin", argv: "ROOT/my tools/train", newPath: "ROOT/my tools:/usr/bin"},
		{name: "open quote", engine: "'llamafactory-cli", problem: `engine: "'llamafactory-cli" is not a command; close its quotes`},
		{name: "torchrun and spaces", nodes: 2, dir: "/a dir/42.1", path: bin, problem: "engine: torchrun cannot take the path /a dir/42.1; give the node a state directory without spaces"},
		{name: "one process and spaces", dir: "/a dir/42.1", path: bin, argv: "ROOT/bin/llamafactory-cli"},
	}
	for _, tt := range tests {
		req := s.plan(s.config(good), 1)
		req.Engine = tt.engine
		req.Env = nil
		if tt.path != "" {
			req.Env = []*fettlev1.KeyValue{{Key: "PATH", Value: tt.path}}
		}
		if tt.dir != "" {
			req.AttemptDir = tt.dir
		}
		if tt.nodes > 0 {
			req.Config.Nodes = tt.nodes
		}
		p, err := launcher(t, "lora").Plan(context.Background(), req)
		if err != nil {
			t.Fatal(err)
		}
		if got := texts(p.Problems, s.root); got != tt.problem {
			t.Errorf("%s: problem %q, want %q", tt.name, got, tt.problem)
		}
		if tt.problem != "" {
			continue
		}
		n := len(p.Argv) - 2
		got := strings.ReplaceAll(strings.Join(p.Argv[:n], "|"), s.root, "ROOT")
		if got != tt.argv || p.Argv[n] != "train" || p.Argv[n+1] != filepath.Join(req.AttemptDir, "final.yaml") {
			t.Errorf("%s: argv %q, want %q", tt.name, p.Argv, tt.argv)
		}
		if path := strings.ReplaceAll(variable(p, "PATH"), s.root, "ROOT"); path != tt.newPath {
			t.Errorf("%s: PATH %q, want %q", tt.name, path, tt.newPath)
		}
	}
}

func variable(p *pluginv1.PlanResponse, key string) string {
	for _, kv := range p.Env {
		if kv.Key == key {
			return kv.Value
		}
	}
	return ""
}

func TestPlanEnvironment(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	plan := func(yaml string, change func(*pluginv1.PlanRequest)) *pluginv1.PlanResponse {
		req := s.plan(s.config(yaml), 1)
		change(req)
		p, err := launcher(t, "lora").Plan(context.Background(), req)
		if err != nil || len(p.Problems) > 0 {
			t.Fatalf("%v %s", err, texts(p.GetProblems(), s.root))
		}
		return p
	}
	none := func(*pluginv1.PlanRequest) {}
	p := plan(good, none)
	for key, want := range map[string]string{"RECORD_VRAM": "1", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "8", "FORCE_TORCHRUN": "", "MASTER_PORT": ""} {
		if got := variable(p, key); got != want {
			t.Errorf("one GPU: %s=%q, want %q", key, got, want)
		}
	}
	p = plan(good, func(r *pluginv1.PlanRequest) {
		r.Env = append(r.Env, &fettlev1.KeyValue{Key: "OMP_NUM_THREADS", Value: "3"}, &fettlev1.KeyValue{Key: "HF_HUB_OFFLINE", Value: "0"})
	})
	if variable(p, "OMP_NUM_THREADS") != "" || variable(p, "HF_HUB_OFFLINE") != "" {
		t.Errorf("the job's own variables are overridden: %v", p.Env)
	}
	for name, yaml := range map[string]string{
		"model": "model_name_or_path: Qwen/Qwen3-0.6B\ndata_path: data.json\n", "data": "model_name_or_path: ../models/tiny\ndataset: hub\n",
		"push": good + "push_to_hub: true\n", "adapter": good + "adapter_name_or_path: some/adapter\n",
	} {
		if p := plan(yaml, none); variable(p, "HF_HUB_OFFLINE") != "" {
			t.Errorf("%s from the hub: HF_HUB_OFFLINE is set", name)
		}
	}
	p = plan(good, func(r *pluginv1.PlanRequest) { r.Config.GpusPerNode, r.MasterAddr = 4, "" })
	for key, want := range map[string]string{"FORCE_TORCHRUN": "1", "NNODES": "1", "NODE_RANK": "0", "NPROC_PER_NODE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29555", "OMP_NUM_THREADS": "2"} {
		if got := variable(p, key); got != want {
			t.Errorf("four GPUs: %s=%q, want %q", key, got, want)
		}
	}
	if p := plan(good+"deepspeed: z2.json\n", none); variable(p, "FORCE_TORCHRUN") != "1" {
		t.Error("DeepSpeed on one GPU needs torchrun too")
	}
}

func TestPlanRefusesOnTheNode(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p, err := launcher(t, "lora").Plan(context.Background(), s.plan(s.config("model_name_or_path: ../models/tiny\ndata_path: nope.json\n"), 1))
	if err != nil || texts(p.Problems, s.root) != "line 2: data_path: ROOT/configs/nope.json does not exist; give the path of a data file, relative to the config or absolute" || len(p.Argv) > 0 {
		t.Errorf("%v %v", err, p)
	}
	req := s.plan(s.config("model_name_or_path: ROOT/models/tiny\ndata_path: ROOT/configs/data.json\noutput_dir: out\n"), 1)
	req.Config.Path, req.Config.WorkDir = "", ""
	p, err = launcher(t, "lora").Plan(context.Background(), req)
	if err != nil || texts(p.Problems, s.root) != "line 3: output_dir: out is relative, and neither the config's directory nor the working directory is known; give an absolute path" {
		t.Errorf("%v %v", err, texts(p.Problems, s.root))
	}
}

func TestPlanExpandsHome(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.write("home/m/config.json", tinyModel)
	s.write("home/d.json", `[{"instruction":"a","output":"b"}]`)
	p, err := launcher(t, "lora").Plan(context.Background(), s.plan(s.config("model_name_or_path: ~/m\ndata_path: ~/d.json\noutput_dir: ~/out\n"), 1))
	if err != nil || len(p.Problems) > 0 {
		t.Fatal(err, texts(p.GetProblems(), s.root))
	}
	if p.OutputDir != filepath.Join(s.root, "home/out") || !strings.Contains(string(p.Files[0].Content), "model_name_or_path: "+s.root+"/home/m\n") {
		t.Errorf("home is not expanded:\n%s", show(p, s.root))
	}
}

func TestPlanListing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p, err := launcher(t, "lora").Plan(context.Background(), s.plan(s.config("model_name_or_path: ../models/tiny\ndata_path: data.json, extra.json\n"), 1))
	if err != nil || len(p.Files) != 3 {
		t.Fatal(err, p)
	}
	var listing map[string]struct {
		FileName string `json:"file_name"`
	}
	if err := json.Unmarshal(p.Files[2].Content, &listing); err != nil {
		t.Fatal(err)
	}
	if listing["fettle_0"].FileName != s.root+"/configs/data.json" || listing["fettle_1"].FileName != s.root+"/work/extra.json" {
		t.Errorf("listing %v", listing)
	}
	if !strings.Contains(string(p.Files[0].Content), "dataset: fettle_0,fettle_1\n") {
		t.Errorf("final:\n%s", p.Files[0].Content)
	}
}
