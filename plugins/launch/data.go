package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fettle-hpc/fettle/plugins/launch/bounded"
	"github.com/fettle-hpc/fettle/plugins/launch/config"
	"github.com/fettle-hpc/fettle/plugins/launch/dataset"
	"github.com/fettle-hpc/fettle/plugins/launch/memory"
)

// resolveData finds the training data, of the short form or by name.
func (r *run) resolveData() {
	if r.cfg.Has("data_path") {
		r.resolveFiles()
		return
	}
	r.resolveNames()
}

func (r *run) resolveFiles() {
	const key = "data_path"
	if r.cfg.Has("eval_dataset") {
		r.refuse("eval_dataset", "is looked up by name, which does not go with data_path", "use val_size, or list both in a dataset_info.json")
	}
	if r.cfg.Has("dataset_dir") {
		r.cfg.Drop("dataset_dir", "data_path names the data itself")
	}
	v := r.cfg.Get(key)
	var infos []*dataset.Info
	seen := r.see
	for _, text := range r.cfg.List(key) {
		p := r.input(key, v, text)
		info := dataset.Unseen(p)
		if r.see && !strings.HasPrefix(p, "~") {
			found, err := dataset.Inspect(p)
			if r.judge(key, p, err) {
				info = found
			} else {
				seen = false
			}
		}
		infos = append(infos, info)
	}
	if len(infos) == 0 {
		return
	}
	if seen {
		r.checkStage(infos)
	}
	names := make([]string, len(infos))
	for i := range infos {
		names[i] = dataset.Name(i)
		if infos[i].Media && !r.cfg.Has("media_dir") {
			r.cfg.Fill("media_dir", config.String(filepath.Dir(infos[i].Path)))
		}
	}
	stage := r.cfg.Str("stage")
	data, err := dataset.InfoFile(infos, stage)
	if err != nil {
		r.refuse(key, err.Error(), "rename the file")
		return
	}
	r.dataInfo = data
	text := v.Text()
	r.cfg.Drop(key, "")
	r.cfg.Note("spelled out data_path: %s as dataset: %s in %s", text, strings.Join(names, ","), filepath.Join(r.dataDir, dataset.InfoName))
	r.cfg.Put("dataset", config.String(strings.Join(names, ",")))
	r.cfg.Put("dataset_dir", config.String(r.dataDir))
}

// checkStage compares the stage with what the data is good for, and settles it for plain text.
func (r *run) checkStage(infos []*dataset.Info) {
	stage := r.cfg.Str("stage")
	for _, info := range infos {
		good := info.Stages()
		switch {
		case stage == "" && info.PlainText:
			stage = "pt"
			r.cfg.Fill("stage", config.String(stage))
		case stage == "" && info.Pairs:
			r.refuse("stage", fmt.Sprintf("is missing, and %s holds pairs of chosen and rejected answers", info.Path), "add stage: dpo, or stage: rm")
			return
		case stage != "" && !slices.Contains(good, stage):
			what := "prompts and answers"
			if info.Pairs {
				what = "pairs of chosen and rejected answers"
			} else if info.PlainText {
				what = "plain text"
			}
			r.refuse("stage", fmt.Sprintf("%s does not go with %s, which holds %s", stage, info.Path, what), "write stage: "+good[0]+", or change the data")
			return
		}
	}
}

func (r *run) resolveNames() {
	if !r.cfg.Has("dataset") {
		return
	}
	const key = "dataset_dir"
	dir := r.cfg.Str(key)
	if dir == "ONLINE" || strings.HasPrefix(dir, "REMOTE:") {
		r.hubData = true
		return
	}
	if dir == "" {
		dir = "data"
	}
	p := r.input(key, r.cfg.Get(key), dir)
	if r.cfg.Has(key) {
		r.cfg.Resolve(key, config.String(p))
	} else {
		r.cfg.Fill(key, config.String(p))
	}
	if !r.see || strings.HasPrefix(p, "~") {
		r.hubData = true
		return
	}
	for _, key := range []string{"dataset", "eval_dataset"} {
		names := r.cfg.List(key)
		if len(names) == 0 {
			continue
		}
		err := dataset.Named(p, names, config.Nearest)
		var refusal *dataset.Refusal
		switch {
		case errors.As(err, &refusal):
			problem := refusal.Problem
			if strings.HasPrefix(problem, "is ") {
				problem = strings.Join(names, ",") + " " + problem
			}
			r.refuse(key, problem, refusal.Remedy)
		case err != nil:
			r.judge(key, p, err)
		}
		r.hubData = r.hubData || dataset.Remote(p, names)
	}
}

// maxDeepSpeed bounds a DeepSpeed config.
const maxDeepSpeed = 1 << 20

// resolveDeepSpeed reads how DeepSpeed shards the model, and refuses what does not go with it.
func (r *run) resolveDeepSpeed() {
	const key = "deepspeed"
	if !r.cfg.Has(key) {
		return
	}
	data := r.cfg.Get(key).JSON()
	if text := r.cfg.Str(key); text != "" {
		p := r.input(key, r.cfg.Get(key), text)
		r.cfg.Resolve(key, config.String(p))
		if !r.see || strings.HasPrefix(p, "~") {
			return
		}
		read, err := bounded.ReadFile(p, maxDeepSpeed)
		switch {
		case bounded.Missing(err):
			err = &dataset.Refusal{Problem: "does not exist", Remedy: "give a path relative to the config, or absolute"}
		case errors.Is(err, bounded.ErrNotRegular), errors.Is(err, bounded.ErrTooLarge):
			err = &dataset.Refusal{Problem: "is no DeepSpeed config", Remedy: "give a JSON file"}
		}
		if !r.judge(key, p, err) {
			return
		}
		data = read
	}
	var ds struct {
		Zero struct {
			Stage     int64 `json:"stage"`
			Optimizer *struct {
				Device string `json:"device"`
			} `json:"offload_optimizer"`
		} `json:"zero_optimization"`
	}
	if err := json.Unmarshal(data, &ds); err != nil {
		r.refuse(key, "is not valid JSON with a zero_optimization.stage", "check its quotes, commas and brackets")
		return
	}
	if ds.Zero.Stage < 0 || ds.Zero.Stage > 3 {
		r.refuse(key, fmt.Sprintf("has zero_optimization.stage %d", ds.Zero.Stage), "write 0, 1, 2 or 3")
		return
	}
	r.sharding = []memory.Sharding{memory.None, memory.ZeRO1, memory.ZeRO2, memory.ZeRO3}[ds.Zero.Stage]
	r.offload = ds.Zero.Optimizer != nil && ds.Zero.Optimizer.Device == "cpu"
	if r.sharding != memory.ZeRO3 {
		return
	}
	for _, key := range []string{"predict_with_generate", "pure_bf16", "use_unsloth", "use_kt", "pissa_init"} {
		if r.cfg.Bool(key, false) {
			r.refuse(key, "does not work with DeepSpeed ZeRO-3", "remove it, or use ZeRO-2")
		}
	}
	if r.cfg.Has("quantization_bit") && (r.cfg.Int("quantization_bit", 4) != 4 || r.cfg.Str("quantization_method") != "bnb") {
		r.refuse("quantization_bit", "DeepSpeed ZeRO-3 takes bnb with 4 bits only", "write quantization_bit: 4, or use ZeRO-2")
	}
}
