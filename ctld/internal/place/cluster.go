package place

import (
	"iter"
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// DefaultHeadroomMiB is what a job that shares a card takes beyond the memory it asks for: its context.
const DefaultHeadroomMiB = 768

// Cluster is the nodes and what is held on them. It lives as long as its owner and follows changes one by one; what it
// answers depends on the facts and holdings alone, not on the order in which they came. It is not safe for concurrent use.
type Cluster struct {
	// HeadroomMiB is taken on a shared card beyond each job's own memory. Set it before anything is held.
	HeadroomMiB int64

	recs   []*record
	gaps   []int
	byName map[string]*record
	count  int

	version uint64
	ready   NodeSet
	holders map[uint64][]*fettlev1.NodeAllocation
	journal []change
	marks   int

	index
	demand
}

// record is a node, or what is held on one that is not known (any more).
type record struct {
	node    Node
	pos     int
	present bool
	holds   []hold
	// cpusFree and memFree are below 0 when more is held than the node has.
	cpusFree, memFree int64
	cards             []card
	// usable are the cards that may be given at all, free those of them that nobody holds or is busy on.
	usable, free uint64
	// room is the most memory that is left on one of its shared cards.
	room int64

	// Its place in the index, see there.
	profile          *profile
	class            *class
	leaf             *leaf
	entered          bool
	at, rank         int
	bucket, bucketAt int
}

// idle reports whether nobody is on the node.
func (rec *record) idle() bool {
	if len(rec.holds) > 0 {
		return false
	}
	for g := range rec.node.GPUs {
		if rec.node.GPUs[g].BusyOutside {
			return false
		}
	}
	return true
}

// card is how one card is held.
type card struct {
	// whole is how many hold it whole, shares how many hold a part, and shared the memory that those take with headroom.
	whole, shares int
	shared        int64
}

// hold is what one holder has on a node; cards are those of them that the node lists.
type hold struct {
	holder uint64
	alloc  *fettlev1.NodeAllocation
	cards  uint64
}

// change is one step of the undo log: what a holder had before.
type change struct {
	holder uint64
	before []*fettlev1.NodeAllocation
}

// New makes a cluster without nodes.
func New() *Cluster {
	return &Cluster{HeadroomMiB: DefaultHeadroomMiB, byName: map[string]*record{}, holders: map[uint64][]*fettlev1.NodeAllocation{}, index: newIndex()}
}

// Len bounds node positions: all are below it. It can be more than the number of nodes.
func (c *Cluster) Len() int { return len(c.recs) }

// Nodes is the number of nodes.
func (c *Cluster) Nodes() int { return c.count }

// Name is the name of the node at a position; empty where there is none.
func (c *Cluster) Name(i int) string {
	if rec := c.recs[i]; rec != nil && rec.present {
		return rec.node.Name
	}
	return ""
}

// Position finds a node. A node keeps its position while it exists.
func (c *Cluster) Position(name string) (int, bool) {
	if rec := c.byName[name]; rec != nil && rec.present {
		return rec.pos, true
	}
	return 0, false
}

// Node returns the facts of the node at a position, which must not be changed; nil where there is none.
func (c *Cluster) Node(i int) *Node {
	if rec := c.recs[i]; rec != nil && rec.present {
		return &rec.node
	}
	return nil
}

// Version changes whenever what Eligible and Named answer can have changed. Whether nodes are ready, what is held and which
// cards are busy outside do not count.
func (c *Cluster) Version() uint64 { return c.version }

// Ready returns the nodes that take new attempts.
func (c *Cluster) Ready() NodeSet { return c.ready.Clone() }

// Named returns the set of the named nodes; names that the cluster does not have are left out.
func (c *Cluster) Named(names []string) NodeSet {
	s := NewNodeSet(len(c.recs))
	for _, name := range names {
		if i, ok := c.Position(name); ok {
			s.Add(i)
		}
	}
	return s
}

// SetNode adds a node or changes what is known of it. What is held on it stays held.
func (c *Cluster) SetNode(n Node) {
	n.GPUs = slices.Clone(n.GPUs[:min(len(n.GPUs), MaxCards)])
	sortCards(n.GPUs)
	rec := c.byName[n.Name]
	if rec != nil && rec.present && sameFacts(&rec.node, &n) {
		return
	}
	rec = c.record(n.Name)
	if !rec.present || !sameOffer(&rec.node, &n) {
		c.version++
	}
	if !rec.present {
		c.count++
	}
	c.leave(rec)
	c.undescribe(rec)
	rec.node, rec.present = n, true
	c.describe(rec)
	if n.Ready {
		c.ready.Add(rec.pos)
	} else {
		c.ready.Remove(rec.pos)
	}
	c.recount(rec)
	c.enter(rec)
}

// RemoveNode forgets a node. What is held on it is remembered for the case that it comes back.
func (c *Cluster) RemoveNode(name string) {
	rec := c.byName[name]
	if rec == nil || !rec.present {
		return
	}
	c.version++
	c.count--
	c.ready.Remove(rec.pos)
	c.leave(rec)
	c.undescribe(rec)
	rec.present, rec.node = false, Node{Name: name}
	c.recount(rec)
	c.drop(rec)
}

// record finds a node's record, or makes one at a free position.
func (c *Cluster) record(name string) *record {
	if rec := c.byName[name]; rec != nil {
		return rec
	}
	rec := &record{node: Node{Name: name}}
	if k := len(c.gaps) - 1; k >= 0 {
		rec.pos, c.gaps = c.gaps[k], c.gaps[:k]
		c.recs[rec.pos] = rec
	} else {
		rec.pos = len(c.recs)
		c.recs = append(c.recs, rec)
		if len(c.ready.words)*64 < len(c.recs) {
			c.ready.words = append(c.ready.words, 0)
		}
	}
	c.byName[name] = rec
	c.stale = true
	return rec
}

// drop frees the position of a record that says nothing.
func (c *Cluster) drop(rec *record) {
	if !rec.present && len(rec.holds) == 0 {
		delete(c.byName, rec.node.Name)
		c.recs[rec.pos] = nil
		c.gaps = append(c.gaps, rec.pos)
	}
}

// Hold says what a holder has from now on: whole cards, or shares of cards where an allocation has memory per card. What it
// had before is released. It is booked whether or not it is free, so that holdings of the past and of the future can overlap.
// The cluster keeps the allocations: they must not change afterwards.
func (c *Cluster) Hold(holder uint64, allocs []*fettlev1.NodeAllocation) {
	c.remember(holder)
	c.set(holder, allocs)
}

// Release gives back all that a holder has; one that has nothing is ignored.
func (c *Cluster) Release(holder uint64) {
	if _, ok := c.holders[holder]; ok {
		c.remember(holder)
		c.set(holder, nil)
	}
}

// Holding is what a holder has; it must not be changed.
func (c *Cluster) Holding(holder uint64) []*fettlev1.NodeAllocation { return c.holders[holder] }

// HoldersOn yields who holds something on the node at a position, in ascending order.
func (c *Cluster) HoldersOn(i int) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		rec := c.recs[i]
		if rec == nil {
			return
		}
		for k := range rec.holds {
			if !yield(rec.holds[k].holder) {
				return
			}
		}
	}
}

// Mark is a point to go back to.
type Mark struct{ at, depth int }

// Mark starts to remember what holders have, until Undo or Keep. Marks nest: an inner one ends before an outer one.
func (c *Cluster) Mark() Mark {
	c.marks++
	return Mark{at: len(c.journal), depth: c.marks}
}

// Undo puts all holdings back to what they were at the mark, and ends it and those within it. Facts of nodes stay as they are.
func (c *Cluster) Undo(m Mark) {
	for k := len(c.journal) - 1; k >= m.at; k-- {
		c.set(c.journal[k].holder, c.journal[k].before)
		c.journal[k] = change{}
	}
	c.journal = c.journal[:m.at]
	c.marks = m.depth - 1
}

// Keep ends a mark and those within it without going back. An outer mark still undoes what happened since.
func (c *Cluster) Keep(m Mark) {
	if c.marks = m.depth - 1; c.marks == 0 {
		clear(c.journal)
		c.journal = c.journal[:0]
	}
}

func (c *Cluster) remember(holder uint64) {
	if c.marks > 0 {
		c.journal = append(c.journal, change{holder, c.holders[holder]})
	}
}

// set changes what a holder has.
func (c *Cluster) set(holder uint64, allocs []*fettlev1.NodeAllocation) {
	for _, a := range c.holders[holder] {
		rec := c.byName[a.GetNode()]
		if rec == nil {
			continue
		}
		c.leave(rec)
		for k := range rec.holds {
			if rec.holds[k].holder == holder {
				c.book(rec, &rec.holds[k], -1)
				rec.holds = slices.Delete(rec.holds, k, k+1)
				break
			}
		}
		rec.settle()
		c.enter(rec)
		c.drop(rec)
	}
	if len(allocs) == 0 {
		delete(c.holders, holder)
		return
	}
	c.holders[holder] = allocs
	for _, a := range allocs {
		rec := c.record(a.GetNode())
		c.leave(rec)
		k, _ := slices.BinarySearchFunc(rec.holds, holder, func(h hold, id uint64) int {
			switch {
			case h.holder < id:
				return -1
			case h.holder > id:
				return 1
			}
			return 0
		})
		rec.holds = slices.Insert(rec.holds, k, hold{holder: holder, alloc: a, cards: rec.listed(a)})
		c.book(rec, &rec.holds[k], 1)
		rec.settle()
		c.enter(rec)
	}
}

// listed are the cards of an allocation that the node has.
func (rec *record) listed(a *fettlev1.NodeAllocation) uint64 {
	var m uint64
	for _, uuid := range a.GetGpuUuids() {
		for g := range rec.node.GPUs {
			if rec.node.GPUs[g].UUID == uuid {
				m |= 1 << g
				break
			}
		}
	}
	return m
}

// book adds (sign 1) or takes back (-1) a holding in a record's sums.
func (c *Cluster) book(rec *record, h *hold, sign int) {
	rec.cpusFree -= int64(sign) * int64(h.alloc.GetCpus())
	rec.memFree -= int64(sign) * h.alloc.GetMemMib()
	share := h.alloc.GetVramMib()
	for g := range rec.cards {
		if h.cards&(1<<g) == 0 {
			continue
		}
		if share > 0 {
			rec.cards[g].shares += sign
			rec.cards[g].shared += int64(sign) * (share + c.HeadroomMiB)
		} else {
			rec.cards[g].whole += sign
		}
	}
}

// recount derives a record's sums from its facts and holdings.
func (c *Cluster) recount(rec *record) {
	rec.cpusFree, rec.memFree = int64(rec.node.CPUs), rec.node.MemMiB
	rec.cards = make([]card, len(rec.node.GPUs))
	rec.usable = 0
	for g := range rec.node.GPUs {
		if rec.node.GPUs[g].Usable {
			rec.usable |= 1 << g
		}
	}
	for k := range rec.holds {
		rec.holds[k].cards = rec.listed(rec.holds[k].alloc)
		c.book(rec, &rec.holds[k], 1)
	}
	rec.settle()
}

// settle derives what is free on a node.
func (rec *record) settle() {
	rec.free, rec.room = 0, 0
	for g := range rec.cards {
		if rec.usable&(1<<g) == 0 || rec.node.GPUs[g].BusyOutside || rec.cards[g].whole > 0 {
			continue
		}
		if rec.cards[g].shares == 0 {
			rec.free |= 1 << g
		} else {
			rec.room = max(rec.room, rec.node.GPUs[g].MemMiB-rec.cards[g].shared)
		}
	}
}
