package command

import (
	"strings"

	"github.com/fettle-hpc/fettle/client/render"
)

// option is one flag of a command.
type option struct {
	// name is the long form, short the one-letter form or empty.
	name, short string
	// arg names the value in help texts; empty for switches.
	arg string
	// repeat says that the flag may be given many times and all values count.
	repeat bool
	help   string
	// group is the heading that the flag stands under in the help text; empty for the first.
	group string
}

// given is one flag on the command line.
type given struct {
	flag *option
	// written is the flag as the user spelt it.
	written string
	value   string
}

// parsed is a command line taken apart.
type parsed struct {
	flags []given
	args  []string
	// dashdash is how many of args stood before a "--"; -1 without one.
	dashdash int
}

// usageError is a command line that makes no sense.
type usageError struct {
	msg string
	// hint is set when the message does not say what to do.
	hint bool
}

func (e *usageError) Error() string { return e.msg }

// usagef makes a usage error of what is wrong and what to do about it, which may be empty.
func usagef(problem, remedy string) error {
	if remedy == "" {
		return &usageError{problem, true}
	}
	return &usageError{problem + "; " + remedy, false}
}

// scan takes args apart. Flags may stand before and after arguments until stop says otherwise about the arguments so far,
// or "--" comes; what follows is arguments. Understood are --name VALUE, --name=VALUE, -x VALUE, -xVALUE and bundled
// switches (-xy). unknown makes the error for a flag that is not in flags; nil for a plain one.
func scan(args []string, flags []*option, stop func(args []string) bool, unknown func(written, name, value string, hasValue bool) error) (parsed, error) {
	s := scanner{p: parsed{dashdash: -1}, flags: flags, unknown: unknown}
	for i := 0; i < len(args); {
		a := args[i]
		switch {
		case a == "--":
			s.p.dashdash = len(s.p.args)
			s.p.args = append(s.p.args, args[i+1:]...)
			return s.p, nil
		case len(a) < 2 || a[0] != '-':
			s.p.args = append(s.p.args, a)
			i++
			if stop != nil && stop(s.p.args) {
				s.p.args = append(s.p.args, args[i:]...)
				return s.p, nil
			}
		default:
			used, err := s.option(a, args[i+1:])
			if err != nil {
				return parsed{}, err
			}
			i += 1 + used
		}
	}
	return s.p, nil
}

type scanner struct {
	p       parsed
	flags   []*option
	unknown func(written, name, value string, hasValue bool) error
}

// option reads the option a, and its value from rest where it stands there; used is how many of rest it took.
func (s *scanner) option(a string, rest []string) (used int, err error) {
	if strings.HasPrefix(a, "--") {
		name, value, joined := strings.Cut(a[2:], "=")
		f := s.long(name)
		if f == nil {
			return 0, s.refuse("--"+name, name, value, joined)
		}
		return s.add(f, "--"+name, value, joined, rest)
	}
	for body := a[1:]; body != ""; {
		f := s.short(body[:1])
		written := "-" + body[:1]
		if f == nil {
			name, value, joined := strings.Cut(body, "=")
			if len(name) > 1 && s.long(name) != nil {
				return 0, usagef("unknown flag "+show("-"+name), "write --"+name)
			}
			return 0, s.refuse(written, body[:1], value, joined)
		}
		body = body[1:]
		switch {
		case f.arg == "" && !strings.HasPrefix(body, "="):
			if _, err := s.add(f, written, "", false, nil); err != nil {
				return 0, err
			}
			continue
		case body == "":
			return s.add(f, written, "", false, rest)
		}
		return s.add(f, written, strings.TrimPrefix(body, "="), true, nil)
	}
	return 0, nil
}

func (s *scanner) add(f *option, written, value string, joined bool, rest []string) (used int, err error) {
	switch {
	case f.arg == "" && joined:
		switch value {
		case "true":
		case "false":
			return 0, nil
		default:
			return 0, usagef(written+" "+render.Quote(value)+": takes no value", "write "+written+" alone")
		}
		value = ""
	case f.arg != "" && !joined:
		if len(rest) == 0 || len(rest[0]) > 1 && rest[0][0] == '-' && !negative(rest[0]) {
			return 0, usagef(written+": needs a value", "write "+written+" "+f.arg+valueHint(written, rest))
		}
		value, used = rest[0], 1
	}
	s.p.flags = append(s.p.flags, given{f, written, value})
	return used, nil
}

// valueHint says how to pass a value that looks like a flag.
func valueHint(written string, rest []string) string {
	if len(rest) > 0 && strings.HasPrefix(written, "--") {
		return ", or " + written + "=" + show(rest[0]) + " when that is the value"
	}
	return ""
}

func negative(s string) bool {
	return len(s) > 1 && s[0] == '-' && s[1] >= '0' && s[1] <= '9'
}

func (s *scanner) long(name string) *option {
	for _, f := range s.flags {
		if f.name == name {
			return f
		}
	}
	return nil
}

func (s *scanner) short(name string) *option {
	for _, f := range s.flags {
		if f.short == name {
			return f
		}
	}
	return nil
}

func (s *scanner) refuse(written, name, value string, joined bool) error {
	if s.unknown != nil {
		if err := s.unknown(written, name, value, joined); err != nil {
			return err
		}
	}
	names := make([]string, 0, len(s.flags))
	for _, f := range s.flags {
		names = append(names, f.name)
	}
	if near := nearest(name, names); near != "" && len(name) > 1 {
		return usagef("unknown flag "+show(written), "did you mean --"+near+"?")
	}
	return usagef("unknown flag "+show(written), "")
}

// show cuts a word of the user's for an error.
func show(s string) string { return render.Line(render.Truncate(s, 64, "...")) }

// nearest returns the word most like name, or "" when none is near.
func nearest(name string, words []string) string {
	name = strings.ToLower(name)
	limit := 2
	if len(name) <= 4 {
		limit = 1
	}
	best, bestDist := "", limit+1
	for _, w := range words {
		d := distance(name, w)
		if len(name) >= 3 && strings.HasPrefix(w, name) {
			d = min(d, 1)
		}
		if d < bestDist {
			best, bestDist = w, d
		}
	}
	return best
}

// distance is the number of letters to add, drop, change or swap with their neighbour to make b of a; long words count
// as far apart.
func distance(a, b string) int {
	if len(a) > 40 || len(b) > 40 {
		return 40
	}
	before, last, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(last[j]+1, cur[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, last, cur = last, cur, before
	}
	return last[len(b)]
}
