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

// demand is what placement expects to be asked for.
type demand struct {
	asked []Demand
	total int64
	// useless remembers the expected part of free cards that is of no use, for nodes by type and size.
	useless map[usefulness][]int64
}

type usefulness struct {
	typ  string
	size int
}

// SetDemand says what is asked for, which decides what is better left free. Without any, best fit alone decides.
func (c *Cluster) SetDemand(asked []Demand) {
	c.demand = demand{useless: map[usefulness][]int64{}}
	// Weights are scaled so that their sum times the cards of a gang does not overflow.
	var largest int64
	for _, d := range asked {
		largest = max(largest, d.Weight)
	}
	shift := 0
	for largest>>shift > (1<<40)/int64(len(asked)+1) {
		shift++
	}
	for _, d := range asked {
		if d.Weight <= 0 || d.GPUs <= 0 {
			continue
		}
		d.Weight = max(d.Weight>>shift, 1)
		c.asked = append(c.asked, d)
		c.total += d.Weight
	}
}

// fragments is F(f) for f = 0..size free cards of a type on a node that has size of them: the expected number of free cards
// that a random request cannot use, F(f) = f x Pr[the request is for another type or for more than f cards], times the sum of
// all weights.
// This is the measure of "Beware of Fragmentation" (Weng et al., USENIX ATC 2023) in closed form for whole cards.
func (d *demand) fragments(typ string, size int) []int64 {
	if d.total == 0 {
		return nil
	}
	key := usefulness{typ, size}
	if f, ok := d.useless[key]; ok {
		return f
	}
	f := make([]int64, size+1)
	for free := 1; free <= size; free++ {
		var cannot int64
		for _, a := range d.asked {
			if a.Type != "" && a.Type != typ || min(a.GPUs, size) > free {
				cannot += a.Weight
			}
		}
		f[free] = int64(free) * cannot
	}
	d.useless[key] = f
	return f
}

// gradient is F(free - n) - F(free): how much a placement of n cards adds to the expected waste.
func (d *demand) gradient(typ string, size, free, n int) int64 {
	f := d.fragments(typ, size)
	if f == nil {
		return 0
	}
	return f[free-n] - f[free]
}
