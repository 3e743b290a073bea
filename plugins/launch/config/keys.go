package config

import (
	_ "embed"
	"slices"
	"strings"
	"sync"
)

// keysTSV is compiled by genkeys.py.
//
//go:embed keys.tsv
var keysTSV string

// Key is what is known of one training key.
type Key struct {
	Name string
	// Choices are the values that it takes; empty means any.
	Choices []string
	// Old keys are refused by newer trainers.
	Old bool

	types []string
}

// is answers whether a value of the type ("bool", "int", "float", "str", "list", "map") is right for the key.
func (k Key) is(typ string) bool {
	return slices.Contains(k.types, typ) || slices.Contains(k.types, "any")
}

var table = sync.OnceValue(func() map[string]Key {
	keys := make(map[string]Key, 400)
	for line := range strings.Lines(keysTSV) {
		f := append(strings.Split(strings.TrimRight(line, "\n"), "\t"), "", "")
		k := Key{Name: f[0], types: strings.Split(f[1], ","), Old: f[3] == "old"}
		if f[2] != "" {
			k.Choices = strings.Split(f[2], "|")
		}
		keys[k.Name] = k
	}
	return keys
})

// Lookup answers what is known of a key.
func Lookup(name string) (Key, bool) {
	k, ok := table()[name]
	return k, ok
}

// shortForm are keys that only fettle knows; Load spells them out.
var shortForm = map[string]Key{
	"data_path":    {Name: "data_path", types: []string{"str", "list"}},
	"load_in_4bit": {Name: "load_in_4bit", types: []string{"bool"}},
	"load_in_8bit": {Name: "load_in_8bit", types: []string{"bool"}},
}

// elsewhere maps what other trainers, older releases and articles call a key to its name here.
var elsewhere = map[string]string{
	"accumulation_steps":          "gradient_accumulation_steps",
	"adapter_path":                "adapter_name_or_path",
	"base_model":                  "model_name_or_path",
	"batch_size":                  "per_device_train_batch_size",
	"bits":                        "quantization_bit",
	"block_size":                  "cutoff_len",
	"chat_template":               "template",
	"checkpoint_dir":              "adapter_name_or_path",
	"data":                        "data_path",
	"data_dir":                    "dataset_dir",
	"data_file":                   "data_path",
	"datasets":                    "dataset",
	"dataset_path":                "data_path",
	"device":                      "fsubmit --device",
	"epochs":                      "num_train_epochs",
	"eval_batch_size":             "per_device_eval_batch_size",
	"evaluation_strategy":         "eval_strategy",
	"gpus":                        "fsubmit --gpus",
	"grad_accum":                  "gradient_accumulation_steps",
	"load_best_model":             "load_best_model_at_end",
	"lora_r":                      "lora_rank",
	"lora_target_modules":         "lora_target",
	"lr":                          "learning_rate",
	"max_length_tokens":           "cutoff_len",
	"max_seq_len":                 "cutoff_len",
	"max_seq_length":              "cutoff_len",
	"max_source_length":           "cutoff_len",
	"max_target_length":           "cutoff_len",
	"method":                      "finetuning_type",
	"micro_batch_size":            "per_device_train_batch_size",
	"model":                       "model_name_or_path",
	"model_name":                  "model_name_or_path",
	"model_path":                  "model_name_or_path",
	"n_gpu":                       "fsubmit --gpus",
	"num_epochs":                  "num_train_epochs",
	"output":                      "output_dir",
	"output_path":                 "output_dir",
	"peft_type":                   "finetuning_type",
	"priority":                    "fsubmit --priority",
	"quantization":                "quantization_bit",
	"r":                           "lora_rank",
	"rank":                        "lora_rank",
	"save_dir":                    "output_dir",
	"scheduler":                   "lr_scheduler_type",
	"sequence_len":                "cutoff_len",
	"target_modules":              "lora_target",
	"train_batch_size":            "per_device_train_batch_size",
	"train_data":                  "data_path",
	"train_dataset":               "dataset",
	"train_file":                  "data_path",
	"training_type":               "finetuning_type",
	"use_flash_attention":         "flash_attn",
	"use_gradient_checkpointing":  "disable_gradient_checkpointing",
	"warmup":                      "warmup_steps",
	"wandb_project":               "project",
	"per_device_batch_size":       "per_device_train_batch_size",
	"gradient_accumulation":       "gradient_accumulation_steps",
	"resume":                      "resume_from_checkpoint",
	"steps":                       "max_steps",
	"validation_split_percentage": "val_size",
}

// Suggest answers the known key that was most likely meant, or "".
func Suggest(name string, extra []string) string {
	norm := strings.ReplaceAll(strings.ToLower(strings.TrimLeft(name, "-")), "-", "_")
	if to, ok := elsewhere[norm]; ok {
		return to
	}
	candidates := make([]string, 0, len(table())+len(shortForm)+len(extra))
	for k := range table() {
		candidates = append(candidates, k)
	}
	for k := range shortForm {
		candidates = append(candidates, k)
	}
	return Nearest(norm, append(candidates, extra...))
}

// Nearest answers the candidate that differs least from word, or "" when none is near enough to be a slip.
func Nearest(word string, candidates []string) string {
	most := min(2, len(word)/3)
	best, at := "", most+1
	for _, c := range candidates {
		d := distance(word, c, most)
		if d < at || (d == at && at <= most && c < best) {
			best, at = c, d
		}
	}
	return best
}

// distance counts the letters to insert, drop, change or swap with their neighbour; above most it answers most+1.
func distance(a, b string, most int) int {
	if len(a)-len(b) > most || len(b)-len(a) > most {
		return most + 1
	}
	if a == b {
		return 0
	}
	before, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		least := i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
			least = min(least, row[j])
		}
		if least > most {
			return most + 1
		}
		before, prev, row = prev, row, before
	}
	return prev[len(b)]
}
