package state

import (
	"cmp"

	"github.com/google/btree"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// degree is a compromise: wide nodes waste room in trees that only grow at the end, and cost more to copy on write.
const degree = 16

// tree is a copy-on-write B-tree that remembers whether it changed since it was last shown to readers.
type tree[T any] struct {
	w, r  *btree.BTreeG[T]
	dirty bool
}

func newTree[T any](less func(a, b T) bool) tree[T] {
	w := btree.NewG(degree, less)
	return tree[T]{w: w, r: w.Clone()}
}

func (t *tree[T]) put(v T) {
	t.w.ReplaceOrInsert(v)
	t.dirty = true
}

func (t *tree[T]) del(v T) {
	t.w.Delete(v)
	t.dirty = true
}

// publish returns a tree that will never change again.
func (t *tree[T]) publish() *btree.BTreeG[T] {
	if t.dirty {
		t.r, t.dirty = t.w.Clone(), false
	}
	return t.r
}

type userKey struct {
	uid uint32
	id  uint64
}

type submitKey struct {
	request string
	id      uint64
	uid     uint32
}

type nodeJob struct {
	node string
	id   uint64
}

func lessJob(a, b *Job) bool   { return a.ID < b.ID }
func lessNode(a, b *Node) bool { return a.Name < b.Name }

func lessUser(a, b userKey) bool {
	if a.uid != b.uid {
		return a.uid < b.uid
	}
	return a.id < b.id
}

func lessSubmit(a, b submitKey) bool {
	if a.uid != b.uid {
		return a.uid < b.uid
	}
	return a.request < b.request
}

func lessNodeJob(a, b nodeJob) bool {
	if c := cmp.Compare(a.node, b.node); c != 0 {
		return c < 0
	}
	return a.id < b.id
}

func lessRequest(a, b *Request) bool {
	if a.UID != b.UID {
		return a.UID < b.UID
	}
	return a.ID < b.ID
}

func lessSeq(a, b *Request) bool { return a.Seq < b.Seq }

// tables is everything that is replicated, with its indexes. Only the writer touches it.
type tables struct {
	clusterID string
	meta      meta

	jobs    tree[*Job]
	pending tree[*Job]      // state PENDING
	active  tree[*Job]      // holding resources
	live    tree[userKey]   // not finished, by owner
	submits tree[submitKey] // idempotency keys of all jobs
	busy    tree[nodeJob]   // attempts' parts that have not ended, by node
	nodes   tree[*Node]

	elements   tree[elementKey]  // rows of arrays' elements
	dependents tree[dependKey]   // waiting jobs, by what they wait for
	names      tree[nameKey]     // unfinished jobs, by owner and name
	deadlines  tree[deadlineKey] // waiting jobs with a deadline

	requests      tree[*Request]
	requestOrder  tree[*Request]
	requestWeight int

	claims       tree[claimKey] // of waiting jobs, by node
	usage        tree[*Usage]
	usageOrder   tree[*Usage]
	spend        tree[*Spend]
	reservations tree[*Reservation]
	use          useTable

	// unfinished counts jobs by owner, an array's elements without a row each as one.
	unfinished map[uint32]int
	counts     Counts
	// total is the sum of all rows' hashes.
	total sum
}

// meta is the part of the state that is not in rows.
type meta struct {
	index, term uint64
	nowMS       int64
	nextID      uint64
	requestSeq  uint64
	leader      Leader
	policy      *policy
	// servers by id, ascending; replaced whole.
	servers []*raftlogv1.ServerChange
}

// Leader is what the log knows of the current leader.
type Leader struct {
	ID, Name, ClientAddr string
	Term                 uint64
}

// Counts are numbers of rows.
type Counts struct {
	byState  [int(model.Preempted) + 1]int
	Nodes    int
	Requests int
	// ArrayLeft is the number of elements of arrays that have no row of their own yet.
	ArrayLeft int
}

// In is the number of jobs in state s.
func (c Counts) In(s fettlev1.JobState) int {
	if s < 0 || int(s) >= len(c.byState) {
		return 0
	}
	return c.byState[s]
}

func (c Counts) sumOf(want func(fettlev1.JobState) bool) int {
	n := 0
	for s, k := range c.byState {
		if want(fettlev1.JobState(s)) {
			n += k
		}
	}
	return n
}

// Pending is the number of waiting jobs, held ones among them.
func (c Counts) Pending() int { return c.byState[model.Pending] }

// Running is the number of jobs in state RUNNING.
func (c Counts) Running() int { return c.byState[model.Running] }

// Active is the number of jobs that may hold resources.
func (c Counts) Active() int { return c.sumOf(model.HoldsResources) }

// Finished is the number of jobs that are over.
func (c Counts) Finished() int { return c.sumOf(model.Terminal) }

// Unfinished is the number of jobs that are not over.
func (c Counts) Unfinished() int { return c.Total() - c.Finished() }

// Total is the number of jobs known.
func (c Counts) Total() int { return c.sumOf(func(fettlev1.JobState) bool { return true }) }

func newTables(clusterID string) *tables {
	t := &tables{
		clusterID: clusterID,
		jobs:      newTree(lessJob), pending: newTree(lessJob), active: newTree(lessJob),
		live: newTree(lessUser), submits: newTree(lessSubmit), busy: newTree(lessNodeJob),
		nodes: newTree(lessNode), requests: newTree(lessRequest), requestOrder: newTree(lessSeq),
		claims: newTree(lessClaim), usage: newTree(lessUsage), usageOrder: newTree(lessUpdated), spend: newTree(lessSpend),
		reservations: newTree(lessReservation), use: newUseTable(),
		elements: newTree(lessElement), dependents: newTree(lessDepend), names: newTree(lessName), deadlines: newTree(lessDeadline),
		unfinished: make(map[uint32]int),
	}
	t.meta.nextID = 1
	t.setPolicy(&fettlev1.ClusterPolicy{})
	return t
}

// snapshot shows the present state to readers.
func (t *tables) snapshot() *Snapshot {
	t.use.flush()
	return &Snapshot{
		clusterID: t.clusterID, meta: t.meta, counts: t.counts, hash: t.hash(),
		jobs: t.jobs.publish(), pending: t.pending.publish(), active: t.active.publish(),
		live: t.live.publish(), submits: t.submits.publish(), busy: t.busy.publish(),
		nodes: t.nodes.publish(), requests: t.requests.publish(), requestOrder: t.requestOrder.publish(),
		elements: t.elements.publish(), dependents: t.dependents.publish(), names: t.names.publish(), deadlines: t.deadlines.publish(),
		claims: t.claims.publish(), usage: t.usage.publish(), spend: t.spend.publish(), reservations: t.reservations.publish(),
		use: t.use.shown.publish(),
	}
}
