package preempt

import "slices"

// state is a request and what has been decided so far.
type state struct {
	req *Request
	// on is who holds something, for each node.
	on [][]holder
	// stopped are the candidates that are victims already, and used what the jobs served so far will take.
	stopped []bool
	used    []resources
	cost    []uint64
}

type holder struct {
	candidate int
	*Holding
}

type resources struct {
	gpus, cpus int
	memory     int64
}

func newState(req *Request) *state {
	s := &state{
		req: req, on: make([][]holder, len(req.Nodes)), stopped: make([]bool, len(req.Candidates)),
		used: make([]resources, len(req.Nodes)), cost: make([]uint64, len(req.Candidates)),
	}
	for i := range req.Candidates {
		c := &req.Candidates[i]
		s.cost[i] = c.Cost()
		for k := range c.Holds {
			h := &c.Holds[k]
			s.on[h.Node] = append(s.on[h.Node], holder{i, h})
		}
	}
	return s
}

// take notes that a job gets its need on the nodes once the victims are gone.
func (s *state) take(n *Need, nodes, victims []int) {
	for _, v := range victims {
		s.stopped[v] = true
	}
	for _, at := range nodes {
		u := &s.used[at]
		u.gpus, u.cpus, u.memory = u.gpus+n.GPUs, u.cpus+n.CPUs, u.memory+n.MemoryMiB
	}
}

// fits says whether a share of the need fits into a place when those who are gone are gone. Of the cards of a node all
// that was promised before counts as usable to this job, which is exact on nodes with one type of GPU and safe on others.
func (s *state) fits(n *Need, p *Place, gone func(candidate int) bool) bool {
	u := s.used[p.Node]
	have := resources{p.GPUs - u.gpus, p.CPUs - u.cpus, p.MemoryMiB - u.memory}
	var held, kept []int
	for _, h := range s.on[p.Node] {
		if !gone(h.candidate) {
			kept = append(kept, h.Cards...)
			continue
		}
		have.cpus += h.CPUs
		have.memory += h.MemoryMiB
		held = append(held, h.Cards...)
	}
	slices.Sort(held)
	for _, card := range slices.Compact(held) {
		if slices.Contains(p.Cards, card) && !slices.Contains(kept, card) {
			have.gpus++
		}
	}
	return have.gpus >= n.GPUs && have.cpus >= n.CPUs && have.memory >= n.MemoryMiB
}

// spares says whether the need, which is met on all places as it is, still is when a victim stays: only the nodes that it holds
// part of matter. gone no longer counts it.
func (s *state) spares(n *Need, places []*Place, victim int, gone func(candidate int) bool) bool {
	for _, h := range s.req.Candidates[victim].Holds {
		i := slices.IndexFunc(places, func(p *Place) bool { return p.Node == h.Node })
		if i >= 0 && !s.fits(n, places[i], gone) {
			return false
		}
	}
	return true
}

// all says whether the need fits into all of these places.
func (s *state) all(n *Need, places []*Place, gone func(candidate int) bool) bool {
	for _, p := range places {
		if !s.fits(n, p, gone) {
			return false
		}
	}
	return true
}
