package jobscript

import (
	"strconv"
	"strings"

	"github.com/fettle-hpc/fettle/proto/gres"
)

// Limits on --export.
const (
	// MaxExportVars is how many variables may be named.
	MaxExportVars = 512
	// MaxExportBytes bounds the whole list.
	MaxExportBytes = 64 << 10
)

const exportRemedy = "use ALL, NONE or a list such as ALL,WANDB_MODE=offline,HF_HOME"

// ExportVar is one variable of --export.
type ExportVar struct {
	Name string
	// Value is the value given with "=" when Set; otherwise the variable is taken from the submitter's environment.
	Value string
	Set   bool
}

// Export says which environment a job is given.
type Export struct {
	// All takes the submitter's whole environment.
	All bool
	// Vars come on top, in the order given.
	Vars []ExportVar
}

// ParseExport reads --export: "ALL", "NONE" (or "NIL"), or a comma-separated list of NAME, NAME=VALUE and ALL. A value
// may be put in single quotes to hold commas. Names are letters, digits and underscores, not starting with a digit.
func ParseExport(v string) (Export, error) {
	e, f := parseExport(v)
	if f != nil {
		return Export{}, &Error{Option: "--export", Value: v, HasValue: true, Problem: f.problem, Remedy: f.remedy, Origin: OriginFlag}
	}
	return e, nil
}

func checkExport(v string) (string, *fault) {
	_, f := parseExport(v)
	return v, f
}

func parseExport(v string) (Export, *fault) {
	var e Export
	switch {
	case strings.TrimSpace(v) == "":
		return e, &fault{"is empty", exportRemedy}
	case len(v) > MaxExportBytes:
		return e, &fault{"is longer than 64 KiB", "set variables in the script"}
	case strings.ContainsRune(v, 0):
		return e, &fault{"holds a NUL byte", "remove it"}
	}
	switch strings.ToUpper(strings.TrimSpace(v)) {
	case "NONE", "NIL":
		return e, nil
	}
	for rest := v; ; {
		item, more, problem := exportItem(rest)
		if problem != "" {
			return Export{}, &fault{problem, exportRemedy}
		}
		name, value, set := strings.Cut(item, "=")
		name = strings.TrimSpace(name)
		switch {
		case name == "":
			return Export{}, &fault{"has an empty item", exportRemedy}
		case !set && strings.EqualFold(name, "ALL"):
			e.All = true
		case !set && (strings.EqualFold(name, "NONE") || strings.EqualFold(name, "NIL")):
			return Export{}, &fault{"mixes " + name + " with other items", exportRemedy}
		case !variableName(name):
			return Export{}, &fault{"has a bad variable name " + gres.Quote(name), exportRemedy}
		default:
			e.Vars = append(e.Vars, ExportVar{Name: name, Value: unquote(value), Set: set})
		}
		if len(e.Vars) > MaxExportVars {
			return Export{}, &fault{"names more than " + strconv.Itoa(MaxExportVars) + " variables", "set variables in the script"}
		}
		if more == "" {
			return e, nil
		}
		rest = more[1:]
	}
}

// exportItem cuts off the first item; more starts with the comma after it, or is empty.
func exportItem(s string) (item, more, problem string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\'' && (quoted || i > 0 && s[i-1] == '='):
			quoted = !quoted
		case s[i] == ',' && !quoted:
			return s[:i], s[i:], ""
		}
	}
	if quoted {
		return "", "", "has a ' without its partner"
	}
	return s, "", ""
}

// unquote takes single quotes from around a value.
func unquote(v string) string {
	if len(v) >= 2 && v[0] == '\'' && v[len(v)-1] == '\'' {
		return v[1 : len(v)-1]
	}
	return v
}

func variableName(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
