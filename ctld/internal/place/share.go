package place

import (
	"cmp"
	"iter"
	"math/bits"
	"slices"
)

// sharers yields the nodes that may have room for a share on a card that is shared already.
func (q *query) sharers() iter.Seq[*record] {
	return func(yield func(*record) bool) {
		for b := bits.Len64(uint64(q.need)); b < len(q.sharing); b++ {
			for _, rec := range q.sharing[b] {
				if rec.room >= q.need && !yield(rec) {
					return
				}
			}
		}
	}
}

// shareOf is the best offer of shares of n cards that one node can make: the cards that are shared already and have the least
// room left, then free ones.
func (q *query) shareOf(rec *record, n int, named uint64) (best offer, found bool) {
	if n == 0 {
		return q.offerOf(rec.profile, rec.free, n, named)
	}
	p := rec.profile
	for slot := range p.types {
		t := &p.types[slot]
		if q.typ != "" && t.name != q.typ {
			continue
		}
		must := named | p.indexed(slot, q.r.DeviceIndexes)
		if bits.OnesCount64(must) < len(q.r.DeviceIndexes) {
			continue
		}
		if o, ok := q.shareOfType(rec, slot, n, must); ok && (!found || better(&o, &best)) {
			best, found = o, true
		}
	}
	return best, found
}

func (q *query) shareOfType(rec *record, slot, n int, must uint64) (offer, bool) {
	p := rec.profile
	fit := p.atLeast(slot, q.minMiB)
	var buf [MaxCards]int
	open := buf[:0]
	var opened uint64
	for rest := fit & rec.usable &^ rec.free; rest != 0; rest &= rest - 1 {
		g := bits.TrailingZeros64(rest)
		if rec.roomOn(g) >= q.need {
			open = append(open, g)
			opened |= 1 << g
		}
	}
	free := rec.free & fit
	have := len(open) + bits.OnesCount64(free)
	if must&^(opened|free) != 0 || have < n || bits.OnesCount64(must) > n {
		return offer{}, false
	}
	// Named cards first, then the least room; equal ones in the order of their UUIDs.
	slices.SortFunc(open, func(a, b int) int {
		na, nb := must>>a&1, must>>b&1
		return cmp.Or(cmp.Compare(nb, na), cmp.Compare(rec.roomOn(a), rec.roomOn(b)), cmp.Compare(rec.node.GPUs[a].UUID, rec.node.GPUs[b].UUID))
	})
	take := min(len(open), n-bits.OnesCount64(must&free))
	o := offer{have: have, typ: p.types[slot].name}
	o.cost[costMemory] = p.types[slot].maxMiB
	for _, g := range open[:take] {
		o.cards |= 1 << g
		o.cost[costRoom] += rec.roomOn(g) - q.need
	}
	o.cost[costLeft] = int64(bits.OnesCount64(rec.free))
	if fresh := n - take; fresh > 0 {
		got := p.pick(slot, free, fresh, must&free)
		if !got.ok {
			return offer{}, false
		}
		o.cards |= got.cards
		o.cost[costFresh] = int64(fresh)
		o.cost[costIslands], o.cost[costLinks] = int64(got.islands-p.pick(slot, fit, fresh, 0).islands), -int64(got.weight)
		o.cost[costFragments] = q.gradient(p.types[slot].name, p.types[slot].count, bits.OnesCount64(rec.free&p.types[slot].cards), fresh)
		o.cost[costLeft] -= int64(fresh)
	}
	return o, true
}

// roomOn is the memory that is left on a shared card; below 0 when it is not shared.
func (rec *record) roomOn(g int) int64 {
	if c := &rec.cards[g]; c.whole > 0 || c.shares == 0 || rec.node.GPUs[g].BusyOutside {
		return -1
	}
	return rec.node.GPUs[g].MemMiB - rec.cards[g].shared
}
