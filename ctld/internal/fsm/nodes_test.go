package fsm

import (
	"strings"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

const (
	drainAction   = fettlev1.NodeAction_NODE_ACTION_DRAIN
	resumeAction  = fettlev1.NodeAction_NODE_ACTION_RESUME
	deadAction    = fettlev1.NodeAction_NODE_ACTION_DECLARE_DEAD
	removeAction  = fettlev1.NodeAction_NODE_ACTION_REMOVE
	unknownAction = fettlev1.NodeAction_NODE_ACTION_UNSPECIFIED
)

// on returns a rig with a running job of two GPUs on n1, one of a gang over n1 and n2, and one on n1 that may not be
// requeued.
func on(t *testing.T) (r *rig, single, gang, bound *fettlev1.AttemptKey) {
	t.Helper()
	r = up(t, "n1", "n2")
	s := script(1, 1, 2)
	single = r.dispatch(r.submit(s), part(s, "n1", 0, 1))
	g := script(2, 1, 1)
	gang = r.dispatch(r.submit(g), part(g, "n1", 2), part(g, "n2", 0))
	b := script(1, 1, 1)
	b.NoRequeue = true
	bound = r.dispatch(r.submit(b), part(b, "n1", 3))
	for _, k := range []*fettlev1.AttemptKey{single, gang, bound} {
		r.started(k, "n1")
	}
	r.started(gang, "n2")
	return r, single, gang, bound
}

func TestHelloOpensSessions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.hello("n1")
	n := r.node("n1")
	if first != r.index || n.Session != first || n.State != state.NodeUp || n.RegisteredMS != r.now || n.StateSinceMS != r.now || n.BootID != "boot-1" {
		t.Errorf("node = %+v", n)
	}
	r.now += 10
	second := r.hello("n1")
	m := r.node("n1")
	if second <= first || m.Session != second || m.RegisteredMS != n.RegisteredMS || m.StateSinceMS != n.StateSinceMS || m.Inventory != n.Inventory {
		t.Errorf("node = %+v", m)
	}
}

// Losing contact frees nothing (R6, R7).
func TestUnreachableFreesNothing(t *testing.T) {
	t.Parallel()
	r, single, _, _ := on(t)
	r.now += 1_000_000
	r.ok(nodeStateOp("n1", state.NodeUnreachable, r.node("n1").Session))
	for id := uint64(1); id <= 3; id++ {
		r.wantState(id, model.Running)
	}
	if len(r.node("n1").Held) != 4 {
		t.Errorf("held = %v", r.node("n1").Held)
	}
	// It comes back within the same boot: everything goes on.
	r.hello("n1")
	if n := r.node("n1"); n.State != state.NodeUp || n.Drained || len(n.Held) != 4 {
		t.Errorf("node = %+v", n)
	}
	if r.ended(single, "n1", &fettlev1.Exit{}) != ReportApplied {
		t.Error("the exit was not taken")
	}
	r.wantState(1, model.Completed)
}

// A new boot is evidence that everything of the old one is over.
func TestRebootEndsAttempts(t *testing.T) {
	t.Parallel()
	r, single, gang, _ := on(t)
	r.ok(&raftlogv1.Entry{Op: helloOp("n1", "boot-2", inventory("n1", 8, 4))})
	r.wantIdle("n1")
	if j := r.job(1); j.State != model.Pending || j.Reason != fettlev1.Reason_REASON_NODE_LOST || j.Failures != 0 || j.Detail != "node n1 restarted" || j.RetryAtMS != 0 {
		t.Errorf("single = %+v", j)
	}
	r.wantState(2, model.Fencing)
	if len(r.node("n2").Held) != 1 {
		t.Error("the other node of the gang was freed without evidence")
	}
	if j := r.job(3); j.State != model.NodeFail || j.Reason != fettlev1.Reason_REASON_NODE_LOST {
		t.Errorf("bound = %+v", j)
	}
	if st := r.ended(single, "n1", &fettlev1.Exit{}); st != ReportStale {
		t.Errorf("a late exit of the old boot: %s", st)
	}
	r.ended(gang, "n2", &fettlev1.Exit{Code: -1, Signal: 15})
	if j := r.job(2); j.State != model.Pending || j.Reason != fettlev1.Reason_REASON_NODE_LOST {
		t.Errorf("gang = %+v", j)
	}
	if n := r.node("n1"); n.BootID != "boot-2" || n.State != state.NodeUp || n.Drained || n.LaunchFailures != 0 {
		t.Errorf("node = %+v", n)
	}
}

func TestFreshJournalKeepsWhatIsHeld(t *testing.T) {
	t.Parallel()
	r, _, _, _ := on(t)
	e := &raftlogv1.Entry{Op: helloOp("n1", "boot-1", inventory("n1", 8, 4))}
	e.GetNodeHello().FreshJournal = true
	r.ok(e)
	n := r.node("n1")
	if !n.Drained || len(n.Held) != 4 || !strings.HasPrefix(n.DrainReason, "lost its journal while 3 attempts were on it: ") {
		t.Errorf("node = %+v", n)
	}
	r.wantState(1, model.Running)
	// Without anything on it a fresh journal is a fresh node.
	e = &raftlogv1.Entry{Op: helloOp("n3", "boot-1", inventory("n3", 8, 4))}
	e.GetNodeHello().FreshJournal = true
	r.ok(clone(e))
	r.ok(e)
	if r.node("n3").Drained {
		t.Error("an idle node was drained")
	}
}

// The lease's end fences what may be requeued, and only on the node that was lost.
func TestFenceNode(t *testing.T) {
	t.Parallel()
	r, single, gang, bound := on(t)
	session := r.node("n1").Session
	wantRefusal(t, r.apply(fenceOp("n1", session)).Err, model.Conflict, "node: n1 is up")
	wantRefusal(t, r.apply(fenceOp("n1", session-1)).Err, model.Conflict, "session: 1 of node n1 is over, the newest is 2")
	wantRefusal(t, r.apply(fenceOp("n9", session)).Err, model.NotFound, `node: "n9" does not exist; see finfo for the nodes there are`)
	for id := uint64(1); id <= 3; id++ {
		r.wantState(id, model.Running)
	}
	r.ok(nodeStateOp("n1", state.NodeUnreachable, session))
	r.ok(fenceOp("n1", session))
	if j := r.job(1); j.State != model.Pending || j.Reason != fettlev1.Reason_REASON_NODE_LOST || !j.Attempts[0].GetNodes()[0].GetExit().GetLeaseExpired() {
		t.Errorf("single = %+v", j)
	}
	r.wantState(2, model.Fencing)
	r.wantState(3, model.Running)
	if held := r.node("n1").Held; len(held) != 1 || held[0].JobID != 3 {
		t.Errorf("held on n1 = %v", held)
	}
	if len(r.node("n2").Held) != 1 {
		t.Error("the other node of the gang was freed without evidence")
	}
	// Nothing is placed on the lost node, and what it says later of the fenced attempt is too late.
	s := r.job(1).Spec
	res := r.ok(r.planOp(&raftlogv1.Placement{JobId: 1, Attempt: 2, Nodes: []*fettlev1.NodeAllocation{part(s, "n1", 0, 1)}}))
	wantRefusal(t, res.Placements[0].Err, model.Conflict, "node: n1 is not up")
	r.dispatch(1, part(s, "n2", 1, 2))
	if st := r.ended(single, "n1", &fettlev1.Exit{}); st != ReportStale {
		t.Errorf("late exit: %s", st)
	}
	r.wantState(1, model.Dispatching)
	r.ended(gang, "n2", &fettlev1.Exit{})
	if j := r.job(2); j.State != model.Pending {
		t.Errorf("gang = %+v", j)
	}
	// The node answers after all: the job that was left alone ends truthfully.
	r.hello("n1")
	r.ended(bound, "n1", &fettlev1.Exit{Code: 4})
	if j := r.job(3); j.State != model.Failed || j.ExitCode != 4 {
		t.Errorf("bound = %+v", j)
	}
	r.wantIdle("n1")
}

func TestFenceEndsACancelledJob(t *testing.T) {
	t.Parallel()
	r, _, _, _ := on(t)
	r.ok(cancelOp(1))
	r.ok(nodeStateOp("n1", state.NodeUnreachable, r.node("n1").Session))
	r.wantState(1, model.Completing)
	r.ok(fenceOp("n1", r.node("n1").Session))
	r.wantState(1, model.Cancelled)
}

func TestNodeStateNeedsTheSession(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	old := r.node("n1").Session
	r.hello("n1")
	want := "session: 2 of node n1 is over, the newest is 3"
	wantRefusal(t, r.apply(nodeStateOp("n1", state.NodeUnreachable, old)).Err, model.Conflict, want)
	inv := &raftlogv1.Entry{Op: &raftlogv1.Entry_NodeInventory{NodeInventory: &raftlogv1.NodeInventory{Node: "n1", Session: old, Inventory: inventory("n1", 1, 0)}}}
	wantRefusal(t, r.apply(inv).Err, model.Conflict, want)
	wantRefusal(t, r.apply(nodeStateOp("n9", state.NodeUnreachable, old)).Err, model.NotFound, `node: "n9" does not exist; see finfo for the nodes there are`)
	for _, s := range []fettlev1.NodeState{0, state.NodeDown, 9} {
		if err := r.apply(nodeStateOp("n1", s, r.node("n1").Session)).Err; err == nil || err.Field != "state" {
			t.Errorf("state %d: %v", s, err)
		}
	}
	if n := r.node("n1"); n.State != state.NodeUp || n.Inventory.GetCpus() != 8 {
		t.Errorf("node = %+v", n)
	}
	r.ok(nodeStateOp("n1", state.NodeUnreachable, r.node("n1").Session))
	r.ok(nodeStateOp("n1", state.NodeUp, r.node("n1").Session))
	if n := r.node("n1"); n.State != state.NodeUp {
		t.Errorf("node = %+v", n)
	}
}

func TestInventoryChanges(t *testing.T) {
	t.Parallel()
	r, single, _, _ := on(t)
	set := func(inv *fettlev1.Inventory) *model.FieldError {
		return r.apply(&raftlogv1.Entry{Op: &raftlogv1.Entry_NodeInventory{NodeInventory: &raftlogv1.NodeInventory{Node: "n1", Session: r.node("n1").Session, Inventory: inv}}}).Err
	}
	// A GPU that falls off the bus stays held until its job is over.
	if err := set(inventory("n1", 8, 1)); err != nil {
		t.Fatal(err)
	}
	if len(r.node("n1").Held) != 4 {
		t.Errorf("held = %v", r.node("n1").Held)
	}
	r.ended(single, "n1", &fettlev1.Exit{})
	if len(r.node("n1").Held) != 2 {
		t.Errorf("held = %v", r.node("n1").Held)
	}
	wantRefusal(t, set(nil), model.Invalid, "inventory: is missing; send one")
	twice := inventory("n1", 8, 2)
	twice.Gpus[1].Uuid = twice.Gpus[0].Uuid
	wantRefusal(t, set(twice), model.Invalid, `inventory.gpus: "GPU-n1-0" is listed twice; list each GPU once`)
	wantRefusal(t, set(&fettlev1.Inventory{}), model.Invalid, "inventory.cpus: is out of range; use 1 to 4096")
}

func TestHelloRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for line, e := range map[string]*raftlogv1.Entry_NodeHello{
		`node: "" is empty; use letters, digits and dashes, starting and ending with a letter or digit, for example gpu01`: helloOp("", "b", inventory("x", 1, 0)),
		`node: "N1" is not in its plain form; use n1`:                           helloOp("N1", "b", inventory("x", 1, 0)),
		"boot_id: is empty or longer than 128 bytes; send the kernel's boot id": helloOp("n1", "", inventory("x", 1, 0)),
		"inventory: is missing; send one":                                       helloOp("n1", "b", nil),
	} {
		wantRefusal(t, r.apply(&raftlogv1.Entry{Op: e}).Err, model.Invalid, line)
	}
	if r.snap().Counts().Nodes != 0 {
		t.Error("a refused node was stored")
	}
}

func TestUpdateNode(t *testing.T) {
	t.Parallel()
	t.Run("drain and resume", func(t *testing.T) {
		t.Parallel()
		r, single, _, _ := on(t)
		r.ok(nodeAction("n1", drainAction, "new\nfan"))
		if n := r.node("n1"); !n.Drained || n.DrainReason != "new fan" || n.Usable() {
			t.Errorf("node = %+v", n)
		}
		// Running jobs go on, a reconnect changes nothing.
		r.hello("n1")
		r.wantState(1, model.Running)
		if !r.node("n1").Drained {
			t.Error("a reconnect resumed the node")
		}
		r.ended(single, "n1", &fettlev1.Exit{})
		r.ok(nodeAction("n1", resumeAction, ""))
		if n := r.node("n1"); n.Drained || n.DrainReason != "" || !n.Usable() {
			t.Errorf("node = %+v", n)
		}
	})
	t.Run("declare dead", func(t *testing.T) {
		t.Parallel()
		r, single, gang, _ := on(t)
		session := r.node("n1").Session
		r.ok(nodeAction("n1", deadAction, ""))
		r.wantIdle("n1")
		n := r.node("n1")
		if n.State != state.NodeDown || n.Session != 0 {
			t.Errorf("node = %+v", n)
		}
		r.wantState(1, model.Pending)
		r.wantState(2, model.Fencing)
		r.wantState(3, model.NodeFail)
		if st := r.ended(single, "n1", &fettlev1.Exit{}); st != ReportStale {
			t.Errorf("late exit: %s", st)
		}
		if err := r.apply(nodeStateOp("n1", state.NodeUp, session)).Err; err == nil {
			t.Error("an old session brought a dead node back")
		}
		r.ended(gang, "n2", &fettlev1.Exit{Code: -1, Signal: 9})
		r.wantState(2, model.Pending)
		// The operator said that it is dead, and here it is, unrestarted: someone has to look.
		r.hello("n1")
		if n := r.node("n1"); n.State != state.NodeUp || !n.Drained {
			t.Errorf("node = %+v", n)
		}
	})
	t.Run("back from the dead by a restart", func(t *testing.T) {
		t.Parallel()
		r, _, _, _ := on(t)
		r.ok(nodeAction("n1", deadAction, ""))
		r.ok(&raftlogv1.Entry{Op: helloOp("n1", "boot-2", inventory("n1", 8, 4))})
		if n := r.node("n1"); !n.Usable() {
			t.Errorf("node = %+v", n)
		}
	})
	t.Run("remove", func(t *testing.T) {
		t.Parallel()
		r, _, _, _ := on(t)
		wantRefusal(t, r.apply(nodeAction("n1", removeAction, "")).Err, model.Conflict, "node: n1 holds 3 attempts, job 1 among them; wait for them, or declare the node dead")
		r.ok(nodeAction("n1", deadAction, ""))
		r.ok(nodeAction("n1", removeAction, ""))
		if r.snap().Node("n1") != nil {
			t.Error("the node is still there")
		}
		r.hello("n3")
		wantRefusal(t, r.apply(nodeAction("n3", removeAction, "")).Err, model.Conflict, "node: n3 is up; stop its fettle-noded first")
	})
	t.Run("refusals", func(t *testing.T) {
		t.Parallel()
		r := up(t, "n1")
		wantRefusal(t, r.apply(nodeAction("n9", drainAction, "")).Err, model.NotFound, `node: "n9" does not exist; see finfo for the nodes there are`)
		wantRefusal(t, r.apply(nodeAction("n1", unknownAction, "")).Err, model.Invalid, "action: is missing or unknown; use drain, resume, declare-dead or remove")
		wantRefusal(t, r.apply(nodeAction("n1", drainAction, strings.Repeat("x", 600))).Err, model.Invalid, "reason: is longer than 512 bytes; shorten it")
		e := nodeAction("n1", drainAction, "")
		e.Actor = alice
		wantRefusal(t, r.apply(e).Err, model.Denied, "only admins may do that; ask an admin")
	})
	t.Run("once per request", func(t *testing.T) {
		t.Parallel()
		r := up(t, "n1")
		drain := nodeAction("n1", drainAction, "a")
		drain.RequestId = "d"
		r.ok(clone(drain))
		r.ok(nodeAction("n1", resumeAction, ""))
		if res := r.ok(drain); !res.Duplicate || r.node("n1").Drained {
			t.Errorf("the repeat was carried out again: %+v", res)
		}
	})
}
