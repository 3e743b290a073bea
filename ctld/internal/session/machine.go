// Package session is the leader's side of the node protocol.
//
// The Machine is pure: every input (a node's message, a committed change, the time) comes from the caller, and what is to
// be done (send, propose, close) is returned. It keeps only what can be rebuilt: who is connected and what was sent.
// What a node must do is always derived from the committed state, so an order can be sent again at any time and a new
// leader needs nothing from the old one. The Server drives a Machine over gRPC.
package session

import (
	"fmt"
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// Config holds the times of the protocol, in milliseconds. Zero values take the defaults.
type Config struct {
	// HeartbeatMS is how often a node asks for its lease to be renewed. Default 5,000.
	HeartbeatMS int64
	// UnreachableMS without a heartbeat marks a node unreachable. Default 30,000.
	UnreachableMS int64
	// LeaseMS is how long a node may go on running fenced attempts without hearing from a leader. Default 540,000.
	LeaseMS int64
	// LeaseMarginMS is waited beyond the lease before the attempts of a lost node count as over: room for the leader
	// before this one to have granted after this one was elected, and for the node to end its processes. Default 60,000.
	LeaseMarginMS int64
}

func (c Config) withDefaults() Config {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.HeartbeatMS, 5_000)
	def(&c.UnreachableMS, 30_000)
	def(&c.LeaseMS, 540_000)
	def(&c.LeaseMarginMS, 60_000)
	return c
}

// ConnID names one connection of a node; never reused within a Machine.
type ConnID uint64

// Output is what a step wants done. Exactly one field is set.
type Output struct {
	Send    *Send
	Propose *Propose
	Close   *Close
}

// Send delivers a message on a connection, in order.
type Send struct {
	Conn ConnID
	Msg  *fettlev1.ControllerMessage
}

// Propose puts an operation into the log. When it is committed the caller reports back with Committed.
type Propose struct {
	Entry *raftlogv1.Entry
	// Hello is the connection whose session this opens, 0 for other operations.
	Hello ConnID
	// Report is set for attempt reports: where the acknowledgement goes.
	Report *PendingReport
}

// PendingReport is an attempt report on its way into the log.
type PendingReport struct {
	Conn   ConnID
	Report *fettlev1.AttemptReport
}

// Close ends a connection for a reason that the node is told.
type Close struct {
	Conn   ConnID
	Reason string
}

type conn struct {
	id   ConnID
	node string
	// session is 0 until the hello is committed.
	session uint64
	hello   *fettlev1.Hello
	// early holds reports that came before the session was open.
	early []*fettlev1.AttemptReport
	// sent remembers the newest order given for an attempt in this session, so that a change is not answered twice.
	sent map[attemptID]order
	// proposed are ends that are on their way into the log.
	proposed map[attemptID]fettlev1.ReportKind
}

type attemptID struct {
	job     uint64
	attempt uint32
}

type order uint8

const (
	orderNone order = iota
	orderPrepare
	orderStart
	orderKill
)

// nodeContact is what this leader knows of its contact with a node.
type nodeContact struct {
	conn ConnID
	// lastMS is when this leader last granted a lease or, before that, when it became leader.
	lastMS int64
	// proposed is the state last proposed for the node, so that it is proposed once.
	proposed fettlev1.NodeState
	fenced   bool
}

// Machine is the protocol's state on one leader, from winning an election to losing it. Not safe for concurrent use.
type Machine struct {
	cfg      Config
	cluster  string
	term     uint64
	nextConn ConnID
	conns    map[ConnID]*conn
	nodes    map[string]*nodeContact
}

// NewMachine starts a term. Every node that is known gets a full period of grace from now, whatever the leader before
// this one thought of it.
func NewMachine(cfg Config, clusterID string, term uint64, snap *state.Snapshot, nowMS int64) *Machine {
	m := &Machine{cfg: cfg.withDefaults(), cluster: clusterID, term: term, conns: map[ConnID]*conn{}, nodes: map[string]*nodeContact{}}
	for n := range snap.Nodes {
		m.nodes[n.Name] = &nodeContact{lastMS: nowMS, proposed: n.State}
	}
	return m
}

// Connected reports whether a node has an open session with this leader: only then may new attempts be given to it.
func (m *Machine) Connected(node string) bool {
	n := m.nodes[node]
	if n == nil {
		return false
	}
	c := m.conns[n.conn]
	return c != nil && c.session != 0
}

// LastContactMS is when the node was last granted a lease in this term; 0 when it was not.
func (m *Machine) LastContactMS(node string) int64 {
	if n := m.nodes[node]; n != nil && n.conn != 0 {
		return n.lastMS
	}
	return 0
}

// Hello begins a connection.
func (m *Machine) Hello(h *fettlev1.Hello) (ConnID, []Output, error) {
	if h.GetClusterId() != "" && h.GetClusterId() != m.cluster {
		return 0, nil, fmt.Errorf("node %s belongs to cluster %s, this is %s: give it an empty state_dir to join here", h.GetNode(), h.GetClusterId(), m.cluster)
	}
	if h.GetLastTerm() > m.term {
		return 0, nil, fmt.Errorf("node %s has obeyed term %d, this leader's is %d", h.GetNode(), h.GetLastTerm(), m.term)
	}
	m.nextConn++
	c := &conn{id: m.nextConn, node: h.GetNode(), hello: h, sent: map[attemptID]order{}, proposed: map[attemptID]fettlev1.ReportKind{}}
	m.conns[c.id] = c
	entry := &raftlogv1.Entry{Op: &raftlogv1.Entry_NodeHello{NodeHello: &raftlogv1.NodeHello{
		Node: h.GetNode(), BootId: h.GetBootId(), DaemonId: h.GetDaemonId(), Inventory: h.GetInventory(), FreshJournal: h.GetFreshJournal(),
	}}}
	return c.id, []Output{{Propose: &Propose{Entry: entry, Hello: c.id}}}, nil
}

// Opened says that a hello is committed at index session. An older connection of the same node is closed.
func (m *Machine) Opened(id ConnID, session uint64, snap *state.Snapshot, nowMS int64) []Output {
	c := m.conns[id]
	if c == nil {
		return nil
	}
	var out []Output
	contact := m.nodes[c.node]
	if contact == nil {
		contact = &nodeContact{}
		m.nodes[c.node] = contact
	}
	if old := m.conns[contact.conn]; old != nil && old.id != id {
		if old.session > session {
			return m.drop(id, "a newer session of this node is open")
		}
		out = append(out, m.drop(old.id, "a newer session of this node is open")...)
	}
	contact.conn, contact.lastMS, contact.fenced = id, nowMS, false
	contact.proposed = fettlev1.NodeState_NODE_STATE_UP
	c.session = session
	out = append(out, m.send(c, &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Welcome{Welcome: &fettlev1.Welcome{
		ClusterId: m.cluster, Term: m.term, Session: session, LeaseTtlMs: m.cfg.LeaseMS, HeartbeatMs: m.cfg.HeartbeatMS,
	}}}))
	for _, r := range slices.Concat(c.hello.GetAttempts(), c.early) {
		out = append(out, m.report(c, r, snap)...)
	}
	c.early, c.hello = nil, nil
	for _, id := range snap.ActiveOn(c.node) {
		if j := snap.Job(id); j != nil {
			out = append(out, m.ordersFor(c, j, snap)...)
			out = append(out, m.limitOf(c, j)...)
		}
	}
	return out
}

// Report takes an attempt report from a node.
func (m *Machine) Report(id ConnID, r *fettlev1.AttemptReport, snap *state.Snapshot) []Output {
	c := m.conns[id]
	if c == nil {
		return nil
	}
	if c.session == 0 {
		c.early = append(c.early, r)
		return nil
	}
	return m.report(c, r, snap)
}

// report decides whether the log must hear of it. What the log knows already is acknowledged at once; an attempt that
// the log has closed but that lives on (it was fenced and its node came back) is killed by an explicit order.
func (m *Machine) report(c *conn, r *fettlev1.AttemptReport, snap *state.Snapshot) []Output {
	key := r.GetKey()
	id := attemptID{key.GetJobId(), key.GetAttempt()}
	alloc := allocation(snap.Job(key.GetJobId()), key, c.node)
	if alloc == nil || alloc.GetExit() != nil {
		if r.GetKind() == fettlev1.ReportKind_REPORT_KIND_ENDED {
			return []Output{m.ack(c, key, snap.Index())}
		}
		if key.GetFence() > snap.Index() || snap.Job(key.GetJobId()) == nil {
			// An attempt that this log never heard of: never a reason to kill. A purged job had ended.
			return nil
		}
		if c.sent[id] == orderKill {
			return nil
		}
		c.sent[id] = orderKill
		return []Output{m.kill(c, key, 0, 0)}
	}
	switch r.GetKind() {
	case fettlev1.ReportKind_REPORT_KIND_PREPARED:
		if alloc.GetPrepared() {
			return nil
		}
	case fettlev1.ReportKind_REPORT_KIND_STARTED:
		if alloc.GetStarted() {
			return nil
		}
	}
	if c.proposed[id] >= r.GetKind() {
		return nil
	}
	c.proposed[id] = r.GetKind()
	r.Node = c.node
	entry := &raftlogv1.Entry{Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: []*fettlev1.AttemptReport{r}}}}
	return []Output{{Propose: &Propose{Entry: entry, Report: &PendingReport{Conn: c.id, Report: r}}}}
}

// ReportCommitted says that a report is in the log at index, whatever the state machine made of it.
func (m *Machine) ReportCommitted(p *PendingReport, index uint64) []Output {
	c := m.conns[p.Conn]
	if c == nil {
		return nil
	}
	id := attemptID{p.Report.GetKey().GetJobId(), p.Report.GetKey().GetAttempt()}
	if p.Report.GetKind() != fettlev1.ReportKind_REPORT_KIND_ENDED {
		return nil
	}
	delete(c.proposed, id)
	delete(c.sent, id)
	return []Output{m.ack(c, p.Report.GetKey(), index)}
}

// ReportFailed says that a report may not have reached the log: the node's next one is proposed again.
func (m *Machine) ReportFailed(p *PendingReport) []Output {
	c := m.conns[p.Conn]
	if c == nil {
		return nil
	}
	// The node repeats what was not acknowledged when it connects again.
	return m.drop(p.Conn, "a report could not be committed")
}

// Changed derives the orders that follow from committed changes to jobs.
func (m *Machine) Changed(jobs []uint64, snap *state.Snapshot) []Output {
	var out []Output
	for _, id := range jobs {
		j := snap.Job(id)
		if j == nil || j.Current() == nil {
			continue
		}
		for _, a := range j.Current().GetNodes() {
			contact := m.nodes[a.GetNode()]
			if contact == nil {
				continue
			}
			c := m.conns[contact.conn]
			if c == nil || c.session == 0 {
				continue
			}
			out = append(out, m.ordersFor(c, j, snap)...)
		}
	}
	return out
}

// LimitChanged tells the nodes of a running job its new time limit.
func (m *Machine) LimitChanged(job uint64, snap *state.Snapshot) []Output {
	j := snap.Job(job)
	if j == nil || j.Current() == nil {
		return nil
	}
	var out []Output
	for _, a := range j.Current().GetNodes() {
		if contact := m.nodes[a.GetNode()]; contact != nil {
			if c := m.conns[contact.conn]; c != nil && c.session != 0 {
				out = append(out, m.limitOf(c, j)...)
			}
		}
	}
	return out
}

// Signal delivers a signal to a running job's nodes without ending it.
func (m *Machine) Signal(job uint64, signal int32, snap *state.Snapshot) []Output {
	j := snap.Job(job)
	if j == nil || j.State != fettlev1.JobState_JOB_STATE_RUNNING {
		return nil
	}
	var out []Output
	at := j.Current()
	for _, a := range at.GetNodes() {
		if contact := m.nodes[a.GetNode()]; contact != nil && a.GetExit() == nil {
			if c := m.conns[contact.conn]; c != nil && c.session != 0 {
				out = append(out, m.kill(c, keyOf(j, at), 0, signal))
			}
		}
	}
	return out
}

// Heartbeat grants a lease. verifiedMS is when this leader last proved its leadership to a quorum: a leader that
// cannot is silent, for another may have been elected.
func (m *Machine) Heartbeat(id ConnID, hb *fettlev1.Heartbeat, nowMS, verifiedMS int64) []Output {
	c := m.conns[id]
	if c == nil || c.session == 0 || nowMS-verifiedMS > 1_000 {
		return nil
	}
	m.nodes[c.node].lastMS = nowMS
	return []Output{m.send(c, &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Lease{Lease: &fettlev1.LeaseGrant{
		Seq: hb.GetSeq(), SentBoottimeMs: hb.GetSentBoottimeMs(), TtlMs: m.cfg.LeaseMS,
	}}})}
}

// Inventory proposes a changed inventory.
func (m *Machine) Inventory(id ConnID, inv *fettlev1.Inventory) []Output {
	c := m.conns[id]
	if c == nil || c.session == 0 {
		return nil
	}
	entry := &raftlogv1.Entry{Op: &raftlogv1.Entry_NodeInventory{NodeInventory: &raftlogv1.NodeInventory{Node: c.node, Session: c.session, Inventory: inv}}}
	return []Output{{Propose: &Propose{Entry: entry}}}
}

// Disconnected says that a connection is gone. The node is not judged by it: only Tick does that.
func (m *Machine) Disconnected(id ConnID) {
	delete(m.conns, id)
}

// Tick judges nodes that have not been heard of: first unreachable, then, when the lease is certainly over, fenced.
func (m *Machine) Tick(snap *state.Snapshot, nowMS int64) []Output {
	var out []Output
	for n := range snap.Nodes {
		contact := m.nodes[n.Name]
		if contact == nil {
			contact = &nodeContact{lastMS: nowMS, proposed: n.State}
			m.nodes[n.Name] = contact
		}
		silent := nowMS - contact.lastMS
		if silent > m.cfg.UnreachableMS && n.State == fettlev1.NodeState_NODE_STATE_UP && contact.proposed == fettlev1.NodeState_NODE_STATE_UP {
			contact.proposed = fettlev1.NodeState_NODE_STATE_UNREACHABLE
			out = append(out, m.dropNode(contact)...)
			out = append(out, Output{Propose: &Propose{Entry: &raftlogv1.Entry{Op: &raftlogv1.Entry_NodeState{NodeState: &raftlogv1.SetNodeState{
				Node: n.Name, Session: n.Session, State: fettlev1.NodeState_NODE_STATE_UNREACHABLE, Detail: "no heartbeat",
			}}}}})
		}
		if silent > m.cfg.LeaseMS+m.cfg.LeaseMarginMS && n.State != fettlev1.NodeState_NODE_STATE_UP && !contact.fenced {
			contact.fenced = true
			out = append(out, Output{Propose: &Propose{Entry: &raftlogv1.Entry{Op: &raftlogv1.Entry_FenceNode{FenceNode: &raftlogv1.FenceNode{
				Node: n.Name, Session: n.Session,
			}}}}})
		}
	}
	return out
}

// JudgementFailed lets a state or fence proposal that did not reach the log be made again.
func (m *Machine) JudgementFailed(node string) {
	if contact := m.nodes[node]; contact != nil {
		contact.proposed, contact.fenced = fettlev1.NodeState_NODE_STATE_UP, false
	}
}

func (m *Machine) dropNode(contact *nodeContact) []Output {
	if m.conns[contact.conn] == nil {
		return nil
	}
	return m.drop(contact.conn, "no heartbeat")
}

func (m *Machine) drop(id ConnID, reason string) []Output {
	delete(m.conns, id)
	return []Output{{Close: &Close{Conn: id, Reason: reason}}}
}
