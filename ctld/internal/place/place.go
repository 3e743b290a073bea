// Package place chooses nodes and GPUs for one job. It is pure: a cluster and a request in, an allocation out.
//
// The choice is lexicographic: the preferred alternative; cards that NVLink or a NUMA node joins; the smallest memory that
// suffices; the least growth of what future requests cannot use; the node that is left with the least (best fit), so that
// whole nodes stay free for gangs; and the node that comes first by name. Choices depend on nothing else, so equal input gives
// an equal answer, whatever the order in which a cluster came to be what it is.
package place

import (
	"cmp"
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Pinned returns the nodes that have the cards that r pins by UUID. It reports false when nobody has one of them, or when
// they are on more nodes than r asks for.
func (c *Cluster) Pinned(r *Request) (NodeSet, bool) {
	s := NewNodeSet(len(c.recs))
	if len(r.DeviceUUIDs) == 0 {
		return s, true
	}
	recs, ok := c.pinnedTo(r)
	for _, rec := range recs {
		s.Add(rec.pos)
	}
	return s, ok
}

func (c *Cluster) pinnedTo(r *Request) (recs []*record, ok bool) {
	cards := 0
	for _, uuid := range r.DeviceUUIDs {
		for _, rec := range c.uuids[uuid] {
			cards++
			if !slices.Contains(recs, rec) {
				recs = append(recs, rec)
			}
		}
	}
	return recs, cards == len(r.DeviceUUIDs) && len(recs) <= r.bound()
}

// pinsOn is how many of the cards that r pins by UUID are among gpus.
func pinsOn(gpus []GPU, r *Request) int {
	if len(r.DeviceUUIDs) == 0 {
		return 0
	}
	n := 0
	for i := range gpus {
		if slices.Contains(r.DeviceUUIDs, gpus[i].UUID) {
			n++
		}
	}
	return n
}

// Eligible returns the nodes that could hold a share of r if they were ready and nothing ran on them.
func (c *Cluster) Eligible(r *Request) NodeSet {
	s := NewNodeSet(len(c.recs))
	q := c.query(r, s, true)
	pinned, ok := c.Pinned(r)
	if !ok {
		return s
	}
	// With as many nodes pinned as the job spans there is no room for others.
	only := len(r.DeviceUUIDs) > 0 && pinned.Len() == r.bound()
	verdicts := map[*profile]bool{}
	consider := func(rec *record) {
		if only && !pinned.Has(rec.pos) || slices.Contains(r.Exclude, rec.node.Name) || !q.suffices(rec) {
			return
		}
		if r.Constraint != nil && !r.Constraint.Matches(rec.node.Features) {
			return
		}
		could, known := verdicts[rec.profile]
		if special := pinned.Has(rec.pos) || rec.usable != rec.profile.all(); special || !known {
			could = q.couldHold(rec)
			if !special {
				verdicts[rec.profile] = could
			}
		}
		if could {
			s.Add(rec.pos)
		}
	}
	if len(r.Nodelist) > 0 {
		for _, name := range r.Nodelist {
			if i, ok := c.Position(name); ok {
				consider(c.recs[i])
			}
		}
		return s
	}
	for _, rec := range c.recs {
		if rec != nil && rec.present {
			consider(rec)
		}
	}
	return s
}

// couldHold reports whether one of the choices could be met on a node were it idle.
func (q *query) couldHold(rec *record) bool {
	var buf [4]GPUChoice
	for _, choice := range q.r.choices(buf[:]) {
		n := choice.Count
		if q.r.Total {
			n = min(n, max(1, q.r.pinsOnNode(rec)))
		}
		if _, ok := q.with(choice.Type, n).offerBy(rec, n); ok {
			return true
		}
	}
	return false
}

// Place chooses nodes among those allowed, which are a part of the eligible ones, and the cards on them, in rank order, or
// reports that it cannot. It takes nothing: see Hold.
func (c *Cluster) Place(r *Request, allowed NodeSet) ([]*fettlev1.NodeAllocation, bool) {
	q := c.query(r, allowed, false)
	if !q.pin() {
		return nil, false
	}
	got, ok := q.solve()
	if !ok {
		return nil, false
	}
	// Ranks follow switches and names, so that neighbours are neighbours by rank.
	slices.SortFunc(got.nodes, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.rec.node.Switch, b.rec.node.Switch), cmp.Compare(a.rec.rank, b.rec.rank))
	})
	allocs := make([]*fettlev1.NodeAllocation, len(got.nodes))
	for k := range got.nodes {
		allocs[k] = q.allocation(&got.nodes[k])
	}
	return allocs, true
}

// CouldPlace reports whether a request would fit on the allowed nodes were all of them ready and idle.
func (c *Cluster) CouldPlace(r *Request, allowed NodeSet) bool {
	q := c.query(r, allowed, true)
	if !q.pin() {
		return false
	}
	_, ok := q.solve()
	return ok
}

func (q *query) allocation(f *candidate) *fettlev1.NodeAllocation {
	a := &fettlev1.NodeAllocation{Node: f.rec.node.Name, Cpus: q.r.cpus(), MemMib: q.r.MemMiB}
	if q.r.Exclusive {
		a.Cpus, a.MemMib = f.rec.node.CPUs, f.rec.node.MemMiB
	}
	if f.cards != 0 {
		a.VramMib = q.r.VRAMMiB
		for g := range f.rec.node.GPUs {
			if f.cards&(1<<g) != 0 {
				a.GpuUuids = append(a.GpuUuids, f.rec.node.GPUs[g].UUID)
			}
		}
	}
	return a
}

// solve tries the choices in order of preference.
func (q *query) solve() (solution, bool) {
	var buf [4]GPUChoice
	for _, choice := range q.r.choices(buf[:]) {
		if s, ok := q.with(choice.Type, choice.Count).solveChoice(); ok {
			return s, true
		}
	}
	return solution{}, false
}

// solveChoice meets one choice. Several nodes get cards of one type where that is possible, whatever types do.
func (q *query) solveChoice() (best solution, found bool) {
	if q.typ != "" || q.count == 0 || !q.r.Total && q.r.bound() == 1 {
		return q.solveType()
	}
	for _, typ := range q.types() {
		if s, ok := q.with(typ, q.count).solveType(); ok && (!found || s.compare(&best) < 0) {
			best, found = s, true
		}
	}
	if found {
		return best, true
	}
	return q.solveType()
}

func (q *query) solveType() (solution, bool) {
	switch {
	case q.r.Total && q.count > 0 && q.r.Even:
		for nodes := 1; nodes <= min(q.count, q.r.bound()); nodes++ {
			if q.count%nodes == 0 && q.count/nodes <= MaxCards {
				if s, ok := q.with(q.typ, q.count/nodes).gang(nodes); ok {
					return s, true
				}
			}
		}
		return solution{}, false
	case q.r.Total && q.count > 0:
		return q.total()
	case q.r.Total:
		return q.gang(1)
	}
	return q.gang(q.r.bound())
}
