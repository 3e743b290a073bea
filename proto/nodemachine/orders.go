package nodemachine

import (
	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

const (
	overtakenDetail = "a later attempt of this job is already known here"
	unstartedDetail = "ended before it was started"
)

func (m *Machine) receive(msg *fettlev1.ControllerMessage) {
	if !m.connected {
		return
	}
	m.lastHeardMS = m.now
	if w := msg.GetWelcome(); w != nil {
		m.welcome(w)
		return
	}
	if m.session == 0 || (msg.GetSession() != m.session && !bugObeysOldSession) {
		return
	}
	switch o := msg.GetMsg().(type) {
	case *fettlev1.ControllerMessage_Lease:
		m.grant(o.Lease)
	case *fettlev1.ControllerMessage_Prepare:
		m.prepare(o.Prepare)
	case *fettlev1.ControllerMessage_Start:
		m.start(KeyOf(o.Start.GetKey()))
	case *fettlev1.ControllerMessage_Kill:
		m.kill(o.Kill)
	case *fettlev1.ControllerMessage_Ack:
		m.ack(o.Ack)
	case *fettlev1.ControllerMessage_Update:
		m.update(KeyOf(o.Update.GetKey()), o.Update.GetTimeLimitS())
	case *fettlev1.ControllerMessage_ReadLog:
		m.emit(ReadLog{Order: o.ReadLog})
	}
}

func (m *Machine) prepare(p *fettlev1.Prepare) {
	k := KeyOf(p.GetKey())
	if k.Job == 0 {
		return
	}
	if _, ok := m.gone[k]; ok && !bugStartTwice {
		return
	}
	a := m.attempts[k]
	if a == nil {
		if m.overtaken(k) {
			m.bury(k, overtakenDetail)
			return
		}
		a = m.add(&attempt{key: k, phase: preparing, prepare: p, startWanted: p.GetAutoStart()})
		m.appendGated(&Record{Kind: RecordIntent, Key: k, Prepare: p}, false)
		if bugIntentNotSynced {
			a.phase = prepared
			m.advance(a)
		}
		return
	}
	switch a.phase {
	case preparing, prepared:
		a.startWanted = a.startWanted || p.GetAutoStart()
		m.advance(a)
	case starting, running:
		if bugStartTwice {
			m.emit(StartShim{Key: k, Prepare: p, ClusterID: m.cluster, LeaseEpochMS: m.lease.EpochMS})
		}
		m.report(a)
	case ended:
		m.report(a)
	}
}

// overtaken says whether a later dispatch of the same job is known.
func (m *Machine) overtaken(k Key) bool {
	for _, o := range m.byJob[k.Job] {
		if o.Fence > k.Fence {
			return true
		}
	}
	return false
}

// bury keeps a tombstone for an attempt that must not start here any more.
func (m *Machine) bury(k Key, why string) {
	exit := &fettlev1.Exit{Code: -1, NeverStarted: true, Detail: why}
	if bugNoTombstone {
		m.send(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Report{Report: &fettlev1.AttemptReport{
			Key: k.Proto(), Kind: fettlev1.ReportKind_REPORT_KIND_ENDED, Exit: exit}}})
		return
	}
	a := m.add(&attempt{key: k, tombstone: true})
	m.end(a, exit, m.appendGated(&Record{Kind: RecordTombstone, Key: k}, false))
}

func (m *Machine) start(k Key) {
	a := m.attempts[k]
	if a == nil {
		return
	}
	switch a.phase {
	case preparing, prepared:
		a.startWanted = true
		m.advance(a)
	case starting, running, ended:
		m.report(a)
	}
}

func (m *Machine) kill(o *fettlev1.Kill) {
	k := KeyOf(o.GetKey())
	if k.Job == 0 {
		return
	}
	if _, ok := m.gone[k]; ok {
		return
	}
	a := m.attempts[k]
	if o.GetSignal() != 0 {
		if a != nil && (a.phase == starting || a.phase == running) {
			m.emit(SignalShim{Key: k, Signal: o.GetSignal()})
		}
		return
	}
	if a == nil {
		m.bury(k, unstartedDetail)
		return
	}
	switch a.phase {
	case preparing, prepared:
		m.endUnstarted(a, &fettlev1.Exit{Detail: unstartedDetail})
	case starting, running:
		m.emit(StopShim{Key: k, GraceMS: max(0, o.GetGraceMs())})
	case ended:
		m.report(a)
	}
}

func (m *Machine) ack(o *fettlev1.Ack) {
	a := m.attempts[KeyOf(o.GetKey())]
	// Only an end that was reported can be acknowledged; one that still has processes is never forgotten.
	if a == nil || m.kind(a) != fettlev1.ReportKind_REPORT_KIND_ENDED || o.GetCommittedIndex() == 0 {
		return
	}
	m.forget(a)
}

func (m *Machine) update(k Key, seconds int64) {
	a := m.attempts[k]
	if a == nil || seconds < 0 {
		return
	}
	switch a.phase {
	case preparing, prepared:
		if a.prepare == nil {
			return
		}
		p := proto.CloneOf(a.prepare)
		p.TimeLimitS = seconds
		a.prepare = p
		m.append(&Record{Kind: RecordLimit, Key: k, Seconds: seconds}, false)
	case starting, running:
		m.emit(LimitShim{Key: k, Seconds: seconds})
	case ended:
	}
}
