package report

import (
	"bufio"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/metrics"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Parse(pageText))

// palette are colours that people who see few of them can tell apart (after Okabe and Ito); the yardstick is grey.
var palette = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f5fbf", "#a05030"}

const greyed = "#888888"

type cell struct {
	Text string
	Best bool
}

type row struct {
	Label string
	Cells []cell
}

type plot struct {
	Title, Note string
	SVG         template.HTML
}

type groupTable struct {
	Policy, Title string
	Head          []string
	Rows          [][]string
}

type pageData struct {
	Title, About, Copies string
	Policies             []struct{ Name, Colour string }
	Rows                 []row
	Plots                []plot
	Groups               []groupTable
}

// HTML writes a report as one page that needs nothing else.
func HTML(w io.Writer, rep *fsim.Report) error {
	d := pageData{
		Title: rep.Workload,
		About: fmt.Sprintf("%d jobs, %s GPU-hours in %s days on %s; offered load %.2f", rep.Jobs, grouped(rep.GPUHours),
			trim(rep.Days), rep.Cluster, rep.Load),
	}
	if rep.Copies > 0 {
		d.Copies = fmt.Sprintf("Figures are mean ± standard deviation over %d slightly perturbed copies; plots and groups are of the first copy.", rep.Copies)
	}
	lines := make([]line, len(rep.Results))
	for i := range rep.Results {
		colour := palette[i%len(palette)]
		if i > 0 && rep.Results[i].Times == 1 {
			colour = greyed
		}
		lines[i] = line{name: rep.Results[i].Name, colour: colour}
		d.Policies = append(d.Policies, struct{ Name, Colour string }{rep.Results[i].Name, colour})
	}
	d.Rows = tableRows(rep)
	d.Plots = plots(rep, lines)
	for i := range rep.Results {
		d.Groups = append(d.Groups, groupTables(&rep.Results[i])...)
	}
	b := bufio.NewWriter(w)
	if err := page.Execute(b, d); err != nil {
		return err
	}
	return b.Flush()
}

// lowerIsBetter are the figures of which the table marks the best.
var lowerIsBetter = map[string]bool{
	"jct_mean_s": true, "jct_p50_s": true, "jct_p99_s": true, "wait_mean_s": true, "wait_p50_s": true, "wait_p99_s": true,
	"wait_max_s": true, "slowdown_mean": true, "fragmentation": true, "idle_while_queued": true,
}

func tableRows(rep *fsim.Report) []row {
	var rows []row
	if rep.Results[0].Times > 0 {
		r := row{Label: "average completion / srsf"}
		for i := range rep.Results {
			f := metrics.Figure{Unit: metrics.Ratio, Mean: rep.Results[i].Times, SD: rep.Results[i].TimesSD}
			r.Cells = append(r.Cells, cell{Text: Value(f)})
		}
		rows = append(rows, r)
	}
	for k, first := range rep.Results[0].Figures {
		r, any, best := row{Label: first.Label}, false, first.Mean
		for i := range rep.Results {
			if rep.Results[i].Times != 1 || i == 0 {
				best = min(best, rep.Results[i].Figures[k].Mean)
			}
		}
		for i := range rep.Results {
			f := rep.Results[i].Figures[k]
			any = any || f.Mean != 0
			r.Cells = append(r.Cells, cell{Value(f), lowerIsBetter[first.Key] && len(rep.Results) > 1 && f.Mean == best})
		}
		if any {
			rows = append(rows, r)
		}
	}
	return rows
}

// plots are drawn from the first copy of each policy.
func plots(rep *fsim.Report, lines []line) []plot {
	with := func(f func(s *metrics.Summary) []point) []line {
		out := make([]line, len(lines))
		for i := range lines {
			out[i] = lines[i]
			out[i].points = f(rep.Results[i].Summaries[0])
		}
		return out
	}
	overTime := func(values func(s *metrics.Summary) []float64) func(s *metrics.Summary) []point {
		return func(s *metrics.Summary) []point {
			var ps []point
			step := float64(s.ToS-s.FromS) / 86400 / metrics.Bins
			for b, v := range values(s) {
				ps = append(ps, point{(float64(b) + 0.5) * step, v})
			}
			return ps
		}
	}
	out := []plot{
		{Title: "GPUs in use", Note: "share of all GPUs, over the days in which jobs arrive", SVG: curves(axis{label: "day"}, axis{label: "used", share: true, top: 1},
			with(overTime(func(s *metrics.Summary) []float64 { return s.UsedSeries })))},
		{Title: "Jobs that wait", Note: "over the days in which jobs arrive", SVG: curves(axis{label: "day"}, axis{label: "jobs"},
			with(overTime(func(s *metrics.Summary) []float64 { return s.QueuedSeries })))},
		{Title: "Waits", Note: "so many per cent of the jobs wait no longer; the time is logarithmic from a minute on", SVG: curves(axis{label: "per cent of jobs", top: 100}, axis{label: "wait", seconds: true},
			with(func(s *metrics.Summary) []point {
				var ps []point
				for p, v := range s.WaitPercents {
					ps = append(ps, point{float64(p), v})
				}
				return ps
			}))},
	}
	bySize := func(title string, of func(g metrics.Group) float64) plot {
		var names []string
		for _, g := range rep.Results[0].Summaries[0].BySize {
			names = append(names, g.Name)
		}
		values := make([][]float64, len(lines))
		for i := range lines {
			for _, g := range rep.Results[i].Summaries[0].BySize {
				values[i] = append(values[i], of(g)/3600)
			}
		}
		return plot{Title: title, Note: "hours, by the job's GPUs", SVG: blocks(names, lines, values)}
	}
	return append(out,
		bySize("Average wait by size", func(g metrics.Group) float64 { return g.Wait.Mean }),
		bySize("Longest wait by size", func(g metrics.Group) float64 { return g.Wait.Max }))
}

func groupTables(r *fsim.Result) []groupTable {
	s := r.Summaries[0]
	var out []groupTable
	for _, part := range []struct {
		title string
		of    []metrics.Group
	}{{"size", s.BySize}, {"priority", s.ByPriority}, {"project", s.ByProject}} {
		if len(part.of) < 2 {
			continue
		}
		t := groupTable{Policy: r.Name, Title: part.title, Head: strings.Split("jobs,GPU-hours,avg completion,avg wait,p50 wait,p99 wait,longest wait,rho", ",")}
		for _, g := range part.of[:min(len(part.of), maxGroups)] {
			t.Rows = append(t.Rows, []string{
				g.Name, grouped(float64(g.Jobs)), grouped(g.GPUHours), duration(g.JCT.Mean), duration(g.Wait.Mean),
				duration(g.Wait.P50), duration(g.Wait.P99), duration(g.Wait.Max), fmt.Sprintf("%.2f", g.Rho),
			})
		}
		out = append(out, t)
	}
	return out
}
