package config

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Value is what a key was given, in the key's type.
type Value struct {
	kind kind
	b    bool
	i    int64
	f    float64
	s    string
	node *yaml.Node

	// Line in the user's YAML, 0 when it is not from there.
	Line int
	// Set says that it came from an override.
	Set bool
}

type kind uint8

const (
	kindBool kind = iota + 1
	kindInt
	kindFloat
	kindString
	// A list or mapping that goes to the trainer as it is.
	kindTree
)

// Bool is a value for a switch.
func Bool(b bool) Value { return Value{kind: kindBool, b: b} }

// Int is a whole number.
func Int(i int64) Value { return Value{kind: kindInt, i: i} }

// Float is a number, written so that every YAML reader takes it for one; a whole one without a dot.
func Float(f float64) Value {
	if f == math.Trunc(f) && math.Abs(f) < 1e15 {
		return Value{kind: kindFloat, f: f, s: strconv.FormatInt(int64(f), 10)}
	}
	return Value{kind: kindFloat, f: f, s: floatText(f)}
}

// String is a text.
func String(s string) Value { return Value{kind: kindString, s: s} }

// Text is the value for people, on one line.
func (v Value) Text() string {
	switch v.kind {
	case kindBool:
		return strconv.FormatBool(v.b)
	case kindInt:
		return strconv.FormatInt(v.i, 10)
	case kindFloat, kindString:
		return v.s
	case kindTree:
		return "(a list or mapping)"
	}
	return "null"
}

// JSON is the value in JSON, nil for what has none.
func (v Value) JSON() []byte {
	if v.kind != kindTree {
		return nil
	}
	var plain any
	if v.node.Decode(&plain) != nil {
		return nil
	}
	data, err := json.Marshal(plain)
	if err != nil {
		return nil
	}
	return data
}

func (v Value) equal(o Value) bool {
	return v.kind == o.kind && v.b == o.b && v.i == o.i && v.f == o.f && (v.kind == kindFloat || v.s == o.s) && v.node == o.node
}

// wrong says why a value does not fit its key.
type wrong struct{ problem, remedy string }

var (
	octal      = regexp.MustCompile(`^[-+]?0[0-7_]+$`)
	looseBool  = regexp.MustCompile(`^(?i:yes|no|on|off|y|n)$`)
	floatShape = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)
)

// convert turns what stands in the YAML into the key's type. The trainer itself checks no types: a text where a number
// belongs fails late and far away. A null is answered as ok with no kind.
func convert(key Key, n *yaml.Node) (Value, *wrong) {
	switch n.Kind {
	case yaml.SequenceNode:
		if key.is("list") {
			return convertList(key, n)
		}
		return Value{}, &wrong{"takes one value, not a list", "write " + example(key)}
	case yaml.MappingNode:
		if key.is("map") {
			return Value{kind: kindTree, node: plainTree(n)}, nil
		}
		return Value{}, &wrong{"takes one value, not a mapping", "write " + example(key)}
	}
	if len(n.Value) > 1<<16 {
		return Value{}, &wrong{"the value is longer than 64 KiB", "shorten it"}
	}
	quoted := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	text := strings.TrimSpace(n.Value)
	if !quoted && n.ShortTag() == "!!null" {
		return Value{}, nil
	}
	if !quoted && octal.MatchString(text) && !key.is("str") {
		return Value{}, &wrong{text + " is octal to some readers and decimal to others", "write it without the leading zero"}
	}
	if key.is("bool") {
		switch text {
		case "true", "True", "TRUE":
			return Bool(true), nil
		case "false", "False", "FALSE":
			return Bool(false), nil
		}
		if !key.is("str") {
			return Value{}, &wrong{"takes true or false, not " + quote(text), "write " + boolRemedy(text)}
		}
	}
	if key.is("int") && !key.is("float") {
		if v, ok := wholeNumber(text); ok {
			return Int(v), nil
		}
		if !key.is("str") {
			return Value{}, &wrong{"takes a whole number, not " + quote(text), "write " + example(key)}
		}
	}
	if key.is("float") {
		if f, err := strconv.ParseFloat(strings.ReplaceAll(text, "_", ""), 64); err == nil && floatShape.MatchString(text) && !math.IsInf(f, 0) {
			if strings.ContainsAny(text, ".eE") {
				return Value{kind: kindFloat, f: f, s: floatText(f)}, nil
			}
			return Float(f), nil
		}
		if !key.is("str") {
			return Value{}, &wrong{"takes a number, not " + quote(text), "write " + example(key)}
		}
	}
	if key.is("str") {
		return convertText(key, n, text, quoted)
	}
	return Value{}, &wrong{"takes a list or mapping, not " + quote(text), "write " + example(key)}
}

func convertText(key Key, n *yaml.Node, text string, quoted bool) (Value, *wrong) {
	choice := func() bool {
		for _, c := range key.Choices {
			if c == text {
				return true
			}
		}
		return len(key.Choices) == 0
	}
	if len(key.Choices) > 0 {
		if !choice() {
			text = strings.ToLower(text)
		}
		if !choice() {
			remedy := "write " + list(key.Choices)
			if near := Nearest(text, key.Choices); near != "" {
				remedy = "did you mean " + near + "?"
			}
			return Value{}, &wrong{quote(n.Value) + " is not a choice", remedy}
		}
		return String(text), nil
	}
	if !quoted && (n.ShortTag() == "!!bool" || (looseBool.MatchString(text) && len(text) > 1)) && key.Name != "report_to" {
		return Value{}, &wrong{"takes a text, not " + quote(text), "put it in quotes if it is one"}
	}
	if quoted {
		text = n.Value
	}
	return String(text), nil
}

// commaSeparated are the keys whose text the trainer splits at commas; a YAML list is as good.
var commaSeparated = map[string]bool{
	"data_path": true, "dataset": true, "eval_dataset": true, "lora_target": true, "oft_target": true, "additional_target": true,
	"freeze_trainable_modules": true, "freeze_extra_modules": true, "galore_target": true, "apollo_target": true,
	"adapter_name_or_path": true, "add_tokens": true, "add_special_tokens": true, "interleave_probs": true,
}

// convertList makes the comma-separated text of a list where that is what the trainer reads.
func convertList(key Key, n *yaml.Node) (Value, *wrong) {
	if !commaSeparated[key.Name] {
		return Value{kind: kindTree, node: plainTree(n)}, nil
	}
	var items []string
	for _, c := range n.Content {
		if c.Kind != yaml.ScalarNode || c.ShortTag() == "!!null" || strings.TrimSpace(c.Value) == "" {
			return Value{}, &wrong{"takes a list of plain values", "write " + key.Name + ": [a, b]"}
		}
		if strings.Contains(c.Value, ",") {
			return Value{}, &wrong{quote(c.Value) + " holds a comma, which separates entries", "list its parts"}
		}
		items = append(items, strings.TrimSpace(c.Value))
	}
	if len(items) == 0 {
		return Value{}, nil
	}
	return String(strings.Join(items, ",")), nil
}

func wholeNumber(text string) (int64, bool) {
	plain := strings.ReplaceAll(text, "_", "")
	if strings.HasPrefix(text, "_") {
		return 0, false
	}
	if i, err := strconv.ParseInt(plain, 10, 64); err == nil {
		return i, true
	}
	if f, err := strconv.ParseFloat(plain, 64); err == nil && floatShape.MatchString(text) && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return int64(f), true
	}
	return 0, false
}

// floatText keeps a dot before an exponent: YAML 1.1 readers take 1e-4 for a text.
func floatText(f float64) string {
	s := strconv.FormatFloat(f, 'g', -1, 64)
	mantissa, exp, has := strings.Cut(s, "e")
	if !strings.Contains(mantissa, ".") {
		mantissa += ".0"
	}
	if !has {
		return mantissa
	}
	return mantissa + "e" + exp
}

func boolRemedy(text string) string {
	switch strings.ToLower(text) {
	case "yes", "on", "y", "1":
		return "true"
	case "no", "off", "n", "0":
		return "false"
	}
	return "true or false"
}

func example(key Key) string {
	switch {
	case len(key.Choices) > 0:
		return list(key.Choices)
	case key.is("bool"):
		return key.Name + ": true"
	case key.is("float"):
		// The value that its bounds advise, if they do: 0.1 would ruin a run as a learning rate.
		if v := strings.TrimPrefix(bounds[key.Name].remedy, "write "); floatShape.MatchString(v) {
			return key.Name + ": " + v
		}
		return key.Name + ": 0.1"
	case key.is("int"):
		return key.Name + ": 8"
	case key.is("str"):
		return key.Name + ": text"
	case key.is("list"):
		return key.Name + ": [a, b]"
	}
	return key.Name + ": {name: value}"
}

// list is "a, b or c", cut short when it is long.
func list(words []string) string {
	if len(words) > 8 {
		return strings.Join(words[:7], ", ") + " …"
	}
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// quote bounds and quotes what a message repeats from the user.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		cut := most
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	return fmt.Sprintf("%q", s)
}
