package gres

import (
	"strings"
	"time"
)

// MaxBegin is how far ahead of now a begin time may lie.
const MaxBegin = 366 * day

const (
	beginRemedy = "use now+2h, 16:00, tomorrow, 2006-01-31 or 2006-01-31T16:00"
	timeLayout  = "2006-01-02T15:04:05"
)

// ParseBegin reads the time before which a job may not start, to the second, in any of these forms:
//
//	now
//	now+90, now+90s, now+30minutes, now+2h, now+1h30m    a bare number counts seconds
//	16:00, 16:00:30, 4:00pm                               the next time the clock shows it
//	midnight, noon                                        the next one
//	today, tomorrow, tomorrow 09:00
//	2006-01-31, 2006-01-31T16:00, 2006-01-31 16:00:30     a date alone means its midnight
//	01/31, 01/31/06, 01/31/2006, with a time as above     without a year: the next such day
//
// Clock times are those of loc (UTC when nil). A clock time that a change to summer time skips is moved as time.Date
// moves it. The result is never before now: a date of today without a time means now, and a time in the past is refused,
// as is one more than MaxBegin ahead.
func ParseBegin(s string, now time.Time, loc *time.Location) (time.Time, error) {
	if loc == nil {
		loc = time.UTC
	}
	b := begin{now: now.In(loc).Truncate(time.Second), loc: loc}
	at, problem := b.parse(strings.ToLower(strings.TrimSpace(s)))
	switch {
	case problem != "":
	case at.Before(b.now):
		problem = "is in the past"
	case at.After(b.now.Add(MaxBegin)):
		problem = "is more than a year ahead"
	default:
		return at, nil
	}
	return time.Time{}, &Error{"begin time", s, problem, beginRemedy}
}

// FormatTime prints t in loc (UTC when nil) as 2006-01-02T15:04:05, which ParseBegin reads.
func FormatTime(t time.Time, loc *time.Location) string {
	if loc == nil {
		loc = time.UTC
	}
	return t.In(loc).Format(timeLayout)
}

type begin struct {
	now time.Time // in loc, whole seconds
	loc *time.Location
}

// clock is a time of day.
type clock struct{ h, m, s int }

// date is a day; year 0 means the next one with that month and day.
type date struct{ year, month, day int }

func (b begin) parse(t string) (time.Time, string) {
	if t == "" {
		return time.Time{}, "is empty"
	}
	if rest, ok := strings.CutPrefix(t, "now"); ok {
		return b.offset(strings.TrimSpace(rest))
	}
	word, rest := t, ""
	if i := strings.IndexByte(t, ' '); i >= 0 {
		word, rest = t[:i], strings.TrimSpace(t[i+1:])
	} else if i := strings.IndexByte(t, 't'); i > 0 && t[0] >= '0' && t[0] <= '9' {
		word, rest = t[:i], t[i+1:]
		if rest == "" {
			return time.Time{}, "lacks a time after T"
		}
	}
	d, isDate, problem := b.date(word)
	if problem != "" {
		return time.Time{}, problem
	}
	if !isDate {
		c, ok, problem := parseClock(t)
		switch {
		case problem != "":
			return time.Time{}, problem
		case !ok:
			return time.Time{}, "is not a time"
		}
		at := b.at(date{b.now.Year(), int(b.now.Month()), b.now.Day()}, c)
		if at.Before(b.now) {
			at = b.at(date{b.now.Year(), int(b.now.Month()), b.now.Day() + 1}, c)
		}
		return at, ""
	}
	var c clock
	hasClock := rest != ""
	if hasClock {
		var ok bool
		if c, ok, problem = parseClock(rest); problem != "" {
			return time.Time{}, problem
		}
		if !ok {
			return time.Time{}, "has a bad time " + Quote(rest)
		}
	}
	return b.resolve(d, c, hasClock)
}

// offset reads what follows "now".
func (b begin) offset(rest string) (time.Time, string) {
	if rest == "" {
		return b.now, ""
	}
	num, ok := strings.CutPrefix(rest, "+")
	if !ok {
		if rest[0] == '-' {
			return time.Time{}, "is in the past"
		}
		return time.Time{}, "is not a time"
	}
	d, problem := unitDuration(strings.TrimSpace(num), time.Second)
	if problem != "" {
		return time.Time{}, problem
	}
	if num == "" {
		return time.Time{}, "lacks a time after now+"
	}
	return b.now.Add(min(d, 2*MaxBegin)), ""
}

// resolve fills in the year and the time of day.
func (b begin) resolve(d date, c clock, hasClock bool) (time.Time, string) {
	today := date{b.now.Year(), int(b.now.Month()), b.now.Day()}
	early := func(d date) bool {
		if !hasClock && d == today {
			return false
		}
		return b.at(d, c).Before(b.now)
	}
	if d.year == 0 {
		d.year = b.now.Year()
		if d.exists() && early(d) || !d.exists() {
			d.year++
		}
	}
	if !d.exists() {
		return time.Time{}, "is not a day of the calendar"
	}
	if !hasClock && d == today {
		return b.now, ""
	}
	return b.at(d, c), ""
}

func (b begin) at(d date, c clock) time.Time {
	return time.Date(d.year, time.Month(d.month), d.day, c.h, c.m, c.s, 0, b.loc)
}

// exists reports whether the calendar has d.
func (d date) exists() bool {
	if d.month < 1 || d.month > 12 || d.day < 1 {
		return false
	}
	return time.Date(d.year, time.Month(d.month), d.day, 0, 0, 0, 0, time.UTC).Day() == d.day
}

// date reads a day; false when word has no such form.
func (b begin) date(word string) (d date, ok bool, problem string) {
	switch word {
	case "today":
		return date{b.now.Year(), int(b.now.Month()), b.now.Day()}, true, ""
	case "tomorrow":
		// Noon is never lost to a change of the clocks.
		t := b.at(date{b.now.Year(), int(b.now.Month()), b.now.Day() + 1}, clock{h: 12})
		return date{t.Year(), int(t.Month()), t.Day()}, true, ""
	}
	parts := strings.Split(word, "-")
	order := [3]int{0, 1, 2} // year, month, day
	if len(parts) != 3 {
		parts = strings.Split(word, "/")
		order = [3]int{2, 0, 1}
		if len(parts) != 2 && len(parts) != 3 {
			return date{}, false, ""
		}
	}
	for _, p := range parts {
		if !digits(p) || len(p) > 4 {
			return date{}, false, "is not a date"
		}
	}
	get := func(i int) int { return int(number(parts[i], 9999)) }
	d.month, d.day = get(order[1]), get(order[2])
	if order[0] < len(parts) {
		d.year = get(order[0])
		switch len(parts[order[0]]) {
		case 2:
			d.year += 2000
		case 4:
		default:
			return date{}, false, "has a bad year " + Quote(parts[order[0]])
		}
		if d.year == 0 { // which means "none given" below
			return date{}, false, "is in the past"
		}
	}
	return d, true, ""
}

// parseClock reads a time of day; false when t has no such form.
func parseClock(t string) (c clock, ok bool, problem string) {
	switch t {
	case "midnight":
		return clock{}, true, ""
	case "noon":
		return clock{h: 12}, true, ""
	}
	num, pm, half := t, false, false
	for _, suffix := range []string{"am", "pm"} {
		if rest, has := strings.CutSuffix(t, suffix); has {
			num, half, pm = strings.TrimSpace(rest), true, suffix == "pm"
		}
	}
	parts := strings.Split(num, ":")
	if len(parts) != 2 && len(parts) != 3 {
		return clock{}, false, ""
	}
	var v [3]int
	for i, p := range parts {
		if !digits(p) || len(p) > 2 {
			return clock{}, false, ""
		}
		v[i] = int(number(p, 99))
	}
	c = clock{v[0], v[1], v[2]}
	if half {
		if c.h < 1 || c.h > 12 {
			return clock{}, false, "has an hour outside 1 to 12"
		}
		c.h %= 12
		if pm {
			c.h += 12
		}
	}
	switch {
	case c.h > 23:
		return clock{}, false, "has an hour above 23"
	case c.m > 59:
		return clock{}, false, "has a minute above 59"
	case c.s > 59:
		return clock{}, false, "has a second above 59"
	}
	return c, true, ""
}
