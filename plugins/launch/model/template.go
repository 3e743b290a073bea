package model

import (
	_ "embed"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// templatesText lists the prompt templates that LLaMA-Factory registers.
//
//go:embed templates.txt
var templatesText string

// Templates are the names of the trainer's prompt templates.
var Templates = sync.OnceValue(func() []string { return strings.Fields(templatesText) })

// byName are families told by the last part of a model's path or name, most particular first.
var byName = []struct {
	name     *regexp.Regexp
	template string
}{
	{regexp.MustCompile(`(^|[^a-z])r1-distill|deepseek-r1`), "deepseekr1"},
	{regexp.MustCompile(`deepseek-?v[23]`), "deepseek3"},
	{regexp.MustCompile(`deepseek-coder`), "deepseekcoder"},
	{regexp.MustCompile(`deepseek`), "deepseek"},
	{regexp.MustCompile(`qwen-?3\.5`), "qwen3_5"},
	{regexp.MustCompile(`qwen-?3\.6`), "qwen3_6"},
	{regexp.MustCompile(`qwen-?3-vl.*thinking`), "qwen3_vl"},
	{regexp.MustCompile(`qwen-?3-vl`), "qwen3_vl_nothink"},
	{regexp.MustCompile(`qwen-?3-omni.*thinking`), "qwen3_omni"},
	{regexp.MustCompile(`qwen-?3-omni`), "qwen3_omni_nothink"},
	{regexp.MustCompile(`qwen-?3.*(instruct|base)`), "qwen3_nothink"},
	{regexp.MustCompile(`qwen-?3`), "qwen3"},
	{regexp.MustCompile(`qwen-?2(\.5)?-vl`), "qwen2_vl"},
	{regexp.MustCompile(`qwen-?2(\.5)?-omni`), "qwen2_omni"},
	{regexp.MustCompile(`qwen-?2-audio`), "qwen2_audio"},
	{regexp.MustCompile(`qwen`), "qwen"},
	{regexp.MustCompile(`llama-?4`), "llama4"},
	{regexp.MustCompile(`llama-?3\.2-.*vision`), "mllama"},
	{regexp.MustCompile(`llama-?3`), "llama3"},
	{regexp.MustCompile(`vicuna`), "vicuna"},
	{regexp.MustCompile(`llama-?2`), "llama2"},
	{regexp.MustCompile(`gemma-?3n`), "gemma3n"},
	{regexp.MustCompile(`gemma-?3`), "gemma3"},
	{regexp.MustCompile(`gemma-?2-`), "gemma2"},
	{regexp.MustCompile(`gemma`), "gemma"},
	{regexp.MustCompile(`mistral-small`), "mistral_small"},
	{regexp.MustCompile(`ministral-?3`), "ministral3"},
	{regexp.MustCompile(`ministral|mistral-nemo`), "ministral"},
	{regexp.MustCompile(`mistral|mixtral|codestral`), "mistral"},
	{regexp.MustCompile(`phi-?4-mini`), "phi4_mini"},
	{regexp.MustCompile(`phi-?4`), "phi4"},
	{regexp.MustCompile(`phi-?3-small`), "phi_small"},
	{regexp.MustCompile(`phi-?3`), "phi"},
	{regexp.MustCompile(`glm-?z1`), "glmz1"},
	{regexp.MustCompile(`glm-?4\.5v`), "glm4_5v"},
	{regexp.MustCompile(`glm-?4\.5`), "glm4_moe"},
	{regexp.MustCompile(`glm-?4`), "glm4"},
	{regexp.MustCompile(`chatglm3`), "chatglm3"},
	{regexp.MustCompile(`internlm2`), "intern2"},
	{regexp.MustCompile(`granite-?4`), "granite4"},
	{regexp.MustCompile(`granite-?3`), "granite3"},
	{regexp.MustCompile(`smollm2`), "smollm2"},
	{regexp.MustCompile(`smollm`), "smollm"},
	{regexp.MustCompile(`falcon-h1`), "falcon_h1"},
	{regexp.MustCompile(`falcon`), "falcon"},
	{regexp.MustCompile(`command-r|aya-`), "cohere"},
	{regexp.MustCompile(`minicpm-?4`), "cpm4"},
	{regexp.MustCompile(`gpt-oss`), "gpt_oss"},
	{regexp.MustCompile(`solar`), "solar"},
	{regexp.MustCompile(`zephyr`), "zephyr"},
	{regexp.MustCompile(`(^|[^a-z])yi-`), "yi"},
}

// byType are families whose architecture alone settles the template.
var byType = map[string]string{
	"qwen2": "qwen", "qwen2_moe": "qwen", "qwen3": "qwen3", "qwen3_moe": "qwen3", "qwen2_vl": "qwen2_vl", "qwen2_5_vl": "qwen2_vl",
	"qwen3_vl": "qwen3_vl", "qwen3_5": "qwen3_5", "gemma": "gemma", "gemma2": "gemma2", "gemma3": "gemma3", "gemma3_text": "gemma3",
	"mistral": "mistral", "mixtral": "mistral", "ministral3": "ministral3", "phi3": "phi", "glm4": "glm4", "glm4_moe": "glm4_moe",
	"llama4": "llama4", "mllama": "mllama", "gpt_oss": "gpt_oss", "granite": "granite3", "internlm2": "intern2", "cohere": "cohere",
	"falcon": "falcon", "falcon_h1": "falcon_h1", "deepseek_v2": "deepseek3", "deepseek_v3": "deepseek3", "smollm3": "smollm2",
}

// Template answers the prompt template for a model by its path or name and, where known, its shape; "default" when
// neither tells.
func Template(name string, s Shape) string {
	base := strings.ToLower(path.Base(strings.TrimRight(name, "/")))
	for _, f := range byName {
		if f.name.MatchString(base) {
			return f.template
		}
	}
	if t, ok := byType[s.Type]; ok {
		return t
	}
	if s.Type == "llama" && s.Vocab == 128256 {
		return "llama3"
	}
	return "default"
}

// KnownTemplate answers whether the trainer registers a template.
func KnownTemplate(name string) bool { return slices.Contains(Templates(), name) }
