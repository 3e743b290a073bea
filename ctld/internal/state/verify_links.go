package state

import (
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// links checks what rows have to do with each other: elements and their arrays, dependents, names and deadlines.
type links struct {
	// pending and active count elements by array, over those that are over and still on record.
	pending, active, over map[uint64]uint32
	elements              int
	names, deadlines      int
	depends               map[dependKey]bool
}

func newLinks() links {
	return links{
		pending: make(map[uint64]uint32), active: make(map[uint64]uint32), over: make(map[uint64]uint32), depends: make(map[dependKey]bool),
	}
}

// link looks at one row; arrays come before their elements.
func (v *verifier) link(j *Job) {
	s, l := v.s, &v.links
	v.counts.ArrayLeft += j.left()
	if j.IsElement() {
		v.element(j)
	}
	if a := j.Array; a != nil {
		switch {
		case j.Finished() && !a.Over():
			v.fail("array %d is %s with unfinished elements", j.ID, model.StateName(j.State))
		case !j.Finished() && (j.State != model.Pending || a.Over()):
			v.fail("array %d is %s, its elements are over: %v", j.ID, model.StateName(j.State), a.Over())
		case a.Total() != model.ArrayLen(j.Spec.GetArray().GetRanges()):
			v.fail("array %d counts %d elements of %d", j.ID, a.Total(), model.ArrayLen(j.Spec.GetArray().GetRanges()))
		case j.Attempt != 0:
			v.fail("array %d has attempts of its own", j.ID)
		}
	} else if j.Spec.GetArray() != nil && !j.IsElement() {
		v.fail("job %d asks for an array and is none", j.ID)
	} else if j.State == model.Completed && j.Attempt == 0 {
		v.fail("job %d is completed and was never started", j.ID)
	}
	if isNamed(j) {
		l.names++
		if !s.names.Has(nameOf(j)) {
			v.fail("job %d is missing in the index of names", j.ID)
		}
	}
	if k, ok := deadlineOf(j); ok {
		l.deadlines++
		if !s.deadlines.Has(k) {
			v.fail("job %d is missing in the index of deadlines", j.ID)
		}
	}
	for _, d := range waitsFor(j) {
		if !slices.ContainsFunc(j.Spec.GetDependencies(), func(w *fettlev1.Dependency) bool {
			return w.GetKind() == d.GetKind() && w.GetJobId() == d.GetJobId() && w.GetIndex() == d.GetIndex() && (w.Index == nil) == (d.Index == nil)
		}) {
			v.fail("job %d waits for %s, which it did not ask for", j.ID, model.DependencyText(d))
		}
	}
	dependKeys(waitsFor(j), j.ID, func(k dependKey) {
		l.depends[k] = true
		if !s.dependents.Has(k) {
			v.fail("job %d is missing in the index of dependents of %d", j.ID, k.on)
		}
	})
}

func (v *verifier) element(j *Job) {
	s, l := v.s, &v.links
	l.elements++
	if k, ok := s.elements.Get(elementKey{array: j.ArrayJobID, index: j.ArrayIndex}); !ok || k.id != j.ID {
		v.fail("jobs %d and %d are both element %d of array %d", j.ID, k.id, j.ArrayIndex, j.ArrayJobID)
	}
	if j.RequestID != "" {
		v.fail("element %d of array %d has a request of its own", j.ArrayIndex, j.ArrayJobID)
	}
	switch {
	case j.State == model.Pending:
		l.pending[j.ArrayJobID]++
	case j.Active():
		l.active[j.ArrayJobID]++
	default:
		l.over[j.ArrayJobID]++
	}
	a := s.Job(j.ArrayJobID)
	switch {
	case a == nil && !j.Finished():
		v.fail("element %d of array %d has outlived it", j.ArrayIndex, j.ArrayJobID)
	case a == nil:
	case !a.IsArray() || !model.ArrayHas(a.Spec.GetArray().GetRanges(), j.ArrayIndex):
		v.fail("job %d is element %d of %d, which has none such", j.ID, j.ArrayIndex, a.ID)
	case model.ArrayHas(a.Array.Left, j.ArrayIndex):
		v.fail("element %d of array %d has a row and is still to get one", j.ArrayIndex, a.ID)
	}
}

// linked checks sums over all rows.
func (v *verifier) linked() {
	s, l := v.s, &v.links
	s.jobs.Ascend(func(j *Job) bool {
		a := j.Array
		if a != nil && (a.Pending != l.pending[j.ID] || a.Active != l.active[j.ID] || a.Completed+a.Failed+a.Cancelled < l.over[j.ID]) {
			v.fail("array %d counts %d elements waiting and %d active, there are %d and %d", j.ID, a.Pending, a.Active, l.pending[j.ID], l.active[j.ID])
		}
		return v.err == nil
	})
	if s.elements.Len() != l.elements || s.names.Len() != l.names || s.deadlines.Len() != l.deadlines || s.dependents.Len() != len(l.depends) {
		v.fail("the indexes of elements, names, deadlines and dependents hold %d, %d, %d and %d, the rows say %d, %d, %d and %d",
			s.elements.Len(), s.names.Len(), s.deadlines.Len(), s.dependents.Len(), l.elements, l.names, l.deadlines, len(l.depends))
	}
}
