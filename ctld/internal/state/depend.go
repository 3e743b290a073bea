package state

import (
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// dependKey leads from a job, or from one element of an array, to a waiting job that depends on it.
type dependKey struct {
	on uint64
	// element is 1 + the element's index, 0 for the job or array as a whole.
	element uint32
	id      uint64
}

func lessDepend(a, b dependKey) bool {
	switch {
	case a.on != b.on:
		return a.on < b.on
	case a.element != b.element:
		return a.element < b.element
	}
	return a.id < b.id
}

// nameKey orders the unfinished jobs of a user by name and number, for dependencies on all earlier ones. Elements are left
// out: their array stands for them.
type nameKey struct {
	uid  uint32
	name string
	id   uint64
}

func lessName(a, b nameKey) bool {
	switch {
	case a.uid != b.uid:
		return a.uid < b.uid
	case a.name != b.name:
		return a.name < b.name
	}
	return a.id < b.id
}

func nameOf(j *Job) nameKey { return nameKey{j.UID, j.Spec.GetName(), j.ID} }

func isNamed(j *Job) bool { return j != nil && !j.Finished() && !j.IsElement() }

// deadlineKey orders waiting jobs by the last moment at which they may start.
type deadlineKey struct {
	latestMS int64
	id       uint64
}

func lessDeadline(a, b deadlineKey) bool {
	if a.latestMS != b.latestMS {
		return a.latestMS < b.latestMS
	}
	return a.id < b.id
}

// deadlineOf returns the row's place in the index of deadlines; ok is false when it has none.
func deadlineOf(j *Job) (k deadlineKey, ok bool) {
	if j == nil || j.State != model.Pending || j.Array != nil && j.Array.Left == nil {
		return deadlineKey{}, false
	}
	at, ok := model.LatestStartMS(j.Spec)
	return deadlineKey{at, j.ID}, ok
}

// waitsFor returns what a row waits for that is in the index: nothing once it does not wait any more.
func waitsFor(j *Job) []*fettlev1.Dependency {
	if j == nil || j.State != model.Pending {
		return nil
	}
	return j.WaitingFor
}

// dependKeys yields a row's keys in the index of dependents; the same key may come twice.
func dependKeys(ds []*fettlev1.Dependency, id uint64, yield func(dependKey)) {
	for _, d := range ds {
		if d.GetKind() == model.Singleton {
			continue
		}
		k := dependKey{on: d.GetJobId(), id: id}
		if d.Index != nil {
			k.element = d.GetIndex() + 1
		}
		yield(k)
	}
}

// moveLinks keeps the indexes of arrays, dependents, names and deadlines in step.
func (t *tables) moveLinks(old, j *Job) {
	if j != nil && old == nil && j.IsElement() {
		t.elements.put(elementKey{j.ArrayJobID, j.ArrayIndex, j.ID})
	} else if j == nil && old != nil && old.IsElement() {
		t.elements.del(elementKey{array: old.ArrayJobID, index: old.ArrayIndex})
	}
	was, is := isNamed(old), isNamed(j)
	if was && (!is || nameOf(old) != nameOf(j)) {
		t.names.del(nameOf(old))
	}
	if is && (!was || nameOf(old) != nameOf(j)) {
		t.names.put(nameOf(j))
	}
	before, after := waitsFor(old), waitsFor(j)
	if !slices.Equal(before, after) {
		if old != nil {
			dependKeys(before, old.ID, func(k dependKey) { t.dependents.del(k) })
		}
		if j != nil {
			dependKeys(after, j.ID, func(k dependKey) { t.dependents.put(k) })
		}
	}
	from, had := deadlineOf(old)
	to, has := deadlineOf(j)
	if had && (!has || from != to) {
		t.deadlines.del(from)
	}
	if has && (!had || from != to) {
		t.deadlines.put(to)
	}
}

// Dependents returns the waiting jobs that depend on the job as a whole, ascending.
func (s *Snapshot) Dependents(job uint64) []uint64 {
	var ids []uint64
	s.dependents.AscendGreaterOrEqual(dependKey{on: job}, func(k dependKey) bool {
		if k.on == job && k.element == 0 {
			ids = append(ids, k.id)
			return true
		}
		return false
	})
	return ids
}

// DueDeadlines returns waiting jobs that can no longer start in time to meet their deadlines, those that are longest due
// first, at most limit.
func (s *Snapshot) DueDeadlines(nowMS int64, limit int) []uint64 {
	var ids []uint64
	s.deadlines.Ascend(func(k deadlineKey) bool {
		if k.latestMS >= nowMS || len(ids) == limit {
			return false
		}
		ids = append(ids, k.id)
		return true
	})
	return ids
}

// NextDeadlineMS is the last moment at which the next job with a deadline may start, Unix milliseconds; ok is false when no
// waiting job has one. The job is due as soon as the log's clock is past it.
func (s *Snapshot) NextDeadlineMS() (ms int64, ok bool) {
	k, ok := s.deadlines.Min()
	return k.latestMS, ok
}

// Edits calls f for each job that this entry has changed or added so far, in the order of first edits, with the row before
// the entry (nil for a new one) and the row now (nil for a removed one).
func (t *Txn) Edits(f func(old, now *Job)) {
	for _, id := range t.jobOrder[:len(t.jobOrder):len(t.jobOrder)] {
		e := t.jobs[id]
		f(e.old, e.now)
	}
}

// Dependents returns the jobs that waited before this entry and depended on the job (element false) or on one element of
// the array, ascending.
func (t *Txn) Dependents(on uint64, element bool, index uint32) []uint64 {
	from := dependKey{on: on}
	if element {
		from.element = index + 1
	}
	var ids []uint64
	t.b.t.dependents.w.AscendGreaterOrEqual(from, func(k dependKey) bool {
		if k.on != from.on || k.element != from.element {
			return false
		}
		ids = append(ids, k.id)
		return true
	})
	return ids
}

// FirstNamed returns the lowest number among the user's unfinished jobs of that name, 0 when there is none. Elements are not
// counted: their array is.
func (s *Snapshot) FirstNamed(uid uint32, name string) (id uint64) {
	s.names.AscendGreaterOrEqual(nameKey{uid: uid, name: name}, func(k nameKey) bool {
		if k.uid == uid && k.name == name {
			id = k.id
		}
		return false
	})
	return id
}

// DependedElements returns the indexes of the array's elements that jobs depended on by name before this entry, ascending.
func (t *Txn) DependedElements(array uint64) []uint32 {
	var out []uint32
	t.b.t.dependents.w.AscendGreaterOrEqual(dependKey{on: array, element: 1}, func(k dependKey) bool {
		if k.on != array {
			return false
		}
		if n := len(out); n == 0 || out[n-1] != k.element-1 {
			out = append(out, k.element-1)
		}
		return true
	})
	return out
}

// FirstNamed returns the lowest number among the user's unfinished jobs of that name as they are now, 0 when there is none.
// Elements are not counted: their array is.
func (t *Txn) FirstNamed(uid uint32, name string) uint64 {
	var first uint64
	t.b.t.names.w.AscendGreaterOrEqual(nameKey{uid: uid, name: name}, func(k nameKey) bool {
		if k.uid != uid || k.name != name {
			return false
		}
		if j := t.Job(k.id); isNamed(j) && j.Spec.GetName() == name {
			first = k.id
			return false
		}
		return true
	})
	// Jobs that this entry added or renamed are not in the index yet.
	if id, ok := t.named[nameKey{uid: uid, name: name}]; ok && (first == 0 || id < first) {
		if j := t.Job(id); isNamed(j) && j.Spec.GetName() == name {
			first = id
		}
	}
	return first
}

// Rename notes that this entry gave a job the name it has now.
func (t *Txn) Rename(j *Job) {
	k := nameOf(j)
	k.id = 0
	if id, ok := t.named[k]; !ok || j.ID < id {
		t.named[k] = j.ID
	}
}
