package jobscript

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/fettle-hpc/fettle/proto/gres"
)

// Limits on a config.
const (
	maxYAMLDepth = 32
	maxYAMLNodes = 10_000
)

// checkYAML refuses what is not one plain YAML mapping: other documents, aliases and merge keys, tags beyond the core
// ones, keys given twice, nesting and numbers of values above the limits. mapping reports that the text does hold a
// mapping, whatever else is wrong with it.
func checkYAML(name string, data []byte) (bad *Error, mapping bool) {
	refuse := func(line int, problem, remedy string) *Error {
		return &Error{File: name, Line: line, Problem: problem, Remedy: remedy}
	}
	if line, problem := yamlText(data); problem != "" {
		return refuse(line, problem, "save it as plain UTF-8 text"), false
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return refuse(0, "holds no settings", "write KEY: VALUE lines"), false
		}
		line, problem, remedy := yamlProblem(data, err)
		return refuse(line, problem, remedy), false
	}
	root := &doc
	if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
		root = doc.Content[0]
	}
	if root.Kind != yaml.MappingNode {
		return refuse(root.Line, "holds "+kindName(root)+" where settings are wanted", "write KEY: VALUE lines"), false
	}
	w := yamlWalk{refuse: refuse}
	if err := w.visit(root, 1); err != nil {
		return err, true
	}
	if len(root.Content) == 0 {
		return refuse(0, "holds no settings", "write KEY: VALUE lines"), true
	}
	var next yaml.Node
	switch err := dec.Decode(&next); {
	case errors.Is(err, io.EOF):
		return nil, true
	case err != nil:
		line, problem, remedy := yamlProblem(data, err)
		return refuse(line, problem, remedy), true
	}
	return refuse(next.Line, "holds a second YAML document", "keep one document per file"), true
}

// yamlText refuses bytes that YAML does not allow, at their line.
func yamlText(data []byte) (line int, problem string) {
	for text := range bytes.SplitSeq(data, []byte("\n")) {
		line++
		if !utf8.Valid(text) {
			return line, "is not valid UTF-8"
		}
		for i, c := range text {
			if c < ' ' && c != '\t' && (c != '\r' || i != len(text)-1) || c == 0x7f {
				return line, "holds the control character " + gres.Quote(string(rune(c)))
			}
		}
	}
	return 0, ""
}

// yamlProblem makes one line of the YAML reader's error.
func yamlProblem(data []byte, err error) (line int, problem, remedy string) {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(msg, "line "); ok {
		if num, after, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(num); err == nil {
				line, msg = n, after
			}
		}
	}
	switch {
	case strings.HasPrefix(msg, "exceeded max depth"):
		return 0, fmt.Sprintf("is nested deeper than %d levels", maxYAMLDepth), "flatten it"
	case strings.HasPrefix(msg, "unknown anchor"):
		return 0, "uses a YAML alias without an anchor", "write the value out, or put it in quotes"
	case strings.HasPrefix(msg, "did not find expected"):
		// The reader counts lines from 0 in these, and from 1 in all others.
		line++
	case line == 0:
		line = 1
	}
	if tab := tabIndent(data); tab > 0 {
		return tab, "is indented with a tab", "indent with spaces"
	}
	return line, "is not valid YAML: " + plain(strings.ReplaceAll(msg, "\n", " ")),
		"write KEY: VALUE lines, and put odd values in quotes"
}

// tabIndent is the first line with a tab before its text, 0 when there is none.
func tabIndent(data []byte) int {
	line := 0
	for text := range bytes.SplitSeq(data, []byte("\n")) {
		line++
		body := bytes.TrimLeft(text, " \t")
		if len(body) > 0 && body[0] != '#' && bytes.IndexByte(text[:len(text)-len(body)], '\t') >= 0 {
			return line
		}
	}
	return 0
}

// yamlWalk counts and checks nodes.
type yamlWalk struct {
	refuse func(line int, problem, remedy string) *Error
	nodes  int
}

func (w *yamlWalk) visit(n *yaml.Node, depth int) *Error {
	w.nodes++
	switch {
	case depth > maxYAMLDepth:
		return w.refuse(n.Line, fmt.Sprintf("is nested deeper than %d levels", maxYAMLDepth), "flatten it")
	case w.nodes > maxYAMLNodes:
		return w.refuse(n.Line, fmt.Sprintf("holds more than %d values", maxYAMLNodes), "keep data in a file of its own")
	case n.Kind == yaml.AliasNode:
		return w.refuse(n.Line, "uses the YAML alias "+gres.Quote("*"+n.Value), "write the value out")
	case !coreTag(n):
		return w.refuse(n.Line, "uses the YAML tag "+gres.Quote(n.Tag), "write plain values")
	}
	if n.Kind == yaml.MappingNode {
		if err := w.keys(n); err != nil {
			return err
		}
	}
	for _, c := range n.Content {
		if err := w.visit(c, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// keys checks the keys of one mapping.
func (w *yamlWalk) keys(n *yaml.Node) *Error {
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case key.Kind == yaml.AliasNode:
			return w.refuse(key.Line, "uses the YAML alias "+gres.Quote("*"+key.Value), "write the value out")
		case key.Kind != yaml.ScalarNode:
			return w.refuse(key.Line, "has "+kindName(key)+" as a key", "use plain words as keys")
		case key.Tag == "!!merge":
			return w.refuse(key.Line, "uses the YAML merge key \"<<\"", "write the keys out")
		}
		if first, dup := seen[key.Value]; dup {
			return w.refuse(key.Line, fmt.Sprintf("has the key %s a second time, first on line %d", gres.Quote(key.Value), first), "keep one")
		}
		seen[key.Value] = key.Line
	}
	return nil
}

// coreTag reports whether a node is plain YAML; !!merge is answered by keys.
func coreTag(n *yaml.Node) bool {
	switch n.Tag {
	case "", "!!str", "!!int", "!!float", "!!bool", "!!null", "!!timestamp", "!!map", "!!seq", "!!merge":
		return true
	}
	return false
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "a mapping"
	case yaml.AliasNode:
		return "an alias"
	}
	return "a single value"
}
