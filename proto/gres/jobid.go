package gres

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// MaxJobIDs bounds how many jobs one list may name.
const MaxJobIDs = 100_000

const jobIDRemedy = "use job numbers such as 12,15-20"

// JobAttempt names a job and perhaps one of its attempts.
type JobAttempt struct {
	Job uint64
	// Attempt is 1 for the first try; 0 when none was named.
	Attempt uint32
}

// String prints "123" or "123.2".
func (j JobAttempt) String() string {
	s := strconv.FormatUint(j.Job, 10)
	if j.Attempt > 0 {
		s += "." + strconv.FormatUint(uint64(j.Attempt), 10)
	}
	return s
}

// ParseJobIDs reads a list of job numbers such as "12,15-20" and returns each once, in the order written. At most
// MaxJobIDs numbers, counted before repeats are dropped.
func ParseJobIDs(s string) ([]uint64, error) {
	refuse := func(problem string) ([]uint64, error) {
		return nil, &Error{"job list", s, problem, jobIDRemedy}
	}
	type span struct{ lo, hi int64 }
	var spans []span
	total := int64(0)
	for item := range strings.SplitSeq(s, ",") {
		item = strings.TrimSpace(item)
		a, b, isRange := strings.Cut(item, "-")
		if !isRange {
			b = a
		}
		lo, problem := jobNumber(a, item)
		if problem != "" {
			return refuse(problem)
		}
		hi, problem := jobNumber(b, item)
		if problem != "" {
			return refuse(problem)
		}
		if lo > hi {
			return refuse("the range " + Quote(item) + " runs backwards")
		}
		if hi-lo >= MaxJobIDs || total+hi-lo+1 > MaxJobIDs {
			return refuse("names more than " + strconv.Itoa(MaxJobIDs) + " jobs")
		}
		total += hi - lo + 1
		spans = append(spans, span{lo, hi})
	}
	ids := make([]uint64, 0, total)
	seen := make(map[uint64]struct{}, total)
	for _, sp := range spans {
		for n := sp.lo; ; n++ {
			id := uint64(n)
			if _, dup := seen[id]; !dup {
				seen[id] = struct{}{}
				ids = append(ids, id)
			}
			if n == sp.hi {
				break
			}
		}
	}
	return ids, nil
}

// jobNumber reads one job number; item is the part of the list that it stands in.
func jobNumber(s, item string) (int64, string) {
	s = strings.TrimSpace(s)
	switch {
	case item == "":
		return 0, "has an empty item"
	case s == "":
		return 0, "the range " + Quote(item) + " lacks a number"
	case digits(s):
	case strings.Contains(s, "_"):
		return 0, Quote(item) + " is an array element where a whole job is wanted"
	case strings.Contains(s, "."):
		return 0, Quote(item) + " names an attempt where a job is wanted"
	default:
		return 0, Quote(item) + " is not a job number"
	}
	n := number(s, math.MaxInt64-1)
	switch {
	case n == 0:
		return 0, "job numbers start at 1"
	case n == math.MaxInt64:
		return 0, Quote(item) + " is too large"
	}
	return n, ""
}

// FormatJobIDs prints job numbers in ascending order, each once, runs of three and more as ranges: "12,15-20".
func FormatJobIDs(ids []uint64) string {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	var b strings.Builder
	for i := 0; i < len(ids); {
		j := i
		for j+1 < len(ids) && ids[j+1] == ids[j]+1 {
			j++
		}
		if j-i < 2 {
			j = i
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatUint(ids[i], 10))
		if j > i {
			b.WriteByte('-')
			b.WriteString(strconv.FormatUint(ids[j], 10))
		}
		i = j + 1
	}
	return b.String()
}

// ParseJobAttempt reads "123" or "123.2": a job, and perhaps one of its attempts.
func ParseJobAttempt(s string) (JobAttempt, error) {
	const remedy = "use a job number such as 123, or 123.2 for its second attempt"
	refuse := func(problem string) (JobAttempt, error) {
		return JobAttempt{}, &Error{"job", s, problem, remedy}
	}
	t := strings.TrimSpace(s)
	if t == "" {
		return refuse("is empty")
	}
	job, att, dotted := strings.Cut(t, ".")
	if job == "" {
		return refuse("lacks the job number")
	}
	n, problem := jobNumber(job, t)
	if problem != "" {
		return refuse(problem)
	}
	out := JobAttempt{Job: uint64(n)}
	if !dotted {
		return out, nil
	}
	if !digits(att) {
		return refuse("the attempt " + Quote(att) + " is not a number")
	}
	a := number(att, math.MaxUint32)
	if a == 0 {
		return refuse("attempts start at 1")
	}
	if a > math.MaxUint32 {
		return refuse("the attempt is too large")
	}
	out.Attempt = uint32(a)
	return out, nil
}
