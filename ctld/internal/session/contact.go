package session

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// verifiedWithinMS is how fresh the proof of leadership must be for a lease to be granted.
const verifiedWithinMS = 1_000

// contact is what this leader knows of its contact with a node.
type contact struct {
	conn ConnID
	// lastMS is when this leader last renewed the node's lease or, before that, began to wait for it.
	lastMS int64
	// met says that the node has had a session with this leader.
	met bool
	// judging says that a judgement of the node is on its way into the log.
	judging bool
}

// LastContactMS is when the node was last heard of in this term, on the machine's clock; false when it was not.
func (m *Machine) LastContactMS(node string) (int64, bool) {
	if n := m.nodes[node]; n != nil && n.met {
		return n.lastMS, true
	}
	return 0, false
}

// Heartbeat grants a lease. verifiedMS is when this leader last proved its leadership to a quorum: one that has not done
// so just now keeps the heartbeat until Verified, for another may have been elected. The lease counts from the sending of
// the heartbeat, so waiting takes nothing from safety.
func (m *Machine) Heartbeat(id ConnID, hb *fettlev1.Heartbeat, nowMS, verifiedMS int64) []Output {
	c := m.conns[id]
	if c == nil || c.session == 0 {
		return nil
	}
	if nowMS-verifiedMS > verifiedWithinMS && !bugLeaseUnverified {
		if c.beat == nil {
			m.beats = append(m.beats, id)
		}
		c.beat = hb
		return nil
	}
	m.nodes[c.node].lastMS = nowMS
	return []Output{m.send(c, &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Lease{Lease: &fettlev1.LeaseGrant{
		Seq: hb.GetSeq(), SentBoottimeMs: hb.GetSentBoottimeMs(), TtlMs: m.cfg.LeaseMS,
	}}})}
}

// Verified answers the heartbeats that waited for a proof of leadership.
func (m *Machine) Verified(nowMS, verifiedMS int64) []Output {
	if nowMS-verifiedMS > verifiedWithinMS {
		return nil
	}
	var out []Output
	for _, id := range m.beats {
		if c := m.conns[id]; c != nil && c.beat != nil {
			hb := c.beat
			c.beat = nil
			out = append(out, m.Heartbeat(id, hb, nowMS, verifiedMS)...)
		}
	}
	m.beats = m.beats[:0]
	return out
}

// Inventory proposes a changed inventory, one at a time: of those that come while one is on its way, the newest.
func (m *Machine) Inventory(id ConnID, inv *fettlev1.Inventory, snap *state.Snapshot) []Output {
	c := m.conns[id]
	if c == nil || c.session == 0 {
		return nil
	}
	if c.flying {
		c.next = inv
		return nil
	}
	if n := snap.Node(c.node); n != nil && proto.Equal(n.Inventory, inv) {
		return nil
	}
	c.flying = true
	entry := &raftlogv1.Entry{Op: &raftlogv1.Entry_NodeInventory{NodeInventory: &raftlogv1.NodeInventory{Node: c.node, Session: c.session, Inventory: inv}}}
	return []Output{{Propose: &Propose{Entry: entry, inventory: id}}}
}

func (m *Machine) inventoryCommitted(id ConnID, snap *state.Snapshot) []Output {
	c := m.conns[id]
	if c == nil {
		return nil
	}
	next := c.next
	c.flying, c.next = false, nil
	if next == nil {
		return nil
	}
	return m.Inventory(id, next, snap)
}

// Tick judges nodes that have not been heard of: first unreachable, then, when the lease is certainly over, fenced. It is
// derived from the committed state each time, so a judgement that was lost is made again. It also closes connections
// whose session the log knows no more.
func (m *Machine) Tick(snap *state.Snapshot, nowMS int64) []Output {
	m.forgiveOwnPause(nowMS)
	var out []Output
	known := 0
	for n := range snap.Nodes {
		at := m.nodes[n.Name]
		if at == nil {
			at = &contact{lastMS: nowMS}
			m.nodes[n.Name] = at
		}
		known++
		if c := m.open(n.Name); c != nil && n.Session != c.session && snap.Index() >= c.session {
			out = append(out, m.drop(c.id, "the session is over")...)
		}
		out = append(out, m.judge(n, at, snap, nowMS)...)
	}
	if len(m.nodes) > known {
		out = append(out, m.forgetRemoved(snap)...)
	}
	return out
}

// forgiveOwnPause gives every node back the time in which this leader itself stood still and could not have heard it.
func (m *Machine) forgiveOwnPause(nowMS int64) {
	pause := nowMS - m.tickMS
	m.tickMS = max(m.tickMS, nowMS)
	if pause <= m.cfg.UnreachableMS/2 {
		return
	}
	for _, at := range m.nodes {
		at.lastMS = min(at.lastMS+pause, nowMS)
	}
}

func (m *Machine) judge(n *state.Node, at *contact, snap *state.Snapshot, nowMS int64) []Output {
	if at.judging {
		return nil
	}
	silent := nowMS - at.lastMS
	switch {
	case n.State == state.NodeUp && silent > m.cfg.UnreachableMS:
		at.judging = true
		out := m.drop(at.conn, "no heartbeat")
		return append(out, Output{Propose: &Propose{judges: n.Name, Entry: &raftlogv1.Entry{Op: &raftlogv1.Entry_NodeState{NodeState: &raftlogv1.SetNodeState{
			Node: n.Name, Session: n.Session, State: state.NodeUnreachable, Detail: "no heartbeat",
		}}}}})
	case n.State == state.NodeUnreachable && silent > m.cfg.LeaseMS+m.cfg.LeaseMarginMS && holdsFenced(snap, n.Name):
		at.judging = true
		return []Output{{Propose: &Propose{judges: n.Name, Entry: &raftlogv1.Entry{Op: &raftlogv1.Entry_FenceNode{FenceNode: &raftlogv1.FenceNode{
			Node: n.Name, Session: n.Session,
		}}}}}}
	}
	return nil
}

func (m *Machine) judged(node string) {
	if at := m.nodes[node]; at != nil {
		at.judging = false
	}
}

// holdsFenced reports whether the node holds an attempt that its lease ends.
func holdsFenced(snap *state.Snapshot, node string) bool {
	for _, id := range snap.ActiveOn(node) {
		if j := snap.Job(id); j != nil && !j.Spec.GetNoRequeue() {
			return true
		}
	}
	return false
}

// forgetRemoved drops what is kept of nodes that are no longer registered.
func (m *Machine) forgetRemoved(snap *state.Snapshot) []Output {
	var out []Output
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		if snap.Node(name) != nil {
			continue
		}
		if c := m.open(name); c != nil && snap.Index() < c.session {
			continue
		}
		out = append(out, m.drop(m.nodes[name].conn, "the node was removed")...)
		delete(m.nodes, name)
	}
	return out
}
