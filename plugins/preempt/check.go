package preempt

import (
	"fmt"
	"slices"
)

// Check says whether an answer does what it promises: each selection is of a blocked job, its victims may be stopped for that job and
// for nobody else, with them gone the need fits on the nodes beside what was promised before, and none of them could be spared.
func Check(req *Request, answer []Selection) error {
	s := newState(req)
	index := make(map[uint64]int, len(req.Candidates))
	for i := range req.Candidates {
		index[req.Candidates[i].ID] = i
	}
	blocked := make(map[uint64]*Job, len(req.Jobs))
	for i := range req.Jobs {
		blocked[req.Jobs[i].ID] = &req.Jobs[i]
	}
	for i := range answer {
		sel := &answer[i]
		j := blocked[sel.Job]
		if j == nil {
			return fmt.Errorf("job %d is not among the blocked ones, or comes twice", sel.Job)
		}
		delete(blocked, sel.Job)
		if len(sel.Victims) == 0 && len(sel.Nodes) == 0 {
			continue
		}
		if err := s.check(j, sel, index); err != nil {
			return fmt.Errorf("job %d: %w", sel.Job, err)
		}
	}
	return nil
}

// check checks one selection and takes it.
func (s *state) check(j *Job, sel *Selection, index map[uint64]int) error {
	if sel.Need < 0 || sel.Need >= len(j.Needs) {
		return fmt.Errorf("need %d of %d", sel.Need, len(j.Needs))
	}
	n := &j.Needs[sel.Need]
	allowed := make([]bool, len(s.req.Candidates))
	for _, c := range j.Candidates {
		allowed[c] = true
	}
	chosen := make(map[int]bool, len(sel.Victims))
	for _, id := range sel.Victims {
		v, ok := index[id]
		switch {
		case !ok || !allowed[v]:
			return fmt.Errorf("job %d may not be stopped for it", id)
		case s.stopped[v] || chosen[v]:
			return fmt.Errorf("job %d is stopped twice", id)
		}
		chosen[v] = true
	}
	if len(sel.Nodes) != n.Nodes {
		return fmt.Errorf("%d nodes, it needs %d", len(sel.Nodes), n.Nodes)
	}
	var places []*Place
	seen := map[int]bool{}
	for _, at := range sel.Nodes {
		p := slices.IndexFunc(n.Places, func(p Place) bool { return p.Node == at })
		if p < 0 || seen[at] {
			return fmt.Errorf("node number %d is none of its places, or comes twice", at)
		}
		seen[at] = true
		places = append(places, &n.Places[p])
	}
	gone := func(c int) bool { return s.stopped[c] || chosen[c] }
	if !s.all(n, places, gone) {
		return fmt.Errorf("it does not fit when %s stop", jobs(sel.Victims))
	}
	victims := make([]int, 0, len(chosen))
	for _, id := range sel.Victims {
		v := index[id]
		chosen[v] = false
		if s.spares(n, places, v, gone) {
			return fmt.Errorf("job %d is stopped for nothing", id)
		}
		chosen[v] = true
		victims = append(victims, v)
	}
	s.take(n, sel.Nodes, victims)
	return nil
}
