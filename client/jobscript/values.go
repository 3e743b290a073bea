package jobscript

import (
	"errors"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/fettle-hpc/fettle/proto/gres"
)

// Limits on values.
const (
	maxName    = 128
	maxWord    = 64
	maxComment = 1024
	maxPath    = 4096
	maxNodes   = 1024
	maxCPUs    = 4096
	maxBegin   = 128
	maxSet     = 16 << 10
)

// faultOf takes problem and remedy from an error of package gres.
func faultOf(err error) *fault {
	if err == nil {
		return nil
	}
	var e *gres.Error
	if errors.As(err, &e) {
		return &fault{e.Problem, e.Remedy}
	}
	return &fault{err.Error(), ""}
}

// text checks that v is a line of at most limit bytes.
func text(v string, limit int) *fault {
	switch {
	case strings.TrimSpace(v) == "":
		return &fault{"is empty", "give a value or leave the option out"}
	case len(v) > limit:
		return &fault{"is longer than " + strconv.Itoa(limit) + " bytes", "shorten it"}
	case !utf8.ValidString(v):
		return &fault{"is not valid UTF-8", "write it in UTF-8"}
	case strings.ContainsFunc(v, unicode.IsControl):
		return &fault{"holds a control character", "remove it"}
	}
	return nil
}

func checkText(limit int) func(string) (string, *fault) {
	return func(v string) (string, *fault) { return v, text(v, limit) }
}

func checkJobName(v string) (string, *fault) { return v, text(v, maxName) }
func checkComment(v string) (string, *fault) { return v, text(v, maxComment) }
func checkPath(v string) (string, *fault)    { return v, text(v, maxPath) }

// checkName accepts the names of partitions, projects and methods.
func checkName(what string) func(string) (string, *fault) {
	return func(v string) (string, *fault) {
		if f := text(v, maxWord); f != nil {
			return v, f
		}
		for i, r := range v {
			word := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || i > 0 && strings.ContainsRune("._-", r)
			if !word {
				at := "may not hold "
				if i == 0 {
					at = "may not start with "
				}
				return v, &fault{at + gres.Quote(string(r)), "use the " + what + "'s name: letters, digits, dots, dashes and underscores"}
			}
		}
		return v, nil
	}
}

func checkPartition(v string) (string, *fault) {
	if strings.Contains(v, ",") {
		return v, &fault{"names several partitions", "name one"}
	}
	return checkName("partition")(v)
}

func checkMethod(v string) (string, *fault) {
	v = strings.ToLower(v)
	return checkName("method")(v)
}

// checkInt accepts a whole number from lo to hi.
func checkInt(lo, hi int64, remedy string) func(string) (string, *fault) {
	return func(v string) (string, *fault) {
		v = strings.TrimSpace(v)
		n, err := strconv.ParseInt(v, 10, 64)
		switch {
		case errors.Is(err, strconv.ErrRange):
			return v, &fault{"is out of range", remedy}
		case err != nil:
			return v, &fault{"is not a whole number", remedy}
		case n < lo:
			return v, &fault{"is below " + strconv.FormatInt(lo, 10), remedy}
		case n > hi:
			return v, &fault{"is above " + strconv.FormatInt(hi, 10), remedy}
		}
		return strconv.FormatInt(n, 10), nil
	}
}

// checkNodes accepts N, "any", and Slurm's MIN-MAX when both are the same.
func checkNodes(v string) (string, *fault) {
	const remedy = "use a number of nodes from 1 to 1024"
	if strings.EqualFold(strings.TrimSpace(v), AnyNodes) {
		return AnyNodes, nil
	}
	if lo, hi, isRange := strings.Cut(strings.TrimSpace(v), "-"); isRange && lo != "" && hi != "" {
		if lo != hi {
			return v, &fault{"is a range", "say one number, or any with --gpus: a job gets all of its nodes or none"}
		}
		v = lo
	}
	return checkInt(1, maxNodes, remedy)(v)
}

func checkGPUs(v string) (string, *fault) {
	_, err := gres.ParseGPUs(v)
	return strings.TrimSpace(v), faultOf(err)
}

func checkGRES(v string) (string, *fault) {
	list, err := gres.ParseGRESList(v)
	if err != nil {
		return v, faultOf(err)
	}
	words := make([]string, len(list))
	for i, g := range list {
		words[i] = g.String()
	}
	return strings.Join(words, "|"), nil
}

func checkArray(v string) (string, *fault) {
	a, err := gres.ParseArray(v)
	if err != nil {
		return v, faultOf(err)
	}
	return a.String(), nil
}

func checkDependency(v string) (string, *fault) {
	d, err := gres.ParseDependencies(v)
	if err != nil {
		return v, faultOf(err)
	}
	return d.String(), nil
}

func checkConstraint(v string) (string, *fault) {
	if f := text(v, gres.MaxConstraintLen); f != nil {
		return v, f
	}
	c, err := gres.ParseConstraint(v)
	if err != nil {
		return v, faultOf(err)
	}
	return c.String(), nil
}

func checkGPUsPerNode(v string) (string, *fault) {
	g, err := gres.ParseGPUsPerNode(v)
	if err != nil {
		return v, faultOf(err)
	}
	return g.String(), nil
}

func checkMem(v string) (string, *fault) {
	n, err := gres.ParseSize(v)
	if err == nil && n == 0 {
		return v, &fault{"is zero", "say how much memory, for example 64G, or leave it out"}
	}
	return strings.TrimSpace(v), faultOf(err)
}

func checkTime(v string) (string, *fault) {
	_, err := gres.ParseTimeLimit(v)
	return strings.TrimSpace(v), faultOf(err)
}

func checkKillGrace(v string) (string, *fault) {
	d, err := gres.ParseDuration(v)
	if err == nil && d.Hours() > 1 {
		return v, &fault{"is longer than an hour", "use at most 1h, for example 45s"}
	}
	return strings.TrimSpace(v), faultOf(err)
}

func checkHosts(v string) (string, *fault) {
	_, err := gres.ExpandHosts(v)
	return strings.TrimSpace(v), faultOf(err)
}

func checkDevice(v string) (string, *fault) {
	_, err := gres.ParseDevices(v)
	return strings.TrimSpace(v), faultOf(err)
}

func checkOpenMode(v string) (string, *fault) {
	switch m := strings.ToLower(strings.TrimSpace(v)); m {
	case "append", "a":
		return "append", nil
	case "truncate", "t":
		return "truncate", nil
	}
	return v, &fault{"is neither append nor truncate", "use one of them"}
}

// patternLetters may follow a % in an output path.
const patternLetters = "jaAIxNu%"

// checkPattern checks an output path and its % patterns.
func checkPattern(v string) (string, *fault) {
	if f := text(v, maxPath); f != nil {
		return v, f
	}
	for i := 0; i < len(v); i++ {
		if v[i] != '%' {
			continue
		}
		i++
		if i == len(v) {
			return v, &fault{"ends in a lone %", "write %% for a percent sign"}
		}
		if !strings.Contains(patternLetters, v[i:i+1]) {
			_, n := utf8.DecodeRuneInString(v[i:])
			return v, &fault{"has an unknown pattern " + gres.Quote("%"+v[i:i+n]), "use %j (job), %a (attempt), %A (array), %I (index in it), %x (name), %N (first node), %u (user) or %%"}
		}
	}
	return v, nil
}

// checkSet accepts KEY=VALUE.
func checkSet(v string) (string, *fault) {
	const remedy = "use KEY=VALUE, for example learning_rate=1e-4"
	key, _, ok := strings.Cut(v, "=")
	switch {
	case !ok:
		return v, &fault{"has no =", remedy}
	case key == "":
		return v, &fault{"has no key", remedy}
	case len(key) > maxName:
		return v, &fault{"has a key longer than " + strconv.Itoa(maxName) + " bytes", remedy}
	case len(v) > maxSet:
		return v, &fault{"is longer than 16 KiB", "put long values into the config file"}
	case !utf8.ValidString(v):
		return v, &fault{"is not valid UTF-8", "write it in UTF-8"}
	case strings.ContainsRune(v, 0):
		return v, &fault{"holds a NUL byte", "remove it"}
	}
	for _, r := range key {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("._-", r) {
			return v, &fault{"has a key with " + gres.Quote(string(r)), remedy}
		}
	}
	return v, nil
}
