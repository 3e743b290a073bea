package launch

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/fettle-hpc/fettle/plugins/launch/checkpoint"
	"github.com/fettle-hpc/fettle/plugins/launch/config"
	"github.com/fettle-hpc/fettle/plugins/launch/dataset"
)

// start is where an attempt begins: at a checkpoint, or with an empty path at the beginning.
type start struct {
	path string
	step int64
}

// finalWeights are what a finished run leaves at the top of its output directory.
var finalWeights = []string{"adapter_model.safetensors", "adapter_model.bin", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"}

// settleStart picks the checkpoint that the attempt starts from. The trainer's own choice, the highest number, may be torn.
func (r *run) settleStart(attempt uint32) start {
	const key = "resume_from_checkpoint"
	c := r.cfg
	wanted := c.Str(key)
	latest := c.Bool(key, false)
	if wanted != "" {
		wanted = r.input(key, c.Get(key), wanted)
	}
	c.Drop(key, "")
	if why := r.cannotResume(); why != "" {
		if wanted != "" || latest {
			c.Note("dropped %s: %s", key, why)
		}
		return r.fromBeginning(attempt, why)
	}
	if attempt <= 1 && c.Bool("overwrite_output_dir", false) && !latest {
		if wanted != "" {
			return r.fromWanted(wanted)
		}
		return start{}
	}
	newest, torn, err := checkpoint.Latest(r.outputDir)
	if err != nil {
		r.refuse("output_dir", r.outputDir+" cannot be read: "+cause(err), "check its permissions on the node")
		return start{}
	}
	for _, t := range torn {
		c.Note("%s is not used: %s", filepath.Base(t.Path), t.Problem)
	}
	switch {
	case wanted != "" && (newest == nil || attempt <= 1):
		return r.fromWanted(wanted)
	case newest != nil && attempt <= 1 && r.finished(newest):
		r.refuse("output_dir", fmt.Sprintf("%s already holds a finished run of %d steps", r.outputDir, newest.Step), "choose another, ask for more steps or epochs, or set overwrite_output_dir: true")
		return start{}
	case newest != nil:
		return r.fromCheckpoint(newest.Path, newest.Step)
	case len(torn) > 0:
		return r.fromBeginning(attempt, "no checkpoint is complete")
	}
	return r.fromBeginning(attempt, "there is no checkpoint yet")
}

// finished answers whether a run of an earlier job ended at a checkpoint and the config asks for no more than it did.
// Started from there the trainer would train nothing, or a step too many, and write over the run's results.
func (r *run) finished(c *checkpoint.Info) bool {
	state, err := checkpoint.ReadState(filepath.Join(c.Path, stateName))
	if err != nil || state.MaxSteps <= 0 || state.Step < state.MaxSteps {
		return false
	}
	if steps := r.cfg.Int("max_steps", -1); steps > 0 {
		return steps <= state.Step
	}
	return r.cfg.Float("num_train_epochs", trainerEpochs) <= state.Epochs
}

// cannotResume answers why a run of this kind starts anew each time.
func (r *run) cannotResume() string {
	stage, kind := r.cfg.Str("stage"), r.cfg.Str("finetuning_type")
	switch {
	case stage == "ppo":
		return "the trainer cannot resume stage: ppo"
	case stage == "rm" && (kind == "full" || kind == "freeze"):
		return "the trainer cannot resume stage: rm with finetuning_type: " + kind
	}
	return ""
}

// checkWanted looks at submit whether the checkpoint that the user names is there. Whether it is complete is settled at
// each start.
func (r *run) checkWanted() {
	const key = "resume_from_checkpoint"
	wanted := r.cfg.Str(key)
	if r.planning || !r.see || wanted == "" || r.cannotResume() != "" {
		return
	}
	p := r.input(key, r.cfg.Get(key), wanted)
	if strings.HasPrefix(p, "~") {
		return
	}
	err := dataset.Exists(p)
	var refusal *dataset.Refusal
	if errors.As(err, &refusal) {
		err = &dataset.Refusal{Problem: refusal.Problem, Remedy: "give a complete checkpoint-N directory"}
	}
	r.judge(key, p, err)
}

func (r *run) fromWanted(path string) start {
	const key = "resume_from_checkpoint"
	info, err := checkpointOf(path)
	if err != nil {
		r.refuse(key, path+" "+err.Error(), "give a complete checkpoint-N directory")
		return start{}
	}
	return r.fromCheckpoint(path, info)
}

// checkpointOf answers the step of a checkpoint that the user names, which may be called anything.
func checkpointOf(path string) (int64, error) {
	if err := dataset.Exists(path); err != nil {
		var refusal *dataset.Refusal
		if errors.As(err, &refusal) {
			return 0, errors.New(refusal.Problem)
		}
		return 0, fmt.Errorf("cannot be resumed from: %s", cause(err))
	}
	state, err := checkpoint.ReadState(filepath.Join(path, stateName))
	if err != nil {
		return 0, fmt.Errorf("is no checkpoint: %s: %s", stateName, cause(err))
	}
	if err := checkpoint.Check(path, state.Step); err != nil {
		return 0, fmt.Errorf("is not complete: %w", err)
	}
	return state.Step, nil
}

func (r *run) fromCheckpoint(path string, step int64) start {
	r.cfg.Put("resume_from_checkpoint", config.String(path))
	r.cfg.Note("resumes from %s", path)
	if r.cfg.Bool("overwrite_output_dir", false) {
		r.cfg.Force("overwrite_output_dir", config.Bool(false), "the attempt resumes")
	}
	if r.cfg.Str("stage") == "rm" && !r.cfg.Has("adapter_name_or_path") {
		// In this stage the trainer restores the optimizer but not the adapter.
		r.cfg.Force("adapter_name_or_path", config.String(path), "stage: rm takes the adapter from here when it resumes")
	}
	return start{path: path, step: step}
}

// fromBeginning keeps the trainer from resuming by itself and from tripping over what an earlier attempt left.
func (r *run) fromBeginning(attempt uint32, why string) start {
	left := r.leftovers()
	if attempt <= 1 && left != "" && !strings.HasPrefix(left, "checkpoint-") && !r.cfg.Bool("overwrite_output_dir", false) {
		r.refuse("output_dir", fmt.Sprintf("%s already holds a trained model (%s) and no checkpoint to go on from", r.outputDir, left), "choose another, or set overwrite_output_dir: true")
		return start{}
	}
	if attempt > 1 {
		r.cfg.Note("starts from the beginning: %s", why)
	}
	if left != "" {
		r.cfg.Force("overwrite_output_dir", config.Bool(true), why)
	}
	return start{}
}

// leftovers names something in the output directory that the trainer would stumble over, "" when there is nothing.
func (r *run) leftovers() string {
	for _, name := range finalWeights {
		if dataset.Exists(filepath.Join(r.outputDir, name)) == nil {
			return name
		}
	}
	if all, err := checkpoint.List(r.outputDir); err == nil && len(all) > 0 {
		return filepath.Base(all[0].Path)
	}
	return ""
}
