package metrics

import (
	"fmt"
	"math"
	"testing"
)

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9*max(1, math.Abs(b)) }

// TestMeter integrates a level by hand: 4 GPUs from 10 to 30.
func TestMeter(t *testing.T) {
	t.Parallel()
	m := NewMeter(10, 30, 4)
	m.Set(10, Level{Used: 2, Frag: 1})            // idle queue until 15
	m.Set(15, Level{Used: 3, Frag: 1, Queued: 2}) // 5 s with one GPU idle beside a queue
	m.Set(20, Level{Used: 4, Queued: 6})          // 5 s full
	m.Set(25, Level{Used: 0})                     // 5 s empty
	m.Set(40, Level{Used: 4, Queued: 9})          // beyond the window
	used, frag, idle := m.shares()
	if !near(used, (10+15+20+0)/80.0) || !near(frag, (5+5)/80.0) || !near(idle, 5/80.0) {
		t.Errorf("used %f frag %f idle %f", used, frag, idle)
	}
	us, qs := m.series()
	var sumUsed, sumQueued float64
	for b := range us {
		sumUsed += us[b] / Bins
		sumQueued += qs[b] / Bins
	}
	if !near(sumUsed, used) || !near(sumQueued, (2*5+6*5)/20.0) {
		t.Errorf("series sum to %f and %f", sumUsed, sumQueued)
	}
	if us[0] != 0.5 || us[Bins-1] != 0 || qs[Bins/2] != 6 {
		t.Errorf("series %f … %f, queue %f in the middle", us[0], us[Bins-1], qs[Bins/2])
	}
	if m.maxQueue != 9 {
		t.Errorf("longest queue %d", m.maxQueue)
	}
}

func TestMeterOfAnInstant(t *testing.T) {
	t.Parallel()
	m := NewMeter(5, 5, 4)
	m.Set(5, Level{Used: 1})
	if used, _, _ := m.shares(); used != 0 {
		t.Errorf("used %f of a window without length", used)
	}
}

// TestSummarize has figures worked out on paper.
func TestSummarize(t *testing.T) {
	t.Parallel()
	s := Summarize(&Schedule{Meter: NewMeter(0, 100, 8), PassMS: []float64{3, 1, 2}, BoundS: 7, Outcomes: []Outcome{
		{ID: "a", GPUs: 1, Priority: 5, Project: "p", SubmitS: 0, StartS: 0, EndS: 100, AloneS: 100},                               // JCT 100, wait 0
		{ID: "b", GPUs: 8, Priority: 1, Project: "q", SubmitS: 10, StartS: 100, EndS: 140, AloneS: 30, Preempted: 2, LostGPUS: 80}, // 130, 100
		{ID: "c", GPUs: 9, Priority: 5, Project: "p", SubmitS: 40, StartS: 140, EndS: 440, AloneS: 300, Wasted: true},              // 400, 100
		{ID: "d", GPUs: 900, Dropped: true},
		{ID: "e", GPUs: 2, Priority: 5, SubmitS: 50, StartS: 50, EndS: 60, AloneS: 20, Killed: true}, // 10, 0 (ended early)
	}})
	if s.Jobs != 4 || s.Dropped != 1 || s.Killed != 1 || s.Preemptions != 2 || s.MakespanS != 440 || s.BoundS != 7 {
		t.Errorf("counts: %+v", s)
	}
	if s.JCT != (Spread{160, 100, 400, 400, 400}) {
		t.Errorf("JCT %+v", s.JCT)
	}
	if s.Wait != (Spread{50, 0, 100, 100, 100}) || s.LongestWaitJob != "c" && s.LongestWaitJob != "b" {
		t.Errorf("wait %+v of %s", s.Wait, s.LongestWaitJob)
	}
	// Slowdowns: 1; 130/60; 400/300; at least 1.
	if !near(s.Slowdown.Mean, (1+130.0/60+400.0/300+1)/4) {
		t.Errorf("slowdown %+v", s.Slowdown)
	}
	if s.Pass != (Pass{3, 2, 3, 3}) {
		t.Errorf("pass %+v", s.Pass)
	}
	if !near(s.LostGPUHours, 80.0/3600) || !near(s.LostShare, 80.0/(100+240+2700+40)) || !near(s.WastedGPUHours, 2700.0/3600) {
		t.Errorf("lost %f (%f), wasted %f", s.LostGPUHours, s.LostShare, s.WastedGPUHours)
	}
	names := func(gs []Group) string {
		out := ""
		for _, g := range gs {
			out += fmt.Sprintf("%s:%d ", g.Name, g.Jobs)
		}
		return out
	}
	if got := names(s.BySize); got != "1 GPU:1 2-8 GPUs:2 >8 GPUs:1 " {
		t.Errorf("sizes %s", got)
	}
	if got := names(s.ByPriority); got != "1:1 5:3 " {
		t.Errorf("priorities %s", got)
	}
	if got := names(s.ByProject); got != "p:2 q:1 " {
		t.Errorf("projects %s", got)
	}
	// rho of p is 500/400, of q 130/30.
	rp, rq := 1.25, 130.0/30
	if !near(s.Jain, (rp+rq)*(rp+rq)/(2*(rp*rp+rq*rq))) {
		t.Errorf("Jain %f", s.Jain)
	}
	if len(s.WaitPercents) != 101 || s.WaitPercents[0] != 0 || s.WaitPercents[100] != 100 {
		t.Errorf("wait percentiles %v", s.WaitPercents)
	}
}

func TestSummarizeNothing(t *testing.T) {
	t.Parallel()
	s := Summarize(&Schedule{Meter: NewMeter(0, 0, 1), Outcomes: []Outcome{{Dropped: true}}})
	if s.Jobs != 0 || s.Dropped != 1 || s.Jain != 1 || s.JCT.Mean != 0 {
		t.Errorf("%+v", s)
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	var values []float64
	for i := 200; i >= 1; i-- {
		values = append(values, float64(i))
	}
	if got := spread(values); got != (Spread{100.5, 100, 180, 198, 200}) {
		t.Errorf("got %+v", got)
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	a, b := &Summary{JCT: Spread{Mean: 10}}, &Summary{JCT: Spread{Mean: 14}}
	f := Figures([]*Summary{a, b})[0]
	if f.Key != "jct_mean_s" || f.Mean != 12 || !near(f.SD, math.Sqrt(8)) {
		t.Errorf("%+v", f)
	}
	if one := Figures([]*Summary{a})[0]; one.SD != 0 {
		t.Errorf("one copy has a deviation of %f", one.SD)
	}
	keys := map[string]bool{}
	for _, f := range Figures([]*Summary{a}) {
		if keys[f.Key] || f.Label == "" || f.Unit == "" {
			t.Errorf("figure %+v", f)
		}
		keys[f.Key] = true
	}
}
