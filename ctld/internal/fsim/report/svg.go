package report

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"
)

// Size of a plot and of the room around its area, in pixels.
const (
	plotWidth, plotHeight                    = 640.0, 260.0
	roomLeft, roomRight, roomTop, roomBottom = 62.0, 12.0, 10.0, 34.0
	areaWidth                                = plotWidth - roomLeft - roomRight
	areaHeight                               = plotHeight - roomTop - roomBottom
	logFloorS                                = 60.0
)

type point struct{ x, y float64 }

type line struct {
	name, colour string
	points       []point
}

// axis says what is along an edge and how it is written.
type axis struct {
	label string
	// top is where it ends; 0 means at the largest value.
	top float64
	// share is written in per cent, seconds as time spans on a logarithmic scale from a minute on.
	share, seconds bool
}

func (a axis) at(v float64) float64 {
	if a.seconds {
		return math.Log(max(v, logFloorS)/logFloorS) / math.Log(max(a.top, 2*logFloorS)/logFloorS)
	}
	return v / a.top
}

func (a axis) text(v float64) string {
	switch {
	case a.share:
		return fmt.Sprintf("%.0f %%", 100*v)
	case a.seconds && v <= logFloorS:
		return "≤ 1 min"
	case a.seconds:
		return duration(v)
	case v >= 10000:
		return grouped(v)
	}
	return trim(v)
}

// ticks are round values along the axis.
func (a axis) ticks() []float64 {
	if a.seconds {
		var out []float64
		for _, v := range []float64{60, 600, 3600, 6 * 3600, 86400, 3 * 86400, 7 * 86400, 30 * 86400} {
			if v <= a.top {
				out = append(out, v)
			}
		}
		return out
	}
	step := math.Pow(10, math.Floor(math.Log10(a.top)))
	for _, f := range []float64{0.1, 0.2, 0.25, 0.5, 1} {
		if a.top/(step*f) <= 6 {
			step *= f
			break
		}
	}
	var out []float64
	for v := 0.0; v <= a.top*1.0001; v += step {
		out = append(out, v)
	}
	return out
}

// drawing gathers the elements of a picture.
type drawing struct{ strings.Builder }

func (d *drawing) text(x, y float64, anchor, s string) {
	fmt.Fprintf(d, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, x, y, anchor, html.EscapeString(s))
}

func (d *drawing) rule(x1, y1, x2, y2 float64) {
	fmt.Fprintf(d, `<line class="grid" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`, x1, y1, x2, y2)
}

// done is the whole picture. Names were escaped where they were written.
func (d *drawing) done() template.HTML {
	return template.HTML(fmt.Sprintf(`<svg viewBox="0 0 %.0f %.0f" role="img">%s</svg>`, plotWidth, plotHeight, d.String()))
}

// frame draws the left axis with its grid.
func (d *drawing) frame(y axis) {
	for _, v := range y.ticks() {
		at := roomTop + areaHeight*(1-y.at(v))
		d.rule(roomLeft, at, roomLeft+areaWidth, at)
		d.text(roomLeft-6, at+4, "end", y.text(v))
	}
}

// curves draws lines over common axes.
func curves(x, y axis, lines []line) template.HTML {
	for _, l := range lines {
		for _, p := range l.points {
			x.top, y.top = max(x.top, p.x), max(y.top, p.y)
		}
	}
	x.top, y.top = positive(x.top), positive(y.top)
	d := &drawing{}
	d.frame(y)
	for _, v := range x.ticks() {
		d.text(roomLeft+areaWidth*x.at(v), plotHeight-roomBottom+16, "middle", x.text(v))
	}
	d.text(roomLeft+areaWidth, plotHeight-4, "end", x.label)
	for _, l := range lines {
		fmt.Fprintf(d, `<polyline stroke="%s" points="`, l.colour)
		for _, p := range l.points {
			fmt.Fprintf(d, "%.1f,%.1f ", roomLeft+areaWidth*x.at(p.x), roomTop+areaHeight*(1-y.at(p.y)))
		}
		fmt.Fprintf(d, `"><title>%s</title></polyline>`, html.EscapeString(l.name))
	}
	return d.done()
}

// blocks draws a bar for each line in each group: values[line][group].
func blocks(groups []string, lines []line, values [][]float64) template.HTML {
	y := axis{}
	for _, of := range values {
		for _, v := range of {
			y.top = max(y.top, v)
		}
	}
	y.top = positive(y.top)
	d := &drawing{}
	d.frame(y)
	wide := areaWidth / float64(max(len(groups), 1))
	bar := wide * 0.8 / float64(max(len(lines), 1))
	for g, name := range groups {
		left := roomLeft + wide*(float64(g)+0.1)
		d.text(left+wide*0.4, plotHeight-roomBottom+16, "middle", name)
		for i, l := range lines {
			if g >= len(values[i]) {
				continue
			}
			high := areaHeight * y.at(values[i][g])
			fmt.Fprintf(d, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"><title>%s: %s h</title></rect>`,
				left+bar*float64(i), roomTop+areaHeight-high, bar*0.92, high, l.colour, html.EscapeString(l.name), trim(values[i][g]))
		}
	}
	return d.done()
}

func positive(v float64) float64 {
	if v <= 0 {
		return 1
	}
	return v
}
