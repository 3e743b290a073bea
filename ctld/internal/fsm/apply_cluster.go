package fsm

import (
	"fmt"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// newTerm makes a new leader's term known. Plans of other terms are void from here on.
func newTerm(t *state.Txn, op *raftlogv1.NewTerm) *model.FieldError {
	if err := checkServer(op.GetLeaderId(), op.GetLeaderName(), op.GetLeaderClientAddr()); err != nil {
		return err
	}
	if op.GetTerm() < t.Term() || op.GetTerm() == 0 {
		return conflict("term", "%d is over, the term is %d", op.GetTerm(), t.Term())
	}
	t.SetTerm(state.Leader{ID: op.GetLeaderId(), Name: op.GetLeaderName(), ClientAddr: op.GetLeaderClientAddr(), Term: op.GetTerm()})
	return nil
}

// checkServer bounds what is stored about a controller.
func checkServer(id string, texts ...string) *model.FieldError {
	if id == "" || len(id) > model.MaxName {
		return &model.FieldError{Field: "server_id", Problem: "is empty or too long"}
	}
	for _, s := range texts {
		if len(s) > model.MaxPath {
			return &model.FieldError{Field: "server", Problem: "has an overlong name or address"}
		}
	}
	return nil
}

// changeServer adds, changes or retires a controller. A retired id is never used again: its disk is gone.
func changeServer(t *state.Txn, op *raftlogv1.ServerChange) *model.FieldError {
	if err := checkServer(op.GetServerId(), op.GetName(), op.GetClientAddr(), op.GetRaftAddr()); err != nil {
		return err
	}
	known := false
	for _, s := range t.Servers() {
		if s.GetServerId() != op.GetServerId() {
			continue
		}
		known = true
		if s.GetRetired() && !op.GetRetired() {
			return &model.FieldError{Kind: model.Conflict, Field: "server_id", Problem: fmt.Sprintf("%.64q is retired", op.GetServerId()), Remedy: "wipe that controller's data and start it with --join, which gives it a new id"}
		}
	}
	if !known && len(t.Servers()) >= model.MaxServers {
		return &model.FieldError{Kind: model.Exhausted, Field: "server_id", Problem: fmt.Sprintf("%d controllers were ever known, the limit", len(t.Servers()))}
	}
	t.SetServer(op)
	return nil
}

// setPolicy replaces the cluster policy. A version in it that is not 0 must be the stored one, so that nobody overwrites
// what they have not seen; the stored policy gets the next version.
func setPolicy(t *state.Txn, a *raftlogv1.Actor, p *fettlev1.ClusterPolicy) *model.FieldError {
	if err := mayAdminister(a); err != nil {
		return err
	}
	if err := model.ValidatePolicy(p); err != nil {
		return err
	}
	stored := t.Policy().GetVersion()
	if v := p.GetVersion(); v != 0 && v != stored {
		return &model.FieldError{Kind: model.Conflict, Field: "version", Problem: fmt.Sprintf("%d is not the stored version %d", v, stored), Remedy: "read the policy again and repeat the change"}
	}
	p.Version = stored + 1
	return t.SetPolicy(p)
}
