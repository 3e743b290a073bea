package host

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What a call can end with, for errors.Is.
var (
	// ErrUnavailable: the plugin is not running (starting, failed, left alone by its breaker, or its process ended).
	ErrUnavailable = errors.New("plugin is not available")
	// ErrDisabled: it is disabled until Enable. It is also ErrUnavailable.
	ErrDisabled = fmt.Errorf("%w: disabled", ErrUnavailable)
	// ErrClosed: Close was called, or the context given to Start has ended. It is also ErrUnavailable.
	ErrClosed = fmt.Errorf("%w: closed", ErrUnavailable)
	// ErrLate: no answer by the deadline.
	ErrLate = errors.New("plugin is late")
	// ErrInvalid: an answer that does not hold what the protocol promises, or is too large.
	ErrInvalid = errors.New("plugin answered nonsense")
	// ErrRefused: the plugin answered an error of its own.
	ErrRefused = errors.New("plugin answered an error")
	// ErrTooLarge: the request exceeds MaxRequestBytes and was not sent.
	ErrTooLarge = errors.New("request is too large for a plugin")
	// ErrUnknownMethod: no launcher for a training method.
	ErrUnknownMethod = errors.New("no launcher for the method")
)

// fault is why a call failed, with the plugin's name.
type fault struct {
	plugin string
	kind   error
	detail string
}

func (f *fault) Error() string {
	if f.detail == "" {
		return fmt.Sprintf("%s: %v", f.plugin, f.kind)
	}
	return fmt.Sprintf("%s: %v: %s", f.plugin, f.kind, f.detail)
}

func (f *fault) Unwrap() error { return f.kind }

// invalid is an answer's fault.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// classify turns the error of a call into one of this package's. deadline says that the call's own time was up, as
// opposed to the caller's.
func classify(plugin string, err error, caller error, deadline bool) error {
	if errors.Is(err, ErrInvalid) || errors.Is(err, ErrTooLarge) {
		return &fault{plugin: plugin, kind: kindOf(err), detail: detailOf(err)}
	}
	if caller != nil {
		return fmt.Errorf("%s: %w", plugin, caller)
	}
	s, _ := status.FromError(err)
	text := printable(s.Message(), maxErrorText)
	switch {
	case deadline, s.Code() == codes.DeadlineExceeded, errors.Is(err, context.DeadlineExceeded):
		return &fault{plugin: plugin, kind: ErrLate}
	case s.Code() == codes.Unavailable, s.Code() == codes.Canceled:
		return &fault{plugin: plugin, kind: ErrUnavailable, detail: text}
	case s.Code() == codes.ResourceExhausted:
		return &fault{plugin: plugin, kind: ErrInvalid, detail: text}
	default:
		return &fault{plugin: plugin, kind: ErrRefused, detail: text}
	}
}

func kindOf(err error) error {
	if errors.Is(err, ErrTooLarge) {
		return ErrTooLarge
	}
	return ErrInvalid
}

// detailOf drops the sentinel's own words, which fault prints.
func detailOf(err error) string {
	text := err.Error()
	if _, rest, ok := strings.Cut(text, kindOf(err).Error()+": "); ok {
		text = rest
	}
	return printable(text, maxErrorText)
}
