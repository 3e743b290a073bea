package gres

import (
	"strings"
)

// Elements names elements of one array.
type Elements struct {
	Job uint64
	// Ranges are ascending and apart from each other.
	Ranges []Range
}

// Jobs is a list of jobs and of elements of arrays.
type Jobs struct {
	// IDs are whole jobs, each once, in the order written.
	IDs []uint64
	// Elements has one item per array, in the order in which they were first written.
	Elements []Elements
}

const jobsRemedy = "use job numbers such as 12,15-20, or elements such as 12_3 or 12_[1-5,7]"

// ParseJobs reads a list such as "12,15-20,30_3,30_[5-9:2]": jobs as ParseJobIDs does, and elements of arrays. At most
// MaxJobIDs jobs and elements in all, counted before repeats are dropped.
func ParseJobs(s string) (Jobs, error) {
	refuse := func(problem string) (Jobs, error) {
		return Jobs{}, &Error{"job list", s, problem, jobsRemedy}
	}
	var plain []string
	indexes := make(map[uint64][]uint32)
	var order []uint64
	total := 0
	for _, item := range splitItems(s) {
		item = strings.TrimSpace(item)
		job, list, isElement := strings.Cut(item, "_")
		if !isElement {
			plain = append(plain, item)
			continue
		}
		id, problem := jobNumber(job, item)
		if problem != "" {
			return refuse(problem)
		}
		list = strings.TrimSpace(list)
		if inner, ok := strings.CutPrefix(list, "["); ok {
			if list, ok = strings.CutSuffix(inner, "]"); !ok {
				return refuse(Quote(item) + " leaves a bracket open")
			}
		} else if !digits(list) {
			return refuse(Quote(item) + " is not an element of an array")
		}
		ranges, problem := parseRanges(list)
		if problem != "" {
			return refuse(Quote(item) + " " + problem)
		}
		if total += rangesLen(ranges); total > MaxJobIDs {
			return refuse("names more than 100000 jobs")
		}
		if indexes[uint64(id)] == nil {
			order = append(order, uint64(id))
		}
		for _, r := range ranges {
			for n := r.First; ; n += r.Step {
				indexes[uint64(id)] = append(indexes[uint64(id)], n)
				if r.Last-n < r.Step {
					break
				}
			}
		}
	}
	var out Jobs
	if len(plain) > 0 || len(order) == 0 {
		ids, err := ParseJobIDs(strings.Join(plain, ","))
		if err != nil {
			e := *err.(*Error)
			e.Input, e.Remedy = s, jobsRemedy
			return Jobs{}, &e
		}
		if len(ids)+total > MaxJobIDs {
			return refuse("names more than 100000 jobs")
		}
		out.IDs = ids
	}
	for _, id := range order {
		out.Elements = append(out.Elements, Elements{Job: id, Ranges: RangesOf(indexes[id])})
	}
	return out, nil
}

// splitItems splits at commas outside brackets.
func splitItems(s string) []string {
	var out []string
	depth, from := 0, 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '[':
			depth++
		case ']':
			depth = max(depth-1, 0)
		case ',':
			if depth == 0 {
				out = append(out, s[from:i])
				from = i + 1
			}
		}
	}
	return append(out, s[from:])
}

// String prints j as ParseJobs reads it.
func (j Jobs) String() string {
	var parts []string
	if len(j.IDs) > 0 {
		parts = append(parts, FormatJobIDs(j.IDs))
	}
	for _, e := range j.Elements {
		if len(e.Ranges) == 1 && e.Ranges[0].First == e.Ranges[0].Last {
			parts = append(parts, FormatElement(e.Job, e.Ranges[0].First))
			continue
		}
		parts = append(parts, FormatJobIDs([]uint64{e.Job})+"_["+FormatRanges(e.Ranges)+"]")
	}
	return strings.Join(parts, ",")
}
