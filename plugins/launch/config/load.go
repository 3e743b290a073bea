package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
	"github.com/fettle-hpc/fettle/proto/trainconfig"
)

// MaxProblems is how many problems are told at once.
const MaxProblems = 20

// Options are a site's additions to what fettle knows.
type Options struct {
	// ExtraKeys are further keys that the site's trainer takes; their values are passed through.
	ExtraKeys []string
}

// Config is a training config with its overrides applied and its short form spelled out.
type Config struct {
	// Method is the launcher's, "lora", "qlora" or "full".
	Method string

	order []string
	vals  map[string]Value
	// given keeps the lines of keys that were spelled out or dropped, for later messages.
	given map[string]int
	// bad are keys that were given a value that was refused, or meant by a key that is not known.
	bad      map[string]bool
	notes    []string
	warnings []string
}

// Load reads a config for a method. It answers every problem that it finds, in the order of the lines, and a Config unless
// the YAML itself cannot be read.
func Load(tc *pluginv1.TrainingConfig, method string, opts Options) (*Config, []*pluginv1.Problem) {
	doc, err := trainconfig.Parse(tc.GetYaml())
	if err == nil {
		err = doc.Override(tc.GetSet())
	}
	if err != nil {
		return nil, []*pluginv1.Problem{problemOf(err)}
	}
	overridden := make(map[string]bool, len(tc.GetSet()))
	for _, kv := range tc.GetSet() {
		overridden[kv.GetKey()] = true
	}
	c := &Config{Method: method, vals: make(map[string]Value, len(doc.Entries)), given: make(map[string]int), bad: make(map[string]bool)}
	var problems []*pluginv1.Problem
	for _, e := range doc.Entries {
		v, p := c.read(e, opts)
		if p != nil {
			problems = append(problems, p)
			continue
		}
		c.given[e.Key] = e.Line
		if v.kind == 0 {
			continue
		}
		v.Line, v.Set = e.Line, overridden[e.Key]
		c.order = append(c.order, e.Key)
		c.vals[e.Key] = v
		if k, _ := Lookup(e.Key); k.Old {
			c.warnings = append(c.warnings, at(e.Line)+e.Key+": newer trainers refuse this key")
		}
	}
	found, err := doc.Method()
	if err != nil {
		if !slices.ContainsFunc(problems, func(p *pluginv1.Problem) bool { return p.GetField() == "finetuning_type" }) {
			problems = append(problems, problemOf(err))
		}
	} else if p := c.spellOut(found); p != nil {
		problems = append(problems, p)
	}
	problems = append(problems, c.contradictions()...)
	return c, Sort(problems)
}

// Sort puts problems in the order of their lines, those of overrides last, and keeps at most MaxProblems.
func Sort(problems []*pluginv1.Problem) []*pluginv1.Problem {
	slices.SortStableFunc(problems, func(a, b *pluginv1.Problem) int {
		return rank(a) - rank(b)
	})
	return problems[:min(len(problems), MaxProblems)]
}

func rank(p *pluginv1.Problem) int {
	if p.GetLine() == 0 {
		return trainconfig.MaxBytes + 1
	}
	return int(p.GetLine())
}

func problemOf(err error) *pluginv1.Problem {
	var e *trainconfig.Error
	if !errors.As(err, &e) {
		return &pluginv1.Problem{Problem: err.Error()}
	}
	return &pluginv1.Problem{Field: e.Field, Line: uint32(e.Line), Problem: e.Problem, Remedy: e.Remedy}
}

func (c *Config) read(e trainconfig.Entry, opts Options) (Value, *pluginv1.Problem) {
	p := &pluginv1.Problem{Field: clip(e.Key), Line: uint32(e.Line)}
	key, ok := Lookup(e.Key)
	if !ok {
		key, ok = shortForm[e.Key]
	}
	if !ok && slices.Contains(opts.ExtraKeys, e.Key) {
		return passThrough(e.Value), nil
	}
	if !ok {
		p.Problem, p.Remedy = "no such training key", "remove it"
		if near := Suggest(e.Key, opts.ExtraKeys); near != "" {
			c.bad[near] = true
			p.Remedy = "did you mean " + near + "?"
			if strings.Contains(near, " ") {
				p.Remedy = "use " + near
			}
		}
		return Value{}, p
	}
	v, bad := convert(key, e.Value)
	if bad != nil {
		c.bad[e.Key] = true
		p.Problem, p.Remedy = bad.problem, bad.remedy
		return Value{}, p
	}
	return v, nil
}

// passThrough keeps a value whose type is not known.
func passThrough(n *yaml.Node) Value {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return Value{}
	}
	return Value{kind: kindTree, node: plainTree(n)}
}

// spellOut turns fettle's short form into the trainer's keys and settles how to fine-tune. The method that the config
// asks for must be the launcher's own.
func (c *Config) spellOut(found string) *pluginv1.Problem {
	for key, bits := range map[string]int64{"load_in_4bit": 4, "load_in_8bit": 8} {
		v, has := c.vals[key]
		if !has {
			continue
		}
		if q, both := c.vals["quantization_bit"]; both && v.b && q.i != bits {
			return c.problem(key, fmt.Sprintf("contradicts quantization_bit: %d%s", q.i, onLine(q.Line)), "keep one of them")
		}
		c.Drop(key, "")
		if v.b && !c.Has("quantization_bit") {
			c.put("quantization_bit", Value{kind: kindInt, i: bits, Line: v.Line, Set: v.Set})
			c.note("spelled out %s: true as quantization_bit: %d", key, bits)
		}
	}
	kind, explicit := c.Str("finetuning_type"), c.Has("finetuning_type")
	switch {
	case found == c.Method:
	case c.Method == trainconfig.MethodQLoRA && found == trainconfig.MethodLoRA:
		c.Fill("quantization_bit", Int(4))
	case c.Method == trainconfig.MethodFull && !explicit:
		for _, key := range []string{"lora_rank", "lora_alpha", "lora_target", "lora_dropout", "quantization_bit"} {
			if c.Has(key) {
				return c.problem(key, "contradicts the method full that was asked for", "use --method "+found+", or remove it")
			}
		}
		c.Fill("finetuning_type", String("full"))
	case c.Method == trainconfig.MethodLoRA && found == trainconfig.MethodQLoRA:
		return c.problem("quantization_bit", "makes this a qlora job, but the method lora was asked for", "use --method qlora, or remove it")
	case explicit:
		return c.problem("finetuning_type", fmt.Sprintf("%s contradicts the method %s that was asked for", kind, c.Method), "use --method "+found+", or change it")
	default:
		return c.problem("finetuning_type", "the config trains by "+found+", but the method "+c.Method+" was asked for", "use --method "+found)
	}
	if !c.Has("finetuning_type") {
		c.Fill("finetuning_type", String("lora"))
	}
	if c.Method == trainconfig.MethodQLoRA && c.Has("quantization_bit") {
		c.Fill("quantization_method", String("bnb"))
		if c.Str("quantization_method") == "bnb" {
			c.Fill("double_quantization", Bool(true))
		}
	}
	if c.Str("finetuning_type") == "lora" {
		c.Fill("lora_target", String("all"))
	}
	return nil
}

func (c *Config) problem(key, problem, remedy string) *pluginv1.Problem {
	return &pluginv1.Problem{Field: key, Line: uint32(c.given[key]), Problem: problem, Remedy: remedy}
}

// Problem answers a problem with the line that key was given on.
func (c *Config) Problem(key, problem, remedy string) *pluginv1.Problem {
	return c.problem(key, problem, remedy)
}

func at(line int) string {
	if line == 0 {
		return ""
	}
	return fmt.Sprintf("line %d: ", line)
}

func onLine(line int) string {
	if line == 0 {
		return ""
	}
	return fmt.Sprintf(" (line %d)", line)
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// Text is a problem for people, on one line.
func Text(p *pluginv1.Problem) string {
	return (&trainconfig.Error{Field: p.GetField(), Line: int(p.GetLine()), Problem: p.GetProblem(), Remedy: p.GetRemedy()}).Error()
}
