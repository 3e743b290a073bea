package gres

import (
	"slices"
	"strings"
	"testing"
)

func TestParseConstraint(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, printed string
		yes, no       []string
	}{
		{"", "", []string{"", "ib"}, nil},
		{"IB", "ib", []string{"ib", "a ib"}, []string{"", "ibx"}},
		{"a&b", "a&b", []string{"a b"}, []string{"a", "b"}},
		{"a,b", "a&b", []string{"b a"}, []string{"a"}},
		{"a|b", "a|b", []string{"a", "b"}, []string{"c"}},
		{"!a", "!a", []string{"", "b"}, []string{"a"}},
		{"!!a", "a", []string{"a"}, []string{"b"}},
		{" a & ( b | c ) ", "a&(b|c)", []string{"a b", "a c"}, []string{"a", "b c"}},
		{"a&b|c", "a&b|c", []string{"a b", "c"}, []string{"a"}},
		{"(a&b)|c", "a&b|c", []string{"c"}, []string{"b"}},
		{"a|(b|c)", "a|b|c", []string{"c"}, []string{""}},
		{"!(a|b)&c", "!(a|b)&c", []string{"c", "c d"}, []string{"a c", "b"}},
		{"rack-1.b_2", "rack-1.b_2", []string{"rack-1.b_2"}, []string{"rack"}},
	} {
		got, err := ParseConstraint(c.text)
		if err != nil || got.String() != c.printed {
			t.Errorf("ParseConstraint(%q) = %q, %v", c.text, got, err)
			continue
		}
		for _, list := range [][]string{c.yes, c.no} {
			for _, features := range list {
				if got.Matches(strings.Fields(features)) != slices.Contains(c.yes, features) {
					t.Errorf("%q matches %q: %v", c.text, features, got.Matches(strings.Fields(features)))
				}
			}
		}
	}
	if c, _ := ParseConstraint("b&!(a|b)"); !slices.Equal(c.Features(), []string{"a", "b"}) {
		t.Errorf("features = %v", c.Features())
	}
	const remedy = "; " + constraintRemedy
	refusals(t, ParseConstraint, [][2]string{
		{"a&", `constraint "a&": ends where a feature is wanted` + remedy},
		{"&a", `constraint "&a": has "&" where a feature is wanted` + remedy},
		{"(a|b", `constraint "(a|b": leaves a parenthesis open` + remedy},
		{"a)", `constraint "a)": closes a parenthesis that is not open` + remedy},
		{"a b", `constraint "a b": does not go on with "b" there` + remedy},
		{"()", `constraint "()": has ")" where a feature is wanted` + remedy},
		{"-a", `constraint "-a": "-a" does not start with a letter or a digit` + remedy},
		{"[a]", `constraint "[a]": has "[" where a feature is wanted` + remedy},
		{strings.Repeat("x", 65), `constraint "` + strings.Repeat("x", 64) + `"...: names a feature longer than 64 characters` + remedy},
		{strings.Repeat("(", 100), `constraint "` + strings.Repeat("(", 64) + `"...: nests deeper than 64 levels` + remedy},
		{strings.Repeat("a", 1025), `constraint "` + strings.Repeat("a", 64) + `"...: is longer than 1024 bytes` + remedy},
	})
}

func TestParseFeature(t *testing.T) {
	t.Parallel()
	if f, err := ParseFeature(" IB.2 "); err != nil || f != "ib.2" {
		t.Errorf("got %q, %v", f, err)
	}
	refusals(t, ParseFeature, [][2]string{
		{"", `feature "": is empty; use letters, digits, dots, dashes and underscores, for example ib`},
		{"a&b", `feature "a&b": a feature may not hold "&"; use letters, digits, dots, dashes and underscores, for example ib`},
	})
}

// What is printed reads back as the same expression, and means the same for every choice among its features.
func FuzzConstraint(f *testing.F) {
	for _, s := range []string{"", "ib", "a&b|c", "!(a|b)&c", "a,b", "((a))", "!!!a", "a&", ")(", "A|ä", strings.Repeat("!", 70) + "a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseConstraint(s)
		if err != nil {
			oneLine(t, err)
			return
		}
		again, err := ParseConstraint(c.String())
		if err != nil || again.String() != c.String() {
			t.Fatalf("%q printed as %q, read back as %q, %v", s, c, again, err)
		}
		names := c.Features()
		if c.Empty() != (len(names) == 0) {
			t.Fatalf("%q is empty: %v, with features %v", s, c.Empty(), names)
		}
		for bits := range 1 << min(len(names), 6) {
			var have []string
			for i, n := range names {
				if bits>>min(i, 5)&1 == 1 {
					have = append(have, n)
				}
			}
			if c.Matches(have) != again.Matches(have) {
				t.Fatalf("%q and %q differ for %v", s, again, have)
			}
		}
	})
}
