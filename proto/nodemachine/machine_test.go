package nodemachine

import (
	"slices"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// rig is a machine whose outputs a test picks out by type; its journal syncs when told to.
type rig struct {
	t   *testing.T
	m   *Machine
	now int64
	seq uint64
	got []Output
}

func newRig(t *testing.T, b Boot) *rig {
	t.Helper()
	if b.BootID == "" {
		b.BootID = "boot1"
	}
	r := &rig{t: t, m: New(Config{Node: "n1"}), now: 1_000}
	r.step(b)
	r.sync()
	return r
}

func (r *rig) step(in Input) []Output {
	out := r.m.Step(r.now, in)
	for _, o := range out {
		if a, ok := o.(Append); ok {
			r.seq = a.Seq
		}
	}
	r.got = append(r.got, out...)
	return out
}

func (r *rig) sync() []Output { return r.step(JournalSynced{Upto: r.seq}) }

func (r *rig) open(session uint64) *rig {
	r.step(Connected{})
	r.step(Received{Msg: &fettlev1.ControllerMessage{Session: session, Msg: &fettlev1.ControllerMessage_Welcome{
		Welcome: &fettlev1.Welcome{ClusterId: "c", Term: 3, Session: session, LeaseTtlMs: 60_000, HeartbeatMs: 1_000}}}})
	r.sync()
	return r
}

func (r *rig) order(session uint64, msg any) []Output {
	c := &fettlev1.ControllerMessage{Session: session}
	switch x := msg.(type) {
	case *fettlev1.Prepare:
		c.Msg = &fettlev1.ControllerMessage_Prepare{Prepare: x}
	case *fettlev1.Start:
		c.Msg = &fettlev1.ControllerMessage_Start{Start: x}
	case *fettlev1.Kill:
		c.Msg = &fettlev1.ControllerMessage_Kill{Kill: x}
	case *fettlev1.Ack:
		c.Msg = &fettlev1.ControllerMessage_Ack{Ack: x}
	case *fettlev1.Update:
		c.Msg = &fettlev1.ControllerMessage_Update{Update: x}
	case *fettlev1.LeaseGrant:
		c.Msg = &fettlev1.ControllerMessage_Lease{Lease: x}
	case *fettlev1.ReadNodeLog:
		c.Msg = &fettlev1.ControllerMessage_ReadLog{ReadLog: x}
	default:
		r.t.Fatalf("no order of type %T", msg)
	}
	return r.step(Received{Msg: c})
}

func pick[T Output](outs []Output) []T {
	var ts []T
	for _, o := range outs {
		if x, ok := o.(T); ok {
			ts = append(ts, x)
		}
	}
	return ts
}

func reports(outs []Output) []*fettlev1.AttemptReport {
	var rs []*fettlev1.AttemptReport
	for _, s := range pick[Send](outs) {
		if r := s.Msg.GetReport(); r != nil {
			rs = append(rs, r)
		}
	}
	return rs
}

var (
	k1 = Key{Job: 1, Attempt: 1, Fence: 10}
	k2 = Key{Job: 1, Attempt: 2, Fence: 20}
)

func auto(k Key) *fettlev1.Prepare { return &fettlev1.Prepare{Key: k.Proto(), AutoStart: true} }

func TestSingleNodeLife(t *testing.T) {
	t.Parallel()
	r := newRig(t, Boot{}).open(5)
	if out := r.order(5, auto(k1)); len(pick[StartShim](out)) != 0 || len(pick[Append](out)) != 1 {
		t.Fatalf("before the sync: %v", out)
	}
	if out := r.sync(); len(pick[StartShim](out)) != 1 {
		t.Fatalf("after the sync: %v", out)
	}
	if rs := reports(r.step(ShimStarted{Key: k1})); len(rs) != 1 || rs[0].Kind != fettlev1.ReportKind_REPORT_KIND_STARTED {
		t.Fatalf("started: %v", rs)
	}
	rs := reports(r.step(ShimEnded{Key: k1, Exit: &fettlev1.Exit{Code: 7}}))
	if len(rs) != 1 || rs[0].Exit.GetCode() != 7 {
		t.Fatalf("ended: %v", rs)
	}
	r.now += 20_000
	r.m.lastHeardMS = r.now
	if rs := reports(r.step(Tick{})); len(rs) != 1 {
		t.Fatalf("an end that is not acknowledged is not repeated: %v", rs)
	}
	out := r.order(5, &fettlev1.Ack{Key: k1.Proto(), CommittedIndex: 30})
	if len(pick[Forget](out)) != 0 {
		t.Fatal("the directory goes before the journal knows")
	}
	if f := pick[Forget](r.sync()); len(f) != 1 || f[0].Key != k1 {
		t.Fatalf("forget: %v", f)
	}
	if out := r.order(5, auto(k1)); len(out) != 0 {
		t.Fatalf("a repeated order for a forgotten attempt: %v", out)
	}
}

func TestGangWaitsForStart(t *testing.T) {
	t.Parallel()
	r := newRig(t, Boot{}).open(5)
	r.order(5, &fettlev1.Prepare{Key: k1.Proto()})
	rs := reports(r.sync())
	if len(rs) != 1 || rs[0].Kind != fettlev1.ReportKind_REPORT_KIND_PREPARED {
		t.Fatalf("prepared: %v", rs)
	}
	if out := r.order(5, &fettlev1.Start{Key: k1.Proto()}); len(pick[StartShim](out)) != 1 {
		t.Fatalf("start: %v", out)
	}
	if out := r.order(5, &fettlev1.Start{Key: k1.Proto()}); len(pick[StartShim](out)) != 0 {
		t.Fatalf("start twice: %v", out)
	}
}

func TestOrdersThatAreNotObeyed(t *testing.T) {
	t.Parallel()
	welcome := func(cluster string, term, session uint64) Received {
		return Received{Msg: &fettlev1.ControllerMessage{Session: session, Msg: &fettlev1.ControllerMessage_Welcome{
			Welcome: &fettlev1.Welcome{ClusterId: cluster, Term: term, Session: session}}}}
	}
	for name, w := range map[string]Received{
		"other cluster":   welcome("d", 9, 9),
		"no cluster":      welcome("", 9, 9),
		"term of before":  welcome("c", 2, 9),
		"session of late": welcome("c", 3, 5),
		"no session":      welcome("c", 3, 0),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Boot{}).open(5)
			r.order(5, auto(k1))
			r.sync()
			r.step(ShimStarted{Key: k1})
			r.step(SessionLost{})
			r.step(Connected{})
			out := r.step(w)
			if c := pick[CloseSession](out); len(c) != 1 || !c[0].Refused {
				t.Fatalf("not refused: %v", out)
			}
			if out := r.order(w.Msg.Session, &fettlev1.Kill{Key: k1.Proto()}); len(out) != 0 {
				t.Fatalf("obeyed: %v", out)
			}
			if live := r.m.Live(); !slices.Equal(live, []Key{k1}) {
				t.Fatalf("live: %v", live)
			}
		})
	}
	t.Run("session of before", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, Boot{}).open(5).open(6)
		for _, o := range []any{auto(k1), &fettlev1.Kill{Key: k1.Proto()}, &fettlev1.Start{Key: k1.Proto()}} {
			if out := r.order(5, o); len(out) != 0 {
				t.Fatalf("%T: %v", o, out)
			}
		}
	})
}

func TestHelloDoesNotKillWhatTheLeaderLacks(t *testing.T) {
	t.Parallel()
	r := newRig(t, Boot{Found: []Found{{Key: k1, State: FoundRunning}}})
	r.open(5)
	r.now += 60_000
	r.step(Tick{})
	if s := pick[StopShim](r.got); len(s) != 0 {
		t.Fatalf("stopped without an order: %v", s)
	}
}

func TestKillBeforePrepareLeavesATombstone(t *testing.T) {
	t.Parallel()
	r := newRig(t, Boot{}).open(5)
	if rs := reports(r.order(5, &fettlev1.Kill{Key: k1.Proto()})); len(rs) != 0 {
		t.Fatalf("answered before the tombstone was on disk: %v", rs)
	}
	if rs := reports(r.sync()); len(rs) != 1 || !rs[0].Exit.GetNeverStarted() {
		t.Fatalf("answer: %v", rs)
	}
	// The daemon dies; the journal remembers.
	recs := pick[Append](r.got)
	var b Boot
	for _, a := range recs {
		b.Records = append(b.Records, a.Record)
	}
	r2 := newRig(t, b).open(6)
	out := append(r2.order(6, auto(k1)), r2.sync()...)
	if len(pick[StartShim](out)) != 0 {
		t.Fatalf("started after its end was reported: %v", out)
	}
	if rs := reports(out); len(rs) != 1 || !rs[0].Exit.GetNeverStarted() {
		t.Fatalf("answer to the late order: %v", rs)
	}
}

func TestSignalToUnknownAttemptIsNoEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, Boot{}).open(5)
	r.order(5, &fettlev1.Kill{Key: k1.Proto(), Signal: 10})
	r.order(5, auto(k1))
	out := r.sync()
	if len(pick[StartShim](out)) != 1 {
		t.Fatalf("a signal that came early stopped the start: %v", out)
	}
	if s := pick[SignalShim](r.order(5, &fettlev1.Kill{Key: k1.Proto(), Signal: 10})); len(s) != 1 || s[0].Signal != 10 {
		t.Fatalf("signal: %v", s)
	}
}

func TestNextAttemptWaitsForTheLast(t *testing.T) {
	t.Parallel()
	r := newRig(t, Boot{}).open(5)
	r.order(5, auto(k1))
	r.sync()
	r.step(ShimStarted{Key: k1})
	r.order(5, auto(k2))
	if out := r.sync(); len(pick[StartShim](out)) != 0 || len(reports(out)) != 0 {
		t.Fatalf("beside a live attempt: %v", out)
	}
	if s := pick[StartShim](r.step(ShimEnded{Key: k1, Exit: &fettlev1.Exit{}})); len(s) != 1 || s[0].Key != k2 {
		t.Fatalf("after it ended: %v", s)
	}
}

func TestOlderAttemptIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, Boot{}).open(5)
	r.order(5, auto(k2))
	r.order(5, auto(k1))
	s := pick[StartShim](r.sync())
	if len(s) != 1 || s[0].Key != k2 {
		t.Fatalf("started: %v", s)
	}
	if rs := reports(r.got); len(rs) != 1 || KeyOf(rs[0].Key) != k1 || !rs[0].Exit.GetNeverStarted() {
		t.Fatalf("reports: %v", rs)
	}
}

func TestLease(t *testing.T) {
	t.Parallel()
	grant := func(sent int64) *fettlev1.LeaseGrant {
		return &fettlev1.LeaseGrant{SentBoottimeMs: sent, TtlMs: 60_000}
	}
	r := newRig(t, Boot{}).open(5)
	p := auto(k1)
	p.FenceByLease = true
	r.order(5, p)
	if out := r.sync(); len(pick[StartShim](out)) != 0 {
		t.Fatalf("started without a lease: %v", out)
	}
	out := r.order(5, grant(1_000))
	if s := pick[StartShim](out); len(s) != 1 || s[0].LeaseEpochMS != 1_000 {
		t.Fatalf("start: %v", out)
	}
	r.now = 30_000
	out = r.order(5, grant(29_000))
	if l := pick[SetLease](out); len(l) != 1 || l[0].Lease != (Lease{EpochMS: 1_000, DeadlineMS: 89_000}) {
		t.Fatalf("renewal: %v", out)
	}
	if out := r.order(5, grant(10_000)); len(out) != 0 {
		t.Fatalf("an older grant: %v", out)
	}
	if out := r.order(5, grant(40_000)); len(out) != 0 {
		t.Fatalf("a grant for a heartbeat of the future: %v", out)
	}
	r.now = 95_000
	if out := r.order(5, grant(34_000)); len(out) != 0 {
		t.Fatalf("a grant that has run out on its way: %v", out)
	}
	out = r.order(5, grant(94_000))
	if l := pick[SetLease](out); len(l) != 1 || l[0].Lease != (Lease{EpochMS: 95_000, DeadlineMS: 154_000}) {
		t.Fatalf("a lease that had run out was extended: %v", out)
	}
}

func TestStartThatWasOrderedByALostSession(t *testing.T) {
	t.Parallel()
	r := newRig(t, Boot{}).open(5)
	r.order(5, auto(k1))
	r.step(SessionLost{})
	if out := r.sync(); len(pick[StartShim](out)) != 0 {
		t.Fatalf("started without a session: %v", out)
	}
	r.open(6)
	if s := pick[StartShim](r.order(6, auto(k1))); len(s) != 1 {
		t.Fatalf("ordered again: %v", s)
	}
}

func TestRecoveryWithoutADirectoryWaitsForOrders(t *testing.T) {
	t.Parallel()
	b := Boot{Records: []*Record{
		{Kind: RecordIdentity, Cluster: "c"}, {Kind: RecordBoot, BootID: "boot1"}, {Kind: RecordSession, Term: 3, Session: 5},
		{Kind: RecordIntent, Key: k1, Prepare: auto(k1)},
	}}
	r := newRig(t, b).open(6)
	if s := pick[StartShim](r.got); len(s) != 0 {
		t.Fatalf("started before the leader was asked: %v", s)
	}
	if s := pick[StartShim](r.order(6, auto(k1))); len(s) != 1 {
		t.Fatalf("ordered: %v", s)
	}
	b.BootID = "boot2"
	r = newRig(t, b).open(6)
	if s := pick[StartShim](r.order(6, auto(k1))); len(s) != 0 {
		t.Fatalf("started after the node was restarted: %v", s)
	}
	var hello *fettlev1.Hello
	for _, s := range pick[Send](r.got) {
		if h := s.Msg.GetHello(); h != nil {
			hello = h
		}
	}
	if len(hello.Attempts) != 1 || !hello.Attempts[0].Exit.GetNeverStarted() || hello.FreshJournal {
		t.Fatalf("hello: %v", hello)
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	r := newRig(t, Boot{}).open(5)
	r.order(5, &fettlev1.Prepare{Key: k1.Proto(), TimeLimitS: 60})
	r.sync()
	r.order(5, &fettlev1.Update{Key: k1.Proto(), TimeLimitS: 90})
	// A restart keeps the new limit.
	var b Boot
	for _, rec := range r.m.Snapshot() {
		raw, err := rec.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseRecord(raw)
		if err != nil {
			t.Fatal(err)
		}
		b.Records = append(b.Records, back)
	}
	r = newRig(t, b).open(6)
	s := pick[StartShim](r.order(6, &fettlev1.Start{Key: k1.Proto()}))
	if len(s) != 1 || s[0].Prepare.GetTimeLimitS() != 90 {
		t.Fatalf("start: %v", s)
	}
	if l := pick[LimitShim](r.order(6, &fettlev1.Update{Key: k1.Proto(), TimeLimitS: 120})); len(l) != 1 || l[0].Seconds != 120 {
		t.Fatalf("limit: %v", l)
	}
}

func TestSilentStreamIsGivenUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, Boot{}).open(5)
	for range 9 {
		r.now += 1_000
		if out := r.step(Tick{}); len(pick[CloseSession](out)) != 0 || len(pick[Send](out)) != 1 {
			t.Fatalf("tick: %v", out)
		}
	}
	r.now += 2_000
	if c := pick[CloseSession](r.step(Tick{})); len(c) != 1 || c[0].Refused {
		t.Fatalf("close: %v", c)
	}
	if r.m.Session() != 0 {
		t.Fatal("the session goes on")
	}
}

func TestAckOfALiveAttemptForgetsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, Boot{}).open(5)
	r.order(5, auto(k1))
	r.sync()
	r.step(ShimStarted{Key: k1})
	r.order(5, &fettlev1.Ack{Key: k1.Proto(), CommittedIndex: 9})
	if live := r.m.Live(); len(live) != 1 {
		t.Fatalf("live: %v", live)
	}
}
