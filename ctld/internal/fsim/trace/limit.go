package trace

import (
	"fmt"
	"math/rand/v2"
)

// limitSteps are the limits that people write, in seconds.
var limitSteps = [...]int64{15 * 60, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 48 * 3600, 7 * 24 * 3600, 30 * 24 * 3600}

// SyntheticLimit is a time limit in seconds as a careless user would write it: the duration times 1.1, 2, 4 or 8, which of
// them depends on the row, rounded up to a round figure. It never ends the job.
func SyntheticLimit(row int, durationS int64) int64 {
	// Tenths keep it in integers.
	tenths := [...]int64{11, 20, 40, 80}[(uint64(row)*2654435761>>7)&3] * durationS
	for _, step := range limitSteps {
		if 10*step >= tenths {
			return step
		}
	}
	return max(60*24*3600, (11*durationS+9)/10)
}

// Limits says where time limits come from.
type Limits string

// Sources of limits.
const (
	// LimitsFilled takes the log's own, and SyntheticLimit where there is none.
	LimitsFilled Limits = "synthetic"
	// LimitsOwn takes the log's own only.
	LimitsOwn Limits = "own"
	// LimitsNone takes every limit away.
	LimitsNone Limits = "none"
)

// ParseLimits reads the name of a source.
func ParseLimits(text string) (Limits, error) {
	switch l := Limits(text); l {
	case LimitsFilled, LimitsOwn, LimitsNone:
		return l, nil
	}
	return "", fmt.Errorf("%q: unknown; use %s, %s or %s", text, LimitsFilled, LimitsOwn, LimitsNone)
}

// Apply answers a copy of the jobs with their limits from the source.
func (l Limits) Apply(jobs []Job) []Job {
	out := append([]Job(nil), jobs...)
	for i := range out {
		switch j := &out[i]; {
		case l == LimitsNone:
			j.LimitS = 0
		case l == LimitsFilled && j.LimitS == 0:
			j.LimitS = SyntheticLimit(j.Row, j.DurationS)
		}
	}
	return out
}

// Bounds of Shake.
const (
	// shakeSubmitS moves a submit time by up to so many seconds either way.
	shakeSubmitS = 60
	// shakePercent changes a duration by up to so much either way.
	shakePercent = 2
)

// Shake answers a slightly perturbed copy of the jobs, the same for the same seed: every submit time moves by up to a minute and
// every duration changes by up to two per cent. Small changes of the input decide single schedules of a discrete simulation, so
// a figure is trusted as far as it holds over several copies (input shaking, after Tsafrir, Ouaknine and Feitelson). Seed 0
// changes nothing. Rows stay, and with them synthetic limits of the same carelessness; own limits stay too, but not below a
// duration that they were not below before.
func Shake(jobs []Job, seed uint64) []Job {
	out := append([]Job(nil), jobs...)
	if seed == 0 {
		return out
	}
	for i := range out {
		j := &out[i]
		// A generator for each row: the copy does not depend on the order of the jobs.
		random := rand.New(rand.NewPCG(seed, uint64(j.Row)))
		j.SubmitS = max(0, j.SubmitS+random.Int64N(2*shakeSubmitS+1)-shakeSubmitS)
		within := j.LimitS >= j.DurationS
		factor := 1 + shakePercent/100.0*(2*random.Float64()-1)
		j.DurationS = max(1, int64(float64(j.DurationS)*factor+0.5))
		if j.LimitS > 0 && within {
			j.LimitS = max(j.LimitS, j.DurationS)
		}
	}
	Sort(out)
	return out
}
