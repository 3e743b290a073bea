package gres

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// Limits on job arrays.
const (
	// MaxArrayIndex is the highest element number.
	MaxArrayIndex = 999_999
	// MaxArrayElements bounds the elements of one array.
	MaxArrayElements = 10_000
	// MaxArrayLen bounds the text of an array's elements in bytes.
	MaxArrayLen = 64 << 10
)

const arrayRemedy = "use elements such as 0-99%4 or 1,3,5-9:2"

// Range is the numbers First, First+Step, … up to Last, which is one of them. Step is at least 1, and 1 when First is Last.
type Range struct{ First, Last, Step uint32 }

// Len is how many numbers the range has.
func (r Range) Len() int { return int((r.Last-r.First)/max(r.Step, 1)) + 1 }

// Array is the elements of a job array.
type Array struct {
	// Ranges are ascending and apart from each other.
	Ranges []Range
	// MaxRunning is how many elements may run at a time; 0 means no limit.
	MaxRunning uint32
}

// Len is how many elements the array has.
func (a Array) Len() int { return rangesLen(a.Ranges) }

func rangesLen(rs []Range) int {
	n := 0
	for _, r := range rs {
		n += r.Len()
	}
	return n
}

// String prints a as "0-99%4" or "1,3,5-9:2". ParseArray reads it back.
func (a Array) String() string {
	s := FormatRanges(a.Ranges)
	if a.MaxRunning > 0 {
		s += "%" + strconv.FormatUint(uint64(a.MaxRunning), 10)
	}
	return s
}

// ParseArray reads the elements of a job array: numbers and ranges with perhaps a step, and after "%" how many may run at
// a time. Elements may be named in any order; each counts once.
func ParseArray(s string) (Array, error) {
	refuse := func(problem string) (Array, error) {
		return Array{}, &Error{"array", s, problem, arrayRemedy}
	}
	list, limit, limited := strings.Cut(s, "%")
	ranges, problem := parseRanges(list)
	if problem != "" {
		return refuse(problem)
	}
	a := Array{Ranges: ranges}
	if !limited {
		return a, nil
	}
	limit = strings.TrimSpace(limit)
	if !digits(limit) {
		return refuse("the limit " + Quote(limit) + " is not a number")
	}
	n := number(limit, MaxArrayElements)
	if n == 0 {
		return refuse("the limit is zero")
	}
	if n > MaxArrayElements {
		return refuse("the limit is above " + strconv.Itoa(MaxArrayElements))
	}
	a.MaxRunning = uint32(n)
	return a, nil
}

// ParseRanges reads element numbers as ParseArray does, without a limit. They come back ascending, each once.
func ParseRanges(s string) ([]Range, error) {
	ranges, problem := parseRanges(s)
	if problem != "" {
		return nil, &Error{"elements", s, problem, "use element numbers such as 3 or 1,3,5-9:2"}
	}
	return ranges, nil
}

func parseRanges(s string) (out []Range, problem string) {
	if len(s) > MaxArrayLen {
		return nil, "is longer than " + strconv.Itoa(MaxArrayLen) + " bytes"
	}
	tooMany := "names more than " + strconv.Itoa(MaxArrayElements) + " elements"
	var indexes []uint32
	for item := range strings.SplitSeq(s, ",") {
		r, problem := parseRange(strings.TrimSpace(item))
		if problem != "" {
			return nil, problem
		}
		if len(indexes)+r.Len() > MaxArrayElements {
			return nil, tooMany
		}
		for n := r.First; ; n += r.Step {
			indexes = append(indexes, n)
			if r.Last-n < r.Step {
				break
			}
		}
	}
	return RangesOf(indexes), ""
}

func parseRange(item string) (Range, string) {
	if item == "" {
		return Range{}, "has an empty item"
	}
	span, step, stepped := strings.Cut(item, ":")
	from, to, isRange := strings.Cut(span, "-")
	if stepped && !isRange {
		return Range{}, "gives a step for the single element " + Quote(item)
	}
	if !isRange {
		to = from
	}
	r := Range{Step: 1}
	for _, f := range []struct {
		text string
		to   *uint32
	}{{from, &r.First}, {to, &r.Last}} {
		t := strings.TrimSpace(f.text)
		switch {
		case t == "":
			return Range{}, "the range " + Quote(item) + " lacks a number"
		case !digits(t):
			return Range{}, Quote(item) + " is not an element number"
		}
		n := number(t, MaxArrayIndex)
		if n > MaxArrayIndex {
			return Range{}, Quote(item) + " is above " + strconv.Itoa(MaxArrayIndex)
		}
		*f.to = uint32(n)
	}
	if r.First > r.Last {
		return Range{}, "the range " + Quote(item) + " runs backwards"
	}
	if stepped {
		t := strings.TrimSpace(step)
		if !digits(t) {
			return Range{}, "the step " + Quote(t) + " is not a number"
		}
		n := number(t, MaxArrayIndex)
		if n == 0 {
			return Range{}, "the step is zero"
		}
		r.Step = uint32(min(n, MaxArrayIndex))
	}
	return r, ""
}

// RangesOf returns the numbers as ascending ranges that are apart from each other, each number once. It reorders indexes.
func RangesOf(indexes []uint32) []Range {
	slices.Sort(indexes)
	indexes = slices.Compact(indexes)
	var out []Range
	for i := 0; i < len(indexes); {
		j := i + 1
		if j < len(indexes) {
			step := indexes[j] - indexes[i]
			for j+1 < len(indexes) && indexes[j+1]-indexes[j] == step {
				j++
			}
			// Two numbers make a range only when they are neighbours.
			if step == 1 || j-i >= 2 {
				out = append(out, Range{indexes[i], indexes[j], step})
				i = j + 1
				continue
			}
		}
		out = append(out, Range{indexes[i], indexes[i], 1})
		i++
	}
	return out
}

// FormatRanges prints ranges as "1,3,5-9:2".
func FormatRanges(ranges []Range) string {
	var b strings.Builder
	for i, r := range ranges {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatUint(uint64(r.First), 10))
		if r.Last == r.First {
			continue
		}
		b.WriteByte('-')
		b.WriteString(strconv.FormatUint(uint64(r.Last), 10))
		if r.Step > 1 {
			b.WriteByte(':')
			b.WriteString(strconv.FormatUint(uint64(r.Step), 10))
		}
	}
	return b.String()
}

// ParseElement reads "12_3": an array and one of its elements. ok is false when s is not of that form at all.
func ParseElement(s string) (job uint64, index uint32, ok bool) {
	a, b, found := strings.Cut(strings.TrimSpace(s), "_")
	if !found || !digits(a) || !digits(b) {
		return 0, 0, false
	}
	n, i := number(a, math.MaxInt64-1), number(b, MaxArrayIndex)
	if n == 0 || n == math.MaxInt64 || i > MaxArrayIndex {
		return 0, 0, false
	}
	return uint64(n), uint32(i), true
}

// FormatElement prints "12_3".
func FormatElement(job uint64, index uint32) string {
	return strconv.FormatUint(job, 10) + "_" + strconv.FormatUint(uint64(index), 10)
}
