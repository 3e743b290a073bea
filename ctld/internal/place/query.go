package place

import (
	"cmp"
	"math/bits"
	"slices"
)

// query is one way to meet a request on some nodes.
type query struct {
	*Cluster
	r       *Request
	allowed NodeSet
	// typ and count are the choice: see GPUChoice.
	typ   string
	count int
	// idle looks at the nodes as if they were ready and nobody on them.
	idle bool
	// minMiB is the least memory of a card.
	minMiB int64
	// cpus is what a node must have free; need is what a share takes on a card, with its context.
	cpus, need int64
	// pinned are the nodes with cards that the request names.
	pinned []*record
}

// The parts of a cost, most important first.
const (
	// costFresh is how many cards are opened for sharing.
	costFresh = iota
	// costIslands is how many NVLink islands are touched beyond what an idle node needs.
	costIslands
	// costLinks is the negative weight of the links among the cards.
	costLinks
	// costMemory is the memory of the type's largest card: the smallest class that suffices comes first.
	costMemory
	// costFragments is how much the expected waste grows.
	costFragments
	// costRoom is the memory that is left on cards that were shared already.
	costRoom
	// costLeft is how many free cards are left on the node.
	costLeft
	costParts
)

// cost is compared part by part; less is better.
type cost [costParts]int64

func (a *cost) compare(b *cost) int {
	for i := range a {
		if a[i] != b[i] {
			return cmp.Compare(a[i], b[i])
		}
	}
	return 0
}

func (a *cost) add(b *cost) {
	for i := range a {
		a[i] += b[i]
	}
}

// offer is what a node, or each node of a class, would give.
type offer struct {
	cards uint64
	// have is how many cards of the type it could give at most; of nodes for jobs without GPUs it is 0.
	have int
	typ  string
	cost cost
}

// candidate is a node with its offer, which nodes of one class share.
type candidate struct {
	*offer
	rec *record
	// must is set on nodes with cards that the request names.
	must bool
	cpus int64
}

func (a *candidate) compare(b *candidate) int {
	if a.must != b.must {
		if a.must {
			return -1
		}
		return 1
	}
	if a.offer != b.offer {
		if d := a.cost.compare(&b.cost); d != 0 {
			return d
		}
	}
	if a.cpus != b.cpus {
		return cmp.Compare(a.cpus, b.cpus)
	}
	return cmp.Compare(a.rec.rank, b.rec.rank)
}

func (c *Cluster) query(r *Request, allowed NodeSet, idle bool) *query {
	c.reorder()
	q := &query{Cluster: c, r: r, allowed: allowed, idle: idle, minMiB: r.MinCardMiB, cpus: int64(r.cpus())}
	if r.VRAMMiB > 0 {
		q.need = r.VRAMMiB + c.HeadroomMiB
		q.minMiB = max(q.minMiB, q.need)
	}
	return q
}

// pin finds the nodes with cards that the request names. It reports false when they cannot all be among the job's.
func (q *query) pin() bool {
	if len(q.r.DeviceUUIDs) == 0 {
		return true
	}
	var ok bool
	q.pinned, ok = q.pinnedTo(q.r)
	return ok && !slices.ContainsFunc(q.pinned, func(rec *record) bool { return !q.allowed.Has(rec.pos) })
}

// with looks at one type only.
func (q *query) with(typ string, count int) *query {
	p := *q
	p.typ, p.count = typ, count
	return &p
}

// offerOf is the best offer of n cards that nodes with the given cards free can make. The cards in named must be among them.
func (q *query) offerOf(p *profile, free uint64, n int, named uint64) (best offer, found bool) {
	if n == 0 {
		return offer{cost: cost{costLeft: int64(bits.OnesCount64(free))}}, named == 0 && len(q.r.DeviceIndexes) == 0
	}
	for slot := range p.types {
		t := &p.types[slot]
		if q.typ != "" && t.name != q.typ {
			continue
		}
		must := named
		if len(q.r.DeviceIndexes) > 0 {
			m := p.indexed(slot, q.r.DeviceIndexes)
			if bits.OnesCount64(m) < len(q.r.DeviceIndexes) {
				continue
			}
			must |= m
		}
		fit := p.atLeast(slot, q.minMiB)
		got := p.pick(slot, free&fit, n, must)
		if !got.ok {
			continue
		}
		o := offer{cards: got.cards, have: bits.OnesCount64(free & fit), typ: t.name}
		o.cost = cost{
			costIslands: int64(got.islands - p.pick(slot, fit, n, 0).islands), costLinks: -int64(got.weight), costMemory: t.maxMiB,
			costFragments: q.gradient(t.name, t.count, bits.OnesCount64(free&t.cards), n), costLeft: int64(bits.OnesCount64(free) - n),
		}
		if q.r.VRAMMiB > 0 {
			o.cost[costFresh] = int64(n)
		}
		if !found || better(&o, &best) {
			best, found = o, true
		}
	}
	return best, found
}

// better reports whether an offer of a node is better than one of another type of the same node.
func better(a, b *offer) bool {
	return cmp.Or(a.cost.compare(&b.cost), cmp.Compare(a.have, b.have)) < 0
}

// offerBy is the best offer of n cards that one node can make, shared cards included.
func (q *query) offerBy(rec *record, n int) (offer, bool) {
	named := rec.named(q.r)
	if bits.OnesCount64(named) < pinsOn(rec.node.GPUs, q.r) {
		return offer{}, false
	}
	if q.idle {
		return q.offerOf(rec.profile, rec.usable, n, named)
	}
	if q.r.VRAMMiB > 0 && n > 0 && rec.room >= q.need {
		return q.shareOf(rec, n, named)
	}
	return q.offerOf(rec.profile, rec.free, n, named)
}

// suffices reports whether a node has the CPUs and the memory, and is empty where that is asked for.
func (q *query) suffices(rec *record) bool {
	if q.idle {
		return int64(rec.node.CPUs) >= q.cpus && rec.node.MemMiB >= q.r.MemMiB
	}
	return rec.node.Ready && rec.cpusFree >= q.cpus && rec.memFree >= q.r.MemMiB && (!q.r.Exclusive || rec.idle())
}

// named are the cards of a node that a request names by UUID.
func (rec *record) named(r *Request) uint64 {
	var m uint64
	if len(r.DeviceUUIDs) > 0 {
		for g := range rec.node.GPUs {
			if slices.Contains(r.DeviceUUIDs, rec.node.GPUs[g].UUID) {
				m |= 1 << g
			}
		}
	}
	return m
}

// find is every allowed node that can give n cards, in no order. With spread, nodes with named cards give these at least.
// What it finds is good until it is called again.
func (q *query) find(n int, spread bool) []candidate {
	found := q.found[:0]
	add := func(rec *record, o offer, must bool) {
		left := rec.cpusFree
		if q.idle {
			left = int64(rec.node.CPUs)
		}
		found = append(found, candidate{offer: &o, rec: rec, must: must, cpus: left - q.cpus})
	}
	for _, rec := range q.pinned {
		if q.suffices(rec) {
			k := n
			if spread {
				k = max(n, q.r.pinsOnNode(rec))
			}
			if o, ok := q.offerBy(rec, k); ok {
				add(rec, o, true)
			}
		}
	}
	if q.idle {
		for pos := range q.allowed.All() {
			if rec := q.recs[pos]; rec != nil && rec.present && q.suffices(rec) && !slices.Contains(q.pinned, rec) {
				if o, ok := q.offerBy(rec, n); ok {
					add(rec, o, false)
				}
			}
		}
		q.found = found
		return found
	}
	if q.r.VRAMMiB > 0 && n > 0 {
		for rec := range q.sharers() {
			if q.allowed.Has(rec.pos) && q.suffices(rec) && !slices.Contains(q.pinned, rec) {
				if o, ok := q.offerBy(rec, n); ok {
					add(rec, o, false)
				}
			}
		}
	}
	for _, cl := range q.classesFor(n) {
		if q.r.Exclusive && !cl.idle {
			continue
		}
		o, ok := q.offerOf(cl.p, cl.free, n, 0)
		if !ok {
			continue
		}
		for i := range cl.members {
			if m := &cl.members[i]; q.takes(m) && (len(q.pinned) == 0 || !slices.Contains(q.pinned, q.recs[m.pos])) {
				found = append(found, candidate{offer: &o, rec: q.recs[m.pos], cpus: m.cpus - q.cpus})
			}
		}
	}
	q.found = found
	return found
}

// classesFor are the classes that may have n cards of the type.
func (q *query) classesFor(n int) []*class {
	if n == 0 {
		return q.byType[""]
	}
	if q.r.VRAMMiB == 0 && q.free[q.typ] < n {
		return nil
	}
	return q.byType[q.typ]
}

// takes reports whether a node of a class takes a share. Nodes with room on shared cards are left to sharers.
func (q *query) takes(m *member) bool {
	return m.cpus >= q.cpus && m.mem >= q.r.MemMiB && (q.need == 0 || q.count == 0 || m.room < q.need) && q.allowed.Has(m.pos)
}

// one finds the best node for n cards. It is find and a comparison, but looks at the nodes of the best classes only.
func (q *query) one(n int) (best candidate, found bool) {
	if q.idle || len(q.pinned) > 0 {
		all := q.find(n, false)
		for i := range all {
			if !found || all[i].compare(&best) < 0 {
				best, found = all[i], true
			}
		}
		return best, found
	}
	if q.r.VRAMMiB > 0 && n > 0 {
		for rec := range q.sharers() {
			if !q.allowed.Has(rec.pos) || !q.suffices(rec) {
				continue
			}
			if o, ok := q.offerBy(rec, n); ok {
				cand := candidate{offer: &o, rec: rec, cpus: rec.cpusFree - q.cpus}
				if !found || cand.compare(&best) < 0 {
					best, found = cand, true
				}
			}
		}
		if found && best.cost[costFresh] == 0 {
			return best, true
		}
	}
	type ranked struct {
		*class
		offer
	}
	var buf [32]ranked
	order := buf[:0]
	for _, cl := range q.classesFor(n) {
		if q.r.Exclusive && !cl.idle {
			continue
		}
		if o, ok := q.offerOf(cl.p, cl.free, n, 0); ok && (!found || o.cost.compare(&best.cost) <= 0) {
			order = append(order, ranked{cl, o})
		}
	}
	slices.SortFunc(order, func(a, b ranked) int { return a.cost.compare(&b.cost) })
	for k := range order {
		if found && order[k].cost.compare(&best.cost) > 0 {
			break
		}
		at, ok := q.first(order[k].members)
		if !ok {
			continue
		}
		o, m := order[k].offer, &order[k].members[at]
		cand := candidate{offer: &o, rec: q.recs[m.pos], cpus: m.cpus - q.cpus}
		if !found || cand.compare(&best) < 0 {
			best, found = cand, true
		}
	}
	return best, found
}

// first finds the member of a class that is taken first: with the fewest CPUs that suffice, then by name.
func (q *query) first(members []member) (at int, found bool) {
	var cpus int64
	rank := 0
	for i := range members {
		m := &members[i]
		if found && (m.cpus > cpus || m.cpus == cpus && m.rank > rank) || !q.takes(m) {
			continue
		}
		at, cpus, rank, found = i, m.cpus, m.rank, true
	}
	return at, found
}
