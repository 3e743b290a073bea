package fsm

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// nodeHello registers a node or opens a new session with it. A new boot is evidence that everything of the old one is
// over; a lost journal is not, so what was allocated stays held and the node is drained for someone to look at.
func nodeHello(t *state.Txn, op *raftlogv1.NodeHello) *Result {
	if err := model.ValidateNode(op.GetNode(), op.GetBootId(), op.GetInventory()); err != nil {
		return &Result{Err: err}
	}
	now, name := t.NowMS(), op.GetNode()
	n := t.EditNode(name)
	if n == nil {
		if t.NodeCount() >= model.MaxNodes {
			return &Result{Err: &model.FieldError{Kind: model.Exhausted, Field: "node", Problem: fmt.Sprintf("%d nodes are registered, the limit", t.NodeCount()), Remedy: "remove nodes that are gone"}}
		}
		n = &state.Node{Name: name, RegisteredMS: now, BootID: op.GetBootId()}
		t.AddNode(n)
	}
	switch active := t.ActiveOn(name); {
	case n.BootID != op.GetBootId():
		for _, id := range active {
			endOn(t, id, name, lost(now, "node "+name+" restarted"))
		}
	case n.State == state.NodeDown:
		drain(n, "was declared dead but came back without a restart: check that nothing of old jobs runs there, then resume it")
	case op.GetFreshJournal() && len(active) > 0:
		drain(n, fmt.Sprintf("lost its journal while %d attempts were on it: check that nothing of them runs there, then declare it dead", len(active)))
	}
	n.BootID, n.Session = op.GetBootId(), t.Index()
	if !proto.Equal(n.Inventory, op.GetInventory()) {
		n.Inventory = op.GetInventory()
	}
	setNodeUp(n, now, state.NodeUp)
	return &Result{Session: n.Session}
}

// drain closes a node to new attempts; an earlier reason stays.
func drain(n *state.Node, reason string) {
	if !n.Drained {
		n.Drained, n.DrainReason = true, model.OneLine(reason, model.MaxDetail)
	}
}

func setNodeUp(n *state.Node, now int64, s fettlev1.NodeState) {
	if n.State != s {
		n.State, n.StateSinceMS = s, now
	}
}

// lost is the exit of a part whose node is known to run nothing of it any more.
func lost(now int64, detail string) *fettlev1.Exit {
	return &fettlev1.Exit{Code: -1, NodeLost: true, Detail: detail, EndMs: now}
}

// endOn ends the job's part on the node.
func endOn(t *state.Txn, id uint64, node string, exit *fettlev1.Exit) {
	j := t.Job(id)
	if j == nil || !j.Active() {
		return
	}
	if rank := rankOf(j.Current(), node); rank >= 0 && j.Current().GetNodes()[rank].GetExit() == nil {
		endPart(t, id, rank, exit)
	}
}

// inSession returns the node to change if the session is still its newest.
func inSession(t *state.Txn, name string, session uint64) (*state.Node, *model.FieldError) {
	n := t.Node(name)
	switch {
	case n == nil:
		return nil, noNode(name)
	case session == 0 || n.Session != session && !bugFenceNotChecked:
		return nil, conflict("session", "%d of node %s is over, the newest is %d", session, name, n.Session)
	}
	return t.EditNode(name), nil
}

// setNodeState records whether a node answers. Losing contact frees nothing.
func setNodeState(t *state.Txn, op *raftlogv1.SetNodeState) *model.FieldError {
	if op.GetState() != state.NodeUp && op.GetState() != state.NodeUnreachable {
		return &model.FieldError{Field: "state", Problem: op.GetState().String() + " cannot be set", Remedy: "use UP or UNREACHABLE"}
	}
	n, err := inSession(t, op.GetNode(), op.GetSession())
	if err != nil {
		return err
	}
	if n.State == state.NodeDown {
		return conflict("node", "%s is down until it connects again", n.Name)
	}
	setNodeUp(n, t.NowMS(), op.GetState())
	if bugGPUFreedOnUnreachable && op.GetState() == state.NodeUnreachable {
		for _, id := range t.ActiveOn(n.Name) {
			endOn(t, id, n.Name, lost(t.NowMS(), "node "+n.Name+" does not answer"))
		}
	}
	return nil
}

func setInventory(t *state.Txn, op *raftlogv1.NodeInventory) *model.FieldError {
	if err := model.ValidateInventory(op.GetInventory()); err != nil {
		return err
	}
	n, err := inSession(t, op.GetNode(), op.GetSession())
	if err != nil {
		return err
	}
	if !proto.Equal(n.Inventory, op.GetInventory()) {
		n.Inventory = op.GetInventory()
	}
	return nil
}

// fenceNode ends the attempts whose lease on a lost node is complete: the shim has ended them by itself. Those of jobs that
// may not be requeued run on without a lease and are left alone.
func fenceNode(t *state.Txn, op *raftlogv1.FenceNode) *model.FieldError {
	n, err := inSession(t, op.GetNode(), op.GetSession())
	if err != nil {
		return err
	}
	if n.State == state.NodeUp && !bugFenceNotChecked {
		return conflict("node", "%s is up", n.Name)
	}
	now := t.NowMS()
	for _, id := range t.ActiveOn(n.Name) {
		if j := t.Job(id); j != nil && !j.Spec.GetNoRequeue() {
			endOn(t, id, n.Name, &fettlev1.Exit{Code: -1, LeaseExpired: true, EndMs: now, Detail: "contact with node " + n.Name + " was lost and its lease ran out"})
		}
	}
	return nil
}

// updateNode is what operators do to nodes.
func updateNode(t *state.Txn, a *raftlogv1.Actor, op *fettlev1.UpdateNodeRequest) *model.FieldError {
	if err := mayAdminister(a); err != nil {
		return err
	}
	if len(op.GetReason()) > model.MaxDetail {
		return &model.FieldError{Field: "reason", Problem: fmt.Sprintf("is longer than %d bytes", model.MaxDetail), Remedy: "shorten it"}
	}
	name := op.GetNode()
	n := t.EditNode(name)
	if n == nil {
		return noNode(name)
	}
	now := t.NowMS()
	switch op.GetAction() {
	case fettlev1.NodeAction_NODE_ACTION_DRAIN:
		n.Drained, n.DrainReason = true, model.OneLine(op.GetReason(), model.MaxDetail)
	case fettlev1.NodeAction_NODE_ACTION_RESUME:
		n.Drained, n.DrainReason, n.LaunchFailures = false, "", 0
	case fettlev1.NodeAction_NODE_ACTION_DECLARE_DEAD:
		for _, id := range t.ActiveOn(name) {
			endOn(t, id, name, lost(now, "node "+name+" was declared dead"))
		}
		setNodeUp(n, now, state.NodeDown)
		// Nothing of the old session counts any more: the node must say hello again.
		n.Session = 0
	case fettlev1.NodeAction_NODE_ACTION_REMOVE:
		switch active := t.ActiveOn(name); {
		case len(active) > 0:
			return &model.FieldError{Kind: model.Conflict, Field: "node", Problem: fmt.Sprintf("%s holds %d attempts, job %d among them", name, len(active), active[0]), Remedy: "wait for them, or declare the node dead"}
		case n.State == state.NodeUp:
			return &model.FieldError{Kind: model.Conflict, Field: "node", Problem: name + " is up", Remedy: "stop its fettle-noded first"}
		}
		t.RemoveNode(name)
	default:
		return &model.FieldError{Field: "action", Problem: "is missing or unknown", Remedy: "use drain, resume, declare-dead or remove"}
	}
	return nil
}
