package gres

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"
)

// oneLine fails unless err is an *Error that renders to one short line of printable characters.
func oneLine(t interface{ Fatalf(string, ...any) }, err error) {
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%T is not an *Error: %v", err, err)
	}
	line := err.Error()
	if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Fatalf("error holds unprintable characters: %q", line)
	}
	if len(line) > 1500 {
		t.Fatalf("error is %d bytes long: %.200s", len(line), line)
	}
	if e.What == "" || e.Problem == "" {
		t.Fatalf("error lacks its parts: %#v", e)
	}
}

func TestErrorNamesTheFieldItIsGivenTo(t *testing.T) {
	t.Parallel()
	_, err := ParseTimeLimit("5x")
	const want = `"5x": unknown unit "x"; use minutes, HH:MM:SS, D-HH:MM:SS or 90m`
	if got := err.Error(); got != "time limit "+want {
		t.Errorf("got  %s\nwant time limit %s", got, want)
	}
	if got := Rename(fmt.Errorf("wrapped: %w", err), "--time").Error(); got != "--time "+want {
		t.Errorf("renamed: %s", got)
	}
	if got := err.Error(); got != "time limit "+want {
		t.Errorf("Rename changed the original: %s", got)
	}
	plain := errors.New("other")
	if Rename(plain, "x") != plain {
		t.Error("Rename touched another error")
	}
}

func TestQuoteEscapesAndCuts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{"gpu:4", `"gpu:4"`},
		{"a\nb\x1b[31m\x00", `"a\nb\x1b[31m\x00"`},
		{"\u202egnp", `"\u202egnp"`},
		{"显卡", `"显卡"`},
		{"\xff", `"\xff"`},
		{strings.Repeat("é", 64), `"` + strings.Repeat("é", 64) + `"`},
		{strings.Repeat("é", 65), `"` + strings.Repeat("é", 64) + `"...`},
	} {
		if got := Quote(c.in); got != c.want {
			t.Errorf("Quote(%q) = %s, want %s", c.in, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		q := Quote(rapid.String().Draw(t, "s") + string(rapid.SliceOf(rapid.Byte()).Draw(t, "b")))
		if strings.ContainsFunc(q, func(r rune) bool { return !unicode.IsPrint(r) }) || len(q) > 64*10+5 {
			t.Fatalf("unfit for a line: %q", q)
		}
	})
}
