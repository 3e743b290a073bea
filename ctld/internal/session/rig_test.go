package session

import (
	"errors"
	"fmt"
	"testing"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/locallog"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

const (
	prepared = fettlev1.ReportKind_REPORT_KIND_PREPARED
	started  = fettlev1.ReportKind_REPORT_KIND_STARTED
	ended    = fettlev1.ReportKind_REPORT_KIND_ENDED
)

// times of the machines under test, in milliseconds.
var times = Config{HeartbeatMS: 500, UnreachableMS: 3_000, LeaseMS: 8_000, LeaseMarginMS: 4_000}

var ada = &raftlogv1.Actor{User: "ada", Uid: 1000, Gid: 1000}

// table is a job table with a log of one member under it, in term 1.
type table struct {
	t   *testing.T
	log *locallog.Log
	req int
}

func newTable(t *testing.T, nodes ...string) *table {
	t.Helper()
	tb := &table{t: t, log: locallog.New("c")}
	tb.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_NewTerm{NewTerm: &raftlogv1.NewTerm{Term: 1, LeaderId: "a"}}})
	for _, n := range nodes {
		tb.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_NodeHello{NodeHello: &raftlogv1.NodeHello{Node: n, BootId: "boot", Inventory: inventory(n)}}})
	}
	return tb
}

func inventory(node string) *fettlev1.Inventory {
	inv := &fettlev1.Inventory{Cpus: 64, MemoryMib: 1 << 20, Address: node + ".example"}
	for i := range 4 {
		inv.Gpus = append(inv.Gpus, &fettlev1.GPU{Index: uint32(i), Uuid: fmt.Sprintf("GPU-%s-%d", node, i), Type: "h100"})
	}
	return inv
}

func (tb *table) snap() *state.Snapshot { return tb.log.Store().Snapshot() }

func (tb *table) must(e *raftlogv1.Entry) *fsm.Result {
	tb.t.Helper()
	res, err := tb.log.Propose(tb.t.Context(), e)
	if err != nil || res.Err != nil {
		tb.t.Fatalf("propose %v: %v %+v", e, err, res)
	}
	for _, a := range res.Actions {
		if a.Err != nil {
			tb.t.Fatalf("job %d: %s", a.JobID, a.Err.Error())
		}
	}
	return res
}

// dispatched makes a job with a committed attempt on the nodes; change may set more of its spec.
func (tb *table) dispatched(change func(*fettlev1.JobSpec), nodes ...string) *fettlev1.AttemptKey {
	tb.t.Helper()
	spec := &fettlev1.JobSpec{Name: "job", Method: "script", Script: []byte("#!/bin/true\n"), WorkDir: "/w", Nodes: uint32(len(nodes)), KillGraceS: 7, TimeLimitS: 600}
	if change != nil {
		change(spec)
	}
	tb.req++
	res := tb.must(&raftlogv1.Entry{Actor: ada, Op: &raftlogv1.Entry_Submit{Submit: &raftlogv1.SubmitJobs{
		Jobs: []*fettlev1.JobSubmission{{RequestId: fmt.Sprint("r", tb.req), Spec: spec}},
	}}})
	if res.Submit[0].Err != nil {
		tb.t.Fatal(res.Submit[0].Err)
	}
	return tb.place(res.Submit[0].JobID, nodes...)
}

// place dispatches a waiting job.
func (tb *table) place(id uint64, nodes ...string) *fettlev1.AttemptKey {
	tb.t.Helper()
	p := &raftlogv1.Placement{JobId: id, Attempt: tb.snap().Job(id).Attempt + 1}
	for _, n := range nodes {
		p.Nodes = append(p.Nodes, &fettlev1.NodeAllocation{Node: n, Cpus: 1})
	}
	res := tb.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_Plan{Plan: &raftlogv1.ApplyPlan{Term: 1, Placements: []*raftlogv1.Placement{p}}}})
	if e := res.Placements[0].Err; e != nil {
		tb.t.Fatal(e)
	}
	return keyOf(tb.snap().Job(id), tb.snap().Job(id).Current())
}

// said puts a report of a node into the log, as the session of an earlier leader would have.
func (tb *table) said(node string, key *fettlev1.AttemptKey, kind fettlev1.ReportKind) {
	tb.t.Helper()
	r := report(key, kind)
	r.Node = node
	tb.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: []*fettlev1.AttemptReport{r}}}})
}

func (tb *table) cancel(id uint64) {
	tb.t.Helper()
	tb.must(&raftlogv1.Entry{Actor: ada, Op: &raftlogv1.Entry_Cancel{Cancel: &raftlogv1.CancelJobs{Ids: []uint64{id}}}})
}

func (tb *table) node(name string, action fettlev1.NodeAction) {
	tb.t.Helper()
	tb.must(&raftlogv1.Entry{Actor: &raftlogv1.Actor{User: "root", Admin: true}, Op: &raftlogv1.Entry_UpdateNode{UpdateNode: &fettlev1.UpdateNodeRequest{Node: name, Action: action}}})
}

func report(key *fettlev1.AttemptKey, kind fettlev1.ReportKind) *fettlev1.AttemptReport {
	r := &fettlev1.AttemptReport{Key: key, Kind: kind}
	if kind == ended {
		r.Exit = &fettlev1.Exit{}
	}
	return r
}

// rig drives a Machine by hand: what it wants proposed waits until the test commits or loses it.
type rig struct {
	*table
	m *Machine
	// now and verified are on the machine's clock.
	now, verified int64
	sent          map[ConnID][]*fettlev1.ControllerMessage
	closed        map[ConnID]*Close
	waiting       []*Propose
}

func newRig(t *testing.T, nodes ...string) *rig {
	t.Helper()
	return newTable(t, nodes...).lead(1, 50_000)
}

// lead makes the machine of a leader that is elected at a time.
func (tb *table) lead(term uint64, nowMS int64) *rig {
	return &rig{
		table: tb, m: NewMachine(times, "c", term, tb.snap(), nowMS), now: nowMS, verified: nowMS,
		sent: map[ConnID][]*fettlev1.ControllerMessage{}, closed: map[ConnID]*Close{},
	}
}

func (r *rig) do(out []Output) {
	for _, o := range out {
		switch {
		case o.Send != nil:
			r.sent[o.Send.Conn] = append(r.sent[o.Send.Conn], o.Send.Msg)
		case o.Close != nil:
			r.closed[o.Close.Conn] = o.Close
		default:
			r.waiting = append(r.waiting, o.Propose)
		}
	}
}

// commit puts everything that waits into the log.
func (r *rig) commit() {
	r.t.Helper()
	for len(r.waiting) > 0 {
		p := r.waiting[0]
		r.waiting = r.waiting[1:]
		index, err := r.log.ForNodes().Propose(r.t.Context(), p.Entry)
		var refusal *model.FieldError
		if errors.As(err, &refusal) {
			r.do(r.m.Failed(p, err, true))
			continue
		}
		if err != nil {
			r.t.Fatal(err)
		}
		r.do(r.m.Committed(p, index, r.snap(), r.now))
	}
}

var errNoQuorum = errors.New("no quorum")

// lose has everything that waits fail with an unknown outcome.
func (r *rig) lose() {
	lost := r.waiting
	r.waiting = nil
	for _, p := range lost {
		r.do(r.m.Failed(p, errNoQuorum, false))
	}
}

// hello begins a connection; its session opens with the next commit.
func (r *rig) hello(node string, attempts ...*fettlev1.AttemptReport) ConnID {
	r.t.Helper()
	id, out, err := r.m.Hello(&fettlev1.Hello{ClusterId: "c", Node: node, BootId: "boot", Inventory: inventory(node), Attempts: attempts})
	if err != nil {
		r.t.Fatal(err)
	}
	r.do(out)
	return id
}

// connect opens a session and forgets the welcome.
func (r *rig) connect(node string, attempts ...*fettlev1.AttemptReport) ConnID {
	r.t.Helper()
	id := r.hello(node, attempts...)
	r.commit()
	if got := r.take(id); len(got) == 0 || got[0].GetWelcome() == nil {
		r.t.Fatalf("the session of %s was not opened: %v, %v", node, got, r.closed[id])
	}
	return id
}

// take returns what was sent on a connection since the last take.
func (r *rig) take(id ConnID) []*fettlev1.ControllerMessage {
	got := r.sent[id]
	delete(r.sent, id)
	return got
}

// kinds names messages for comparison: "prepare 1.1", "kill 1.1", "ack 1.1@7", "lease", ….
func kinds(msgs []*fettlev1.ControllerMessage) []string {
	out := []string{}
	for _, m := range msgs {
		name := func(what string, k *fettlev1.AttemptKey) string {
			return fmt.Sprintf("%s %d.%d", what, k.GetJobId(), k.GetAttempt())
		}
		switch o := m.GetMsg().(type) {
		case *fettlev1.ControllerMessage_Welcome:
			out = append(out, "welcome")
		case *fettlev1.ControllerMessage_Lease:
			out = append(out, "lease")
		case *fettlev1.ControllerMessage_Prepare:
			out = append(out, name("prepare", o.Prepare.GetKey()))
		case *fettlev1.ControllerMessage_Start:
			out = append(out, name("start", o.Start.GetKey()))
		case *fettlev1.ControllerMessage_Kill:
			what := "kill"
			if o.Kill.GetSignal() != 0 {
				what = fmt.Sprint("signal ", o.Kill.GetSignal())
			}
			out = append(out, name(what, o.Kill.GetKey()))
		case *fettlev1.ControllerMessage_Ack:
			out = append(out, name("ack", o.Ack.GetKey()))
		case *fettlev1.ControllerMessage_Update:
			out = append(out, name(fmt.Sprint("limit ", o.Update.GetTimeLimitS()), o.Update.GetKey()))
		case *fettlev1.ControllerMessage_ReadLog:
			out = append(out, "read log")
		default:
			out = append(out, fmt.Sprintf("%T", o))
		}
	}
	return out
}

// wantSent checks what was sent on a connection since the last look.
func (r *rig) wantSent(id ConnID, want ...string) {
	r.t.Helper()
	if got := kinds(r.take(id)); fmt.Sprint(got) != fmt.Sprint(want) {
		r.t.Errorf("sent %q, want %q", got, want)
	}
}

// wantWaiting checks what is to be proposed.
func (r *rig) wantWaiting(want ...string) {
	r.t.Helper()
	got := []string{}
	for _, p := range r.waiting {
		switch o := p.Entry.GetOp().(type) {
		case *raftlogv1.Entry_NodeHello:
			got = append(got, "hello "+o.NodeHello.GetNode())
		case *raftlogv1.Entry_NodeState:
			got = append(got, "unreachable "+o.NodeState.GetNode())
		case *raftlogv1.Entry_FenceNode:
			got = append(got, "fence "+o.FenceNode.GetNode())
		case *raftlogv1.Entry_NodeInventory:
			got = append(got, fmt.Sprint("inventory ", o.NodeInventory.GetInventory().GetCpus()))
		case *raftlogv1.Entry_Reports:
			for _, r := range o.Reports.GetReports() {
				got = append(got, fmt.Sprintf("%s %d.%d on %s", r.GetKind().String()[len("REPORT_KIND_"):], r.GetKey().GetJobId(), r.GetKey().GetAttempt(), r.GetNode()))
			}
		default:
			got = append(got, fmt.Sprintf("%T", o))
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		r.t.Errorf("to be proposed %q, want %q", got, want)
	}
}

// pass lets time go by in ticks, as the loop does; heartbeats come from the connections given.
func (r *rig) pass(ms int64, beating ...ConnID) {
	r.t.Helper()
	for end := r.now + ms; r.now < end; {
		r.now += min(times.HeartbeatMS, end-r.now)
		r.verified = r.now
		for _, id := range beating {
			r.do(r.m.Heartbeat(id, &fettlev1.Heartbeat{SentBoottimeMs: r.now}, r.now, r.verified))
		}
		r.do(r.m.Tick(r.snap(), r.now))
	}
}
