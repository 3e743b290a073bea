// Package place chooses nodes and GPUs for one job. It is pure: a cluster and a request in, an allocation out.
//
// Among the nodes that can hold a share it takes the one that is left with the least (best fit), so that
// whole nodes stay free for gangs; ties go to the node that comes first by name. Choices depend on nothing else, so
// equal input gives an equal answer.
package place

import (
	"cmp"
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// GPU is one card as placement sees it.
type GPU struct {
	UUID  string
	Type  string
	Index uint32
	// Usable is false for a card that must not be given away (unhealthy).
	Usable bool
	// Free is true while no attempt holds it.
	Free bool
}

// Node is one node as placement sees it.
type Node struct {
	Name string
	// Ready nodes take new attempts: up, in contact and not drained.
	Ready bool
	// CPUs and MemMiB are what the node has; the Free ones what no attempt holds.
	CPUs, CPUsFree     uint32
	MemMiB, MemFreeMiB int64
	GPUs               []GPU
}

// Request is one job's need. Amounts are for each of its nodes.
type Request struct {
	// Nodes is how many nodes the job spans, at least 1.
	Nodes int
	// GPUs of GPUType on each node; an empty type matches any, but all cards on a node are of one type.
	GPUs    int
	GPUType string
	CPUs    uint32
	MemMiB  int64
	// Nodelist, when not empty, names the only nodes that may be used; Exclude those that may not.
	Nodelist, Exclude []string
	// DeviceIndexes are cards that must be among those given on every node, DeviceUUIDs cards that must be among those
	// given on the nodes that have them, and those nodes among the job's.
	DeviceIndexes []uint32
	DeviceUUIDs   []string
}

// Cluster is a scratch copy of the nodes that placements are taken from. It is not safe for concurrent use.
type Cluster struct {
	nodes  []Node
	byName map[string]int
}

// NewCluster takes the nodes in the order that ties are decided by. It keeps and changes the slice.
func NewCluster(nodes []Node) *Cluster {
	c := &Cluster{nodes: nodes, byName: make(map[string]int, len(nodes))}
	for i := range nodes {
		c.byName[nodes[i].Name] = i
	}
	return c
}

// Len is the number of nodes.
func (c *Cluster) Len() int { return len(c.nodes) }

// Name is the name of the node at a position.
func (c *Cluster) Name(i int) string { return c.nodes[i].Name }

// Ready returns the nodes that take new attempts.
func (c *Cluster) Ready() NodeSet {
	s := NewNodeSet(len(c.nodes))
	for i := range c.nodes {
		if c.nodes[i].Ready {
			s.Add(i)
		}
	}
	return s
}

// Named returns the set of the named nodes; names that the cluster does not have are left out.
func (c *Cluster) Named(names []string) NodeSet {
	s := NewNodeSet(len(c.nodes))
	for _, name := range names {
		if i, ok := c.byName[name]; ok {
			s.Add(i)
		}
	}
	return s
}

// Pinned returns the nodes that have the cards that r pins by UUID. It reports false when nobody has one of them, or when
// they are on more nodes than r asks for.
func (c *Cluster) Pinned(r *Request) (NodeSet, bool) {
	s := NewNodeSet(len(c.nodes))
	if len(r.DeviceUUIDs) == 0 {
		return s, true
	}
	cards := 0
	for i := range c.nodes {
		if n := pinsOn(c.nodes[i].GPUs, r); n > 0 {
			s.Add(i)
			cards += n
		}
	}
	return s, cards == len(r.DeviceUUIDs) && s.Len() <= max(r.Nodes, 1)
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
	s := NewNodeSet(len(c.nodes))
	pinned, ok := c.Pinned(r)
	if !ok {
		return s
	}
	if pinned.Len() == max(r.Nodes, 1) {
		// There is no room for others.
		for i := range pinned.All() {
			if n := &c.nodes[i]; c.mayUse(r, n) && n.couldHold(r) {
				s.Add(i)
			}
		}
		return s
	}
	consider := func(i int) {
		if n := &c.nodes[i]; !slices.Contains(r.Exclude, n.Name) && n.couldHold(r) {
			s.Add(i)
		}
	}
	if len(r.Nodelist) > 0 {
		for _, name := range r.Nodelist {
			if i, ok := c.byName[name]; ok {
				consider(i)
			}
		}
		return s
	}
	for i := range c.nodes {
		consider(i)
	}
	return s
}

// mayUse reports whether the job's own lists allow a node.
func (c *Cluster) mayUse(r *Request, n *Node) bool {
	return !slices.Contains(r.Exclude, n.Name) && (len(r.Nodelist) == 0 || slices.Contains(r.Nodelist, n.Name))
}

// Place chooses r.Nodes of the allowed nodes and the cards on them, in rank order, or reports that it cannot.
// It takes nothing: see Take.
func (c *Cluster) Place(r *Request, allowed NodeSet) ([]*fettlev1.NodeAllocation, bool) {
	type candidate struct {
		node  int
		cards []int
		// optional is 0 for a node with pinned cards, which come first.
		optional int
		left     leftover
	}
	want := max(r.Nodes, 1)
	pinned, ok := c.Pinned(r)
	if !ok || pinned.Without(allowed).Len() > 0 {
		return nil, false
	}
	must := pinned.Len()
	var found []candidate
	for i := range allowed.All() {
		n := &c.nodes[i]
		if !n.Ready || n.CPUsFree < r.CPUs || n.MemFreeMiB < r.MemMiB {
			continue
		}
		cards, freeLeft, ok := n.choose(r)
		if !ok {
			continue
		}
		f := candidate{node: i, cards: cards, optional: 1, left: leftover{gpus: freeLeft, cpus: n.CPUsFree - r.CPUs}}
		if pinsOn(n.GPUs, r) > 0 {
			f.optional = 0
			must--
		}
		found = append(found, f)
	}
	if len(found) < want || must > 0 {
		return nil, false
	}
	slices.SortStableFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.optional, b.optional), cmp.Compare(a.left.gpus, b.left.gpus), cmp.Compare(a.left.cpus, b.left.cpus), cmp.Compare(a.node, b.node))
	})
	found = found[:want]
	// Ranks follow the order of the nodes, so that neighbours by name are neighbours by rank.
	slices.SortFunc(found, func(a, b candidate) int { return cmp.Compare(a.node, b.node) })
	allocs := make([]*fettlev1.NodeAllocation, want)
	for k, f := range found {
		n := &c.nodes[f.node]
		a := &fettlev1.NodeAllocation{Node: n.Name, Cpus: r.CPUs, MemMib: r.MemMiB}
		for _, g := range f.cards {
			a.GpuUuids = append(a.GpuUuids, n.GPUs[g].UUID)
		}
		allocs[k] = a
	}
	return allocs, true
}

// Take books an allocation that Place made.
func (c *Cluster) Take(allocs []*fettlev1.NodeAllocation) {
	for _, a := range allocs {
		n := &c.nodes[c.byName[a.GetNode()]]
		n.CPUsFree -= a.GetCpus()
		n.MemFreeMiB -= a.GetMemMib()
		for _, uuid := range a.GetGpuUuids() {
			for g := range n.GPUs {
				if n.GPUs[g].UUID == uuid {
					n.GPUs[g].Free = false
				}
			}
		}
	}
}

// leftover is what a node keeps free after a placement: the measure of best fit.
type leftover struct {
	gpus int
	cpus uint32
}

func (n *Node) couldHold(r *Request) bool {
	if n.CPUs < r.CPUs || n.MemMiB < r.MemMiB {
		return false
	}
	_, ok := pick(n.GPUs, r, func(g *GPU) bool { return g.Usable })
	return ok
}

// choose picks cards for r among the free ones and says how many free usable cards would be left.
func (n *Node) choose(r *Request) (cards []int, left int, ok bool) {
	cards, ok = pick(n.GPUs, r, func(g *GPU) bool { return g.Usable && g.Free })
	if !ok {
		return nil, 0, false
	}
	for i := range n.GPUs {
		if n.GPUs[i].Usable && n.GPUs[i].Free {
			left++
		}
	}
	return cards, left - len(cards), true
}

// pick chooses r.GPUs cards of one type among those that may be used, with every pinned card among them.
// With no type asked for it takes the type with the fewest such cards that suffice (best fit), then by name.
func pick(gpus []GPU, r *Request, may func(*GPU) bool) ([]int, bool) {
	if r.GPUs == 0 {
		return nil, true
	}
	var best []int
	bestCount, bestType := 0, ""
	for _, typ := range cardTypes(gpus, r.GPUType) {
		cards, count, ok := pickType(gpus, typ, r, may)
		if !ok {
			continue
		}
		if best == nil || count < bestCount || (count == bestCount && typ < bestType) {
			best, bestCount, bestType = cards, count, typ
		}
	}
	return best, best != nil
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
func pickType(gpus []GPU, typ string, r *Request, may func(*GPU) bool) (cards []int, count int, ok bool) {
	var rest []int
	for i := range gpus {
		g := &gpus[i]
		if g.Type != typ || !may(g) {
			continue
		}
		count++
		if slices.Contains(r.DeviceIndexes, g.Index) || slices.Contains(r.DeviceUUIDs, g.UUID) {
			cards = append(cards, i)
		} else {
			rest = append(rest, i)
		}
	}
	pins := len(r.DeviceIndexes) + pinsOn(gpus, r)
	if len(cards) < pins || len(cards) > r.GPUs || count < r.GPUs {
		return nil, 0, false
	}
	cards = append(cards, rest[:r.GPUs-len(cards)]...)
	slices.Sort(cards)
	return cards, count, true
}
