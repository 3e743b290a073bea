package sched

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/fettle-hpc/fettle/ctld/internal/place"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// script is a random history of what a planner is told.
type script struct {
	nodes   map[string]Node
	jobs    map[uint64]Job
	running map[uint64]Running
	policy  Policy
}

// fill tells a planner the outcome of the history in one order of the planner's choice.
func (s *script) fill(p *Planner, reverse bool) *Planner {
	p.SetPolicy(s.policy)
	for _, n := range s.nodes {
		p.SetNode(n)
	}
	ids := slices.Sorted(maps.Keys(s.jobs))
	if reverse {
		slices.Reverse(ids)
	}
	for _, id := range ids {
		p.SetJob(s.jobs[id])
	}
	for _, r := range s.running {
		p.SetRunning(r)
	}
	return p
}

// TestIncrementalEqualsFromScratch has a planner follow a random history, and compares its plans with those of planners that
// are told the outcome only. It checks on the way that nothing is given twice.
func TestIncrementalEqualsFromScratch(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		opt := Options{Depth: rapid.IntRange(1, 2).Draw(t, "depth")}
		s := &script{nodes: map[string]Node{}, jobs: map[uint64]Job{}, running: map[uint64]Running{}, policy: randomPolicy(t)}
		p := NewPlanner(opt)
		p.SetPolicy(s.policy)
		at, id := int64(now), uint64(0)
		for range rapid.IntRange(3, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0, 1:
				n := randomNode(t)
				s.nodes[n.Name] = n
				p.SetNode(n)
			case 2:
				name := fmt.Sprintf("n%d", rapid.IntRange(0, 5).Draw(t, "gone"))
				delete(s.nodes, name)
				p.RemoveNode(name)
			case 3, 4, 5:
				id++
				j := randomJob(t, id, at)
				s.jobs[id] = j
				p.SetJob(j)
			case 6:
				if k := rapid.Uint64Range(0, id).Draw(t, "ended"); k > 0 {
					delete(s.jobs, k)
					delete(s.running, k)
					p.Remove(k)
				}
			case 7:
				if rapid.IntRange(0, 3).Draw(t, "change") == 0 {
					s.policy = randomPolicy(t)
					p.SetPolicy(s.policy)
				}
			default:
				at += rapid.Int64Range(0, 500_000).Draw(t, "passes")
			}
			plan := p.Plan(at)
			fresh := s.fill(NewPlanner(opt), rapid.Bool().Draw(t, "reverse"))
			if got, want := describe(plan), describe(fresh.Plan(at)); got != want {
				t.Fatalf("a planner that was told the outcome plans\n%s, one that followed the history\n%s", want, got)
			}
			if got, again := describe(plan), describe(p.Plan(at)); got != again {
				t.Fatalf("the same planner plans\n%s, then\n%s", got, again)
			}
			checkPlan(t, p, plan)
			if rapid.IntRange(0, 2).Draw(t, "carry out") == 0 {
				continue
			}
			for _, pl := range plan.Placements {
				r, rest, left := carryOut(s.jobs[pl.Job], pl, at, &id)
				delete(s.jobs, pl.Job)
				if p.Remove(pl.Job); left {
					s.jobs[pl.Job] = rest
					p.SetJob(rest)
				}
				s.running[r.ID] = r
				p.SetRunning(r)
			}
		}
	})
}

// describe writes a plan down.
func describe(p Plan) string {
	var b strings.Builder
	allocs := func(list []*fettlev1.NodeAllocation) {
		for _, a := range list {
			fmt.Fprint(&b, " ", a.GetNode(), a.GetGpuUuids(), a.GetCpus(), "/", a.GetMemMib(), "/", a.GetVramMib())
		}
	}
	for _, pl := range p.Placements {
		fmt.Fprint(&b, "start ", pl.Job, ".", pl.Index, " ", pl.Backfilled)
		allocs(pl.Allocs)
		b.WriteByte('\n')
	}
	for _, h := range p.Heads {
		fmt.Fprint(&b, "head ", h.Job, " at ", h.ShadowMS)
		allocs(h.Allocs)
		b.WriteByte('\n')
	}
	if p.Ask != nil {
		fmt.Fprintf(&b, "ask %+v\n", *p.Ask)
	}
	for _, id := range slices.Sorted(maps.Keys(p.Waits)) {
		fmt.Fprintln(&b, "wait", id, p.Waits[id])
	}
	fmt.Fprint(&b, "wake ", p.WakeMS, " more ", p.More)
	return b.String()
}

// carryOut turns a placement into what runs and what is left of an array.
func carryOut(j Job, pl Placement, at int64, id *uint64) (r Running, rest Job, left bool) {
	r = Running{
		ID: j.ID, Allocs: pl.Allocs, User: j.User, Project: j.Project, Partition: j.Needs.Partition, Priority: j.Priority,
		Score: j.Score, StartMS: at, LimitS: j.LimitS, Reservation: j.Reservation,
	}
	if j.EstimateS > 0 {
		r.PredictedEndMS = at + j.EstimateS*1000
	}
	if pl.Index < 0 {
		return r, Job{}, false
	}
	*id++
	r.ID, r.ArrayID, rest = *id, j.ID, j
	rest.Array = nil
	for _, a := range j.Array {
		if a.First == uint32(pl.Index) {
			a.First += max(a.Step, 1)
		}
		if a.Len() > 0 {
			rest.Array = append(rest.Array, a)
		}
	}
	return r, rest, len(rest.Array) > 0
}

func randomPolicy(t *rapid.T) Policy {
	p := Policy{
		Partitions: []Partition{{Name: "main"}, {Name: "odd", Allows: func(n string) bool { return (n[1]-'0')%2 == 1 }}},
		Projects:   []Project{{Name: "team", Parent: "lab"}, {Name: "lab", Limits: Limits{GPUs: rapid.IntRange(0, 6).Draw(t, "lab")}}},
		Users:      map[string]Limits{"u1": {Jobs: rapid.IntRange(0, 3).Draw(t, "u1")}},
	}
	p.Partitions[0].Preempt, p.Partitions[0].Budget = PreemptRequeue, 1
	p.Partitions[0].Down = rapid.IntRange(0, 9).Draw(t, "down") == 0
	if rapid.Bool().Draw(t, "window") {
		start := rapid.Int64Range(0, 1_000_000).Draw(t, "start")
		p.Reservations = append(p.Reservations, Reservation{Name: "w", Nodes: []string{"n1", "n2"}, StartMS: start, EndMS: start + 500_000, Users: []string{"u1"}})
	}
	return p
}

func randomNode(t *rapid.T) Node {
	n := node(fmt.Sprintf("n%d", rapid.IntRange(0, 5).Draw(t, "node")), rapid.SampledFrom([]string{"h100", "a100"}).Draw(t, "type"), rapid.IntRange(0, 4).Draw(t, "cards"))
	n.Ready = rapid.IntRange(0, 4).Draw(t, "ready") > 0
	n.CPUs = uint32(rapid.IntRange(1, 8).Draw(t, "cpus"))
	if len(n.GPUs) > 0 && rapid.IntRange(0, 5).Draw(t, "busy") == 0 {
		n.GPUs[0].BusyOutside = true
	}
	return n
}

func randomJob(t *rapid.T, id uint64, at int64) Job {
	n := &Needs{Partition: rapid.SampledFrom([]string{"main", "main", "odd"}).Draw(t, "partition")}
	n.Request = place.Request{
		Nodes: rapid.IntRange(1, 3).Draw(t, "nodes"), GPUs: rapid.IntRange(0, 4).Draw(t, "gpus"),
		GPUType: rapid.SampledFrom([]string{"", "h100", "a100"}).Draw(t, "type"), CPUs: uint32(rapid.IntRange(1, 4).Draw(t, "cpus")),
	}
	switch rapid.IntRange(0, 7).Draw(t, "special") {
	case 0:
		n.Request.Nodelist = []string{"n1", "n2", "n3"}
	case 1:
		n.Request.GPUs, n.Request.VRAMMiB = 1, 1
		n.Request.VRAMMiB = 0
	case 2:
		n.Request.Total, n.Request.Nodes, n.Request.GPUs = true, 0, rapid.IntRange(1, 6).Draw(t, "total")
	case 3:
		n.Request.Alternatives = []place.GPUChoice{{Type: "a100", Count: 1}}
	}
	j := Job{
		Preempt: rapid.IntRange(0, 3).Draw(t, "preempt") == 0, Priority: uint32(rapid.IntRange(1, 10).Draw(t, "priority")),
		ID: id, Score: rapid.Int64Range(0, 5).Draw(t, "score"), Needs: n, User: rapid.SampledFrom([]string{"u1", "u2"}).Draw(t, "user"),
		Project: rapid.SampledFrom([]string{"", "lab", "team"}).Draw(t, "project"), EligibleMS: at,
	}
	switch rapid.IntRange(0, 3).Draw(t, "knows") {
	case 0:
		j.LimitS = rapid.Int64Range(1, 2000).Draw(t, "limit")
	case 1:
		j.EstimateS = rapid.Int64Range(1, 2000).Draw(t, "estimate")
	}
	if rapid.IntRange(0, 4).Draw(t, "array") == 0 {
		j.Array, j.ArrayMax = []Range{{First: 0, Last: 3, Step: 1}}, rapid.IntRange(0, 2).Draw(t, "max")
	}
	if rapid.IntRange(0, 5).Draw(t, "reserved") == 0 {
		j.Reservation = "w"
	}
	return j
}

// checkPlan checks that a plan gives nothing that is not there or that somebody has.
func checkPlan(t *rapid.T, p *Planner, plan Plan) {
	held := map[string]bool{}
	cpus := map[string]uint32{}
	for _, a := range p.running {
		for _, al := range a.Allocs {
			cpus[al.GetNode()] += al.GetCpus()
			for _, u := range al.GetGpuUuids() {
				held[u] = true
			}
		}
	}
	for _, pl := range plan.Placements {
		for _, al := range pl.Allocs {
			pos, ok := p.cluster.Position(al.GetNode())
			if !ok || !p.cluster.Node(pos).Ready {
				t.Fatalf("job %d on %s, which takes nothing", pl.Job, al.GetNode())
			}
			n := p.cluster.Node(pos)
			if cpus[n.Name] += al.GetCpus(); cpus[n.Name] > n.CPUs {
				t.Fatalf("%s has %d CPUs, %d are given", n.Name, n.CPUs, cpus[n.Name])
			}
			for _, u := range al.GetGpuUuids() {
				if held[u] {
					t.Fatalf("card %s is given twice", u)
				}
				held[u] = true
				if !slices.ContainsFunc(n.GPUs, func(g place.GPU) bool { return g.UUID == u && g.Usable && !g.BusyOutside }) {
					t.Fatalf("card %s of %s cannot be given", u, n.Name)
				}
			}
		}
	}
}
