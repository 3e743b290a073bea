package launch

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

const good = "model_name_or_path: ../models/tiny\ndata_path: data.json\n"

func TestValidateRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, method, yaml string
		set                []string
		gpus               uint32
		want               string
	}{
		{name: "no such data file", yaml: "model_name_or_path: ../models/tiny\ndata_path: nope.json\n", want: "line 2: data_path: ROOT/configs/nope.json does not exist; give the path of a data file, relative to the config or absolute"},
		{name: "no such absolute data file", yaml: "model_name_or_path: ../models/tiny\ndata_path: /no/such/file.json\n", want: "line 2: data_path: /no/such/file.json does not exist; give the path of a data file, relative to the config or absolute"},
		{name: "no such data file by override", yaml: good, set: []string{"data_path=nope.json"}, want: "data_path: ROOT/work/nope.json does not exist; give the path of a data file, relative to the config or absolute"},
		{name: "second of two data files", yaml: "model_name_or_path: ../models/tiny\ndata_path: [data.json, nope.json]\n", want: "line 2: data_path: ROOT/configs/nope.json does not exist; give the path of a data file, relative to the config or absolute"},
		{name: "unknown layout", yaml: "model_name_or_path: ../models/tiny\ndata_path: strange.jsonl\n", want: "line 2: data_path: ROOT/configs/strange.jsonl has records of an unknown layout, with the columns foo; name them instruction and output, or messages, or chosen and rejected, or text"},
		{name: "a YAML as data", yaml: "model_name_or_path: ../models/tiny\ndata_path: train.yaml\n", want: `line 2: data_path: ROOT/configs/train.yaml has the file type ".yaml"; convert it to .json, .jsonl, .csv, .parquet, .arrow or .txt`},
		{name: "pairs without a stage", yaml: "model_name_or_path: ../models/tiny\ndata_path: pairs.json\n", want: "stage: is missing, and ROOT/configs/pairs.json holds pairs of chosen and rejected answers; add stage: dpo, or stage: rm"},
		{name: "pairs for sft", yaml: "model_name_or_path: ../models/tiny\ndata_path: pairs.json\nstage: sft\n", want: "line 3: stage: sft does not go with ROOT/configs/pairs.json, which holds pairs of chosen and rejected answers; write stage: dpo, or change the data"},
		{name: "answers for dpo", yaml: good + "stage: dpo\n", want: "line 3: stage: dpo does not go with ROOT/configs/data.json, which holds prompts and answers; write stage: sft, or change the data"},
		{name: "text for sft", yaml: "model_name_or_path: ../models/tiny\ndata_path: text.txt\nstage: sft\n", want: "line 3: stage: sft does not go with ROOT/configs/text.txt, which holds plain text; write stage: pt, or change the data"},
		{name: "names beside files", yaml: good + "eval_dataset: identity\n", want: "line 3: eval_dataset: is looked up by name, which does not go with data_path; use val_size, or list both in a dataset_info.json"},
		{name: "empty data path", yaml: "model_name_or_path: ../models/tiny\ndata_path: ''\n", want: "line 2: data_path: is empty; give a path, or leave it out"},
		{name: "line break in a path", yaml: good + "output_dir: \"a\\nb\"\n", want: "line 3: output_dir: holds a line break or a tab; write a plain path"},

		{name: "name not listed", yaml: "model_name_or_path: ../models/tiny\ndataset: identiy\n", want: `line 2: dataset: "identiy" is not listed in ROOT/configs/data/dataset_info.json; did you mean identity?`},
		{name: "second name not listed", yaml: "model_name_or_path: ../models/tiny\ndataset: identity,whatever\n", want: `line 2: dataset: "whatever" is not listed in ROOT/configs/data/dataset_info.json; add it there, or use data_path: FILE`},
		{name: "listed file is gone", yaml: "model_name_or_path: ../models/tiny\ndataset: gone\n", want: `line 2: dataset: "gone" needs ROOT/configs/data/gone.json, which does not exist; put it there, or mend dataset_info.json`},
		{name: "no listing", yaml: "model_name_or_path: ../models/tiny\ndataset: identity\ndataset_dir: elsewhere\n", want: "line 2: dataset: identity is looked up in ROOT/configs/elsewhere/dataset_info.json, which is not there; set dataset_dir, or use data_path: FILE"},
		{name: "evaluation name not listed", yaml: "model_name_or_path: ../models/tiny\ndataset: identity\neval_dataset: nope\n", want: `line 3: eval_dataset: "nope" is not listed in ROOT/configs/data/dataset_info.json; add it there, or use data_path: FILE`},

		{name: "no such model", yaml: "model_name_or_path: ./nope\ndata_path: data.json\n", want: "line 1: model_name_or_path: ROOT/configs/nope does not exist; give a model's directory, or its name on the hub"},
		{name: "no such absolute model", yaml: "model_name_or_path: /no/model\ndata_path: data.json\n", want: "line 1: model_name_or_path: /no/model does not exist; give a model's directory, or its name on the hub"},
		{name: "no hub name either", yaml: "model_name_or_path: a/b/c\ndata_path: data.json\n", want: "line 1: model_name_or_path: ROOT/configs/a/b/c does not exist; give a model's directory, or its name on the hub"},
		{name: "a file as model", yaml: "model_name_or_path: ./data.json\ndata_path: data.json\n", want: "line 1: model_name_or_path: ROOT/configs/data.json holds no config.json; give a directory with config.json, weights and tokenizer"},
		{name: "a directory without a model", yaml: "model_name_or_path: ../work\ndata_path: data.json\n", want: "line 1: model_name_or_path: ROOT/work holds no config.json; give a directory with config.json, weights and tokenizer"},
		{name: "an adapter as model", yaml: "model_name_or_path: ../models/adapter\ndata_path: data.json\n", want: "line 1: model_name_or_path: ROOT/models/adapter holds no config.json; it is an adapter: give its base model here, and the adapter as adapter_name_or_path"},
		{name: "a broken model", yaml: "model_name_or_path: ../models/broken\ndata_path: data.json\n", want: "line 1: model_name_or_path: ROOT/models/broken holds a config.json that cannot be read; copy the model again"},
		{name: "quantised twice", method: "qlora", yaml: "model_name_or_path: ../models/gptq\ndata_path: data.json\nquantization_bit: 4\n", want: "line 3: quantization_bit: the model is stored quantised already (gptq); remove it"},
		{name: "no such adapter", yaml: good + "adapter_name_or_path: ./none\n", want: "line 3: adapter_name_or_path: ROOT/configs/none does not exist; give a path relative to the config, or absolute"},
		{name: "no such checkpoint", yaml: good + "resume_from_checkpoint: /no/checkpoint-7\n", want: "line 3: resume_from_checkpoint: /no/checkpoint-7 does not exist; give a complete checkpoint-N directory"},
		{name: "no such checkpoint beside the config", yaml: good + "resume_from_checkpoint: old\n", want: "line 3: resume_from_checkpoint: ROOT/configs/old does not exist; give a complete checkpoint-N directory"},
		{name: "no such template", yaml: good + "template: qwen3_nothnk\n", want: `line 3: template: the trainer has no template "qwen3_nothnk"; did you mean qwen3_nothink?`},
		{name: "a template far off", yaml: good + "template: zzzzzz\n", want: `line 3: template: the trainer has no template "zzzzzz"; write qwen3`},

		{name: "no such deepspeed config", method: "full", yaml: good + "finetuning_type: full\ndeepspeed: z9.json\n", want: "line 4: deepspeed: ROOT/configs/z9.json does not exist; give a path relative to the config, or absolute"},
		{name: "deepspeed config is no JSON", method: "full", yaml: good + "finetuning_type: full\ndeepspeed: text.txt\n", want: "line 4: deepspeed: is not valid JSON with a zero_optimization.stage; check its quotes, commas and brackets"},
		{name: "pure bf16 with ZeRO-3", method: "full", yaml: good + "finetuning_type: full\npure_bf16: true\ndeepspeed: z3.json\n", want: "line 4: pure_bf16: does not work with DeepSpeed ZeRO-3; remove it, or use ZeRO-2"},
		{name: "pure bf16 with ZeRO-3 spelled out", method: "full", yaml: good + "finetuning_type: full\npure_bf16: true\ndeepspeed: {zero_optimization: {stage: 3}}\n", want: "line 4: pure_bf16: does not work with DeepSpeed ZeRO-3; remove it, or use ZeRO-2"},
		{name: "generating with ZeRO-3", method: "full", yaml: good + "finetuning_type: full\npredict_with_generate: true\nval_size: 0.1\ndeepspeed: z3.json\n", want: "line 4: predict_with_generate: does not work with DeepSpeed ZeRO-3; remove it, or use ZeRO-2"},
		{name: "8 bits with ZeRO-3", method: "qlora", yaml: good + "quantization_bit: 8\ndeepspeed: z3.json\n", want: "line 3: quantization_bit: DeepSpeed ZeRO-3 takes bnb with 4 bits only; write quantization_bit: 4, or use ZeRO-2"},
		{name: "impossible stage", method: "full", yaml: good + "finetuning_type: full\ndeepspeed: {zero_optimization: {stage: 4}}\n", want: "line 4: deepspeed: has zero_optimization.stage 4; write 0, 1, 2 or 3"},
		{name: "liger without a GPU", yaml: good + "enable_liger_kernel: true\n", gpus: 99, want: "line 3: enable_liger_kernel: needs a GPU, and no GPU was asked for; remove it, or ask for a GPU with --gpus 1"},

		{name: "contradiction with its line", method: "full", yaml: good + "finetuning_type: full\nquantization_bit: 4\n", want: "line 4: quantization_bit: works with lora or oft only, not with finetuning_type: full (line 3); remove it, or write finetuning_type: lora"},
		{name: "everything at once", yaml: "model_name_or_path: ./nope\ndata_path: nope.json\nlora_rnk: 8\nbf16: yes\n", want: "line 1: model_name_or_path: ROOT/configs/nope does not exist; give a model's directory, or its name on the hub\n" +
			"line 2: data_path: ROOT/configs/nope.json does not exist; give the path of a data file, relative to the config or absolute\n" +
			"line 3: lora_rnk: no such training key; did you mean lora_rank?\n" +
			`line 4: bf16: takes true or false, not "yes"; write true`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			method := tt.method
			if method == "" {
				method = "lora"
			}
			tc := s.config(tt.yaml, tt.set...)
			if tt.gpus == 99 {
				tc.GpusPerNode = 0
			}
			resp, err := launcher(t, method).Validate(context.Background(), &pluginv1.ValidateRequest{Config: tc})
			if err != nil {
				t.Fatal(err)
			}
			if got := texts(resp.Problems, s.root); got != tt.want {
				t.Errorf("problems\n %s\nwant\n %s", got, tt.want)
			}
			if len(resp.Rendered) > 0 {
				t.Error("a refused config was rendered")
			}
		})
	}
}

// TestValidateFromAfar checks that a host that does not see the submit host's files refuses nothing for their sake.
func TestValidateFromAfar(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	missing := "model_name_or_path: ./nope\ndata_path: nope.json\n"
	tests := []struct {
		name    string
		setting string
		change  func(*pluginv1.TrainingConfig)
		refused bool
	}{
		{"the config is here", "check_files=auto", func(*pluginv1.TrainingConfig) {}, true},
		{"the config is not here", "check_files=auto", func(tc *pluginv1.TrainingConfig) { tc.Path = "/elsewhere/train.yaml" }, false},
		{"another config is here", "check_files=auto", func(tc *pluginv1.TrainingConfig) { tc.Yaml = append(tc.Yaml, "#\n"...) }, false},
		{"no path", "check_files=auto", func(tc *pluginv1.TrainingConfig) { tc.Path = "" }, false},
		{"told to look", "check_files=always", func(tc *pluginv1.TrainingConfig) { tc.Path = "/elsewhere/train.yaml" }, true},
		{"told not to look", "check_files=never", func(*pluginv1.TrainingConfig) {}, false},
	}
	for _, tt := range tests {
		tc := s.config(missing)
		tt.change(tc)
		resp, err := launcher(t, "lora", tt.setting).Validate(context.Background(), &pluginv1.ValidateRequest{Config: tc})
		if err != nil {
			t.Fatal(err)
		}
		if (len(resp.Problems) > 0) != tt.refused {
			t.Errorf("%s: problems %s; refused should be %v", tt.name, texts(resp.Problems, s.root), tt.refused)
		}
	}
}

func TestValidateAccepts(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for name, tc := range map[string]*pluginv1.TrainingConfig{
		"hub model":          s.config("model_name_or_path: Qwen/Qwen3-0.6B\ndata_path: data.json\n"),
		"found in work dir":  s.config("model_name_or_path: ../models/tiny\ndata_path: extra.json\n"),
		"by name":            s.config("model_name_or_path: ../models/tiny\ndataset: identity,hub\neval_dataset: identity\n"),
		"online":             s.config("model_name_or_path: ../models/tiny\ndataset: some/where\ndataset_dir: ONLINE\n"),
		"home":               s.config("model_name_or_path: ~/models/x\ndata_path: ~/d.json\n"),
		"pairs":              s.config("model_name_or_path: ../models/tiny\ndata_path: pairs.json\nstage: dpo\n"),
		"overrides mend":     s.config("model_name_or_path: ./nope\ndata_path: nope.json\n", "model_name_or_path=ROOT/models/tiny", "data_path=extra.json"),
		"stored quantised":   s.config("model_name_or_path: ../models/gptq\ndata_path: data.json\n"),
		"a site's own words": s.config(good + "template: house\nhouse_key: {a: 1}\n"),
	} {
		// Only the last file that config wrote is there, so look at what is named all the same.
		l := launcher(t, "lora", "check_files=always", "extra_keys=house_key", "extra_templates=house")
		resp, err := l.Validate(context.Background(), &pluginv1.ValidateRequest{Config: tc})
		if err != nil || len(resp.Problems) > 0 || len(resp.Rendered) == 0 {
			t.Errorf("%s: %v %s", name, err, texts(resp.GetProblems(), s.root))
		}
	}
}

func TestValidateWarns(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	tc := s.config(good + "save_strategy: 'no'\nuse_cpu: true\nper_gpu_train_batch_size: 2\nhub_token: x\n")
	resp, err := launcher(t, "lora").Validate(context.Background(), &pluginv1.ValidateRequest{Config: tc})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"line 5: per_gpu_train_batch_size: newer trainers refuse this key",
		"line 3: save_strategy: without checkpoints a retry starts from the beginning",
		"line 6: hub_token: is kept with the job in plain text; set it in the job's environment instead",
		"line 4: use_cpu: leaves the GPUs that the job asks for idle",
	}
	if !slices.Equal(resp.Warnings, want) {
		t.Errorf("warnings\n %s\nwant\n %s", strings.Join(resp.Warnings, "\n "), strings.Join(want, "\n "))
	}
}

func TestUnreadableIsADoubtAtSubmit(t *testing.T) {
	t.Parallel()
	if os.Getuid() == 0 {
		t.Skip("root reads everything")
	}
	s := newSite(t)
	closed := filepath.Join(s.root, "closed")
	if err := os.Mkdir(closed, 0); err != nil {
		t.Fatal(err)
	}
	tc := s.config("model_name_or_path: ../models/tiny\ndata_path: ROOT/closed/d.json\n")
	resp, err := launcher(t, "lora").Validate(context.Background(), &pluginv1.ValidateRequest{Config: tc})
	if err != nil || len(resp.Problems) > 0 || len(resp.Warnings) != 1 {
		t.Errorf("%v %v %v; want one warning", resp.Problems, resp.Warnings, err)
	}
	plan, err := launcher(t, "lora").Plan(context.Background(), s.plan(tc, 1))
	if err != nil || len(plan.Problems) != 1 {
		t.Errorf("on the node: %v %v; want one problem", plan.Problems, err)
	}
}

func TestConfigure(t *testing.T) {
	t.Parallel()
	l := launcher(t, "lora")
	for given, want := range map[string]string{
		"check_files=often": `check_files: "often" is not a choice; write auto, always or never`,
		"checkfiles=auto":   "checkfiles: no such setting; launchers know check_files, extra_keys and extra_templates",
	} {
		k, v, _ := strings.Cut(given, "=")
		if err := l.Configure(context.Background(), map[string]string{k: v}); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", given, err, want)
		}
	}
	if _, err := New(Config{Method: "magic"}); err == nil {
		t.Error("a launcher for an unknown method was made")
	}
}
