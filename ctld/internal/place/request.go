package place

import (
	"math"
	"slices"
)

// GPUChoice is one way to meet a request for GPUs.
type GPUChoice struct {
	// Type is the type of every card; empty matches any, but all cards on a node, and all nodes of a job, have one type.
	Type string
	// Count is the number of cards on each node, or in all where the request is a total.
	Count int
}

// Constraint is an expression over the features of a node.
type Constraint interface {
	Matches(features []string) bool
}

// Request is one job's need. Amounts are for each of its nodes unless told otherwise.
type Request struct {
	// Nodes is how many nodes the job spans, at least 1. A total has its nodes chosen: 0 leaves their number free, more
	// bounds it from above.
	Nodes int
	// GPUs of GPUType is the first choice, see GPUChoice.
	GPUs    int
	GPUType string
	// Alternatives are the next choices, in order of preference. A later one is taken only where no earlier one fits.
	Alternatives []GPUChoice
	// Total makes counts the number of cards in all, on as few nodes as possible: nodes with the most free cards whole, the
	// rest by best fit on one more.
	Total bool
	// Even asks a total for the same number of cards on each node.
	Even bool
	// VRAMMiB, when above 0, asks for this much memory on each card instead of the whole card: other such jobs may be on it.
	VRAMMiB int64
	// MinCardMiB, when above 0, rules out cards with less memory (or unknown).
	MinCardMiB int64
	// CPUs is at least 1.
	CPUs   uint32
	MemMiB int64
	// Exclusive asks for nodes that nobody else is on, and takes all of their CPUs and memory, so that nobody joins.
	Exclusive bool
	// Constraint, when not nil, must match the features of each node.
	Constraint Constraint
	// Nodelist, when not empty, names the only nodes that may be used; Exclude those that may not.
	Nodelist, Exclude []string
	// DeviceIndexes are cards that must be among those given on every node, DeviceUUIDs cards that must be among those
	// given on the nodes that have them, and those nodes among the job's.
	DeviceIndexes []uint32
	DeviceUUIDs   []string
}

// choices are all ways to meet the request, the preferred one first.
func (r *Request) choices(buf []GPUChoice) []GPUChoice {
	return append(append(buf[:0], GPUChoice{Type: r.GPUType, Count: r.GPUs}), r.Alternatives...)
}

// cpus is what the job takes on each node: a job without any could be on a node that another has to itself.
func (r *Request) cpus() uint32 { return max(r.CPUs, 1) }

// bound is how many nodes the job spans, at most for a total.
func (r *Request) bound() int {
	if r.Total && r.Nodes <= 0 {
		return math.MaxInt
	}
	return max(r.Nodes, 1)
}

// pinsOnNode is how many cards the request names of those on a node.
func (r *Request) pinsOnNode(rec *record) int {
	n := len(r.DeviceIndexes)
	if len(r.DeviceUUIDs) == 0 {
		return n
	}
	for g := range rec.node.GPUs {
		if slices.Contains(r.DeviceUUIDs, rec.node.GPUs[g].UUID) && !slices.Contains(r.DeviceIndexes, rec.node.GPUs[g].Index) {
			n++
		}
	}
	return n
}
