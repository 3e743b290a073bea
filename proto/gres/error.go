package gres

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxEcho is how many characters of the user's input an error repeats.
const maxEcho = 64

// Error says which input was refused, why, and what to write instead. It renders to one line without control
// characters, however odd the input was.
type Error struct {
	// What names the kind of value, such as "time limit". Callers that know the flag or field may change it with For.
	What string
	// Input is the refused text, as given.
	Input string
	// Problem is what is wrong with it.
	Problem string
	// Remedy is what to write instead; may be empty.
	Remedy string
}

// Error renders `WHAT "INPUT": PROBLEM; REMEDY`.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.What)
	b.WriteByte(' ')
	b.WriteString(Quote(e.Input))
	b.WriteString(": ")
	b.WriteString(e.Problem)
	if e.Remedy != "" {
		b.WriteString("; ")
		b.WriteString(e.Remedy)
	}
	return b.String()
}

// For returns a copy of e that names the value what, for example the flag it was given to.
func (e *Error) For(what string) *Error {
	c := *e
	c.What = what
	return &c
}

// Rename returns err naming the value what when err holds an *Error, and err itself otherwise.
func Rename(err error, what string) error {
	var e *Error
	if errors.As(err, &e) {
		return e.For(what)
	}
	return err
}

// Quote returns s in double quotes with control and unprintable characters escaped, cut after 64 characters, fit to be
// repeated in an error or a log.
func Quote(s string) string {
	n := 0
	for i := range s {
		if n == maxEcho {
			return strconv.Quote(s[:i]) + "..."
		}
		n++
	}
	return strconv.Quote(s)
}

// digits reports whether s is one or more ASCII digits.
func digits(s string) bool {
	if s == "" {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// number reads s, which holds only ASCII digits, and answers limit+1 for anything above limit.
func number(s string, limit int64) int64 {
	var n int64
	for i := 0; i < len(s); i++ {
		d := int64(s[i] - '0')
		if n > limit/10 || n*10 > limit-d {
			return limit + 1
		}
		n = n*10 + d
	}
	return n
}

// firstRune returns the first character of s as a string.
func firstRune(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return s[:n]
}
