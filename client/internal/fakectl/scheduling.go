package fakectl

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// SetExplanation changes what is said of a job.
func (s *Server) SetExplanation(job uint64, r *fettlev1.ExplainJobResponse) {
	s.set(func() {
		if s.explain == nil {
			s.explain = make(map[uint64]*fettlev1.ExplainJobResponse)
		}
		s.explain[job] = r
	})
}

// SetStarts changes the predicted starts.
func (s *Server) SetStarts(v ...*fettlev1.StartPrediction) { s.set(func() { s.starts = v }) }

// SetUsage changes the answer of GetUsage.
func (s *Server) SetUsage(r *fettlev1.GetUsageResponse) { s.set(func() { s.usage = r }) }

// SetPredictionStats changes the answer of GetPredictionStats.
func (s *Server) SetPredictionStats(v ...*fettlev1.PredictionStats) { s.set(func() { s.errors = v }) }

// SetInTheWay changes which jobs every new reservation finds in its way.
func (s *Server) SetInTheWay(jobs ...uint64) { s.set(func() { s.inWay = jobs }) }

// ExplainJob implements fettle.v1.ControllerService.
func (s *Server) ExplainJob(_ context.Context, req *fettlev1.ExplainJobRequest) (*fettlev1.ExplainJobResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.find(req.GetJobId(), req.ArrayIndex)
	if j == nil {
		return nil, notFound(req.GetJobId(), req.ArrayIndex)
	}
	r := &fettlev1.ExplainJobResponse{Header: s.head(), Job: j}
	have := s.explain[j.GetId()]
	if req.GetWhy() && j.GetState() == model.Pending {
		r.Why = have.GetWhy()
	}
	if req.GetStart() {
		r.Start = have.GetStart()
	}
	if req.GetOrder() {
		r.Order = have.GetOrder()
	}
	return r, nil
}

// PredictStarts implements fettle.v1.ControllerService.
func (s *Server) PredictStarts(context.Context, *fettlev1.PredictStartsRequest) (*fettlev1.PredictStartsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &fettlev1.PredictStartsResponse{Header: s.head(), Starts: slices.Clone(s.starts)}, nil
}

// GetPredictionStats implements fettle.v1.ControllerService.
func (s *Server) GetPredictionStats(context.Context, *fettlev1.GetPredictionStatsRequest) (*fettlev1.GetPredictionStatsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &fettlev1.GetPredictionStatsResponse{Header: s.head(), Stats: slices.Clone(s.errors)}, nil
}

// GetUsage implements fettle.v1.ControllerService.
func (s *Server) GetUsage(context.Context, *fettlev1.GetUsageRequest) (*fettlev1.GetUsageResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &fettlev1.GetUsageResponse{Header: s.head(), Scopes: s.usage.GetScopes(), Accounts: s.usage.GetAccounts(), HalfLifeS: s.usage.GetHalfLifeS()}, nil
}

// ListReservations implements fettle.v1.ControllerService.
func (s *Server) ListReservations(context.Context, *fettlev1.ListReservationsRequest) (*fettlev1.ListReservationsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &fettlev1.ListReservationsResponse{Header: s.head(), Reservations: slices.Clone(s.reserve)}, nil
}

func (s *Server) reservation(name string) int {
	return slices.IndexFunc(s.reserve, func(r *fettlev1.Reservation) bool { return r.GetName() == name })
}

// SetReservation implements fettle.v1.ControllerService.
func (s *Server) SetReservation(_ context.Context, req *fettlev1.SetReservationRequest) (*fettlev1.SetReservationResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := req.GetReservation()
	if err := model.ValidateReservation(r); err != nil {
		return nil, Refusal(codes.InvalidArgument, err.Proto())
	}
	if i := s.reservation(r.GetName()); i >= 0 {
		s.reserve[i] = r
	} else {
		s.reserve = append(s.reserve, r)
	}
	slices.SortFunc(s.reserve, func(a, b *fettlev1.Reservation) int { return strings.Compare(a.GetName(), b.GetName()) })
	s.index++
	return &fettlev1.SetReservationResponse{Header: s.head(), Reservation: r, JobsInTheWay: s.inWay}, nil
}

// RemoveReservation implements fettle.v1.ControllerService.
func (s *Server) RemoveReservation(_ context.Context, req *fettlev1.RemoveReservationRequest) (*fettlev1.RemoveReservationResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.reservation(req.GetName())
	if i < 0 {
		return nil, Refusal(codes.NotFound, &fettlev1.ErrorDetail{Field: "reservation", Problem: "no reservation " + req.GetName(), Remedy: "fctl reservation list shows them"})
	}
	s.reserve = slices.Delete(s.reserve, i, i+1)
	return &fettlev1.RemoveReservationResponse{Header: s.head()}, nil
}
