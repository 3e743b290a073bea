package config

import (
	"fmt"
	"slices"

	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
	"github.com/fettle-hpc/fettle/proto/trainconfig"
)

// bounds are the ranges outside which the trainer fails or trains nothing.
var bounds = map[string]struct {
	min, max float64
	// open leaves the minimum itself out.
	open   bool
	remedy string
}{
	"cutoff_len":                  {min: 1, max: 1 << 24, remedy: "write 2048"},
	"dataloader_num_workers":      {min: 0, max: 1024, remedy: "write 0 or a few"},
	"ddp_timeout":                 {min: 1, max: 1 << 40, remedy: "write 1800"},
	"eval_steps":                  {min: 0, max: 1e12, open: true, remedy: "write 500"},
	"gradient_accumulation_steps": {min: 1, max: 1 << 20, remedy: "write 8"},
	"label_smoothing_factor":      {min: 0, max: 1, remedy: "write 0.1"},
	"learning_rate":               {min: 0, max: 10, open: true, remedy: "write 1.0e-4"},
	"logging_steps":               {min: 0, max: 1e12, open: true, remedy: "write 10"},
	"lora_alpha":                  {min: 1, max: 1 << 20, remedy: "write twice the lora_rank, or leave it out"},
	"lora_dropout":                {min: 0, max: 0.999, remedy: "write 0.05"},
	"lora_rank":                   {min: 1, max: 1 << 16, remedy: "write 8"},
	"max_grad_norm":               {min: 0, max: 1e9, remedy: "write 1.0"},
	"max_samples":                 {min: 1, max: 1e15, remedy: "write 1000, or leave it out"},
	"num_train_epochs":            {min: 0, max: 1e6, open: true, remedy: "write 3.0"},
	"per_device_eval_batch_size":  {min: 1, max: 1 << 20, remedy: "write 1"},
	"per_device_train_batch_size": {min: 1, max: 1 << 20, remedy: "write 1"},
	"preprocessing_num_workers":   {min: 1, max: 1024, remedy: "write 4"},
	"save_steps":                  {min: 0, max: 1e12, open: true, remedy: "write 100"},
	"save_total_limit":            {min: 1, max: 1e9, remedy: "write 2"},
	"seed":                        {min: 0, max: 1<<32 - 1, remedy: "write 42"},
	"val_size":                    {min: 0, max: 1e12, remedy: "write 0.1"},
	"warmup_ratio":                {min: 0, max: 1, remedy: "write 0.1"},
	"warmup_steps":                {min: 0, max: 1e12, remedy: "write 100"},
}

// quantizers are the bits that each method of quantising while loading knows.
var quantizers = map[string][]int64{"bnb": {4, 8}, "hqq": {1, 2, 3, 4, 5, 6, 8}, "eetq": {8}}

// contradictions answers what the trainer would refuse, or worse, accept and do nothing.
func (c *Config) contradictions() []*pluginv1.Problem {
	var found []*pluginv1.Problem
	add := func(key, problem, remedy string) { found = append(found, c.problem(key, problem, remedy)) }
	c.checkBounds(add)
	c.checkMethod(add)
	c.checkData(add)
	c.checkStage(add)
	c.checkTraining(add)
	return found
}

func (c *Config) checkBounds(add func(key, problem, remedy string)) {
	for _, key := range c.order {
		b, ok := bounds[key]
		if !ok {
			continue
		}
		v := c.vals[key]
		var x float64
		switch v.kind {
		case kindInt:
			x = float64(v.i)
		case kindFloat:
			x = v.f
		default:
			continue
		}
		switch {
		case x < b.min || (b.open && x == b.min):
			bound := "at least"
			if b.open {
				bound = "more than"
			}
			add(key, fmt.Sprintf("must be %s %s, not %s", bound, trim(b.min), trim(x)), b.remedy)
		case x > b.max:
			add(key, fmt.Sprintf("must be at most %s, not %s", trim(b.max), trim(x)), b.remedy)
		}
	}
	if n := c.Int("max_steps", -1); n == 0 || n < -1 {
		add("max_steps", fmt.Sprintf("must be -1 or more than 0, not %d", n), "write 100, or leave it out")
	}
}

func trim(f float64) string { return fmt.Sprintf("%g", f) }

func (c *Config) checkMethod(add func(key, problem, remedy string)) {
	kind := c.Str("finetuning_type")
	if bits, ok := c.vals["quantization_bit"]; ok {
		method := c.Str("quantization_method")
		if method == "" {
			method = "bnb"
		}
		allowed, known := quantizers[method]
		switch {
		case kind == "full" || kind == "freeze":
			add("quantization_bit", fmt.Sprintf("works with lora or oft only, not with finetuning_type: %s%s", kind, onLine(c.given["finetuning_type"])), "remove it, or write finetuning_type: lora")
		case !known:
			add("quantization_method", method+" is for models that are quantised already", "remove quantization_bit, or write quantization_method: bnb")
		case !slices.Contains(allowed, bits.i):
			add("quantization_bit", fmt.Sprintf("%s quantises to %s bits, not to %d", method, intList(allowed), bits.i), fmt.Sprintf("write %d", allowed[0]))
		}
		for _, x := range []struct{ key, why string }{
			{"pissa_init", "needs a base model that is not quantised"},
			{"resize_vocab", "cannot change the embeddings of a quantised model"},
			{"fp8", "does not go with quantization_bit"},
		} {
			if c.Bool(x.key, false) {
				add(x.key, x.why, "remove it or quantization_bit")
			}
		}
		if c.Bool("create_new_adapter", false) && c.Has("adapter_name_or_path") {
			add("create_new_adapter", "cannot add an adapter to a quantised model that has one", "merge the adapter first")
		}
		if len(c.List("adapter_name_or_path")) > 1 {
			add("adapter_name_or_path", "a quantised model takes one adapter", "merge the adapters first")
		}
	}
	if c.Has("quantization_device_map") {
		add("quantization_device_map", "cannot be used in training", "remove it")
	}
	if kind != "lora" && kind != "" {
		for _, key := range []string{"use_rslora", "use_dora", "pissa_init"} {
			if c.Bool(key, false) {
				add(key, "works with finetuning_type: lora only, not with "+kind, "remove it")
			}
		}
		for _, key := range []string{"loraplus_lr_ratio", "adapter_name_or_path"} {
			if c.Has(key) {
				add(key, "works with finetuning_type: lora only, not with "+kind, "remove it")
			}
		}
		if c.Method == trainconfig.MethodFull {
			for _, key := range []string{"lora_rank", "lora_alpha", "lora_target", "lora_dropout"} {
				if c.Has(key) && c.Has("finetuning_type") {
					c.Warn(key, "has no effect with finetuning_type: "+kind)
				}
			}
		}
	}
	if c.Bool("use_llama_pro", false) && kind == "full" {
		add("use_llama_pro", "works with freeze or lora only", "remove it, or write finetuning_type: freeze")
	}
	var special []string
	for _, key := range []string{"use_galore", "use_apollo", "use_badam"} {
		if c.Bool(key, false) {
			special = append(special, key)
		}
	}
	if len(special) > 0 && (kind == "lora" || kind == "oft") {
		add(special[0], "does not go with finetuning_type: "+kind, "remove it, or write finetuning_type: full")
	}
	if len(special) > 1 {
		add(special[1], "cannot be used together with "+special[0], "keep one of them")
	}
	if c.Has("deepspeed") {
		for _, key := range special {
			if key != "use_badam" {
				add(key, "does not work with deepspeed", "remove one of them")
			}
		}
	}
}

func (c *Config) checkData(add func(key, problem, remedy string)) {
	val := c.Float("val_size", 0) > 1e-6
	eval := c.Has("eval_dataset")
	if !c.Has("model_name_or_path") && !c.bad["model_name_or_path"] {
		add("model_name_or_path", "is missing", "give a local path or a name on the hub")
	}
	switch {
	case c.Has("dataset") && c.Has("data_path"):
		add("data_path", "is given together with dataset"+onLine(c.given["dataset"]), "keep one of them")
	case c.bad["dataset"] || c.bad["data_path"]:
	case !c.Has("dataset") && !c.Has("data_path"):
		add("dataset", "is missing, there is nothing to train on", "give data_path: FILE, or dataset: NAME with dataset_dir")
	}
	if val && eval {
		add("val_size", "is given together with eval_dataset"+onLine(c.given["eval_dataset"]), "keep one of them")
	}
	if c.Bool("streaming", false) {
		if c.Int("max_steps", -1) <= 0 {
			add("streaming", "needs max_steps, since the length of the data is not known", "add max_steps: 1000")
		}
		if c.Has("max_samples") {
			add("max_samples", "does not go with streaming", "remove it")
		}
		if size := c.Float("val_size", 0); size > 1e-6 && size < 1 {
			add("val_size", "must be a whole number of examples with streaming", "write 100")
		}
	}
	if c.Has("interleave_probs") && (!c.Has("mix_strategy") || c.Str("mix_strategy") == "concat") {
		add("interleave_probs", "needs an interleaving mix_strategy", "add mix_strategy: interleave_under")
	} else if n, m := len(c.List("interleave_probs")), len(c.List("dataset")); n > 0 && m > 0 && n != m {
		add("interleave_probs", fmt.Sprintf("has %d entries for %d datasets", n, m), "give one for each dataset")
	}
	if c.Bool("mask_history", false) && c.Bool("train_on_prompt", false) {
		add("mask_history", "does not go with train_on_prompt", "keep one of them")
	}
	evaluates := c.Bool("do_eval", false) || c.Bool("do_predict", false) || c.Bool("predict_with_generate", false)
	strategy := c.Str("eval_strategy")
	key := "eval_strategy"
	if evaluates && (strategy == "" || strategy == "no") {
		key = "do_eval"
		for _, k := range []string{"do_predict", "predict_with_generate"} {
			if !c.Bool("do_eval", false) && c.Bool(k, false) {
				key = k
			}
		}
	}
	if (evaluates || (strategy != "" && strategy != "no")) && !val && !eval {
		add(key, "needs something to evaluate on", "add val_size: 0.1 or an eval_dataset")
	}
	if lo, hi := c.Int("image_min_pixels", 32*32), c.Int("image_max_pixels", 768*768); lo > hi {
		add("image_max_pixels", fmt.Sprintf("is less than image_min_pixels, %d", lo), "raise it")
	}
	if lo, hi := c.Int("video_min_pixels", 16*16), c.Int("video_max_pixels", 256*256); lo > hi {
		add("video_max_pixels", fmt.Sprintf("is less than video_min_pixels, %d", lo), "raise it")
	}
}

func (c *Config) checkStage(add func(key, problem, remedy string)) {
	stage := c.Str("stage")
	if stage == "" {
		stage = "sft"
	}
	if stage != "sft" {
		for _, key := range []string{"predict_with_generate", "neat_packing", "train_on_prompt", "mask_history"} {
			if c.Bool(key, false) {
				add(key, "works with stage: sft only, not with "+stage, "remove it")
			}
		}
	} else if c.Bool("do_predict", false) && !c.Bool("predict_with_generate", false) {
		add("do_predict", "needs predict_with_generate", "add predict_with_generate: true")
	}
	if (stage == "rm" || stage == "ppo") && c.Bool("load_best_model_at_end", false) {
		add("load_best_model_at_end", "does not work with stage: "+stage, "remove it")
	}
	if c.Bool("predict_with_generate", false) && c.Bool("compute_accuracy", false) {
		add("compute_accuracy", "does not go with predict_with_generate", "keep one of them")
	}
	switch stage {
	case "ppo":
		if !c.Has("reward_model") {
			add("reward_model", "is missing, stage: ppo needs one", "give the path of a reward model")
		}
		if c.Bool("shift_attn", false) {
			add("shift_attn", "does not work with stage: ppo", "remove it")
		}
		kind, reward := c.Str("finetuning_type"), c.Str("reward_model_type")
		if (reward == "" || reward == "lora") && (kind == "full" || kind == "freeze") {
			add("reward_model_type", "cannot be lora with finetuning_type: "+kind, "write reward_model_type: full")
		}
	case "dpo":
		if loss := c.Str("pref_loss"); loss != "" && loss != "sigmoid" && c.Float("dpo_label_smoothing", 0) > 1e-6 {
			add("dpo_label_smoothing", "works with pref_loss: sigmoid only, not with "+loss, "remove it")
		}
	}
	refers := stage == "dpo" && c.Str("pref_loss") != "orpo" && c.Str("pref_loss") != "simpo"
	if c.Bool("pissa_init", false) && c.Str("finetuning_type") == "lora" && (stage == "ppo" || stage == "kto" || refers) {
		add("pissa_init", "does not work with stage: "+stage, "remove it")
	}
}

func (c *Config) checkTraining(add func(key, problem, remedy string)) {
	if !c.Bool("do_train", true) {
		add("do_train", "is false, so nothing would be trained", "remove it, or write do_train: true")
	}
	if c.Bool("fp16", false) && c.Bool("bf16", false) {
		add("fp16", "is given together with bf16"+onLine(c.given["bf16"]), "keep one of them")
	}
	if e := c.Str("infer_backend"); e != "" && e != "huggingface" {
		add("infer_backend", e+" cannot train", "remove it")
	}
	if c.Bool("load_best_model_at_end", false) {
		save, eval := c.Str("save_strategy"), c.Str("eval_strategy")
		if save == "" {
			save = "steps"
		}
		if eval == "" {
			eval = "no"
		}
		if save != eval && save != "best" {
			add("load_best_model_at_end", fmt.Sprintf("needs eval_strategy %s to be the same as save_strategy %s", eval, save), "add eval_strategy: "+save)
		}
	}
	if c.Str("save_strategy") == "no" {
		c.Warn("save_strategy", "without checkpoints a retry starts from the beginning")
	}
	if c.Bool("auto_find_batch_size", false) {
		c.Warn("auto_find_batch_size", "changes the global batch; fettle itself retries with a smaller micro-batch and more accumulation")
	}
	for _, key := range []string{"hub_token", "hf_hub_token", "ms_hub_token", "om_hub_token", "swanlab_api_key", "swanlab_lark_secret"} {
		if c.Has(key) {
			c.Warn(key, "is kept with the job in plain text; set it in the job's environment instead")
		}
	}
}

func intList(ints []int64) string {
	words := make([]string, len(ints))
	for i, n := range ints {
		words[i] = fmt.Sprint(n)
	}
	return list(words)
}
