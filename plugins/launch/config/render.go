package config

import (
	"bytes"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// plainText are texts that no YAML reader takes for anything else.
var plainText = regexp.MustCompile(`^[A-Za-z_/][A-Za-z0-9_./@+-]*(,[A-Za-z0-9_./@+-]+)*$`)

var words = regexp.MustCompile(`^(?i:true|false|yes|no|on|off|y|n|null|none|inf|nan)$`)

// Render writes the config for the trainer: header lines as comments, then the keys in their order. It is read the same
// by YAML 1.1 and 1.2 readers.
func (c *Config) Render(header ...string) ([]byte, error) {
	var out bytes.Buffer
	for _, line := range header {
		fmt.Fprintf(&out, "# %s\n", strings.Map(func(r rune) rune {
			if r < ' ' {
				return ' '
			}
			return r
		}, line))
	}
	root := &yaml.Node{Kind: yaml.MappingNode}
	for _, key := range c.order {
		root.Content = append(root.Content, textNode(key), c.vals[key].toNode())
	}
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return nil, fmt.Errorf("write the training config: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("write the training config: %w", err)
	}
	return out.Bytes(), nil
}

func (v Value) toNode() *yaml.Node {
	switch v.kind {
	case kindBool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v.b)}
	case kindInt:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.FormatInt(v.i, 10)}
	case kindFloat:
		tag := "!!float"
		if !strings.Contains(v.s, ".") {
			tag = "!!int"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: v.s}
	case kindTree:
		return v.node
	}
	return textNode(v.s)
}

func textNode(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if !plainText.MatchString(s) || words.MatchString(s) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// plainTree copies a value without comments and in one spelling.
func plainTree(n *yaml.Node) *yaml.Node {
	out := &yaml.Node{Kind: n.Kind}
	if n.Kind != yaml.ScalarNode {
		if n.Kind == yaml.SequenceNode {
			out.Style = yaml.FlowStyle
		}
		for _, c := range n.Content {
			out.Content = append(out.Content, plainTree(c))
		}
		return out
	}
	switch n.ShortTag() {
	case "!!null":
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
	case "!!bool":
		return Bool(strings.EqualFold(n.Value, "true")).toNode()
	case "!!int":
		if i, ok := wholeNumber(n.Value); ok && !octal.MatchString(n.Value) {
			return Int(i).toNode()
		}
	case "!!float":
		if f, err := strconv.ParseFloat(strings.ReplaceAll(n.Value, "_", ""), 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
			return Value{kind: kindFloat, f: f, s: floatText(f)}.toNode()
		}
	}
	return textNode(n.Value)
}
