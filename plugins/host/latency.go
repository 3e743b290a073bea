package host

import (
	"slices"
	"time"
)

// latencySamples is how many of the last calls the percentiles are of.
const latencySamples = 1024

// latencies keeps the last calls' durations.
type latencies struct {
	samples []time.Duration
	next    int
}

func (l *latencies) add(d time.Duration) {
	if len(l.samples) < latencySamples {
		l.samples = append(l.samples, d)
		return
	}
	l.samples[l.next] = d
	l.next = (l.next + 1) % latencySamples
}

// percentiles answers the given hundredths in microseconds, 0 without samples.
func (l *latencies) percentiles(of ...int) []int64 {
	sorted := slices.Sorted(slices.Values(l.samples))
	out := make([]int64, len(of))
	for i, p := range of {
		if n := len(sorted); n > 0 {
			out[i] = sorted[min(n-1, n*p/100)].Microseconds()
		}
	}
	return out
}
