package gres

import (
	"testing"
	"time"
)

func TestXIDTable(t *testing.T) {
	t.Parallel()
	for class, numbers := range map[XIDClass][]uint32{
		XIDJob:     {8, 11, 13, 31, 32, 68, 69, 80, 94},
		XIDIgnore:  {38, 43, 44, 45, 63, 92, 121, 137},
		XIDRepeat:  {74, 144, 145, 149},
		XIDCard:    {46, 48, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158},
		XIDNode:    {79},
		XIDUnknown: {0, 1, 9999},
	} {
		for _, number := range numbers {
			if got := ClassifyXID(number); got != class {
				t.Errorf("Xid %d is of class %d, want %d", number, got, class)
			}
			if (XIDText(number) == "") != (class == XIDUnknown) {
				t.Errorf("Xid %d is called %q", number, XIDText(number))
			}
		}
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 9, 26, 12, 0, 0, 0, time.UTC)
	type at struct {
		after time.Duration
		xid   uint32
	}
	const link = "Xid 74 at 2026-09-26T12:30:00Z: NVLink error: again; check the links, reset the card, then restart fettle-noded"
	for name, c := range map[string]struct {
		seen []at
		want string
	}{
		"nothing":                {nil, ""},
		"a bad kernel":           {[]at{{0, 31}, {time.Second, 13}, {time.Minute, 43}}, ""},
		"contained memory error": {[]at{{0, 94}, {0, 63}}, ""},
		"unknown":                {[]at{{0, 4711}}, ""},
		"memory error":           {[]at{{0, 48}}, "Xid 48 at 2026-09-26T12:00:00Z: a memory error could not be corrected: reset the card, then restart fettle-noded"},
		"uncontained":            {[]at{{time.Hour, 95}}, "Xid 95 at 2026-09-26T13:00:00Z: a memory error was not contained: reset the card, then restart fettle-noded"},
		"off the bus":            {[]at{{0, 79}}, "Xid 79 at 2026-09-26T12:00:00Z: the GPU fell off the bus: restart the machine"},
		"the first one is shown": {[]at{{0, 79}, {time.Second, 119}, {time.Hour, 48}}, "Xid 79 at 2026-09-26T12:00:00Z: the GPU fell off the bus: restart the machine"},
		"one broken link":        {[]at{{0, 74}}, ""},
		"a link with 18 lanes":   {[]at{{0, 74}, {time.Second, 74}, {2 * time.Second, 145}, {time.Minute, 74}}, ""},
		"a link that fails on":   {[]at{{0, 145}, {30 * time.Minute, 74}}, link},
		"a link, hours later":    {[]at{{0, 74}, {61 * time.Minute, 74}, {61*time.Minute + burst, 74}}, ""},
		"a clock set back":       {[]at{{time.Hour, 74}, {0, 74}, {30 * time.Minute, 74}}, link},
	} {
		var v verdict
		for _, s := range c.seen {
			v.hear(s.xid, begin.Add(s.after))
		}
		if v.detail != c.want {
			t.Errorf("%s: %q, want %q", name, v.detail, c.want)
		}
	}
}
