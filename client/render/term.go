package render

import (
	"os"
	"strings"

	"golang.org/x/term"
)

// Terminal says what an output can show. The zero value is a file or a pipe: no colour, any width, plain ASCII marks.
type Terminal struct {
	// TTY is set when a person may be looking.
	TTY bool
	// Width is in cells; 0 means not bounded.
	Width int
	// Height is in lines; 0 means not known.
	Height int
	// Color allows colour sequences.
	Color bool
	// UTF8 allows characters above ASCII in marks, bars and curves.
	UTF8 bool
}

// DetectTerminal looks at f and at NO_COLOR, TERM, LC_ALL, LC_CTYPE and LANG through getenv.
func DetectTerminal(f *os.File, getenv func(string) string) Terminal {
	if f == nil || !term.IsTerminal(int(f.Fd())) {
		return Terminal{UTF8: utf8Locale(getenv)}
	}
	t := Terminal{TTY: true, UTF8: utf8Locale(getenv)}
	if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
		t.Width, t.Height = w, h
	} else {
		t.Width, t.Height = 80, 24
	}
	t.Color = getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
	return t
}

func utf8Locale(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := getenv(name); v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// Ellipsis is the mark for text that was cut.
func (t Terminal) Ellipsis() string {
	if t.UTF8 {
		return "…"
	}
	return "+"
}

// Style is how a piece of text looks where colour is allowed.
type Style uint8

// Styles. They carry meaning only beside words: nothing is told by colour alone.
const (
	Plain Style = iota
	Bold
	Dim
	Red
	Green
	Yellow
	Blue
	Cyan
)

var styleCodes = [...]string{Plain: "", Bold: "\x1b[1m", Dim: "\x1b[2m", Red: "\x1b[31m", Green: "\x1b[32m",
	Yellow: "\x1b[33m", Blue: "\x1b[34m", Cyan: "\x1b[36m"}

const styleReset = "\x1b[0m"

// Paint returns s in style, or s itself where colour is not allowed. s must be escaped already.
func (t Terminal) Paint(style Style, s string) string {
	if !t.Color || style == Plain || int(style) >= len(styleCodes) {
		return s
	}
	return styleCodes[style] + s + styleReset
}
