package gres

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// Limits on GPU requests.
const (
	// MaxGPUsPerNode bounds what one node may declare and what a job may ask of one node.
	MaxGPUsPerNode = 64
	// MaxGPUsPerJob bounds a whole job's GPUs over all of its nodes.
	MaxGPUsPerJob = 65536
	// MaxTypeLen bounds a GPU type's length in bytes.
	MaxTypeLen = 64
)

const (
	gresRemedy = "use gpu:N or gpu:TYPE:N, for example gpu:4 or gpu:h100:4"
	gpusRemedy = "use N or TYPE:N, for example 4 or h100:4"
)

// GPUs is a number of GPUs, of one type or of any.
type GPUs struct {
	// Type is lower case, such as "h100"; empty means any type.
	Type string
	// Count is how many; 0 means none.
	Count int
}

// String prints g as a gres string: "gpu:4", "gpu:h100:4", or "none" for no GPUs. ParseGRES reads it back.
func (g GPUs) String() string {
	switch {
	case g.Count == 0:
		return "none"
	case g.Type == "":
		return "gpu:" + strconv.Itoa(g.Count)
	}
	return "gpu:" + g.Type + ":" + strconv.Itoa(g.Count)
}

// Split shares a whole job's GPUs evenly over nodes and returns what each node must have. nodes below 1 means 1.
func (g GPUs) Split(nodes int) (GPUs, error) {
	nodes = max(nodes, 1)
	if g.Count%nodes != 0 {
		in := strconv.Itoa(g.Count)
		if g.Type != "" {
			in = g.Type + ":" + in
		}
		return GPUs{}, &Error{"gpus", in, "cannot be shared evenly by " + strconv.Itoa(nodes) + " nodes",
			"ask for a multiple of " + strconv.Itoa(nodes) + ", or say gpus per node with --gpus-per-node"}
	}
	return GPUs{Type: g.Type, Count: g.Count / nodes}, nil
}

// ParseGRES reads what a job asks of each node: "gpu", "gpu:4", "gpu:h100" (one of them), "gpu:h100:4", or "none".
// A count is 1 to MaxGPUsPerNode. A word after "gpu:" that is all digits is the count, so a type such as 4090 is always
// written with a count: "gpu:4090:1". Types are lowered. Lists and resources other than gpu are refused by name.
func ParseGRES(s string) (GPUs, error) {
	return parseGRES("gres", s, true)
}

// MaxAlternatives bounds the requests of which any one would do.
const MaxAlternatives = 8

// ParseGRESList reads what a job asks of each node with alternatives in order of preference: "gpu:h200:1|gpu:h100:2". A
// single request is a list of one. Alternatives must differ, and each must ask for GPUs.
func ParseGRESList(s string) ([]GPUs, error) {
	refuse := func(problem string) ([]GPUs, error) {
		return nil, &Error{"gres", s, problem, "use requests such as gpu:h200:1|gpu:h100:2"}
	}
	if !strings.Contains(s, "|") {
		g, err := ParseGRES(s)
		return []GPUs{g}, err
	}
	var out []GPUs
	for item := range strings.SplitSeq(s, "|") {
		g, err := ParseGRES(item)
		var e *Error
		if errors.As(err, &e) {
			return refuse(Quote(strings.TrimSpace(item)) + ": " + e.Problem)
		}
		switch {
		case g.Count == 0:
			return refuse("has an alternative without GPUs")
		case slices.Contains(out, g):
			return refuse("names " + g.String() + " twice")
		case len(out) == MaxAlternatives:
			return refuse("has more than " + strconv.Itoa(MaxAlternatives) + " alternatives")
		}
		out = append(out, g)
	}
	return out, nil
}

// ParseNodeGRES reads what a node declares, such as "gpu:h100:8". It is ParseGRES with other words in its errors; "none"
// declares a node without GPUs.
func ParseNodeGRES(s string) (GPUs, error) {
	return parseGRES("node gres", s, false)
}

func parseGRES(what, s string, request bool) (GPUs, error) {
	refuse := func(problem, remedy string) (GPUs, error) {
		return GPUs{}, &Error{what, s, problem, remedy}
	}
	t := strings.ToLower(strings.TrimSpace(s))
	switch t {
	case "":
		return refuse("is empty", gresRemedy)
	case "none":
		return GPUs{}, nil
	}
	if strings.Contains(t, ",") {
		seen := 0
		for item := range strings.SplitSeq(t, ",") {
			name, _, _ := strings.Cut(strings.TrimSpace(item), ":")
			if name == "" {
				return refuse("has an empty item", gresRemedy)
			}
			if name != "gpu" {
				return refuse("unknown resource "+Quote(name), "gpu is the only generic resource; "+gresRemedy)
			}
			seen++
		}
		remedy := "ask for one type, or leave the type out: gpu:N"
		if !request {
			remedy = "declare one type per node, or leave the type out: gpu:N"
		}
		return refuse("lists "+strconv.Itoa(seen)+" kinds of GPU where one is possible", remedy)
	}
	name, rest, more := strings.Cut(t, ":")
	if name != "gpu" {
		if name == "gpus" {
			return refuse("unknown resource \"gpus\"", "did you mean \"gpu\"? "+gresRemedy)
		}
		return refuse("unknown resource "+Quote(name), "gpu is the only generic resource; "+gresRemedy)
	}
	if !more {
		return GPUs{Count: 1}, nil
	}
	return typeCount(what, s, rest, MaxGPUsPerNode, "per node", gresRemedy)
}

// ParseGPUs reads a whole job's GPUs as --gpus takes them: "4", "h100:4" or "h100" (one). The count is 1 to
// MaxGPUsPerJob; GPUs.Split shares it over the nodes. Slurm's "gpu:4" spelling is refused with the right one.
func ParseGPUs(s string) (GPUs, error) {
	return parseGPUs("gpus", s, MaxGPUsPerJob, "per job")
}

// ParseGPUsPerNode reads --gpus-per-node: as ParseGPUs, with a count of 1 to MaxGPUsPerNode.
func ParseGPUsPerNode(s string) (GPUs, error) {
	return parseGPUs("gpus per node", s, MaxGPUsPerNode, "per node")
}

func parseGPUs(what, s string, limit int64, scope string) (GPUs, error) {
	t := strings.ToLower(strings.TrimSpace(s))
	switch {
	case t == "":
		return GPUs{}, &Error{what, s, "is empty", gpusRemedy}
	case strings.Contains(t, ","):
		return GPUs{}, &Error{what, s, "lists several kinds of GPU where one is possible", gpusRemedy}
	case t == "gpu" || strings.HasPrefix(t, "gpu:"):
		return GPUs{}, &Error{what, s, "\"gpu:\" belongs to --gres", gpusRemedy}
	}
	return typeCount(what, s, t, limit, scope, gpusRemedy)
}

// typeCount reads COUNT, TYPE or TYPE:COUNT from t, the lowered part of input.
func typeCount(what, input, t string, limit int64, scope, remedy string) (GPUs, error) {
	refuse := func(problem string) (GPUs, error) {
		return GPUs{}, &Error{what, input, problem, remedy}
	}
	typ, count, two := strings.Cut(t, ":")
	if !two && (numeric(typ) || typ == "") {
		typ, count = "", typ
	} else if !two {
		count = "1"
	}
	if strings.Contains(count, ":") {
		return refuse("has too many parts")
	}
	if two && typ == "" {
		return refuse("the type is empty")
	}
	if typ != "" {
		if problem := typeProblem(typ); problem != "" {
			return refuse(problem)
		}
	}
	if count == "" {
		return refuse("the count is missing")
	}
	if !digits(count) {
		return refuse("the count " + Quote(count) + " is not a whole number")
	}
	n := number(count, limit)
	if n == 0 {
		return GPUs{}, &Error{what, input, "the count is zero", "leave the option out for a job without GPUs"}
	}
	if n > limit {
		return refuse("more than " + strconv.FormatInt(limit, 10) + " GPUs " + scope)
	}
	return GPUs{Type: typ, Count: int(n)}, nil
}

// numeric reports whether s is meant as a number: digits with perhaps a sign or a fraction.
func numeric(s string) bool {
	t := strings.TrimLeft(s, "+-")
	t = strings.Replace(t, ".", "", 1)
	return digits(t)
}

// ParseType checks and lowers a GPU type: letters, digits, dot, underscore and dash, starting with a letter or a digit,
// at most MaxTypeLen bytes.
func ParseType(s string) (string, error) {
	t := strings.ToLower(strings.TrimSpace(s))
	if problem := typeProblem(t); problem != "" {
		return "", &Error{"GPU type", s, problem, "use letters, digits, dots, underscores and dashes, for example h100"}
	}
	return t, nil
}

func typeProblem(t string) string {
	switch {
	case t == "":
		return "the type is empty"
	case len(t) > MaxTypeLen:
		return "the type is longer than " + strconv.Itoa(MaxTypeLen) + " characters"
	case !alnum(t[0]):
		return "the type does not start with a letter or a digit"
	}
	for i, r := range t {
		if r < 0x80 && (alnum(t[i]) || r == '.' || r == '_' || r == '-') {
			continue
		}
		return "the type may not hold " + Quote(firstRune(t[i:]))
	}
	return ""
}

// alnum reports whether c is a lower-case ASCII letter or a digit.
func alnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
}
