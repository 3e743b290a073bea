package fsm

import "bytes"

// hashesKept is how many log entries back a hash checkpoint can be compared.
const hashesKept = 4096

// hashRing remembers the state's hash after each of the newest entries.
type hashRing struct {
	slots []hashAt
}

type hashAt struct {
	index uint64
	hash  [32]byte
}

func newHashRing() *hashRing { return &hashRing{slots: make([]hashAt, hashesKept)} }

func (r *hashRing) add(index uint64, hash [32]byte) {
	r.slots[index%hashesKept] = hashAt{index, hash}
}

func (r *hashRing) reset() { clear(r.slots) }

// agrees reports whether the hash at index is the given one, or not known here any more (or not yet: a replica that
// started from a later snapshot).
func (r *hashRing) agrees(index uint64, hash []byte) bool {
	s := &r.slots[index%hashesKept]
	return index == 0 || s.index != index || bytes.Equal(s.hash[:], hash)
}
