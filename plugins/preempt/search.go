package preempt

import (
	"cmp"
	"math/bits"
	"slices"
)

// maxSteps bounds the search on one node: all subsets of a dozen candidates.
const maxSteps = 1 << 13

// set is a set of candidates and how good it is.
type set struct {
	// victims are places in the request's list, in ascending order.
	victims []int
	cost    uint64
	// urgent is the score of the most urgent victim; a larger one is better.
	urgent int64
}

// compare says which of two sets is better: the cheaper, the smaller, the one of the less urgent.
func (a *set) compare(b *set) int {
	return cmp.Or(cmp.Compare(a.cost, b.cost), cmp.Compare(len(a.victims), len(b.victims)), cmp.Compare(b.urgent, a.urgent))
}

const nobodyUrgent = int64(^uint64(0) >> 1)

// node is the search for the cheapest victims on one node.
type node struct {
	need    *Need
	free    resources
	victims []nodeVictim
	// cards are, for each card that could become free, those of victims who hold part of it, as bits.
	cards []uint64
	best  *set
	steps int
}

type nodeVictim struct {
	candidate int
	cost      uint64
	score     int64
	cpus      int
	memory    int64
}

// cheapest finds the best set of allowed candidates that makes room for a share of the need, beyond those who are gone already; nil when
// there is none, or none as good as the bound. price is what each costs.
func (s *state) cheapest(n *Need, p *Place, allowed, gone []bool, price []uint64, bound *set) *set {
	u := s.used[p.Node]
	at := node{need: n, free: resources{p.GPUs - u.gpus, p.CPUs - u.cpus, p.MemoryMiB - u.memory}, best: bound}
	holders := s.on[p.Node]
	for _, h := range holders {
		if gone[h.candidate] {
			at.free.cpus += h.CPUs
			at.free.memory += h.MemoryMiB
		}
	}
	// Who is worth asking: whoever holds a card of use, or anything else that is short.
	short := at.free.cpus < n.CPUs || at.free.memory < n.MemoryMiB
	var asked []holder
	for _, h := range holders {
		if allowed[h.candidate] && !gone[h.candidate] && (short || holdsOneOf(h.Cards, p.Cards)) && len(asked) < 64 {
			asked = append(asked, h)
		}
	}
	slices.SortStableFunc(asked, func(a, b holder) int {
		return cmp.Or(cmp.Compare(price[a.candidate], price[b.candidate]), cmp.Compare(len(b.Cards), len(a.Cards)),
			cmp.Compare(s.req.Candidates[b.candidate].Score, s.req.Candidates[a.candidate].Score))
	})
	for _, h := range asked {
		at.victims = append(at.victims, nodeVictim{
			h.candidate, price[h.candidate], s.req.Candidates[h.candidate].Score, h.CPUs, h.MemoryMiB,
		})
	}
	at.addCards(p, holders, asked, gone)
	if !at.enough(1<<len(asked) - 1) {
		return nil
	}
	at.walk(0, 0, set{urgent: nobodyUrgent})
	if at.best == bound {
		return nil
	}
	return at.best
}

// addCards notes who holds which card. What is held by somebody who stays is left out.
func (a *node) addCards(p *Place, holders, asked []holder, gone []bool) {
	for _, card := range p.Cards {
		var mask uint64
		held, stays := false, false
		for _, h := range holders {
			if !slices.Contains(h.Cards, card) {
				continue
			}
			held = true
			i := slices.IndexFunc(asked, func(x holder) bool { return x.candidate == h.candidate })
			switch {
			case gone[h.candidate]:
			case i < 0:
				stays = true
			default:
				mask |= 1 << i
			}
		}
		switch {
		case !held || stays:
		case mask == 0:
			a.free.gpus++
		default:
			a.cards = append(a.cards, mask)
		}
	}
}

func holdsOneOf(cards, usable []int) bool {
	for _, c := range cards {
		if slices.Contains(usable, c) {
			return true
		}
	}
	return false
}

// enough says whether the need fits when these victims are stopped.
func (a *node) enough(stopped uint64) bool {
	have := a.free
	for _, mask := range a.cards {
		if mask&^stopped == 0 {
			have.gpus++
		}
	}
	for left := stopped; left != 0; left &= left - 1 {
		v := &a.victims[bits.TrailingZeros64(left)]
		have.cpus += v.cpus
		have.memory += v.memory
	}
	return have.gpus >= a.need.GPUs && have.cpus >= a.need.CPUs && have.memory >= a.need.MemoryMiB
}

// walk decides about the victims from i on; stopped are those chosen before.
func (a *node) walk(i int, stopped uint64, so set) {
	if a.best != nil && so.compare(a.best) >= 0 {
		// Adding to it makes it no better: the cost does not fall, the number grows, the most urgent stays or is more so.
		return
	}
	if a.enough(stopped) {
		best := so
		best.victims = slices.Sorted(slices.Values(so.victims))
		a.best = &best
		return
	}
	if a.steps++; i == len(a.victims) || a.steps > maxSteps {
		return
	}
	rest := uint64(1<<len(a.victims)-1) &^ (1<<i - 1)
	if !a.enough(stopped | rest) {
		return
	}
	v := &a.victims[i]
	with := set{victims: append(so.victims[:len(so.victims):len(so.victims)], v.candidate), cost: so.cost + v.cost, urgent: min(so.urgent, v.score)}
	a.walk(i+1, stopped|1<<i, with)
	a.walk(i+1, stopped, so)
}
