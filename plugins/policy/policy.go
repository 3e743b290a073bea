// Package policy is fettle's own queue order, as a pure function: the shipped plugin fettle-sched-multifactor answers it,
// and the controller falls back on it when that plugin is missing or late.
//
// The order is a virtual submit time: the moment at which a job became eligible, moved earlier for what is urgent or
// small. With all times in milliseconds, for a job of priority p (1 is most urgent, 5 the default), n GPUs and a time
// limit of r seconds,
//
//	score = eligible + P (p - 5) - W L(S)          lower is earlier
//	L(S)  = log2(S_max / S) / log2(S_max / S_min)
//	S     = n r GPU-seconds, kept within [S_min, S_max]
//
// P is what one level of priority is worth in waiting time, W what being small is worth at most (S_min = 60 and
// S_max = 10,000,000 GPU-seconds; without a time limit r is 600 s, the least mean residual life of such jobs). W is 0
// until a site sets it, so that a queue is ordered by priority and age alone.
//
// Age has weight one and no ceiling, so waiting never stops counting, and that bounds what may overtake a job: the
// priority term lies within [-4P, +5P] and the size term within [0, W], so with
//
//	D = 9P + W
//
// a job that became eligible more than D after another is ordered behind it, whatever either asks for. Proof:
// score(j) <= e_j + 5P and score(k) >= e_k - 4P - W > e_j + D - 4P - W = e_j + 5P. Hence the set of jobs that can ever
// stand before a job is closed D after it became eligible. (With the default settings D is 18 hours.)
//
// The form follows the virtual-time orders of the backfilling literature; the size term is shortest-remaining-area
// first with its advantage capped. Everything is integer arithmetic: equal input gives equal scores on every machine.
package policy

import (
	"fmt"
	"math/bits"
	"time"
)

// Name is what the policy is called in answers and logs.
const Name = "multifactor"

// Priorities as users write them: 1 is the most urgent.
const (
	minPriority     = 1
	defaultPriority = 5
	maxPriority     = 10
)

// Bounds of a job's area in GPU-seconds, and the run time that stands for a missing limit.
const (
	minArea         = 60
	maxArea         = 10_000_000
	assumedRunS     = 600
	maxPriorityStep = 30 * 24 * time.Hour
	maxSizeWeight   = 14 * 24 * time.Hour
)

// eligibleBound keeps sums far from overflow: 2^60 ms are 36 million years.
const eligibleBound = int64(1) << 60

// Params are the weights. The zero value orders by eligible time alone; Defaults is what fettle ships.
type Params struct {
	// PriorityMS is what one level of priority is worth, in milliseconds of waiting.
	PriorityMS int64
	// SizeMS is what the smallest job gains over the largest, in milliseconds of waiting.
	SizeMS int64
}

// Defaults are two hours a level and no advantage for small jobs.
func Defaults() Params { return Params{PriorityMS: (2 * time.Hour).Milliseconds()} }

// Settings as Configure takes them.
const (
	// PrioritySetting is a duration such as "2h": what one level of priority is worth.
	PrioritySetting = "priority_step"
	// SizeSetting is a duration such as "168h": what being small is worth at most.
	SizeSetting = "size_weight"
)

// ParseSettings reads weights; what is not set keeps its default. Unknown keys are refused.
func ParseSettings(settings map[string]string) (Params, error) {
	p := Defaults()
	unknown := ""
	for key := range settings {
		switch key {
		case PrioritySetting, SizeSetting:
		default:
			if unknown == "" || key < unknown {
				unknown = key
			}
		}
	}
	if unknown != "" {
		return Params{}, fmt.Errorf("setting %q: unknown; use %s or %s", unknown, PrioritySetting, SizeSetting)
	}
	for _, s := range []struct {
		key string
		max time.Duration
		to  *int64
	}{{PrioritySetting, maxPriorityStep, &p.PriorityMS}, {SizeSetting, maxSizeWeight, &p.SizeMS}} {
		text, ok := settings[s.key]
		if !ok {
			continue
		}
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 || d > s.max {
			return Params{}, fmt.Errorf("setting %s: %q is not a duration from 0s to %s; write it like 2h30m", s.key, text, hours(s.max))
		}
		*s.to = d.Milliseconds()
	}
	return p, nil
}

func hours(d time.Duration) string { return fmt.Sprintf("%dh", int64(d/time.Hour)) }

// BoundMS is D: a job that became eligible more than this after another is ordered behind it.
func (p Params) BoundMS() int64 { return (maxPriority-minPriority)*p.PriorityMS + p.SizeMS }

// Score is one job's virtual submit time in milliseconds; lower is earlier. A priority of 0 means the default, one above
// 10 counts as 10; size counts at least 1, and a time limit of 0 or less means none.
func (p Params) Score(priority uint32, eligibleMS int64, size uint32, timeLimitS int64) int64 {
	level := int64(min(priority, maxPriority))
	if level == 0 {
		level = defaultPriority
	}
	score := max(-eligibleBound, min(eligibleMS, eligibleBound)) + p.PriorityMS*(level-defaultPriority)
	if p.SizeMS != 0 {
		score -= sizeBonus(p.SizeMS, area(size, timeLimitS))
	}
	return score
}

// area is a job's GPU-seconds, kept within [minArea, maxArea].
func area(size uint32, timeLimitS int64) uint64 {
	if timeLimitS <= 0 {
		timeLimitS = assumedRunS
	}
	hi, lo := bits.Mul64(uint64(max(size, 1)), uint64(timeLimitS))
	if hi != 0 {
		return maxArea
	}
	return max(minArea, min(lo, maxArea))
}

// sizeBonus is weight * log2(maxArea/area) / log2(maxArea/minArea), in [0, weight]. A weight of 14 days is below 2^31 and a
// logarithm below 2^29, so the product fits.
func sizeBonus(weight int64, area uint64) int64 {
	return weight * (logMax - log2(area)) / (logMax - logMin)
}

var logMin, logMax = log2(minArea), log2(maxArea)

// logBits is how many bits of a logarithm lie behind the point.
const logBits = 24

// log2 is the binary logarithm of x, which is at least 1 and below 2^32, in fixed point with logBits bits behind the point,
// rounded down: the whole part is the highest bit's place, each further bit comes from squaring the mantissa.
func log2(x uint64) int64 {
	whole := bits.Len64(x) - 1
	result := int64(whole) << logBits
	mantissa := x << (31 - whole) // in [1, 2) with 31 bits behind the point
	for bit := int64(1) << (logBits - 1); bit > 0; bit >>= 1 {
		mantissa = mantissa * mantissa >> 31
		if mantissa >= 1<<32 {
			mantissa >>= 1
			result |= bit
		}
	}
	return result
}
