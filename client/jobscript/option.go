package jobscript

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/fettle-hpc/fettle/proto/gres"
)

// Origin says where an option was written. Higher ones win.
type Origin int

// Origins in rising precedence.
const (
	// OriginDefault is a default, for example from the client's config file.
	OriginDefault Origin = iota
	// OriginSBATCH is a #SBATCH comment.
	OriginSBATCH
	// OriginFETTLE is a #FETTLE comment.
	OriginFETTLE
	// OriginFlag is the command line.
	OriginFlag
)

// String is what errors call the origin: "#FETTLE", "#SBATCH", "default"; empty for the command line.
func (o Origin) String() string {
	switch o {
	case OriginDefault:
		return "default"
	case OriginSBATCH:
		return "#SBATCH"
	case OriginFETTLE:
		return "#FETTLE"
	}
	return ""
}

// Option is one option as somebody gave it, checked and under its canonical name.
type Option struct {
	// Name is one of the Opt constants.
	Name string
	// Value is checked and fit for the parser that belongs to Name (see the constants); "true" or "false" for switches.
	Value string
	// Written is the option as the user spelt it: "--gpus-per-node", "-J".
	Written string
	// Origin says where it stood.
	Origin Origin
	// File and Line place a directive; Line is 0 elsewhere.
	File string
	Line int
}

// Refuse makes the error for a value that turned out to be wrong later, at the place where the option was written.
func (o Option) Refuse(problem, remedy string) *Error {
	return &Error{File: o.File, Line: o.Line, Origin: o.Origin, Option: o.Written, Value: o.Value, HasValue: !isSwitch(o.Name),
		Problem: problem, Remedy: remedy}
}

// Wrap turns an error of package gres about o's value into one that names the place; other errors become its problem.
func (o Option) Wrap(err error) *Error {
	var e *gres.Error
	if errors.As(err, &e) {
		return o.Refuse(e.Problem, e.Remedy)
	}
	return o.Refuse(strings.ReplaceAll(err.Error(), "\n", " "), "")
}

// Find returns the last option called name.
func Find(options []Option, name string) (Option, bool) {
	for i := len(options) - 1; i >= 0; i-- {
		if options[i].Name == name {
			return options[i], true
		}
	}
	return Option{}, false
}

// Error refuses a file or one option in it. It renders to one line without control characters.
type Error struct {
	// File is the file's name as given; empty for flags.
	File string
	// Line counts from 1; 0 when the whole file is meant.
	Line   int
	Origin Origin
	// Option is the option as written; empty when the file itself is refused.
	Option string
	// Value is the refused value when HasValue is set.
	Value    string
	HasValue bool
	// Problem is what is wrong, Remedy what to do; Remedy may be empty.
	Problem string
	Remedy  string
}

// Error renders `FILE:LINE: #SBATCH --option "value": PROBLEM; REMEDY`, leaving out what is not known.
func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(plain(e.File))
		if e.Line > 0 {
			b.WriteByte(':')
			b.WriteString(strconv.Itoa(e.Line))
		}
		b.WriteString(": ")
	}
	subject := e.Option != ""
	if origin := e.Origin.String(); subject && origin != "" {
		b.WriteString(origin)
		b.WriteByte(' ')
	}
	if subject {
		b.WriteString(plain(e.Option))
		if e.HasValue {
			b.WriteByte(' ')
			b.WriteString(gres.Quote(e.Value))
		}
		b.WriteString(": ")
	}
	b.WriteString(e.Problem)
	if e.Remedy != "" {
		b.WriteString("; ")
		b.WriteString(e.Remedy)
	}
	return b.String()
}

// Errors is everything wrong with one file, in the order of its lines; never empty when returned as an error.
type Errors []*Error

// Error renders the first and how many more there are, in one line. Print the elements to show all.
func (e Errors) Error() string {
	switch len(e) {
	case 0:
		return "no errors"
	case 1:
		return e[0].Error()
	}
	return fmt.Sprintf("%s (and %d more)", e[0].Error(), len(e)-1)
}

// Unwrap gives errors.Is and errors.As the elements.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i := range e {
		out[i] = e[i]
	}
	return out
}

// plain escapes what may not appear in a line of text, and cuts it when it is very long; without quotes around it.
func plain(s string) string {
	const longest = 200
	cut := ""
	if len(s) > longest {
		s, cut = s[:longest], "..."
	}
	q := strconv.Quote(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`) + cut
}
