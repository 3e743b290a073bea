package model

import (
	"errors"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
)

// Kind sorts refusals by what a caller can do about them.
type Kind uint8

const (
	// Invalid: the request itself is wrong and will be refused again.
	Invalid Kind = iota
	// NotFound: the thing named does not exist.
	NotFound
	// Denied: it exists, but this caller may not do that to it.
	Denied
	// Conflict: the thing is in a state that does not allow it, now.
	Conflict
	// Exhausted: a limit of the cluster is reached; it may work later.
	Exhausted
	// Internal: fettle's own fault.
	Internal
)

var kindNames = [...]string{"invalid", "not found", "denied", "conflict", "exhausted", "internal"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// FieldError is a refusal in one line: the field or flag that is wrong, what is wrong with it, and what to do instead.
type FieldError struct {
	Kind Kind
	// Field is a field's or flag's name, such as "gpus"; empty when no single one is to blame.
	Field string
	// Problem is what is wrong.
	Problem string
	// Remedy is what to do; may be empty.
	Remedy string
}

// Error renders "FIELD: PROBLEM; REMEDY", leaving out empty parts.
func (e *FieldError) Error() string {
	s := e.Problem
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

// Proto returns e as it travels in a status; nil for nil.
func (e *FieldError) Proto() *fettlev1.ErrorDetail {
	if e == nil {
		return nil
	}
	return &fettlev1.ErrorDetail{Field: e.Field, Problem: e.Problem, Remedy: e.Remedy}
}

// invalid is the usual refusal of a value.
func invalid(field, problem, remedy string) *FieldError {
	return &FieldError{Kind: Invalid, Field: field, Problem: problem, Remedy: remedy}
}

// fromGres turns a parser's refusal into one about field.
func fromGres(field string, err error) *FieldError {
	if err == nil {
		return nil
	}
	var g *gres.Error
	if errors.As(err, &g) {
		return invalid(field, gres.Quote(g.Input)+" "+g.Problem, g.Remedy)
	}
	return invalid(field, err.Error(), "")
}
