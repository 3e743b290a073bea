package reference

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim/trace"
)

// naive is the same model once more, written down as plainly as possible and without any of the engine's bookkeeping: it looks
// at every node for every job and works everything out anew.
type naive struct {
	nodes trace.Cluster
	free  []int
}

type naiveJob struct {
	trace.Job
	key, start, end float64
	estimate        int64
	shares          map[int]int
}

// classOf is where a node's class first appears.
func (n *naive) classOf(i int) int {
	return slices.IndexFunc(n.nodes, func(m trace.Node) bool { return m.Type == n.nodes[i].Type && m.GPUs == n.nodes[i].GPUs })
}

// place looks for GPUs among those given free; really are the free ones whatever is reserved.
func (n *naive) place(j *naiveJob, free, really []int) map[int]int {
	allowed := func(i int) bool { return len(j.Types) == 0 || slices.Contains(j.Types, n.nodes[i].Type) }
	single, best := false, -1
	for i, node := range n.nodes {
		if !allowed(i) || node.GPUs < j.GPUs {
			continue
		}
		single = true
		if free[i] >= j.GPUs && (best < 0 || cmp.Or(cmp.Compare(free[i], free[best]), cmp.Compare(n.classOf(i), n.classOf(best))) < 0) {
			best = i
		}
	}
	if single {
		if best < 0 {
			return nil
		}
		return map[int]int{best: j.GPUs}
	}
	var classes []int
	for i := range n.nodes {
		if n.classOf(i) == i && allowed(i) {
			classes = append(classes, i)
		}
	}
	slices.SortStableFunc(classes, func(a, b int) int { return n.nodes[b].GPUs - n.nodes[a].GPUs })
	for _, c := range classes {
		size := n.nodes[c].GPUs
		got, need, part := map[int]int{}, j.GPUs/size, -1
		for i := range n.nodes {
			if n.classOf(i) == c && free[i] == size && need > 0 {
				got[i] = size
				need--
			}
			if rest := j.GPUs % size; rest > 0 && n.classOf(i) == c && really[i] < size && free[i] >= rest && (part < 0 || free[i] < free[part]) {
				part = i
			}
		}
		if rest := j.GPUs % size; rest > 0 && part < 0 {
			for i := range n.nodes {
				if n.classOf(i) == c && free[i] == size && got[i] == 0 && part < 0 {
					part = i
				}
			}
			if part < 0 {
				continue
			}
			got[part] = rest
		} else if rest > 0 {
			got[part] = rest
		}
		if need == 0 {
			return got
		}
	}
	return nil
}

// run is the whole simulation, second by second.
func (n *naive) run(p Policy, js []trace.Job) string {
	n.free = make([]int, len(n.nodes))
	for i, node := range n.nodes {
		n.free[i] = node.GPUs
	}
	all := make([]*naiveJob, len(js))
	pending := 0
	for i := range js {
		all[i] = &naiveJob{Job: js[i], key: p.key(&js[i]), estimate: p.estimate(&js[i]), start: -1, end: -1}
		if n.place(all[i], n.free, n.free) == nil {
			all[i].end = -2
		} else {
			pending++
		}
	}
	order := slices.Clone(all)
	slices.SortStableFunc(order, func(a, b *naiveJob) int { return cmp.Compare(a.key, b.key) })
	for now := int64(0); pending > 0; now++ {
		event := false
		for _, j := range all {
			if j.start >= 0 && j.end < 0 && int64(j.start)+j.DurationS == now {
				j.end = float64(now)
				pending--
				event = true
				for i, g := range j.shares {
					n.free[i] += g
				}
			}
			event = event || j.SubmitS == now && j.end != -2
		}
		if event {
			n.pass(p, order, now)
		}
	}
	out := ""
	for _, j := range all {
		out += fmt.Sprintf("%s@%g-%g ", j.ID, j.start, j.end)
	}
	return out
}

func (n *naive) pass(p Policy, order []*naiveJob, now int64) {
	var waiting []*naiveJob
	for _, j := range order {
		if j.start < 0 && j.end != -2 && j.SubmitS <= now {
			waiting = append(waiting, j)
		}
	}
	start := func(j *naiveJob, shares map[int]int) {
		j.start, j.shares = float64(now), shares
		for i, g := range shares {
			n.free[i] -= g
		}
	}
	for k, j := range waiting {
		if shares := n.place(j, n.free, n.free); shares != nil {
			start(j, shares)
			continue
		}
		switch p.mode {
		case greedy:
			continue
		case strict:
			return
		}
		var running []*naiveJob
		for _, r := range order {
			if r.start >= 0 && r.end < 0 {
				for int64(r.start)+r.estimate <= now {
					r.estimate *= 2
				}
				running = append(running, r)
			}
		}
		expected := func(r *naiveJob) int64 { return int64(r.start) + r.estimate }
		slices.SortFunc(running, func(a, b *naiveJob) int { return cmp.Compare(expected(a), expected(b)) })
		then := slices.Clone(n.free)
		var shadow int64
		for i, r := range running {
			for node, g := range r.shares {
				then[node] += g
			}
			if i+1 < len(running) && expected(running[i+1]) == expected(r) {
				continue
			}
			if shares := n.place(j, then, then); shares != nil {
				shadow = expected(r)
				for node, g := range shares {
					then[node] -= g
				}
				break
			}
		}
		for _, b := range waiting[k+1:] {
			if now+b.estimate <= shadow {
				if shares := n.place(b, n.free, n.free); shares != nil {
					start(b, shares)
				}
				continue
			}
			beside := make([]int, len(n.free))
			for i := range beside {
				beside[i] = min(n.free[i], then[i])
			}
			if shares := n.place(b, beside, n.free); shares != nil {
				start(b, shares)
				for i, g := range shares {
					then[i] -= g
				}
			}
		}
		return
	}
}

// TestAgainstNaive compares the engine with the naive model, job by job, on small random workloads.
func TestAgainstNaive(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		types := []string{"T4", "V100", ""}
		var nodes trace.Cluster
		for i := range rapid.IntRange(1, 6).Draw(t, "nodes") {
			nodes = append(nodes, trace.Node{
				Name: fmt.Sprint(i), GPUs: rapid.SampledFrom([]int{1, 2, 4, 4}).Draw(t, "gpus"), Type: rapid.SampledFrom(types).Draw(t, "type"),
			})
		}
		var js []trace.Job
		for i := range rapid.IntRange(1, 30).Draw(t, "jobs") {
			j := trace.Job{
				ID: fmt.Sprint(i), Row: i, SubmitS: rapid.Int64Range(0, 40).Draw(t, "submit"), DurationS: rapid.Int64Range(1, 40).Draw(t, "duration"),
				GPUs: rapid.SampledFrom([]int{1, 1, 2, 3, 4, 5, 6, 8, 11}).Draw(t, "gpus"), LimitS: rapid.Int64Range(1, 60).Draw(t, "limit"),
			}
			if rapid.IntRange(0, 4).Draw(t, "typed") == 0 {
				j.Types = types[:rapid.IntRange(1, 2).Draw(t, "types")]
			}
			js = append(js, j)
		}
		trace.Sort(js)
		p, err := ParsePolicy(rapid.SampledFrom(Policies[:len(Policies)-1]).Draw(t, "policy"))
		if err != nil {
			t.Fatal(err)
		}
		s, err := Run(t.Context(), nodes, js, p, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, o := range s.Outcomes {
			if o.Dropped {
				o.StartS, o.EndS = -1, -2
			}
			got += fmt.Sprintf("%s@%d-%d ", o.ID, o.StartS, o.EndS)
		}
		if want := (&naive{nodes: nodes}).run(p, js); got != want {
			t.Errorf("%s on %v: got  %s\nwant %s", p.Name, nodes, got, want)
		}
	})
}
