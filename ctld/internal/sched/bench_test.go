package sched

import (
	"fmt"
	"runtime"
	"testing"
)

// The scale that the design asks for: a full plan within a second and an incremental one within 100 ms on one core.
const (
	benchNodes   = 5000
	benchCards   = 8
	benchPending = 100_000
)

// crowd is a cluster that is full, with jobs waiting; needs gives the i-th job's.
func crowd(b *testing.B, pending int, needs func(i int) Needs, edit func(i int, j *Job)) *world {
	b.Helper()
	w := newWorld(Options{})
	for i := range benchNodes {
		w.SetNode(node(fmt.Sprintf("n%04d", i), "h100", benchCards, func(n *Node) { n.CPUs, n.MemMiB = 128, 1_000_000 }))
	}
	for i := range benchNodes {
		for c := range benchCards {
			w.runs(fmt.Sprintf("n%04d", i), []int{c}, endsAt(now+int64(60_000+(i*7919+c*104729)%86_400_000)))
		}
	}
	shared := map[string]*Needs{}
	for i := range pending {
		n := needs(i)
		n.Partition, n.Request.CPUs = "main", max(n.Request.CPUs, 1)
		key := fmt.Sprint(n)
		if shared[key] == nil {
			shared[key] = &n
		}
		w.next++
		j := Job{ID: w.next, Score: int64(i), Needs: shared[key], User: fmt.Sprintf("u%d", i%50), Priority: 5, EligibleMS: 1000}
		if edit != nil {
			edit(i, &j)
		}
		w.SetJob(j)
	}
	return w
}

var sizes4 = []int{1, 2, 4, 8}

func mixed(i int) Needs { return gpus(sizes4[i%4]) }

// different gives every job needs of its own.
func different(i int) Needs {
	n := gpus(1 + i%8)
	n.Request.CPUs, n.Request.MemMiB = uint32(1+i%100), int64(i)
	return n
}

// cycle ends one running job, plans, and carries the plan out.
func (w *world) cycle(b *testing.B, k int) {
	victim := uint64(1 + (k*7919)%(benchNodes*benchCards))
	w.Remove(victim)
	p := w.Plan(now + int64(k))
	for _, pl := range p.Placements {
		j, _ := w.Job(pl.Job)
		w.SetRunning(Running{ID: pl.Job, Allocs: pl.Allocs, User: j.User, Partition: "main", StartMS: now + int64(k), LimitS: j.LimitS, PredictedEndMS: now + 50_000_000})
	}
}

func benchIncremental(b *testing.B, needs func(int) Needs, edit func(int, *Job)) {
	w := crowd(b, benchPending, needs, edit)
	w.Plan(now)
	b.ResetTimer()
	for k := range b.N {
		w.cycle(b, k)
	}
}

func hours(i int, j *Job) { j.LimitS = int64(600 + (i*7919)%86_400) }

func BenchmarkIncremental(b *testing.B) {
	b.Run("mixed", func(b *testing.B) { benchIncremental(b, mixed, hours) })
	b.Run("mixed/no-limits", func(b *testing.B) { benchIncremental(b, mixed, nil) })
	b.Run("all-different", func(b *testing.B) { benchIncremental(b, different, hours) })
	// Everything waits behind one gang that needs a fifth of the cluster.
	b.Run("behind-a-gang", func(b *testing.B) {
		benchIncremental(b, func(i int) Needs {
			if i == 0 {
				return gang(benchNodes/5, benchCards)
			}
			return mixed(i)
		}, hours)
	})
	b.Run("own-nodelists", func(b *testing.B) {
		benchIncremental(b, func(i int) Needs {
			n := mixed(i)
			n.Request.Nodelist = []string{fmt.Sprintf("n%04d", i%benchNodes), fmt.Sprintf("n%04d", (i+1)%benchNodes)}
			return n
		}, hours)
	})
	b.Run("submit-only", func(b *testing.B) {
		w := crowd(b, benchPending, mixed, hours)
		b.ResetTimer()
		for k := range b.N {
			w.job(gpus(4), limit(3600))
			w.Plan(now + int64(k))
		}
	})
	b.Run("node-flaps", func(b *testing.B) {
		w := crowd(b, benchPending, different, hours)
		b.ResetTimer()
		for k := range b.N {
			w.SetNode(node("n0100", "h100", benchCards, func(n *Node) { n.CPUs, n.MemMiB, n.Ready = 128, 1_000_000, k%2 == 0 }))
			w.Plan(now + int64(k))
		}
	})
	// A thousand jobs come at once, as when what they depend on has ended.
	b.Run("thousand-released", func(b *testing.B) {
		w := crowd(b, benchPending, mixed, hours)
		b.ResetTimer()
		for k := range b.N {
			for range 1000 {
				w.job(gpus(2), limit(3600))
			}
			w.Plan(now + int64(k))
		}
	})
}

// BenchmarkFull fills a planner with everything, as a new leader does, and plans.
func BenchmarkFull(b *testing.B) {
	for name, needs := range map[string]func(int) Needs{"mixed": mixed, "all-different": different} {
		b.Run(name, func(b *testing.B) {
			w := crowd(b, benchPending, needs, hours)
			s := &script{nodes: map[string]Node{}, jobs: map[uint64]Job{}, running: map[uint64]Running{}, policy: Policy{Partitions: []Partition{{Name: "main"}}}}
			for i := range w.cluster.Len() {
				s.nodes[w.cluster.Name(i)] = Node{Node: *w.cluster.Node(i)}
			}
			for id, e := range w.jobs {
				s.jobs[id] = e.Job
			}
			for id, a := range w.running {
				s.running[id] = a.Running
			}
			b.ResetTimer()
			for range b.N {
				s.fill(NewPlanner(Options{}), false).Plan(now)
			}
		})
	}
}

// BenchmarkStarts starts jobs on an idle cluster, at both lengths of the queue.
func BenchmarkStarts(b *testing.B) {
	for _, pending := range []int{1000, benchPending} {
		b.Run(fmt.Sprint(pending), func(b *testing.B) {
			starts := 0
			for range b.N {
				b.StopTimer()
				w := crowd(b, pending, func(int) Needs { return gpus(1) }, hours)
				for id := range uint64(benchNodes * benchCards) {
					w.Remove(id + 1)
				}
				b.StartTimer()
				for range 2 {
					p := w.Plan(now)
					starts += len(p.Placements)
					for _, pl := range p.Placements {
						w.SetRunning(Running{ID: pl.Job, Allocs: pl.Allocs, Partition: "main", StartMS: now, LimitS: 3600})
					}
				}
			}
			b.ReportMetric(float64(starts)/b.Elapsed().Seconds(), "starts/s")
		})
	}
}

// BenchmarkMemory tells how many bytes a waiting job takes in the planner.
func BenchmarkMemory(b *testing.B) {
	heap := func(pending int) uint64 {
		var m runtime.MemStats
		w := crowd(b, pending, mixed, hours)
		runtime.GC()
		runtime.ReadMemStats(&m)
		runtime.KeepAlive(w)
		return m.HeapAlloc
	}
	for range b.N {
		few, many := heap(0), heap(benchPending)
		b.ReportMetric(float64(many-few)/benchPending, "bytes/job")
	}
}
