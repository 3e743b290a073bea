package place

import (
	"iter"
	"math/bits"
	"slices"
)

// NodeSet is a set of node positions in a Cluster. Sets of different sizes can be mixed: what one has no room for is not in it.
type NodeSet struct{ words []uint64 }

// NewNodeSet makes an empty set with room for positions below n.
func NewNodeSet(n int) NodeSet { return NodeSet{words: make([]uint64, (n+63)/64)} }

// Add puts position i, which must be below the set's size, into the set.
func (s NodeSet) Add(i int) { s.words[i/64] |= 1 << (i % 64) }

// Remove takes position i out of the set.
func (s NodeSet) Remove(i int) {
	if i/64 < len(s.words) {
		s.words[i/64] &^= 1 << (i % 64)
	}
}

// Has reports whether position i is in the set.
func (s NodeSet) Has(i int) bool { return i/64 < len(s.words) && s.words[i/64]&(1<<(i%64)) != 0 }

// Clone copies the set.
func (s NodeSet) Clone() NodeSet { return NodeSet{words: slices.Clone(s.words)} }

// Equal reports whether both have the same members.
func (s NodeSet) Equal(t NodeSet) bool { return s.Without(t).Empty() && t.Without(s).Empty() }

// Empty reports whether the set has no member.
func (s NodeSet) Empty() bool {
	for _, w := range s.words {
		if w != 0 {
			return false
		}
	}
	return true
}

// Union adds every member of t, which must not be larger than s.
func (s NodeSet) Union(t NodeSet) {
	for i, w := range t.words {
		if w != 0 {
			s.words[i] |= w
		}
	}
}

// And returns the members of both.
func (s NodeSet) And(t NodeSet) NodeSet {
	r := NodeSet{words: make([]uint64, min(len(s.words), len(t.words)))}
	for i := range r.words {
		r.words[i] = s.words[i] & t.words[i]
	}
	return r
}

// Without returns the members of s that are not in t.
func (s NodeSet) Without(t NodeSet) NodeSet {
	r := s.Clone()
	for i := range min(len(r.words), len(t.words)) {
		r.words[i] &^= t.words[i]
	}
	return r
}

// Len is the number of members.
func (s NodeSet) Len() int {
	n := 0
	for _, w := range s.words {
		n += bits.OnesCount64(w)
	}
	return n
}

// All yields the members in ascending order.
func (s NodeSet) All() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, w := range s.words {
			for w != 0 {
				b := bits.TrailingZeros64(w)
				if !yield(i*64 + b) {
					return
				}
				w &^= 1 << b
			}
		}
	}
}
