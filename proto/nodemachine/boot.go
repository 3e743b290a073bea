package nodemachine

import (
	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// boot takes up the journal and what was found on the disk.
func (m *Machine) boot(in Boot) {
	m.daemonID, m.inventory, m.lease = in.DaemonID, in.Inventory, in.Lease
	for _, r := range in.Records {
		m.replay(r)
	}
	if _, node := Owner(in.Records); node != m.cfg.Node {
		m.append(&Record{Kind: RecordIdentity, Cluster: m.cluster, Node: m.cfg.Node}, false)
	}
	before := m.bootID
	if before != in.BootID {
		m.bootID, m.lease = in.BootID, Lease{}
		m.append(&Record{Kind: RecordBoot, BootID: in.BootID}, false)
	}
	found := make(map[Key]Found, len(in.Found))
	for _, f := range in.Found {
		found[f.Key] = f
		if m.attempts[f.Key] == nil {
			// A directory that the journal does not know: its end was acknowledged and only the removal is missing, or
			// the journal is new. It is taken up and reported; the leader's answer decides.
			m.add(&attempt{key: f.Key, phase: starting})
			m.append(&Record{Kind: RecordIntent, Key: f.Key}, false)
		}
	}
	for _, a := range m.sorted() {
		if a.phase == ended {
			continue
		}
		switch f := found[a.key]; f.State {
		case FoundRunning:
			a.phase, a.prepare = running, nil
		case FoundEnded:
			exit := f.Exit
			if exit == nil {
				exit = &fettlev1.Exit{Code: -1, ShimLost: true}
			}
			m.end(a, exit, 0)
		default:
			m.bootAbsent(a, before)
		}
	}
}

// bootAbsent settles an attempt without a directory: no process of it was ever forked, since the directory comes first.
func (m *Machine) bootAbsent(a *attempt, bootBefore string) {
	switch {
	case bootBefore != m.bootID && a.prepare != nil:
		m.endUnstarted(a, &fettlev1.Exit{Detail: "the node was restarted before it was started"})
	case a.prepare != nil:
		// It waits for an order of the next session.
		a.phase = prepared
	default:
		exit := &fettlev1.Exit{Code: -1, ShimLost: true, Detail: "the attempt's directory is gone"}
		m.end(a, exit, m.appendGated(&Record{Kind: RecordEnd, Key: a.key, Exit: exit}, false))
	}
}

// replay applies one journal record. Records that contradict what came before change nothing.
func (m *Machine) replay(r *Record) {
	a := m.attempts[r.Key]
	switch r.Kind {
	case RecordIdentity:
		m.cluster = r.Cluster
	case RecordBoot:
		m.bootID = r.BootID
	case RecordSession:
		m.lastTerm, m.lastSession = max(m.lastTerm, r.Term), max(m.lastSession, r.Session)
	case RecordIntent:
		if a == nil {
			m.add(&attempt{key: r.Key, phase: preparing, prepare: r.Prepare})
		}
	case RecordEnd:
		if a == nil {
			a = m.add(&attempt{key: r.Key})
		}
		a.phase, a.exit, a.prepare, a.endSeq = ended, r.Exit, nil, replayedSeq
		if a.exit == nil {
			a.exit = &fettlev1.Exit{Code: -1, NeverStarted: true}
		}
	case RecordTombstone:
		if a == nil {
			m.add(&attempt{key: r.Key, tombstone: true, phase: ended, endSeq: replayedSeq,
				exit: &fettlev1.Exit{Code: -1, NeverStarted: true, Detail: unstartedDetail}})
		}
	case RecordForget:
		if a != nil {
			m.remove(a)
		}
	case RecordLimit:
		if a != nil && a.prepare != nil {
			p := proto.CloneOf(a.prepare)
			p.TimeLimitS = r.Seconds
			a.prepare = p
		}
	}
}
