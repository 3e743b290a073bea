package session

import (
	"testing"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

func TestLeasesNeedAProofOfLeadership(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		verified int64
		want     []string
	}{
		"just now":       {0, []string{"lease"}},
		"a second ago":   {-1_000, []string{"lease"}},
		"longer ago":     {-1_001, []string{}},
		"never":          {-1 << 40, []string{}},
		"an hour ago":    {-3_600_000, []string{}},
		"a moment later": {5, []string{"lease"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			id := r.connect("n1")
			before, _ := r.m.LastContactMS("n1")
			r.now += 100
			r.do(r.m.Heartbeat(id, &fettlev1.Heartbeat{Seq: 3, SentBoottimeMs: 77}, r.now, r.now+tc.verified))
			msgs := r.take(id)
			if got := kinds(msgs); len(got) != len(tc.want) {
				t.Fatalf("sent %v, want %v", got, tc.want)
			}
			after, _ := r.m.LastContactMS("n1")
			if len(tc.want) == 0 {
				if after != before {
					t.Error("a heartbeat without a lease counts as contact")
				}
				return
			}
			if l := msgs[0].GetLease(); l.GetSeq() != 3 || l.GetSentBoottimeMs() != 77 || l.GetTtlMs() != times.LeaseMS || after != r.now {
				t.Errorf("lease %v, last contact %d at %d", l, after, r.now)
			}
		})
	}
}

func TestHeartbeatsWaitForTheProof(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	n1, n2, n3 := r.connect("n1"), r.connect("n2"), r.connect("n3")
	r.now += 5_000
	old := r.now - 2_000
	for seq := range uint64(3) {
		r.do(r.m.Heartbeat(n1, &fettlev1.Heartbeat{Seq: seq}, r.now, old))
		r.do(r.m.Heartbeat(n2, &fettlev1.Heartbeat{Seq: seq}, r.now, old))
	}
	r.do(r.m.Heartbeat(n3, &fettlev1.Heartbeat{}, r.now, old))
	r.m.Disconnected(n3)
	r.do(r.m.Verified(r.now, old))
	r.wantSent(n1)
	r.do(r.m.Verified(r.now, r.now))
	if got := r.take(n1); len(got) != 1 || got[0].GetLease().GetSeq() != 2 {
		t.Errorf("sent %v, want a lease for the newest heartbeat", got)
	}
	r.wantSent(n2, "lease")
	r.wantSent(n3)
	r.do(r.m.Verified(r.now, r.now))
	r.wantSent(n1)
}

func TestHeartbeatOfAClosedSession(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.hello("n1")
	r.do(r.m.Heartbeat(id, &fettlev1.Heartbeat{}, r.now, r.now))
	r.wantSent(id)
	r.commit()
	r.m.Disconnected(id)
	r.take(id)
	r.do(r.m.Heartbeat(id, &fettlev1.Heartbeat{}, r.now, r.now))
	r.wantSent(id)
}

// A node that falls silent is first unreachable, then fenced, and not a moment too early.
func TestSilentNode(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.connect("n1")
	k := r.dispatched(nil, "n1")
	r.said("n1", k, started)
	r.pass(20_000, id)
	r.wantWaiting()
	r.pass(times.UnreachableMS)
	r.wantWaiting()
	r.pass(500)
	r.wantWaiting("unreachable n1")
	if r.closed[id] == nil || r.m.Connected("n1") {
		t.Error("a silent node's connection stays open")
	}
	r.pass(1_000)
	r.wantWaiting("unreachable n1") // once
	r.lose()
	r.pass(500)
	r.wantWaiting("unreachable n1") // again, as it was lost
	r.commit()
	j := r.snap().Job(k.GetJobId())
	if n := r.snap().Node("n1"); n.State != state.NodeUnreachable || j.State != model.Running {
		t.Fatalf("node %v, job %s: losing contact is not death", n.State, model.StateName(j.State))
	}
	r.pass(times.LeaseMS + times.LeaseMarginMS - times.UnreachableMS - 2_000)
	r.wantWaiting()
	r.pass(500)
	r.wantWaiting("fence n1")
	r.pass(2_000)
	r.wantWaiting("fence n1")
	r.lose()
	r.pass(500)
	r.wantWaiting("fence n1")
	r.commit()
	if j := r.snap().Job(k.GetJobId()); j.State != model.Pending || j.Attempt != 1 {
		t.Errorf("job %s after its node's lease was over", model.StateName(j.State))
	}
	r.pass(60_000)
	r.wantWaiting()
	// It was not dead: what the log has closed is ended by an order.
	back := r.hello("n1", report(k, started))
	r.commit()
	r.wantSent(back, "welcome", "kill 1.1")
}

func TestJobsThatMayNotBeRequeuedAreNeverFenced(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("n1")
	k := r.dispatched(func(s *fettlev1.JobSpec) { s.NoRequeue = true }, "n1")
	r.said("n1", k, started)
	r.pass(times.UnreachableMS + 500)
	r.commit()
	r.pass(3_600_000)
	r.wantWaiting()
	if j := r.snap().Job(k.GetJobId()); j.State != model.Running {
		t.Errorf("job %s", model.StateName(j.State))
	}
}

// A new leader does not know what the one before it granted: whatever that one thought of a node, it waits.
func TestNewLeaderGivesFullGrace(t *testing.T) {
	t.Parallel()
	for name, unreachable := range map[string]bool{"of a node that was up": false, "of one that was unreachable": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old := newRig(t)
			id := old.connect("n1")
			k := old.dispatched(nil, "n1")
			old.said("n1", k, started)
			if unreachable {
				old.pass(times.UnreachableMS + 500)
				old.commit()
			}
			_ = id
			r := old.table.lead(2, 700_000_000)
			r.pass(times.UnreachableMS)
			r.wantWaiting()
			r.pass(500)
			if !unreachable {
				r.wantWaiting("unreachable n1")
				r.commit()
			}
			r.pass(times.LeaseMS + times.LeaseMarginMS - times.UnreachableMS - 500)
			r.wantWaiting()
			r.pass(500)
			r.wantWaiting("fence n1")
		})
	}
}

// A hello may be committed although its connection is gone: the log then has the node up, and it must be judged again.
func TestNodeThatIsLostWhileItRegisters(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("n1")
	r.dispatched(nil, "n1")
	r.pass(times.UnreachableMS + 500)
	r.commit()
	id := r.hello("n1")
	r.m.Disconnected(id)
	r.commit()
	if r.snap().Node("n1").State != state.NodeUp {
		t.Fatal("the hello did not bring the node up")
	}
	r.pass(times.UnreachableMS + 500)
	r.commit()
	if r.snap().Node("n1").State != state.NodeUnreachable {
		t.Error("a node without a connection stays up for ever")
	}
	r.pass(times.LeaseMS + times.LeaseMarginMS + 500)
	r.commit()
	if j := r.snap().Job(1); j.State != model.Pending {
		t.Errorf("job %s: it waits for a node that is lost", model.StateName(j.State))
	}
}

// A judgement that comes when the node is back changes nothing.
func TestJudgementOfAnOldSession(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("n1")
	r.pass(times.UnreachableMS + 500)
	late := r.waiting
	r.waiting = nil
	id := r.connect("n1")
	r.waiting = late
	r.commit()
	if r.snap().Node("n1").State != state.NodeUp || !r.m.Connected("n1") {
		t.Error("a judgement of the session before made the node unreachable")
	}
	r.pass(10_000, id)
	r.wantWaiting()
}

func TestSessionThatTheLogEndedIsClosed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.connect("n1")
	r.node("n1", fettlev1.NodeAction_NODE_ACTION_DECLARE_DEAD)
	r.pass(500, id)
	if r.closed[id] == nil {
		t.Error("a node that was declared dead keeps its session")
	}
	// It comes back, is drained, and may be removed once it is gone for good.
	id = r.connect("n1")
	if n := r.snap().Node("n1"); !n.Drained || n.State != state.NodeUp {
		t.Errorf("node %+v", n)
	}
	r.m.Disconnected(id)
	r.pass(times.UnreachableMS + 500)
	r.commit()
	r.node("n1", fettlev1.NodeAction_NODE_ACTION_REMOVE)
	r.pass(500)
	r.wantWaiting()
	if _, met := r.m.LastContactMS("n1"); met || len(r.m.nodes) != 0 {
		t.Errorf("a removed node is remembered: %v", r.m.nodes)
	}
}

// A leader that stood still could not have heard anybody.
func TestOwnPauseIsForgiven(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.connect("n1")
	r.pass(1_000, id)
	r.now += 600_000
	r.do(r.m.Tick(r.snap(), r.now))
	r.wantWaiting()
	r.pass(times.UnreachableMS - 500)
	r.wantWaiting()
	if r.closed[id] != nil {
		t.Error("the connection was closed")
	}
	r.pass(1_000)
	r.wantWaiting("unreachable n1")
}
