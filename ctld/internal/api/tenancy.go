package api

import (
	"context"
	"slices"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// GetUsage implements fettle.v1.ControllerService.
func (s *Server) GetUsage(ctx context.Context, req *fettlev1.GetUsageRequest) (*fettlev1.GetUsageResponse, error) {
	v, err := s.read(ctx, req.GetRead())
	if err != nil {
		return nil, err
	}
	if v.leader != nil {
		return v.leader.GetUsage(v.ctx, req)
	}
	half, now := v.snap.HalfLifeMS(), v.snap.NowMS()
	resp := &fettlev1.GetUsageResponse{Header: s.header(v.snap, v.level), HalfLifeS: half / 1000}
	for _, scope := range scopesOf(v.snap) {
		resp.Scopes = append(resp.Scopes, scopeUsage(v.snap, scope))
	}
	for u := range v.snap.Usages {
		if gpuS := u.At(now, half) / 1000; gpuS > 0 {
			resp.Accounts = append(resp.Accounts, &fettlev1.AccountUsage{Project: u.Project, User: u.User, GpuS: int64(gpuS)})
		}
	}
	return resp, nil
}

// scopesOf names what there is to tell of: all partitions and projects of the policy, users with limits, and whatever has
// unfinished jobs; by kind, then by name.
func scopesOf(snap *state.Snapshot) []state.Scope {
	p := snap.Policy()
	var all []state.Scope
	for _, part := range p.GetPartitions() {
		all = append(all, state.Scope{Kind: state.ScopePartition, Name: part.GetName()})
	}
	for _, q := range p.GetProjects() {
		all = append(all, state.Scope{Kind: state.ScopeProject, Name: q.GetName()})
	}
	for _, u := range p.GetUsers() {
		if u.GetUser() != model.Everyone {
			all = append(all, state.Scope{Kind: state.ScopeUser, Name: u.GetUser()})
		}
	}
	snap.Uses(func(scope state.Scope, _ state.Use) bool {
		all = append(all, scope)
		return true
	})
	slices.SortFunc(all, state.CompareScopes)
	return slices.Compact(all)
}

func scopeUsage(snap *state.Snapshot, scope state.Scope) *fettlev1.ScopeUsage {
	use, limits := snap.Use(scope), snap.LimitsOf(scope)
	u := &fettlev1.ScopeUsage{
		Kind: scope.Kind, Name: scope.Name, Limits: limits,
		GpuMilli: use.GPUMilli, JobsRunning: use.Running, JobsQueued: use.Queued,
	}
	if w := model.WindowMS(limits); w > 0 {
		u.WindowGpuS, u.CommittedGpuS = snap.SpendOf(scope).Within(snap.NowMS(), w)/1000, use.CommittedMS/1000
	}
	if q := snap.Project(scope.Name); q != nil && scope.Kind == state.ScopeProject {
		u.Parent, u.Weight, u.GuaranteeGpus = q.GetParent(), model.Weight(q.Project), q.GetGuaranteeGpus()
	}
	return u
}

// ListReservations implements fettle.v1.ControllerService.
func (s *Server) ListReservations(ctx context.Context, req *fettlev1.ListReservationsRequest) (*fettlev1.ListReservationsResponse, error) {
	v, err := s.read(ctx, req.GetRead())
	if err != nil {
		return nil, err
	}
	if v.leader != nil {
		return v.leader.ListReservations(v.ctx, req)
	}
	resp := &fettlev1.ListReservationsResponse{Header: s.header(v.snap, v.level)}
	for r := range v.snap.Reservations {
		if !r.Over(v.snap.NowMS()) {
			resp.Reservations = append(resp.Reservations, r.Reservation)
		}
	}
	return resp, nil
}

// SetReservation implements fettle.v1.ControllerService.
func (s *Server) SetReservation(ctx context.Context, req *fettlev1.SetReservationRequest) (*fettlev1.SetReservationResponse, error) {
	actor, leader, fwd, err := s.toLeader(ctx)
	if err != nil {
		return nil, err
	}
	if leader != nil {
		return leader.SetReservation(fwd, req)
	}
	if err := needAdmin(actor); err != nil {
		return nil, err
	}
	res, err := s.cfg.Log.Propose(ctx, &raftlogv1.Entry{Actor: actor, RequestId: req.GetRequestId(), Op: &raftlogv1.Entry_SetReservation{SetReservation: req}})
	if err != nil {
		return nil, s.toStatus(err)
	}
	if fe := firstError(res); fe != nil {
		return nil, fieldError(fe)
	}
	snap := s.cfg.Store.Snapshot()
	resp := &fettlev1.SetReservationResponse{Header: s.header(snap, fettlev1.ReadLevel_READ_LEVEL_LEADER)}
	if r := snap.Reservation(req.GetReservation().GetName()); r != nil {
		resp.Reservation = r.Reservation
		resp.JobsInTheWay = inTheWay(snap, r)
	}
	return resp, nil
}

// inTheWay names the jobs that hold something of what is reserved and need not be over when the reservation begins.
func inTheWay(snap *state.Snapshot, r *state.Reservation) []uint64 {
	var ids []uint64
	for j := range snap.Active {
		if j.Spec.GetReservation() == r.GetName() || !fsm.MayRunAt(j, r.GetStartMs()) {
			continue
		}
		if slices.ContainsFunc(j.Current().GetNodes(), func(a *fettlev1.NodeAllocation) bool { return a.GetExit() == nil && r.Touches(a) }) {
			ids = append(ids, j.ID)
		}
	}
	return ids
}

// RemoveReservation implements fettle.v1.ControllerService.
func (s *Server) RemoveReservation(ctx context.Context, req *fettlev1.RemoveReservationRequest) (*fettlev1.RemoveReservationResponse, error) {
	actor, leader, fwd, err := s.toLeader(ctx)
	if err != nil {
		return nil, err
	}
	if leader != nil {
		return leader.RemoveReservation(fwd, req)
	}
	if err := needAdmin(actor); err != nil {
		return nil, err
	}
	res, err := s.cfg.Log.Propose(ctx, &raftlogv1.Entry{Actor: actor, RequestId: req.GetRequestId(), Op: &raftlogv1.Entry_RemoveReservation{RemoveReservation: req}})
	if err != nil {
		return nil, s.toStatus(err)
	}
	if fe := firstError(res); fe != nil {
		return nil, fieldError(fe)
	}
	return &fettlev1.RemoveReservationResponse{Header: s.header(s.cfg.Store.Snapshot(), fettlev1.ReadLevel_READ_LEVEL_LEADER)}, nil
}

// tenancyOf checks a new job's project, limits and reservation as the log will, filling in what it will fill in, and warns of
// a wish to preempt that no partition grants.
func tenancyOf(snap *state.Snapshot, actor *raftlogv1.Actor, spec *fettlev1.JobSpec) (warnings []string, refusal *model.FieldError) {
	if fe := fsm.CheckTenancy(snap, actor, spec); fe != nil {
		return nil, fe
	}
	granted := slices.ContainsFunc(snap.Policy().GetPartitions(), func(p *fettlev1.Partition) bool {
		return model.PreemptModeOf(p) != fettlev1.PreemptMode_PREEMPT_MODE_OFF
	})
	if spec.GetPreempt() && !granted {
		warnings = append(warnings, "no partition lets jobs be ended for others: --preempt changes nothing")
	}
	return warnings, nil
}
