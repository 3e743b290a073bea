package trainconfig

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Methods that fettle's own launchers run.
const (
	MethodLoRA  = "lora"
	MethodQLoRA = "qlora"
	MethodFull  = "full"
)

// FinetuningTypes are the values of finetuning_type, in the order in which messages list them.
var FinetuningTypes = []string{"lora", "oft", "freeze", "full"}

// Method answers the method by which a config trains once its overrides are applied: "lora" and "qlora" for adapters
// (lora, oft) on a plain and on a quantised base model, "full" for full and freeze. A config that says nothing trains by
// LoRA, as the trainer itself would. Contradictions are for the launcher to refuse. Every error is an *Error.
func Method(config []byte, set []*fettlev1.KeyValue) (string, error) {
	doc, err := Parse(config)
	if err != nil {
		return "", err
	}
	if err := doc.Override(set); err != nil {
		return "", err
	}
	return doc.Method()
}

// Override applies overrides in order; the later one wins. An empty value unsets a key.
func (d *Document) Override(set []*fettlev1.KeyValue) error {
	for _, kv := range set {
		key := kv.GetKey()
		if key == "" || strings.ContainsAny(key, " \t\r\n:=") || strings.IndexFunc(key, isControl) >= 0 {
			return &Error{Field: "--set", Problem: fmt.Sprintf("%q is not a training key", clip(key)), Remedy: "write --set key=value"}
		}
		if len(d.Entries) >= MaxNodes {
			return &Error{Field: "--set", Problem: fmt.Sprintf("more than %d keys", MaxNodes), Remedy: "keep data out of the config"}
		}
		value, err := ParseValue(key, kv.GetValue())
		if err != nil {
			return err
		}
		d.Set(key, value)
	}
	return nil
}

// Method answers the method of a document whose overrides are applied.
func (d *Document) Method() (string, error) {
	kind := "lora"
	if n := d.Get("finetuning_type"); n != nil && !isNull(n) {
		kind = n.Value
		if n.Kind != yaml.ScalarNode || !known(kind) {
			return "", &Error{
				Field: "finetuning_type", Line: d.Line("finetuning_type"),
				Problem: fmt.Sprintf("%q is not a way to fine-tune", clip(kind)), Remedy: "write " + orList(FinetuningTypes),
			}
		}
	}
	switch {
	case kind == "full" || kind == "freeze":
		return MethodFull, nil
	case d.Quantised():
		return MethodQLoRA, nil
	}
	return MethodLoRA, nil
}

// Quantised answers whether the config asks for a quantised base model.
func (d *Document) Quantised() bool {
	if n := d.Get("quantization_bit"); n != nil && !isNull(n) {
		return true
	}
	for _, key := range []string{"load_in_4bit", "load_in_8bit"} {
		if n := d.Get(key); n != nil && n.Kind == yaml.ScalarNode && strings.EqualFold(n.Value, "true") {
			return true
		}
	}
	return false
}

// Line answers where a key stands in the YAML, 0 when it does not or comes from an override.
func (d *Document) Line(key string) int {
	if i := d.index(key); i >= 0 {
		return d.Entries[i].Line
	}
	return 0
}

func known(kind string) bool {
	for _, t := range FinetuningTypes {
		if t == kind {
			return true
		}
	}
	return false
}

func orList(words []string) string {
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
