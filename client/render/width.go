package render

import (
	"unicode"
	"unicode/utf8"
)

// Width is how many terminal cells s takes: East Asian wide characters and emoji take two, combining marks none.
func Width(s string) int {
	n, ascii := len(s), true
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			ascii = false
			break
		}
	}
	if ascii {
		return n
	}
	n = 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

// Truncate cuts s to at most width cells; what was cut shows as mark, which takes part of the width.
func Truncate(s string, width int, mark string) string {
	if len(s) <= width || Width(s) <= width {
		return s
	}
	room := width - Width(mark)
	if room < 0 {
		room, mark = width, ""
	}
	used := 0
	for i, r := range s {
		w := runeWidth(r)
		if used+w > room {
			return s[:i] + mark
		}
		used += w
	}
	return s
}

// wide are the ranges of characters that take two cells.
var wide = [...][2]rune{
	{0x1100, 0x115f}, {0x231a, 0x231b}, {0x23e9, 0x23ec}, {0x25fd, 0x25fe}, {0x2614, 0x2615}, {0x2648, 0x2653},
	{0x26aa, 0x26ab}, {0x26bd, 0x26be}, {0x26c4, 0x26c5}, {0x2705, 0x2705}, {0x270a, 0x270b}, {0x2728, 0x2728},
	{0x274c, 0x274c}, {0x2753, 0x2755}, {0x2757, 0x2757}, {0x2795, 0x2797}, {0x2b50, 0x2b50}, {0x2e80, 0x303e},
	{0x3041, 0x33ff}, {0x3400, 0x4dbf}, {0x4e00, 0x9fff}, {0xa000, 0xa4cf}, {0xa960, 0xa97c}, {0xac00, 0xd7a3},
	{0xf900, 0xfaff}, {0xfe30, 0xfe6f}, {0xff00, 0xff60}, {0xffe0, 0xffe6}, {0x1f300, 0x1f64f}, {0x1f680, 0x1f6ff},
	{0x1f900, 0x1f9ff}, {0x1fa70, 0x1faff}, {0x20000, 0x3fffd},
}

func runeWidth(r rune) int {
	if r < 0x300 {
		return 1
	}
	if unicode.In(r, unicode.Mn, unicode.Me) {
		return 0
	}
	lo, hi := 0, len(wide)
	for lo < hi {
		mid := (lo + hi) / 2
		switch {
		case r > wide[mid][1]:
			lo = mid + 1
		case r < wide[mid][0]:
			hi = mid
		default:
			return 2
		}
	}
	return 1
}
