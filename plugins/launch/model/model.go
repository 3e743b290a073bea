// Package model knows base models: their shape from config.json or, for a few well-known ones, from their name, and the
// prompt template that belongs to their family.
package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/fettle-hpc/fettle/plugins/launch/bounded"
)

// ConfigName is the file that makes a directory a model.
const ConfigName = "config.json"

const maxConfig = 1 << 20

// ErrNoConfig is the error for a directory that holds no model.
var ErrNoConfig = errors.New("no config.json in it")

// Shape is what the memory of a training run depends on.
type Shape struct {
	// Type is the architecture's name, e.g. "qwen3".
	Type string
	// Hidden is the width, FFN the inner width of the feed-forward part, Layers the depth.
	Hidden, FFN, Layers int64
	// Query and KV are the widths of the attention's projections: heads times head size.
	Query, KV int64
	Vocab     int64
	// Tied says that input and output embeddings are one.
	Tied bool
	// Experts is the number of feed-forward parts per layer, ActiveExperts how many a token passes; both 1 for dense models.
	Experts, ActiveExperts int64
	// Quantised names the method by which the weights are stored quantised, "" when they are not.
	Quantised string
}

// Valid answers whether the numbers that an estimate needs are there and sane.
func (s Shape) Valid() bool {
	for _, n := range []int64{s.Hidden, s.FFN, s.Layers, s.Query, s.KV, s.Vocab} {
		if n <= 0 || n > 1<<24 {
			return false
		}
	}
	return s.Experts > 0 && s.Experts <= 1<<16 && s.ActiveExperts > 0 && s.ActiveExperts <= s.Experts
}

// Read reads the shape of the model in a directory. A shape that is not Valid is no error: the model can still be trained.
func Read(dir string) (Shape, error) {
	data, err := bounded.ReadFile(filepath.Join(dir, ConfigName), maxConfig)
	if bounded.Missing(err) {
		return Shape{}, fmt.Errorf("%s: %w", dir, ErrNoConfig)
	}
	if err != nil {
		return Shape{}, err
	}
	return Parse(data)
}

type hfConfig struct {
	ModelType       string `json:"model_type"`
	Hidden          int64  `json:"hidden_size"`
	Intermediate    int64  `json:"intermediate_size"`
	MoEIntermediate int64  `json:"moe_intermediate_size"`
	Layers          int64  `json:"num_hidden_layers"`
	Heads           int64  `json:"num_attention_heads"`
	KVHeads         *int64 `json:"num_key_value_heads"`
	HeadDim         *int64 `json:"head_dim"`
	Vocab           int64  `json:"vocab_size"`
	Tied            *bool  `json:"tie_word_embeddings"`
	// Experts by the names that families give them.
	Experts       int64 `json:"num_experts"`
	LocalExperts  int64 `json:"num_local_experts"`
	RoutedExperts int64 `json:"n_routed_experts"`
	PerToken      int64 `json:"num_experts_per_tok"`
	// GPT-2 and its kin.
	Embd  int64 `json:"n_embd"`
	Inner int64 `json:"n_inner"`
	Layer int64 `json:"n_layer"`
	Head  int64 `json:"n_head"`

	Quantization *struct {
		Method string `json:"quant_method"`
	} `json:"quantization_config"`
	Text *hfConfig `json:"text_config"`
}

// tiedByDefault are architectures whose config leaves tie_word_embeddings out when it is true.
var tiedByDefault = map[string]bool{"gemma": true, "gemma2": true, "gemma3": true, "gemma3_text": true, "gpt2": true, "cohere": true, "cohere2": true, "falcon": true}

// Parse reads a config.json.
func Parse(data []byte) (Shape, error) {
	var top hfConfig
	if err := json.Unmarshal(data, &top); err != nil {
		return Shape{}, fmt.Errorf("%s: %w", ConfigName, err)
	}
	c := top
	if top.Text != nil && c.Hidden == 0 {
		// A model that also sees or hears keeps its language part here.
		c = *top.Text
		if c.Tied == nil {
			c.Tied = top.Tied
		}
	}
	s := Shape{
		Type: top.ModelType, Hidden: first(c.Hidden, c.Embd), Layers: first(c.Layers, c.Layer), Vocab: c.Vocab,
		Experts: first(c.Experts, c.LocalExperts, c.RoutedExperts, 1), ActiveExperts: 1, Tied: tiedByDefault[c.ModelType],
	}
	if c.Tied != nil {
		s.Tied = *c.Tied
	}
	if s.Experts > 1 {
		s.ActiveExperts = min(max(c.PerToken, 1), s.Experts)
		s.FFN = first(c.MoEIntermediate, c.Intermediate)
	} else {
		s.FFN = first(c.Intermediate, c.Inner, 4*c.Embd)
	}
	heads := first(c.Heads, c.Head)
	kvHeads := heads
	if c.KVHeads != nil && *c.KVHeads > 0 {
		kvHeads = *c.KVHeads
	}
	if heads > 0 && heads < 1<<16 && kvHeads < 1<<16 {
		dim := s.Hidden / heads
		if c.HeadDim != nil && *c.HeadDim > 0 && *c.HeadDim < 1<<16 {
			dim = *c.HeadDim
		}
		s.Query, s.KV = heads*dim, kvHeads*dim
	}
	if top.Quantization != nil {
		s.Quantised = top.Quantization.Method
		if s.Quantised == "" {
			s.Quantised = "quantised"
		}
	}
	return s, nil
}

func first(numbers ...int64) int64 {
	for _, n := range numbers {
		if n > 0 {
			return n
		}
	}
	return 0
}

// known are the shapes of models that are often trained and often not on the controller's disk.
var known = map[string]Shape{
	"meta-llama/llama-2-7b":   {"llama", 4096, 11008, 32, 4096, 4096, 32000, false, 1, 1, ""},
	"meta-llama/llama-2-13b":  {"llama", 5120, 13824, 40, 5120, 5120, 32000, false, 1, 1, ""},
	"meta-llama/llama-3-8b":   {"llama", 4096, 14336, 32, 4096, 1024, 128256, false, 1, 1, ""},
	"meta-llama/llama-3.2-1b": {"llama", 2048, 8192, 16, 2048, 512, 128256, true, 1, 1, ""},
	"qwen/qwen2.5-7b":         {"qwen2", 3584, 18944, 28, 3584, 512, 152064, false, 1, 1, ""},
	"qwen/qwen3-0.6b":         {"qwen3", 1024, 3072, 28, 2048, 1024, 151936, true, 1, 1, ""},
	"qwen/qwen3-4b":           {"qwen3", 2560, 9728, 36, 4096, 1024, 151936, true, 1, 1, ""},
}

// Known answers the shape of a model by its name on the hub, variants for chat included.
func Known(name string) (Shape, bool) {
	name = strings.ToLower(name)
	for _, suffix := range []string{"-hf", "-instruct", "-chat", "-base", "-2507", "-it"} {
		name = strings.ReplaceAll(name, suffix, "")
	}
	name = strings.Replace(name, "/meta-llama-", "/llama-", 1)
	if name == "meta-llama/llama-3.1-8b" {
		name = "meta-llama/llama-3-8b"
	}
	s, ok := known[name]
	return s, ok
}
