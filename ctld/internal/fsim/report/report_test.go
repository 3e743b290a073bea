package report

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/metrics"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/reference"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/trace"
)

func simulated(t *testing.T, copies int, policies ...string) *fsim.Report {
	t.Helper()
	nodes, err := trace.Nodes(filepath.Join("..", "testdata", "hpc2n.cluster.csv"))
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := trace.Jobs(filepath.Join("..", "testdata", "hpc2n.csv"))
	if err != nil {
		t.Fatal(err)
	}
	jobs[0].ID, jobs[0].VC = `<job> & "co"`, `<b>&amp;</b>`
	var list []fsim.Contender
	for _, name := range policies {
		p, err := reference.ParsePolicy(name)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fsim.Contender{Name: name + " <i>&", Limits: trace.LimitsOwn, Model: fsim.Reference(p)})
	}
	rep, err := fsim.Simulate(context.Background(), fsim.Workload{Name: "hpc2n", Jobs: jobs, Nodes: nodes}, list, fsim.Options{Copies: copies, Yardstick: true, Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func TestText(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := Text(&b, simulated(t, 2, "fifo", "easy-limit")); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{
		"hpc2n: 600 jobs, 14 955 GPU-hours in 4.6 days on 136 GPUs = 17x8 CPU, offered load 0.99\n",
		"mean ± standard deviation over 2 slightly perturbed copies",
		"1.00x srsf", "average completion", "longest wait", " ± ", "utilisation", "████████████████████████",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "preemptions") {
		t.Error("a figure that is zero for all is shown")
	}
	for line := range strings.Lines(text) {
		if strings.TrimRight(line, " \n")+"\n" != line {
			t.Errorf("spaces at the end of %q", line)
		}
	}
}

// TestTextOfOne: a single policy is shown group by group.
func TestTextOfOne(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := Text(&b, simulated(t, 0, "easy-limit")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nsize ", "\n>8 GPUs ", "\npriority ", " rho\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestBar(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value, top float64
		want       string
	}{{0, 10, ""}, {10, 10, strings.Repeat("█", 24)}, {5, 10, strings.Repeat("█", 12)}, {1, 1e9, "▏"}, {10.0 / 48, 10, "▌"}, {1, 0, ""}} {
		if got := bar(c.value, c.top); got != c.want {
			t.Errorf("%f of %f: %q, want %q", c.value, c.top, got, c.want)
		}
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ got, want string }{
		{grouped(0), "0"}, {grouped(999.6), "1 000"}, {grouped(1234567), "1 234 567"}, {grouped(-1234), "-1 234"}, {grouped(-0.2), "0"},
		{duration(59), "59 s"}, {duration(600), "10 min"}, {duration(36000), "10.0 h"}, {duration(864000), "10.0 d"},
		{Value(metrics.Figure{Unit: metrics.Share, Mean: 0.123, SD: 0.01}), "12.3 % ± 1.0 %"}, {Value(metrics.Figure{Unit: metrics.Count, Mean: 3}), "3"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := JSON(&b, simulated(t, 0, "easy-limit")); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Jobs    int
		Results []struct {
			Name    string
			Times   float64 `json:"times_srsf"`
			Figures []struct {
				Key  string
				Mean float64
			}
			Runs []struct {
				JCT struct{ Mean, P99 float64 } `json:"jct_s"`
				By  []struct{ Name string }     `json:"by_size"`
			}
		}
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	r := got.Results[0]
	if got.Jobs != 600 || len(got.Results) != 2 || r.Times <= 1 || r.Figures[0].Key != "jct_mean_s" || r.Figures[0].Mean != r.Runs[0].JCT.Mean || len(r.Runs[0].By) != 3 {
		t.Errorf("got %+v", got)
	}
}

var outside = regexp.MustCompile(`(?i)https?:|src=|@import|url\(|<script`)

// TestHTML: the page is well formed, has a plot each, needs nothing from outside, and shows names as they are.
func TestHTML(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := HTML(&b, simulated(t, 2, "fifo", "easy-limit")); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if n := strings.Count(text, "<svg"); n != 5 {
		t.Errorf("%d plots", n)
	}
	if at := outside.FindString(text); at != "" {
		t.Errorf("the page reaches outside: %s", at)
	}
	if strings.Contains(text, "<i>&") || !strings.Contains(text, "easy-limit &lt;i&gt;&amp;") {
		t.Error("a name is not escaped")
	}
	if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
		t.Error("a number is none")
	}
	d := xml.NewDecoder(strings.NewReader(text))
	d.Strict, d.Entity = true, xml.HTMLEntity
	for {
		_, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestSchedule(t *testing.T) {
	t.Parallel()
	rep := simulated(t, 0, "fifo")
	rep.Results[0].Schedule.Outcomes[1].Dropped = true
	var b bytes.Buffer
	if err := Schedule(&b, rep.Results[0].Schedule); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil || len(rows) != 601 {
		t.Fatal(len(rows), err)
	}
	if rows[1][0] != `<job> & "co"` || rows[1][2] == "" || rows[2][2] != "" {
		t.Errorf("rows %v and %v", rows[1], rows[2])
	}
}
