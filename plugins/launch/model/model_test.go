package model

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, json string
		want       Shape
	}{
		{"qwen3", `{"model_type":"qwen3","hidden_size":1024,"intermediate_size":3072,"num_hidden_layers":28,"num_attention_heads":16,"num_key_value_heads":8,"head_dim":128,"vocab_size":151936,"tie_word_embeddings":true}`,
			Shape{"qwen3", 1024, 3072, 28, 2048, 1024, 151936, true, 1, 1, ""}},
		{"llama without head_dim", `{"model_type":"llama","hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":8,"vocab_size":128256}`,
			Shape{"llama", 4096, 14336, 32, 4096, 1024, 128256, false, 1, 1, ""}},
		{"null head_dim, all heads alike", `{"model_type":"llama","hidden_size":64,"intermediate_size":192,"num_hidden_layers":2,"num_attention_heads":4,"head_dim":null,"vocab_size":1024}`,
			Shape{"llama", 64, 192, 2, 64, 64, 1024, false, 1, 1, ""}},
		{"experts", `{"model_type":"qwen3_moe","hidden_size":2048,"intermediate_size":6144,"moe_intermediate_size":768,"num_experts":128,"num_experts_per_tok":8,"num_hidden_layers":48,"num_attention_heads":32,"num_key_value_heads":4,"head_dim":128,"vocab_size":151936,"tie_word_embeddings":false}`,
			Shape{"qwen3_moe", 2048, 768, 48, 4096, 512, 151936, false, 128, 8, ""}},
		{"sees", `{"model_type":"qwen2_5_vl","tie_word_embeddings":true,"text_config":{"model_type":"qwen2_5_vl_text","hidden_size":2048,"intermediate_size":11008,"num_hidden_layers":36,"num_attention_heads":16,"num_key_value_heads":2,"vocab_size":151936}}`,
			Shape{"qwen2_5_vl", 2048, 11008, 36, 2048, 256, 151936, true, 1, 1, ""}},
		{"stored quantised", `{"model_type":"llama","hidden_size":64,"intermediate_size":192,"num_hidden_layers":2,"num_attention_heads":4,"vocab_size":1024,"quantization_config":{"quant_method":"gptq","bits":4}}`,
			Shape{"llama", 64, 192, 2, 64, 64, 1024, false, 1, 1, "gptq"}},
		{"gpt2", `{"model_type":"gpt2","n_embd":768,"n_layer":12,"n_head":12,"vocab_size":50257}`,
			Shape{"gpt2", 768, 3072, 12, 768, 768, 50257, true, 1, 1, ""}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse([]byte(tt.json))
			if err != nil || got != tt.want {
				t.Errorf("Parse = %+v, %v\nwant %+v", got, err, tt.want)
			}
			if !got.Valid() {
				t.Error("not valid")
			}
		})
	}
}

func TestParseHostile(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`{}`, `{"hidden_size":-1}`, `{"hidden_size":9223372036854775807,"num_attention_heads":3,"head_dim":9223372036854775807}`, `{"text_config":{"text_config":{}}}`, `{"num_experts":99999999}`} {
		s, err := Parse([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if s.Valid() {
			t.Errorf("%s: valid: %+v", text, s)
		}
	}
	for _, text := range []string{``, `[]`, `{"hidden_size":"x"}`, `{"hidden_size":1.5}`} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("%q: accepted", text)
		}
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Read(dir); !errors.Is(err, ErrNoConfig) {
		t.Errorf("empty directory: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, ConfigName), []byte(`{"model_type":"qwen3"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Read(dir); err != nil || s.Type != "qwen3" {
		t.Errorf("Read = %+v, %v", s, err)
	}
}

func TestKnown(t *testing.T) {
	t.Parallel()
	for name, layers := range map[string]int64{
		"Qwen/Qwen3-0.6B": 28, "Qwen/Qwen3-4B-Instruct-2507": 36, "meta-llama/Meta-Llama-3-8B-Instruct": 32, "meta-llama/Llama-3.1-8B": 32,
		"meta-llama/Llama-2-7b-chat-hf": 32, "meta-llama/Llama-3.2-1B": 16, "Qwen/Qwen2.5-7B-Instruct": 28, "someone/else": 0, "": 0,
	} {
		s, ok := Known(name)
		if s.Layers != layers || ok != (layers > 0) || (ok && !s.Valid()) {
			t.Errorf("%s: %+v, %v", name, s, ok)
		}
	}
}

func TestTemplate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		shape Shape
		want  string
	}{
		{"Qwen/Qwen3-4B-Instruct-2507", Shape{}, "qwen3_nothink"},
		{"Qwen/Qwen3-0.6B", Shape{}, "qwen3"},
		{"/data/models/Qwen2.5-7B-Instruct/", Shape{}, "qwen"},
		{"Qwen/Qwen2.5-VL-7B-Instruct", Shape{}, "qwen2_vl"},
		{"meta-llama/Meta-Llama-3-8B-Instruct", Shape{}, "llama3"},
		{"meta-llama/Llama-2-7b-chat-hf", Shape{}, "llama2"},
		{"deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", Shape{}, "deepseekr1"},
		{"google/gemma-2-9b-it", Shape{}, "gemma2"},
		{"google/gemma-2b-it", Shape{}, "gemma"},
		{"/home/u/my-model", Shape{Type: "qwen2"}, "qwen"},
		{"/home/u/my-model", Shape{Type: "llama", Vocab: 128256}, "llama3"},
		{"/home/u/my-model", Shape{Type: "llama", Vocab: 32000}, "default"},
		{"/home/u/my-model", Shape{}, "default"},
	}
	for _, tt := range tests {
		if got := Template(tt.name, tt.shape); got != tt.want {
			t.Errorf("Template(%q, %q) = %q, want %q", tt.name, tt.shape.Type, got, tt.want)
		}
	}
}

func TestTemplatesExist(t *testing.T) {
	t.Parallel()
	for _, f := range byName {
		if !KnownTemplate(f.template) {
			t.Errorf("family %s names template %s, which the trainer has not", f.name, f.template)
		}
	}
	for typ, name := range byType {
		if !KnownTemplate(name) {
			t.Errorf("type %s names template %s, which the trainer has not", typ, name)
		}
	}
	if KnownTemplate("no_such") || !KnownTemplate("default") {
		t.Error("the list of templates is not what it should be")
	}
}
