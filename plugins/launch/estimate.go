package launch

import (
	"context"
	"strings"

	"github.com/fettle-hpc/fettle/plugins/launch/memory"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// Estimate predicts GPU memory. It answers nothing for jobs without GPUs, for models whose shape is not known here, and for
// configs that Validate refuses.
func (l *Launcher) Estimate(_ context.Context, req *pluginv1.EstimateRequest) (*pluginv1.EstimateResponse, error) {
	r := l.prepare(req.GetConfig(), request{see: l.sees(req.GetConfig())})
	if r.cfg == nil || len(r.problems) > 0 || r.tc.GetGpusPerNode() == 0 || !r.shape.Valid() || r.cfg.Str("stage") == "ppo" {
		return &pluginv1.EstimateResponse{}, nil
	}
	e, err := memory.Of(r.memoryInput())
	if err != nil {
		return nil, err
	}
	out := &fettlev1.MemoryEstimate{NeedMib: e.NeedMiB}
	for _, t := range e.Terms {
		out.Terms = append(out.Terms, &fettlev1.EstimateTerm{Name: t.Name, Mib: t.MiB})
	}
	return &pluginv1.EstimateResponse{Memory: out}, nil
}

func (r *run) memoryInput() memory.Input {
	c := r.cfg
	optim := c.Str("optim")
	in := memory.Input{
		Shape:           r.shape,
		Method:          r.memoryMethod(),
		Rank:            c.Int("lora_rank", 8),
		TrainedLayers:   max(c.Int("freeze_trainable_layers", 2), -c.Int("freeze_trainable_layers", 2)),
		Batch:           c.Int("per_device_train_batch_size", trainerBatch),
		Cutoff:          c.Int("cutoff_len", defaultCutoff),
		Accumulation:    c.Int("gradient_accumulation_steps", trainerAccumulation),
		NoCheckpointing: c.Bool("disable_gradient_checkpointing", false),
		SingleQuant:     !c.Bool("double_quantization", true),
		Liger:           c.Bool("enable_liger_kernel", false),
		EightBitAdam:    strings.Contains(optim, "8bit"),
		UnfusedAdam:     optim == "adamw_torch",
		GPUs:            r.processes() * int64(max(1, r.tc.GetNodes())),
		Sharding:        r.sharding, OffloadOptimizer: r.offload,
	}
	switch c.Str("stage") {
	case "dpo", "rm":
		// Both answers of a pair go through the model at once.
		in.Batch *= 2
	}
	loss := c.Str("pref_loss")
	in.Reference = c.Str("stage") == "dpo" && c.Str("finetuning_type") != "lora" && loss != "orpo" && loss != "simpo"
	return in
}

func (r *run) memoryMethod() memory.Method {
	bits := r.cfg.Int("quantization_bit", 0)
	switch kind := r.cfg.Str("finetuning_type"); {
	case kind == "full" && r.cfg.Bool("pure_bf16", false):
		return memory.PureBF16
	case kind == "full":
		return memory.Full
	case kind == "freeze":
		return memory.Freeze
	case bits == 0 && r.shape.Quantised == "fp8", bits > 4:
		return memory.QLoRA8
	case bits > 0, r.shape.Quantised != "":
		return memory.QLoRA4
	}
	return memory.LoRA
}
