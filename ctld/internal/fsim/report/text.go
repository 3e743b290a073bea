// Package report writes what the simulator found: as text with bars for a terminal, as JSON for machines, and as one HTML page
// with its plots inside.
package report

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/metrics"
)

// barWidth is the length of the longest bar, in characters.
const barWidth = 24

// Text writes a report for people: a table of all policies, and for a single one its groups.
func Text(w io.Writer, rep *fsim.Report) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "%s: %d jobs, %s GPU-hours in %s days on %s, offered load %.2f\n", rep.Workload, rep.Jobs,
		grouped(rep.GPUHours), trim(rep.Days), rep.Cluster, rep.Load)
	switch {
	case rep.Copies > 1:
		fmt.Fprintf(b, "figures: mean ± standard deviation over %d slightly perturbed copies\n", rep.Copies)
	case rep.Copies == 1:
		fmt.Fprintln(b, "figures: one slightly perturbed copy")
	}
	fmt.Fprintln(b)
	bars(b, rep, "average completion", "jct_mean_s")
	bars(b, rep, "longest wait", "wait_max_s")
	table(b, rep)
	if len(rep.Results) == 1 || len(rep.Results) == 2 && rep.Results[1].Times == 1 {
		details(b, &rep.Results[0])
	}
	return b.Flush()
}

func find(r *fsim.Result, key string) metrics.Figure {
	for _, f := range r.Figures {
		if f.Key == key {
			return f
		}
	}
	return metrics.Figure{}
}

// bars draws one figure of all policies.
func bars(b io.Writer, rep *fsim.Report, title, key string) {
	top, wide := 0.0, 0
	for i := range rep.Results {
		top = max(top, find(&rep.Results[i], key).Mean)
		wide = max(wide, utf8.RuneCountInString(rep.Results[i].Name))
	}
	fmt.Fprintln(b, title)
	for i := range rep.Results {
		r := &rep.Results[i]
		f := find(r, key)
		times := ""
		if key == "jct_mean_s" && r.Times > 0 {
			times = fmt.Sprintf("  %.2fx srsf", r.Times)
		}
		fmt.Fprintf(b, "  %s  %s  %s%s\n", pad(r.Name, wide), pad(bar(f.Mean, top), barWidth), Value(f), times)
	}
	fmt.Fprintln(b)
}

// bar has length in proportion to value/top, in eighths of a character.
func bar(value, top float64) string {
	if top <= 0 || value <= 0 {
		return ""
	}
	eighths := max(1, int(math.Round(value/top*barWidth*8)))
	s := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		s += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	return s
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

// table has a row for each figure and a column for each policy. Figures that are 0 for all are left out.
func table(b io.Writer, rep *fsim.Report) {
	rows := [][]string{{""}}
	for i := range rep.Results {
		rows[0] = append(rows[0], rep.Results[i].Name)
	}
	for k, f := range rep.Results[0].Figures {
		row, any := []string{f.Label}, false
		for i := range rep.Results {
			f := rep.Results[i].Figures[k]
			row = append(row, Value(f))
			any = any || f.Mean != 0
		}
		if any {
			rows = append(rows, row)
		}
	}
	columns(b, rows)
}

// columns writes rows with aligned columns, the first to the left and the others to the right.
func columns(b io.Writer, rows [][]string) {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		line := pad(row[0], width[0])
		for i, cell := range row[1:] {
			line += "  " + strings.Repeat(" ", width[i+1]-utf8.RuneCountInString(cell)) + cell
		}
		fmt.Fprintln(b, strings.TrimRight(line, " "))
	}
}

// details are the groups of one policy, of its first copy.
func details(b io.Writer, r *fsim.Result) {
	s := r.Summaries[0]
	for _, part := range []struct {
		title string
		of    []metrics.Group
	}{{"size", s.BySize}, {"priority", s.ByPriority}, {"project", s.ByProject}} {
		if len(part.of) < 2 {
			continue
		}
		rows := [][]string{{part.title, "jobs", "GPU-hours", "avg completion", "avg wait", "p50 wait", "p99 wait", "longest", "rho"}}
		for i, g := range part.of {
			if i == maxGroups {
				break
			}
			rows = append(rows, []string{
				g.Name, strconv.Itoa(g.Jobs), grouped(g.GPUHours), duration(g.JCT.Mean), duration(g.Wait.Mean),
				duration(g.Wait.P50), duration(g.Wait.P99), duration(g.Wait.Max), fmt.Sprintf("%.2f", g.Rho),
			})
		}
		fmt.Fprintln(b)
		columns(b, rows)
		if more := len(part.of) - maxGroups; more > 0 {
			fmt.Fprintf(b, "and %d more\n", more)
		}
	}
	if s.BoundS > 0 {
		fmt.Fprintf(b, "\nno job is ordered behind one that was submitted more than %s later; longest wait %s, of %s\n",
			duration(float64(s.BoundS)), duration(s.Wait.Max), s.LongestWaitJob)
	}
}

// maxGroups is how many groups a table shows.
const maxGroups = 20

// Value writes a figure for people, with its deviation if it has one.
func Value(f metrics.Figure) string {
	v := number(f.Unit, f.Mean)
	if f.SD != 0 {
		v += " ± " + number(f.Unit, f.SD)
	}
	return v
}

func number(u metrics.Unit, v float64) string {
	switch u {
	case metrics.Seconds:
		return grouped(v) + " s"
	case metrics.Hours:
		return grouped(v) + " h"
	case metrics.Share:
		return fmt.Sprintf("%.1f %%", 100*v)
	case metrics.Ratio:
		return fmt.Sprintf("%.2f", v)
	case metrics.Millis:
		return fmt.Sprintf("%.3f ms", v)
	}
	return grouped(v)
}

// grouped is a whole number with a space between thousands.
func grouped(v float64) string {
	s := strconv.FormatFloat(math.Round(math.Abs(v)), 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	if v < 0 && s != "0" {
		s = "-" + s
	}
	return s
}

func trim(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

// duration is a time span in its largest sensible unit.
func duration(s float64) string {
	switch {
	case s < 120:
		return fmt.Sprintf("%.0f s", s)
	case s < 2*3600:
		return fmt.Sprintf("%.0f min", s/60)
	case s < 100*3600:
		return fmt.Sprintf("%.1f h", s/3600)
	}
	return fmt.Sprintf("%.1f d", s/86400)
}
