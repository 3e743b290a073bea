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
	for _, a := range at.GetNodes() {
		if a.GetNode() == node {
			return a
		}
	}
	return nil
}

func keyOf(j *state.Job, at *fettlev1.Attempt) *fettlev1.AttemptKey {
	return &fettlev1.AttemptKey{JobId: j.ID, Attempt: at.GetNumber(), Fence: at.GetFence()}
}

// ordersFor sends what the job's committed state asks of the connection's node, unless it was sent in this session.
func (m *Machine) ordersFor(c *conn, j *state.Job, snap *state.Snapshot) []Output {
	at := j.Current()
	if at == nil || at.GetEndMs() != 0 {
		return nil
	}
	rank := -1
	for i, a := range at.GetNodes() {
		if a.GetNode() == c.node {
			rank = i
		}
	}
	if rank < 0 || at.GetNodes()[rank].GetExit() != nil {
		return nil
	}
	a, id := at.GetNodes()[rank], attemptID{j.ID, at.GetNumber()}
	give := func(o order, out Output) []Output {
		if c.sent[id] >= o {
			return nil
		}
		c.sent[id] = o
		return []Output{out}
	}
	switch j.State {
	case fettlev1.JobState_JOB_STATE_DISPATCHING:
		if !a.GetPrepared() {
			return give(orderPrepare, m.prepare(c, j, at, rank, snap))
		}
	case fettlev1.JobState_JOB_STATE_RUNNING:
		if !a.GetStarted() && len(at.GetNodes()) > 1 {
			return give(orderStart, m.send(c, &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Start{Start: &fettlev1.Start{Key: keyOf(j, at)}}}))
		}
	case fettlev1.JobState_JOB_STATE_COMPLETING, fettlev1.JobState_JOB_STATE_FENCING:
		return give(orderKill, m.kill(c, keyOf(j, at), j.Spec.GetKillGraceS()*1000, 0))
	}
	return nil
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

func (m *Machine) limitOf(c *conn, j *state.Job) []Output {
	at := j.Current()
	if at == nil || j.State != fettlev1.JobState_JOB_STATE_RUNNING {
		return nil
	}
	return []Output{m.send(c, &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Update{Update: &fettlev1.Update{
		Key: keyOf(j, at), TimeLimitS: j.Spec.GetTimeLimitS(),
	}}})}
}

func (m *Machine) kill(c *conn, key *fettlev1.AttemptKey, graceMS int64, signal int32) Output {
	return m.send(c, &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Kill{Kill: &fettlev1.Kill{Key: key, GraceMs: graceMS, Signal: signal}}})
}

func (m *Machine) ack(c *conn, key *fettlev1.AttemptKey, index uint64) Output {
	return m.send(c, &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Ack{Ack: &fettlev1.Ack{Key: key, CommittedIndex: index}}})
}

func (m *Machine) send(c *conn, msg *fettlev1.ControllerMessage) Output {
	msg.Session = c.session
	return Output{Send: &Send{Conn: c.id, Msg: msg}}
}
