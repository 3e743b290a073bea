package replay

import (
	"slices"
	"strconv"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim/trace"
)

// Bounds of predictions from history: how many runs of a kind it takes, how many are remembered, and how much more than the usual a
// safe estimate is at least, in per cent. Failures within the first minutes say nothing of how long such a job runs.
const (
	leastRuns    = 3
	rememberRuns = 21
	safePercent  = 120
	quickFailS   = 120
)

// history remembers how long jobs ran, by kinds, the narrowest first.
type history struct{ runs map[string][]int64 }

func newHistory() *history { return &history{map[string][]int64{}} }

// kinds are what a job has in common with others: user and size, project and size, user, project, everybody.
func kinds(j *trace.Job) []string {
	size := " " + strconv.Itoa(j.GPUs)
	var out []string
	if j.User != "" {
		out = append(out, "u"+j.User+size)
	}
	if p := j.Project(); p != "" {
		out = append(out, "p"+p+size)
	}
	if j.User != "" {
		out = append(out, "u"+j.User)
	}
	if p := j.Project(); p != "" {
		out = append(out, "p"+p)
	}
	return append(out, "")
}

// add remembers a run.
func (h *history) add(j *trace.Job, ranS int64) {
	if j.Wasted() && ranS < quickFailS {
		return
	}
	for _, k := range kinds(j) {
		runs := append(h.runs[k], ranS)
		if len(runs) > rememberRuns {
			runs = slices.Delete(runs, 0, 1)
		}
		h.runs[k] = runs
	}
}

// estimate is the median of the runs of the narrowest kind of which enough are known, and what nine of ten stayed under; 0 when
// nothing is known.
func (h *history) estimate(j *trace.Job) (usualS, safeS int64) {
	for _, k := range kinds(j) {
		if runs := h.runs[k]; len(runs) >= leastRuns {
			sorted := slices.Sorted(slices.Values(runs))
			usualS = max(1, sorted[len(sorted)/2])
			return usualS, max(sorted[len(sorted)*9/10], usualS*safePercent/100)
		}
	}
	return 0, 0
}

// tellAfterS is when a running job begins to tell its end, in seconds after its start: about twenty steps.
const tellAfterS = 60

// telling is a running job that tells its end.
type telling struct {
	atS int64
	j   *job
	// startS is the start that it belongs to.
	startS int64
}

// tell has running jobs tell their ends whose time has come. Nothing is planned for that alone.
func (e *engine) tell() {
	n := 0
	for ; n < len(e.told) && e.told[n].atS <= e.now; n++ {
		t := e.told[n]
		if !t.j.running || t.j.startS != t.startS {
			continue
		}
		left := float64(t.j.endS - t.startS)
		t.j.predictedS = max(e.now+1, t.startS+int64(left*(1+e.cfg.Progress*spread(t.j.Row))))
		e.planner.SetRunning(e.plannerRunning(t.j))
	}
	e.told = e.told[n:]
}

// spread is a number from -1 to 1 that depends on the row alone.
func spread(row int) float64 {
	x := (uint64(row) + 1) * 0x9e3779b97f4a7c15
	x ^= x >> 31
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 29
	return float64(x>>11)/(1<<52) - 1
}
