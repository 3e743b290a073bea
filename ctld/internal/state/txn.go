package state

import (
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// Txn collects the changes of one log entry over the state before it. Reads see the changes made so far. Nothing reaches
// the tables before Commit, so a transaction that is left alone has changed nothing.
type Txn struct {
	b *Batch

	jobs     map[uint64]*jobEdit
	jobOrder []uint64
	nodes    map[string]*nodeEdit
	// nodeOrder and jobOrder keep the order of first edits: maps have none that replicas share.
	nodeOrder []string
	added     map[uint32]int
	submits   map[submitKey]uint64
	elements  map[elementKey]uint64
	// starts counts the elements of each array that this entry has started.
	starts map[uint64]int
	// named holds, with id 0, the names of jobs that this entry added or renamed and the lowest number of each.
	named    map[nameKey]uint64
	requests []*Request
	servers  []*raftlogv1.ServerChange
	events   []*fettlev1.Event

	nextID     uint64
	requestSeq uint64
	term       uint64
	leader     *Leader
	policy     *policy

	// use is what this entry gave to jobs so far, claimed which of them it gave a claim.
	use        map[Scope]Use
	claimed    map[uint64]bool
	claimOrder []uint64
	usage      []*Usage
	spend      []*Spend
	reserved   []*Reservation
	unreserved []string
}

type jobEdit struct {
	old, now *Job
	// attempts says that the newest attempt is already a private copy.
	attempts bool
	// array says the same of the array's progress.
	array bool
}

type nodeEdit struct{ old, now *Node }

func (t *Txn) reset(b *Batch) {
	if t.jobs == nil {
		t.jobs = make(map[uint64]*jobEdit)
		t.nodes = make(map[string]*nodeEdit)
		t.added = make(map[uint32]int)
		t.submits = make(map[submitKey]uint64)
		t.elements = make(map[elementKey]uint64)
		t.starts = make(map[uint64]int)
		t.named = make(map[nameKey]uint64)
		t.use = make(map[Scope]Use)
		t.claimed = make(map[uint64]bool)
	}
	clear(t.use)
	clear(t.claimed)
	t.claimOrder, t.usage, t.spend = t.claimOrder[:0], t.usage[:0], t.spend[:0]
	t.reserved, t.unreserved = t.reserved[:0], t.unreserved[:0]
	clear(t.jobs)
	clear(t.nodes)
	clear(t.added)
	clear(t.submits)
	clear(t.elements)
	clear(t.starts)
	clear(t.named)
	t.b = b
	t.jobOrder, t.nodeOrder = t.jobOrder[:0], t.nodeOrder[:0]
	t.requests, t.servers, t.events = t.requests[:0], t.servers[:0], nil
	t.nextID, t.requestSeq, t.term = b.t.meta.nextID, b.t.meta.requestSeq, b.t.meta.term
	t.leader, t.policy = nil, nil
}

// Index is the entry's log index.
func (t *Txn) Index() uint64 { return t.b.t.meta.index }

// NowMS is the log's clock at this entry.
func (t *Txn) NowMS() int64 { return t.b.t.meta.nowMS }

// Term is the newest announced term.
func (t *Txn) Term() uint64 { return t.term }

// Job returns a row to read, nil when there is none.
func (t *Txn) Job(id uint64) *Job {
	if e, ok := t.jobs[id]; ok {
		return e.now
	}
	return getJob(t.b.t.jobs.w, id)
}

// EditJob returns a private copy of a row to change, nil when there is none. Its Spec and Attempts are still shared: see
// CloneSpec and EditAttempt.
func (t *Txn) EditJob(id uint64) *Job {
	if e := t.edit(id); e != nil {
		return e.now
	}
	return nil
}

func (t *Txn) edit(id uint64) *jobEdit {
	if e, ok := t.jobs[id]; ok {
		if e.now == nil {
			return nil
		}
		return e
	}
	old := getJob(t.b.t.jobs.w, id)
	if old == nil {
		return nil
	}
	c := *old
	e := &jobEdit{old: old, now: &c}
	t.jobs[id] = e
	t.jobOrder = append(t.jobOrder, id)
	return e
}

// EditAttempt returns a private copy of the job's newest attempt to change, nil when there is none. Its allocations are
// still shared: see EditPart.
func (t *Txn) EditAttempt(id uint64) *fettlev1.Attempt {
	e := t.edit(id)
	if e == nil || len(e.now.Attempts) == 0 {
		return nil
	}
	if !e.attempts {
		e.attempts = true
		last := len(e.now.Attempts) - 1
		attempts := append(make([]*fettlev1.Attempt, 0, last+1), e.now.Attempts...)
		attempts[last] = cloneAttempt(attempts[last])
		e.now.Attempts = attempts
	}
	return e.now.Current()
}

// EditPart returns a private copy of the newest attempt's allocation of that rank to change.
func (t *Txn) EditPart(id uint64, rank int) *fettlev1.NodeAllocation {
	a := t.EditAttempt(id)
	if a == nil || rank < 0 || rank >= len(a.Nodes) {
		return nil
	}
	a.Nodes[rank] = cloneAllocation(a.Nodes[rank])
	return a.Nodes[rank]
}

// AddAttempt gives a job its next attempt, which the caller must not change any more. The oldest are dropped beyond
// model.MaxAttemptsKept.
func (t *Txn) AddAttempt(id uint64, a *fettlev1.Attempt) {
	e := t.edit(id)
	if e == nil {
		return
	}
	keep := e.now.Attempts
	if over := len(keep) + 1 - model.MaxAttemptsKept; over > 0 {
		keep = keep[over:]
	}
	e.now.Attempts = append(append(make([]*fettlev1.Attempt, 0, len(keep)+1), keep...), a)
	e.now.Attempt = a.GetNumber()
	e.attempts = false
}

// AddJob adds a row, numbers it, and makes its texts share memory with others'. The caller hands j over. Specifications
// with the same SubmitHash, project and time limit must have been filled from the same policy.
func (t *Txn) AddJob(j *Job) uint64 {
	j.ID = t.nextID
	t.nextID++
	in := t.b.s.intern
	in.str(&j.User)
	p := t.policy
	if p == nil {
		p = t.b.t.meta.policy
	}
	j.Spec = in.spec(specKey{j.SubmitHash, p, j.Spec.GetProject(), j.Spec.GetTimeLimitS(), j.Spec.GetEstimatedRunS()}, j.Spec)
	t.jobs[j.ID] = &jobEdit{now: j}
	t.jobOrder = append(t.jobOrder, j.ID)
	t.submits[submitKey{uid: j.UID, request: j.RequestID}] = j.ID
	t.added[j.UID] += j.weight()
	if isNamed(j) {
		t.Rename(j)
	}
	t.AddUse(j, LoadOf(j))
	return j.ID
}

// RemoveJob forgets a row.
func (t *Txn) RemoveJob(id uint64) {
	if e := t.edit(id); e != nil {
		e.now = nil
	}
}

// JobByRequest returns the job that the user's idempotency key made, nil when there is none.
func (t *Txn) JobByRequest(uid uint32, requestID string) *Job {
	k := submitKey{uid: uid, request: requestID}
	if id, ok := t.submits[k]; ok {
		return t.Job(id)
	}
	if k, ok := t.b.t.submits.w.Get(k); ok {
		return t.Job(k.id)
	}
	return nil
}

// Unfinished counts jobs that are not over, before this entry's changes of state but with the jobs that it added: all of
// them, and the user's. Each element of an array counts, started or not, and so does the array's own row.
func (t *Txn) Unfinished(uid uint32) (all, user int) {
	n := 0
	for _, k := range t.added {
		n += k
	}
	return t.b.t.counts.Unfinished() + t.b.t.counts.ArrayLeft + n, t.b.t.unfinished[uid] + t.added[uid]
}

// Node returns a row to read, nil when there is none.
func (t *Txn) Node(name string) *Node {
	if e, ok := t.nodes[name]; ok {
		return e.now
	}
	return t.b.t.node(name)
}

func (t *tables) node(name string) *Node {
	key := Node{Name: name}
	n, _ := t.nodes.w.Get(&key)
	return n
}

// EditNode returns a private copy of a row to change, nil when there is none.
func (t *Txn) EditNode(name string) *Node {
	e, ok := t.nodes[name]
	if !ok {
		old := t.b.t.node(name)
		if old == nil {
			return nil
		}
		c := *old
		e = &nodeEdit{old: old, now: &c}
		t.nodes[name] = e
		t.nodeOrder = append(t.nodeOrder, name)
	}
	return e.now
}

// AddNode adds a row. The caller may go on changing n until Commit.
func (t *Txn) AddNode(n *Node) {
	e, ok := t.nodes[n.Name]
	if !ok {
		e = &nodeEdit{}
		t.nodes[n.Name] = e
		t.nodeOrder = append(t.nodeOrder, n.Name)
	}
	e.now = n
}

// RemoveNode forgets a row.
func (t *Txn) RemoveNode(name string) {
	if t.EditNode(name) != nil {
		t.nodes[name].now = nil
	}
}

// Nodes yields all nodes as they were before this entry, by name ascending.
func (t *Txn) Nodes(yield func(*Node) bool) { t.b.t.nodes.w.Ascend(yield) }

// NodeCount is the number of nodes before this entry.
func (t *Txn) NodeCount() int { return t.b.t.nodes.w.Len() }

// ActiveOn returns the jobs with an unended part on the node before this entry, ascending.
func (t *Txn) ActiveOn(node string) []uint64 { return activeOn(t.b.t.busy.w, node) }

// Policy returns the cluster policy; not to be changed.
func (t *Txn) Policy() *fettlev1.ClusterPolicy { return t.compiled().proto }

func (t *Txn) compiled() *policy {
	if t.policy != nil {
		return t.policy
	}
	return t.b.t.meta.policy
}

// Partition returns the partition of that name, nil when there is none.
func (t *Txn) Partition(name string) *Partition { return t.compiled().partitions[name] }

// DefaultPartition is where jobs go that name none; nil when there is none such.
func (t *Txn) DefaultPartition() *Partition { return t.compiled().def }

// SetPolicy replaces the cluster policy with one that model.ValidatePolicy has accepted.
func (t *Txn) SetPolicy(p *fettlev1.ClusterPolicy) *model.FieldError {
	c, err := compilePolicy(p)
	if err != nil {
		return err
	}
	t.policy = c
	return nil
}

// SetTerm announces a new term and its leader.
func (t *Txn) SetTerm(l Leader) {
	t.term = l.Term
	t.leader = &l
}

// Servers are the controllers known before this entry.
func (t *Txn) Servers() []*raftlogv1.ServerChange { return t.b.t.meta.servers }

// SetServer adds or replaces a controller.
func (t *Txn) SetServer(v *raftlogv1.ServerChange) { t.servers = append(t.servers, v) }

// Request returns what is remembered of the user's request before this entry, nil when nothing is.
func (t *Txn) Request(uid uint32, id string) *Request {
	key := Request{UID: uid, ID: id}
	r, _ := t.b.t.requests.w.Get(&key)
	return r
}

// Remember keeps the answer to a request; the oldest answers beyond the limits are forgotten.
func (t *Txn) Remember(r *Request) {
	t.requestSeq++
	r.Seq, r.Index = t.requestSeq, t.Index()
	t.requests = append(t.requests, r)
}
