package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// clockSlack is how much earlier than here a deadline may strike in a plugin.
const clockSlack = 100 * time.Millisecond

// callOptions say how a call is made.
type callOptions struct {
	timeout time.Duration
	// wait up to StartTimeout, besides the timeout, for a plugin that is starting or pausing between starts.
	wait bool
	// strict counts the plugin's own errors and invalid answers against its breaker. They are not counted where a
	// user's input may be the cause, or one user could switch a launcher off for all.
	strict bool
}

// call runs fn with the plugin's connection under the deadline and keeps the books. Errors are this package's.
func (p *Plugin) call(ctx context.Context, o callOptions, fn func(context.Context, *instance) error) error {
	inst, err := p.running(ctx, o.wait)
	if err != nil {
		return p.callerError(ctx, err)
	}
	callCtx, cancel := context.WithTimeoutCause(ctx, o.timeout, ErrLate)
	defer cancel()
	select {
	case p.calls <- struct{}{}:
		defer func() { <-p.calls }()
	case <-callCtx.Done():
		// Others keep it busy; that is not this call's failure.
		return p.callerError(ctx, &fault{plugin: p.cfg.Name, kind: ErrLate, detail: fmt.Sprintf("%d calls are under way", cap(p.calls))})
	}
	begin := time.Now()
	err = fn(callCtx, inst)
	if err == nil {
		p.succeeded(time.Since(begin))
		return nil
	}
	var caller error
	switch deadline, ok := ctx.Deadline(); {
	case ctx.Err() != nil:
		caller = context.Cause(ctx)
	case ok && deadline.Before(begin.Add(o.timeout)) && time.Until(deadline) < clockSlack && status.Code(err) == codes.DeadlineExceeded:
		// The plugin was told the caller's deadline, and its clock struck first.
		caller = context.DeadlineExceeded
	}
	err = classify(p.cfg.Name, err, caller, errors.Is(context.Cause(callCtx), ErrLate))
	p.failed(inst, err, time.Since(begin), o.strict)
	return err
}

// callerError prefers the caller's own reason for giving up.
func (p *Plugin) callerError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", p.cfg.Name, context.Cause(ctx))
	}
	return err
}

func (p *Plugin) succeeded(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count.calls++
	p.latency.add(d)
	if p.breaker.succeeded(time.Now()) {
		p.lastErr = nil
		p.log.logger.Info("plugin trusted again")
	}
}

// failed counts a failure and opens the breaker when there have been too many. What the caller broke off is not one.
func (p *Plugin) failed(inst *instance, err error, d time.Duration, strict bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count.calls++
	late, gone := errors.Is(err, ErrLate), errors.Is(err, ErrUnavailable)
	answered := errors.Is(err, ErrInvalid) || errors.Is(err, ErrRefused)
	if !late && !gone && !answered {
		return
	}
	p.count.failures++
	p.latency.add(d)
	current := p.inst == inst
	// Of a run that has been given up already nothing counts any more.
	counts := current && (late || strict)
	if gone {
		// The connection broke: the process is ending, or of no use without it. However many calls that took with it, it
		// is one failure, and none when the end was our own doing.
		counts = inst.cause == nil && !inst.broke
		inst.broke = true
		p.dropLocked(inst)
	}
	if !counts {
		if current && answered {
			p.breaker.succeeded(time.Now())
		}
		return
	}
	if current {
		// Otherwise the supervisor has noted how the process ended, which says more.
		p.lastErr = err
	}
	if p.breaker.failed(time.Now()) {
		p.log.logger.Error("plugin left alone after repeated failures", "error", err, "open_for", p.breaker.length)
		if !gone {
			// A hung process does not mend itself; after the pause a fresh one is tried.
			p.endLocked(inst, errBreaker)
		}
	}
}

// running answers the instance to call.
func (p *Plugin) running(ctx context.Context, wait bool) (*instance, error) {
	if wait {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, p.cfg.StartTimeout, ErrLate)
		defer cancel()
	}
	return p.acquire(ctx, wait)
}

// acquire answers the running instance. With wait it waits for one that is about to be there.
func (p *Plugin) acquire(ctx context.Context, wait bool) (*instance, error) {
	for {
		p.mu.Lock()
		inst, changed, err := p.inst, p.changed, p.unavailableLocked(wait)
		if !p.wanted && err == nil {
			p.wanted = true
			p.poke()
		}
		p.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case inst != nil:
			select {
			case <-inst.proc.dead:
				// The supervisor has not seen it yet.
				if !wait {
					return nil, p.fault(ErrUnavailable, "process ended")
				}
			default:
				return inst, nil
			}
		case !wait:
			return nil, p.fault(ErrUnavailable, string(StateStarting))
		}
		select {
		case <-changed:
		case <-p.done:
			return nil, p.fault(ErrClosed, "")
		case <-ctx.Done():
			return nil, p.notInTime(ctx)
		}
	}
}

// notInTime says why a wait for the start ended.
func (p *Plugin) notInTime(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	detail := "not started in time"
	if p.lastErr != nil {
		detail += ": " + p.lastErr.Error()
	}
	if cause := context.Cause(ctx); !errors.Is(cause, ErrLate) {
		return fmt.Errorf("%s: %s: %w", p.cfg.Name, detail, cause)
	}
	return p.fault(ErrUnavailable, detail)
}

// unavailableLocked says why waiting would be in vain.
func (p *Plugin) unavailableLocked(wait bool) error {
	reason := ""
	if p.lastErr != nil {
		reason = p.lastErr.Error()
	}
	now := time.Now()
	switch {
	case p.closed:
		return p.fault(ErrClosed, "")
	case p.disabled != nil:
		return p.fault(ErrDisabled, p.disabled.Error())
	case p.breaker.open(now):
		return p.fault(ErrUnavailable, fmt.Sprintf("%v, the last being: %s", errBreaker, reason))
	case p.inst == nil && p.state == StateFailed && !wait:
		return p.fault(ErrUnavailable, reason)
	}
	return nil
}

func (p *Plugin) fault(kind error, detail string) error {
	return &fault{plugin: p.cfg.Name, kind: kind, detail: detail}
}

// probation says how many more good answers the plugin owes before they count.
func (p *Plugin) probation() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.breaker.probation()
}
