package gres

import (
	"slices"
	"strconv"
	"strings"
)

// MaxDependencies bounds what one job may depend on.
const MaxDependencies = 256

// Singleton is the dependency on all earlier jobs of the same user with the same name.
const Singleton = "singleton"

// dependencyWords are the dependencies on a job.
var dependencyWords = []string{"after", "afterok", "afternotok", "afterany"}

const dependencyRemedy = "use afterok:12, afternotok:12, afterany:12, after:12 or singleton, joined with , for all or ? for any one"

// Dependency is one thing that a job waits for.
type Dependency struct {
	// Word is "after", "afterok", "afternotok", "afterany" or "singleton".
	Word string
	// Job is 0 for a singleton.
	Job uint64
	// Element says that only the element Index of the array Job counts.
	Element bool
	Index   uint32
}

// String prints "afterok:12" or "afterok:12_3".
func (d Dependency) String() string {
	switch {
	case d.Word == Singleton:
		return Singleton
	case d.Element:
		return d.Word + ":" + FormatElement(d.Job, d.Index)
	}
	return d.Word + ":" + strconv.FormatUint(d.Job, 10)
}

// Dependencies is what a job waits for: all of them, or any one.
type Dependencies struct {
	List []Dependency
	Any  bool
}

// String prints d as ParseDependencies reads it.
func (d Dependencies) String() string {
	sep := ","
	if d.Any {
		sep = "?"
	}
	words := make([]string, 0, len(d.List))
	for _, dep := range d.List {
		words = append(words, dep.String())
	}
	return strings.Join(words, sep)
}

// ParseDependencies reads what a job waits for: "afterok:12:13_4,afterany:20" waits for all, "afterok:12?afterok:13" for any
// one. A word may name several jobs. Each dependency counts once; at most MaxDependencies.
func ParseDependencies(s string) (Dependencies, error) {
	refuse := func(problem string) (Dependencies, error) {
		return Dependencies{}, &Error{"dependency", s, problem, dependencyRemedy}
	}
	if strings.Contains(s, ",") && strings.Contains(s, "?") {
		return refuse("mixes , and ?")
	}
	out := Dependencies{Any: strings.Contains(s, "?")}
	seen := make(map[Dependency]bool)
	add := func(d Dependency) bool {
		if !seen[d] {
			seen[d] = true
			out.List = append(out.List, d)
		}
		return len(out.List) <= MaxDependencies
	}
	for item := range strings.SplitSeq(strings.ReplaceAll(s, "?", ","), ",") {
		word, jobs, named := strings.Cut(strings.TrimSpace(item), ":")
		word = strings.ToLower(strings.TrimSpace(word))
		switch {
		case word == "":
			return refuse("has an empty item")
		case word == Singleton && named:
			return refuse("names jobs for singleton, which takes none")
		case word == Singleton:
			add(Dependency{Word: Singleton})
			continue
		case !slices.Contains(dependencyWords, word):
			return refuse(Quote(word) + " is not a kind of dependency")
		case !named:
			return refuse(Quote(word) + " names no job")
		}
		for job := range strings.SplitSeq(jobs, ":") {
			d := Dependency{Word: word}
			if strings.Contains(job, "_") {
				if d.Job, d.Index, d.Element = ParseElement(job); !d.Element {
					return refuse(Quote(strings.TrimSpace(job)) + " is not an element of an array")
				}
			} else {
				n, problem := jobNumber(job, item)
				if strings.TrimSpace(job) == "" {
					problem = Quote(word) + " lacks a job number"
				}
				if problem != "" {
					return refuse(problem)
				}
				d.Job = uint64(n)
			}
			if !add(d) {
				return refuse("names more than " + strconv.Itoa(MaxDependencies) + " jobs")
			}
		}
	}
	return out, nil
}
