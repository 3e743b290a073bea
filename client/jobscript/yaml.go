package jobscript

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

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
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return refuse(0, "holds no settings", "write KEY: VALUE lines"), false
		}
		line, problem := yamlProblem(data, err)
		return refuse(line, problem, "check the YAML syntax: KEY: VALUE lines, indented with spaces"), false
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
		line, problem := yamlProblem(data, err)
		return refuse(line, problem, "check the YAML syntax: KEY: VALUE lines, indented with spaces"), true
	}
	return refuse(next.Line, "holds a second YAML document", "keep one document per file"), true
}

// yamlProblem makes one line of the YAML reader's error.
func yamlProblem(data []byte, err error) (line int, problem string) {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(msg, "line "); ok {
		if num, after, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(num); err == nil {
				line, msg = n, after
			}
		}
	}
	tabLine := 0
	for text := range bytes.SplitSeq(data, []byte("\n")) {
		tabLine++
		indent := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]
		if bytes.IndexByte(indent, '\t') >= 0 && len(indent) < len(text) {
			return tabLine, "is indented with a tab"
		}
	}
	return line, "is not valid YAML: " + plain(strings.ReplaceAll(msg, "\n", " "))
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
