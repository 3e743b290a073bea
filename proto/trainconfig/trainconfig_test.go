package trainconfig

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func TestMethod(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, yaml string
		set        []string
		want       string
		err        string
	}{
		{name: "lora by type", yaml: "finetuning_type: lora\n", want: "lora"},
		{name: "nothing said", yaml: "learning_rate: 1e-4\n", want: "lora"},
		{name: "article short form", yaml: "model_name_or_path: m\ndata_path: d.json\nlora_rank: 8\nfp16: true\n", want: "lora"},
		{name: "quantised", yaml: "finetuning_type: lora\nquantization_bit: 4\n", want: "qlora"},
		{name: "quantised oft", yaml: "finetuning_type: oft\nquantization_bit: 4\n", want: "qlora"},
		{name: "short quantised", yaml: "lora_rank: 8\nload_in_4bit: true\n", want: "qlora"},
		{name: "short not quantised", yaml: "lora_rank: 8\nload_in_4bit: false\n", want: "lora"},
		{name: "null bits", yaml: "finetuning_type: lora\nquantization_bit: null\n", want: "lora"},
		{name: "tilde bits", yaml: "quantization_bit: ~\n", want: "lora"},
		{name: "full", yaml: "finetuning_type: full\n", want: "full"},
		{name: "freeze", yaml: "finetuning_type: freeze\n", want: "full"},
		{name: "contradiction is left to the launcher", yaml: "finetuning_type: full\nquantization_bit: 4\n", want: "full"},
		{name: "override wins", yaml: "finetuning_type: full\n", set: []string{"finetuning_type=lora", "quantization_bit=4"}, want: "qlora"},
		{name: "override unsets", yaml: "finetuning_type: full\n", set: []string{"finetuning_type="}, want: "lora"},
		{name: "fettle directives are comments", yaml: "#FETTLE --priority 1\nfinetuning_type: full # all of it\n", want: "full"},
		{name: "unknown type", yaml: "stage: sft\nfinetuning_type: lorra\n", err: `line 2: finetuning_type: "lorra" is not a way to fine-tune; write lora, oft, freeze or full`},
		{name: "type is a list", yaml: "finetuning_type: [lora]\n", err: `line 1: finetuning_type: "" is not a way to fine-tune; write lora, oft, freeze or full`},
		{name: "override to unknown", yaml: "stage: sft\n", set: []string{"finetuning_type=lorax"}, err: `finetuning_type: "lorax" is not a way to fine-tune; write lora, oft, freeze or full`},
		{name: "bad override key", yaml: "stage: sft\n", set: []string{"a b=1"}, err: `--set: "a b" is not a training key; write --set key=value`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Method([]byte(tt.yaml), keyValues(tt.set))
			if msg := text(err); got != tt.want || msg != tt.err {
				t.Errorf("Method = %q, %q; want %q, %q", got, msg, tt.want, tt.err)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b]\n"
	tests := []struct{ name, yaml, want string }{
		{"empty", "", "the config is empty; it needs at least model_name_or_path and a dataset"},
		{"only comments", "# nothing\n\n", "the config is empty; it needs at least model_name_or_path and a dataset"},
		{"null", "null\n", "the config is empty; it needs at least model_name_or_path and a dataset"},
		{"list", "- a\n- b\n", "line 1: not a list of settings; write one `key: value` per line"},
		{"scalar", "hello\n", "line 1: not a list of settings; write one `key: value` per line"},
		{"alias bomb", bomb, "line 2: b: alias *a is not supported; write the value out"},
		{"merge key", "a: &x {k: 1}\n<<: {z: 1}\n", "line 2: merge key << is not supported; write the keys out"},
		{"inner merge key", "a: {<<: {z: 1}}\n", "line 1: a: merge key << is not supported; write the keys out"},
		{"python object", "a: !!python/object:os.system [ls]\n", "line 1: a: tag !!python/object:os.system is not supported; write a plain value"},
		{"own tag", "a: !secret x\n", "line 1: a: tag !secret is not supported; write a plain value"},
		{"duplicate", "stage: sft\nlora_rank: 8\nstage: dpo\n", "line 3: stage: given twice, first on line 1; keep one"},
		{"inner duplicate", "deepspeed:\n  a: 1\n  a: 2\n", "line 3: a: given twice, first on line 2; keep one"},
		{"two documents", "a: 1\n---\nb: 2\n", "line 2: a second document starts here; keep one config per file"},
		{"number as key", "1: x\n", "line 1: a key must be a plain word; write `key: value`"},
		{"list as key", "[a]: x\n", "line 1: a key must be a plain word; write `key: value`"},
		{"tab indent", "a:\n\tb: 1\n", "line 2: not YAML: found character that cannot start any token; indent with spaces, not tabs, and quote values with special characters"},
		{"open bracket", "a: [1, 2\nb: 3\n", "line 1: not YAML: did not find expected ',' or ']'; write one `key: value` per line"},
		{"no colon", "stage: sft\nlora_rank 8\n", "line 2: not YAML"},
		{"nul", "a: x\x00y\n", "line 1: the file holds control characters; remove them"},
		{"escape", "a: 1\nb: \x1b[31m\n", "line 2: the file holds control characters; remove them"},
		{"direction override", "a: x\nb: \u202ex\n", "line 2: the file holds control characters; remove them"},
		{"escaped nul", "a: \"x\\0\"\n", "line 1: a: the value holds control characters; write plain text"},
		{"escaped escape", "a: [\"\\e[31m\"]\n", "line 1: a: the value holds control characters; write plain text"},
		{"newline in key", "\"a\\nb\": 1\n", "line 1: a key must be a plain word; write `key: value`"},
		{"latin-1", "a: 1\nb: caf\xe9\n", "line 2: not UTF-8 text; save the file as UTF-8"},
		{"bom", "\xef\xbb\xbfa: 1\n", "line 1: the file starts with a byte order mark; save it as UTF-8 without one"},
		{"utf-16", "\xff\xfea\x00:\x00 \x001\x00", "line 1: the file starts with a byte order mark; save it as UTF-8 without one"},
		{"too large", "a: " + strings.Repeat("x", MaxBytes) + "\n", "the config has 262148 bytes, more than 262144; keep data out of it"},
		{"too many", "a: [" + strings.Repeat("1,", MaxNodes) + "1]\n", "line 1: a: the config holds more than 10000 values; keep data out of it"},
		{"too deep", "a: " + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "\n", "line 1: a: nested deeper than 32 levels; flatten it"},
		{"far too deep", "a: " + strings.Repeat("[", 100_000) + "\n", "not YAML: exceeded"},
		{"deep block", strings.Repeat("- ", 100_000) + "\n", "not YAML: exceeded"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(tt.yaml))
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("Parse error %v is no *Error", err)
			}
			if got := err.Error(); !strings.HasPrefix(got, tt.want) {
				t.Errorf("Parse says\n %s\nwant\n %s", got, tt.want)
			}
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("message %q is not one clean line", err)
			}
		})
	}
}

// TestParseIsBounded feeds the largest accepted size of each shape that could blow up.
func TestParseIsBounded(t *testing.T) {
	for _, unit := range []string{"[", "{a: ", "- ", "a: 1\n", "\"", "? ", "!", "&a ", "|\n ", "a: &a b\n", "k: [*a]\n"} {
		data := []byte(strings.Repeat(unit, MaxBytes/len(unit)))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Parse(data)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%d bytes of %q were accepted", len(data), unit)
		}
		if mib := (after.TotalAlloc - before.TotalAlloc) >> 20; mib > 50 {
			t.Errorf("%d bytes of %q allocated %d MiB", len(data), unit, mib)
		}
	}
}

func TestDocument(t *testing.T) {
	t.Parallel()
	doc, err := Parse([]byte("# c\nstage: sft\n\nlora_rank: 8\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Override(keyValues([]string{"lora_rank=16", "bf16=true", "deepspeed={\"a\": [1]}", "run_name=a: b", "lora_rank=32"})); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range doc.Entries {
		got = append(got, e.Key+"="+e.Value.Value+" "+e.Value.ShortTag())
	}
	want := "stage=sft !!str,lora_rank=32 !!int,bf16=true !!bool,deepspeed= !!map,run_name=a: b !!str"
	if s := strings.Join(got, ","); s != want {
		t.Errorf("entries\n %s\nwant\n %s", s, want)
	}
	if doc.Line("stage") != 2 || doc.Line("lora_rank") != 0 || doc.Line("nope") != 0 {
		t.Errorf("lines %d %d %d, want 2 0 0", doc.Line("stage"), doc.Line("lora_rank"), doc.Line("nope"))
	}
}

func TestOverrideRefuses(t *testing.T) {
	t.Parallel()
	for set, want := range map[string]string{
		"a=[1, 2":     `a: the value "[1, 2" is not complete YAML; close its quotes and brackets`,
		"a=\"x":       `a: the value "\"x" is not complete YAML; close its quotes and brackets`,
		"a=x\x00":     "a: the value holds control characters or is not UTF-8; write plain text",
		"a=[&x 1,*x]": "a: alias *x is not supported; write the value out",
		"=1":          `--set: "" is not a training key; write --set key=value`,
	} {
		doc := &Document{}
		if err := doc.Override(keyValues([]string{set})); text(err) != want {
			t.Errorf("%q: %q, want %q", set, text(err), want)
		}
	}
}

func FuzzMethod(f *testing.F) {
	for _, s := range []string{
		"finetuning_type: lora\nquantization_bit: 4\n", "a: &a [1]\nb: *a\n", "a: {b: [c, {d: e}]}\n", "a: |\n x\n y\n", "? a\n: b\n",
		"%YAML 1.1\n---\na: 1\n", "a: 'x''y'\n", "a: \"\\u0000\"\n", "- a\n", "finetuning_type: {x: y}\n", "a:\n- b\n- c: d\n",
	} {
		f.Add([]byte(s), "k", "v")
	}
	f.Add([]byte("a: 1\n"), "b", "[1, {a: b}]")
	f.Fuzz(func(t *testing.T, data []byte, key, value string) {
		method, err := Method(data, []*fettlev1.KeyValue{{Key: key, Value: value}})
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%T is no *Error: %v", err, err)
			}
			if strings.ContainsAny(err.Error(), "\n\r\x00\x1b") {
				t.Fatalf("message %q is not one clean line", err)
			}
			if len(err.Error()) > 1000 {
				t.Fatalf("message of %d bytes", len(err.Error()))
			}
			return
		}
		if method != MethodLoRA && method != MethodQLoRA && method != MethodFull {
			t.Fatalf("method %q", method)
		}
	})
}

func keyValues(set []string) []*fettlev1.KeyValue {
	var kvs []*fettlev1.KeyValue
	for _, s := range set {
		k, v, _ := strings.Cut(s, "=")
		kvs = append(kvs, &fettlev1.KeyValue{Key: k, Value: v})
	}
	return kvs
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
