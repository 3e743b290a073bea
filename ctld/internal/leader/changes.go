package leader

import (
	"slices"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// changes gathers what happened since the last cycle: jobs that changed, and those to look at again for what the leader itself
// knows of them.
type changes struct {
	all, policy bool
	jobs, again []uint64
	nodes       []string
}

func newChanges() *changes { return &changes{} }

func (c *changes) resync() { c.all = true }

func (c *changes) reset() {
	*c = changes{jobs: c.jobs[:0], again: c.again[:0], nodes: c.nodes[:0]}
}

func (c *changes) add(set *state.ChangeSet) {
	if set == nil {
		return
	}
	if set.Resync {
		c.all = true
		return
	}
	c.policy = c.policy || set.Policy || set.Reservations
	c.jobs = append(c.jobs, set.Jobs...)
	c.nodes = append(c.nodes, set.Nodes...)
	if len(c.jobs) > 1<<16 {
		slices.Sort(c.jobs)
		c.jobs = slices.Compact(c.jobs)
	}
	if len(c.nodes) > 1<<14 {
		slices.Sort(c.nodes)
		c.nodes = slices.Compact(c.nodes)
	}
}
