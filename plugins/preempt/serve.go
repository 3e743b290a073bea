package preempt

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// found is a way to meet one of a job's needs.
type found struct {
	need   int
	places []*Place
	set
}

// serve finds the cheapest way to meet a job's needs and takes it.
func (s *state) serve(j *Job) Selection {
	allowed := make([]bool, len(s.req.Candidates))
	for _, c := range j.Candidates {
		allowed[c] = !s.stopped[c]
	}
	var best *found
	for i := range j.Needs {
		f := s.meet(&j.Needs[i], allowed)
		if f == nil {
			continue
		}
		f.need = i
		if best == nil || f.compare(&best.set) < 0 {
			best = f
		}
	}
	if best == nil {
		return Selection{Job: j.ID, Reason: s.whyNot(j, allowed)}
	}
	out := Selection{Job: j.ID, Need: best.need}
	for _, p := range best.places {
		out.Nodes = append(out.Nodes, p.Node)
	}
	slices.Sort(out.Nodes)
	for _, v := range best.victims {
		out.Victims = append(out.Victims, s.req.Candidates[v].ID)
	}
	slices.Sort(out.Victims)
	n := &j.Needs[best.need]
	s.take(n, out.Nodes, best.victims)
	out.Reason = s.why(n, &out, best.cost)
	return out
}

// meet finds a cheap way to meet one need, nil when there is none.
func (s *state) meet(n *Need, allowed []bool) *found {
	if n.Nodes < 1 || len(n.Places) < n.Nodes {
		return nil
	}
	if n.Nodes > 1 {
		return s.meetGang(n, allowed)
	}
	var out *found
	for i := range n.Places {
		p := &n.Places[i]
		var bound *set
		if out != nil {
			bound = &out.set
		}
		if got := s.cheapest(n, p, allowed, s.stopped, s.cost, bound); got != nil {
			out = &found{places: []*Place{p}, set: *got}
		}
	}
	if out != nil {
		s.dropSuperfluous(n, out)
	}
	return out
}

// meetGang tries prices in full and prices shared among a victim's nodes.
func (s *state) meetGang(n *Need, allowed []bool) *found {
	full := s.greedy(n, allowed, s.cost)
	if full == nil {
		return nil
	}
	places := make([]int, len(s.req.Candidates))
	for i := range n.Places {
		for _, h := range s.on[n.Places[i].Node] {
			places[h.candidate]++
		}
	}
	shared := make([]uint64, len(s.cost))
	for i, c := range s.cost {
		// Sixteen times the price, so that little is lost in the division.
		shared[i] = c * 16 / uint64(max(1, min(places[i], n.Nodes)))
	}
	if other := s.greedy(n, allowed, shared); other != nil && other.compare(&full.set) < 0 {
		return other
	}
	return full
}

// greedy takes the cheapest node as often as the gang needs one.
func (s *state) greedy(n *Need, allowed []bool, price []uint64) *found {
	gone := slices.Clone(s.stopped)
	offers := make([]*set, len(n.Places))
	for i := range n.Places {
		offers[i] = s.cheapest(n, &n.Places[i], allowed, gone, price, nil)
	}
	out := &found{}
	taken := make([]bool, len(n.Places))
	for range n.Nodes {
		best := -1
		for i, o := range offers {
			if o != nil && !taken[i] && (best < 0 || o.compare(offers[best]) < 0) {
				best = i
			}
		}
		if best < 0 {
			return nil
		}
		taken[best] = true
		out.places = append(out.places, &n.Places[best])
		touched := map[int]bool{}
		for _, v := range offers[best].victims {
			gone[v] = true
			out.victims = append(out.victims, v)
			for _, h := range s.req.Candidates[v].Holds {
				touched[h.Node] = true
			}
		}
		for i := range n.Places {
			if p := &n.Places[i]; !taken[i] && touched[p.Node] {
				offers[i] = s.cheapest(n, p, allowed, gone, price, nil)
			}
		}
	}
	s.dropSuperfluous(n, out)
	return out
}

// dropSuperfluous leaves out every victim without whom the need is met all the same, the dearest first, and adds up the rest.
func (s *state) dropSuperfluous(n *Need, f *found) {
	chosen := make(map[int]bool, len(f.victims))
	for _, v := range f.victims {
		chosen[v] = true
	}
	gone := func(c int) bool { return s.stopped[c] || chosen[c] }
	order := slices.Clone(f.victims)
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(s.cost[b], s.cost[a]), cmp.Compare(s.req.Candidates[a].Score, s.req.Candidates[b].Score), cmp.Compare(a, b))
	})
	for _, v := range order {
		chosen[v] = false
		chosen[v] = !s.spares(n, f.places, v, gone)
	}
	f.set = set{urgent: nobodyUrgent}
	slices.Sort(order)
	for _, v := range order {
		if chosen[v] {
			f.victims = append(f.victims, v)
			f.cost += s.cost[v]
			f.urgent = min(f.urgent, s.req.Candidates[v].Score)
		}
	}
}

// why says in one sentence what a selection does.
func (s *state) why(n *Need, out *Selection, cost uint64) string {
	where := fmt.Sprintf("%d nodes", len(out.Nodes))
	if len(out.Nodes) == 1 {
		where = s.req.Nodes[out.Nodes[0]]
	}
	if len(out.Victims) == 0 {
		return "fits on " + where + " without stopping anybody else"
	}
	return fmt.Sprintf("stopping %s makes room on %s and loses %d GPU-seconds, the least that was found among %d nodes",
		jobs(out.Victims), where, cost, len(n.Places))
}

func jobs(ids []uint64) string {
	const shown = 5
	if len(ids) == 1 {
		return fmt.Sprintf("job %d", ids[0])
	}
	if len(ids) > shown {
		return fmt.Sprintf("%d jobs", len(ids))
	}
	var b strings.Builder
	for i, id := range ids {
		switch {
		case i == 0:
			b.WriteString("jobs ")
		case i == len(ids)-1:
			b.WriteString(" and ")
		default:
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d", id)
	}
	return b.String()
}

// whyNot says in one sentence why nobody is stopped for a job.
func (s *state) whyNot(j *Job, allowed []bool) string {
	if !slices.Contains(allowed, true) {
		return "no running job may be stopped for it"
	}
	most, of := 0, 0
	gone := func(c int) bool { return s.stopped[c] || allowed[c] }
	for i := range j.Needs {
		n := &j.Needs[i]
		fit := 0
		for k := range n.Places {
			if s.fits(n, &n.Places[k], gone) {
				fit++
			}
		}
		if of == 0 || fit > most {
			most, of = fit, n.Nodes
		}
	}
	return fmt.Sprintf("stopping all that may be stopped for it makes room on %d of the %d nodes that it needs", most, of)
}
