package reference

import (
	"math/bits"
	"slices"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim/trace"
)

// share is what a job has of one node.
type share struct {
	node int32
	gpus int32
}

// class is the nodes of one type and size, in the order of the file.
type class struct {
	typ   string
	cap   int
	nodes []int32
	// with[f] are the class's nodes with f free GPUs, a bit for each place in nodes.
	with  [][]uint64
	count []int
}

// view is free GPUs, node by node. A view may show fewer than are free, as those that a reservation leaves.
type view struct {
	classes []class
	// free GPUs, class and place in the class, by node.
	free  []int32
	class []int32
	place []int32
	// byCap are the classes in order of decreasing size, in the file's order among equals.
	byCap []int
	total int
	// beside is set in a view of what a reservation leaves: all that is free. A node that is whole there and not here takes
	// no part of a gang.
	beside *view
}

func newView(nodes trace.Cluster) *view {
	v := &view{}
	for i, n := range nodes {
		at := slices.IndexFunc(v.classes, func(c class) bool { return c.typ == n.Type && c.cap == n.GPUs })
		if at < 0 {
			at = len(v.classes)
			v.classes = append(v.classes, class{typ: n.Type, cap: n.GPUs})
		}
		c := &v.classes[at]
		v.free = append(v.free, int32(n.GPUs))
		v.class = append(v.class, int32(at))
		v.place = append(v.place, int32(len(c.nodes)))
		c.nodes = append(c.nodes, int32(i))
		v.total += n.GPUs
	}
	for i := range v.classes {
		c := &v.classes[i]
		c.with, c.count = make([][]uint64, c.cap+1), make([]int, c.cap+1)
		for f := range c.with {
			c.with[f] = make([]uint64, (len(c.nodes)+63)/64)
		}
		for p := range c.nodes {
			c.with[c.cap][p/64] |= 1 << (p % 64)
		}
		c.count[c.cap] = len(c.nodes)
		v.byCap = append(v.byCap, i)
	}
	slices.SortStableFunc(v.byCap, func(a, b int) int { return v.classes[b].cap - v.classes[a].cap })
	return v
}

// clone is a view that can change on its own.
func (v *view) clone() *view {
	w := *v
	w.free = slices.Clone(v.free)
	w.classes = slices.Clone(v.classes)
	for i := range w.classes {
		c := &w.classes[i]
		c.count = slices.Clone(c.count)
		c.with = slices.Clone(c.with)
		for f := range c.with {
			c.with[f] = slices.Clone(c.with[f])
		}
	}
	return &w
}

// copyFrom makes the view equal to another of the same cluster.
func (v *view) copyFrom(w *view) {
	copy(v.free, w.free)
	for i := range v.classes {
		copy(v.classes[i].count, w.classes[i].count)
		for f := range v.classes[i].with {
			copy(v.classes[i].with[f], w.classes[i].with[f])
		}
	}
}

// set says how many GPUs of a node are free.
func (v *view) set(node, free int32) {
	was := v.free[node]
	if was == free {
		return
	}
	c, p := &v.classes[v.class[node]], v.place[node]
	c.with[was][p/64] &^= 1 << (p % 64)
	c.with[free][p/64] |= 1 << (p % 64)
	c.count[was]--
	c.count[free]++
	v.free[node] = free
}

func (v *view) take(shares []share) {
	for _, s := range shares {
		v.set(s.node, v.free[s.node]-s.gpus)
	}
}

func (v *view) release(shares []share) {
	for _, s := range shares {
		v.set(s.node, v.free[s.node]+s.gpus)
	}
}

// partlyFree counts free GPUs on nodes that are partly used.
func (v *view) partlyFree() int {
	n := 0
	for i := range v.classes {
		for f := 1; f < v.classes[i].cap; f++ {
			n += f * v.classes[i].count[f]
		}
	}
	return n
}

// lowest is the first node of the class with f free GPUs.
func (c *class) lowest(f int) int32 {
	for w, word := range c.with[f] {
		if word != 0 {
			return c.nodes[64*w+bits.TrailingZeros64(word)]
		}
	}
	return -1
}

// shape is what jobs that fit alike ask for.
type shape struct {
	gpus    int
	allowed []bool
	// single says that a node of an allowed class is large enough.
	single bool
	// uneven says that as a gang it may take a part of a node.
	uneven bool
}

func (v *view) shape(gpus int, types []string) *shape {
	s := &shape{gpus: gpus, allowed: make([]bool, len(v.classes))}
	for i := range v.classes {
		c := &v.classes[i]
		s.allowed[i] = len(types) == 0 || slices.Contains(types, c.typ)
		s.single = s.single || s.allowed[i] && gpus <= c.cap
		s.uneven = s.uneven || s.allowed[i] && c.cap > 0 && gpus%c.cap != 0
	}
	s.uneven = s.uneven && !s.single
	return s
}

// find says where a job would go, appended to buf; ok is false when it does not fit.
func (v *view) find(s *shape, buf []share) (shares []share, ok bool) {
	if s.single {
		return v.findSingle(s, buf)
	}
	for _, i := range v.byCap {
		if s.allowed[i] && v.classes[i].cap > 0 {
			if shares, ok := v.findGang(&v.classes[i], s.gpus, buf); ok {
				return shares, true
			}
		}
	}
	return buf, false
}

// findSingle is best fit over the allowed classes: least left over, then the earlier class, then the lowest node.
func (v *view) findSingle(s *shape, buf []share) ([]share, bool) {
	best, bestClass := -1, -1
	for i := range v.classes {
		if !s.allowed[i] {
			continue
		}
		c := &v.classes[i]
		for f := s.gpus; f <= c.cap && (best < 0 || f < best); f++ {
			if c.count[f] > 0 {
				best, bestClass = f, i
				break
			}
		}
	}
	if best < 0 {
		return buf, false
	}
	return append(buf, share{v.classes[bestClass].lowest(best), int32(s.gpus)}), true
}

// findGang takes whole free nodes, the lowest first, and for the remainder a partly used one by best fit, else one more.
func (v *view) findGang(c *class, gpus int, buf []share) ([]share, bool) {
	whole, rest := gpus/c.cap, gpus%c.cap
	partly := int32(-1)
	for f := rest; rest > 0 && f < c.cap && partly < 0; f++ {
		partly = v.partlyUsed(c, f)
	}
	need := whole
	if rest > 0 && partly < 0 {
		need++
	}
	if c.count[c.cap] < need {
		return buf, false
	}
	if partly >= 0 {
		buf = append(buf, share{partly, int32(rest)})
	}
	for w, word := range c.with[c.cap] {
		for ; word != 0 && need > 0; word &= word - 1 {
			node := c.nodes[64*w+bits.TrailingZeros64(word)]
			if whole > 0 {
				buf = append(buf, share{node, int32(c.cap)})
				whole--
			} else {
				buf = append(buf, share{node, int32(rest)})
			}
			need--
		}
	}
	return buf, true
}

// partlyUsed is the first node of the class with f free GPUs of which some are used, not just reserved; -1 when there is none.
func (v *view) partlyUsed(c *class, f int) int32 {
	if c.count[f] == 0 {
		return -1
	}
	if v.beside == nil {
		return c.lowest(f)
	}
	for w, word := range c.with[f] {
		for ; word != 0; word &= word - 1 {
			if node := c.nodes[64*w+bits.TrailingZeros64(word)]; int(v.beside.free[node]) < c.cap {
				return node
			}
		}
	}
	return -1
}
