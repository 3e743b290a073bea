package api

import (
	"context"
	"errors"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Error is why a call did not succeed.
type Error struct {
	// Code is the gRPC code of the answer, Unavailable when none came.
	Code codes.Code
	// Field is the field or flag that was wrong, or empty.
	Field string
	// Problem is what was wrong, Remedy what to do; Remedy may be empty.
	Problem, Remedy string
	// Unknown is set when the request may have been carried out all the same.
	Unknown bool
	// Cause is the last error of a controller, for errors.Is; may be nil.
	Cause error

	// reach says in few words why a controller gave no answer; said is set when it gave the problem itself.
	reach string
	said  bool
}

// Error renders "FIELD: PROBLEM; REMEDY" with the parts that are there. What is said of a job or a node names it as one
// reads it: "job 12 does not exist". It may hold characters that a terminal must not see: escape it where it is printed.
func (e *Error) Error() string {
	var b strings.Builder
	switch {
	case e.Field == "":
	case e.Field != "job" && e.Field != "node":
		b.WriteString(e.Field + ": ")
	case e.Problem != "" && strings.ContainsAny(e.Problem[:1], "0123456789\""):
		b.WriteString(e.Field + " ")
	case !slices.Contains(strings.Fields(e.Problem), e.Field):
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(e.Problem)
	if e.Remedy != "" {
		b.WriteString("; ")
		b.WriteString(e.Remedy)
	}
	return b.String()
}

// Unwrap returns Cause.
func (e *Error) Unwrap() error { return e.Cause }

// IsCode reports whether err is an *Error with the code.
func IsCode(err error, code codes.Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// FromDetail makes an Error of a refusal within an answer; nil when there is none.
func FromDetail(d *fettlev1.ErrorDetail) *Error {
	if d == nil || d.GetProblem() == "" && d.GetField() == "" {
		return nil
	}
	return &Error{Code: codes.InvalidArgument, Field: d.GetField(), Problem: d.GetProblem(), Remedy: d.GetRemedy()}
}

// FromStatus makes an Error of what a gRPC call returned.
func FromStatus(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		c := *e
		return &c
	}
	s := status.Convert(err)
	out := &Error{Code: s.Code(), Problem: s.Message(), Cause: err}
	if d := detail(s); d != nil && d.GetProblem() != "" {
		out.Field, out.Problem, out.Remedy = d.GetField(), d.GetProblem(), d.GetRemedy()
		return out
	}
	switch s.Code() {
	case codes.Unimplemented:
		out.Problem, out.Remedy = "the controller is of an older version and does not know this request", "upgrade the controllers"
	case codes.DeadlineExceeded:
		out.Problem = "the controller did not answer in time"
	case codes.Unavailable:
		out.Problem = "the controller cannot be reached"
	}
	if out.Problem == "" {
		out.Problem = "the controller refused with " + s.Code().String()
	}
	return out
}

// detail returns the ErrorDetail of a status.
func detail(s *status.Status) *fettlev1.ErrorDetail {
	for _, d := range s.Details() {
		if ed, ok := d.(*fettlev1.ErrorDetail); ok {
			return ed
		}
	}
	return nil
}

func leaderHint(s *status.Status) string {
	return detail(s).GetLeaderAddr()
}

// action is what to do after a try.
type action int

const (
	// done: an answer.
	done action = iota
	// refused: an answer that will not change.
	refused
	// elsewhere: certainly not carried out; another controller may do it.
	elsewhere
	// unclear: perhaps carried out; safe to repeat with the same request id only.
	unclear
)

type verdict struct {
	action action
	err    *Error
	// leader is the address that the controller named.
	leader string
	// down is set when not even a connection was made.
	down bool
}

// judge sorts a failed try.
func judge(err error) verdict {
	var own *Error
	if errors.As(err, &own) {
		return verdict{action: refused, err: own}
	}
	e := FromStatus(err)
	if errors.Is(err, context.DeadlineExceeded) {
		e.Code = codes.DeadlineExceeded
	}
	s := status.Convert(err)
	said := detail(s).GetProblem() != ""
	v := verdict{err: e, leader: leaderHint(s)}
	switch e.Code {
	case codes.FailedPrecondition:
		v.action = refused
		if v.leader != "" {
			v.action = elsewhere
		}
	case codes.Unavailable:
		v.action, e.said, e.reach = unclear, said, "connection lost"
	case codes.DeadlineExceeded:
		v.action, e.reach = unclear, "no answer in time"
	case codes.Aborted, codes.Canceled:
		v.action, e.reach = unclear, e.Problem
	case codes.Internal, codes.Unknown:
		v.action, e.reach = unclear, e.Problem
		if said {
			v.action = refused
		}
	default:
		v.action = refused
	}
	return v
}
