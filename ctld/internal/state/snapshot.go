package state

import (
	"github.com/google/btree"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// Snapshot is the whole state at one log index. It never changes and needs no lock. Every row that it hands out is
// shared and must not be changed.
type Snapshot struct {
	clusterID string
	meta      meta
	counts    Counts
	hash      [32]byte

	jobs, pending, active  *btree.BTreeG[*Job]
	live                   *btree.BTreeG[userKey]
	submits                *btree.BTreeG[submitKey]
	busy                   *btree.BTreeG[nodeJob]
	nodes                  *btree.BTreeG[*Node]
	requests, requestOrder *btree.BTreeG[*Request]

	elements   *btree.BTreeG[elementKey]
	dependents *btree.BTreeG[dependKey]
	names      *btree.BTreeG[nameKey]
	deadlines  *btree.BTreeG[deadlineKey]

	claims       *btree.BTreeG[claimKey]
	usage        *btree.BTreeG[*Usage]
	spend        *btree.BTreeG[*Spend]
	reservations *btree.BTreeG[*Reservation]
	use          *btree.BTreeG[*scopeUse]
}

// ClusterID names the cluster that the state belongs to.
func (s *Snapshot) ClusterID() string { return s.clusterID }

// Index is the newest log index in the snapshot.
func (s *Snapshot) Index() uint64 { return s.meta.index }

// Term is the newest term that a leader announced in the log.
func (s *Snapshot) Term() uint64 { return s.meta.term }

// NowMS is the log's clock, Unix milliseconds: it never goes back, and stands still between entries.
func (s *Snapshot) NowMS() int64 { return s.meta.nowMS }

// Hash is equal on every replica at equal index.
func (s *Snapshot) Hash() [32]byte { return s.hash }

// Counts are numbers of rows.
func (s *Snapshot) Counts() Counts { return s.counts }

// Leader is the leader that last announced itself in the log.
func (s *Snapshot) Leader() Leader { return s.meta.leader }

// NextJobID is the number that the next job will get.
func (s *Snapshot) NextJobID() uint64 { return s.meta.nextID }

// Policy is the cluster's policy; never nil, not to be changed.
func (s *Snapshot) Policy() *fettlev1.ClusterPolicy { return s.meta.policy.proto }

// Partition returns the partition of that name, nil when the policy has none.
func (s *Snapshot) Partition(name string) *Partition { return s.meta.policy.partitions[name] }

// DefaultPartition is where jobs go that name none; nil when the policy marks none as default.
func (s *Snapshot) DefaultPartition() *Partition { return s.meta.policy.def }

// Servers are the controllers ever known, by id ascending, retired ones among them. Not to be changed.
func (s *Snapshot) Servers() []*raftlogv1.ServerChange { return s.meta.servers }

// Job returns one job, nil when there is none of that number.
func (s *Snapshot) Job(id uint64) *Job { return getJob(s.jobs, id) }

func getJob(t *btree.BTreeG[*Job], id uint64) *Job {
	key := Job{ID: id}
	j, _ := t.Get(&key)
	return j
}

// Jobs yields the jobs with a number above after, ascending, until yield returns false.
func (s *Snapshot) Jobs(after uint64, yield func(*Job) bool) {
	if after == ^uint64(0) {
		return
	}
	key := Job{ID: after + 1}
	s.jobs.AscendGreaterOrEqual(&key, yield)
}

// Pending yields the jobs in state PENDING, ascending by number, held ones among them.
func (s *Snapshot) Pending(yield func(*Job) bool) { s.pending.Ascend(yield) }

// Active yields the jobs that may hold resources (DISPATCHING to FENCING), ascending by number.
func (s *Snapshot) Active(yield func(*Job) bool) { s.active.Ascend(yield) }

// JobsOfUser yields the user's jobs that are not finished, ascending by number, at a cost of only those.
func (s *Snapshot) JobsOfUser(uid uint32, yield func(*Job) bool) {
	s.live.AscendGreaterOrEqual(userKey{uid: uid}, func(k userKey) bool {
		if k.uid != uid {
			return false
		}
		j := s.Job(k.id)
		return j == nil || yield(j)
	})
}

// JobByRequest returns the job that this user's idempotency key made, nil when it made none. A purged job is not found.
func (s *Snapshot) JobByRequest(uid uint32, requestID string) *Job {
	k, ok := s.submits.Get(submitKey{uid: uid, request: requestID})
	if !ok {
		return nil
	}
	return s.Job(k.id)
}

// Node returns one node, nil when there is none of that name.
func (s *Snapshot) Node(name string) *Node {
	key := Node{Name: name}
	n, _ := s.nodes.Get(&key)
	return n
}

// Nodes yields all nodes by name, ascending bytewise, until yield returns false.
func (s *Snapshot) Nodes(yield func(*Node) bool) { s.nodes.Ascend(yield) }

// ActiveOn returns the numbers of the jobs whose current attempt has a part on the node that has not ended, ascending.
func (s *Snapshot) ActiveOn(node string) []uint64 { return activeOn(s.busy, node) }

func activeOn(t *btree.BTreeG[nodeJob], node string) []uint64 {
	var ids []uint64
	t.AscendGreaterOrEqual(nodeJob{node: node}, func(k nodeJob) bool {
		if k.node != node {
			return false
		}
		ids = append(ids, k.id)
		return true
	})
	return ids
}
