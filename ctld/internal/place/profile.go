package place

import (
	"cmp"
	"math/bits"
	"slices"
	"strconv"
)

// profile is what nodes with equal cards share: cards are bits of a mask, in the order of the node's list.
type profile struct {
	key   string
	users int
	cards []GPU
	types []cardType
	memo  map[pickKey]pick
}

// cardType is the cards of one type on a node.
type cardType struct {
	name  string
	cards uint64
	count int
	// minMiB and maxMiB are the least and the most memory of one of them.
	minMiB, maxMiB int64
	cells          []cell
}

// cell is cards of one type that the choice cannot tell apart: of one NVLink island, or of none, on one NUMA node.
type cell struct {
	island, numa int
	cards        uint64
}

type pickKey struct {
	slot, n   int
	may, must uint64
}

// pick is a choice of cards and what it is worth.
type pick struct {
	ok    bool
	cards uint64
	// islands is how many NVLink islands it touches; a card without NVLink counts as one.
	islands int
	// weight is the sum over pairs of cards: 4 where NVLink joins them, 1 where they are on one NUMA node.
	weight int
}

// The weights of pairs: see pick.
const (
	weightNVLink = 4
	weightNUMA   = 1
)

// memoSize bounds the choices that a profile remembers.
const memoSize = 1 << 14

// profileKey is equal for nodes whose cards the choice cannot tell apart.
func profileKey(gpus []GPU) string {
	b := make([]byte, 0, 24*len(gpus))
	for i := range gpus {
		g := &gpus[i]
		b = strconv.AppendQuote(b, g.Type)
		for _, v := range []int64{int64(g.Index), g.MemMiB, int64(g.Island), int64(g.NUMA)} {
			b = append(b, ' ')
			b = strconv.AppendInt(b, v, 36)
		}
	}
	return string(b)
}

func newProfile(key string, gpus []GPU) *profile {
	p := &profile{key: key, cards: gpus, memo: map[pickKey]pick{}}
	for i := range gpus {
		g := &gpus[i]
		k := slices.IndexFunc(p.types, func(t cardType) bool { return t.name == g.Type })
		if k < 0 {
			k = len(p.types)
			p.types = append(p.types, cardType{name: g.Type, minMiB: g.MemMiB, maxMiB: g.MemMiB})
		}
		t := &p.types[k]
		t.cards |= 1 << i
		t.count++
		t.minMiB, t.maxMiB = min(t.minMiB, g.MemMiB), max(t.maxMiB, g.MemMiB)
		m := slices.IndexFunc(t.cells, func(c cell) bool { return c.island == g.Island && c.numa == g.NUMA })
		if m < 0 {
			m = len(t.cells)
			t.cells = append(t.cells, cell{island: g.Island, numa: g.NUMA})
		}
		t.cells[m].cards |= 1 << i
	}
	slices.SortFunc(p.types, func(a, b cardType) int { return cmp.Compare(a.name, b.name) })
	return p
}

// all is every card.
func (p *profile) all() uint64 { return 1<<len(p.cards) - 1 }

// atLeast are the cards of a type with enough memory.
func (p *profile) atLeast(slot int, mib int64) uint64 {
	t := &p.types[slot]
	switch {
	case t.minMiB >= mib:
		return t.cards
	case t.maxMiB < mib:
		return 0
	}
	var m uint64
	for rest := t.cards; rest != 0; rest &= rest - 1 {
		if g := bits.TrailingZeros64(rest); p.cards[g].MemMiB >= mib {
			m |= 1 << g
		}
	}
	return m
}

// indexed are the cards of a type that have one of the indexes.
func (p *profile) indexed(slot int, indexes []uint32) uint64 {
	var m uint64
	for rest := p.types[slot].cards; rest != 0 && len(indexes) > 0; rest &= rest - 1 {
		if g := bits.TrailingZeros64(rest); slices.Contains(indexes, p.cards[g].Index) {
			m |= 1 << g
		}
	}
	return m
}

// pick chooses n of the cards in may, those in must among them: on as few islands as possible, then joined as closely as
// possible, then so that islands and NUMA nodes that are touched are used up, then the first ones.
func (p *profile) pick(slot int, may uint64, n int, must uint64) pick {
	may &= p.types[slot].cards
	if must&^may != 0 || bits.OnesCount64(must) > n || bits.OnesCount64(may) < n {
		return pick{}
	}
	key := pickKey{slot, n, may, must}
	if got, ok := p.memo[key]; ok {
		return got
	}
	if len(p.memo) >= memoSize {
		clear(p.memo)
	}
	got := p.types[slot].solve(may, n, must)
	p.memo[key] = got
	return got
}

// maxWays bounds the ways to spread cards over cells that are compared; beyond it they are chosen greedily.
const maxWays = 20_000

// solver goes through the ways to take n cards from cells.
type solver struct {
	cells []cell
	// base is what must be taken of each cell, free what may.
	base, free, take []int
	may, must        uint64
	best             pick
	bestBroken       int
}

func (t *cardType) solve(may uint64, n int, must uint64) pick {
	s := &solver{cells: t.cells, may: may, must: must, base: make([]int, len(t.cells)), free: make([]int, len(t.cells))}
	ways := 1
	for i := range t.cells {
		s.base[i] = bits.OnesCount64(must & t.cells[i].cards)
		s.free[i] = bits.OnesCount64(may & t.cells[i].cards)
		if ways <= maxWays {
			ways *= min(s.free[i]-s.base[i], n) + 1
		}
	}
	s.take = slices.Clone(s.base)
	left := n - bits.OnesCount64(must)
	if len(t.cells) > 1 && ways > maxWays {
		s.greedy(left)
		s.consider()
	} else {
		s.spread(0, left)
	}
	return s.best
}

// spread tries all ways to take left more cards from cells i and on.
func (s *solver) spread(i, left int) {
	if i == len(s.cells) {
		if left == 0 {
			s.consider()
		}
		return
	}
	rest := 0
	for _, f := range s.free[i+1:] {
		rest += f
	}
	for k := range s.base[i+1:] {
		rest -= s.base[i+1+k]
	}
	for x := min(left, s.free[i]-s.base[i]); x >= max(0, left-rest); x-- {
		s.take[i] = s.base[i] + x
		s.spread(i+1, left-x)
	}
	s.take[i] = s.base[i]
}

// greedy takes left more cards: from islands that are touched already first, then from the smallest that suffices, else all of
// the largest.
func (s *solver) greedy(left int) {
	for left > 0 {
		best := -1
		better := func(i, j int) bool {
			a, b := s.free[i]-s.take[i], s.free[j]-s.take[j]
			if ti, tj := s.touched(i), s.touched(j); ti != tj {
				return ti
			}
			if (a >= left) != (b >= left) {
				return a >= left
			}
			if a >= left {
				return a < b
			}
			return a > b
		}
		for i := range s.cells {
			if s.free[i] > s.take[i] && (best < 0 || better(i, best)) {
				best = i
			}
		}
		x := min(left, s.free[best]-s.take[best])
		s.take[best] += x
		left -= x
	}
}

// touched reports whether a card of the island of cell i is taken.
func (s *solver) touched(i int) bool {
	for j := range s.cells {
		if s.take[j] > 0 && (i == j || s.cells[i].island > 0 && s.cells[i].island == s.cells[j].island) {
			return true
		}
	}
	return false
}

// consider compares the present way with the best so far.
func (s *solver) consider() {
	got, broken := pick{ok: true, cards: s.must}, 0
	for i, x := range s.take {
		if x == 0 {
			continue
		}
		c := &s.cells[i]
		broken += s.free[i] - x
		rest := s.may & c.cards &^ s.must
		for range x - s.base[i] {
			got.cards |= rest & -rest
			rest &= rest - 1
		}
		first := true
		for j := range i {
			d := &s.cells[j]
			if s.take[j] == 0 {
				continue
			}
			switch {
			case c.island > 0 && c.island == d.island:
				first = false
				got.weight += x * s.take[j] * weightNVLink
			case c.numa >= 0 && c.numa == d.numa:
				got.weight += x * s.take[j] * weightNUMA
			}
		}
		pairs := x * (x - 1) / 2
		switch {
		case c.island == 0:
			got.islands += x
			if c.numa >= 0 {
				got.weight += pairs * weightNUMA
			}
		default:
			if first {
				got.islands++
			}
			got.weight += pairs * weightNVLink
		}
	}
	if !s.best.ok || s.better(got, broken) {
		s.best, s.bestBroken = got, broken
	}
}

func (s *solver) better(a pick, broken int) bool {
	b := s.best
	if d := cmp.Or(cmp.Compare(a.islands, b.islands), cmp.Compare(b.weight, a.weight), cmp.Compare(broken, s.bestBroken)); d != 0 {
		return d < 0
	}
	diff := a.cards ^ b.cards
	return diff != 0 && a.cards&(diff&-diff) != 0
}
