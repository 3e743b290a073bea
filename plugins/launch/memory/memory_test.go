package memory

import (
	"math"
	"testing"

	"github.com/fettle-hpc/fettle/plugins/launch/model"
)

var shapes = map[string]model.Shape{
	"llama2_7b":  shape(4096, 11008, 32, 4096, 4096, 32000, false),
	"llama2_13b": shape(5120, 13824, 40, 5120, 5120, 32000, false),
	"llama3_8b":  shape(4096, 14336, 32, 4096, 1024, 128256, false),
	"llama32_1b": shape(2048, 8192, 16, 2048, 512, 128256, true),
	"qwen3_06b":  shape(1024, 3072, 28, 2048, 1024, 151936, true),
	"qwen3_4b":   shape(2560, 9728, 36, 4096, 1024, 151936, true),
	"qwen25_7b":  shape(3584, 18944, 28, 3584, 512, 152064, false),
}

func shape(h, f, l, q, kv, v int64, tied bool) model.Shape {
	return model.Shape{Hidden: h, FFN: f, Layers: l, Query: q, KV: kv, Vocab: v, Tied: tied, Experts: 1, ActiveExperts: 1}
}

// TestVectors compares with peaks that PyTorch counted, and with the formula worked out elsewhere.
func TestVectors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		model  string
		method Method
		batch  int64
		cutoff int64
		gc     bool
		rank   int64
		// GiB
		tracked, formula float64
	}{
		{"llama2_7b", LoRA, 1, 2048, true, 8, 14.08, 13.93},
		{"llama2_7b", LoRA, 4, 2048, true, 8, 17.99, 17.63},
		{"llama2_7b", LoRA, 1, 2048, false, 8, 26.19, 26.02},
		{"llama3_8b", LoRA, 1, 2048, true, 8, 18.70, 18.55},
		{"llama3_8b", LoRA, 4, 2048, true, 8, 29.22, 28.86},
		{"llama3_8b", LoRA, 1, 8192, true, 8, 29.32, 28.86},
		{"llama3_8b", LoRA, 2, 2048, false, 8, 49.63, 49.46},
		{"llama3_8b", LoRA, 1, 2048, true, 64, 20.34, 19.64},
		{"qwen25_7b", LoRA, 2, 4096, true, 8, 30.15, 29.79},
		{"qwen3_06b", LoRA, 8, 2048, true, 8, 30.05, 29.84},
		{"qwen3_4b", LoRA, 2, 4096, true, 8, 23.22, 22.93},
		{"qwen3_06b", LoRA, 2, 2048, false, 8, 16.69, 16.56},
		{"llama32_1b", LoRA, 4, 2048, false, 8, 29.65, 29.34},
		{"llama2_7b", Full, 1, 2048, true, 8, 100.45, 101.02},
		{"llama3_8b", Full, 1, 2048, true, 8, 119.70, 120.35},
		{"llama3_8b", Full, 8, 2048, true, 8, 132.24, 125.16},
		{"llama3_8b", Full, 1, 2048, false, 8, 122.50, 119.66},
		{"llama2_13b", LoRA, 2, 2048, true, 8, 27.79, 27.59},
		{"llama32_1b", Full, 4, 2048, true, 8, 27.23, 26.55},
		{"qwen3_06b", Full, 2, 2048, true, 8, 14.40, 14.05},
		{"qwen3_4b", Full, 2, 4096, true, 8, 67.20, 62.84},
		{"llama3_8b", PureBF16, 1, 2048, true, 8, 59.86, 60.40},
		{"llama3_8b", PureBF16, 8, 2048, true, 8, 72.92, 72.36},
		{"qwen3_06b", PureBF16, 8, 2048, false, 8, 65.47, 65.23},
	}
	var sum float64
	for _, tt := range tests {
		e, err := Of(Input{Shape: shapes[tt.model], Method: tt.method, Rank: tt.rank, Batch: tt.batch, Cutoff: tt.cutoff, Accumulation: 1, NoCheckpointing: !tt.gc})
		if err != nil {
			t.Fatal(err)
		}
		peak := float64(e.PeakMiB) / 1024
		off := math.Abs(peak-tt.tracked) / tt.tracked
		sum += off
		if off > 0.07 {
			t.Errorf("%s method %d b=%d s=%d gc=%v: %.2f GiB, tracked %.2f (%.1f %% off)", tt.model, tt.method, tt.batch, tt.cutoff, tt.gc, peak, tt.tracked, 100*off)
		}
		if math.Abs(peak-tt.formula) > 0.05 {
			t.Errorf("%s method %d b=%d s=%d gc=%v: %.2f GiB, the formula says %.2f", tt.model, tt.method, tt.batch, tt.cutoff, tt.gc, peak, tt.formula)
		}
	}
	if mean := sum / float64(len(tests)); mean > 0.02 {
		t.Errorf("mean error %.1f %%, want at most 2 %%", 100*mean)
	}
}

// TestPublished compares the need with what trainers report for real runs.
func TestPublished(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		in   Input
		// GiB as reported, and the share by which the estimate may miss.
		want, within float64
	}{
		{"7B LoRA, table of the trainer", Input{Shape: shapes["llama2_7b"], Method: LoRA, Rank: 8, Batch: 1, Cutoff: 2048, Accumulation: 1}, 16, 0.1},
		{"7B QLoRA 4 bit, table of the trainer", Input{Shape: shapes["llama2_7b"], Method: QLoRA4, Rank: 8, Batch: 1, Cutoff: 1024, Accumulation: 1}, 6, 0.15},
		{"7B full AMP, table of the trainer", Input{Shape: shapes["llama2_7b"], Method: Full, Batch: 1, Cutoff: 2048, Accumulation: 1}, 112, 0.1},
		{"7B pure bf16, table of the trainer", Input{Shape: shapes["llama2_7b"], Method: PureBF16, Batch: 1, Cutoff: 2048, Accumulation: 1}, 56, 0.1},
		{"Qwen2.5-7B LoRA", Input{Shape: shapes["qwen25_7b"], Method: LoRA, Rank: 8, Batch: 1, Cutoff: 2048, Accumulation: 1}, 20.5, 0.1},
		{"Qwen3-4B LoRA", Input{Shape: shapes["qwen3_4b"], Method: LoRA, Rank: 8, Batch: 1, Cutoff: 2048, Accumulation: 1}, 12.1, 0.15},
		{"Qwen2.5-7B QLoRA", Input{Shape: shapes["qwen25_7b"], Method: QLoRA4, Rank: 8, Batch: 1, Cutoff: 2048, Accumulation: 1}, 10, 0.2},
		{"Qwen2.5-7B full bf16, unfused", Input{Shape: shapes["qwen25_7b"], Method: PureBF16, Batch: 1, Cutoff: 2048, Accumulation: 1, UnfusedAdam: true}, 76, 0.1},
	}
	for _, tt := range tests {
		e, err := Of(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		if need := float64(e.NeedMiB) / 1024; math.Abs(need-tt.want) > tt.within*tt.want {
			t.Errorf("%s: need %.1f GiB, reported %.1f", tt.name, need, tt.want)
		}
	}
}

func TestTermsAddUp(t *testing.T) {
	t.Parallel()
	for _, in := range []Input{
		{Shape: shapes["llama3_8b"], Method: LoRA, Rank: 8, Batch: 2, Cutoff: 2048, Accumulation: 8},
		{Shape: shapes["llama3_8b"], Method: Full, Batch: 1, Cutoff: 2048, Accumulation: 1, GPUs: 8, Sharding: ZeRO3, UnfusedAdam: true},
	} {
		e, err := Of(in)
		if err != nil {
			t.Fatal(err)
		}
		var sum int64
		for _, term := range e.Terms {
			if term.MiB <= 0 || term.Name == "" {
				t.Errorf("term %+v", term)
			}
			sum += term.MiB
		}
		if d := sum - e.NeedMiB; d < 0 || d > int64(len(e.Terms)) {
			t.Errorf("terms add up to %d MiB, the need is %d", sum, e.NeedMiB)
		}
	}
}

// TestDirections checks what must make the need grow or shrink.
func TestDirections(t *testing.T) {
	t.Parallel()
	base := Input{Shape: shapes["llama3_8b"], Method: Full, Batch: 4, Cutoff: 2048, Accumulation: 1}
	need := func(change func(*Input)) int64 {
		in := base
		change(&in)
		e, err := Of(in)
		if err != nil {
			t.Fatal(err)
		}
		return e.NeedMiB
	}
	plain := need(func(*Input) {})
	for name, c := range map[string]struct {
		change func(*Input)
		more   bool
	}{
		"larger batch":       {func(in *Input) { in.Batch = 8 }, true},
		"longer samples":     {func(in *Input) { in.Cutoff = 8192 }, true},
		"no checkpointing":   {func(in *Input) { in.Batch, in.NoCheckpointing = 8, true }, true},
		"accumulation":       {func(in *Input) { in.Accumulation = 8 }, true},
		"unfused optimizer":  {func(in *Input) { in.UnfusedAdam = true }, true},
		"8-bit optimizer":    {func(in *Input) { in.EightBitAdam = true }, false},
		"bf16 weights":       {func(in *Input) { in.Method = PureBF16 }, false},
		"adapter":            {func(in *Input) { in.Method, in.Rank = LoRA, 8 }, false},
		"4 bits":             {func(in *Input) { in.Method, in.Rank = QLoRA4, 8 }, false},
		"few layers":         {func(in *Input) { in.Method, in.TrainedLayers = Freeze, 2 }, false},
		"split over 8":       {func(in *Input) { in.GPUs, in.Sharding = 8, ZeRO3 }, false},
		"optimizer split":    {func(in *Input) { in.GPUs, in.Sharding = 8, ZeRO1 }, false},
		"copied to 2":        {func(in *Input) { in.GPUs = 2 }, true},
		"reference model":    {func(in *Input) { in.Reference = true }, true},
		"optimizer off card": {func(in *Input) { in.OffloadOptimizer = true }, false},
	} {
		if got := need(c.change); (got > plain) != c.more {
			t.Errorf("%s: %d MiB, plain %d", name, got, plain)
		}
	}
	base.Method, base.Rank = LoRA, 8
	if fused, plain := need(func(in *Input) { in.Liger = true }), need(func(*Input) {}); fused >= plain {
		t.Errorf("fused loss: %d MiB, plain %d", fused, plain)
	}
	base.Method = QLoRA4
	four := need(func(*Input) {})
	base.Method = QLoRA8
	if eight := need(func(*Input) {}); eight <= four {
		t.Errorf("8 bits: %d MiB, 4 bits %d", eight, four)
	}
}

func TestParams(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]float64{
		"llama2_7b": 6_738_415_616, "llama3_8b": 8_030_261_248, "llama32_1b": 1_235_814_400, "qwen3_06b": 596_049_920, "qwen25_7b": 7_615_616_512,
	} {
		if got, _ := Params(shapes[name]); math.Abs(got-want)/want > 0.0003 {
			t.Errorf("%s: %.0f parameters, want %.0f", name, got, want)
		}
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	ok := Input{Shape: shapes["qwen3_06b"], Method: LoRA, Rank: 8, Batch: 1, Cutoff: 1, Accumulation: 1}
	for name, change := range map[string]func(*Input){
		"no shape": func(in *Input) { in.Shape = model.Shape{} }, "no batch": func(in *Input) { in.Batch = 0 },
		"no cutoff": func(in *Input) { in.Cutoff = -1 }, "no accumulation": func(in *Input) { in.Accumulation = 0 },
	} {
		in := ok
		change(&in)
		if _, err := Of(in); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	huge := ok
	huge.Batch, huge.Cutoff = 1<<32, 1<<32
	if e, err := Of(huge); err != nil || e.NeedMiB <= 0 {
		t.Errorf("absurd batch: %+v, %v; the need must stay a positive number", e, err)
	}
}
