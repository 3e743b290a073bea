// Package metrics turns the schedule that a simulation made into the figures by which policies are compared.
package metrics

import (
	"cmp"
	"math"
	"slices"
	"strconv"
)

// Outcome is what became of one job. Times are in seconds since the start of the workload.
type Outcome struct {
	ID       string
	GPUs     int
	Priority uint32
	Project  string
	SubmitS  int64
	// StartS is the first start, EndS the last end.
	StartS, EndS int64
	// AloneS is how long it runs undisturbed.
	AloneS int64
	// Preempted is how often it was stopped for another, LostGPUS the GPU-seconds that were run twice or spent on starting again.
	Preempted int
	LostGPUS  int64
	// Dropped jobs could not be held by the empty cluster; they have no start and no end.
	Dropped bool
	// Killed jobs ended at their time limit before they were done.
	Killed bool
	// Wasted says that the log has it failed or killed in the end: its GPU time led to nothing.
	Wasted bool
}

// JCTS is the completion time, submit to end.
func (o *Outcome) JCTS() int64 { return o.EndS - o.SubmitS }

// WaitS is the completion time less what the job runs undisturbed.
func (o *Outcome) WaitS() int64 { return max(0, o.JCTS()-o.AloneS) }

// slowdownFloorS keeps very short jobs from deciding the slowdown.
const slowdownFloorS = 60

// Slowdown is the bounded slowdown: completion time over run time, which counts at least a minute; at least 1.
func (o *Outcome) Slowdown() float64 {
	return max(1, float64(o.JCTS())/float64(max(o.AloneS, slowdownFloorS)))
}

// Schedule is what a simulation made of a workload.
type Schedule struct {
	// Outcomes are in the order of the jobs.
	Outcomes []Outcome
	Meter    *Meter
	// PassMS is how long each scheduling pass took, in milliseconds.
	PassMS []float64
	// BoundS is the policy's bound: a job that was submitted so many seconds after another is never ordered before it. 0
	// when it has none that is known.
	BoundS int64
}

// Spread describes a distribution.
type Spread struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	Max  float64 `json:"max"`
}

// spread sorts values. A percentile is the smallest value that at least so many per cent are not above (nearest rank).
func spread(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	slices.Sort(values)
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	rank := func(p float64) float64 {
		return values[max(0, int(math.Ceil(p/100*float64(len(values))))-1)]
	}
	return Spread{sum / float64(len(values)), rank(50), rank(90), rank(99), values[len(values)-1]}
}

// Group is a part of the jobs.
type Group struct {
	Name     string  `json:"name"`
	Jobs     int     `json:"jobs"`
	GPUHours float64 `json:"gpu_hours"`
	JCT      Spread  `json:"jct_s"`
	Wait     Spread  `json:"wait_s"`
	// Rho is the finish-time fairness: the sum of completion times over the sum of what the jobs run undisturbed.
	Rho float64 `json:"rho"`
}

// Pass describes how long scheduling took. It is measured, so it differs from run to run.
type Pass struct {
	Count int     `json:"count"`
	P50MS float64 `json:"p50_ms"`
	P99MS float64 `json:"p99_ms"`
	MaxMS float64 `json:"max_ms"`
}

// Summary is every figure of one run. Times are in seconds, shares from 0 to 1.
type Summary struct {
	Jobs    int `json:"jobs"`
	Dropped int `json:"dropped"`
	Killed  int `json:"killed"`
	GPUs    int `json:"gpus"`

	JCT      Spread `json:"jct_s"`
	Wait     Spread `json:"wait_s"`
	Slowdown Spread `json:"bounded_slowdown"`
	// LongestWaitJob waited Wait.Max.
	LongestWaitJob string `json:"longest_wait_job"`

	BySize     []Group `json:"by_size"`
	ByPriority []Group `json:"by_priority"`
	ByProject  []Group `json:"by_project"`

	MakespanS int64 `json:"makespan_s"`
	// Averages over the window of arrivals: used GPUs, free GPUs on partly used nodes, and free GPUs while jobs wait, as
	// shares of all GPUs.
	Utilisation     float64 `json:"utilisation"`
	Fragmentation   float64 `json:"fragmentation"`
	IdleWhileQueued float64 `json:"idle_while_queued"`
	LongestQueue    int     `json:"longest_queue"`

	Preemptions  int     `json:"preemptions"`
	LostGPUHours float64 `json:"lost_gpu_hours"`
	// LostShare is of the GPU-hours that the jobs run undisturbed.
	LostShare float64 `json:"lost_share"`
	// WastedGPUHours went to jobs that failed or were killed in the log.
	WastedGPUHours float64 `json:"wasted_gpu_hours"`
	// Jain is the fairness index of the projects' rho: 1 when all are slowed down alike, 1/n when one of n bears it all.
	Jain float64 `json:"jain"`

	// BoundS is the policy's bound of order, 0 when it has none that is known.
	BoundS int64 `json:"order_bound_s,omitempty"`
	Pass   Pass  `json:"pass"`

	// UsedSeries and QueuedSeries are the share of used GPUs and the number of waiting jobs over the window of arrivals, which
	// they cut into Bins slices; WaitPercents is the wait that p per cent of the jobs do not exceed, p from 0 to 100.
	UsedSeries   []float64 `json:"used_series"`
	QueuedSeries []float64 `json:"queued_series"`
	WaitPercents []float64 `json:"wait_percentiles_s"`
	// FromS and ToS are the first and the last submit.
	FromS int64 `json:"from_s"`
	ToS   int64 `json:"to_s"`
}

// Summarize computes every figure of a schedule. It sorts the durations of the passes.
func Summarize(sched *Schedule) *Summary {
	outcomes, m := sched.Outcomes, sched.Meter
	s := &Summary{GPUs: m.total, BoundS: sched.BoundS, FromS: m.from, ToS: m.to, LongestQueue: m.maxQueue}
	s.Utilisation, s.Fragmentation, s.IdleWhileQueued = m.shares()
	s.UsedSeries, s.QueuedSeries = m.series()
	var done []*Outcome
	var first, last, alone, lost, wasted int64
	for i := range outcomes {
		o := &outcomes[i]
		if o.Dropped {
			s.Dropped++
			continue
		}
		if o.Killed {
			s.Killed++
		}
		if len(done) == 0 || o.SubmitS < first {
			first = o.SubmitS
		}
		last = max(last, o.EndS)
		s.Preemptions += o.Preempted
		lost += o.LostGPUS
		alone += int64(o.GPUs) * o.AloneS
		if o.Wasted {
			wasted += int64(o.GPUs) * o.AloneS
		}
		done = append(done, o)
	}
	all := group("all", done)
	s.Jobs, s.JCT, s.Wait = all.Jobs, all.JCT, all.Wait
	slow, waits := make([]float64, len(done)), make([]float64, len(done))
	for i, o := range done {
		slow[i], waits[i] = o.Slowdown(), float64(o.WaitS())
		if s.LongestWaitJob == "" || waits[i] == s.Wait.Max && o.WaitS() > 0 {
			s.LongestWaitJob = o.ID
		}
	}
	s.Slowdown = spread(slow)
	slices.Sort(waits)
	for p := range 101 {
		if len(waits) > 0 {
			s.WaitPercents = append(s.WaitPercents, waits[p*(len(waits)-1)/100])
		}
	}
	s.BySize = groups(done, sizeClass)
	s.ByPriority = groups(done, func(o *Outcome) (int, string) {
		return int(o.Priority), strconv.Itoa(int(o.Priority))
	})
	s.ByProject = projects(done)
	s.Jain = jain(s.ByProject)
	s.MakespanS = last - first
	s.LostGPUHours, s.WastedGPUHours = float64(lost)/3600, float64(wasted)/3600
	if alone > 0 {
		s.LostShare = float64(lost) / float64(alone)
	}
	p := spread(sched.PassMS)
	s.Pass = Pass{len(sched.PassMS), p.P50, p.P99, p.Max}
	return s
}

func sizeClass(o *Outcome) (int, string) {
	switch {
	case o.GPUs == 1:
		return 0, "1 GPU"
	case o.GPUs <= 8:
		return 1, "2-8 GPUs"
	}
	return 2, ">8 GPUs"
}

func group(name string, of []*Outcome) Group {
	g := Group{Name: name, Jobs: len(of)}
	jct, wait := make([]float64, len(of)), make([]float64, len(of))
	var shared, alone int64
	for i, o := range of {
		jct[i], wait[i] = float64(o.JCTS()), float64(o.WaitS())
		shared, alone = shared+o.JCTS(), alone+o.AloneS
		g.GPUHours += float64(int64(o.GPUs)*o.AloneS) / 3600
	}
	g.JCT, g.Wait = spread(jct), spread(wait)
	if alone > 0 {
		g.Rho = float64(shared) / float64(alone)
	}
	return g
}

// groups splits jobs by a class, which has a place and a name.
func groups(of []*Outcome, class func(*Outcome) (int, string)) []Group {
	type key struct {
		at   int
		name string
	}
	parts := map[key][]*Outcome{}
	var keys []key
	for _, o := range of {
		at, name := class(o)
		k := key{at, name}
		if parts[k] == nil {
			keys = append(keys, k)
		}
		parts[k] = append(parts[k], o)
	}
	slices.SortFunc(keys, func(a, b key) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.name, b.name)) })
	out := make([]Group, len(keys))
	for i, k := range keys {
		out[i] = group(k.name, parts[k])
	}
	return out
}

// projects are in order of what they use, the largest first. Jobs without a project are none.
func projects(of []*Outcome) []Group {
	var named []*Outcome
	for _, o := range of {
		if o.Project != "" {
			named = append(named, o)
		}
	}
	out := groups(named, func(o *Outcome) (int, string) { return 0, o.Project })
	slices.SortStableFunc(out, func(a, b Group) int { return cmp.Compare(b.GPUHours, a.GPUHours) })
	return out
}

// jain is (sum x)^2 / (n sum x^2) over the projects' rho; 1 without projects.
func jain(of []Group) float64 {
	var sum, squares float64
	for _, g := range of {
		sum += g.Rho
		squares += g.Rho * g.Rho
	}
	if squares == 0 {
		return 1
	}
	return sum * sum / (float64(len(of)) * squares)
}
