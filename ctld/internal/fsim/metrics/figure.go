package metrics

import "math"

// Unit says how a figure is written for people.
type Unit string

// Units of figures.
const (
	Seconds Unit = "s"
	Hours   Unit = "h"
	Share   Unit = "share"
	Count   Unit = "count"
	Ratio   Unit = "ratio"
	Millis  Unit = "ms"
)

// Figure is one number of a summary, or the mean of it over several.
type Figure struct {
	// Key is for machines, Label for people.
	Key   string  `json:"key"`
	Label string  `json:"label"`
	Unit  Unit    `json:"unit"`
	Mean  float64 `json:"mean"`
	// SD is the standard deviation over the copies of the workload (n - 1), 0 for one copy.
	SD float64 `json:"sd"`
}

// figures are the numbers by which policies are compared, in the order in which they are shown.
var figures = []struct {
	key, label string
	unit       Unit
	of         func(*Summary) float64
}{
	{"jct_mean_s", "average completion", Seconds, func(s *Summary) float64 { return s.JCT.Mean }},
	{"jct_p50_s", "median completion", Seconds, func(s *Summary) float64 { return s.JCT.P50 }},
	{"jct_p99_s", "p99 completion", Seconds, func(s *Summary) float64 { return s.JCT.P99 }},
	{"wait_mean_s", "average wait", Seconds, func(s *Summary) float64 { return s.Wait.Mean }},
	{"wait_p50_s", "median wait", Seconds, func(s *Summary) float64 { return s.Wait.P50 }},
	{"wait_p99_s", "p99 wait", Seconds, func(s *Summary) float64 { return s.Wait.P99 }},
	{"wait_max_s", "longest wait", Seconds, func(s *Summary) float64 { return s.Wait.Max }},
	{"slowdown_mean", "average slowdown", Ratio, func(s *Summary) float64 { return s.Slowdown.Mean }},
	{"makespan_s", "makespan", Seconds, func(s *Summary) float64 { return float64(s.MakespanS) }},
	{"utilisation", "utilisation", Share, func(s *Summary) float64 { return s.Utilisation }},
	{"fragmentation", "fragmentation", Share, func(s *Summary) float64 { return s.Fragmentation }},
	{"idle_while_queued", "idle while queued", Share, func(s *Summary) float64 { return s.IdleWhileQueued }},
	{"jain", "fairness (Jain)", Ratio, func(s *Summary) float64 { return s.Jain }},
	{"preemptions", "preemptions", Count, func(s *Summary) float64 { return float64(s.Preemptions) }},
	{"lost_gpu_hours", "lost GPU-hours", Hours, func(s *Summary) float64 { return s.LostGPUHours }},
	{"lost_share", "lost share", Share, func(s *Summary) float64 { return s.LostShare }},
	{"killed", "ended at their limit", Count, func(s *Summary) float64 { return float64(s.Killed) }},
	{"dropped", "never fit", Count, func(s *Summary) float64 { return float64(s.Dropped) }},
	{"pass_p99_ms", "p99 pass", Millis, func(s *Summary) float64 { return s.Pass.P99MS }},
}

// Figures are the means and standard deviations over the summaries of one workload's copies.
func Figures(of []*Summary) []Figure {
	out := make([]Figure, len(figures))
	for i, f := range figures {
		out[i] = Figure{Key: f.key, Label: f.label, Unit: f.unit}
		values := make([]float64, len(of))
		for k, s := range of {
			values[k] = f.of(s)
		}
		out[i].Mean, out[i].SD = MeanSD(values)
	}
	return out
}

// MeanSD is the mean and the standard deviation of a sample; the latter is 0 for fewer than two values.
func MeanSD(values []float64) (mean, sd float64) {
	if len(values) == 0 {
		return 0, 0
	}
	for _, v := range values {
		mean += v
	}
	mean /= float64(len(values))
	if len(values) < 2 {
		return mean, 0
	}
	for _, v := range values {
		sd += (v - mean) * (v - mean)
	}
	return mean, math.Sqrt(sd / float64(len(values)-1))
}
