package model

import (
	"strconv"
	"strings"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
)

// Short names for the kinds of dependencies.
const (
	After      = fettlev1.DependencyKind_DEPENDENCY_KIND_AFTER
	AfterOK    = fettlev1.DependencyKind_DEPENDENCY_KIND_AFTEROK
	AfterNotOK = fettlev1.DependencyKind_DEPENDENCY_KIND_AFTERNOTOK
	AfterAny   = fettlev1.DependencyKind_DEPENDENCY_KIND_AFTERANY
	Singleton  = fettlev1.DependencyKind_DEPENDENCY_KIND_SINGLETON
)

// Fate is what has become of a dependency.
type Fate uint8

const (
	// Open: it may still be met.
	Open Fate = iota
	// Met: it holds, and always will.
	Met
	// Never: it can never be met any more.
	Never
)

// FateOf says what has become of a dependency on a job in that state, which has started at least once or not. Singletons
// are not about one job and stay open here.
func FateOf(kind fettlev1.DependencyKind, s fettlev1.JobState, started bool) Fate {
	over := Terminal(s)
	switch kind {
	case After:
		if over || started {
			return Met
		}
	case AfterOK:
		if s == Completed {
			return Met
		}
		if over {
			return Never
		}
	case AfterNotOK:
		if s == Completed {
			return Never
		}
		if over {
			return Met
		}
	case AfterAny:
		if over {
			return Met
		}
	}
	return Open
}

var dependencyWords = [...]string{After: "after", AfterOK: "afterok", AfterNotOK: "afternotok", AfterAny: "afterany", Singleton: gres.Singleton}

// ToDependencies turns what gres.ParseDependencies read into what a specification holds.
func ToDependencies(d gres.Dependencies) []*fettlev1.Dependency {
	out := make([]*fettlev1.Dependency, 0, len(d.List))
	for _, dep := range d.List {
		p := &fettlev1.Dependency{JobId: dep.Job}
		for k, w := range dependencyWords {
			if w == dep.Word && w != "" {
				p.Kind = fettlev1.DependencyKind(k)
			}
		}
		if dep.Element {
			p.Index = &dep.Index
		}
		out = append(out, p)
	}
	return out
}

// DependencyText prints one dependency as "afterok:12" or "afterok:12_3".
func DependencyText(d *fettlev1.Dependency) string {
	k := int(d.GetKind())
	if k <= 0 || k >= len(dependencyWords) {
		return "unknown:" + strconv.FormatUint(d.GetJobId(), 10)
	}
	return gres.Dependency{Word: dependencyWords[k], Job: d.GetJobId(), Element: d.Index != nil, Index: d.GetIndex()}.String()
}

// DependenciesText prints dependencies as gres.ParseDependencies reads them.
func DependenciesText(ds []*fettlev1.Dependency, anyOne bool) string {
	words := make([]string, 0, len(ds))
	for _, d := range ds {
		words = append(words, DependencyText(d))
	}
	if anyOne {
		return strings.Join(words, "?")
	}
	return strings.Join(words, ",")
}

func checkDependencies(s *fettlev1.JobSpec) *FieldError {
	if len(s.GetDependencies()) > gres.MaxDependencies {
		return invalid("dependency", "names more than "+strconv.Itoa(gres.MaxDependencies)+" jobs", "depend on an array, or on a job in between")
	}
	type key struct {
		kind    fettlev1.DependencyKind
		job     uint64
		element bool
		index   uint32
	}
	seen := make(map[key]bool, len(s.GetDependencies()))
	for _, d := range s.GetDependencies() {
		k := key{d.GetKind(), d.GetJobId(), d.GetIndex() != 0 || d != nil && d.Index != nil, d.GetIndex()}
		switch {
		case k.kind < After || k.kind > Singleton:
			return invalid("dependency", "is of an unknown kind", "use afterok, afternotok, afterany, after or singleton")
		case k.kind == Singleton && (k.job != 0 || k.element):
			return invalid("dependency", "names a job for singleton", "singleton takes none")
		case k.kind != Singleton && k.job == 0:
			return invalid("dependency", "names no job for "+dependencyWords[k.kind], "write "+dependencyWords[k.kind]+":12")
		case k.element && k.index > gres.MaxArrayIndex:
			return invalid("dependency", "names an element above "+strconv.Itoa(gres.MaxArrayIndex), "use one that the array has")
		case seen[k]:
			return invalid("dependency", "names "+DependencyText(d)+" twice", "name it once")
		}
		seen[k] = true
	}
	if s.GetDependencyAny() && len(s.GetDependencies()) == 0 {
		return invalid("dependency", "asks for any one of none", "name jobs to depend on")
	}
	return nil
}
