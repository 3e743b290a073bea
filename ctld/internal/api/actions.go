package api

import (
	"context"
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// maxSelectedIDs bounds the job ids in a selector, maxSelected the values in each of its other fields.
const (
	maxSelectedIDs = 100_000
	maxSelected    = 1_000
)

// checkSelector refuses a selector that would take for ever to match.
func checkSelector(sel *fettlev1.JobSelector) error {
	if len(sel.GetIds()) > maxSelectedIDs {
		return refuse(model.Invalid, "jobs", "more than 100,000 job ids", "name fewer, or select by user or state")
	}
	if err := checkElements(sel); err != nil {
		return err
	}
	for _, f := range []struct {
		field string
		n     int
	}{
		{"user", len(sel.GetUsers())}, {"state", len(sel.GetStates())}, {"name", len(sel.GetNames())},
		{"partition", len(sel.GetPartitions())}, {"project", len(sel.GetProjects())}, {"node", len(sel.GetNodes())},
	} {
		if f.n > maxSelected {
			return refuse(model.Invalid, f.field, "more than 1,000 values", "name fewer")
		}
	}
	return nil
}

// maxIDsPerEntry bounds the jobs that one log entry acts on.
const maxIDsPerEntry = 500

// entryOf makes the entry for a part of what a request is about.
type entryOf func(targets) *raftlogv1.Entry

// CancelJobs implements fettle.v1.ControllerService.
func (s *Server) CancelJobs(ctx context.Context, req *fettlev1.CancelJobsRequest) (*fettlev1.JobActionResponse, error) {
	actor, leader, fwd, err := s.toLeader(ctx)
	if err != nil {
		return nil, err
	}
	if leader != nil {
		return leader.CancelJobs(fwd, req)
	}
	if sig := req.GetSignal(); sig != 0 {
		return s.signal(actor, req.GetSelect(), sig)
	}
	return s.act(ctx, actor, req.GetSelect(), func(t targets) *raftlogv1.Entry {
		op := &raftlogv1.CancelJobs{Ids: t.ids, Elements: t.elements, Unstarted: t.unstarted}
		return &raftlogv1.Entry{Actor: actor, RequestId: req.GetRequestId(), Op: &raftlogv1.Entry_Cancel{Cancel: op}}
	})
}

// HoldJobs implements fettle.v1.ControllerService.
func (s *Server) HoldJobs(ctx context.Context, req *fettlev1.JobActionRequest) (*fettlev1.JobActionResponse, error) {
	actor, leader, fwd, err := s.toLeader(ctx)
	if err != nil {
		return nil, err
	}
	if leader != nil {
		return leader.HoldJobs(fwd, req)
	}
	return s.act(ctx, actor, req.GetSelect(), func(t targets) *raftlogv1.Entry {
		op := &raftlogv1.HoldJobs{Ids: t.ids, Elements: t.elements, Unstarted: t.unstarted}
		return &raftlogv1.Entry{Actor: actor, RequestId: req.GetRequestId(), Op: &raftlogv1.Entry_Hold{Hold: op}}
	})
}

// ReleaseJobs implements fettle.v1.ControllerService.
func (s *Server) ReleaseJobs(ctx context.Context, req *fettlev1.JobActionRequest) (*fettlev1.JobActionResponse, error) {
	actor, leader, fwd, err := s.toLeader(ctx)
	if err != nil {
		return nil, err
	}
	if leader != nil {
		return leader.ReleaseJobs(fwd, req)
	}
	return s.act(ctx, actor, req.GetSelect(), func(t targets) *raftlogv1.Entry {
		op := &raftlogv1.ReleaseJobs{Ids: t.ids, Elements: t.elements, Unstarted: t.unstarted}
		return &raftlogv1.Entry{Actor: actor, RequestId: req.GetRequestId(), Op: &raftlogv1.Entry_Release{Release: op}}
	})
}

// RequeueJobs implements fettle.v1.ControllerService.
func (s *Server) RequeueJobs(ctx context.Context, req *fettlev1.JobActionRequest) (*fettlev1.JobActionResponse, error) {
	actor, leader, fwd, err := s.toLeader(ctx)
	if err != nil {
		return nil, err
	}
	if leader != nil {
		return leader.RequeueJobs(fwd, req)
	}
	return s.act(ctx, actor, req.GetSelect(), func(t targets) *raftlogv1.Entry {
		op := &raftlogv1.RequeueJobs{Ids: t.ids, Elements: t.elements, Unstarted: t.unstarted}
		return &raftlogv1.Entry{Actor: actor, RequestId: req.GetRequestId(), Op: &raftlogv1.Entry_Requeue{Requeue: op}}
	})
}

// act proposes an operation on the selected jobs, in slices, and gathers the outcome of each.
func (s *Server) act(ctx context.Context, actor *raftlogv1.Actor, sel *fettlev1.JobSelector, entry entryOf) (*fettlev1.JobActionResponse, error) {
	all, err := s.selectForWrite(actor, sel)
	if err != nil {
		return nil, err
	}
	resp := &fettlev1.JobActionResponse{}
	begun := false
	for chunk := range all.chunks(maxIDsPerEntry) {
		// Slices share the request's key: each job is answered once per key.
		e := entry(chunk)
		res, err := s.cfg.Log.Propose(ctx, e)
		if err != nil {
			return nil, s.afterPart(begun, err)
		}
		if res.Err != nil {
			return nil, s.afterPart(begun, res.Err)
		}
		begun = true
		for _, a := range res.Actions {
			r := &fettlev1.JobActionResult{JobId: a.JobID, Error: a.Err.Proto()}
			if a.Element {
				r.ArrayIndex = &a.Index
			}
			resp.Results = append(resp.Results, r)
		}
	}
	resp.Header = s.header(s.cfg.Store.Snapshot(), fettlev1.ReadLevel_READ_LEVEL_LEADER)
	return resp, nil
}

// selectForWrite resolves a selector. Jobs and elements that are named are passed on as they are, so that each gets its own
// answer; anything else picks unfinished jobs that the caller may act on.
func (s *Server) selectForWrite(actor *raftlogv1.Actor, sel *fettlev1.JobSelector) (t targets, err error) {
	if err := checkSelector(sel); err != nil {
		return targets{}, err
	}
	others := len(sel.GetUsers()) + len(sel.GetStates()) + len(sel.GetNames()) + len(sel.GetPartitions()) + len(sel.GetProjects()) + len(sel.GetNodes())
	if others == 0 {
		if len(sel.GetIds()) == 0 && len(sel.GetElements()) == 0 {
			return targets{}, refuse(model.Invalid, "jobs", "no job is named", "give job ids, or select with a user, a state or a name")
		}
		return namedTargets(sel), nil
	}
	match, arrays := newMatcher(sel), map[uint64]bool{}
	for j := range candidates(s.cfg.Store.Snapshot(), sel, false, 0) {
		if match.matches(j) && (actor.GetAdmin() || actor.GetUid() == j.UID) {
			t.addMatch(j, len(match.states) > 0, arrays)
		}
	}
	return t, nil
}

// signal passes a signal on to running jobs. It is not logged: a signal to a process is no change of the job.
func (s *Server) signal(actor *raftlogv1.Actor, sel *fettlev1.JobSelector, sig int32) (*fettlev1.JobActionResponse, error) {
	if sig < 0 || sig > 64 {
		return nil, refuse(model.Invalid, "signal", "there is no such signal", "use a name such as USR1 or a number from 1 to 64")
	}
	all, err := s.selectForWrite(actor, sel)
	if err != nil {
		return nil, err
	}
	snap := s.cfg.Store.Snapshot()
	resp := &fettlev1.JobActionResponse{Header: s.header(snap, fettlev1.ReadLevel_READ_LEVEL_LEADER)}
	var running []uint64
	rows, results := activeRows(snap, all)
	for i, j := range rows {
		name := nameOf(results[i].GetJobId(), results[i].ArrayIndex)
		switch {
		case j == nil || (!actor.GetAdmin() && actor.GetUid() != j.UID):
			results[i].Error = &fettlev1.ErrorDetail{Field: "job", Problem: "no such job of yours: " + name, Remedy: "fqueue --all lists your jobs"}
		case j.State != fettlev1.JobState_JOB_STATE_RUNNING:
			results[i].Error = &fettlev1.ErrorDetail{Field: "job", Problem: "job " + name + " is " + model.StateName(j.State) + ", not running"}
		default:
			running = append(running, j.ID)
		}
	}
	resp.Results = results
	missed := s.cfg.Nodes.Signal(running, sig)
	for i, r := range results {
		if r.Error == nil && slices.Contains(missed, rows[i].ID) {
			r.Error = &fettlev1.ErrorDetail{Field: "job", Problem: "not all nodes of job " + nameOf(r.GetJobId(), r.ArrayIndex) + " are connected", Remedy: "send the signal again when finfo shows them"}
		}
	}
	return resp, nil
}

// UpdateJob implements fettle.v1.ControllerService.
func (s *Server) UpdateJob(ctx context.Context, req *fettlev1.UpdateJobRequest) (*fettlev1.UpdateJobResponse, error) {
	actor, leader, fwd, err := s.toLeader(ctx)
	if err != nil {
		return nil, err
	}
	if leader != nil {
		return leader.UpdateJob(fwd, req)
	}
	res, err := s.cfg.Log.Propose(ctx, &raftlogv1.Entry{
		Actor: actor, RequestId: req.GetRequestId(), Op: &raftlogv1.Entry_UpdateJob{UpdateJob: req},
	})
	if err != nil {
		return nil, s.toStatus(err)
	}
	if fe := firstError(res); fe != nil {
		return nil, fieldError(fe)
	}
	snap := s.cfg.Store.Snapshot()
	resp := &fettlev1.UpdateJobResponse{Header: s.header(snap, fettlev1.ReadLevel_READ_LEVEL_LEADER)}
	if j := oneJob(snap, req.GetJobId(), req.ArrayIndex); j != nil {
		resp.Job = s.row(ctx, j, true)
	}
	return resp, nil
}
