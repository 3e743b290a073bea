package nodemachine

import (
	"slices"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Config of a Machine. The zero value of every field but Node has a meaning.
type Config struct {
	// Node is the node's name.
	Node string
	// ResendMS is how long an unacknowledged end waits before it is reported again; 0 means 10,000.
	ResendMS int64
	// SilenceMS is how long a stream may be silent before it is given up; 0 means three heartbeats, at least 10,000.
	SilenceMS int64
}

const (
	defaultResendMS    = 10_000
	defaultHeartbeatMS = 5_000
	minSilenceMS       = 10_000
	silentHeartbeats   = 3
	// forgottenKept bounds the memory of acknowledged attempts. It guards against messages repeated within a session;
	// a new session needs no guard, since its leader knows what was acknowledged.
	forgottenKept = 16_384
	// replayedSeq stands for every record that was on disk at boot.
	replayedSeq = 1
)

type phase uint8

const (
	// preparing: the intent is on its way to the disk.
	preparing phase = iota + 1
	// prepared: the attempt may be started when it is ordered and nothing stands in its way.
	prepared
	// starting: a shim was asked for.
	starting
	running
	ended
)

type attempt struct {
	key   Key
	phase phase
	// prepare is set until the shim has started.
	prepare *fettlev1.Prepare
	// startWanted: the current session has ordered the start.
	startWanted bool
	tombstone   bool
	exit        *fettlev1.Exit
	// endSeq is the journal record that must be on disk before the end is reported; 0 when the exit record is elsewhere.
	endSeq   uint64
	reported fettlev1.ReportKind
	sentMS   int64
}

type gate struct {
	seq  uint64
	key  Key
	what RecordKind
}

// Machine is one node. It is not safe for concurrent use.
type Machine struct {
	cfg Config
	now int64
	out []Output

	daemonID  string
	bootID    string
	inventory *fettlev1.Inventory

	attempts map[Key]*attempt
	byJob    map[uint64][]Key
	gone     map[Key]struct{}
	goneRing []Key
	goneNext int

	seq    uint64
	synced uint64
	gates  []gate

	cluster     string
	lastTerm    uint64
	lastSession uint64

	connected   bool
	session     uint64 // 0: none
	heartbeatMS int64
	beatSeq     uint64
	lastBeatMS  int64
	lastHeardMS int64

	lease Lease
}

// New returns a machine that waits for Boot.
func New(cfg Config) *Machine {
	if cfg.ResendMS == 0 {
		cfg.ResendMS = defaultResendMS
	}
	return &Machine{
		cfg:         cfg,
		attempts:    map[Key]*attempt{},
		byJob:       map[uint64][]Key{},
		gone:        map[Key]struct{}{},
		heartbeatMS: defaultHeartbeatMS,
		seq:         replayedSeq,
		synced:      replayedSeq,
	}
}

// Step takes one input at a CLOCK_BOOTTIME instant and returns what is to be done, in order. The slice is the caller's.
func (m *Machine) Step(nowMS int64, in Input) []Output {
	m.now = max(m.now, nowMS)
	m.out = nil
	switch in := in.(type) {
	case Boot:
		m.boot(in)
	case Connected:
		m.connect()
	case Received:
		m.receive(in.Msg)
	case SessionLost:
		m.dropSession()
	case JournalSynced:
		m.journalSynced(in.Upto)
	case ShimStarted:
		m.shimStarted(in.Key)
	case ShimFailed:
		m.shimFailed(in.Key, in.Exit)
	case ShimEnded:
		m.shimEnded(in.Key, in.Exit)
	case InventoryChanged:
		m.inventory = in.Inventory
		if m.session != 0 {
			m.send(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Inventory{Inventory: in.Inventory}})
		}
	case Tick:
		m.tick()
	}
	out := m.out
	m.out = nil
	return out
}

// Session is the current session's index, 0 when there is none.
func (m *Machine) Session() uint64 { return m.session }

// ClusterID is the cluster that the node belongs to; empty until its first session.
func (m *Machine) ClusterID() string { return m.cluster }

// Live lists the attempts that have or may have a process here, in key order.
func (m *Machine) Live() []Key {
	var keys []Key
	for _, a := range m.sorted() {
		if a.phase == starting || a.phase == running {
			keys = append(keys, a.key)
		}
	}
	return keys
}

// Snapshot returns records that, replayed, give the machine's durable state as of the last record appended.
func (m *Machine) Snapshot() []*Record {
	recs := []*Record{{Kind: RecordIdentity, Cluster: m.cluster, Node: m.cfg.Node}, {Kind: RecordBoot, BootID: m.bootID}}
	if m.lastSession != 0 {
		recs = append(recs, &Record{Kind: RecordSession, Term: m.lastTerm, Session: m.lastSession})
	}
	for _, a := range m.sorted() {
		if a.tombstone {
			recs = append(recs, &Record{Kind: RecordTombstone, Key: a.key})
			continue
		}
		intent := &Record{Kind: RecordIntent, Key: a.key}
		if a.phase == preparing || a.phase == prepared || a.phase == starting {
			intent.Prepare = a.prepare
		}
		recs = append(recs, intent)
		if a.phase == ended && a.endSeq != 0 {
			recs = append(recs, &Record{Kind: RecordEnd, Key: a.key, Exit: a.exit})
		}
	}
	return recs
}

func (m *Machine) emit(o Output) { m.out = append(m.out, o) }

func (m *Machine) send(msg *fettlev1.NodeMessage) { m.emit(Send{Msg: msg}) }

// append journals a record and says under which number.
func (m *Machine) append(r *Record, lazy bool) uint64 {
	m.seq++
	m.emit(Append{Seq: m.seq, Record: r, Lazy: lazy})
	return m.seq
}

// appendGated journals a record; journalSynced acts on it again once it is on disk.
func (m *Machine) appendGated(r *Record, lazy bool) uint64 {
	seq := m.append(r, lazy)
	m.gates = append(m.gates, gate{seq: seq, key: r.Key, what: r.Kind})
	return seq
}

func (m *Machine) journalSynced(upto uint64) {
	m.synced = max(m.synced, min(upto, m.seq))
	n := 0
	for ; n < len(m.gates) && m.gates[n].seq <= m.synced; n++ {
		g := m.gates[n]
		if g.what == RecordForget {
			m.emit(Forget{Key: g.key})
			continue
		}
		a := m.attempts[g.key]
		if a == nil {
			continue
		}
		if g.what == RecordIntent && a.phase == preparing {
			a.phase = prepared
			m.advance(a)
		}
		if a.phase == ended {
			m.report(a)
		}
	}
	m.gates = slices.Delete(m.gates, 0, n)
}

// sorted lists the attempts in key order, so that nothing depends on the map's.
func (m *Machine) sorted() []*attempt {
	as := make([]*attempt, 0, len(m.attempts))
	for _, a := range m.attempts {
		as = append(as, a)
	}
	slices.SortFunc(as, func(a, b *attempt) int { return a.key.Compare(b.key) })
	return as
}

func (m *Machine) add(a *attempt) *attempt {
	m.attempts[a.key] = a
	m.byJob[a.key.Job] = append(m.byJob[a.key.Job], a.key)
	return a
}

func (m *Machine) remove(a *attempt) {
	delete(m.attempts, a.key)
	keys := slices.DeleteFunc(m.byJob[a.key.Job], func(k Key) bool { return k == a.key })
	if len(keys) == 0 {
		delete(m.byJob, a.key.Job)
	} else {
		m.byJob[a.key.Job] = keys
	}
}

// blocked says whether another attempt of the job may still have a process on this node.
func (m *Machine) blocked(a *attempt) bool {
	for _, k := range m.byJob[a.key.Job] {
		if o := m.attempts[k]; o != a && (o.phase == starting || o.phase == running) {
			return true
		}
	}
	return false
}

// advance does what a prepared attempt is ready for.
func (m *Machine) advance(a *attempt) {
	if a.phase != prepared || m.blocked(a) {
		return
	}
	if !a.startWanted {
		m.report(a)
		return
	}
	if m.overtaken(a.key) {
		m.endUnstarted(a, &fettlev1.Exit{Detail: overtakenDetail})
		return
	}
	start := StartShim{Key: a.key, Prepare: a.prepare, ClusterID: m.cluster}
	if a.prepare.GetFenceByLease() && !bugLeaseIgnored {
		if !m.leaseValid() {
			return
		}
		start.LeaseEpochMS = m.lease.EpochMS
	}
	a.phase = starting
	m.emit(start)
}

// end moves an attempt to its end. seq is the journal record that the report waits for, 0 for none.
func (m *Machine) end(a *attempt, exit *fettlev1.Exit, seq uint64) {
	a.phase, a.exit, a.endSeq, a.prepare = ended, exit, seq, nil
	m.report(a)
	if bugExitForgottenBeforeAck {
		m.forget(a)
	}
	for _, k := range slices.Clone(m.byJob[a.key.Job]) {
		if o := m.attempts[k]; o != nil && o != a {
			m.advance(o)
		}
	}
}

// endUnstarted ends an attempt that has never had a process here; the record goes to disk before the report goes out.
func (m *Machine) endUnstarted(a *attempt, exit *fettlev1.Exit) {
	exit.NeverStarted, exit.Code = true, -1
	m.end(a, exit, m.appendGated(&Record{Kind: RecordEnd, Key: a.key, Exit: exit}, false))
}

func (m *Machine) forget(a *attempt) {
	m.remove(a)
	if m.goneRing == nil {
		m.goneRing = make([]Key, forgottenKept)
	}
	delete(m.gone, m.goneRing[m.goneNext])
	m.goneRing[m.goneNext] = a.key
	m.goneNext = (m.goneNext + 1) % forgottenKept
	m.gone[a.key] = struct{}{}
	m.appendGated(&Record{Kind: RecordForget, Key: a.key}, true)
}

func (m *Machine) shimStarted(k Key) {
	a := m.attempts[k]
	if a == nil || a.phase != starting {
		return
	}
	a.phase, a.prepare = running, nil
	m.report(a)
}

func (m *Machine) shimFailed(k Key, exit *fettlev1.Exit) {
	a := m.attempts[k]
	if a == nil || a.phase == ended {
		return
	}
	if exit == nil {
		exit = &fettlev1.Exit{}
	}
	m.endUnstarted(a, proto.CloneOf(exit))
}

func (m *Machine) shimEnded(k Key, exit *fettlev1.Exit) {
	a := m.attempts[k]
	if a == nil || a.phase == ended {
		return
	}
	m.end(a, exit, 0)
}

func (m *Machine) leaseValid() bool { return m.now < m.lease.DeadlineMS }
