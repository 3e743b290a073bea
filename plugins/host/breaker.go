package host

import "time"

// breaker counts failures and says when a plugin may be called. It is not safe for concurrent use: Plugin's lock guards it.
type breaker struct {
	limits   BreakerLimits
	failures []time.Time
	// length of the last opening, 0 before the first.
	length time.Duration
	until  time.Time
	// probes is how many good answers the probation still needs.
	probes int
	closed time.Time
}

// failed notes a failure and says whether it opened the breaker.
func (b *breaker) failed(now time.Time) bool {
	if b.open(now) {
		return false
	}
	keep := b.failures[:0]
	for _, t := range b.failures {
		if now.Sub(t) < b.limits.Window {
			keep = append(keep, t)
		}
	}
	b.failures = append(keep, now)
	if b.probes == 0 && len(b.failures) < b.limits.Failures {
		return false
	}
	if b.probes == 0 && now.Sub(b.closed) >= b.limits.MaxOpen {
		// It has held long enough since the last time to start anew.
		b.length = 0
	}
	b.length = min(max(2*b.length, b.limits.Open), b.limits.MaxOpen)
	b.until = now.Add(b.length)
	b.probes = b.limits.Probes
	b.failures = b.failures[:0]
	return true
}

// succeeded notes a good answer and says whether it ended a probation.
func (b *breaker) succeeded(now time.Time) bool {
	if b.probes == 0 || b.open(now) {
		return false
	}
	b.probes--
	if b.probes > 0 {
		return false
	}
	b.closed = now
	return true
}

// open says whether the plugin is to be left alone.
func (b *breaker) open(now time.Time) bool { return now.Before(b.until) }

// probation says how many more good answers are needed before answers count.
func (b *breaker) probation() int { return b.probes }

func (b *breaker) reset() { *b = breaker{limits: b.limits} }

// restarts says when a plugin that ended may start again.
type restarts struct {
	limits RestartLimits
	times  []time.Time
}

// next notes an end and answers the pause before the restart; false when there have been too many.
func (r *restarts) next(now time.Time) (time.Duration, bool) {
	keep := r.times[:0]
	for _, t := range r.times {
		if now.Sub(t) < r.limits.Window {
			keep = append(keep, t)
		}
	}
	r.times = keep
	if len(r.times) >= r.limits.Count {
		return 0, false
	}
	r.times = append(r.times, now)
	pause := r.limits.MinBackoff
	for range len(r.times) - 1 {
		if pause *= 2; pause >= r.limits.MaxBackoff {
			return r.limits.MaxBackoff, true
		}
	}
	return min(pause, r.limits.MaxBackoff), true
}

func (r *restarts) reset() { r.times = nil }
