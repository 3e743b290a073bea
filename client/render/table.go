package render

import (
	"bufio"
	"io"
)

// Column describes one column of a Table.
type Column struct {
	Title string
	// Right aligns the cells to the right.
	Right bool
	// Shrink is the width to which the column may be cut before others are left out when the terminal is too narrow; 0
	// means never.
	Shrink int
	// Drop says how soon the column is left out when cutting was not enough: the lowest above 0 goes first, 0 never.
	Drop int
	// Fixed is an exact width asked for by the user: longer cells are cut to it, also in a file; 0 means none.
	Fixed int
	// OmitEmpty leaves the column out when all of its cells are empty.
	OmitEmpty bool
}

// Table gathers cells and writes them in aligned columns. All text lives in one buffer, so that tables of many
// thousands of rows stay cheap. It is not safe for use by several goroutines.
type Table struct {
	cols   []Column
	text   []byte
	ends   []uint32
	widths []int32
	styles []Style
	max    []int
	row    int
	// NoHeader leaves the line of titles out.
	NoHeader bool
}

// NewTable returns an empty table.
func NewTable(cols ...Column) *Table {
	return &Table{cols: cols, max: make([]int, len(cols))}
}

// Grow makes room for rows more rows.
func (t *Table) Grow(rows int) {
	n := rows * len(t.cols)
	t.ends = append(make([]uint32, 0, len(t.ends)+n), t.ends...)
	t.widths = append(make([]int32, 0, len(t.widths)+n), t.widths...)
	t.styles = append(make([]Style, 0, len(t.styles)+n), t.styles...)
	t.text = append(make([]byte, 0, len(t.text)+n*8), t.text...)
}

// Rows is the number of complete rows.
func (t *Table) Rows() int { return t.row }

// Text adds the next cell of the current row; it is escaped.
func (t *Table) Text(s string) { t.Styled(Plain, s) }

// Styled adds the next cell with a style; it is escaped.
func (t *Table) Styled(style Style, s string) {
	start := len(t.text)
	t.text = AppendLine(t.text, s)
	t.end(style, start)
}

// Bytes lets f append the next cell to the table's buffer; what it appends must be printable ASCII.
func (t *Table) Bytes(style Style, f func([]byte) []byte) {
	start := len(t.text)
	t.text = f(t.text)
	t.end(style, start)
}

func (t *Table) end(style Style, start int) {
	w := len(t.text) - start
	for _, c := range t.text[start:] {
		if c >= 0x80 {
			w = Width(string(t.text[start:]))
			break
		}
	}
	col := len(t.ends) % len(t.cols)
	t.max[col] = max(t.max[col], w)
	t.ends = append(t.ends, uint32(len(t.text)))
	t.widths = append(t.widths, int32(w))
	t.styles = append(t.styles, style)
	if col == len(t.cols)-1 {
		t.row++
	}
}

// Write prints the table for term.
func (t *Table) Write(w io.Writer, term Terminal) error {
	return t.WriteOrder(w, term, nil)
}

// WriteOrder prints the rows that order names, in that order; nil prints all as they were added. Lines do not end in
// spaces.
func (t *Table) WriteOrder(w io.Writer, term Terminal, order []int32) error {
	bw, ok := w.(*bufio.Writer)
	if !ok {
		bw = bufio.NewWriterSize(w, 64<<10)
	}
	widths := t.layout(term.Width)
	mark := term.Ellipsis()
	line := make([]byte, 0, 512)
	if !t.NoHeader {
		for i, c := range t.cols {
			if widths[i] >= 0 {
				title := Truncate(c.Title, widths[i], mark)
				line = pad(line, term, Bold, []byte(title), widths[i]-Width(title), c.Right)
			}
		}
		if err := writeLine(bw, line); err != nil {
			return err
		}
	}
	n := t.row
	if order != nil {
		n = len(order)
	}
	for k := range n {
		r := k
		if order != nil {
			r = int(order[k])
		}
		line = line[:0]
		base := r * len(t.cols)
		for i, c := range t.cols {
			if widths[i] < 0 {
				continue
			}
			start := uint32(0)
			if base+i > 0 {
				start = t.ends[base+i-1]
			}
			cell, cw := t.text[start:t.ends[base+i]], int(t.widths[base+i])
			if cw > widths[i] {
				s := Truncate(string(cell), widths[i], mark)
				cell, cw = []byte(s), Width(s)
			}
			line = pad(line, term, t.styles[base+i], cell, widths[i]-cw, c.Right)
		}
		if err := writeLine(bw, line); err != nil {
			return err
		}
	}
	return bw.Flush()
}

// pad appends a cell, filled up by gap spaces, and the space between columns.
func pad(line []byte, term Terminal, style Style, cell []byte, gap int, right bool) []byte {
	if right {
		line = appendSpaces(line, gap)
	}
	if style != Plain && term.Color && len(cell) > 0 {
		line = append(line, styleCodes[style]...)
		line = append(line, cell...)
		line = append(line, styleReset...)
	} else {
		line = append(line, cell...)
	}
	if !right {
		line = appendSpaces(line, gap)
	}
	return append(line, ' ', ' ')
}

func appendSpaces(line []byte, n int) []byte {
	const spaces = "                                                                "
	for n > 0 {
		k := min(n, len(spaces))
		line = append(line, spaces[:k]...)
		n -= k
	}
	return line
}

// writeLine writes a line without the spaces at its end.
func writeLine(bw *bufio.Writer, line []byte) error {
	n := len(line)
	for n > 0 && line[n-1] == ' ' {
		n--
	}
	if _, err := bw.Write(line[:n]); err != nil {
		return err
	}
	return bw.WriteByte('\n')
}

// layout decides every column's width within limit cells; -1 leaves a column out.
func (t *Table) layout(limit int) []int {
	widths := make([]int, len(t.cols))
	for i, c := range t.cols {
		title := Width(c.Title)
		if t.NoHeader {
			title = 0
		}
		switch {
		case c.OmitEmpty && t.max[i] == 0:
			widths[i] = -1
		case c.Fixed > 0:
			widths[i] = c.Fixed
		default:
			widths[i] = max(t.max[i], title)
		}
	}
	if limit <= 0 {
		return widths
	}
	for over := total(widths) - limit; over > 0; over = total(widths) - limit {
		if t.shrinkTitle(widths, over) || t.shrink(widths, over) {
			continue
		}
		drop := -1
		for i, c := range t.cols {
			if widths[i] >= 0 && c.Drop > 0 && (drop < 0 || c.Drop < t.cols[drop].Drop) {
				drop = i
			}
		}
		if drop < 0 {
			if t.shrinkHard(widths, over) {
				continue
			}
			break
		}
		widths[drop] = -1
		t.regrow(widths)
	}
	return widths
}

// shrinkTitle cuts a column that is as wide as it is only for its title; it reports whether there was one.
func (t *Table) shrinkTitle(widths []int, over int) bool {
	for i, c := range t.cols {
		if least := max(t.max[i], c.Shrink); c.Shrink > 0 && c.Fixed == 0 && widths[i] > least {
			widths[i] -= min(over, widths[i]-least)
			return true
		}
	}
	return false
}

// shrink cuts the column with the most room above its least width; it reports whether any could be cut.
func (t *Table) shrink(widths []int, over int) bool {
	best, room := -1, 0
	for i, c := range t.cols {
		if c.Shrink > 0 && c.Fixed == 0 && widths[i]-c.Shrink > room {
			best, room = i, widths[i]-c.Shrink
		}
	}
	if best < 0 {
		return false
	}
	widths[best] -= min(over, room)
	return true
}

// shrinkHard cuts below the least widths where nothing else helps.
func (t *Table) shrinkHard(widths []int, over int) bool {
	const least = 4
	best := -1
	for i, c := range t.cols {
		if c.Shrink > 0 && c.Fixed == 0 && widths[i] > least && (best < 0 || widths[i] > widths[best]) {
			best = i
		}
	}
	if best < 0 {
		return false
	}
	widths[best] -= min(over, widths[best]-least)
	return true
}

// regrow gives cut columns their wish again, so that room won by leaving a column out is used.
func (t *Table) regrow(widths []int) {
	for i, c := range t.cols {
		if widths[i] < 0 || c.Shrink == 0 || c.Fixed > 0 {
			continue
		}
		want := t.max[i]
		if !t.NoHeader {
			want = max(want, Width(c.Title))
		}
		widths[i] = want
	}
}

// total is the width of a line: all columns and two spaces between each.
func total(widths []int) int {
	sum, n := 0, 0
	for _, w := range widths {
		if w >= 0 {
			sum += w
			n++
		}
	}
	return sum + 2*max(n-1, 0)
}
