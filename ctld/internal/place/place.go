// Package place chooses nodes and GPUs for one job. It is pure: a cluster and a request in, an allocation out.
//
// Among the nodes that can hold a share it takes the one that is left with the least (best fit), so that
// whole nodes stay free for gangs; ties go to the node that comes first by name. Choices depend on nothing else, so
// equal input gives an equal answer.
package place

import (
	"cmp"
	"math/bits"
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
	cards, nodes := 0, 0
	for i, rec := range c.recs {
		if rec == nil {
			continue
		}
		if n := pinsOn(rec.node.GPUs, r); n > 0 {
			s.Add(i)
			cards += n
			nodes++
		}
	}
	return s, cards == len(r.DeviceUUIDs) && (r.Total && r.Nodes == 0 || nodes <= max(r.Nodes, 1))
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
	pinned, ok := c.Pinned(r)
	if !ok {
		return s
	}
	only := !r.Total && len(r.DeviceUUIDs) > 0 && pinned.Len() == max(r.Nodes, 1)
	consider := func(i int) {
		rec := c.recs[i]
		if rec == nil || !rec.present || only && !pinned.Has(i) || slices.Contains(r.Exclude, rec.node.Name) {
			return
		}
		if rec.couldHold(r) {
			s.Add(i)
		}
	}
	if len(r.Nodelist) > 0 {
		for _, name := range r.Nodelist {
			if i, ok := c.Position(name); ok {
				consider(i)
			}
		}
		return s
	}
	for i := range c.recs {
		consider(i)
	}
	return s
}

// Place chooses nodes among those allowed and the cards on them, in rank order, or reports that it cannot.
// It takes nothing: see Hold.
func (c *Cluster) Place(r *Request, allowed NodeSet) ([]*fettlev1.NodeAllocation, bool) {
	pinned, ok := c.Pinned(r)
	if !ok || !pinned.Without(allowed).Empty() {
		return nil, false
	}
	var buf [4]GPUChoice
	for _, choice := range r.choices(buf[:]) {
		if allocs, ok := c.placeChoice(r, choice, allowed, pinned.Len()); ok {
			return allocs, true
		}
	}
	return nil, false
}

func (c *Cluster) placeChoice(r *Request, choice GPUChoice, allowed NodeSet, must int) ([]*fettlev1.NodeAllocation, bool) {
	type candidate struct {
		rec      *record
		cards    uint64
		optional int
		left     int
		cpus     int64
	}
	var found []candidate
	for i := range allowed.And(c.ready).All() {
		rec := c.recs[i]
		if rec.cpusFree < int64(r.cpus()) || rec.memFree < r.MemMiB {
			continue
		}
		cards, ok := rec.pick(r, choice, rec.free)
		if !ok {
			continue
		}
		f := candidate{rec: rec, cards: cards, optional: 1, left: bits.OnesCount64(rec.free &^ cards), cpus: rec.cpusFree - int64(r.cpus())}
		if pinsOn(rec.node.GPUs, r) > 0 {
			f.optional = 0
			must--
		}
		found = append(found, f)
	}
	want := max(r.Nodes, 1)
	if len(found) < want || must > 0 {
		return nil, false
	}
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.optional, b.optional), cmp.Compare(a.left, b.left), cmp.Compare(a.cpus, b.cpus), cmp.Compare(a.rec.node.Name, b.rec.node.Name))
	})
	found = found[:want]
	// Ranks follow the order of the nodes, so that neighbours by name are neighbours by rank.
	slices.SortFunc(found, func(a, b candidate) int { return cmp.Compare(a.rec.node.Name, b.rec.node.Name) })
	allocs := make([]*fettlev1.NodeAllocation, want)
	for k, f := range found {
		a := &fettlev1.NodeAllocation{Node: f.rec.node.Name, Cpus: r.cpus(), MemMib: r.MemMiB}
		for g := range f.rec.node.GPUs {
			if f.cards&(1<<g) != 0 {
				a.GpuUuids = append(a.GpuUuids, f.rec.node.GPUs[g].UUID)
			}
		}
		allocs[k] = a
	}
	return allocs, true
}

func (rec *record) couldHold(r *Request) bool {
	if rec.node.CPUs < r.cpus() || rec.node.MemMiB < r.MemMiB || r.Constraint != nil && !r.Constraint.Matches(rec.node.Features) {
		return false
	}
	var buf [4]GPUChoice
	for _, choice := range r.choices(buf[:]) {
		if _, ok := rec.pick(r, choice, rec.usable); ok {
			return true
		}
	}
	return false
}

// pick chooses cards of one type among those that may be used, with every pinned card among them. With no type asked for it
// takes the type with the fewest such cards that suffice (best fit), then by name.
func (rec *record) pick(r *Request, choice GPUChoice, may uint64) (best uint64, found bool) {
	if choice.Count == 0 {
		return 0, true
	}
	bestCount, bestType := 0, ""
	for _, typ := range cardTypes(rec.node.GPUs, choice.Type) {
		cards, count, ok := rec.pickType(r, typ, choice.Count, may)
		if !ok {
			continue
		}
		if !found || count < bestCount || (count == bestCount && typ < bestType) {
			best, bestCount, bestType, found = cards, count, typ, true
		}
	}
	return best, found
}

func cardTypes(gpus []GPU, asked string) []string {
	if asked != "" {
		return []string{asked}
	}
	var types []string
	for i := range gpus {
		if !slices.Contains(types, gpus[i].Type) {
			types = append(types, gpus[i].Type)
		}
	}
	return types
}

// pickType is pick within one type; count is how many cards of the type could be used.
func (rec *record) pickType(r *Request, typ string, want int, may uint64) (cards uint64, count int, ok bool) {
	var rest uint64
	for i := range rec.node.GPUs {
		g := &rec.node.GPUs[i]
		if g.Type != typ || may&(1<<i) == 0 {
			continue
		}
		count++
		if slices.Contains(r.DeviceIndexes, g.Index) || slices.Contains(r.DeviceUUIDs, g.UUID) {
			cards |= 1 << i
		} else {
			rest |= 1 << i
		}
	}
	have := bits.OnesCount64(cards)
	if have < len(r.DeviceIndexes)+pinsOn(rec.node.GPUs, r) || have > want || count < want {
		return 0, 0, false
	}
	for ; have < want; have++ {
		cards |= rest & -rest
		rest &= rest - 1
	}
	return cards, count, true
}
