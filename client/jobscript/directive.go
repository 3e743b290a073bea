package jobscript

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/fettle-hpc/fettle/proto/gres"
)

// Bounds on what one file can make us say.
const (
	maxErrors   = 20
	maxWarnings = 10
)

// scanner collects what the comments of one file hold.
type scanner struct {
	file     string
	kind     Kind
	options  []Option
	warnings []string
	hidden   int // warnings beyond maxWarnings
	errs     Errors
}

// scan goes through the file's lines once.
func (s *scanner) scan(data []byte) {
	leading := true
	line := 0
	for text := range strings.SplitSeq(string(data), "\n") {
		line++
		text = strings.TrimSuffix(text, "\r")
		if leading && !s.isLeading(text) {
			leading = false
		}
		if len(text) == 0 || len(s.errs) >= maxErrors {
			continue
		}
		origin, rest, ok := marker(text)
		switch {
		case ok && leading:
			s.directive(origin, line, rest)
		case ok && looksLikeOption(rest):
			s.warnLine(line, fmt.Sprintf("%s is ignored after the first %s; move it to the top", origin, s.first()))
		case leading:
			s.nearMiss(line, text)
		}
	}
	if s.hidden > 0 {
		s.warnings = append(s.warnings, fmt.Sprintf("%s: %d more warnings", plain(s.file), s.hidden))
	}
}

// isLeading reports whether a line may stand before the end of the leading comment block.
func (s *scanner) isLeading(text string) bool {
	t := strings.TrimLeft(text, " \t")
	if t == "" || t[0] == '#' {
		return true
	}
	return s.kind == KindYAML && (t[0] == '%' || strings.TrimRight(t, " \t") == "---")
}

// first names what ends the leading block.
func (s *scanner) first() string {
	if s.kind == KindYAML {
		return "key"
	}
	return "command"
}

func (s *scanner) warnLine(line int, msg string) {
	if len(s.warnings) == maxWarnings {
		s.hidden++
		return
	}
	s.warnings = append(s.warnings, fmt.Sprintf("%s:%d: %s", plain(s.file), line, msg))
}

// marker recognises a directive line: the marker at the very start, then a blank or nothing.
func marker(text string) (origin Origin, rest string, ok bool) {
	for _, o := range []Origin{OriginFETTLE, OriginSBATCH} {
		if r, has := strings.CutPrefix(text, o.String()); has && (r == "" || r[0] == ' ' || r[0] == '\t') {
			return o, r, true
		}
	}
	return 0, "", false
}

// looksLikeOption reports whether what follows a marker begins with -x or --x.
func looksLikeOption(rest string) bool {
	t := strings.TrimLeft(rest, " \t:")
	name := strings.TrimPrefix(strings.TrimPrefix(t, "-"), "-")
	return len(name) < len(t) && name != "" && (name[0]|0x20) >= 'a' && (name[0]|0x20) <= 'z'
}

// nearMiss warns of comments that were meant as directives: "# SBATCH --x", "#sbatch --x", "#FETLE --x", "#PBS -l".
// A doubled "##SBATCH" is the custom for switching a directive off and stays silent.
func (s *scanner) nearMiss(line int, text string) {
	t := strings.TrimLeft(text, " \t")
	if t == "" || strings.HasPrefix(t, "##") {
		return
	}
	t = strings.TrimLeft(t[1:], " \t")
	end := 0
	for end < len(t) && t[end] != ' ' && t[end] != '\t' && t[end] != ':' && t[end] != '-' {
		end++
	}
	word, rest := strings.ToUpper(t[:min(end, 16)]), t[end:]
	if !looksLikeOption(rest) {
		return
	}
	for _, o := range []Origin{OriginFETTLE, OriginSBATCH} {
		if distance(word, o.String()[1:]) <= 1 {
			s.warnLine(line, fmt.Sprintf("looks like a directive but is a plain comment; start the line with %q", o.String()+" "))
			return
		}
	}
	switch word {
	case "PBS", "BSUB", "OAR", "COBALT":
		if strings.HasPrefix(text, "#"+word) {
			s.warnLine(line, "#"+word+" directives are not read; write them as #FETTLE or #SBATCH")
		}
	}
}

// refuse records an error at a line.
func (s *scanner) refuse(e *Error) {
	e.File = s.file
	s.errs = append(s.errs, e)
}

// directive reads the options of one line.
func (s *scanner) directive(origin Origin, line int, rest string) {
	bad := func(option, problem, remedy string) {
		s.refuse(&Error{Line: line, Origin: origin, Option: option, Problem: problem, Remedy: remedy})
	}
	list, problem := words(rest)
	if problem != "" {
		bad("line", problem, "quote as in a shell")
		return
	}
	if len(list) > 0 && origin == OriginSBATCH && (list[0] == "hetjob" || list[0] == "packjob") {
		bad(list[0], "is not supported", "submit one job for each part")
		return
	}
	for len(list) > 0 && len(s.errs) < maxErrors {
		w := list[0]
		list = list[1:]
		name, value, joined, problem, remedy := cutWord(w)
		if problem != "" {
			s.refuse(&Error{Line: line, Origin: origin, Option: "word", Value: w, HasValue: true, Problem: problem, Remedy: remedy})
			continue
		}
		written := "-" + name
		if strings.HasPrefix(w, "--") {
			written = "--" + name
		}
		f, known := lookup(origin, name)
		if !known {
			// What follows is taken for its value, so that one typing error is one error.
			if !joined && len(list) > 0 && !strings.HasPrefix(list[0], "-") {
				list = list[1:]
			}
			s.refuse(unknown(origin, line, written, name))
			continue
		}
		switch ar := f.arity(); {
		case ar == argNone && joined:
			bad(written, "takes no value", "remove "+gres.Quote(value))
			continue
		case ar == argRequired && !joined:
			if len(list) == 0 || strings.HasPrefix(list[0], "--") {
				bad(written, "needs a value", "write "+written+exampleSeparator(written)+valueName(f))
				continue
			}
			value, list = list[0], list[1:]
		}
		s.take(origin, line, written, f, value)
	}
}

func exampleSeparator(written string) string {
	if strings.HasPrefix(written, "--") {
		return "="
	}
	return " "
}

func valueName(f found) string {
	if f.spec != nil {
		return f.spec.Arg
	}
	return "VALUE"
}

const (
	notOption   = "is not an option"
	optionShape = "options look like --time=1:00:00 or -t 1:00:00"
)

// cutWord takes an option word apart. name is without dashes.
func cutWord(w string) (name, value string, joined bool, problem, remedy string) {
	switch {
	case strings.HasPrefix(w, "--"):
		name, value, joined = strings.Cut(w[2:], "=")
		if name == "" {
			return "", "", false, notOption, optionShape
		}
		return name, value, joined, "", ""
	case strings.HasPrefix(w, "-") && len(w) > 1:
		if c := w[1] | 0x20; c < 'a' || c > 'z' {
			return "", "", false, notOption, optionShape
		}
		name, value = w[1:2], w[2:]
		if strings.HasPrefix(value, "=") {
			return "", "", false, "mixes the two ways to give a value", "write -" + name + " " + shellWord(value[1:])
		}
		return name, value, value != "", "", ""
	}
	if r, _ := utf8.DecodeRuneInString(w); r >= '\u2010' && r <= '\u2015' || r == '\u2212' {
		return "", "", false, "starts with a typographic dash", "type - or -- instead"
	}
	return "", "", false, notOption, optionShape
}

// shellWord shows a value as one would type it.
func shellWord(v string) string {
	if v == "" {
		return "VALUE"
	}
	if strings.ContainsAny(v, " \t\"'\\#") {
		return gres.Quote(v)
	}
	return plain(v)
}

func unknown(origin Origin, line int, written, name string) *Error {
	e := &Error{Line: line, Origin: origin, Option: written, Problem: "is not an option of fsubmit", Remedy: "see fsubmit --help"}
	if origin == OriginSBATCH {
		e.Problem = "is not an option of sbatch"
	}
	if s := suggest(origin, name); s != "" {
		e.Remedy = "did you mean --" + s + "?"
	}
	return e
}

// take checks one option and appends it.
func (s *scanner) take(origin Origin, line int, written string, f found, value string) {
	o, dropped, err := build(origin, written, f, value)
	switch {
	case err != nil:
		err.Line = line
		s.refuse(err)
	case !dropped:
		o.File, o.Line = s.file, line
		s.options = append(s.options, o)
		if hasVariable(o) {
			s.warnLine(line, fmt.Sprintf("%s is taken literally: $ and ~ are not expanded in %s", gres.Quote(o.Value), origin))
		}
	}
}

// hasVariable reports whether a path looks as if the user expects a shell to expand it.
func hasVariable(o Option) bool {
	switch o.Name {
	case OptOutput, OptError, OptChdir:
		return strings.ContainsRune(o.Value, '$') || strings.HasPrefix(o.Value, "~")
	}
	return false
}

// build checks a value by the table. dropped means that the option asks for what happens anyway.
func build(origin Origin, written string, f found, value string) (o Option, dropped bool, err *Error) {
	if f.foreign != nil {
		if f.foreign.drops(value) {
			return Option{}, true, nil
		}
		e := &Error{Origin: origin, Option: written, Problem: "is not supported", Remedy: f.foreign.remedy}
		if f.foreign.remedy == viaLine {
			e.Problem = "does not belong in a file"
		}
		if len(f.foreign.neutral) > 0 {
			e.Value, e.HasValue = value, true
			e.Problem = "only " + f.foreign.neutral[0] + " is supported"
		}
		return Option{}, false, e
	}
	canon := f.spec.name()
	checked := f.spec.value
	if f.spec.check != nil {
		v := value
		if origin == OriginSBATCH && (canon == OptOutput || canon == OptError) {
			v = slurmPattern(v)
		}
		var bad *fault
		if checked, bad = f.spec.check(v); bad != nil {
			return Option{}, false, &Error{Origin: origin, Option: written, Value: value, HasValue: true,
				Problem: bad.problem, Remedy: bad.remedy}
		}
	}
	return Option{Name: canon, Value: checked, Written: written, Origin: origin}, false, nil
}

// NewOption checks one option that does not come from a file: a flag or a default. name is the long or one-letter name
// without dashes; value is ignored for switches. ok is false when the option asks for what happens anyway, such as
// --ntasks 1. An option that fettle does not have is refused as it would be in a directive.
func NewOption(origin Origin, name, value string) (o Option, ok bool, err error) {
	written := "--" + name
	if len(name) == 1 {
		written = "-" + name
	}
	f, known := lookup(origin, name)
	if !known {
		return Option{}, false, unknown(origin, 0, written, name)
	}
	o, dropped, bad := build(origin, written, f, value)
	if bad != nil {
		return Option{}, false, bad
	}
	return o, !dropped, nil
}
