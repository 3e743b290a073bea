package session

import (
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// allocation returns what the log says key holds on node, or nil when key is not the job's current attempt there.
func allocation(j *state.Job, key *fettlev1.AttemptKey, node string) *fettlev1.NodeAllocation {
	if j == nil {
		return nil
	}
	at := j.Current()
	if at == nil || at.GetNumber() != key.GetAttempt() || at.GetFence() != key.GetFence() || at.GetEndMs() != 0 {
		return nil
	}
	if rank := rankOf(at, node); rank >= 0 {
		return at.GetNodes()[rank]
	}
	return nil
}

func keyOf(j *state.Job, at *fettlev1.Attempt) *fettlev1.AttemptKey {
	return &fettlev1.AttemptKey{JobId: j.ID, Attempt: at.GetNumber(), Fence: at.GetFence()}
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
			if c := m.open(a.GetNode()); c != nil {
				out = append(out, m.ordersFor(c, j, snap)...)
			}
		}
	}
	return out
}

// Signal delivers a signal to a running job's nodes without ending it; false when one of them cannot be reached.
func (m *Machine) Signal(job uint64, signal int32, snap *state.Snapshot) ([]Output, bool) {
	j := snap.Job(job)
	if j == nil || j.State != fettlev1.JobState_JOB_STATE_RUNNING {
		return nil, false
	}
	var out []Output
	all := true
	at := j.Current()
	for _, a := range at.GetNodes() {
		if a.GetExit() != nil {
			continue
		}
		if c := m.open(a.GetNode()); c != nil {
			out = append(out, m.kill(c, keyOf(j, at), 0, signal))
		} else {
			all = false
		}
	}
	return out, all
}

// ordersFor sends what the job's committed state asks of the connection's node, unless it was sent in this session.
func (m *Machine) ordersFor(c *conn, j *state.Job, snap *state.Snapshot) []Output {
	at := j.Current()
	rank := rankOf(at, c.node)
	if rank < 0 {
		return nil
	}
	a, id := at.GetNodes()[rank], attemptID{j.ID, at.GetNumber()}
	if at.GetEndMs() != 0 || a.GetExit() != nil {
		// It is over here; what is still proposed for it is acknowledged all the same.
		delete(c.given, id)
		return nil
	}
	g := c.given[id]
	var out []Output
	give := func(o order, make func() Output) {
		if g.order < o {
			g.order = o
			out = append(out, make())
		}
	}
	switch j.State {
	case fettlev1.JobState_JOB_STATE_DISPATCHING:
		if !a.GetPrepared() {
			if g.order < orderPrepare {
				g.limitS, g.told = j.Spec.GetTimeLimitS(), true
			}
			give(orderPrepare, func() Output { return m.prepare(c, j, at, rank, snap) })
		}
	case fettlev1.JobState_JOB_STATE_RUNNING:
		if !a.GetStarted() && len(at.GetNodes()) > 1 {
			give(orderStart, func() Output { return m.start(c, j, at) })
		}
	case fettlev1.JobState_JOB_STATE_COMPLETING, fettlev1.JobState_JOB_STATE_FENCING:
		give(orderKill, func() Output { return m.kill(c, keyOf(j, at), j.StopGraceMS(), 0) })
	default:
		return nil
	}
	if limit := j.Spec.GetTimeLimitS(); g.order != orderKill && (!g.told || g.limitS != limit) {
		g.limitS, g.told = limit, true
		out = append(out, m.limit(c, j, at))
	}
	c.given[id] = g
	return out
}

func rankOf(at *fettlev1.Attempt, node string) int {
	for i, a := range at.GetNodes() {
		if a.GetNode() == node {
			return i
		}
	}
	return -1
}

func (m *Machine) prepare(c *conn, j *state.Job, at *fettlev1.Attempt, rank int, snap *state.Snapshot) Output {
	p := &fettlev1.Prepare{
		Key: keyOf(j, at), Spec: j.Spec, User: j.User, Uid: j.UID, Gid: j.GID,
		Allocation: at.GetNodes()[rank], Rank: uint32(rank),
		MasterPort:      masterPort(at.GetFence(), j.ID),
		AutoStart:       len(at.GetNodes()) == 1,
		FenceByLease:    !j.Spec.GetNoRequeue(),
		TimeLimitS:      j.Spec.GetTimeLimitS(),
		EarlierAttempts: at.GetNumber() - 1,
		ArrayJobId:      j.ArrayJobID,
		ArrayIndex:      j.ArrayIndex,
	}
	for _, a := range at.GetNodes() {
		member := &fettlev1.GangMember{Node: a.GetNode(), Gpus: uint32(len(a.GetGpuUuids()))}
		if n := snap.Node(a.GetNode()); n != nil {
			member.Address = n.Inventory.GetAddress()
		}
		p.Gang = append(p.Gang, member)
	}
	return m.send(c, &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Prepare{Prepare: p}})
}

// masterPort spreads rendezvous ports over 20000-29999, below the usual ephemeral range, so that an attempt does not
// meet the port of the one before it or of a neighbour.
func masterPort(fence, job uint64) uint32 {
	return 20_000 + uint32((fence*7919+job)%10_000)
}

func (m *Machine) start(c *conn, j *state.Job, at *fettlev1.Attempt) Output {
	return m.send(c, &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Start{Start: &fettlev1.Start{Key: keyOf(j, at)}}})
}

// limit tells the time limit: it may have been changed since the node was last told.
func (m *Machine) limit(c *conn, j *state.Job, at *fettlev1.Attempt) Output {
	return m.send(c, &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Update{Update: &fettlev1.Update{
		Key: keyOf(j, at), TimeLimitS: j.Spec.GetTimeLimitS(),
	}}})
}

func (m *Machine) kill(c *conn, key *fettlev1.AttemptKey, graceMS int64, signal int32) Output {
	return m.send(c, &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Kill{Kill: &fettlev1.Kill{Key: key, GraceMs: graceMS, Signal: signal}}})
}

func (m *Machine) ack(c *conn, key *fettlev1.AttemptKey, index uint64) Output {
	return m.send(c, &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Ack{Ack: &fettlev1.Ack{Key: key, CommittedIndex: index}}})
}
