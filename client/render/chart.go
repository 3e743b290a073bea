package render

import (
	"math"
	"strconv"
	"strings"
)

// Bar draws a progress bar of width cells for a share from 0 to 1; values outside are taken to the nearer end.
func Bar(share float64, width int, utf8 bool) string {
	if width <= 0 {
		return ""
	}
	if math.IsNaN(share) {
		share = 0
	}
	share = min(max(share, 0), 1)
	if !utf8 {
		full := int(share * float64(width))
		return strings.Repeat("#", full) + strings.Repeat(".", width-full)
	}
	eighths := int(share * float64(width) * 8)
	full := eighths / 8
	var b strings.Builder
	b.WriteString(strings.Repeat("█", full))
	if rest := eighths % 8; rest > 0 {
		b.WriteRune([]rune(" ▏▎▍▌▋▊▉")[rest])
		full++
	}
	b.WriteString(strings.Repeat("░", width-full))
	return b.String()
}

// Spark draws values as one line of at most width cells, the lowest value lowest; values that are no number are left
// out. Without UTF-8 it is drawn with the characters "_.-=^".
func Spark(values []float64, width int, utf8 bool) string {
	vals := bucket(finite(values), width)
	if len(vals) == 0 {
		return ""
	}
	levels := []rune("_.-=^")
	if utf8 {
		levels = []rune("▁▂▃▄▅▆▇█")
	}
	lo, hi := bounds(vals)
	var b strings.Builder
	for _, v := range vals {
		i := 0
		if hi > lo {
			i = int((v - lo) / (hi - lo) * float64(len(levels)-1))
		}
		b.WriteRune(levels[min(max(i, 0), len(levels)-1)])
	}
	return b.String()
}

// Point is one point of a Curve.
type Point struct{ X, Y float64 }

// Curve draws points as a chart of width by height cells, axis labels included, and returns its lines. Points whose
// coordinates are no numbers are left out; fewer than two points give no chart. Points must be in rising order of X.
func Curve(points []Point, width, height int, utf8 bool, xlabel string) []string {
	var pts []Point
	for _, p := range points {
		if !math.IsNaN(p.X) && !math.IsInf(p.X, 0) && !math.IsNaN(p.Y) && !math.IsInf(p.Y, 0) {
			pts = append(pts, p)
		}
	}
	if len(pts) < 2 || height < 2 {
		return nil
	}
	ylo, yhi := pts[0].Y, pts[0].Y
	for _, p := range pts {
		ylo, yhi = min(ylo, p.Y), max(yhi, p.Y)
	}
	labels := make([]string, height)
	labelWidth := 0
	for i := range labels {
		if i == 0 || i == height-1 || i == height/2 {
			labels[i] = Number(yhi - (yhi-ylo)*float64(i)/float64(height-1))
		}
		labelWidth = max(labelWidth, len(labels[i]))
	}
	plot := width - labelWidth - 2
	if plot < 4 {
		return nil
	}
	grid := newGrid(plot, height, utf8)
	x0, x1 := pts[0].X, pts[len(pts)-1].X
	grid.draw(pts, x0, x1, ylo, yhi)
	corner, side, under := "+", "|", "-"
	if utf8 {
		corner, side, under = "└", "┤", "─"
	}
	lines := make([]string, 0, height+2)
	for i := range height {
		lines = append(lines, strings.TrimRight(strings.Repeat(" ", labelWidth-len(labels[i]))+labels[i]+" "+side+grid.line(i), " "))
	}
	lines = append(lines, strings.Repeat(" ", labelWidth+1)+corner+strings.Repeat(under, plot))
	left, right := Number(x0), Number(x1)
	gap := plot - len(left) - len(right)
	var mid string
	if m := gap - 2; m >= len(xlabel) {
		before := (gap - len(xlabel)) / 2
		mid = strings.Repeat(" ", before) + xlabel + strings.Repeat(" ", gap-before-len(xlabel))
	} else {
		mid = strings.Repeat(" ", max(gap, 1))
	}
	return append(lines, strings.Repeat(" ", labelWidth+2)+left+mid+right)
}

// Number prints a measured value with four significant digits, as short as it can be.
func Number(v float64) string {
	s := strconv.FormatFloat(v, 'g', 4, 64)
	if strings.Contains(s, "e") {
		return s
	}
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// grid holds a chart's dots: two by four in a cell with UTF-8 (Braille patterns), one otherwise.
type grid struct {
	w, h   int
	dx, dy int
	cells  []uint8
}

func newGrid(w, h int, utf8 bool) *grid {
	g := &grid{w: w, h: h, dx: 1, dy: 1, cells: make([]uint8, w*h)}
	if utf8 {
		g.dx, g.dy = 2, 4
	}
	return g
}

// draw joins the points with lines; each column of dots gets the span between its neighbours.
func (g *grid) draw(pts []Point, x0, x1, ylo, yhi float64) {
	cols, rows := g.w*g.dx, g.h*g.dy
	at := func(p Point) (int, int) {
		x, y := 0, 0
		if x1 > x0 {
			x = int(math.Round((p.X - x0) / (x1 - x0) * float64(cols-1)))
		}
		if yhi > ylo {
			y = int(math.Round((yhi - p.Y) / (yhi - ylo) * float64(rows-1)))
		} else {
			y = rows / 2
		}
		return min(max(x, 0), cols-1), min(max(y, 0), rows-1)
	}
	px, py := at(pts[0])
	g.set(px, py)
	for _, p := range pts[1:] {
		x, y := at(p)
		steps := max(abs(x-px), abs(y-py))
		for s := 1; s <= steps; s++ {
			g.set(px+(x-px)*s/steps, py+(y-py)*s/steps)
		}
		g.set(x, y)
		px, py = x, y
	}
}

func (g *grid) set(x, y int) {
	bit := uint8(1)
	if g.dy == 4 {
		bit = [4][2]uint8{{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}}[y%4][x%2]
	}
	g.cells[y/g.dy*g.w+x/g.dx] |= bit
}

func (g *grid) line(row int) string {
	var b strings.Builder
	for _, c := range g.cells[row*g.w : (row+1)*g.w] {
		switch {
		case c == 0:
			b.WriteByte(' ')
		case g.dy == 4:
			b.WriteRune(0x2800 + rune(c))
		default:
			b.WriteByte('*')
		}
	}
	return b.String()
}

func finite(values []float64) []float64 {
	var out []float64
	for _, v := range values {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			out = append(out, v)
		}
	}
	return out
}

// bucket averages values down to at most n.
func bucket(values []float64, n int) []float64 {
	if n <= 0 {
		return nil
	}
	if len(values) <= n {
		return values
	}
	out := make([]float64, n)
	for i := range out {
		lo, hi := i*len(values)/n, (i+1)*len(values)/n
		for _, v := range values[lo:hi] {
			out[i] += v / float64(hi-lo)
		}
	}
	return out
}

func bounds(v []float64) (lo, hi float64) {
	lo, hi = v[0], v[0]
	for _, x := range v {
		lo, hi = min(lo, x), max(hi, x)
	}
	return lo, hi
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}
