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
	// LeaseMS is how long a node may go on running fenced attempts without hearing from a leader. Default 540,000. It must
	// be the same on every controller: a new leader waits its own LeaseMS for leases that another has granted.
	LeaseMS int64
	// LeaseMarginMS is waited beyond the lease before the attempts of a lost node count as over: room for the leader
	// before this one to have granted after this one was elected, and for the node to end its processes. Default 60,000.
	LeaseMarginMS int64
}

// GrantedLeaseMS is the lease that nodes are granted: LeaseMS, or the default.
func (c Config) GrantedLeaseMS() int64 { return c.withDefaults().LeaseMS }

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

// maxEarly bounds the reports that a node may send before its session is open; a sound one sends none.
const maxEarly = 10_000

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

// Propose puts an operation into the log. The caller says how it went with Committed or Failed, always.
type Propose struct {
	// Entry is what to propose. Attempt reports may be gathered: several Proposes with Report set make one entry of all
	// their reports.
	Entry *raftlogv1.Entry
	// Report is set for attempt reports.
	Report *PendingReport

	// hello and inventory are the connection whose session this opens, or whose inventory it changes; judges is the node
	// that it judges.
	hello, inventory ConnID
	judges           string
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
	// Refused says that trying again will not help.
	Refused bool
}

type conn struct {
	id   ConnID
	node string
	// session is 0 until the hello is committed.
	session uint64
	hello   *fettlev1.Hello
	// early holds reports that came before the session was open.
	early []*fettlev1.AttemptReport
	// given remembers what was ordered for an attempt in this session, so that a change is not answered twice.
	given map[attemptID]given
	// proposed is the furthest report of an attempt that was handed to the log.
	proposed map[attemptID]fettlev1.ReportKind
	// beat is a heartbeat that waits for this leader to be verified, nil for none.
	beat *fettlev1.Heartbeat
	// flying says that an inventory is on its way into the log, and next is the one to propose after it.
	flying bool
	next   *fettlev1.Inventory
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

// given is what the node was last told about an attempt.
type given struct {
	order order
	// limitS is the time limit that it was told, once told is set.
	limitS int64
	told   bool
}

// Machine is the protocol's state on one leader, from winning an election to losing it. Not safe for concurrent use.
//
// Every time that it is given is in milliseconds on one clock, which never goes back and goes on while the machine is
// suspended (CLOCK_BOOTTIME): no wall clock may decide that a lease is over.
type Machine struct {
	cfg      Config
	cluster  string
	term     uint64
	nextConn ConnID
	conns    map[ConnID]*conn
	nodes    map[string]*contact
	// beats are the connections with a heartbeat that waits, in the order of arrival.
	beats  []ConnID
	tickMS int64
}

// NewMachine starts a term. Every node that is known gets a full period of grace from now, whatever the leader before
// this one thought of it.
func NewMachine(cfg Config, clusterID string, term uint64, snap *state.Snapshot, nowMS int64) *Machine {
	m := &Machine{cfg: cfg.withDefaults(), cluster: clusterID, term: term, conns: map[ConnID]*conn{}, nodes: map[string]*contact{}, tickMS: nowMS}
	since := nowMS
	if bugNoGrace {
		since -= m.cfg.LeaseMS + m.cfg.LeaseMarginMS + 1
	}
	for n := range snap.Nodes {
		m.nodes[n.Name] = &contact{lastMS: since}
	}
	return m
}

// Connected reports whether a node has an open session with this leader: only then may new attempts be given to it.
func (m *Machine) Connected(node string) bool { return m.open(node) != nil }

// open returns the connection that a node's open session is on, nil when it has none.
func (m *Machine) open(node string) *conn {
	n := m.nodes[node]
	if n == nil {
		return nil
	}
	c := m.conns[n.conn]
	if c == nil || c.session == 0 {
		return nil
	}
	return c
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
	c := &conn{id: m.nextConn, node: h.GetNode(), hello: h, given: map[attemptID]given{}, proposed: map[attemptID]fettlev1.ReportKind{}}
	m.conns[c.id] = c
	entry := &raftlogv1.Entry{Op: &raftlogv1.Entry_NodeHello{NodeHello: &raftlogv1.NodeHello{
		Node: h.GetNode(), BootId: h.GetBootId(), DaemonId: h.GetDaemonId(), Inventory: h.GetInventory(), FreshJournal: h.GetFreshJournal(),
	}}}
	return c.id, []Output{{Propose: &Propose{Entry: entry, hello: c.id}}}, nil
}

// Committed says that a proposal is in the log at index and applied in snap.
func (m *Machine) Committed(p *Propose, index uint64, snap *state.Snapshot, nowMS int64) []Output {
	switch {
	case p.hello != 0:
		return m.opened(p.hello, index, snap, nowMS)
	case p.Report != nil:
		return m.reportCommitted(p.Report, index)
	case p.inventory != 0:
		return m.inventoryCommitted(p.inventory, snap)
	case p.judges != "":
		m.judged(p.judges)
	}
	return nil
}

// Failed says that a proposal was refused or may not have reached the log. refused tells the two apart: what is refused
// once is refused again.
func (m *Machine) Failed(p *Propose, err error, refused bool) []Output {
	switch {
	case p.hello != 0 && refused:
		return m.refuse(p.hello, err.Error())
	case p.hello != 0:
		return m.drop(p.hello, "the registration could not be committed: "+err.Error())
	case p.Report != nil:
		// The node repeats what was not acknowledged when it connects again.
		return m.drop(p.Report.Conn, "a report could not be committed: "+err.Error())
	case p.inventory != 0:
		// Its hello carries the inventory.
		return m.drop(p.inventory, "the inventory could not be committed: "+err.Error())
	case p.judges != "":
		m.judged(p.judges)
	}
	return nil
}

// opened says that a hello is committed at index session. An older connection of the same node is closed.
func (m *Machine) opened(id ConnID, session uint64, snap *state.Snapshot, nowMS int64) []Output {
	c := m.conns[id]
	if c == nil {
		// The connection was lost meanwhile; the log has a session that nobody holds, and Tick closes what is left of
		// the one before it.
		return nil
	}
	n := m.nodes[c.node]
	if n == nil {
		n = &contact{}
		m.nodes[c.node] = n
	}
	var out []Output
	if old := m.conns[n.conn]; old != nil && old.id != id {
		if old.session > session {
			return m.drop(id, "a newer session of this node is open")
		}
		out = append(out, m.drop(old.id, "a newer session of this node is open")...)
	}
	n.conn, n.lastMS, n.met = id, nowMS, true
	c.session = session
	out = append(out, m.send(c, &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Welcome{Welcome: &fettlev1.Welcome{
		ClusterId: m.cluster, Term: m.term, Session: session, LeaseTtlMs: m.cfg.LeaseMS, HeartbeatMs: m.cfg.HeartbeatMS,
	}}}))
	for _, r := range slices.Concat(c.hello.GetAttempts(), c.early) {
		out = append(out, m.report(c, r, snap)...)
	}
	if bugMissingMeansEnded {
		out = append(out, m.endMissing(c, snap)...)
	}
	c.early, c.hello = nil, nil
	for _, id := range snap.ActiveOn(c.node) {
		if j := snap.Job(id); j != nil {
			out = append(out, m.ordersFor(c, j, snap)...)
		}
	}
	return out
}

// Disconnected says that a connection is gone. The node is not judged by it: only Tick does that.
func (m *Machine) Disconnected(id ConnID) { delete(m.conns, id) }

func (m *Machine) drop(id ConnID, reason string) []Output {
	if m.conns[id] == nil {
		return nil
	}
	delete(m.conns, id)
	return []Output{{Close: &Close{Conn: id, Reason: reason}}}
}

func (m *Machine) refuse(id ConnID, reason string) []Output {
	out := m.drop(id, reason)
	for _, o := range out {
		o.Close.Refused = true
	}
	return out
}

func (m *Machine) send(c *conn, msg *fettlev1.ControllerMessage) Output {
	msg.Session = c.session
	return Output{Send: &Send{Conn: c.id, Msg: msg}}
}
