package nodemachine

import (
	"fmt"
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// world is one node and a leader that follows the protocol, on a virtual clock, with a disk that forgets what was not
// synced, messages that come late, twice or from the past, and crashes at any point between two outputs.
type world struct {
	pick func(n int) int // 0..n-1
	now  int64

	m       *Machine
	boots   int
	disk    []*Record
	pending []Append
	events  []Input // from shims to the daemon, lost in a crash
	shims   map[Key]*simShim
	lease   Lease
	starts  map[Key]int

	connected bool
	toNode    []*fettlev1.ControllerMessage
	toLeader  []*fettlev1.NodeMessage
	past      []*fettlev1.ControllerMessage
	stale     bool // the message being delivered is not of the current session

	leader leader
	err    error
}

type simShim struct {
	alive bool
	epoch int64
	exit  *fettlev1.Exit
}

type leader struct {
	term, session uint64
	inSession     uint64
	answeredMS    int64
	index         uint64
	jobs          map[uint64]*simJob
	order         []uint64
	// ended holds every end that the leader has committed.
	ended map[Key]*fettlev1.Exit
}

type simJob struct {
	attempts uint32
	current  Key // zero when none is active
	prepare  *fettlev1.Prepare
	killed   bool
	prepared bool
	started  bool
}

const (
	simTTL    = 20_000
	simMargin = 5_000
)

func newWorld(pick func(int) int) *world {
	w := &world{pick: pick, now: 1_000, boots: 1, shims: map[Key]*simShim{}, starts: map[Key]int{}}
	w.leader = leader{term: 1, index: 10, jobs: map[uint64]*simJob{}, ended: map[Key]*fettlev1.Exit{}}
	w.boot()
	return w
}

func (w *world) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
	}
}

func (w *world) step(in Input) {
	outs := w.m.Step(w.now, in)
	// A crash may come between any two outputs.
	for i, o := range outs {
		if w.err != nil {
			return
		}
		if i > 0 && w.pick(400) == 0 {
			w.crash()
			return
		}
		w.do(o)
	}
}

func (w *world) do(o Output) {
	switch o := o.(type) {
	case Append:
		w.pending = append(w.pending, o)
	case StartShim:
		w.startShim(o)
	case StopShim:
		if w.stale {
			w.fail("a message of an old session ended %v", o.Key)
		}
		if s := w.shims[o.Key]; s != nil && s.alive {
			w.endShim(o.Key, &fettlev1.Exit{Code: -1, Signal: 15})
		}
	case SetLease:
		w.lease = o.Lease
	case Send:
		if w.connected {
			w.toLeader = append(w.toLeader, o.Msg)
		}
	case CloseSession:
		w.disconnect()
	case Forget:
		if s := w.shims[o.Key]; s != nil {
			if s.alive {
				w.fail("%v was forgotten while its processes live", o.Key)
			}
			if w.leader.ended[o.Key] == nil {
				w.fail("%v was forgotten before its end was committed", o.Key)
			}
			delete(w.shims, o.Key)
		}
	}
}

func (w *world) startShim(o StartShim) {
	k := o.Key
	w.starts[k]++
	if w.starts[k] > 1 {
		w.fail("%v was started twice", k)
	}
	if w.stale {
		w.fail("a message of an old session started %v", k)
	}
	if !slices.ContainsFunc(w.disk, func(r *Record) bool { return r.Kind == RecordIntent && r.Key == k }) {
		w.fail("%v was started before its intent was on disk", k)
	}
	if w.leader.ended[k] != nil {
		w.fail("%v was started after its end was committed", k)
	}
	for other, s := range w.shims {
		if other.Job == k.Job && s.alive {
			w.fail("%v was started beside %v", k, other)
		}
	}
	if w.pick(12) == 0 {
		// No process comes to be: the directory could not be made, the user's settings are wrong.
		w.starts[k]--
		w.events = append(w.events, ShimFailed{Key: k, Exit: &fettlev1.Exit{UserError: true, Detail: "no such work_dir"}})
		return
	}
	s := &simShim{alive: true, epoch: o.LeaseEpochMS}
	w.shims[k] = s
	w.events = append(w.events, ShimStarted{Key: k})
	w.checkLeases()
}

func (w *world) endShim(k Key, exit *fettlev1.Exit) {
	s := w.shims[k]
	s.alive, s.exit = false, exit
	w.events = append(w.events, ShimEnded{Key: k, Exit: exit})
}

// checkLeases is what every shim does for itself.
func (w *world) checkLeases() {
	for _, k := range w.shimKeys() {
		s := w.shims[k]
		if s.alive && s.epoch != 0 && (w.now >= w.lease.DeadlineMS || s.epoch != w.lease.EpochMS) {
			w.endShim(k, &fettlev1.Exit{Code: -1, LeaseExpired: true})
		}
	}
}

func (w *world) shimKeys() []Key {
	var ks []Key
	for k := range w.shims {
		ks = append(ks, k)
	}
	slices.SortFunc(ks, Key.Compare)
	return ks
}

func (w *world) sync() {
	if len(w.pending) == 0 {
		return
	}
	upto := w.pending[len(w.pending)-1].Seq
	w.flush(len(w.pending))
	w.step(JournalSynced{Upto: upto})
}

// flush puts the first n waiting records on disk, through the encoding.
func (w *world) flush(n int) {
	for _, p := range w.pending[:n] {
		b, err := p.Record.AppendBinary(nil)
		if err != nil {
			w.fail("encode: %v", err)
			return
		}
		r, err := ParseRecord(b)
		if err != nil {
			w.fail("decode: %v", err)
			return
		}
		w.disk = append(w.disk, r)
	}
	w.pending = slices.Delete(w.pending, 0, n)
}

func (w *world) crash() {
	// Some of what was not synced may have reached the disk all the same, in order.
	w.flush(w.pick(len(w.pending) + 1))
	w.pending, w.events = nil, nil
	w.disconnect()
	w.boot()
}

func (w *world) reboot() {
	w.boots++
	w.now = 1_000
	for _, k := range w.shimKeys() {
		if s := w.shims[k]; s.alive {
			s.alive, s.exit = false, &fettlev1.Exit{Code: -1, ShimLost: true}
		}
	}
	w.lease = Lease{}
	w.leader.answeredMS = 0
	w.crash()
}

func (w *world) boot() {
	b := Boot{BootID: fmt.Sprint("boot", w.boots), DaemonID: "d", Records: w.disk, Lease: w.lease}
	for _, k := range w.shimKeys() {
		f := Found{Key: k, State: FoundRunning}
		if s := w.shims[k]; !s.alive {
			f.State, f.Exit = FoundEnded, s.exit
		}
		b.Found = append(b.Found, f)
	}
	w.m = New(Config{Node: "n"})
	w.step(b)
	if w.pick(4) == 0 { // compaction
		w.flush(len(w.pending))
		w.pending = nil
		w.disk = w.m.Snapshot()
		w.step(JournalSynced{Upto: 1 << 62})
	}
}

func (w *world) disconnect() {
	w.past = append(w.past, w.toNode...)
	w.connected, w.toNode, w.toLeader, w.leader.inSession = false, nil, nil, 0
}

func (w *world) connect() {
	if w.connected {
		w.disconnect()
		w.step(SessionLost{})
	}
	w.connected = true
	if w.pick(3) == 0 {
		w.leader.term++
	}
	w.step(Connected{})
}

func (w *world) order(msg *fettlev1.ControllerMessage) {
	if w.leader.inSession == 0 {
		return
	}
	msg.Session = w.leader.inSession
	w.toNode = append(w.toNode, msg)
}

// leaderTakes handles the oldest message from the node.
func (w *world) leaderTakes() {
	if len(w.toLeader) == 0 {
		return
	}
	msg := w.toLeader[0]
	w.toLeader = w.toLeader[1:]
	l := &w.leader
	switch x := msg.Msg.(type) {
	case *fettlev1.NodeMessage_Hello:
		l.index++
		l.session, l.inSession = l.index, l.index
		l.answeredMS = w.now
		w.toNode = append(w.toNode, &fettlev1.ControllerMessage{Session: l.session, Msg: &fettlev1.ControllerMessage_Welcome{
			Welcome: &fettlev1.Welcome{ClusterId: "c", Term: l.term, Session: l.session, LeaseTtlMs: simTTL, HeartbeatMs: 2_000}}})
		for _, r := range x.Hello.Attempts {
			w.leaderReport(r)
		}
		w.outstanding()
	case *fettlev1.NodeMessage_Heartbeat:
		l.answeredMS = w.now
		w.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Lease{Lease: &fettlev1.LeaseGrant{
			Seq: x.Heartbeat.Seq, SentBoottimeMs: x.Heartbeat.SentBoottimeMs, TtlMs: simTTL}}})
	case *fettlev1.NodeMessage_Report:
		w.leaderReport(x.Report)
	}
}

func (w *world) leaderReport(r *fettlev1.AttemptReport) {
	k, l := KeyOf(r.Key), &w.leader
	j := l.jobs[k.Job]
	if r.Kind != fettlev1.ReportKind_REPORT_KIND_ENDED && j.current != k {
		// The leader knows it to be over: an explicit order, never silence.
		w.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Kill{Kill: &fettlev1.Kill{Key: r.Key}}})
		return
	}
	switch r.Kind {
	case fettlev1.ReportKind_REPORT_KIND_PREPARED:
		// All nodes prepared: the job counts as running, and only a gang is still to be started.
		j.prepared = true
		if !j.prepare.AutoStart {
			w.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Start{Start: &fettlev1.Start{Key: r.Key}}})
		}
	case fettlev1.ReportKind_REPORT_KIND_STARTED:
		j.prepared, j.started = true, true
	case fettlev1.ReportKind_REPORT_KIND_ENDED:
		if s := w.shims[k]; s != nil && s.alive {
			w.fail("%v was reported ended while its processes live", k)
		}
		if w.starts[k] > 0 && r.Exit.NeverStarted {
			w.fail("%v was started and reported as never started", k)
		}
		if s := w.shims[k]; s != nil && s.exit != nil && (s.exit.Code != r.Exit.Code || s.exit.Signal != r.Exit.Signal) {
			w.fail("%v: exit %v was reported as %v", k, s.exit, r.Exit)
		}
		l.index++
		if l.ended[k] == nil {
			l.ended[k] = r.Exit
		}
		if j.current == k {
			j.current = Key{}
		}
		w.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Ack{Ack: &fettlev1.Ack{Key: r.Key, CommittedIndex: l.index}}})
	}
}

// outstanding repeats every order that the leader still waits for.
func (w *world) outstanding() {
	for _, id := range w.leader.order {
		j := w.leader.jobs[id]
		if j.current.IsZero() {
			continue
		}
		if j.killed {
			w.sendKill(j)
			continue
		}
		if !j.prepared {
			w.sendPrepare(j)
		} else if !j.prepare.AutoStart && !j.started {
			w.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Start{Start: &fettlev1.Start{Key: j.current.Proto()}}})
		}
	}
}

func (w *world) sendPrepare(j *simJob) {
	w.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Prepare{Prepare: j.prepare}})
}

func (w *world) sendKill(j *simJob) {
	w.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Kill{Kill: &fettlev1.Kill{Key: j.current.Proto(), GraceMs: 5_000}}})
}

// dispatch gives a job without an active attempt a new one; its Prepare may get lost.
func (w *world) dispatch() {
	l := &w.leader
	id := uint64(1 + w.pick(3))
	j := l.jobs[id]
	if j == nil {
		j = &simJob{}
		l.jobs[id] = j
		l.order = append(l.order, id)
		slices.Sort(l.order)
	}
	if !j.current.IsZero() {
		return
	}
	l.index++
	j.attempts++
	k := Key{Job: id, Attempt: j.attempts, Fence: l.index}
	j.current, j.killed, j.prepared, j.started = k, false, false, false
	j.prepare = &fettlev1.Prepare{Key: k.Proto(), AutoStart: w.pick(3) > 0, FenceByLease: w.pick(2) == 0}
	if w.pick(4) > 0 {
		w.sendPrepare(j)
	}
}

func (w *world) cancel() {
	for _, id := range w.leader.order {
		if j := w.leader.jobs[id]; !j.current.IsZero() && w.pick(2) == 0 {
			j.killed = true
			w.sendKill(j)
			return
		}
	}
}

// fence is the leader's end of attempts that live by lease, after it has waited longer than the lease.
func (w *world) fence() {
	l := &w.leader
	if w.now < l.answeredMS+simTTL+simMargin {
		return
	}
	for _, id := range l.order {
		j := l.jobs[id]
		if j.current.IsZero() || !j.prepare.FenceByLease {
			continue
		}
		if s := w.shims[j.current]; s != nil && s.alive {
			w.fail("%v lives although its lease ran out", j.current)
		}
		l.index++
		l.ended[j.current] = &fettlev1.Exit{Code: -1, LeaseExpired: true}
		j.current = Key{}
	}
}

func (w *world) nodeTakes(i int) {
	if i >= len(w.toNode) {
		return
	}
	msg := w.toNode[i]
	w.toNode = slices.Delete(w.toNode, i, i+1)
	w.past = append(w.past, msg)
	w.step(Received{Msg: msg})
}

// replayPast delivers a message of any earlier time once more.
func (w *world) replayPast() {
	if len(w.past) == 0 || !w.connected {
		return
	}
	msg := w.past[w.pick(len(w.past))]
	w.stale = msg.Session != w.m.Session()
	w.step(Received{Msg: msg})
	w.stale = false
}

// rogue is a controller that must not be obeyed: of another cluster, or with a term of the past.
func (w *world) rogue() {
	if w.connected || len(w.disk) == 0 || w.m.ClusterID() == "" {
		return
	}
	w.connected = true
	w.step(Connected{})
	wel := &fettlev1.Welcome{ClusterId: "other", Term: 99, Session: 1 << 40}
	if w.pick(2) == 0 {
		wel = &fettlev1.Welcome{ClusterId: "c", Term: w.leader.term, Session: 1}
	}
	w.stale = true
	w.step(Received{Msg: &fettlev1.ControllerMessage{Session: wel.Session, Msg: &fettlev1.ControllerMessage_Welcome{Welcome: wel}}})
	for _, k := range w.m.Live() {
		w.step(Received{Msg: &fettlev1.ControllerMessage{Session: wel.Session, Msg: &fettlev1.ControllerMessage_Kill{Kill: &fettlev1.Kill{Key: k.Proto()}}}})
	}
	w.stale = false
	w.disconnect()
	w.step(SessionLost{})
}

func (w *world) shimEvent() {
	if len(w.events) > 0 {
		e := w.events[0]
		w.events = w.events[1:]
		w.step(e)
	}
}

func (w *world) exitSomething() {
	for _, k := range w.shimKeys() {
		if w.shims[k].alive && w.pick(2) == 0 {
			w.endShim(k, &fettlev1.Exit{Code: int32(w.pick(4))})
			return
		}
	}
}

func (w *world) pass(ms int64) {
	w.now += ms
	w.checkLeases()
	w.fence()
	w.step(Tick{})
}

// act does one random thing.
func (w *world) act() {
	switch n := w.pick(100); {
	case n < 12:
		w.dispatch()
	case n < 34:
		w.nodeTakes(0)
	case n < 37:
		w.nodeTakes(w.pick(4)) // out of order
	case n < 55:
		w.leaderTakes()
	case n < 68:
		w.sync()
	case n < 76:
		w.shimEvent()
	case n < 80:
		w.exitSomething()
	case n < 82:
		w.cancel()
	case n < 83:
		if j := w.leader.jobs[uint64(1+w.pick(3))]; j != nil && !j.current.IsZero() {
			w.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Update{
				Update: &fettlev1.Update{Key: j.current.Proto(), TimeLimitS: int64(w.pick(100))}}})
		}
	case n < 89:
		w.pass(int64(w.pick(3_000)))
	case n < 90:
		w.pass(int64(w.pick(2 * simTTL)))
	case n < 94:
		w.replayPast()
	case n < 96:
		if !w.connected || w.pick(6) == 0 {
			w.connect()
		}
	case n < 97:
		w.disconnect()
		w.step(SessionLost{})
	case n < 98:
		w.rogue()
	case n < 99:
		w.crash()
	default:
		if w.pick(5) == 0 {
			w.reboot()
		}
	}
}

// mustRun says that without faults every attempt that was not ended has been started.
func (w *world) mustRun() {
	for _, id := range w.leader.order {
		if j := w.leader.jobs[id]; !j.current.IsZero() && !j.killed && w.shims[j.current] == nil {
			w.fail("%v was never started", j.current)
		}
	}
}

// settle lets faults stop: every attempt is then ended, and its end known to the leader.
func (w *world) settle() {
	pick := w.pick
	w.pick = func(int) int { return 1 } // no more crashes, no luck
	defer func() { w.pick = pick }()
	w.connect()
	for i := 0; i < 400 && w.err == nil; i++ {
		if i == 150 {
			w.mustRun()
			for _, id := range w.leader.order {
				if j := w.leader.jobs[id]; !j.current.IsZero() {
					j.killed = true
					w.sendKill(j)
				}
			}
		}
		w.leaderTakes()
		w.nodeTakes(0)
		w.sync()
		w.shimEvent()
		if i%20 == 0 {
			w.pass(1_000)
		}
	}
	if w.err != nil {
		return
	}
	for _, id := range w.leader.order {
		if j := w.leader.jobs[id]; !j.current.IsZero() {
			w.fail("the end of %v never came", j.current)
		}
	}
	if n := len(w.m.Live()); n != 0 {
		w.fail("%d attempts still live", n)
	}
	if n := len(w.m.attempts); n != 0 {
		w.fail("%d attempts are never forgotten, the first is %+v", n, w.m.sorted()[0])
	}
	if n := len(w.shims); n != 0 {
		w.fail("%d directories are never removed", n)
	}
}

func (w *world) run(steps int) error {
	for i := 0; i < steps && w.err == nil; i++ {
		w.act()
	}
	if w.err == nil {
		w.settle()
	}
	return w.err
}
