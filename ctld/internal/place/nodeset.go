package place

import (
	"iter"
	"math/bits"
)

// NodeSet is a set of node positions in a Cluster.
type NodeSet struct{ words []uint64 }

// NewNodeSet makes an empty set for a cluster of n nodes.
func NewNodeSet(n int) NodeSet { return NodeSet{words: make([]uint64, (n+63)/64)} }

// Add puts position i into the set.
func (s NodeSet) Add(i int) { s.words[i/64] |= 1 << (i % 64) }

// Union adds every member of t.
func (s NodeSet) Union(t NodeSet) {
	for i, w := range t.words {
		s.words[i] |= w
	}
}

// And returns the members of both.
func (s NodeSet) And(t NodeSet) NodeSet {
	r := NodeSet{words: make([]uint64, len(s.words))}
	for i := range r.words {
		r.words[i] = s.words[i] & t.words[i]
	}
	return r
}

// Without returns the members of s that are not in t.
func (s NodeSet) Without(t NodeSet) NodeSet {
	r := NodeSet{words: make([]uint64, len(s.words))}
	for i := range r.words {
		r.words[i] = s.words[i] &^ t.words[i]
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
