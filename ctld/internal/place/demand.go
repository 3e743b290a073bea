package place

// Demand is how much a kind of request is asked for.
type Demand struct {
	// Type of the cards; empty when any will do.
	Type string
	// GPUs on one node: more than a node has count as the whole node.
	GPUs int
	// Weight is relative: GPU time, so that gangs count by what they need, not by how many they are.
	Weight int64
}

// SetDemand says what is asked for, which decides what is better left free. Without any, best fit alone decides.
func (c *Cluster) SetDemand(demand []Demand) { c.demand = demand }

// Free is how many cards of a type are free on nodes that are ready; of all types when it is empty.
func (c *Cluster) Free(typ string) int {
	n := 0
	for i := range c.ready.All() {
		rec := c.recs[i]
		for g := range rec.node.GPUs {
			if rec.free&(1<<g) != 0 && (typ == "" || rec.node.GPUs[g].Type == typ) {
				n++
			}
		}
	}
	return n
}

// Explain says what a request lacks on the allowed nodes.
func (c *Cluster) Explain(r *Request, allowed NodeSet) Shortage {
	if _, ok := c.Place(r, allowed); ok {
		return Shortage{}
	}
	s := Shortage{Type: r.GPUType, Need: r.GPUs, Nodes: r.span(), Found: allowed.Len()}
	switch {
	case s.Found < s.Nodes:
		s.What = MissingNodes
	case allowed.And(c.ready).Len() < s.Nodes:
		s.What = MissingReady
	default:
		s.What = MissingGPUs
	}
	return s
}
