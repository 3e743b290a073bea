// Package trace reads workloads and clusters for the simulator: logs of jobs and lists of nodes as CSV, with time limits
// filled in where a log has none and small perturbations for repeated runs.
package trace

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Job is one row of a workload. Zero values mean unknown unless said otherwise.
type Job struct {
	ID string
	// Row is the job's place in the file, from 0. The synthetic limit depends on it, and it breaks ties.
	Row int
	// SubmitS is in seconds since the start of the workload.
	SubmitS int64
	// DurationS is how long the job runs undisturbed, in seconds, at least 1.
	DurationS int64
	// GPUs of the whole job, given all at once; at least 1.
	GPUs int
	// Types that the job may run on; empty means any.
	Types []string
	// GPUMilli is the share of its one card in thousandths, for jobs that share; 0 means whole cards.
	GPUMilli int
	CPUMilli int64
	MemMiB   int64
	User, VC string
	// Priority is as users of fettle write it: 1 is the most urgent, 10 the least, 5 when the log has none. The files say
	// 10 for the most urgent.
	Priority uint32
	// Status is the original end state.
	Status string
	// LimitS is the time limit in seconds; 0 means none.
	LimitS int64
}

// Project is the account that the job counts for: its virtual cluster, else its user.
func (j *Job) Project() string {
	if j.VC != "" {
		return j.VC
	}
	return j.User
}

// Service is what the job takes undisturbed, in GPU-seconds.
func (j *Job) Service() int64 { return int64(j.GPUs) * j.DurationS }

// Node is one row of a cluster.
type Node struct {
	Name     string
	GPUs     int
	Type     string
	CPUMilli int64
	MemMiB   int64
}

// Cluster is a list of nodes in the file's order.
type Cluster []Node

// GPUs is how many there are in all.
func (c Cluster) GPUs() int {
	n := 0
	for _, node := range c {
		n += node.GPUs
	}
	return n
}

// String is one phrase, such as "640 GPUs = 80x8 P40".
func (c Cluster) String() string {
	type kind struct {
		gpus int
		typ  string
	}
	var order []kind
	count := map[kind]int{}
	for _, n := range c {
		k := kind{n.GPUs, n.Type}
		if count[k] == 0 {
			order = append(order, k)
		}
		count[k]++
	}
	parts := make([]string, len(order))
	for i, k := range order {
		parts[i] = strings.TrimSpace(fmt.Sprintf("%dx%d %s", count[k], k.gpus, k.typ))
	}
	return fmt.Sprintf("%d GPUs = %s", c.GPUs(), strings.Join(parts, " + "))
}

// Sort puts jobs into the order in which they arrive: by submit time, then by row.
func Sort(jobs []Job) {
	slices.SortFunc(jobs, func(a, b Job) int { return cmp.Or(cmp.Compare(a.SubmitS, b.SubmitS), cmp.Compare(a.Row, b.Row)) })
}

// Load is the GPU-seconds that jobs submit over those that a cluster has between the first and the last submit.
func Load(jobs []Job, c Cluster) float64 {
	if len(jobs) == 0 {
		return 0
	}
	first, last, work := jobs[0].SubmitS, jobs[0].SubmitS, int64(0)
	for i := range jobs {
		first, last = min(first, jobs[i].SubmitS), max(last, jobs[i].SubmitS)
		work += jobs[i].Service()
	}
	if last == first || c.GPUs() == 0 {
		return 0
	}
	return float64(work) / (float64(last-first) * float64(c.GPUs()))
}

// Wasted says that the log has the job failed or killed in the end.
func (j *Job) Wasted() bool {
	switch strings.ToUpper(j.Status) {
	case "FAILED", "FAIL", "KILLED", "CANCELLED", "CANCELED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "NODEFAIL":
		return true
	}
	return false
}
