package place

import (
	"cmp"
	"slices"
)

// solution is the nodes of a job with what each gives.
type solution struct {
	nodes    []candidate
	switches int
	cost     cost
}

func newSolution(nodes []candidate) solution {
	s := solution{nodes: nodes}
	var seen []string
	for i := range nodes {
		for k := range s.cost {
			s.cost[k] += nodes[i].cost[k]
		}
		if sw := nodes[i].rec.node.Switch; !slices.Contains(seen, sw) {
			seen = append(seen, sw)
		}
	}
	s.switches = len(seen)
	return s
}

// compare puts the solution on fewer nodes and switches first, then the one of less cost.
func (s *solution) compare(t *solution) int {
	return cmp.Or(cmp.Compare(len(s.nodes), len(t.nodes)), cmp.Compare(s.switches, t.switches), s.cost.compare(t.cost))
}

// gang finds the best nodes that give q.count cards each.
func (q *query) gang(nodes int) (solution, bool) {
	if q.r.VRAMMiB == 0 && !q.idle && q.free[q.typ] < nodes*q.count {
		return solution{}, false
	}
	if nodes == 1 {
		best, ok := q.one(q.count)
		if !ok || len(q.pinned) > 0 && !best.must {
			return solution{}, false
		}
		return solution{nodes: []candidate{best}, switches: 1, cost: best.cost}, true
	}
	found := q.find(q.count, false)
	must := 0
	for i := range found {
		if found[i].must {
			must++
		}
	}
	if len(found) < nodes || must < len(q.pinned) {
		return solution{}, false
	}
	slices.SortFunc(found, func(a, b candidate) int { return a.compare(&b) })
	return newSolution(fewestSwitches(found, must, nodes)), true
}

// leaf is the candidates on one switch, best first.
type leaf struct {
	name  string
	nodes []candidate
}

func leaves(found []candidate) []leaf {
	var list []leaf
	at := map[string]int{}
	for _, f := range found {
		name := f.rec.node.Switch
		k, ok := at[name]
		if !ok {
			k = len(list)
			at[name] = k
			list = append(list, leaf{name: name})
		}
		list[k].nodes = append(list[k].nodes, f)
	}
	return list
}

// fewestSwitches chooses want of the sorted candidates, the first must of them in any case, on as few switches as possible:
// first from the switches that are touched anyway, then all of the largest ones, and the rest from the one where it costs least
// and that has the fewest others.
func fewestSwitches(found []candidate, must, want int) []candidate {
	list := leaves(found[must:])
	if must == want || must == 0 && len(list) == 1 {
		return found[:want]
	}
	chosen := slices.Clone(found[:must])
	touched := map[string]bool{}
	for _, f := range chosen {
		touched[f.rec.node.Switch] = true
	}
	var near []candidate
	rest := list[:0]
	for _, l := range list {
		if touched[l.name] {
			near = append(near, l.nodes...)
		} else {
			rest = append(rest, l)
		}
	}
	slices.SortFunc(near, func(a, b candidate) int { return a.compare(&b) })
	chosen = append(chosen, near[:min(len(near), want-must)]...)
	slices.SortFunc(rest, func(a, b leaf) int {
		return cmp.Or(cmp.Compare(len(b.nodes), len(a.nodes)), cmp.Compare(a.name, b.name))
	})
	for len(chosen) < want {
		missing := want - len(chosen)
		if len(rest[0].nodes) <= missing {
			chosen = append(chosen, rest[0].nodes...)
			rest = rest[1:]
			continue
		}
		best, bestCost := -1, cost{}
		for i, l := range rest {
			if len(l.nodes) < missing {
				break
			}
			s := newSolution(l.nodes[:missing])
			if d := s.cost.compare(bestCost); best < 0 || d < 0 || d == 0 && len(l.nodes) <= len(rest[best].nodes) && (len(l.nodes) < len(rest[best].nodes) || l.name < rest[best].name) {
				best, bestCost = i, s.cost
			}
		}
		chosen = append(chosen, rest[best].nodes[:missing]...)
	}
	return chosen
}

// total finds q.count cards on as few nodes as possible.
func (q *query) total() (best solution, found bool) {
	if q.r.VRAMMiB == 0 && !q.idle && q.free[q.typ] < q.count {
		return solution{}, false
	}
	if q.count <= MaxCards && len(q.pinned) == 0 {
		// The common case, which needs no look at all nodes.
		if f, ok := q.one(q.count); ok {
			return newSolution([]candidate{f}), true
		}
	}
	all := q.givers()
	for _, rec := range q.pinned {
		if !slices.ContainsFunc(all, func(f candidate) bool { return f.rec == rec }) {
			return solution{}, false
		}
	}
	list := leaves(all)
	supply := make(map[string]int, len(list))
	for _, l := range list {
		for i := range l.nodes {
			supply[l.name] += l.nodes[i].have
		}
	}
	// The most cards first, of equal nodes those that have neighbours.
	slices.SortFunc(all, func(a, b candidate) int {
		if a.must != b.must {
			return a.compare(&b)
		}
		sa, sb := a.rec.node.Switch, b.rec.node.Switch
		return cmp.Or(cmp.Compare(b.have, a.have), cmp.Compare(supply[sb], supply[sa]), cmp.Compare(sa, sb), a.compare(&b))
	})
	nodes, ok := q.fill(all)
	if !ok {
		return solution{}, false
	}
	best = newSolution(nodes)
	if best.switches == 1 || len(q.pinned) > 0 {
		return best, true
	}
	// One switch is better, if that takes no more nodes.
	for _, l := range leaves(all) {
		if supply[l.name] < q.count {
			continue
		}
		if nodes, ok := q.fill(l.nodes); ok {
			if s := newSolution(nodes); s.compare(&best) < 0 {
				best = s
			}
		}
	}
	return best, true
}

// givers are the nodes that can give cards to a total, each with the type of which it can give the most.
func (q *query) givers() []candidate {
	n := max(1, len(q.r.DeviceIndexes))
	if q.typ != "" {
		return q.find(n, true)
	}
	var all []candidate
	at := map[*record]int{}
	for _, typ := range q.types() {
		for _, f := range q.with(typ, q.count).find(n, true) {
			if k, ok := at[f.rec]; !ok {
				at[f.rec] = len(all)
				all = append(all, f)
			} else if f.have > all[k].have {
				all[k] = f
			}
		}
	}
	return all
}

// fill takes all cards of the first nodes, and the rest by best fit from one more. The candidates come with the most cards
// first, after those that the job must have.
func (q *query) fill(all []candidate) ([]candidate, bool) {
	left, most := q.count, q.r.bound()
	var got []candidate
	take := func(f candidate, n int) bool {
		o, ok := q.offerBy(f.rec, n)
		if ok {
			f.offer = o
			got = append(got, f)
			left -= n
		}
		return ok
	}
	// Each node that must be among them keeps enough for the cards that are named on the others.
	named := 0
	for i := range all {
		if all[i].must {
			named += max(1, q.r.pinsOnNode(all[i].rec))
		}
	}
	for len(all) > 0 && all[0].must {
		own := max(1, q.r.pinsOnNode(all[0].rec))
		named -= own
		if n := min(all[0].have, left-named); n < own || !take(all[0], n) {
			return nil, false
		}
		all = all[1:]
	}
	for len(all) > 0 && left > 0 && len(got) < most && all[0].have <= left {
		if !take(all[0], all[0].have) {
			return nil, false
		}
		all = all[1:]
	}
	if left == 0 {
		return got, true
	}
	if len(got) == most {
		return nil, false
	}
	best := -1
	var bestAs candidate
	for i, f := range all {
		if f.have < left {
			break
		}
		if o, ok := q.offerBy(f.rec, left); ok {
			if f.offer = o; best < 0 || f.compare(&bestAs) < 0 {
				best, bestAs = i, f
			}
		}
	}
	if best < 0 {
		return nil, false
	}
	return append(got, bestAs), true
}
