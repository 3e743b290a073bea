package fsm

import (
	"fmt"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

const testCluster = "test-cluster"

// tb is what testing.TB and rapid.TB share.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
}

// rig drives one state machine entry by entry and checks the whole state after each.
type rig struct {
	t     tb
	f     *FSM
	index uint64
	now   int64
	term  uint64
	log   []*raft.Log
	fatal []string
}

func newRig(t tb) *rig {
	r := &rig{t: t, now: 1_000_000}
	r.f = New(state.New(testCluster), Config{Fatal: func(code int, msg string) { r.fatal = append(r.fatal, fmt.Sprintf("%d: %s", code, msg)) }})
	return r
}

func (r *rig) snap() *state.Snapshot { return r.f.Store().Snapshot() }

func (r *rig) job(id uint64) *state.Job {
	r.t.Helper()
	j := r.snap().Job(id)
	if j == nil {
		r.t.Fatalf("job %d is gone", id)
	}
	return j
}

func (r *rig) node(name string) *state.Node {
	r.t.Helper()
	n := r.snap().Node(name)
	if n == nil {
		r.t.Fatalf("node %s is gone", name)
	}
	return n
}

var (
	alice  = &raftlogv1.Actor{User: "alice", Uid: 1001, Gid: 1001}
	bob    = &raftlogv1.Actor{User: "bob", Uid: 1002, Gid: 1002}
	admin  = &raftlogv1.Actor{User: "root", Uid: 0, Admin: true}
	system = &raftlogv1.Actor{System: true}
)

// apply encodes an entry, applies it and checks the state.
func (r *rig) apply(e *raftlogv1.Entry) *Result {
	r.t.Helper()
	if e.NowMs == 0 {
		e.NowMs = r.now
	}
	b, err := Encode(e)
	if err != nil {
		r.t.Fatalf("encode: %v", err)
	}
	return r.raw(b)
}

func (r *rig) raw(b []byte) *Result {
	r.t.Helper()
	r.index++
	l := &raft.Log{Index: r.index, Term: r.term, Type: raft.LogCommand, Data: b}
	r.log = append(r.log, l)
	res := r.f.Apply(l).(*Result)
	if res.Index != r.index {
		r.t.Fatalf("the result of entry %d says index %d", r.index, res.Index)
	}
	if err := r.snap().Verify(); err != nil {
		r.t.Fatalf("after entry %d: %v", r.index, err)
	}
	return res
}

// ok applies an entry that must not be refused whole.
func (r *rig) ok(e *raftlogv1.Entry) *Result {
	r.t.Helper()
	res := r.apply(e)
	if res.Err != nil {
		r.t.Fatalf("entry %d is refused: %v", r.index, res.Err)
	}
	return res
}

func script(nodes, cpus, gpus uint32) *fettlev1.JobSpec {
	s := &fettlev1.JobSpec{Name: "train", Nodes: nodes, CpusPerNode: cpus, Script: []byte("#!/bin/sh\ntrue\n")}
	if gpus > 0 {
		s.GpusPerNode = &fettlev1.GPURequest{Count: gpus}
	}
	return s
}

func submitOp(rid string, s *fettlev1.JobSpec) *raftlogv1.Entry_Submit {
	return &raftlogv1.Entry_Submit{Submit: &raftlogv1.SubmitJobs{Jobs: []*fettlev1.JobSubmission{{RequestId: rid, Spec: s}}}}
}

// submit adds a job of alice's that must be accepted.
func (r *rig) submit(s *fettlev1.JobSpec) uint64 {
	r.t.Helper()
	out := r.ok(&raftlogv1.Entry{Actor: alice, Op: submitOp(fmt.Sprintf("req-%d", r.index), s)}).Submit[0]
	if out.Err != nil {
		r.t.Fatalf("submit is refused: %v", out.Err)
	}
	return out.JobID
}

func inventory(node string, cpus uint32, gpus int) *fettlev1.Inventory {
	inv := &fettlev1.Inventory{Cpus: cpus, MemoryMib: 65536}
	for i := range gpus {
		inv.Gpus = append(inv.Gpus, &fettlev1.GPU{Index: uint32(i), Uuid: fmt.Sprintf("GPU-%s-%d", node, i), Type: "h100", MemoryMib: 81920})
	}
	return inv
}

func helloOp(node, boot string, inv *fettlev1.Inventory) *raftlogv1.Entry_NodeHello {
	return &raftlogv1.Entry_NodeHello{NodeHello: &raftlogv1.NodeHello{Node: node, BootId: boot, DaemonId: "d1", Inventory: inv}}
}

// hello connects a node with 8 CPUs and 4 GPUs and returns its session.
func (r *rig) hello(node string) uint64 {
	r.t.Helper()
	return r.ok(&raftlogv1.Entry{Actor: system, Op: helloOp(node, "boot-1", inventory(node, 8, 4))}).Session
}

func (r *rig) newTerm(term uint64) {
	r.t.Helper()
	r.term = term
	r.ok(&raftlogv1.Entry{Actor: system, Op: &raftlogv1.Entry_NewTerm{NewTerm: &raftlogv1.NewTerm{Term: term, LeaderId: "srv-1", LeaderName: "c1", LeaderClientAddr: "127.0.0.1:7100"}}})
}

// part is an allocation of the job's CPUs and memory with the node's GPUs of these indexes.
func part(s *fettlev1.JobSpec, node string, gpus ...int) *fettlev1.NodeAllocation {
	a := &fettlev1.NodeAllocation{Node: node, Cpus: s.GetCpusPerNode(), MemMib: s.GetMemMibPerNode()}
	for _, g := range gpus {
		a.GpuUuids = append(a.GpuUuids, fmt.Sprintf("GPU-%s-%d", node, g))
	}
	return a
}

func (r *rig) planOp(ps ...*raftlogv1.Placement) *raftlogv1.Entry {
	return &raftlogv1.Entry{Actor: system, Op: &raftlogv1.Entry_Plan{Plan: &raftlogv1.ApplyPlan{Term: r.term, Placements: ps, Ledger: true}}}
}

// dispatch places a job and returns the attempt's key.
func (r *rig) dispatch(id uint64, parts ...*fettlev1.NodeAllocation) *fettlev1.AttemptKey {
	r.t.Helper()
	j := r.job(id)
	res := r.ok(r.planOp(&raftlogv1.Placement{JobId: id, Attempt: j.Attempt + 1, Nodes: parts}))
	if err := res.Placements[0].Err; err != nil {
		r.t.Fatalf("placement of job %d is refused: %v", id, err)
	}
	return &fettlev1.AttemptKey{JobId: id, Attempt: j.Attempt + 1, Fence: r.index}
}

func (r *rig) report(key *fettlev1.AttemptKey, node string, kind fettlev1.ReportKind, exit *fettlev1.Exit) ReportStatus {
	r.t.Helper()
	rep := &fettlev1.AttemptReport{Key: key, Node: node, Kind: kind, Exit: exit}
	res := r.ok(&raftlogv1.Entry{Actor: system, Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: []*fettlev1.AttemptReport{rep}}}})
	return res.Reports[0].Status
}

func (r *rig) prepared(key *fettlev1.AttemptKey, node string) ReportStatus {
	r.t.Helper()
	return r.report(key, node, fettlev1.ReportKind_REPORT_KIND_PREPARED, nil)
}

func (r *rig) started(key *fettlev1.AttemptKey, node string) ReportStatus {
	r.t.Helper()
	return r.report(key, node, fettlev1.ReportKind_REPORT_KIND_STARTED, nil)
}

func (r *rig) ended(key *fettlev1.AttemptKey, node string, exit *fettlev1.Exit) ReportStatus {
	r.t.Helper()
	return r.report(key, node, fettlev1.ReportKind_REPORT_KIND_ENDED, exit)
}

func cancelOp(id ...uint64) *raftlogv1.Entry {
	return &raftlogv1.Entry{Actor: alice, Op: &raftlogv1.Entry_Cancel{Cancel: &raftlogv1.CancelJobs{Ids: id}}}
}

func holdOp(id ...uint64) *raftlogv1.Entry {
	return &raftlogv1.Entry{Actor: alice, Op: &raftlogv1.Entry_Hold{Hold: &raftlogv1.HoldJobs{Ids: id}}}
}

func releaseOp(id ...uint64) *raftlogv1.Entry {
	return &raftlogv1.Entry{Actor: alice, Op: &raftlogv1.Entry_Release{Release: &raftlogv1.ReleaseJobs{Ids: id}}}
}

func requeueOp(id ...uint64) *raftlogv1.Entry {
	return &raftlogv1.Entry{Actor: alice, Op: &raftlogv1.Entry_Requeue{Requeue: &raftlogv1.RequeueJobs{Ids: id}}}
}

func purgeOp(id ...uint64) *raftlogv1.Entry {
	return &raftlogv1.Entry{Actor: admin, Op: &raftlogv1.Entry_Purge{Purge: &raftlogv1.PurgeJobs{Ids: id}}}
}

func updateJobOp(u *fettlev1.UpdateJobRequest) *raftlogv1.Entry {
	return &raftlogv1.Entry{Actor: alice, Op: &raftlogv1.Entry_UpdateJob{UpdateJob: u}}
}

func nodeAction(name string, a fettlev1.NodeAction, reason string) *raftlogv1.Entry {
	return &raftlogv1.Entry{Actor: admin, Op: &raftlogv1.Entry_UpdateNode{UpdateNode: &fettlev1.UpdateNodeRequest{Node: name, Action: a, Reason: reason}}}
}

func nodeStateOp(name string, s fettlev1.NodeState, session uint64) *raftlogv1.Entry {
	return &raftlogv1.Entry{Actor: system, Op: &raftlogv1.Entry_NodeState{NodeState: &raftlogv1.SetNodeState{Node: name, State: s, Session: session}}}
}

func fenceOp(name string, session uint64) *raftlogv1.Entry {
	return &raftlogv1.Entry{Actor: system, Op: &raftlogv1.Entry_FenceNode{FenceNode: &raftlogv1.FenceNode{Node: name, Session: session}}}
}

func policyOp(p *fettlev1.ClusterPolicy) *raftlogv1.Entry {
	return &raftlogv1.Entry{Actor: admin, Op: &raftlogv1.Entry_SetPolicy{SetPolicy: p}}
}

// wantState fails unless the job is in that state.
func (r *rig) wantState(id uint64, want fettlev1.JobState) {
	r.t.Helper()
	if got := r.job(id).State; got != want {
		r.t.Fatalf("job %d is %s, want %s", id, model.StateName(got), model.StateName(want))
	}
}

// wantIdle fails unless the nodes hold nothing.
func (r *rig) wantIdle(names ...string) {
	r.t.Helper()
	for _, n := range names {
		if !r.node(n).Idle() || len(r.snap().ActiveOn(n)) > 0 {
			r.t.Fatalf("node %s still holds %v, %d CPUs, jobs %v", n, r.node(n).Held, r.node(n).CPUsUsed, r.snap().ActiveOn(n))
		}
	}
}

// wantRefusal checks one refusal's kind and line.
func wantRefusal(t *testing.T, err *model.FieldError, kind model.Kind, line string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, want %q", line)
	}
	if err.Kind != kind || err.Error() != line {
		t.Errorf("got %s %q\nwant %s %q", err.Kind, err.Error(), kind, line)
	}
}

func clone[M proto.Message](m M) M { return proto.Clone(m).(M) }

// up returns a rig in term 2 with these nodes.
func up(t tb, nodes ...string) *rig {
	r := newRig(t)
	r.newTerm(2)
	for _, n := range nodes {
		r.hello(n)
	}
	return r
}
