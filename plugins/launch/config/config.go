package config

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Has answers whether a key has a value; null is none.
func (c *Config) Has(key string) bool { _, ok := c.vals[key]; return ok }

// Get answers a key's value; one without a kind when there is none.
func (c *Config) Get(key string) Value { return c.vals[key] }

// Line answers where the user gave a key, 0 when it was an override or was not given.
func (c *Config) Line(key string) int { return c.given[key] }

// Str answers a text, "" when the key has none.
func (c *Config) Str(key string) string {
	if v := c.vals[key]; v.kind == kindString {
		return v.s
	}
	return ""
}

// Int answers a whole number, or def when the key has none.
func (c *Config) Int(key string, def int64) int64 {
	if v := c.vals[key]; v.kind == kindInt {
		return v.i
	}
	return def
}

// Float answers a number, or def when the key has none.
func (c *Config) Float(key string, def float64) float64 {
	if v := c.vals[key]; v.kind == kindFloat {
		return v.f
	}
	return def
}

// Bool answers a switch, or def when the key has none.
func (c *Config) Bool(key string, def bool) bool {
	if v := c.vals[key]; v.kind == kindBool {
		return v.b
	}
	return def
}

// List answers the items of a list, or of a comma-separated text as the trainer splits it.
func (c *Config) List(key string) []string {
	var items []string
	if v := c.vals[key]; v.kind == kindTree && v.node.Kind == yaml.SequenceNode {
		for _, n := range v.node.Content {
			items = append(items, n.Value)
		}
	}
	for item := range strings.SplitSeq(c.Str(key), ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

// Keys answers the keys in the order in which they are written.
func (c *Config) Keys() []string { return slices.Clone(c.order) }

// Notes are the changes that fettle made, one line each.
func (c *Config) Notes() []string { return slices.Clone(c.notes) }

// Warnings are doubts that do not refuse the job, one line each.
func (c *Config) Warnings() []string { return slices.Clone(c.warnings) }

// Warn adds a doubt.
func (c *Config) Warn(key, text string) {
	c.warnings = append(c.warnings, at(c.given[key])+key+": "+text)
}

// Fill gives a key a value when the user gave none.
func (c *Config) Fill(key string, v Value) {
	if c.Has(key) {
		return
	}
	c.put(key, v)
	c.note("added %s: %s", key, noteText(v))
}

// Force gives a key a value whatever the user gave, and says why when that differs.
func (c *Config) Force(key string, v Value, why string) {
	old, had := c.vals[key]
	if had && old.equal(v) {
		return
	}
	c.put(key, v)
	if had {
		c.note("changed %s: %s to %s: %s", key, noteText(old), noteText(v), why)
	} else {
		c.note("added %s: %s: %s", key, noteText(v), why)
	}
}

// Resolve replaces a value by another spelling of the same, without a note.
func (c *Config) Resolve(key string, v Value) {
	old := c.vals[key]
	v.Line, v.Set = old.Line, old.Set
	c.vals[key] = v
}

// Drop removes a key; an empty reason leaves no note.
func (c *Config) Drop(key, why string) {
	if !c.Has(key) {
		return
	}
	delete(c.vals, key)
	c.order = slices.DeleteFunc(c.order, func(k string) bool { return k == key })
	if why != "" {
		c.note("dropped %s: %s", key, why)
	}
}

// Note adds a line to the notes.
func (c *Config) Note(format string, args ...any) { c.note(format, args...) }

// Put gives a key a value without a note, where another note tells of it.
func (c *Config) Put(key string, v Value) { c.put(key, v) }

func (c *Config) put(key string, v Value) {
	if !c.Has(key) {
		c.order = append(c.order, key)
	}
	c.vals[key] = v
}

func (c *Config) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

func noteText(v Value) string {
	t := v.Text()
	if t == "" || strings.ContainsAny(t, "\n\t") || len(t) > 300 {
		return quote(t)
	}
	return t
}
