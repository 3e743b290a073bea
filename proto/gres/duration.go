package gres

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Bounds of durations.
const (
	// Unlimited is what UNLIMITED and INFINITE read as.
	Unlimited = time.Duration(math.MaxInt64)
	// MaxDuration is the longest duration that is read: 100 years of 365 days.
	MaxDuration = 100 * 365 * day
)

const (
	day  = 24 * time.Hour
	week = 7 * day
)

const durationRemedy = "use minutes, HH:MM:SS, D-HH:MM:SS or 90m"

// ParseDuration reads a length of time in any of these forms, to the second:
//
//	90            minutes, as in Slurm
//	90:30         minutes:seconds
//	1:30:00       hours:minutes:seconds
//	2-12          days-hours
//	2-12:30       days-hours:minutes
//	2-12:30:15    days-hours:minutes:seconds
//	90m, 1h30m, 2d, 1.5h, 45s, 1w, 90min, 2hours
//	UNLIMITED, INFINITE (in any case), answered as Unlimited
//
// As in Slurm, later parts may exceed their usual range ("0:90:00" is an hour and a half). With units, each unit may be
// used once, largest first. Zero is allowed. Negative durations, ones above MaxDuration and fractions of a second are
// refused. A site's longest job (30 days by default) is not checked here: that is the business of whoever knows it.
func ParseDuration(s string) (time.Duration, error) {
	return parseDuration("duration", s)
}

// ParseTimeLimit reads a job's time limit: ParseDuration, but zero is refused.
func ParseTimeLimit(s string) (time.Duration, error) {
	d, err := parseDuration("time limit", s)
	if err == nil && d == 0 {
		return 0, &Error{"time limit", s, "is zero", "use UNLIMITED for the longest possible, or " +
			strings.TrimPrefix(durationRemedy, "use ")}
	}
	return d, err
}

func parseDuration(what, s string) (time.Duration, error) {
	refuse := func(problem string) (time.Duration, error) {
		return 0, &Error{what, s, problem, durationRemedy}
	}
	t := strings.ToLower(strings.TrimSpace(s))
	switch {
	case t == "":
		return refuse("is empty")
	case t == "unlimited" || t == "infinite":
		return Unlimited, nil
	case t[0] == '-':
		return refuse("is negative")
	}
	var d time.Duration
	var problem string
	if strings.ContainsAny(t, ":-") {
		d, problem = clockDuration(t)
	} else {
		d, problem = unitDuration(t, time.Minute)
	}
	if problem != "" {
		return refuse(problem)
	}
	return d, nil
}

// clockDuration reads the forms with colons or a day count.
func clockDuration(t string) (time.Duration, string) {
	days, rest, hasDays := strings.Cut(t, "-")
	if !hasDays {
		days, rest = "0", t
	}
	parts := strings.Split(rest, ":")
	var units []time.Duration
	switch {
	case hasDays && len(parts) <= 3:
		units = []time.Duration{time.Hour, time.Minute, time.Second}
	case !hasDays && len(parts) == 2:
		units = []time.Duration{time.Minute, time.Second}
	case !hasDays && len(parts) == 3:
		units = []time.Duration{time.Hour, time.Minute, time.Second}
	default:
		return 0, "has too many parts"
	}
	total, ok := addUnits(0, days, day)
	for i, p := range parts {
		if !digits(p) || !digits(days) {
			return 0, "is not a time"
		}
		var fits bool
		total, fits = addUnits(total, p, units[i])
		ok = ok && fits
	}
	if !ok {
		return 0, "is longer than 100 years"
	}
	return total, ""
}

// addUnits adds num units to total; false when the sum is above MaxDuration.
func addUnits(total time.Duration, num string, unit time.Duration) (time.Duration, bool) {
	if !digits(num) {
		return total, true
	}
	n := number(num, int64(MaxDuration/unit))
	if n > int64(MaxDuration/unit) || total > MaxDuration-time.Duration(n)*unit {
		return total, false
	}
	return total + time.Duration(n)*unit, true
}

// unitDuration reads "90m", "1h30m", "1.5h"; a number without a unit counts bare units.
func unitDuration(t string, bare time.Duration) (time.Duration, string) {
	total, last := time.Duration(0), time.Duration(math.MaxInt64)
	for first := true; t != ""; first = false {
		i := 0
		for i < len(t) && (t[i] >= '0' && t[i] <= '9' || t[i] == '.') {
			i++
		}
		num := t[:i]
		j := i
		for j < len(t) && (t[j] < '0' || t[j] > '9') && t[j] != '.' {
			j++
		}
		name := strings.TrimSpace(t[i:j])
		t = t[j:]
		whole, frac, point := strings.Cut(num, ".")
		if !digits(whole) || point && !digits(frac) {
			return 0, "is not a time"
		}
		unit, ok := unitOf(name)
		switch {
		case name == "" && first && t == "":
			unit = bare
		case name == "":
			return 0, "lacks a unit after " + Quote(num)
		case !ok:
			return 0, "unknown unit " + Quote(name)
		}
		if unit >= last {
			return 0, "has its units out of order"
		}
		last = unit
		if total, ok = addUnits(total, whole, unit); !ok {
			return 0, "is longer than 100 years"
		}
		part, ok := fraction(frac, unit)
		if !ok {
			return 0, "is not a whole number of seconds"
		}
		if total > MaxDuration-part {
			return 0, "is longer than 100 years"
		}
		total += part
	}
	return total, ""
}

// fraction is 0.FRAC units; false when that is not a whole number of seconds.
func fraction(frac string, unit time.Duration) (time.Duration, bool) {
	frac = strings.TrimRight(frac, "0")
	if frac == "" {
		return 0, true
	}
	if len(frac) > 9 {
		return 0, false
	}
	scale := int64(1)
	for range frac {
		scale *= 10
	}
	n := number(frac, scale) * int64(unit/time.Second)
	return time.Duration(n/scale) * time.Second, n%scale == 0
}

func unitOf(name string) (time.Duration, bool) {
	switch name {
	case "s", "sec", "secs", "second", "seconds":
		return time.Second, true
	case "m", "min", "mins", "minute", "minutes":
		return time.Minute, true
	case "h", "hr", "hrs", "hour", "hours":
		return time.Hour, true
	case "d", "day", "days":
		return day, true
	case "w", "week", "weeks":
		return week, true
	}
	return 0, false
}

// FormatDuration prints "HH:MM:SS", or "D-HH:MM:SS" from one day on, and "UNLIMITED" for Unlimited. Fractions of a
// second are cut; a negative duration prints as zero. ParseDuration reads it back.
func FormatDuration(d time.Duration) string {
	if d == Unlimited {
		return "UNLIMITED"
	}
	d = max(d, 0)
	days := int64(d / day)
	d %= day
	s := fmt.Sprintf("%02d:%02d:%02d", d/time.Hour, d%time.Hour/time.Minute, d%time.Minute/time.Second)
	if days > 0 {
		s = strconv.FormatInt(days, 10) + "-" + s
	}
	return s
}
