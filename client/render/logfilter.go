package render

import (
	"io"
	"unicode/utf8"
)

// LogFilter passes a job's output to a terminal and lets it do no more than print, colour, and redraw its own progress
// bars: text, tabs, line breaks, carriage returns, backspaces and the escape sequences for colour, erasing in a line and
// moving up pass; everything else (window titles, clipboard writes, cursor placement, device queries, direction
// overrides) is shown as visible text. Sequences and characters that are split over writes are put together again.
//
// Write reports len(p) unless the underlying writer fails. Close writes what was held back and leaves w open.
type LogFilter struct {
	w    io.Writer
	out  []byte
	held []byte
}

// maxSequence bounds a pending escape sequence in bytes; a longer one is shown as text.
const maxSequence = 64

// NewLogFilter returns a LogFilter that writes to w.
func NewLogFilter(w io.Writer) *LogFilter { return &LogFilter{w: w} }

// Write filters p.
func (f *LogFilter) Write(p []byte) (int, error) {
	data := p
	if len(f.held) > 0 {
		data = append(f.held, p...)
		f.held = nil
	}
	f.out = f.out[:0]
	rest := f.filter(data, false)
	if len(rest) > 0 {
		f.held = append([]byte(nil), rest...)
	}
	if _, err := f.w.Write(f.out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close writes a sequence or character that was left unfinished as visible text.
func (f *LogFilter) Close() error {
	f.out = f.out[:0]
	f.filter(f.held, true)
	f.held = nil
	if len(f.out) == 0 {
		return nil
	}
	_, err := f.w.Write(f.out)
	return err
}

// filter appends the safe form of data to f.out and returns the tail that may go on in the next write.
func (f *LogFilter) filter(data []byte, last bool) []byte {
	for i := 0; i < len(data); {
		c := data[i]
		switch {
		case c == 0x1b:
			n, ok, more := sequence(data[i:])
			switch {
			case more && !last:
				return data[i:]
			case ok:
				f.out = append(f.out, data[i:i+n]...)
				i += n
			default:
				f.out = append(f.out, '^', '[')
				i++
			}
		case c == '\n' || c == '\t' || c == '\r' || c == '\b':
			f.out = append(f.out, c)
			i++
		case c < 0x20:
			f.out = append(f.out, '^', c+'@')
			i++
		case c < 0x7f:
			f.out = append(f.out, c)
			i++
		case c == 0x7f:
			f.out = append(f.out, '^', '?')
			i++
		default:
			if !last && !utf8.FullRune(data[i:]) {
				return data[i:]
			}
			_, n := utf8.DecodeRune(data[i:])
			f.out = AppendLine(f.out, string(data[i:i+n]))
			i += n
		}
	}
	return nil
}

// sequence looks at an escape sequence at the start of b: its length and whether it may pass, or that more is needed.
func sequence(b []byte) (n int, ok, more bool) {
	if len(b) < 2 {
		return 0, false, true
	}
	if b[1] != '[' {
		return 0, false, false
	}
	for i := 2; i < len(b); i++ {
		if i == maxSequence {
			return 0, false, false
		}
		c := b[i]
		switch {
		case c >= '0' && c <= '9' || c == ';' || c == ':':
			continue
		case c == 'm' || c == 'K' || c == 'A' && smallMove(b[2:i]):
			return i + 1, true, false
		}
		return 0, false, false
	}
	return 0, false, true
}

// smallMove accepts "up one line" to "up nine lines", as nested progress bars use.
func smallMove(arg []byte) bool {
	return len(arg) == 0 || len(arg) == 1 && arg[0] >= '0' && arg[0] <= '9'
}
