package api

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/raftstore"
	"github.com/fettle-hpc/fettle/ctld/internal/session"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// detailed makes a status with an ErrorDetail in it.
func detailed(code codes.Code, d *fettlev1.ErrorDetail) error {
	msg := d.GetProblem()
	if d.GetField() != "" {
		msg = d.GetField() + ": " + msg
	}
	if d.GetRemedy() != "" {
		msg += "; " + d.GetRemedy()
	}
	st := status.New(code, msg)
	if with, err := st.WithDetails(d); err == nil {
		st = with
	}
	return st.Err()
}

func codeOf(k model.Kind) codes.Code {
	switch k {
	case model.NotFound:
		return codes.NotFound
	case model.Denied:
		return codes.PermissionDenied
	case model.Conflict:
		return codes.FailedPrecondition
	case model.Exhausted:
		return codes.ResourceExhausted
	case model.Internal:
		return codes.Internal
	default:
		return codes.InvalidArgument
	}
}

func fieldError(e *model.FieldError) error { return detailed(codeOf(e.Kind), e.Proto()) }

func refuse(kind model.Kind, field, problem, remedy string) error {
	return fieldError(&model.FieldError{Kind: kind, Field: field, Problem: problem, Remedy: remedy})
}

// toStatus maps errors from below to what clients see. Outcomes that are not known are UNAVAILABLE: a retry with the
// same request id is always safe.
func (s *Server) toStatus(err error) error {
	var fe *model.FieldError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &fe):
		return fieldError(fe)
	case errors.Is(err, raftstore.ErrNotLeader):
		return s.NotLeader()
	case errors.Is(err, raftstore.ErrOverloaded):
		return detailed(codes.ResourceExhausted, &fettlev1.ErrorDetail{Problem: "the controller has too much to do", Remedy: "try again in a moment"})
	case errors.Is(err, raftstore.ErrTooLarge), errors.Is(err, fsm.ErrTooLarge):
		return detailed(codes.InvalidArgument, &fettlev1.ErrorDetail{Problem: "the request is too large", Remedy: "send less at once"})
	case errors.Is(err, raftstore.ErrTransferring), errors.Is(err, raftstore.ErrClosed):
		return detailed(codes.Unavailable, &fettlev1.ErrorDetail{Problem: "this controller hands over to another", Remedy: "repeat the request with the same request id"})
	case errors.Is(err, raftstore.ErrUnknown):
		return detailed(codes.Unavailable, &fettlev1.ErrorDetail{Problem: "leadership changed while the request was on its way", Remedy: "repeat it with the same request id"})
	case errors.Is(err, session.ErrNotConnected):
		return detailed(codes.Unavailable, &fettlev1.ErrorDetail{Problem: err.Error(), Remedy: "its output can be read again when the node is back"})
	case errors.Is(err, session.ErrLogRead):
		return detailed(codes.NotFound, &fettlev1.ErrorDetail{Problem: err.Error()})
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "the controllers did not answer in time")
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "cancelled by the caller")
	}
	if st, ok := status.FromError(err); ok {
		return st.Err()
	}
	return status.Error(codes.Internal, err.Error())
}

// afterPart maps an error that ended a request of which a part is in the log already: whatever it is, the request is
// neither done nor refused, and only a repeat finishes it.
func (s *Server) afterPart(begun bool, err error) error {
	out := s.toStatus(err)
	if !begun || errors.Is(err, raftstore.ErrNotLeader) {
		// Another controller finishes what has the same request id.
		return out
	}
	switch status.Code(out) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return out
	}
	return detailed(codes.Unavailable, &fettlev1.ErrorDetail{
		Problem: "a part of the request was carried out, then: " + status.Convert(out).Message(), Remedy: "repeat it with the same request id",
	})
}

// NotLeader is what a controller answers that cannot serve a request itself, with the leader's address if it knows one.
func (s *Server) NotLeader() error {
	d := &fettlev1.ErrorDetail{Problem: "this controller is not the leader", Remedy: "ask the leader"}
	d.LeaderAddr = s.leaderAddr(s.cfg.Store.Snapshot(), s.cfg.Raft.LeaderInfo())
	if d.LeaderAddr == "" {
		d.Problem, d.Remedy = "there is no leader just now", "try again in a moment; `fctl raft list` shows the controllers"
		return detailed(codes.Unavailable, d)
	}
	return detailed(codes.FailedPrecondition, d)
}

func isInternal(err error) bool { return status.Code(err) == codes.Internal }
