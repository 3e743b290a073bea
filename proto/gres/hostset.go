package gres

import "slices"

// HostSet is an immutable set of node names. The zero value is empty.
type HostSet struct {
	sorted []string // by CompareHosts, each once
}

// NewHostSet makes a set of names, taken as they are.
func NewHostSet(names ...string) HostSet {
	sorted := slices.Clone(names)
	slices.SortFunc(sorted, CompareHosts)
	return HostSet{slices.Compact(sorted)}
}

// ParseHostSet reads a list of nodes as ExpandHosts does.
func ParseHostSet(s string) (HostSet, error) {
	names, err := ExpandHosts(s)
	if err != nil {
		return HostSet{}, err
	}
	return NewHostSet(names...), nil
}

// Len is the number of names.
func (h HostSet) Len() int { return len(h.sorted) }

// Contains reports whether name is in the set.
func (h HostSet) Contains(name string) bool {
	_, ok := slices.BinarySearchFunc(h.sorted, name, CompareHosts)
	return ok
}

// ContainsAll reports whether every name of other is in h.
func (h HostSet) ContainsAll(other HostSet) bool {
	for _, name := range other.sorted {
		if !h.Contains(name) {
			return false
		}
	}
	return true
}

// Intersect returns the names that are in both sets.
func (h HostSet) Intersect(other HostSet) HostSet {
	return h.keep(func(name string) bool { return other.Contains(name) })
}

// Minus returns the names of h that are not in other.
func (h HostSet) Minus(other HostSet) HostSet {
	return h.keep(func(name string) bool { return !other.Contains(name) })
}

// Union returns the names that are in either set.
func (h HostSet) Union(other HostSet) HostSet {
	return NewHostSet(slices.Concat(h.sorted, other.sorted)...)
}

func (h HostSet) keep(want func(string) bool) HostSet {
	var out []string
	for _, name := range h.sorted {
		if want(name) {
			out = append(out, name)
		}
	}
	return HostSet{out}
}

// Names returns the names in order, in a slice of the caller's own.
func (h HostSet) Names() []string { return slices.Clone(h.sorted) }

// String prints the set as FormatHosts does.
func (h HostSet) String() string { return FormatHosts(h.sorted) }
