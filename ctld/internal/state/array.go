package state

import (
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// Array is how far an array is, on its own row. Immutable like the row: see Txn.EditArray.
type Array struct {
	// Left are the elements that have no row of their own yet, ascending; nil when all have one.
	Left []*fettlev1.ArrayRange
	// Pending to Cancelled count the elements with a row of their own: those that wait, that hold resources, and that are
	// over. Failed are all that ended neither completed nor cancelled.
	Pending, Active, Completed, Failed, Cancelled uint32
}

// Over reports whether every element has ended.
func (a *Array) Over() bool { return a.Left == nil && a.Pending == 0 && a.Active == 0 }

// Total is the number of elements, those without a row among them.
func (a *Array) Total() int {
	return model.ArrayLen(a.Left) + int(a.Pending) + int(a.Active) + int(a.Completed) + int(a.Failed) + int(a.Cancelled)
}

// Count returns the counter for elements in state s.
func (a *Array) Count(s fettlev1.JobState) *uint32 {
	switch {
	case s == model.Pending:
		return &a.Pending
	case model.HoldsResources(s):
		return &a.Active
	case s == model.Completed:
		return &a.Completed
	case s == model.Cancelled:
		return &a.Cancelled
	}
	return &a.Failed
}

// NewArray returns an array of which nothing has started.
func NewArray(s *fettlev1.ArraySpec) *Array {
	if s == nil {
		return nil
	}
	return &Array{Left: s.GetRanges()}
}

// IsArray reports whether the row is an array's own. Such a row never runs: it waits until all of its elements are over.
func (j *Job) IsArray() bool { return j.Array != nil }

// IsElement reports whether the row is that of an array's element.
func (j *Job) IsElement() bool { return j.ArrayJobID != 0 }

// HasStarted reports whether the job has ever run, as far as its attempts are remembered; an array, whether an element has.
func (j *Job) HasStarted() bool {
	return j.StartMS > 0 || slices.ContainsFunc(j.Attempts, func(a *fettlev1.Attempt) bool { return a.GetStartMs() > 0 })
}

// Startable reports whether the row itself lets the job start, or an array's next element: it waits, nobody holds it, and
// all that it depends on has come. Begin times and back-offs are the caller's to check.
func (j *Job) Startable() bool {
	return j.State == model.Pending && !j.Held && len(j.WaitingFor) == 0 && (j.Array == nil || j.Array.Left != nil)
}

// weight is what a row counts against the limits on unfinished jobs: one for itself and one for each element that has no
// row yet.
func (j *Job) weight() int {
	if j.Array == nil {
		return 1
	}
	return 1 + model.ArrayLen(j.Array.Left)
}

// left is how many elements of the row's array have no row of their own.
func (j *Job) left() int {
	if j == nil || j.Array == nil {
		return 0
	}
	return model.ArrayLen(j.Array.Left)
}

func (j *Job) arrayProto(p *fettlev1.Job) {
	p.ArrayJobId, p.ArrayIndex = j.ArrayJobID, j.ArrayIndex
	a := j.Array
	if a == nil {
		return
	}
	if a.Left != nil {
		p.ArrayLeft = &fettlev1.ArraySpec{Ranges: a.Left, MaxRunning: j.Spec.GetArray().GetMaxRunning()}
	}
	p.ArrayCounts = &fettlev1.ArrayCounts{Pending: a.Pending, Active: a.Active, Completed: a.Completed, Failed: a.Failed, Cancelled: a.Cancelled}
}

// arrayOf reads an array's progress back from a row of a snapshot.
func arrayOf(p *fettlev1.Job) *Array {
	if p.GetSpec().GetArray() == nil || p.GetArrayJobId() != 0 {
		return nil
	}
	c := p.GetArrayCounts()
	return &Array{
		Left: p.GetArrayLeft().GetRanges(), Pending: c.GetPending(), Active: c.GetActive(),
		Completed: c.GetCompleted(), Failed: c.GetFailed(), Cancelled: c.GetCancelled(),
	}
}

// elementKey is an element's place in the index of arrays; an element has one row at most.
type elementKey struct {
	array uint64
	index uint32
	id    uint64
}

func lessElement(a, b elementKey) bool {
	if a.array != b.array {
		return a.array < b.array
	}
	return a.index < b.index
}

// Element returns the row of an array's element, nil when it has none (yet, or any more).
func (s *Snapshot) Element(array uint64, index uint32) *Job {
	if k, ok := s.elements.Get(elementKey{array: array, index: index}); ok {
		return s.Job(k.id)
	}
	return nil
}

// Elements yields the rows of an array's elements by index, ascending, until yield returns false.
func (s *Snapshot) Elements(array uint64, yield func(*Job) bool) {
	s.elements.AscendGreaterOrEqual(elementKey{array: array}, func(k elementKey) bool {
		if k.array != array {
			return false
		}
		j := s.Job(k.id)
		return j == nil || yield(j)
	})
}

// ArrayRoom is how many more elements of the array may start by its limit of running ones. j is an array's own row or one of
// its elements; there is room without bound when the array has no limit.
func (s *Snapshot) ArrayRoom(j *Job) (n int, limited bool) {
	if j.IsElement() {
		if j = s.Job(j.ArrayJobID); j == nil {
			return 0, false
		}
	}
	return j.arrayRoom()
}

func (j *Job) arrayRoom() (n int, limited bool) {
	limit := int(j.Spec.GetArray().GetMaxRunning())
	if j.Array == nil || limit == 0 {
		return 0, false
	}
	return max(limit-int(j.Array.Active), 0), true
}

// Element returns the row of an array's element to read, nil when it has none.
func (t *Txn) Element(array uint64, index uint32) *Job {
	if id, ok := t.elements[elementKey{array: array, index: index}]; ok {
		return t.Job(id)
	}
	if k, ok := t.b.t.elements.w.Get(elementKey{array: array, index: index}); ok {
		return t.Job(k.id)
	}
	return nil
}

// Elements returns the numbers of the rows of the array's elements before this entry, by index ascending.
func (t *Txn) Elements(array uint64) []uint64 {
	var ids []uint64
	t.b.t.elements.w.AscendGreaterOrEqual(elementKey{array: array}, func(k elementKey) bool {
		if k.array == array {
			ids = append(ids, k.id)
		}
		return k.array == array
	})
	return ids
}

// EditArray returns a private copy of an array's progress to change, nil when the row is gone or not an array's own.
func (t *Txn) EditArray(id uint64) *Array {
	e := t.edit(id)
	if e == nil || e.now.Array == nil {
		return nil
	}
	if !e.array {
		e.array = true
		c := *e.now.Array
		e.now.Array = &c
	}
	return e.now.Array
}

// ArrayRoom is how many more elements of an array may start by its limit, those taken off that this entry has started; see
// Snapshot.ArrayRoom.
func (t *Txn) ArrayRoom(array uint64) (n int, limited bool) {
	j := t.Job(array)
	if j == nil {
		return 0, false
	}
	n, limited = j.arrayRoom()
	return max(n-t.starts[array], 0), limited
}

// NoteStart counts the start of one of the array's elements.
func (t *Txn) NoteStart(array uint64) { t.starts[array]++ }

// AddElement adds the row of an array's element and numbers it. It shares the array's specification and has no request of
// its own.
func (t *Txn) AddElement(j *Job) uint64 {
	j.ID = t.nextID
	t.nextID++
	t.jobs[j.ID] = &jobEdit{now: j}
	t.jobOrder = append(t.jobOrder, j.ID)
	t.elements[elementKey{array: j.ArrayJobID, index: j.ArrayIndex}] = j.ID
	return j.ID
}
