package place

import (
	"cmp"
	"slices"
)

// total finds q.count cards on as few nodes as possible.
func (q *query) total() (solution, bool) {
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
	var musts []candidate
	for i := range all {
		if all[i].must {
			musts = append(musts, all[i])
		}
	}
	if len(musts) < len(q.pinned) {
		return solution{}, false
	}
	if len(musts) > 0 {
		slices.SortFunc(musts, func(a, b candidate) int { return cmp.Or(cmp.Compare(b.have, a.have), a.compare(&b)) })
		all = slices.DeleteFunc(all, func(f candidate) bool { return f.must })
	}
	list := q.group(all)
	// Of equal nodes those come first that have neighbours.
	slices.SortFunc(list, func(a, b *leaf) int { return cmp.Or(cmp.Compare(b.cards, a.cards), cmp.Compare(a.name, b.name)) })
	nodes, ok := q.fill(musts, list)
	if !ok {
		return solution{}, false
	}
	got := newSolution(nodes)
	if got.switches == 1 || len(musts) > 0 {
		return got, true
	}
	// One switch is better, if that takes no more nodes.
	for k, l := range list {
		if l.cards < q.count {
			break
		}
		if nodes, ok := q.fill(nil, list[k:k+1]); ok {
			if s := newSolution(nodes); s.compare(&got) < 0 {
				got = s
			}
		}
	}
	return got, true
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

// fill takes cards from the nodes that must give some, then all cards of the nodes that have the most, and the rest by best fit
// from one more.
func (q *query) fill(musts []candidate, list []*leaf) ([]candidate, bool) {
	left, bound := q.count, q.r.bound()
	var got []candidate
	take := func(f candidate, n int) bool {
		o, ok := q.offerBy(f.rec, n)
		if ok {
			f.offer = &o
			got = append(got, f)
			left -= n
		}
		return ok
	}
	// Each node that must be among them leaves enough for the cards that are named on the others.
	named := 0
	for i := range musts {
		named += max(1, q.r.pinsOnNode(musts[i].rec))
	}
	for i := range musts {
		own := max(1, q.r.pinsOnNode(musts[i].rec))
		named -= own
		if n := min(musts[i].have, left-named); n < own || !take(musts[i], n) {
			return nil, false
		}
	}
	most := 0
	for _, l := range list {
		most = max(most, l.most)
	}
	for have, enough := most, false; have > 0 && !enough; have-- {
		for _, l := range list {
			some := l.having(have)
			if len(some) == 0 {
				continue
			}
			// A node with more than is left gives all of that.
			k := min(len(some), left/have)
			enough = k < len(some)
			for _, f := range best(some, k) {
				if len(got) == bound || !take(f, have) {
					return nil, false
				}
			}
			if enough {
				break
			}
		}
	}
	if left == 0 {
		return got, true
	}
	if len(got) == bound {
		return nil, false
	}
	last, ok := q.rest(got, list, left)
	return append(got, last), ok
}

// rest finds one more node for the cards that are left: on a switch that is touched already where possible.
func (q *query) rest(got []candidate, list []*leaf, left int) (last candidate, found bool) {
	touched := func(l *leaf) bool {
		return slices.ContainsFunc(got, func(f candidate) bool { return f.rec.leaf == l })
	}
	taken := func(rec *record) bool {
		return slices.ContainsFunc(got, func(f candidate) bool { return f.rec == rec })
	}
	for _, near := range []bool{true, false} {
		for _, l := range list {
			if l.most < left || touched(l) != near {
				continue
			}
			// Nodes of one class make one offer, unless they have cards to share.
			var of *class
			var same *offer
			for _, f := range l.nodes {
				if f.have < left {
					continue
				}
				if same == nil || q.idle || q.need > 0 || f.rec.class != of || of == nil {
					o, ok := q.offerBy(f.rec, left)
					if !ok {
						continue
					}
					of, same = f.rec.class, &o
				}
				if f.offer = same; (!found || f.compare(&last) < 0) && !taken(f.rec) {
					last, found = f, true
				}
			}
		}
		if found {
			break
		}
	}
	return last, found
}

// having are the nodes that can give so many cards and no more.
func (l *leaf) having(have int) (some []candidate) {
	if l.most < have {
		return nil
	}
	some = make([]candidate, 0, len(l.nodes))
	for i := range l.nodes {
		if l.nodes[i].have == have {
			some = append(some, l.nodes[i])
		}
	}
	return some
}
