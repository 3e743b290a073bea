package trainconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Limits of a training config. What passes one of them is refused before it costs time or memory.
const (
	MaxBytes = 256 << 10
	MaxDepth = 32
	MaxNodes = 10_000
)

// Error says what is wrong with a config, where, and what to do about it.
type Error struct {
	// Field is the training key, empty when the file as a whole is meant.
	Field string
	// Line in the YAML, from 1; 0 when it is not from there.
	Line int
	// Problem and Remedy are half sentences in lower case.
	Problem, Remedy string
}

// Error is one line: "line 3: lora_rank: not a whole number; write 8".
func (e *Error) Error() string {
	var b strings.Builder
	if e.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", e.Line)
	}
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(e.Problem)
	if e.Remedy != "" {
		b.WriteString("; " + e.Remedy)
	}
	return b.String()
}

// Entry is one key of a config.
type Entry struct {
	Key string
	// Line is where the key stands in the YAML, 0 for an override.
	Line  int
	Value *yaml.Node
}

// Document is a config that was read: its keys in the order of the file, each once.
type Document struct {
	Entries []Entry
}

// Get answers the value of a key, nil when the config does not hold it.
func (d *Document) Get(key string) *yaml.Node {
	if i := d.index(key); i >= 0 {
		return d.Entries[i].Value
	}
	return nil
}

func (d *Document) index(key string) int {
	for i, e := range d.Entries {
		if e.Key == key {
			return i
		}
	}
	return -1
}

// Set puts a value for key, as an override does: in place when the config holds the key, at the end otherwise.
func (d *Document) Set(key string, value *yaml.Node) {
	if i := d.index(key); i >= 0 {
		d.Entries[i] = Entry{Key: key, Value: value}
		return
	}
	d.Entries = append(d.Entries, Entry{Key: key, Value: value})
}

// Parse reads one YAML document that must be a mapping of plain keys. Aliases, merge keys, tags, duplicate keys, other
// encodings than UTF-8, several documents and whatever passes a limit are refused. Every error is an *Error.
func Parse(data []byte) (*Document, error) {
	if err := checkBytes(data); err != nil {
		return nil, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var root yaml.Node
	if err := dec.Decode(&root); errors.Is(err, io.EOF) {
		return nil, empty()
	} else if err != nil {
		return nil, syntax(err)
	}
	var second yaml.Node
	if err := dec.Decode(&second); err == nil {
		return nil, &Error{Line: second.Line, Problem: "a second document starts here", Remedy: "keep one config per file"}
	} else if !errors.Is(err, io.EOF) {
		return nil, syntax(err)
	}
	if len(root.Content) != 1 || isNull(root.Content[0]) {
		return nil, empty()
	}
	top := root.Content[0]
	left := MaxNodes
	if err := check(top, "", 1, &left); err != nil {
		return nil, err
	}
	if top.Kind != yaml.MappingNode {
		return nil, &Error{Line: top.Line, Problem: "not a list of settings", Remedy: "write one `key: value` per line"}
	}
	doc := &Document{Entries: make([]Entry, 0, len(top.Content)/2)}
	for i := 0; i+1 < len(top.Content); i += 2 {
		doc.Entries = append(doc.Entries, Entry{Key: top.Content[i].Value, Line: top.Content[i].Line, Value: top.Content[i+1]})
	}
	return doc, nil
}

// ParseValue reads the value of an override: a list or mapping in flow style, a quoted string, or else a plain scalar.
func ParseValue(field, text string) (*yaml.Node, error) {
	fail := func(problem, remedy string) error { return &Error{Field: field, Problem: problem, Remedy: remedy} }
	if len(text) > MaxBytes {
		return nil, fail(fmt.Sprintf("the value is longer than %d bytes", MaxBytes), "shorten it")
	}
	if !utf8.ValidString(text) || strings.IndexFunc(text, isControl) >= 0 {
		return nil, fail("the value holds control characters or is not UTF-8", "write plain text")
	}
	text = strings.TrimSpace(text)
	if text == "" {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
	}
	if !strings.ContainsRune(`[{"'`, rune(text[0])) {
		node := &yaml.Node{Kind: yaml.ScalarNode, Value: text}
		node.Tag = node.ShortTag()
		return node, nil
	}
	var root yaml.Node
	if err := yaml.Unmarshal([]byte(text), &root); err != nil || len(root.Content) != 1 {
		return nil, fail("the value "+strconv.Quote(clip(text))+" is not complete YAML", "close its quotes and brackets")
	}
	left := MaxNodes
	if err := check(root.Content[0], field, 1, &left); err != nil {
		return nil, fail(err.Problem, err.Remedy)
	}
	return root.Content[0], nil
}

func checkBytes(data []byte) error {
	if len(data) > MaxBytes {
		return &Error{Problem: fmt.Sprintf("the config has %d bytes, more than %d", len(data), MaxBytes), Remedy: "keep data out of it"}
	}
	if bytes.HasPrefix(data, []byte("\xef\xbb\xbf")) || bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return &Error{Line: 1, Problem: "the file starts with a byte order mark", Remedy: "save it as UTF-8 without one"}
	}
	if !utf8.Valid(data) {
		return &Error{Line: badUTF8Line(data), Problem: "not UTF-8 text", Remedy: "save the file as UTF-8"}
	}
	if i := bytes.IndexFunc(data, func(r rune) bool { return r != '\n' && r != '\r' && r != '\t' && isControl(r) }); i >= 0 {
		return &Error{Line: 1 + bytes.Count(data[:i], []byte("\n")), Problem: "the file holds control characters", Remedy: "remove them"}
	}
	return nil
}

func badUTF8Line(data []byte) int {
	line := 1
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		if r == utf8.RuneError && n <= 1 {
			break
		}
		if r == '\n' {
			line++
		}
		data = data[n:]
	}
	return line
}

// isControl answers true for what has no place in text, U+0085 and the directional overrides included.
func isControl(r rune) bool {
	return r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == 0xfeff || (r >= 0x202a && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069)
}

// check walks the tree that the YAML library built, which holds aliases as such, so nothing is expanded.
func check(n *yaml.Node, field string, depth int, left *int) *Error {
	fail := func(n *yaml.Node, problem, remedy string) *Error {
		return &Error{Field: field, Line: n.Line, Problem: problem, Remedy: remedy}
	}
	if *left--; *left < 0 {
		return fail(n, fmt.Sprintf("the config holds more than %d values", MaxNodes), "keep data out of it")
	}
	if depth > MaxDepth {
		return fail(n, fmt.Sprintf("nested deeper than %d levels", MaxDepth), "flatten it")
	}
	if n.Kind == yaml.AliasNode {
		return fail(n, "alias *"+clip(n.Value)+" is not supported", "write the value out")
	}
	if n.Style&yaml.TaggedStyle != 0 {
		return fail(n, "tag "+clip(n.Tag)+" is not supported", "write a plain value")
	}
	if n.Kind == yaml.ScalarNode && strings.IndexFunc(n.Value, func(r rune) bool { return r != '\n' && r != '\t' && isControl(r) }) >= 0 {
		return fail(n, "the value holds control characters", "write plain text")
	}
	if n.Kind != yaml.MappingNode {
		for _, c := range n.Content {
			if err := check(c, field, depth+1, left); err != nil {
				return err
			}
		}
		return nil
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.ScalarNode && k.ShortTag() == "!!merge" {
			return fail(k, "merge key << is not supported", "write the keys out")
		}
		if err := check(k, field, depth+1, left); err != nil {
			return err
		}
		if k.Kind != yaml.ScalarNode || k.ShortTag() != "!!str" || k.Value == "" || strings.ContainsAny(k.Value, "\n\t") {
			return fail(k, "a key must be a plain word", "write `key: value`")
		}
		if line, dup := seen[k.Value]; dup {
			return &Error{Field: clip(k.Value), Line: k.Line, Problem: fmt.Sprintf("given twice, first on line %d", line), Remedy: "keep one"}
		}
		seen[k.Value] = k.Line
		name := field
		if depth == 1 {
			name = clip(k.Value)
		}
		if err := check(v, name, depth+1, left); err != nil {
			return err
		}
	}
	return nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func empty() error {
	return &Error{Problem: "the config is empty", Remedy: "it needs at least model_name_or_path and a dataset"}
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// syntax turns the library's message into ours; its texts name the line where it noticed.
func syntax(err error) *Error {
	m := yamlLine.FindStringSubmatch(strings.ReplaceAll(err.Error(), "\n", " "))
	if m == nil {
		return &Error{Problem: "not YAML: " + clip(err.Error()), Remedy: "write one `key: value` per line"}
	}
	line, _ := strconv.Atoi(m[1])
	remedy := "write one `key: value` per line"
	if strings.Contains(m[2], "that cannot start any token") {
		remedy = "indent with spaces, not tabs, and quote values with special characters"
	}
	return &Error{Line: line, Problem: "not YAML: " + clip(m[2]), Remedy: remedy}
}

// clip bounds what a message quotes.
func clip(s string) string {
	const most = 120
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
