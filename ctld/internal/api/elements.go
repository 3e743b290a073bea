package api

import (
	"cmp"
	"iter"
	"slices"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// targets are what a write is about: jobs, arrays with all that belongs to them, single elements, and arrays of which only
// what has not started is meant.
type targets struct {
	ids       []uint64
	elements  []*raftlogv1.ArrayElement
	unstarted []uint64
}

func (t targets) len() int { return len(t.ids) + len(t.elements) + len(t.unstarted) }

// chunks yields t in parts of at most n.
func (t targets) chunks(n int) iter.Seq[targets] {
	return func(yield func(targets) bool) {
		for t.len() > 0 {
			var part targets
			part.ids, t.ids = cut(t.ids, n)
			part.elements, t.elements = cut(t.elements, n-part.len())
			part.unstarted, t.unstarted = cut(t.unstarted, n-part.len())
			if !yield(part) {
				return
			}
		}
	}
}

func cut[T any](all []T, n int) (head, tail []T) {
	n = min(n, len(all))
	return all[:n], all[n:]
}

// checkElements refuses element selectors that are malformed or would take for ever.
func checkElements(sel *fettlev1.JobSelector) error {
	if len(sel.GetElements()) > maxSelected {
		return refuse(model.Invalid, "jobs", "elements of more than 1,000 arrays", "name fewer")
	}
	total := len(sel.GetIds())
	for _, e := range sel.GetElements() {
		if fe := model.CheckRanges("jobs", e.GetRanges()); fe != nil {
			return fieldError(fe)
		}
		if total += model.ArrayLen(e.GetRanges()); total > maxSelectedIDs {
			return refuse(model.Invalid, "jobs", "more than 100,000 jobs and elements", "name fewer")
		}
	}
	return nil
}

// namedTargets are the jobs and elements that a selector names one by one.
func namedTargets(sel *fettlev1.JobSelector) targets {
	t := targets{ids: sel.GetIds()}
	for _, e := range sel.GetElements() {
		model.ArrayEach(e.GetRanges(), func(index uint32) bool {
			t.elements = append(t.elements, &raftlogv1.ArrayElement{JobId: e.GetJobId(), Index: index})
			return true
		})
	}
	return t
}

// element returns the row of an array's element. One that has not started has none: it is shown as its array's row, under its
// array's number, with its own index. nil when there is no such element, or when it is no longer on record.
func element(snap *state.Snapshot, array uint64, index uint32) *state.Job {
	if j := snap.Element(array, index); j != nil {
		return j
	}
	j := snap.Job(array)
	if j == nil || !j.IsArray() || !model.ArrayHas(j.Array.Left, index) {
		return nil
	}
	e := *j
	e.Array, e.ArrayJobID, e.ArrayIndex = nil, array, index
	return &e
}

// oneJob finds the job, or the element of the array, that a request names.
func oneJob(snap *state.Snapshot, id uint64, index *uint32) *state.Job {
	if index == nil {
		return snap.Job(id)
	}
	return element(snap, id, *index)
}

// nameOf is how people write the job: "12", or "12_3".
func nameOf(id uint64, index *uint32) string {
	if index == nil {
		return idText(id)
	}
	return gres.FormatElement(id, *index)
}

// namedJobs yields the jobs that a selector names, arrays with all of their elements, ascending by number.
func namedJobs(snap *state.Snapshot, sel *fettlev1.JobSelector, after uint64) iter.Seq[*state.Job] {
	var jobs []*state.Job
	add := func(j *state.Job) bool {
		if j != nil && j.ID > after {
			jobs = append(jobs, j)
		}
		return true
	}
	t := namedTargets(sel)
	for _, id := range t.ids {
		j := snap.Job(id)
		add(j)
		if j != nil && j.IsArray() {
			snap.Elements(id, add)
		}
	}
	for _, e := range t.elements {
		add(element(snap, e.GetJobId(), e.GetIndex()))
	}
	slices.SortFunc(jobs, compareRows)
	return slices.Values(slices.CompactFunc(jobs, func(a, b *state.Job) bool { return compareRows(a, b) == 0 }))
}

func compareRows(a, b *state.Job) int {
	return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.ArrayJobID, b.ArrayJobID), cmp.Compare(a.ArrayIndex, b.ArrayIndex))
}

// addMatch adds a job that a selector has found to what a write is about. An array stands for its elements; where states were
// asked for, only those of its elements are meant that have not started, and the others are found by themselves. arrays are
// those found whole so far: they come before their elements.
func (t *targets) addMatch(j *state.Job, byState bool, arrays map[uint64]bool) {
	switch {
	case j.IsArray() && byState:
		t.unstarted = append(t.unstarted, j.ID)
	case j.IsElement() && arrays[j.ArrayJobID]:
	default:
		arrays[j.ID] = j.IsArray()
		t.ids = append(t.ids, j.ID)
	}
}

// watched says which events a selector's jobs and elements pick; nil picks all.
func watched(sel *fettlev1.JobSelector) func(*state.Job) bool {
	t := namedTargets(sel)
	if t.len() == 0 {
		return func(*state.Job) bool { return true }
	}
	type key struct {
		array uint64
		index uint32
	}
	ids, elements := make(map[uint64]bool, len(t.ids)), make(map[key]bool, len(t.elements))
	for _, id := range t.ids {
		ids[id] = true
	}
	for _, e := range t.elements {
		elements[key{e.GetJobId(), e.GetIndex()}] = true
	}
	return func(j *state.Job) bool {
		return ids[j.ID] || j.IsElement() && (ids[j.ArrayJobID] || elements[key{j.ArrayJobID, j.ArrayIndex}])
	}
}

// activeRows are the jobs that signals to targets go to, and the answer for each thing named.
func activeRows(snap *state.Snapshot, t targets) (rows []*state.Job, names []*fettlev1.JobActionResult) {
	add := func(j *state.Job, r *fettlev1.JobActionResult) {
		rows, names = append(rows, j), append(names, r)
	}
	for _, id := range t.ids {
		j := snap.Job(id)
		if j == nil || !j.IsArray() {
			add(j, &fettlev1.JobActionResult{JobId: id})
			continue
		}
		n := len(rows)
		snap.Elements(id, func(e *state.Job) bool {
			if e.State == model.Running {
				add(e, &fettlev1.JobActionResult{JobId: id, ArrayIndex: &e.ArrayIndex})
			}
			return true
		})
		if len(rows) == n {
			add(j, &fettlev1.JobActionResult{JobId: id})
		}
	}
	for _, e := range t.elements {
		add(element(snap, e.GetJobId(), e.GetIndex()), &fettlev1.JobActionResult{JobId: e.GetJobId(), ArrayIndex: &e.Index})
	}
	return rows, names
}
