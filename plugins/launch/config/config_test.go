package config

import (
	"fmt"
	"strings"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// base is what every config here starts with, three lines; data comes from data_path.
const base = "model_name_or_path: m\ndata_path: d.json\nstage: sft\n"

func load(t testing.TB, yaml, method string, set ...string) (*Config, []string) {
	t.Helper()
	tc := &pluginv1.TrainingConfig{Yaml: []byte(yaml)}
	for _, s := range set {
		k, v, _ := strings.Cut(s, "=")
		tc.Set = append(tc.Set, &fettlev1.KeyValue{Key: k, Value: v})
	}
	c, problems := Load(tc, method, Options{ExtraKeys: []string{"site_key"}})
	var lines []string
	for _, p := range problems {
		lines = append(lines, Text(p))
	}
	return c, lines
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, method, yaml string
		set                []string
		want               []string
	}{
		{name: "near miss", yaml: base + "learning_rte: 1e-4\n", want: []string{"line 4: learning_rte: no such training key; did you mean learning_rate?"}},
		{name: "swapped letters", yaml: base + "lora_rnak: 8\n", want: []string{"line 4: lora_rnak: no such training key; did you mean lora_rank?"}},
		{name: "dashes", yaml: base + "lora-rank: 8\n", want: []string{"line 4: lora-rank: no such training key; did you mean lora_rank?"}},
		{name: "capitals", yaml: base + "Lora_Rank: 8\n", want: []string{"line 4: Lora_Rank: no such training key; did you mean lora_rank?"}},
		{name: "other trainer's word", yaml: base + "max_seq_length: 512\n", want: []string{"line 4: max_seq_length: no such training key; did you mean cutoff_len?"}},
		{name: "older release's word", yaml: base + "evaluation_strategy: steps\n", want: []string{"line 4: evaluation_strategy: no such training key; did you mean eval_strategy?"}},
		{name: "scheduler's word", yaml: base + "priority: 1\n", want: []string{"line 4: priority: no such training key; use fsubmit --priority"}},
		{name: "nothing like it", yaml: base + "frobnicate: 1\n", want: []string{"line 4: frobnicate: no such training key; remove it"}},
		{name: "near miss of the dataset", yaml: "model_name_or_path: m\ndata_pth: d.json\n", want: []string{"line 2: data_pth: no such training key; did you mean data_path?"}},
		{name: "unknown override", yaml: base, set: []string{"lora_rnk=8"}, want: []string{"lora_rnk: no such training key; did you mean lora_rank?"}},
		{name: "not YAML", yaml: "stage: [sft\n", want: []string{"line 1: not YAML: did not find expected ',' or ']'; write one `key: value` per line"}},
		{name: "twice", yaml: base + "stage: dpo\n", want: []string{"line 4: stage: given twice, first on line 3; keep one"}},

		{name: "text for a number", yaml: base + "lora_rank: eight\n", want: []string{`line 4: lora_rank: takes a whole number, not "eight"; write lora_rank: 8`}},
		{name: "fraction for a count", yaml: base + "per_device_train_batch_size: 1.5\n", want: []string{`line 4: per_device_train_batch_size: takes a whole number, not "1.5"; write per_device_train_batch_size: 8`}},
		{name: "text for a fraction", yaml: base + "learning_rate: fast\n", want: []string{`line 4: learning_rate: takes a number, not "fast"; write learning_rate: 1.0e-4`}},
		{name: "infinity", yaml: base + "learning_rate: .inf\n", want: []string{`line 4: learning_rate: takes a number, not ".inf"; write learning_rate: 1.0e-4`}},
		{name: "not a number", yaml: base + "learning_rate: .nan\n", want: []string{`line 4: learning_rate: takes a number, not ".nan"; write learning_rate: 1.0e-4`}},
		{name: "out of range float", yaml: base + "learning_rate: 1e999\n", want: []string{`line 4: learning_rate: takes a number, not "1e999"; write learning_rate: 1.0e-4`}},
		{name: "sexagesimal", yaml: base + "max_steps: 1:30\n", want: []string{`line 4: max_steps: takes a whole number, not "1:30"; write max_steps: 8`}},
		{name: "octal", yaml: base + "lora_rank: 010\n", want: []string{"line 4: lora_rank: 010 is octal to some readers and decimal to others; write it without the leading zero"}},
		{name: "yes", yaml: base + "bf16: yes\n", want: []string{`line 4: bf16: takes true or false, not "yes"; write true`}},
		{name: "no", yaml: base + "bf16: no\n", want: []string{`line 4: bf16: takes true or false, not "no"; write false`}},
		{name: "one for a switch", yaml: base + "bf16: 1\n", want: []string{`line 4: bf16: takes true or false, not "1"; write true`}},
		{name: "list for a number", yaml: base + "lora_rank: [8]\n", want: []string{"line 4: lora_rank: takes one value, not a list; write lora_rank: 8"}},
		{name: "mapping for a number", yaml: base + "lora_rank: {a: 8}\n", want: []string{"line 4: lora_rank: takes one value, not a mapping; write lora_rank: 8"}},
		{name: "switch for a text", yaml: base + "run_name: true\n", want: []string{`line 4: run_name: takes a text, not "true"; put it in quotes if it is one`}},
		{name: "text for a mapping", yaml: base + "kt_config: x\n", want: []string{`line 4: kt_config: takes a list or mapping, not "x"; write kt_config: {name: value}`}},
		{name: "choice", yaml: "model_name_or_path: m\ndata_path: d\nstage: sfft\n", want: []string{`line 3: stage: "sfft" is not a choice; did you mean sft?`}},
		{name: "choice far off", yaml: base + "flash_attn: turbo9\n", want: []string{`line 4: flash_attn: "turbo9" is not a choice; write auto, disabled, sdpa, fa2 or fa3`}},
		{name: "scheduler choice", yaml: base + "lr_scheduler_type: cosin\n", want: []string{`line 4: lr_scheduler_type: "cosin" is not a choice; did you mean cosine?`}},
		{name: "comma in a list", yaml: "model_name_or_path: m\ndata_path: ['a,b.json']\n", want: []string{`line 2: data_path: "a,b.json" holds a comma, which separates entries; list its parts`}},
		{name: "list in a list", yaml: base + "lora_target: [[q]]\n", want: []string{"line 4: lora_target: takes a list of plain values; write lora_target: [a, b]"}},
		{name: "bad override type", yaml: base, set: []string{"lora_rank=big"}, want: []string{`lora_rank: takes a whole number, not "big"; write lora_rank: 8`}},

		{name: "no model", yaml: "data_path: d.json\n", want: []string{"model_name_or_path: is missing; give a local path or a name on the hub"}},
		{name: "null model", yaml: "data_path: d.json\nmodel_name_or_path: null\n", want: []string{"line 2: model_name_or_path: is missing; give a local path or a name on the hub"}},
		{name: "no data", yaml: "model_name_or_path: m\n", want: []string{"dataset: is missing, there is nothing to train on; give data_path: FILE, or dataset: NAME with dataset_dir"}},
		{name: "both data", yaml: base + "dataset: identity\n", want: []string{"line 2: data_path: is given together with dataset (line 4); keep one of them"}},
		{name: "zero rank", yaml: base + "lora_rank: 0\n", want: []string{"line 4: lora_rank: must be at least 1, not 0; write 8"}},
		{name: "negative rate", yaml: base + "learning_rate: -1e-4\n", want: []string{"line 4: learning_rate: must be more than 0, not -0.0001; write 1.0e-4"}},
		{name: "absurd rate", yaml: base + "learning_rate: 50\n", want: []string{"line 4: learning_rate: must be at most 10, not 50; write 1.0e-4"}},
		{name: "no epochs", yaml: base + "num_train_epochs: 0\n", want: []string{"line 4: num_train_epochs: must be more than 0, not 0; write 3.0"}},
		{name: "no steps", yaml: base + "max_steps: 0\n", want: []string{"line 4: max_steps: must be -1 or more than 0, not 0; write 100, or leave it out"}},
		{name: "keeps no checkpoint", yaml: base + "save_total_limit: 0\n", want: []string{"line 4: save_total_limit: must be at least 1, not 0; write 2"}},
		{name: "trains nothing", yaml: base + "do_train: false\n", want: []string{"line 4: do_train: is false, so nothing would be trained; remove it, or write do_train: true"}},

		{name: "full and quantised", method: "full", yaml: base + "finetuning_type: full\nquantization_bit: 4\n", want: []string{"line 5: quantization_bit: works with lora or oft only, not with finetuning_type: full (line 4); remove it, or write finetuning_type: lora"}},
		{name: "freeze and quantised", method: "full", yaml: base + "quantization_bit: 8\nfinetuning_type: freeze\n", want: []string{"line 4: quantization_bit: works with lora or oft only, not with finetuning_type: freeze (line 5); remove it, or write finetuning_type: lora"}},
		{name: "lora asked, config full", yaml: base + "finetuning_type: full\n", want: []string{"line 4: finetuning_type: full contradicts the method lora that was asked for; use --method full, or change it"}},
		{name: "qlora asked, config full", method: "qlora", yaml: base + "finetuning_type: full\n", want: []string{"line 4: finetuning_type: full contradicts the method qlora that was asked for; use --method full, or change it"}},
		{name: "lora asked, config quantised", yaml: base + "quantization_bit: 4\n", want: []string{"line 4: quantization_bit: makes this a qlora job, but the method lora was asked for; use --method qlora, or remove it"}},
		{name: "full asked, config lora", method: "full", yaml: base + "lora_rank: 8\n", want: []string{"line 4: lora_rank: contradicts the method full that was asked for; use --method lora, or remove it"}},
		{name: "unknown way", yaml: base + "finetuning_type: lorra\n", want: []string{`line 4: finetuning_type: "lorra" is not a choice; did you mean lora?`}},
		{name: "short bits contradict", method: "qlora", yaml: base + "load_in_4bit: true\nquantization_bit: 8\n", want: []string{"line 4: load_in_4bit: contradicts quantization_bit: 8 (line 5); keep one of them"}},
		{name: "bits of bnb", method: "qlora", yaml: base + "quantization_bit: 3\n", want: []string{"line 4: quantization_bit: bnb quantises to 4 or 8 bits, not to 3; write 4"}},
		{name: "bits of eetq", method: "qlora", yaml: base + "quantization_bit: 4\nquantization_method: eetq\n", want: []string{"line 4: quantization_bit: eetq quantises to 8 bits, not to 4; write 8"}},
		{name: "already quantised method", method: "qlora", yaml: base + "quantization_bit: 4\nquantization_method: gptq\n", want: []string{"line 5: quantization_method: gptq is for models that are quantised already; remove quantization_bit, or write quantization_method: bnb"}},
		{name: "pissa quantised", method: "qlora", yaml: base + "quantization_bit: 4\npissa_init: true\n", want: []string{"line 5: pissa_init: needs a base model that is not quantised; remove it or quantization_bit"}},
		{name: "resized and quantised", method: "qlora", yaml: base + "quantization_bit: 4\nresize_vocab: true\n", want: []string{"line 5: resize_vocab: cannot change the embeddings of a quantised model; remove it or quantization_bit"}},
		{name: "dora on full", method: "full", yaml: base + "finetuning_type: full\nuse_dora: true\n", want: []string{"line 5: use_dora: works with finetuning_type: lora only, not with full; remove it"}},
		{name: "adapter on full", method: "full", yaml: base + "finetuning_type: full\nadapter_name_or_path: a\n", want: []string{"line 5: adapter_name_or_path: works with finetuning_type: lora only, not with full; remove it"}},
		{name: "galore with lora", yaml: base + "use_galore: true\n", want: []string{"line 4: use_galore: does not go with finetuning_type: lora; remove it, or write finetuning_type: full"}},
		{name: "galore with deepspeed", method: "full", yaml: base + "finetuning_type: full\nuse_galore: true\ndeepspeed: z.json\n", want: []string{"line 5: use_galore: does not work with deepspeed; remove one of them"}},
		{name: "two low-rank optimizers", method: "full", yaml: base + "finetuning_type: full\nuse_galore: true\nuse_badam: true\n", want: []string{"line 6: use_badam: cannot be used together with use_galore; keep one of them"}},
		{name: "llama pro on full", method: "full", yaml: base + "finetuning_type: full\nuse_llama_pro: true\n", want: []string{"line 5: use_llama_pro: works with freeze or lora only; remove it, or write finetuning_type: freeze"}},

		{name: "streaming without steps", yaml: base + "streaming: true\n", want: []string{"line 4: streaming: needs max_steps, since the length of the data is not known; add max_steps: 1000"}},
		{name: "streaming with max_samples", yaml: base + "streaming: true\nmax_steps: 5\nmax_samples: 10\n", want: []string{"line 6: max_samples: does not go with streaming; remove it"}},
		{name: "streaming with a share", yaml: base + "streaming: true\nmax_steps: 5\nval_size: 0.1\n", want: []string{"line 6: val_size: must be a whole number of examples with streaming; write 100"}},
		{name: "two evaluation sets", yaml: base + "val_size: 0.1\neval_dataset: e\n", want: []string{"line 4: val_size: is given together with eval_dataset (line 5); keep one of them"}},
		{name: "evaluates on nothing", yaml: base + "eval_strategy: steps\n", want: []string{"line 4: eval_strategy: needs something to evaluate on; add val_size: 0.1 or an eval_dataset"}},
		{name: "do_eval on nothing", yaml: base + "do_eval: true\n", want: []string{"line 4: do_eval: needs something to evaluate on; add val_size: 0.1 or an eval_dataset"}},
		{name: "best of none", yaml: base + "load_best_model_at_end: true\n", want: []string{"line 4: load_best_model_at_end: needs eval_strategy no to be the same as save_strategy steps; add eval_strategy: steps"}},
		{name: "probs without mixing", yaml: base + "interleave_probs: 0.5,0.5\n", want: []string{"line 4: interleave_probs: needs an interleaving mix_strategy; add mix_strategy: interleave_under"}},
		{name: "masks", yaml: base + "mask_history: true\ntrain_on_prompt: true\n", want: []string{"line 4: mask_history: does not go with train_on_prompt; keep one of them"}},
		{name: "pixels", yaml: base + "image_max_pixels: 10\n", want: []string{"line 4: image_max_pixels: is less than image_min_pixels, 1024; raise it"}},
		{name: "packing in dpo", yaml: "model_name_or_path: m\ndata_path: d\nstage: dpo\nneat_packing: true\n", want: []string{"line 4: neat_packing: works with stage: sft only, not with dpo; remove it"}},
		{name: "ppo without reward", yaml: "model_name_or_path: m\ndata_path: d\nstage: ppo\n", want: []string{"reward_model: is missing, stage: ppo needs one; give the path of a reward model"}},
		{name: "smoothing", yaml: "model_name_or_path: m\ndata_path: d\nstage: dpo\npref_loss: ipo\ndpo_label_smoothing: 0.1\n", want: []string{"line 5: dpo_label_smoothing: works with pref_loss: sigmoid only, not with ipo; remove it"}},
		{name: "pissa in dpo", yaml: "model_name_or_path: m\ndata_path: d\nstage: dpo\npissa_init: true\n", want: []string{"line 4: pissa_init: does not work with stage: dpo; remove it"}},
		{name: "predicts without generating", yaml: base + "do_predict: true\nval_size: 0.1\n", want: []string{"line 4: do_predict: needs predict_with_generate; add predict_with_generate: true"}},
		{name: "both halves", yaml: base + "bf16: true\nfp16: true\n", want: []string{"line 5: fp16: is given together with bf16 (line 4); keep one of them"}},
		{name: "vllm", yaml: base + "infer_backend: vllm\n", want: []string{"line 4: infer_backend: vllm cannot train; remove it"}},
		{name: "several at once, in order", yaml: base + "bf16: yes\nlora_rnk: 8\nsave_steps: x\n", want: []string{
			`line 4: bf16: takes true or false, not "yes"; write true`,
			"line 5: lora_rnk: no such training key; did you mean lora_rank?",
			`line 6: save_steps: takes a number, not "x"; write save_steps: 100`,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			method := tt.method
			if method == "" {
				method = "lora"
			}
			_, got := load(t, tt.yaml, method, tt.set...)
			if strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
				t.Errorf("problems\n %s\nwant\n %s", strings.Join(got, "\n "), strings.Join(tt.want, "\n "))
			}
			for _, line := range got {
				if strings.ContainsAny(line, "\n\r\t") {
					t.Errorf("%q is not one line", line)
				}
			}
		})
	}
}

func TestAccepts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, method, yaml string
		set                []string
		// Rendered without the three lines of base.
		want string
	}{
		{name: "plain", yaml: base, want: "finetuning_type: lora\nlora_target: all\n"},
		{name: "exponent without a dot", yaml: base + "learning_rate: 1e-4\nfinetuning_type: lora\n", want: "learning_rate: 0.0001\nfinetuning_type: lora\nlora_target: all\n"},
		{name: "small exponent", yaml: base + "learning_rate: 5e-6\n", want: "learning_rate: 5.0e-06\nfinetuning_type: lora\nlora_target: all\n"},
		{name: "quoted number", yaml: base + "lora_rank: \"16\"\n", want: "lora_rank: 16\nfinetuning_type: lora\nlora_target: all\n"},
		{name: "whole float", yaml: base + "max_steps: 1e3\n", want: "max_steps: 1000\nfinetuning_type: lora\nlora_target: all\n"},
		{name: "underscores", yaml: base + "cutoff_len: 2_048\n", want: "cutoff_len: 2048\nfinetuning_type: lora\nlora_target: all\n"},
		{name: "null unsets", yaml: base + "lora_rank: null\nresume_from_checkpoint: null\n", want: "finetuning_type: lora\nlora_target: all\n"},
		{name: "unquoted no as a choice", yaml: base + "save_strategy: no\n", want: "save_strategy: \"no\"\nfinetuning_type: lora\nlora_target: all\n"},
		{name: "capital choice", yaml: base + "lr_scheduler_type: Cosine\n", want: "lr_scheduler_type: cosine\nfinetuning_type: lora\nlora_target: all\n"},
		{name: "list of modules", yaml: base + "lora_target: [q_proj, v_proj]\n", want: "lora_target: q_proj,v_proj\nfinetuning_type: lora\n"},
		{name: "trackers stay a list", yaml: base + "report_to: [wandb, tensorboard]\n", want: "report_to: [wandb, tensorboard]\nfinetuning_type: lora\nlora_target: all\n"},
		{name: "number as a name", yaml: base + "run_name: 007\n", want: "run_name: \"007\"\nfinetuning_type: lora\nlora_target: all\n"},
		{name: "text with a colon and a tilde", yaml: base + "default_system: 'a: ~b'\n", want: "default_system: \"a: ~b\"\nfinetuning_type: lora\nlora_target: all\n"},
		{name: "several lines of text", yaml: base + "default_system: |\n  You are\n  a pump.\n", want: "default_system: \"You are\\na pump.\\n\"\nfinetuning_type: lora\nlora_target: all\n"},
		{name: "mapping", yaml: base + "lr_scheduler_kwargs: {min_lr: 1e-6, warm: yes, n: 2}\n", want: "lr_scheduler_kwargs:\n  min_lr: 1.0e-06\n  warm: \"yes\"\n  \"n\": 2\nfinetuning_type: lora\nlora_target: all\n"},
		{name: "site's own key", yaml: base + "site_key: [1, x]\n", want: "site_key: [1, x]\nfinetuning_type: lora\nlora_target: all\n"},
		{name: "qlora fills", method: "qlora", yaml: base + "quantization_bit: 4\n", want: "quantization_bit: 4\nfinetuning_type: lora\nquantization_method: bnb\ndouble_quantization: true\nlora_target: all\n"},
		{name: "qlora asked for a plain config", method: "qlora", yaml: base + "lora_rank: 8\n", want: "lora_rank: 8\nquantization_bit: 4\nfinetuning_type: lora\nquantization_method: bnb\ndouble_quantization: true\nlora_target: all\n"},
		{name: "short qlora", method: "qlora", yaml: base + "load_in_8bit: true\nload_in_4bit: false\n", want: "quantization_bit: 8\nfinetuning_type: lora\nquantization_method: bnb\ndouble_quantization: true\nlora_target: all\n"},
		{name: "qoft", method: "qlora", yaml: base + "finetuning_type: oft\nquantization_bit: 4\n", want: "finetuning_type: oft\nquantization_bit: 4\nquantization_method: bnb\ndouble_quantization: true\n"},
		{name: "full asked for a plain config", method: "full", yaml: base + "bf16: true\n", want: "bf16: true\nfinetuning_type: full\n"},
		{name: "freeze", method: "full", yaml: base + "finetuning_type: freeze\nfreeze_trainable_layers: 4\n", want: "finetuning_type: freeze\nfreeze_trainable_layers: 4\n"},
		{name: "override in place", yaml: "lora_rank: 8\n" + base, set: []string{"lora_rank=16", "seed=7"}, want: "seed: 7\nfinetuning_type: lora\nlora_target: all\n"},
		{name: "override mends", yaml: base + "learning_rate: fast\n", set: []string{"learning_rate=1e-3"}, want: "learning_rate: 0.001\nfinetuning_type: lora\nlora_target: all\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			method := tt.method
			if method == "" {
				method = "lora"
			}
			c, problems := load(t, tt.yaml, method, tt.set...)
			if len(problems) > 0 {
				t.Fatalf("refused: %v", problems)
			}
			out, err := c.Render("a header")
			if err != nil {
				t.Fatal(err)
			}
			got := string(out)
			for _, l := range append(strings.SplitAfter(base, "\n"), "# a header\n", "lora_rank: 16\n") {
				if tt.name == "quoted number" && l == "lora_rank: 16\n" {
					continue
				}
				got = strings.Replace(got, l, "", 1)
			}
			if got != tt.want {
				t.Errorf("rendered\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestNotesTellEveryChange(t *testing.T) {
	t.Parallel()
	c, problems := load(t, base+"load_in_4bit: true\nlogging_steps: 500\n", "qlora")
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	c.Fill("stage", String("dpo"))
	c.Fill("seed", Int(1))
	c.Force("logging_steps", Float(10), "progress is read from the log")
	c.Force("do_train", Bool(true), "it must train")
	c.Drop("data_path", "spelled out as dataset")
	want := []string{
		"spelled out load_in_4bit: true as quantization_bit: 4",
		"added finetuning_type: lora",
		"added quantization_method: bnb",
		"added double_quantization: true",
		"added lora_target: all",
		"added seed: 1",
		"changed logging_steps: 500 to 10: progress is read from the log",
		"added do_train: true: it must train",
		"dropped data_path: spelled out as dataset",
	}
	if got := strings.Join(c.Notes(), "\n"); got != strings.Join(want, "\n") {
		t.Errorf("notes\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	if n := len(table()); n < 350 {
		t.Fatalf("%d keys, want the trainer's 350 and more", n)
	}
	for name, types := range map[string]string{
		"learning_rate": "float", "lora_rank": "int", "bf16": "bool", "dataset": "str,list", "deepspeed": "str,map", "output_dir": "str",
		"ddp_timeout": "int", "warmup_steps": "float", "use_cpu": "bool", "save_steps": "float", "resume_from_checkpoint": "bool,str",
	} {
		k, ok := Lookup(name)
		if got := strings.Join(k.types, ","); !ok || got != types {
			t.Errorf("%s: %q, want %q", name, got, types)
		}
	}
	for key, to := range elsewhere {
		if _, ok := Lookup(key); ok {
			t.Errorf("elsewhere holds %s, which is a key here", key)
		}
		if _, ok := Lookup(to); !ok && !strings.HasPrefix(to, "fsubmit ") {
			if _, short := shortForm[to]; !short {
				t.Errorf("elsewhere sends %s to %s, which is no key", key, to)
			}
		}
	}
	for key := range bounds {
		if k, ok := Lookup(key); !ok || !(k.is("int") || k.is("float")) {
			t.Errorf("bounds hold %s, which is no number here", key)
		}
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	words := []string{"lora_rank", "lora_alpha", "learning_rate", "bf16", "fp16", "seed"}
	for word, want := range map[string]string{
		"lora_rnk": "lora_rank", "lora_rankk": "lora_rank", "learing_rat": "learning_rate", "learning_rate_": "learning_rate",
		"bf61": "bf16", "b": "", "sed": "seed", "sedd": "seed", "zzzz": "", "": "", "lr": "",
	} {
		if got := Nearest(word, words); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func FuzzLoad(f *testing.F) {
	for _, s := range []string{
		base, base + "finetuning_type: full\nquantization_bit: 4\n", base + "lora_target: [a, b]\nlr_scheduler_kwargs: {a: [1, 2, {b: c}]}\n",
		base + "learning_rate: 1e-4\nbf16: yes\nrun_name: 010\ndefault_system: \"\\u2028 : #\"\n", "data_path: [a]\nsave_strategy: no\n",
	} {
		f.Add([]byte(s), "lora_rank", "8")
	}
	f.Add([]byte(base), "deepspeed", "{\"a\": 1}")
	f.Fuzz(func(t *testing.T, data []byte, key, value string) {
		for _, method := range []string{"lora", "qlora", "full"} {
			tc := &pluginv1.TrainingConfig{Yaml: data, Set: []*fettlev1.KeyValue{{Key: key, Value: value}}}
			c, problems := Load(tc, method, Options{})
			for _, p := range problems {
				if line := Text(p); strings.ContainsAny(line, "\n\r\x1b\x00") || len(line) > 2000 || p.GetProblem() == "" {
					t.Fatalf("problem %q", line)
				}
			}
			if len(problems) > 0 {
				continue
			}
			out, err := c.Render("header\nwith a break")
			if err != nil {
				t.Fatal(err)
			}
			// What is written is read back as the same, with nothing left to complain of.
			again, problems := Load(&pluginv1.TrainingConfig{Yaml: out}, method, Options{})
			if len(problems) > 0 {
				t.Fatalf("own output refused: %v\n%s", problems, out)
			}
			second, err := again.Render("header\nwith a break")
			if err != nil || string(second) != string(out) {
				t.Fatalf("rendered twice differs (%v):\n%s\n%s", err, out, second)
			}
		}
	})
}

func ExampleText() {
	fmt.Println(Text(&pluginv1.Problem{Field: "lora_rnk", Line: 4, Problem: "no such training key", Remedy: "did you mean lora_rank?"}))
	// Output: line 4: lora_rnk: no such training key; did you mean lora_rank?
}
