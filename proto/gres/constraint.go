package gres

import (
	"slices"
	"strconv"
	"strings"
)

// Limits on constraints.
const (
	// MaxConstraintLen bounds a constraint's text in bytes.
	MaxConstraintLen = 1024
	// MaxFeatureLen bounds one feature's name in bytes.
	MaxFeatureLen = 64
	// maxConstraintDepth bounds how deep parentheses and negations nest.
	maxConstraintDepth = 64
)

const constraintRemedy = "join features with & and |, negate with !, group with (), for example ib&(h100|h200)"

// Constraint is an expression over the features of a node. The zero value matches every node. Immutable.
type Constraint struct{ root *term }

// term is one node of the expression: a feature, or an operator over its terms.
type term struct {
	// op is 0 for a feature, or one of '&', '|', '!'.
	op      byte
	feature string
	terms   []*term
}

// Matches reports whether a node with these features, in any order, meets the constraint. Features are compared in lower
// case as ParseFeature writes them.
func (c Constraint) Matches(features []string) bool { return c.root == nil || c.root.matches(features) }

func (t *term) matches(features []string) bool {
	switch t.op {
	case '!':
		return !t.terms[0].matches(features)
	case '&':
		for _, u := range t.terms {
			if !u.matches(features) {
				return false
			}
		}
		return true
	case '|':
		for _, u := range t.terms {
			if u.matches(features) {
				return true
			}
		}
		return false
	}
	return slices.Contains(features, t.feature)
}

// Empty reports whether the constraint asks for nothing.
func (c Constraint) Empty() bool { return c.root == nil }

// Features returns every feature that the constraint names, ascending, each once.
func (c Constraint) Features() []string {
	var out []string
	var walk func(t *term)
	walk = func(t *term) {
		if t.op == 0 {
			out = append(out, t.feature)
		}
		for _, u := range t.terms {
			walk(u)
		}
	}
	if c.root != nil {
		walk(c.root)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// String prints c without spaces and with as few parentheses as its meaning needs. ParseConstraint reads it back.
func (c Constraint) String() string {
	if c.root == nil {
		return ""
	}
	var b strings.Builder
	c.root.print(&b, 0)
	return b.String()
}

// rank orders operators by how tightly they bind.
func rank(op byte) int { return strings.IndexByte("|&!", op) + 1 }

func (t *term) print(b *strings.Builder, above int) {
	if t.op == 0 {
		b.WriteString(t.feature)
		return
	}
	mine := rank(t.op)
	if mine < above {
		b.WriteByte('(')
		defer b.WriteByte(')')
	}
	if t.op == '!' {
		b.WriteByte('!')
		t.terms[0].print(b, mine)
		return
	}
	for i, u := range t.terms {
		if i > 0 {
			b.WriteByte(t.op)
		}
		u.print(b, mine)
	}
}

// ParseConstraint reads an expression over node features: "ib", "ib&h100", "h100|h200", "ib&!(test|old)". "!" binds
// tighter than "&", that tighter than "|"; "," means "&" as in Slurm. Features are lowered. An empty text asks for nothing.
func ParseConstraint(s string) (Constraint, error) {
	refuse := func(problem string) (Constraint, error) {
		return Constraint{}, &Error{"constraint", s, problem, constraintRemedy}
	}
	if len(s) > MaxConstraintLen {
		return refuse("is longer than " + strconv.Itoa(MaxConstraintLen) + " bytes")
	}
	if strings.TrimSpace(s) == "" {
		return Constraint{}, nil
	}
	p := &constraintParser{rest: strings.ToLower(s)}
	root := p.alternatives(0)
	if p.skip(); p.problem == "" && p.rest != "" {
		p.problem = "does not go on with " + Quote(firstRune(p.rest)) + " there"
		if p.rest[0] == ')' {
			p.problem = "closes a parenthesis that is not open"
		}
	}
	if p.problem != "" {
		return refuse(p.problem)
	}
	return Constraint{root: root}, nil
}

// constraintParser reads by recursive descent; problem is the first thing wrong.
type constraintParser struct {
	rest    string
	problem string
}

func (p *constraintParser) skip() { p.rest = strings.TrimLeft(p.rest, " \t") }

// take consumes c if it comes next.
func (p *constraintParser) take(c byte) bool {
	p.skip()
	if p.rest == "" || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

func (p *constraintParser) fail(problem string) *term {
	if p.problem == "" {
		p.problem = problem
	}
	return nil
}

func (p *constraintParser) alternatives(depth int) *term {
	return p.series('|', func() *term {
		return p.series('&', func() *term { return p.factor(depth) }, ',')
	})
}

// series reads one or more terms joined by op, or by one of also.
func (p *constraintParser) series(op byte, next func() *term, also ...byte) *term {
	var terms []*term
	for {
		t := next()
		if p.problem != "" {
			return nil
		}
		if t.op == op {
			terms = append(terms, t.terms...)
		} else {
			terms = append(terms, t)
		}
		if !p.take(op) && !slices.ContainsFunc(also, p.take) {
			break
		}
	}
	if len(terms) == 1 {
		return terms[0]
	}
	return &term{op: op, terms: terms}
}

func (p *constraintParser) factor(depth int) *term {
	if depth > maxConstraintDepth {
		return p.fail("nests deeper than " + strconv.Itoa(maxConstraintDepth) + " levels")
	}
	if p.take('!') {
		t := p.factor(depth + 1)
		if p.problem != "" {
			return nil
		}
		if t.op == '!' {
			return t.terms[0]
		}
		return &term{op: '!', terms: []*term{t}}
	}
	if p.take('(') {
		t := p.alternatives(depth + 1)
		if p.problem == "" && !p.take(')') {
			return p.fail("leaves a parenthesis open")
		}
		return t
	}
	n := 0
	for n < len(p.rest) && featureByte(p.rest[n]) {
		n++
	}
	word := p.rest[:n]
	p.rest = p.rest[n:]
	switch {
	case word == "" && p.rest == "":
		return p.fail("ends where a feature is wanted")
	case word == "":
		return p.fail("has " + Quote(firstRune(p.rest)) + " where a feature is wanted")
	}
	if problem := featureProblem(word); problem != "" {
		return p.fail(problem)
	}
	return &term{feature: word}
}

// ParseFeature checks and lowers one feature of a node: letters, digits, dots, dashes and underscores, starting with a
// letter or a digit, at most MaxFeatureLen bytes.
func ParseFeature(s string) (string, error) {
	t := strings.ToLower(strings.TrimSpace(s))
	if problem := featureProblem(t); problem != "" {
		return "", &Error{"feature", s, problem, "use letters, digits, dots, dashes and underscores, for example ib"}
	}
	return t, nil
}

func featureByte(c byte) bool { return alnum(c) || c == '.' || c == '-' || c == '_' }

func featureProblem(t string) string {
	switch {
	case t == "":
		return "is empty"
	case len(t) > MaxFeatureLen:
		return "names a feature longer than " + strconv.Itoa(MaxFeatureLen) + " characters"
	case !alnum(t[0]):
		return Quote(t) + " does not start with a letter or a digit"
	}
	for i := 0; i < len(t); i++ {
		if !featureByte(t[i]) {
			return "a feature may not hold " + Quote(firstRune(t[i:]))
		}
	}
	return ""
}
