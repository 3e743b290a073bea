package state

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// Records yields the whole snapshot as the records between a file's header and its trailer: first the meta record, then
// controllers, nodes, jobs and requests, each in the order of its key. Records share memory with the rows.
func (s *Snapshot) Records(yield func(*raftlogv1.SnapshotRecord) bool) {
	m := &s.meta
	ok := yield(&raftlogv1.SnapshotRecord{Record: &raftlogv1.SnapshotRecord_Meta{Meta: &raftlogv1.MetaRecord{
		Index: m.index, Term: m.term, NowMs: m.nowMS, NextJobId: m.nextID, Policy: m.policy.proto, RequestSeq: m.requestSeq,
		LeaderId: m.leader.ID, LeaderName: m.leader.Name, LeaderClientAddr: m.leader.ClientAddr,
	}}})
	for _, v := range m.servers {
		ok = ok && yield(&raftlogv1.SnapshotRecord{Record: &raftlogv1.SnapshotRecord_Server{Server: v}})
	}
	if !ok {
		return
	}
	s.nodes.Ascend(func(n *Node) bool {
		ok = yield(&raftlogv1.SnapshotRecord{Record: &raftlogv1.SnapshotRecord_Node{Node: &raftlogv1.NodeRecord{Node: n.Proto()}}})
		return ok
	})
	if !ok {
		return
	}
	s.jobs.Ascend(func(j *Job) bool {
		ok = yield(&raftlogv1.SnapshotRecord{Record: &raftlogv1.SnapshotRecord_Job{Job: j.record()}})
		return ok
	})
	if !ok {
		return
	}
	s.requests.Ascend(func(r *Request) bool {
		ok = yield(&raftlogv1.SnapshotRecord{Record: &raftlogv1.SnapshotRecord_Request{Request: r.record()}})
		return ok
	})
	if ok {
		s.tenantRecords(yield)
	}
}

func (j *Job) record() *raftlogv1.JobRecord {
	return &raftlogv1.JobRecord{
		Job: j.Proto(true), RetryAtMs: j.RetryAtMS, RequeueRequested: j.RequeueRequested, EndReason: j.EndReason,
		HeldByAdmin: j.HeldByAdmin, SubmitHash: j.SubmitHash[:], FirstBad: j.FirstBad,
		Claim: j.Claim, StopGraceS: j.StopGraceS, Project: j.Project,
	}
}

func (r *Request) record() *raftlogv1.RequestRecord {
	return &raftlogv1.RequestRecord{
		Uid: r.UID, RequestId: r.ID, SpecHash: r.Hash[:], JobId: r.JobID, Index: r.Index, Result: r.Result, Seq: r.Seq, Weight: r.Weight,
	}
}

// Errors of records that cannot be a snapshot of this cluster's state.
var (
	// ErrRecord: a record is missing something, or is out of order.
	ErrRecord = errors.New("bad record")
	// ErrInconsistent: the records contradict each other.
	ErrInconsistent = errors.New("records contradict each other")
)

func badRecord(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRecord, fmt.Sprintf(format, args...))
}

// Builder builds a state from records beside the one in use.
type Builder struct {
	t       *tables
	in      *interner
	buf     canon
	started bool
	last    string
	lastJob uint64
	lastReq *Request
}

// NewBuilder begins a state of the named cluster.
func NewBuilder(clusterID string) *Builder {
	return &Builder{t: newTables(clusterID), in: newInterner()}
}

// Add takes the next record, in the order of Snapshot.Records. The builder keeps what it needs of r.
func (b *Builder) Add(r *raftlogv1.SnapshotRecord) error {
	if _, ok := r.GetRecord().(*raftlogv1.SnapshotRecord_Meta); ok == b.started {
		return badRecord("the meta record must come once, and first")
	}
	b.started = true
	switch rec := r.GetRecord().(type) {
	case *raftlogv1.SnapshotRecord_Meta:
		return b.addMeta(rec.Meta)
	case *raftlogv1.SnapshotRecord_Server:
		b.t.setServer(rec.Server)
		return nil
	case *raftlogv1.SnapshotRecord_Node:
		return b.addNode(rec.Node.GetNode())
	case *raftlogv1.SnapshotRecord_Job:
		return b.addJob(rec.Job)
	case *raftlogv1.SnapshotRecord_Request:
		return b.addRequest(rec.Request)
	case *raftlogv1.SnapshotRecord_Usage:
		return b.addUsage(rec.Usage)
	case *raftlogv1.SnapshotRecord_Spend:
		return b.addSpend(rec.Spend)
	case *raftlogv1.SnapshotRecord_Reservation:
		return b.addReservation(rec.Reservation)
	}
	return badRecord("kind %T", r.GetRecord())
}

func (b *Builder) addMeta(m *raftlogv1.MetaRecord) error {
	p := m.GetPolicy()
	if p == nil {
		p = &fettlev1.ClusterPolicy{}
	}
	if err := b.t.setPolicy(p); err != nil {
		return badRecord("policy: %v", err)
	}
	b.t.meta.index, b.t.meta.term, b.t.meta.nowMS = m.GetIndex(), m.GetTerm(), m.GetNowMs()
	b.t.meta.nextID, b.t.meta.requestSeq = m.GetNextJobId(), m.GetRequestSeq()
	b.t.meta.leader = Leader{ID: m.GetLeaderId(), Name: m.GetLeaderName(), ClientAddr: m.GetLeaderClientAddr(), Term: m.GetTerm()}
	if m.GetLeaderId() == "" {
		b.t.meta.leader.Term = 0
	}
	return nil
}

func (b *Builder) addNode(p *fettlev1.Node) error {
	if p.GetName() <= b.last {
		return badRecord("node %.64q comes after %.64q", p.GetName(), b.last)
	}
	b.last = p.GetName()
	n := &Node{
		Name: p.GetName(), State: p.GetState(), Drained: p.GetDrained(), DrainReason: p.GetDrainReason(),
		BootID: p.GetBootId(), Session: p.GetSession(), Inventory: p.GetInventory(),
		RegisteredMS: p.GetRegisteredMs(), StateSinceMS: p.GetStateSinceMs(),
		LaunchFailures: p.GetConsecutiveLaunchFailures(), CPUsUsed: p.GetCpusUsed(), MemUsedMiB: p.GetMemUsedMib(),
		Exclusive: p.GetExclusiveJob(),
	}
	if n.Inventory == nil {
		return badRecord("node %.64q has no inventory", n.Name)
	}
	for i, h := range p.GetGpuHolders() {
		hold := GPUHold{UUID: h.GetUuid(), JobID: h.GetJobId(), Attempt: h.GetAttempt(), VRAMMiB: h.GetVramMib()}
		if i > 0 && cmpHolds(n.Held[i-1], hold) >= 0 {
			return badRecord("node %.64q holds GPU %.64q out of order", n.Name, h.GetUuid())
		}
		n.Held = append(n.Held, hold)
	}
	b.t.setNode(&b.buf, nil, n)
	return nil
}

func (b *Builder) addJob(r *raftlogv1.JobRecord) error {
	p := r.GetJob()
	switch {
	case p.GetId() <= b.lastJob || p.GetId() >= b.t.meta.nextID:
		return badRecord("job %d after job %d, the next is to be %d", p.GetId(), b.lastJob, b.t.meta.nextID)
	case p.GetSpec() == nil:
		return badRecord("job %d has no specification", p.GetId())
	case len(r.GetSubmitHash()) != 32:
		return badRecord("job %d has no submit hash", p.GetId())
	case !validState(p.GetState()):
		return badRecord("job %d is in state %d", p.GetId(), p.GetState())
	}
	b.lastJob = p.GetId()
	j := &Job{
		ID: p.GetId(), Spec: p.GetSpec(), User: p.GetUser(), UID: p.GetUid(), GID: p.GetGid(),
		State: p.GetState(), Reason: p.GetReason(), Detail: p.GetDetail(),
		SubmitMS: p.GetSubmitMs(), EligibleMS: p.GetEligibleMs(), StartMS: p.GetStartMs(), EndMS: p.GetEndMs(), RetryAtMS: r.GetRetryAtMs(),
		Attempt: p.GetAttempt(), Failures: p.GetFailures(), Held: p.GetHeld(), HeldByAdmin: r.GetHeldByAdmin(),
		CancelRequested: p.GetCancelRequested(), RequeueRequested: r.GetRequeueRequested(), EndReason: r.GetEndReason(),
		ExitCode: p.GetExitCode(), FirstBad: r.GetFirstBad(), Attempts: p.GetAttempts(),
		RequestID: p.GetRequestId(), SubmitHash: [32]byte(r.GetSubmitHash()), ModifiedIndex: p.GetModifiedIndex(),
		ArrayJobID: p.GetArrayJobId(), ArrayIndex: p.GetArrayIndex(), Array: arrayOf(p), WaitingFor: p.GetWaitingFor(),
		PreemptedCount: p.GetPreemptedCount(), Claim: r.GetClaim(), StopGraceS: r.GetStopGraceS(), Project: r.GetProject(),
	}
	if j.Active() && (j.Current() == nil || int(j.FirstBad) > len(j.Current().GetNodes())) {
		return badRecord("job %d is active without a whole attempt", j.ID)
	}
	b.in.str(&j.User)
	if a := getJob(b.t.jobs.w, j.ArrayJobID); a != nil && proto.Equal(a.Spec, j.Spec) {
		j.Spec = a.Spec
	} else {
		b.in.share(j.Spec)
	}
	for _, a := range j.Attempts {
		for _, n := range a.GetNodes() {
			b.in.str(&n.Node)
			b.in.list(n.GpuUuids)
		}
	}
	b.t.setJob(&b.buf, nil, j)
	return nil
}

func validState(s fettlev1.JobState) bool {
	return s > 0 && int(s) < len(Counts{}.byState)
}

func (b *Builder) addRequest(p *raftlogv1.RequestRecord) error {
	if len(p.GetSpecHash()) != 32 {
		return badRecord("request %.64q has no hash", p.GetRequestId())
	}
	r := &Request{
		UID: p.GetUid(), ID: p.GetRequestId(), Seq: p.GetSeq(), Index: p.GetIndex(),
		Hash: [32]byte(p.GetSpecHash()), JobID: p.GetJobId(), Result: p.GetResult(), Weight: p.GetWeight(),
	}
	if b.lastReq != nil && !lessRequest(b.lastReq, r) || r.Seq > b.t.meta.requestSeq {
		return badRecord("request %.64q is out of order", r.ID)
	}
	b.lastReq = r
	b.t.setRequest(&b.buf, r)
	return nil
}

// Finish checks that the records make a consistent state and returns it as a snapshot.
func (b *Builder) Finish() (*Snapshot, error) {
	if !b.started {
		return nil, badRecord("there is no meta record")
	}
	s := b.t.snapshot()
	if err := s.verify(false); err != nil {
		return nil, err
	}
	return s, nil
}

// Replace puts a finished builder's state in place of the present one. Subscribers are told to start afresh. The
// builder must not be used again.
func (s *Store) Replace(b *Builder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cur, s.intern = b.t, b.in
	s.published.Store(b.t.snapshot())
	s.feed.replaced(b.t.meta.index)
	b.t = nil
}
