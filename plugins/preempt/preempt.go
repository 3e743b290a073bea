// Package preempt picks the running jobs that are stopped for blocked ones, as a pure function: the shipped plugin
// fettle-preempt-lostwork answers it, and the controller falls back on it when that plugin is missing or late.
//
// Stopping a job costs what it has to do again,
//
//	C(v) = GPUs of v x (seconds since its last verified checkpoint + seconds that a restart takes)
//
// and the victims of a blocked job are a set of least total cost with which all of it fits: GPUs, CPUs and memory on
// each of its nodes, or nothing is done. For a job on one node the set is exact: all subsets of the candidates on each node
// are searched, branches that cannot get cheaper or cannot suffice cut off, and the cheapest node wins; ties go to fewer
// victims, then to the set whose most urgent member is least urgent, then to the earlier node. (With more than a dozen
// candidates on one node the search may end at its bound with the best set seen.)
// For a gang of k nodes the cheapest node is taken k times, at the price of what is not stopped yet, so that a victim that spans nodes
// is paid once; this is done with prices in full and with prices shared among a victim's nodes, what turned out
// superfluous is dropped from either, and the cheaper is taken. A gang finds a set whenever there is one, not always the cheapest.
//
// Blocked jobs are served in their order; what the victims of one leave over is used for the next before anybody else is stopped.
//
// Who may be stopped at all (partition, priority gap, minimum run, budget, loss against run) is decided before, by the
// controller, and every answer is checked with Check whoever gave it.
package preempt

// Name is what the policy is called in answers and logs.
const Name = "lostwork"

// Request is what a policy knows when it chooses.
type Request struct {
	// NowMS is in Unix milliseconds.
	NowMS int64
	// Jobs are blocked, first in the queue first.
	Jobs []Job
	// Candidates run, and may be stopped for one of the jobs or several.
	Candidates []Candidate
	// Nodes are names; the numbers in places and holdings are places in this list.
	Nodes []string
}

// Job is a waiting job that asked to preempt and does not fit.
type Job struct {
	ID uint64
	// Score is as the scheduling policy gave it: lower is earlier.
	Score int64
	// Needs are what would do, best first. One of them is to be met.
	Needs []Need
	// Candidates are places in the request's list: who may be stopped for it.
	Candidates []int
}

// Need is a number of nodes with resources on each, all or nothing.
type Need struct {
	Nodes int
	// GPUs, CPUs and MemoryMiB are wanted on each node.
	GPUs, CPUs int
	MemoryMiB  int64
	// Places are the nodes that could hold a share of the job if they were idle.
	Places []Place
	// GPUType is for people; empty when any type would do.
	GPUType string
}

// Place is what one node has for one need.
type Place struct {
	Node int
	// GPUs, CPUs and MemoryMiB are free now, of what the job could use.
	GPUs, CPUs int
	MemoryMiB  int64
	// Cards that the job could use and that only candidates hold, by their number on the node. A card is free when all who hold
	// part of it are stopped.
	Cards []int
}

// Candidate is a running job that may be stopped.
type Candidate struct {
	ID uint64
	// Size is its GPUs in all; a job without GPUs counts its CPUs / 8, at least 1.
	Size uint32
	// LostS is the seconds of work since its last verified checkpoint, 0 when it saves on request; RestartS what coming back
	// takes in seconds; RunS the seconds since it started.
	LostS, RestartS, RunS int64
	Score                 int64
	// Preempted is how often it has been stopped for others before.
	Preempted uint32
	Holds     []Holding
}

// Holding is what a candidate has on one node, which it names once.
type Holding struct {
	Node int
	// Cards by their number on the node, whole or in part.
	Cards     []int
	CPUs      int
	MemoryMiB int64
}

// Selection is what is to be done for one blocked job.
type Selection struct {
	Job uint64
	// Need is the place in the job's needs of the one that is met.
	Need int
	// Victims are the numbers of the jobs to stop, in ascending order. Without any nothing is to be done: Reason says why, and
	// Nodes, when there are some, where the job fits all the same.
	Victims []uint64
	// Nodes are places in the request's list, as many as the need asks for.
	Nodes []int
	// Reason is one sentence for people.
	Reason string
}

// Bounds that keep sums of costs within 64 bits.
const (
	maxSeconds = 1 << 31
	maxSize    = 1 << 16
)

// Cost is what stopping the candidate loses, in GPU-seconds.
func (c *Candidate) Cost() uint64 {
	lost, restart := max(0, min(c.LostS, maxSeconds)), max(0, min(c.RestartS, maxSeconds))
	return uint64(min(max(c.Size, 1), maxSize)) * uint64(lost+restart)
}

// Select answers one selection for each blocked job, in their order.
func Select(req *Request) []Selection {
	s := newState(req)
	out := make([]Selection, 0, len(req.Jobs))
	for i := range req.Jobs {
		out = append(out, s.serve(&req.Jobs[i]))
	}
	return out
}
