// Package memory predicts how much GPU memory a training run needs, from the model's shape and the config.
//
// The formula was fitted to PyTorch's own count of live tensors for LLaMA- and Qwen-shaped models and checked on full-size
// ones (worst error 7 %, see the test); what it says about sharding over several GPUs is arithmetic that was not measured.
package memory

import (
	"fmt"
	"math"

	"github.com/fettle-hpc/fettle/plugins/launch/model"
)

// MiB is the unit of every answer.
const MiB = 1 << 20

// Method is how the weights are held and trained.
type Method uint8

// The methods that the formula tells apart.
const (
	LoRA Method = iota + 1
	// QLoRA4 and QLoRA8 hold the base model's linear layers in 4 and 8 bits.
	QLoRA4
	QLoRA8
	// Full trains fp32 master weights under mixed precision, PureBF16 bf16 weights without a copy.
	Full
	PureBF16
	// Freeze trains some layers, in fp32.
	Freeze
)

// Sharding is how the model is split over the GPUs of a job.
type Sharding uint8

// What DeepSpeed calls its stages; FSDP counts as ZeRO3.
const (
	None Sharding = iota
	ZeRO1
	ZeRO2
	ZeRO3
)

// Input is what the need depends on.
type Input struct {
	Shape  model.Shape
	Method Method
	// Rank of the adapter (LoRA, QLoRA).
	Rank int64
	// TrainedLayers of Freeze.
	TrainedLayers int64
	// Batch is the micro-batch of one GPU, Cutoff the longest sample in tokens, Accumulation the micro-batches per step.
	Batch, Cutoff, Accumulation int64
	// NoCheckpointing keeps all activations instead of computing them again.
	NoCheckpointing bool
	// SingleQuant leaves the second quantisation of QLoRA4's constants out.
	SingleQuant bool
	// Liger fuses the loss with the output layer and does not hold the logits.
	Liger bool
	// EightBitAdam holds the optimizer's state in 8 bits; UnfusedAdam makes a temporary copy of what it updates.
	EightBitAdam, UnfusedAdam bool
	// GPUs of the whole job; 0 counts as 1.
	GPUs     int64
	Sharding Sharding
	// Reference says that an untrained copy of the model is held beside it (DPO of all weights).
	Reference bool
	// OffloadOptimizer holds the optimizer's state in host memory.
	OffloadOptimizer bool
}

// Term is one part of the need, in MiB. The terms of an estimate add up to its need but for rounding.
type Term struct {
	Name string
	MiB  int64
}

// Estimate is the need of one GPU.
type Estimate struct {
	NeedMiB int64
	// PeakMiB is what the tensors take at most, without the allowance for the allocator and the driver.
	PeakMiB int64
	Terms   []Term
}

// perToken are the bytes that one token costs, in multiples of the model's widths.
type perToken struct {
	kept, layerH, layerQ, layerF, allH, allQ, allF float64
}

var costs = map[Method]perToken{
	LoRA:     {2, 16.2, 24.7, 14.2, 4.2, 24.4, 8.1},
	Full:     {4, 17.0, 28.7, 12.1, 10.4, 27.2, 8.3},
	PureBF16: {2, 1.3, 29.7, 12.1, -4.4, 29.0, 8.1},
}

// Params answers the parameters of a model and of one of its layers' linear parts. Experts count all.
func Params(s model.Shape) (all, linear float64) {
	h, f, q, kv := float64(s.Hidden), float64(s.FFN), float64(s.Query), float64(s.KV)
	linear = h*q + 2*h*kv + q*h + 3*h*f*float64(s.Experts)
	emb := float64(s.Vocab) * h
	if !s.Tied {
		emb *= 2
	}
	return float64(s.Layers)*(linear+2*h) + emb + h, linear
}

// Of estimates the need. The shape must be valid and the numbers positive.
func Of(in Input) (Estimate, error) {
	if !in.Shape.Valid() {
		return Estimate{}, fmt.Errorf("memory estimate: shape of %q is not known", in.Shape.Type)
	}
	for _, n := range []int64{in.Batch, in.Cutoff, in.Accumulation} {
		if n <= 0 || n > 1<<32 {
			return Estimate{}, fmt.Errorf("memory estimate: batch %d, cutoff %d, accumulation %d must be positive", in.Batch, in.Cutoff, in.Accumulation)
		}
	}
	gpus := float64(max(in.GPUs, 1))
	weights, trainable := in.weights()
	if in.Reference {
		all, _ := Params(in.Shape)
		weights += 2 * all
	}
	gradients, optimizer := 4*trainable, 8*trainable
	if in.Method == PureBF16 {
		gradients, optimizer = 2*trainable, 4*trainable
	}
	if in.EightBitAdam {
		optimizer = 2 * trainable
	}
	var temporary float64
	if in.UnfusedAdam {
		temporary = gradients
	}
	activations := in.activations(gradients)
	buffers := 0.0
	switch in.Sharding {
	case None:
		if gpus > 1 {
			buffers = 4 * trainable
		}
	case ZeRO1:
		optimizer /= gpus
	case ZeRO2:
		optimizer /= gpus
		buffers = 2 << 30
	case ZeRO3:
		_, linear := Params(in.Shape)
		weights /= gpus
		optimizer /= gpus
		buffers = 2 * 2 * linear * 2
	}
	if in.OffloadOptimizer {
		optimizer = 0
	}
	peak := weights + optimizer + activations + buffers
	allowance := 0.10*(peak+temporary) + 1<<30
	if gpus > 1 {
		allowance += 0.7 * (1 << 30)
	}
	e := Estimate{NeedMiB: mib(peak + temporary + allowance), PeakMiB: mib(peak)}
	for _, t := range []struct {
		name  string
		bytes float64
	}{
		{"weights", weights}, {"optimizer", optimizer}, {"activations, gradients and loss", activations},
		{"optimizer's temporary copy", temporary}, {"buffers between GPUs", buffers}, {"allocator and driver", allowance},
	} {
		if t.bytes > 0 {
			e.Terms = append(e.Terms, Term{Name: t.name, MiB: mib(t.bytes)})
		}
	}
	return e, nil
}

// weights answers the bytes of the weights and the number of trained parameters.
func (in Input) weights() (bytes, trainable float64) {
	s := in.Shape
	all, linear := Params(s)
	h, f, q, kv, layers := float64(s.Hidden), float64(s.FFN), float64(s.Query), float64(s.KV), float64(s.Layers)
	emb := float64(s.Vocab) * h
	if !s.Tied {
		emb *= 2
	}
	adapter := layers * float64(in.Rank) * ((h + q) + 2*(h+kv) + (q + h) + 3*(h+f)*float64(s.Experts))
	switch in.Method {
	case QLoRA4:
		share := 0.516
		if in.SingleQuant {
			share = 0.5625
		}
		return layers*linear*share + 2*emb + 4*h*f + 4*adapter, adapter
	case QLoRA8:
		return layers*linear + 2*emb + 4*adapter, adapter
	case Full:
		return 4 * all, all
	case PureBF16:
		return 2 * all, all
	case Freeze:
		trained := math.Min(float64(in.TrainedLayers), layers) * (linear + 2*h)
		return 2*all + 2*trained, trained
	}
	return 2 * all, adapter
}

// activations answers the most that a step holds beside weights and optimizer: what is kept for the way back, the loss
// and the gradients.
func (in Input) activations(gradients float64) float64 {
	s := in.Shape
	h, q, layers := float64(s.Hidden), float64(s.Query), float64(s.Layers)
	f := float64(s.FFN) * float64(s.ActiveExperts)
	tokens := float64(in.Batch) * float64(in.Cutoff)
	method := in.Method
	switch method {
	case QLoRA4, QLoRA8:
		method = LoRA
	case Freeze:
		method = Full
	}
	c := costs[method]
	loss := 12 * float64(s.Vocab)
	if in.Liger {
		loss = 2 * h
	}
	held := 0.0
	if in.Accumulation > 1 {
		held = gradients
	}
	if in.NoCheckpointing {
		return math.Max(held+tokens*(layers*(c.allH*h+c.allQ*q+c.allF*f)+loss), gradients)
	}
	layer := c.layerH*h + c.layerQ*q + c.layerF*f
	act := math.Max(held+tokens*(layers*c.kept*h+math.Max(layer, loss)), gradients+tokens*layer)
	if s.Tied {
		share := map[Method]float64{Full: 8, PureBF16: 4}[method]
		act = math.Max(act, gradients+share*float64(s.Vocab)*h)
	}
	return act
}

func mib(bytes float64) int64 {
	if bytes >= math.MaxInt64/2 {
		return math.MaxInt64 / (2 * MiB)
	}
	return int64(math.Ceil(bytes / MiB))
}
