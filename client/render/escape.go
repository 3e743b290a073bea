package render

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line returns s fit to stand in one line of a terminal: control characters, line and paragraph separators, invisible
// and direction-changing characters and bytes that are not UTF-8 become visible escapes such as \n, \x1b or \u202e. A
// backslash stays as it is. Plain text comes back unchanged without a copy.
func Line(s string) string {
	if printableASCII(s) {
		return s
	}
	return string(AppendLine(nil, s))
}

// AppendLine appends Line(s) to dst.
func AppendLine(dst []byte, s string) []byte {
	if printableASCII(s) {
		return append(dst, s...)
	}
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			dst = append(dst, '\\', 'x', hex(s[i]>>4), hex(s[i]))
		case r == '\n':
			dst = append(dst, '\\', 'n')
		case r == '\r':
			dst = append(dst, '\\', 'r')
		case r == '\t':
			dst = append(dst, '\\', 't')
		case r < 0x20 || r == 0x7f:
			dst = append(dst, '\\', 'x', hex(byte(r)>>4), hex(byte(r)))
		case unsafe(r):
			dst = append(dst, '\\', 'u')
			if r > 0xffff {
				dst[len(dst)-1] = 'U'
				dst = appendHex(dst, uint32(r), 8)
			} else {
				dst = appendHex(dst, uint32(r), 4)
			}
		default:
			dst = append(dst, s[i:i+n]...)
		}
		i += n
	}
	return dst
}

// Lines escapes s like Line but keeps its line breaks and tabs, for texts of several lines such as a config.
func Lines(s string) string {
	if !strings.ContainsAny(s, "\n\t") {
		return Line(s)
	}
	var b []byte
	for len(s) > 0 {
		i := strings.IndexAny(s, "\n\t")
		if i < 0 {
			b = AppendLine(b, s)
			break
		}
		b = AppendLine(b, s[:i])
		b = append(b, s[i])
		s = s[i+1:]
	}
	return string(b)
}

// Quote returns s in double quotes, escaped as Line does and with inner quotes and backslashes escaped too.
func Quote(s string) string {
	return `"` + Line(strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)) + `"`
}

func printableASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}

// unsafe reports whether a valid character above ASCII must not reach a terminal as it is.
func unsafe(r rune) bool {
	switch {
	case r >= 0x80 && r < 0xa0: // C1 controls
		return true
	case r == 0x00ad || r == 0x061c || r == 0x180e || r == 0xfeff:
		return true
	case r >= 0x200b && r <= 0x200f: // zero width and direction marks
		return true
	case r >= 0x2028 && r <= 0x202e: // separators, embeddings and overrides
		return true
	case r >= 0x2060 && r <= 0x206f: // invisible operators and isolates
		return true
	case r >= 0xfff0 && r <= 0xfffb: // interlinear annotation
		return true
	case r >= 0xe0000 && r <= 0xe0fff: // tags
		return true
	}
	return !unicode.IsPrint(r)
}

func hex(b byte) byte { return "0123456789abcdef"[b&15] }

func appendHex(dst []byte, v uint32, digits int) []byte {
	s := strconv.FormatUint(uint64(v), 16)
	for i := len(s); i < digits; i++ {
		dst = append(dst, '0')
	}
	return append(dst, s...)
}
