package host

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Lengths, in bytes, to which a plugin's words are cut.
const (
	maxErrorText = 512
	maxLogText   = 1024
	maxLogField  = 256
	maxUserText  = 1024
)

// printable makes a plugin's words safe for logs and terminals: control, formatting and invalid characters are escaped, line
// breaks become spaces, and what is longer than limit bytes is cut at a character.
func printable(s string, limit int) string {
	clean := len(s) <= limit
	for _, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i, size := 0, 0; i < len(s); i += size {
		var r rune
		r, size = utf8.DecodeRuneInString(s[i:])
		piece := s[i : i+size]
		switch {
		case r == utf8.RuneError && size == 1:
			piece = `\x` + strconv.FormatUint(uint64(s[i])|0x100, 16)[1:]
		case r == '\n', r == '\t', r == '\r':
			piece = " "
		case !unicode.IsPrint(r):
			q := strconv.QuoteRuneToASCII(r)
			piece = q[1 : len(q)-1]
		}
		if b.Len()+len(piece) > limit {
			b.WriteString("…")
			break
		}
		b.WriteString(piece)
	}
	return strings.TrimSpace(b.String())
}
