package launch

import (
	"fmt"

	"github.com/fettle-hpc/fettle/plugins/launch/config"
	"github.com/fettle-hpc/fettle/proto/trainconfig"
)

const (
	// maxLoggingSteps bounds how rarely the trainer reports.
	maxLoggingSteps = 10
	// ddpTimeout is how long a collective may hang, in seconds; maxDDPTimeout the longest that is taken for meant. Shipped
	// examples say 180000000, with which a hung job holds its GPUs for years.
	ddpTimeout    = 1800
	maxDDPTimeout = 24 * 3600
	// saveSteps are the steps between checkpoints where the user says nothing: adapters are small, whole models are not.
	saveStepsAdapter = 100
	saveStepsFull    = 200
	// keptCheckpoints: while the newest is written the one before must still be whole.
	keptCheckpoints = 2
	// trainerBatch and trainerAccumulation are the trainer's own defaults.
	trainerBatch        = 8
	trainerAccumulation = 1
	defaultCutoff       = 2048
	// trainerEvalSteps is the trainer's logging_steps, which eval_steps follows where neither is given.
	trainerLoggingSteps = 500
	trainerEpochs       = 3
)

// fill gives what the user left out and mends what would keep a retry from resuming.
func (r *run) fill() {
	c := r.cfg
	c.Fill("stage", config.String("sft"))
	c.Fill("do_train", config.Bool(true))
	c.Fill("cutoff_len", config.Int(defaultCutoff))

	logging := c.Float("logging_steps", trainerLoggingSteps)
	if c.Str("eval_strategy") == "steps" && !c.Has("eval_steps") && logging > maxLoggingSteps {
		// It follows logging_steps, which is lowered next.
		c.Fill("eval_steps", config.Float(logging))
	}
	strategy := c.Str("logging_strategy")
	switch {
	case strategy != "" && strategy != "steps":
		c.Force("logging_strategy", config.String("steps"), "progress is read from the trainer's log")
		c.Force("logging_steps", config.Float(maxLoggingSteps), "progress is read from the trainer's log")
	case !c.Has("logging_steps"):
		c.Fill("logging_steps", config.Float(maxLoggingSteps))
	case logging > maxLoggingSteps || logging < 1:
		c.Force("logging_steps", config.Float(maxLoggingSteps), "progress is read from the trainer's log")
	}

	c.Fill("save_strategy", config.String("steps"))
	if c.Str("save_strategy") == "steps" && !c.Has("save_steps") && !c.Bool("load_best_model_at_end", false) {
		steps := float64(saveStepsAdapter)
		if r.l.method == trainconfig.MethodFull {
			steps = saveStepsFull
		}
		c.Fill("save_steps", config.Float(steps))
	}
	if !c.Has("save_total_limit") {
		c.Fill("save_total_limit", config.Int(keptCheckpoints))
	} else if c.Int("save_total_limit", keptCheckpoints) < keptCheckpoints {
		c.Force("save_total_limit", config.Int(keptCheckpoints), "the last checkpoint must be whole while the next is written")
	}
	if c.Bool("save_only_model", false) {
		c.Force("save_only_model", config.Bool(false), "a retry cannot resume without the optimizer's state")
	} else {
		c.Fill("save_only_model", config.Bool(false))
	}
	if c.Bool("enable_jit_checkpoint", false) {
		c.Force("enable_jit_checkpoint", config.Bool(false), "it leaves torn checkpoints when ranks are told to stop at different times")
	}
	c.Fill("overwrite_output_dir", config.Bool(false))
	c.Fill("report_to", config.String("none"))
	switch timeout := c.Int("ddp_timeout", 0); {
	case timeout == 0:
		c.Fill("ddp_timeout", config.Int(ddpTimeout))
	case timeout > maxDDPTimeout:
		c.Force("ddp_timeout", config.Int(ddpTimeout), "a hung job would hold its GPUs for years")
	}
	c.Force("disable_tqdm", config.Bool(true), "the log is a file")
}

// processes answers how many processes train on each node.
func (r *run) processes() int64 { return max(1, int64(r.tc.GetGpusPerNode())) }

// distributed answers whether the processes run under torchrun.
func (r *run) distributed() bool {
	return r.processes() > 1 || r.tc.GetNodes() > 1 || r.cfg.Has("deepspeed")
}

// fitToDevice adapts the config to a job without a GPU to train on.
func (r *run) fitToDevice() {
	c := r.cfg
	if !r.cpu {
		if c.Bool("use_cpu", false) {
			c.Warn("use_cpu", "leaves the GPUs that the job asks for idle")
		}
		return
	}
	why := "no GPU was asked for"
	if r.tc.GetGpusPerNode() > 0 {
		why = "this node has no GPU driver: its GPUs are declared, not real"
	}
	for _, key := range []string{"enable_liger_kernel", "use_unsloth", "use_unsloth_gc", "fp8"} {
		if c.Bool(key, false) {
			r.refuse(key, "needs a GPU, and "+why, "remove it, or ask for a GPU with --gpus 1")
		}
	}
	c.Force("use_cpu", config.Bool(true), why)
	for _, key := range []string{"bf16", "fp16", "pure_bf16", "tf32"} {
		if c.Bool(key, false) {
			c.Force(key, config.Bool(false), why)
		}
	}
	if f := c.Str("flash_attn"); f == "fa2" || f == "fa3" {
		c.Force("flash_attn", config.String("auto"), why)
	}
	if r.distributed() {
		c.Force("ddp_backend", config.String("gloo"), why)
	}
	if c.Has("quantization_bit") {
		c.Warn("quantization_bit", fmt.Sprintf("%s: quantised training on the CPU is slow and needs a bitsandbytes that knows the CPU", why))
	}
}
