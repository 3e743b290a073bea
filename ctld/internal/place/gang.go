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
	var seen []*leaf
	for i := range nodes {
		s.cost.add(&nodes[i].cost)
		if l := nodes[i].rec.leaf; !slices.Contains(seen, l) {
			seen = append(seen, l)
		}
	}
	s.switches = len(seen)
	return s
}

// compare puts the solution on fewer nodes and switches first, then the one of less cost.
func (s *solution) compare(t *solution) int {
	return cmp.Or(cmp.Compare(len(s.nodes), len(t.nodes)), cmp.Compare(s.switches, t.switches), s.cost.compare(&t.cost))
}

// leaf is a switch with what a query found on it.
type leaf struct {
	name string
	// records is how many nodes hang on it.
	records int

	// What the query numbered stamp found: nodes, how many of them are of the least cost of all, and the cards they could give.
	stamp       uint64
	nodes       []candidate
	count, low  int
	cards, most int
}

// group sorts candidates by switch. What it finds is good until it is called again.
func (q *query) group(found []candidate) []*leaf {
	q.stamp++
	list := q.leafList[:0]
	var least *cost
	for i := range found {
		if c := &found[i].cost; least == nil || c != least && c.compare(least) < 0 {
			least = c
		}
	}
	var same *cost
	for i := range found {
		f := &found[i]
		l := f.rec.leaf
		if l.stamp != q.stamp {
			l.stamp, l.count, l.low, l.cards, l.most = q.stamp, 0, 0, 0, 0
			list = append(list, l)
		}
		l.count++
		l.cards += f.have
		l.most = max(l.most, f.have)
		if c := &f.cost; c == same || *c == *least {
			same = c
			l.low++
		}
	}
	q.grouped = slices.Grow(q.grouped[:0], len(found))
	at := 0
	for _, l := range list {
		l.nodes = q.grouped[at:at:(at + l.count)]
		at += l.count
	}
	for i := range found {
		l := found[i].rec.leaf
		l.nodes = append(l.nodes, found[i])
	}
	q.leafList = list
	return list
}

// best are the k best of some candidates, best first.
func best(nodes []candidate, k int) []candidate {
	if k == 0 {
		return nil
	}
	compare := func(a, b candidate) int { return a.compare(&b) }
	if k*8 > len(nodes) {
		slices.SortFunc(nodes, compare)
		return nodes[:k]
	}
	top := make([]candidate, 0, k)
	for i := range nodes {
		f := &nodes[i]
		if len(top) == k && f.compare(&top[k-1]) > 0 {
			continue
		}
		at, _ := slices.BinarySearchFunc(top, *f, compare)
		if len(top) == k {
			top = top[:k-1]
		}
		top = slices.Insert(top, at, *f)
	}
	return top
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
	if len(found) < nodes {
		return solution{}, false
	}
	chosen := make([]candidate, 0, nodes)
	for i := range found {
		if found[i].must {
			chosen = append(chosen, found[i])
		}
	}
	if len(chosen) < len(q.pinned) {
		return solution{}, false
	}
	if len(chosen) > 0 {
		found = slices.DeleteFunc(found, func(f candidate) bool { return f.must })
	}
	return newSolution(q.fewestSwitches(chosen, found, nodes)), true
}

// fewestSwitches adds candidates to the chosen ones until there are want, on as few switches as possible: first from the
// switches that are touched anyway, then all of the largest ones, and the rest from the one where it costs least and that has
// the fewest others.
func (q *query) fewestSwitches(chosen, others []candidate, want int) []candidate {
	if len(chosen) == want {
		return chosen
	}
	var near []candidate
	rest := q.group(others)
	if len(chosen) > 0 {
		touched := make([]*leaf, 0, len(chosen))
		for i := range chosen {
			touched = append(touched, chosen[i].rec.leaf)
		}
		far := make([]*leaf, 0, len(rest))
		for _, l := range rest {
			if slices.Contains(touched, l) {
				near = append(near, l.nodes...)
			} else {
				far = append(far, l)
			}
		}
		rest = far
	}
	chosen = append(chosen, best(near, min(len(near), want-len(chosen)))...)
	slices.SortFunc(rest, func(a, b *leaf) int {
		return cmp.Or(cmp.Compare(len(b.nodes), len(a.nodes)), cmp.Compare(a.name, b.name))
	})
	for len(chosen) < want {
		missing := want - len(chosen)
		if len(rest[0].nodes) <= missing {
			chosen = append(chosen, rest[0].nodes...)
			rest = rest[1:]
			continue
		}
		chosen = append(chosen, cheapest(rest, missing)...)
	}
	return chosen
}

// cheapest are the best n nodes of the switch where they cost least, which has the fewest others among equals. The switches are
// sorted by their nodes, most first, then by name.
func cheapest(list []*leaf, n int) []candidate {
	var low *leaf
	for _, l := range list {
		if l.low >= n && (low == nil || len(l.nodes) < len(low.nodes)) {
			low = l
		}
	}
	if low != nil {
		// No nodes can cost less.
		return best(low.nodes, n)
	}
	var got []candidate
	var least cost
	size := 0
	for _, l := range list {
		if len(l.nodes) < n {
			break
		}
		some := best(l.nodes, n)
		s := newSolution(some)
		if d := s.cost.compare(&least); got == nil || d < 0 || d == 0 && len(l.nodes) < size {
			got, least, size = some, s.cost, len(l.nodes)
		}
	}
	return got
}
