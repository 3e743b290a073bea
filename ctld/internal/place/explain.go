package place

import (
	"cmp"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// Missing is what a job lacks.
type Missing int

// What a job can lack, the more lasting first.
const (
	// MissingNothing: it fits now.
	MissingNothing Missing = iota
	// MissingNodes: too few of the nodes could hold a share if they were idle.
	MissingNodes
	// MissingReady: enough nodes could, but too few of them are up, in contact and not drained.
	MissingReady
	// MissingBusyOutside: it would fit but for cards that something outside of jobs uses.
	MissingBusyOutside
	// MissingGPUs: too few cards are free together.
	MissingGPUs
	// MissingVRAM: too few cards have enough memory left for a share.
	MissingVRAM
	// MissingCPUs: enough cards are free, but not with the CPUs.
	MissingCPUs
	// MissingMemory: enough cards are free, but not with the memory.
	MissingMemory
	// MissingIdleNodes: too few nodes have nobody on them.
	MissingIdleNodes
	// MissingNamed: cards that the request names are taken.
	MissingNamed
)

// Shortage says why a request cannot be placed.
type Shortage struct {
	What Missing
	// Type and Need are the choice that came closest: cards on each node, or in all where Total is set.
	Type  string
	Need  int
	Total bool
	// BestFree is the largest number of such cards that are free on one node, or in all for a total; with MissingNodes what the
	// nodes have in all.
	BestFree int
	// Nodes is how many nodes are needed (1 for a total), Found how many would do now.
	Nodes, Found int
	// Amount and Best are, for CPUs and memory in MiB, what each node needs and the most that is free where the cards are.
	Amount, Best int64
	// Busy names some of the cards that are busy outside, as "node:index".
	Busy []string
}

// String is a short clause such as "needs 4 h100 on a node, at most 2 are free together"; empty when nothing is missing.
func (s Shortage) String() string {
	cards := func(n int) string {
		if s.Type == "" {
			return plural(n, "GPU")
		}
		return fmt.Sprintf("%d %s", n, s.Type)
	}
	where := " on a node"
	switch {
	case s.Total:
		where = " in all"
	case s.Nodes > 1:
		where = fmt.Sprintf(" on each of %d nodes", s.Nodes)
	}
	switch s.What {
	case MissingNothing:
		return ""
	case MissingNodes:
		switch {
		case s.Found == 0:
			return "no node has what it asks for"
		case s.Total && s.BestFree >= s.Need:
			return fmt.Sprintf("needs %s in all, which do not come together on the nodes and in the numbers that it asks for", cards(s.Need))
		case s.Total:
			return fmt.Sprintf("needs %s in all, the nodes that could give some have %d", cards(s.Need), s.BestFree)
		}
		return fmt.Sprintf("needs %s, only %d could hold a share", plural(s.Nodes, "node"), s.Found)
	case MissingReady:
		return "the nodes that could hold it are down, drained or out of contact"
	case MissingBusyOutside:
		return "something outside of jobs uses " + strings.Join(s.Busy, ", ")
	case MissingGPUs:
		if s.Nodes > 1 && s.BestFree >= s.Need {
			return fmt.Sprintf("needs %s%s, free on %d", cards(s.Need), where, s.Found)
		}
		return fmt.Sprintf("needs %s%s, at most %d free together", cards(s.Need), where, s.BestFree)
	case MissingVRAM:
		return fmt.Sprintf("needs %d MiB on %s%s, at most %d are left on a card", s.Amount, cards(s.Need), where, s.Best)
	case MissingCPUs:
		return fmt.Sprintf("needs %s on each node, at most %d free where the GPUs are", plural(int(s.Amount), "CPU"), s.Best)
	case MissingMemory:
		return fmt.Sprintf("needs %d MiB of memory on each node, at most %d free where the GPUs are", s.Amount, s.Best)
	case MissingNamed:
		return "the GPUs that it names are in use"
	case MissingIdleNodes:
		return fmt.Sprintf("needs %s to itself, %d idle", plural(s.Nodes, "node"), s.Found)
	}
	return ""
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// namedBusy bounds the cards that a shortage names.
const namedBusy = 8

// tally is what the allowed nodes could give under ever fewer conditions: nodes, or cards for a total.
type tally struct {
	// now counts those that would do, cards those with the cards whatever CPUs and memory are left, cpus those with the cards
	// and CPUs, outside those that would do but for cards that are busy outside. idle counts nodes with nobody on them that
	// would not do for another reason.
	now, cards, cpus, outside, idle int
	// free and sum are the most free cards on one node and the sum over the nodes.
	free, sum                   int
	bestCPUs, bestMem, bestRoom int64
	busy                        []string
}

// Explain says what a request lacks on the allowed nodes: the most lasting thing, for the choice that comes closest. It looks
// at every node.
func (c *Cluster) Explain(r *Request, allowed NodeSet) Shortage {
	if _, ok := c.Place(r, allowed); ok {
		return Shortage{}
	}
	s := Shortage{Type: r.GPUType, Need: r.GPUs, Total: r.Total, Nodes: 1}
	if !r.Total {
		s.Nodes = r.bound()
	}
	could := c.Eligible(r).And(allowed)
	if !c.CouldPlace(r, could) {
		s.What, s.Found = MissingNodes, could.Len()
		switch {
		case r.Total:
			for _, f := range c.query(r, could, true).with(r.GPUType, r.GPUs).givers() {
				s.BestFree += f.have
			}
		case s.Nodes == 1:
			s.Found = 0
		}
		return s
	}
	up := could.And(c.ready)
	if !c.CouldPlace(r, up) {
		s.What, s.Found = MissingReady, up.Len()
		return s
	}
	var best tally
	var buf [4]GPUChoice
	for i, choice := range r.choices(buf[:]) {
		q := c.query(r, up, false).with(choice.Type, choice.Count)
		if t := q.tally(); i == 0 || t.closer(&best, choice.Count, s.Need) {
			best, s.Type, s.Need = t, choice.Type, choice.Count
		}
	}
	need := s.Nodes
	s.BestFree = best.free
	if r.Total {
		need, s.BestFree = s.Need, best.sum
	}
	s.Found = best.now
	switch {
	case best.cards < need && best.outside >= need && len(best.busy) > 0:
		s.What, s.Busy = MissingBusyOutside, best.busy
	case r.Exclusive && best.idle < s.Nodes:
		s.What, s.Found = MissingIdleNodes, best.idle
	case best.cards >= need && best.cpus < need:
		s.What, s.Amount, s.Best = MissingCPUs, int64(r.cpus()), best.bestCPUs
	case best.cards >= need && best.now < need:
		s.What, s.Amount, s.Best = MissingMemory, r.MemMiB, best.bestMem
	case len(r.DeviceIndexes)+len(r.DeviceUUIDs) > 0:
		s.What = MissingNamed
	case r.VRAMMiB > 0:
		s.What, s.Amount, s.Best = MissingVRAM, r.VRAMMiB, max(best.bestRoom-c.HeadroomMiB, 0)
	default:
		s.What = MissingGPUs
	}
	return s
}

// closer reports whether t is nearer to the cards that it needs than u is to its own: more nodes, then more but for what is busy
// outside, then fewer cards missing where the most are free.
func (t *tally) closer(u *tally, need, needU int) bool {
	return cmp.Or(cmp.Compare(t.cards, u.cards), cmp.Compare(t.outside, u.outside), cmp.Compare(t.free-need, u.free-needU)) > 0
}

func (q *query) tally() (t tally) {
	for pos := range q.allowed.All() {
		rec := q.recs[pos]
		n := q.count
		if q.r.Total {
			n = min(n, max(1, q.r.pinsOnNode(rec)))
		}
		gives := func(o offer) int {
			if q.r.Total && q.count > 0 {
				return o.have
			}
			return 1
		}
		free := q.mostOf(rec, rec.free)
		t.free = max(t.free, free)
		t.sum += free
		for g := range rec.cards {
			t.bestRoom = max(t.bestRoom, rec.roomOn(g))
			if rec.free&(1<<g) != 0 {
				t.bestRoom = max(t.bestRoom, rec.node.GPUs[g].MemMiB)
			}
		}
		if o, ok := q.offerBy(rec, n); ok {
			t.cards += gives(o)
			t.bestCPUs = max(t.bestCPUs, rec.cpusFree)
			if rec.cpusFree >= int64(q.r.cpus()) {
				t.cpus += gives(o)
				t.bestMem = max(t.bestMem, rec.memFree)
			}
			if q.suffices(rec) {
				t.now += gives(o)
				t.outside += gives(o)
				continue
			}
		}
		if len(rec.holds) == 0 {
			t.idle++
		}
		busy := rec.busyOutside()
		if busy == 0 || rec.cpusFree < int64(q.r.cpus()) || rec.memFree < q.r.MemMiB || q.r.Exclusive && len(rec.holds) > 0 {
			continue
		}
		if o, ok := q.offerOf(rec.profile, rec.free|busy, n, rec.named(q.r)); ok {
			t.outside += gives(o)
			for ; busy != 0 && len(t.busy) < namedBusy; busy &= busy - 1 {
				t.busy = append(t.busy, rec.node.Name+":"+strconv.Itoa(int(rec.node.GPUs[bits.TrailingZeros64(busy)].Index)))
			}
		}
	}
	return t
}

// mostOf is how many of some cards of a node are of one type that the request takes.
func (q *query) mostOf(rec *record, cards uint64) (most int) {
	for slot := range rec.profile.types {
		if q.typ == "" || q.typ == rec.profile.types[slot].name {
			most = max(most, bits.OnesCount64(cards&rec.profile.atLeast(slot, q.minMiB)))
		}
	}
	return most
}

// busyOutside are the cards that nobody holds but something outside of jobs uses.
func (rec *record) busyOutside() (m uint64) {
	for g := range rec.cards {
		if rec.node.GPUs[g].BusyOutside && rec.usable&(1<<g) != 0 && rec.cards[g] == (card{}) {
			m |= 1 << g
		}
	}
	return m
}
