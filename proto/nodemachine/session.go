package nodemachine

import (
	"fmt"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func (m *Machine) connect() {
	m.dropSession()
	m.connected = true
	m.lastHeardMS = m.now
	hello := &fettlev1.Hello{
		ClusterId:    m.cluster,
		Node:         m.cfg.Node,
		BootId:       m.bootID,
		DaemonId:     m.daemonID,
		Inventory:    m.inventory,
		LastSession:  m.lastSession,
		LastTerm:     m.lastTerm,
		FreshJournal: m.lastSession == 0,
	}
	for _, a := range m.sorted() {
		kind := m.kind(a)
		// What waits to be started is named without a kind: the leader orders it again, or ends it if it is over.
		waits := a.phase == prepared || a.phase == starting
		if a.tombstone || (kind == fettlev1.ReportKind_REPORT_KIND_UNSPECIFIED && !waits) {
			continue
		}
		a.reported, a.sentMS = kind, m.now
		hello.Attempts = append(hello.Attempts, m.reportOf(a, kind))
	}
	m.send(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Hello{Hello: hello}})
}

// dropSession forgets what belongs to a stream. A start that was ordered but not made must be ordered again: the next
// leader may know that the attempt is over.
func (m *Machine) dropSession() {
	m.connected, m.session = false, 0
	for _, a := range m.attempts {
		a.reported, a.sentMS = fettlev1.ReportKind_REPORT_KIND_UNSPECIFIED, 0
		if a.phase == preparing || a.phase == prepared {
			a.startWanted = false
		}
	}
}

func (m *Machine) closeSession(reason string, refused bool) {
	m.dropSession()
	m.emit(CloseSession{Reason: reason, Refused: refused})
}

func (m *Machine) welcome(w *fettlev1.Welcome) {
	switch {
	case !m.connected || m.session != 0:
		return
	case w.GetClusterId() == "" || w.GetSession() == 0:
		m.closeSession("the controller's welcome names no cluster or no session", true)
		return
	case m.cluster != "" && w.GetClusterId() != m.cluster:
		m.closeSession(fmt.Sprintf("the controller is of cluster %s, this node belongs to %s", w.GetClusterId(), m.cluster), true)
		return
	case (w.GetTerm() < m.lastTerm || w.GetSession() <= m.lastSession) && !bugObeysOldSession:
		m.closeSession(fmt.Sprintf("the controller's term %d and session %d are behind term %d and session %d, which this node has obeyed",
			w.GetTerm(), w.GetSession(), m.lastTerm, m.lastSession), true)
		return
	}
	if m.cluster == "" {
		m.cluster = w.GetClusterId()
		m.append(&Record{Kind: RecordIdentity, Cluster: m.cluster, Node: m.cfg.Node}, false)
	}
	m.session, m.lastSession, m.lastTerm = w.GetSession(), max(m.lastSession, w.GetSession()), max(m.lastTerm, w.GetTerm())
	m.append(&Record{Kind: RecordSession, Term: m.lastTerm, Session: m.lastSession}, false)
	m.heartbeatMS = defaultHeartbeatMS
	if w.GetHeartbeatMs() > 0 {
		m.heartbeatMS = w.GetHeartbeatMs()
	}
	m.heartbeat()
	// What has changed since the hello, and the tombstones, which it leaves out.
	for _, a := range m.sorted() {
		if m.kind(a) != a.reported {
			m.report(a)
		}
	}
}

func (m *Machine) heartbeat() {
	m.beatSeq++
	m.lastBeatMS = m.now
	m.send(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Heartbeat{
		Heartbeat: &fettlev1.Heartbeat{Seq: m.beatSeq, SentBoottimeMs: m.now}}})
}

func (m *Machine) silenceMS() int64 {
	if m.cfg.SilenceMS != 0 {
		return m.cfg.SilenceMS
	}
	return max(minSilenceMS, silentHeartbeats*m.heartbeatMS)
}

func (m *Machine) tick() {
	if !m.connected {
		return
	}
	if quiet := m.now - m.lastHeardMS; quiet > m.silenceMS() {
		m.closeSession(fmt.Sprintf("nothing heard from the controller for %d ms", quiet), false)
		return
	}
	if m.session == 0 {
		return
	}
	if m.now-m.lastBeatMS >= m.heartbeatMS {
		m.heartbeat()
	}
	for _, a := range m.sorted() {
		if a.phase == ended && a.reported != fettlev1.ReportKind_REPORT_KIND_UNSPECIFIED && m.now-a.sentMS >= m.cfg.ResendMS {
			m.report(a)
		}
	}
}

// grant takes a lease that the leader has answered. The lease counts from the heartbeat's sending, so an answer that
// was long on its way gives nothing. A lease that ran out before its extension came is over for good.
func (m *Machine) grant(g *fettlev1.LeaseGrant) {
	deadline := g.GetSentBoottimeMs() + g.GetTtlMs()
	if g.GetTtlMs() <= 0 || g.GetSentBoottimeMs() > m.now || deadline <= m.now || deadline <= m.lease.DeadlineMS {
		return
	}
	if !m.leaseValid() && !bugLeaseIgnored {
		m.lease.EpochMS = m.now
	}
	m.lease.DeadlineMS = deadline
	m.emit(SetLease{Lease: m.lease})
	for _, a := range m.sorted() {
		if a.startWanted {
			m.advance(a)
		}
	}
}

// kind is what may be said of an attempt now; unspecified when nothing may, since the journal is behind.
func (m *Machine) kind(a *attempt) fettlev1.ReportKind {
	switch a.phase {
	case prepared, starting:
		// Only a gang has a second phase. For a single node "prepared" would read as running, and the leader would not
		// repeat its order.
		if !a.prepare.GetAutoStart() && !m.blocked(a) {
			return fettlev1.ReportKind_REPORT_KIND_PREPARED
		}
	case running:
		return fettlev1.ReportKind_REPORT_KIND_STARTED
	case ended:
		if a.endSeq <= m.synced {
			return fettlev1.ReportKind_REPORT_KIND_ENDED
		}
	case preparing:
	}
	return fettlev1.ReportKind_REPORT_KIND_UNSPECIFIED
}

func (m *Machine) reportOf(a *attempt, kind fettlev1.ReportKind) *fettlev1.AttemptReport {
	r := &fettlev1.AttemptReport{Key: a.key.Proto(), Kind: kind}
	if kind == fettlev1.ReportKind_REPORT_KIND_ENDED {
		r.Exit = a.exit
	}
	return r
}

// report tells the leader how an attempt stands, if there is a session and something to tell.
func (m *Machine) report(a *attempt) {
	kind := m.kind(a)
	if m.session == 0 || kind == fettlev1.ReportKind_REPORT_KIND_UNSPECIFIED {
		return
	}
	a.reported, a.sentMS = kind, m.now
	m.send(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Report{Report: m.reportOf(a, kind)}})
}
