// Package policy is fettle's own queue order, as a pure function: the shipped plugin fettle-sched-multifactor answers it,
// and the controller falls back on it when that plugin is missing or late.
//
// The order is a virtual submit time: the moment at which a job became eligible, moved earlier for what is urgent, small,
// owned by somebody who has had little, or preferred by the site. With all times in milliseconds, for a job of priority p
// (1 is most urgent, 5 the default), n GPUs and r seconds left to run,
//
//	score = eligible + P (p - 5) - W L(S) - F 2^-R - B - [H if it runs]        lower is earlier
//	L(S)  = log(S_max / S) / log(S_max / S_min)
//	S     = n r GPU-seconds, kept within [S_min, S_max]
//	R     = sum of used part / due part over the levels of its account
//
// P is what one level of priority is worth in waiting time. W is what being small is worth at most; S_min = 60 and
// S_max = 10,000,000 GPU-seconds. What is left to run is said, in this order, by the job's own progress, its time limit, the
// prediction of its launcher or the history, and failing all by the time it has run so far, at least 600 s: with run times
// as heavy-tailed as those of training, what has run long will run long. F is what an account that has used nothing gains; at exactly
// its due part an account gains half, a level. B is the site's own say, a fixed time for a partition and one for a project.
// H keeps a running job ahead of waiting ones that are hardly more urgent, where preemption compares the two.
//
// Age has weight one and no ceiling, so waiting never stops counting, and that bounds what may overtake a job. The
// priority term lies within [-4P, +5P], the size term within [0, W], that of fair share within [0, F], and a site's within its
// least and greatest value, with 0 for what it does not name. So with
//
//	D = 9P + W + F + (B_max - B_min)
//
// a waiting job that became eligible more than D after another is ordered behind it, whatever either asks for and whatever
// anybody used meanwhile. Proof: score(j) <= e_j + 5P - B_min and score(k) >= e_k - 4P - W - F - B_max
// > e_j + D - 4P - W - F - B_max = e_j + 5P - B_min. Every bound holds at any time, so it does not matter when each was
// scored. Hence the set of jobs that can ever stand before a job is closed D after it became eligible. Between a waiting job and a
// running one D is larger by H. With the default settings D is 12 days: 108 hours for priority, 7 days for size, 12 hours for fair share.
//
// The form follows the virtual-time orders of the backfilling literature; the size term is shortest-remaining-area first
// with its advantage capped, the fair-share term Slurm's classic 2^(-usage/share), multiplied along the path of an account.
// Everything is integer arithmetic: equal input gives equal scores on every machine.
package policy

import (
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

// Bounds of a job's area in GPU-seconds, and the least run time that stands for an unknown one.
const (
	minArea     = 60
	maxArea     = 10_000_000
	assumedRunS = 600
)

// eligibleBound keeps sums far from overflow: 2^60 ms are 36 million years.
const eligibleBound = int64(1) << 60

// Params are the weights, in milliseconds of waiting. The zero value orders by eligible time alone; Defaults is what fettle
// ships. They are not changed once they are in use.
type Params struct {
	// PriorityMS is what one level of priority is worth.
	PriorityMS int64
	// SizeMS is what the smallest job gains over the largest.
	SizeMS int64
	// FairShareMS is what an account without any use gains over one with endless use.
	FairShareMS int64
	// HysteresisMS is what a running job gains over a waiting one.
	HysteresisMS int64
	// PartitionMS and ProjectMS are what the jobs of a partition or a project gain, by name; negative ones lose.
	PartitionMS, ProjectMS map[string]int64
}

// Defaults are twelve hours a level of priority, a week for being small, twelve hours for having used nothing and one for
// running. At twelve hours an urgent job (1) comes before a routine one (5) that asks for up to 31 times less: priorities mean
// something to people, and it costs little (docs/scheduling.md).
func Defaults() Params {
	return Params{
		PriorityMS: (12 * time.Hour).Milliseconds(), SizeMS: (168 * time.Hour).Milliseconds(),
		FairShareMS: (12 * time.Hour).Milliseconds(), HysteresisMS: time.Hour.Milliseconds(),
	}
}

// BoundMS is D: a waiting job that became eligible more than this after another is ordered behind it.
func (p Params) BoundMS() int64 {
	return (maxPriority-minPriority)*p.PriorityMS + p.SizeMS + p.FairShareMS + span(p.PartitionMS) + span(p.ProjectMS)
}

// RunningBoundMS is the same between waiting and running jobs.
func (p Params) RunningBoundMS() int64 { return p.BoundMS() + p.HysteresisMS }

// span is how far apart a site's terms are; what it does not name has 0.
func span(terms map[string]int64) int64 {
	var low, high int64
	for _, ms := range terms {
		low, high = min(low, ms), max(high, ms)
	}
	return high - low
}

// Score is the virtual submit time of a waiting job of which no more is known than this, in milliseconds; see ScoreJob.
func (p Params) Score(priority uint32, eligibleMS int64, size uint32, timeLimitS int64) int64 {
	return p.ScoreJob(Job{Priority: priority, EligibleMS: eligibleMS, Size: size, TimeLimitS: timeLimitS})
}

// ScoreJob is one job's virtual submit time in milliseconds; lower is earlier. A priority of 0 means the default, one above
// 10 counts as 10; size counts at least 1; times of 0 or less are unknown.
func (p Params) ScoreJob(j Job) int64 { return p.score(&j, p.fairShareTerm(j.Account)) }

// score takes the fair-share term from outside, as many jobs have the same.
func (p *Params) score(j *Job, fairShare int64) int64 {
	score := eligibleTerm(j) + p.priorityTerm(j) + p.sizeTerm(j) + fairShare
	if len(p.PartitionMS) > 0 {
		score -= p.PartitionMS[j.Partition]
	}
	if len(p.ProjectMS) > 0 {
		score -= p.ProjectMS[j.Project]
	}
	if j.Running {
		score -= p.HysteresisMS
	}
	return score
}

func eligibleTerm(j *Job) int64 { return max(-eligibleBound, min(j.EligibleMS, eligibleBound)) }

func level(j *Job) int64 {
	if j.Priority == 0 {
		return defaultPriority
	}
	return int64(min(j.Priority, maxPriority))
}

func (p *Params) priorityTerm(j *Job) int64 { return p.PriorityMS * (level(j) - defaultPriority) }

// sizeTerm is -weight * log2(maxArea/area) / log2(maxArea/minArea), in [-weight, 0]. A weight of 14 days is below 2^31 and a
// logarithm below 2^29, so the product fits.
func (p *Params) sizeTerm(j *Job) int64 {
	if p.SizeMS == 0 {
		return 0
	}
	left, _ := remaining(j)
	return -(p.SizeMS * (logMax - log2(area(j.Size, left))) / (logMax - logMin))
}

// area is a job's GPU-seconds, kept within [minArea, maxArea].
func area(size uint32, seconds int64) uint64 {
	hi, lo := bits.Mul64(uint64(max(size, 1)), uint64(max(seconds, 1)))
	if hi != 0 {
		return maxArea
	}
	return max(minArea, min(lo, maxArea))
}

// Who said how long a job still runs.
const (
	byProgress   = "by its own progress"
	byLimit      = "by its time limit"
	byPrediction = "as predicted"
	byRunSoFar   = "assumed"
)

// remaining is how many seconds a job is taken to have left, at least 1, and by whose word.
func remaining(j *Job) (seconds int64, said string) {
	run := max(j.RunS, 0)
	bound := max(j.TimeLimitS-run, 1)
	switch {
	case j.RemainingS > 0 && j.TimeLimitS > 0:
		return min(j.RemainingS, bound), byProgress
	case j.RemainingS > 0:
		return j.RemainingS, byProgress
	case j.TimeLimitS > 0:
		return bound, byLimit
	case j.EstimateS > run:
		return j.EstimateS - run, byPrediction
	}
	// A prediction that has been outrun is worth no more than none.
	return max(run, assumedRunS), byRunSoFar
}
