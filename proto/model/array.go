package model

import (
	"slices"
	"strconv"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
)

// ArrayRanges returns ranges as they are stored.
func ArrayRanges(rs []gres.Range) []*fettlev1.ArrayRange {
	out := make([]*fettlev1.ArrayRange, 0, len(rs))
	for _, r := range rs {
		out = append(out, &fettlev1.ArrayRange{First: r.First, Last: r.Last, Step: r.Step})
	}
	return out
}

// GresRanges returns stored ranges as package gres prints them. Ranges must be in their plain form.
func GresRanges(rs []*fettlev1.ArrayRange) []gres.Range {
	out := make([]gres.Range, 0, len(rs))
	for _, r := range rs {
		out = append(out, gres.Range{First: r.GetFirst(), Last: r.GetLast(), Step: max(r.GetStep(), 1)})
	}
	return out
}

// rangeLen is how many numbers a range has; 0 when it runs backwards.
func rangeLen(r *fettlev1.ArrayRange) int {
	if r.GetFirst() > r.GetLast() {
		return 0
	}
	return int((r.GetLast()-r.GetFirst())/max(r.GetStep(), 1)) + 1
}

// ArrayLen is how many elements ranges hold that are apart from each other.
func ArrayLen(rs []*fettlev1.ArrayRange) int {
	n := 0
	for _, r := range rs {
		n += rangeLen(r)
	}
	return n
}

// findRange returns the position of the range that holds the index, -1 when none does. Ranges must be ascending.
func findRange(rs []*fettlev1.ArrayRange, index uint32) int {
	i, found := slices.BinarySearchFunc(rs, index, func(r *fettlev1.ArrayRange, n uint32) int {
		switch {
		case r.GetLast() < n:
			return -1
		case r.GetFirst() > n:
			return 1
		}
		return 0
	})
	if !found || (index-rs[i].GetFirst())%max(rs[i].GetStep(), 1) != 0 {
		return -1
	}
	return i
}

// ArrayHas reports whether ascending ranges hold the index.
func ArrayHas(rs []*fettlev1.ArrayRange, index uint32) bool { return findRange(rs, index) >= 0 }

// ArrayWithout returns ascending ranges without one index; what it is given is left as it was. An index that is not in them
// changes nothing.
func ArrayWithout(rs []*fettlev1.ArrayRange, index uint32) []*fettlev1.ArrayRange {
	i := findRange(rs, index)
	if i < 0 {
		return rs
	}
	r, step := rs[i], max(rs[i].GetStep(), 1)
	out := make([]*fettlev1.ArrayRange, 0, len(rs)+1)
	out = append(out, rs[:i]...)
	if index > r.GetFirst() {
		out = append(out, plainRange(r.GetFirst(), index-step, step))
	}
	if index < r.GetLast() {
		out = append(out, plainRange(index+step, r.GetLast(), step))
	}
	if out = append(out, rs[i+1:]...); len(out) == 0 {
		return nil
	}
	return out
}

// plainRange makes a range end at its last number, with step 1 when it has just one.
func plainRange(first, last, step uint32) *fettlev1.ArrayRange {
	if first < last {
		last -= (last - first) % step
	}
	if first == last {
		step = 1
	}
	return &fettlev1.ArrayRange{First: first, Last: last, Step: step}
}

// ArrayEach yields the indexes of ascending ranges, ascending, until yield returns false.
func ArrayEach(rs []*fettlev1.ArrayRange, yield func(uint32) bool) {
	for _, r := range rs {
		step := max(r.GetStep(), 1)
		for n := r.GetFirst(); n <= r.GetLast(); n += step {
			if !yield(n) {
				return
			}
			if r.GetLast()-n < step {
				break
			}
		}
	}
}

// ArrayText prints an array as "0-99%4".
func ArrayText(a *fettlev1.ArraySpec) string {
	return gres.Array{Ranges: GresRanges(a.GetRanges()), MaxRunning: a.GetMaxRunning()}.String()
}

func checkArray(s *fettlev1.JobSpec) *FieldError {
	if s.GetArray() == nil {
		return nil
	}
	return checkRanges("array", s.GetArray())
}

// CheckRanges checks ranges of element numbers: each forward, ascending and apart from each other, not too many.
func CheckRanges(field string, rs []*fettlev1.ArrayRange) *FieldError {
	return checkRanges(field, &fettlev1.ArraySpec{Ranges: rs})
}

func checkRanges(field string, a *fettlev1.ArraySpec) *FieldError {
	rs := a.GetRanges()
	if len(rs) == 0 {
		return invalid(field, "names no element", "use elements such as 0-99")
	}
	if len(rs) > gres.MaxArrayElements {
		return invalid(field, "has more than "+strconv.Itoa(gres.MaxArrayElements)+" elements", "use several arrays")
	}
	total := 0
	for i, r := range rs {
		switch {
		case r.GetFirst() > r.GetLast():
			return invalid(field, "has a range that runs backwards", "name the lower end first")
		case r.GetLast() > gres.MaxArrayIndex:
			return invalid(field, "has an element above "+strconv.Itoa(gres.MaxArrayIndex), "use lower numbers")
		case i > 0 && rs[i-1].GetLast() >= r.GetFirst():
			return invalid(field, "has ranges that are not in order, or meet", "name elements in ascending order, each once")
		}
		if total += rangeLen(r); total > gres.MaxArrayElements {
			return invalid(field, "has more than "+strconv.Itoa(gres.MaxArrayElements)+" elements", "use several arrays")
		}
	}
	if a.GetMaxRunning() > gres.MaxArrayElements {
		return invalid(field, "has a limit above "+strconv.Itoa(gres.MaxArrayElements)+" running elements", "lower it, or leave it out")
	}
	return nil
}

// normalizeArray brings ranges into their plain form; those that are not valid stay as they are.
func normalizeArray(a *fettlev1.ArraySpec) {
	if a == nil {
		return
	}
	for i, r := range a.Ranges {
		if r.GetFirst() <= r.GetLast() {
			a.Ranges[i] = plainRange(r.GetFirst(), r.GetLast(), max(r.GetStep(), 1))
		}
	}
}
