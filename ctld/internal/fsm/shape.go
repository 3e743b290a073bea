package fsm

import (
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// checkShape refuses a placement whose nodes or GPUs are not of the number that the job asks for.
func checkShape(j *state.Job, p *raftlogv1.Placement) *model.FieldError {
	s, nodes := j.Spec, len(p.GetNodes())
	want := s.GetGpusTotal().GetCount()
	if want == 0 {
		if nodes != int(s.GetNodes()) {
			return conflict("nodes", "%d placed, job %d asks for %d", nodes, j.ID, s.GetNodes())
		}
		return nil
	}
	if nodes == 0 || nodes > model.MaxNodesPerJob {
		return conflict("nodes", "%d placed for job %d, which may have 1 to %d", nodes, j.ID, model.MaxNodesPerJob)
	}
	got := 0
	for _, a := range p.GetNodes() {
		if len(a.GetGpuUuids()) == 0 {
			return conflict("gpus", "none given on %.64q, where job %d is placed", a.GetNode(), j.ID)
		}
		got += len(a.GetGpuUuids())
	}
	if got != int(want) {
		return conflict("gpus", "%d given in all, job %d asks for %d", got, j.ID, want)
	}
	return nil
}

// wishes are what a job asks of each of its nodes beside plain resources, made ready to check.
type wishes struct {
	constraint gres.Constraint
	// choices are what would do on a node, nil when GPUs are asked for in all, of this type.
	choices []*fettlev1.GPURequest
	several bool
	total   *fettlev1.GPURequest
}

func wishesOf(s *fettlev1.JobSpec) (wishes, *model.FieldError) {
	w := wishes{choices: model.GPUChoices(s), total: s.GetGpusTotal(), several: len(s.GetGpuAlternatives()) > 0}
	if s.GetConstraint() == "" {
		return w, nil
	}
	c, err := gres.ParseConstraint(s.GetConstraint())
	if err != nil {
		return w, conflict("constraint", "of the job cannot be read")
	}
	w.constraint = c
	return w, nil
}

// check refuses a node that the job does not want, or that another job has for itself.
func (w *wishes) check(n *state.Node, s *fettlev1.JobSpec) *model.FieldError {
	switch {
	case n.Exclusive != 0:
		return conflict("node", "job %d has %s for itself", n.Exclusive, n.Name)
	case s.GetExclusive() && !n.Idle():
		return conflict("node", "%s is in use, and the job wants it for itself", n.Name)
	case !w.constraint.Matches(n.Inventory.GetFeatures()):
		return conflict("constraint", "%s of the job is not met by %s", s.GetConstraint(), n.Name)
	}
	return nil
}

// narrow keeps those of the job's choices that the GPUs given on a node agree with; a gang has the same on all nodes. types
// are those of the GPUs uuids.
func (w *wishes) narrow(n *state.Node, uuids, types []string) *model.FieldError {
	if w.total != nil {
		return ofType(n, uuids, types, w.total.GetType())
	}
	if len(w.choices) == 0 {
		if len(types) > 0 {
			return conflict("gpus", "%d given on %s, the job asks for 0", len(types), n.Name)
		}
		return nil
	}
	if !w.several {
		c := w.choices[0]
		if len(types) != int(c.GetCount()) {
			return conflict("gpus", "%d given on %s, the job asks for %d", len(types), n.Name, c.GetCount())
		}
		return ofType(n, uuids, types, c.GetType())
	}
	kept := make([]*fettlev1.GPURequest, 0, len(w.choices))
	for _, c := range w.choices {
		if len(types) == int(c.GetCount()) && ofType(n, uuids, types, c.GetType()) == nil {
			kept = append(kept, c)
		}
	}
	if w.choices = kept; len(kept) == 0 {
		return conflict("gpus", "%d given on %s fit none of the job's alternatives on all nodes", len(types), n.Name)
	}
	return nil
}

func ofType(n *state.Node, uuids, types []string, want string) *model.FieldError {
	if want == "" {
		return nil
	}
	if i := slices.IndexFunc(types, func(t string) bool { return t != want }); i >= 0 {
		return conflict("gpus", "%.64q on %s is of type %q, not %q", uuids[i], n.Name, types[i], want)
	}
	return nil
}

// checkHolders refuses a GPU that is taken: a whole one by anybody, a share of one by a job that has it whole or by shares
// that leave too little memory.
func checkHolders(n *state.Node, g *fettlev1.GPU, shareMiB int64) *model.FieldError {
	used := int64(0)
	for _, h := range n.Holders(g.GetUuid()) {
		if shareMiB == 0 || h.VRAMMiB == 0 {
			return conflict("gpus", "%.64q on %s is held by job %d", g.GetUuid(), n.Name, h.JobID)
		}
		used += h.VRAMMiB
	}
	if shareMiB > 0 && used+shareMiB > g.GetMemoryMib() {
		return conflict("vram", "%.64q on %s has %d of %d MiB given away", g.GetUuid(), n.Name, used, g.GetMemoryMib())
	}
	return nil
}
