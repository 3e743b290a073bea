package policy

import "math/bits"

// partBits is how many bits of a part lie behind the point.
const partBits = 20

// One is the whole of which a level's parts are given.
const One = uint32(1) << partBits

// Account is a user in a project, as fair share sees the two. It is shared by its jobs and not changed once it is in use.
type Account struct {
	// Levels are its path, from the topmost project down to the user in its project. Without any it has used nothing.
	Levels []Level
}

// Level is one step of an account's path, among its siblings.
type Level struct {
	Name string
	// Usage is its part of what all siblings used, decayed; One is all of it.
	Usage uint32
	// Share is its part of what all siblings are due; One is all of it, and 0 counts as 1.
	Share uint32
}

// Part is n of all in units of 1/One, rounded down; n above all counts as all, and nothing of nothing is 0.
func Part(n, all uint64) uint32 {
	if n >= all {
		if all == 0 {
			return 0
		}
		return One
	}
	hi, lo := bits.Mul64(n, uint64(One))
	q, _ := bits.Div64(hi, lo, all)
	return uint32(q)
}

// Due is what weight of all siblings' weights is due, as a Level's Share wants it: a Part of at least 1.
func Due(weight, all uint64) uint32 { return max(Part(weight, all), 1) }

// Ratio is the account's use in proportion to what it is due, in units of 1/One, summed over its levels: 0 for an account without
// use, One for each level that has used just its part.
func (a *Account) Ratio() uint64 {
	if a == nil {
		return 0
	}
	var sum uint64
	for _, l := range a.Levels {
		// At most 2^40 each, and a path is short; but whoever sends one of a million levels must not wrap it around.
		sum = min(sum+uint64(min(l.Usage, One))<<partBits/uint64(max(l.Share, 1)), 1<<62)
	}
	return sum
}

// fairShareTerm is -weight * 2^-ratio, in [-weight, 0].
func (p *Params) fairShareTerm(a *Account) int64 {
	if p.FairShareMS == 0 {
		return 0
	}
	return -halved(p.FairShareMS, a.Ratio())
}
