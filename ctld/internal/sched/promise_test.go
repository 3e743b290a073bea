package sched

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// TestPromisesAreKept plays random workloads whose jobs end at their limits or before, and checks that a blocked job first in
// line for its cards starts no later than at any time that it was promised, whatever is filled in meanwhile. It checks
// the order as well: what starts behind a blocked job of its class was filled in.
func TestPromisesAreKept(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := NewPlanner(Options{MaxPlacements: -1})
		p.settled = true
		p.SetPolicy(Policy{Partitions: []Partition{{Name: "main"}}})
		types := []string{"a100", "h100"}
		for i := range rapid.IntRange(2, 6).Draw(t, "nodes") {
			p.SetNode(node(fmt.Sprintf("n%d", i), types[i%2], 4, func(n *Node) { n.CPUs = uint32(rapid.IntRange(4, 6).Draw(t, "cpus")) }))
		}
		type truth struct{ runs, limit int64 }
		known := map[uint64]truth{}
		count := uint64(rapid.IntRange(1, 25).Draw(t, "jobs"))
		for id := uint64(1); id <= count; id++ {
			n := typed(types[rapid.IntRange(0, 1).Draw(t, "type")], rapid.IntRange(1, 4).Draw(t, "gpus"))
			n.Partition, n.Request.CPUs, n.Request.Nodes = "main", uint32(rapid.IntRange(1, 3).Draw(t, "cpus")), rapid.IntRange(1, 2).Draw(t, "span")
			limit := rapid.Int64Range(10, 1000).Draw(t, "limit")
			known[id] = truth{runs: rapid.Int64Range(1, limit).Draw(t, "runs"), limit: limit}
			p.SetJob(Job{ID: id, Score: int64(id), Needs: &n, User: "u", LimitS: limit})
		}
		ends, promised := map[uint64]int64{}, map[uint64]int64{}
		for at := int64(now); ; {
			plan := p.Plan(at)
			checkPlan(t, p, plan)
			for _, h := range plan.Heads {
				if h.ShadowMS == 0 {
					continue
				}
				if was, ok := promised[h.Job]; !ok || h.ShadowMS < was {
					promised[h.Job] = h.ShadowMS
				}
			}
			first := map[*class]uint64{}
			for _, h := range plan.Heads {
				first[p.jobs[h.Job].shape.lane.class] = h.Job
			}
			for _, pl := range plan.Placements {
				j := p.jobs[pl.Job]
				if head := first[j.shape.lane.class]; head != 0 && head < pl.Job && !pl.Backfilled {
					t.Fatalf("job %d started ahead of job %d as if it were its turn", pl.Job, head)
				}
				if by, ok := promised[pl.Job]; ok && at > by {
					t.Fatalf("job %d was promised a start by %d and started at %d", pl.Job, by, at)
				}
				p.SetRunning(Running{ID: pl.Job, Allocs: pl.Allocs, User: "u", Partition: "main", StartMS: at, LimitS: known[pl.Job].limit})
				ends[pl.Job] = at + known[pl.Job].runs*1000
			}
			next := int64(0)
			for _, end := range ends {
				if next == 0 || end < next {
					next = end
				}
			}
			if next == 0 {
				break
			}
			at = next
			for id, end := range ends {
				if end <= at {
					delete(ends, id)
					p.Remove(id)
				}
			}
		}
		for _, e := range p.jobs {
			if !e.unfit {
				t.Fatalf("job %d never started on an idle cluster", e.ID)
			}
		}
	})
}
