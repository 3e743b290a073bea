package gres

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Skipf("no time zone data: %v", err)
	}
	return loc
}

func TestParseBegin(t *testing.T) {
	t.Parallel()
	// A Monday.
	now := time.Date(2026, 11, 23, 14, 30, 20, 700, time.UTC)
	for in, want := range map[string]string{
		"now":                  "2026-11-23T14:30:20",
		"now+90":               "2026-11-23T14:31:50",
		"now + 90s":            "2026-11-23T14:31:50",
		"now+1hour":            "2026-11-23T15:30:20",
		"now+30minutes":        "2026-11-23T15:00:20",
		"NOW+2h":               "2026-11-23T16:30:20",
		"now+1h30m":            "2026-11-23T16:00:20",
		"now+1week":            "2026-11-30T14:30:20",
		"16:00":                "2026-11-23T16:00:00",
		"14:30:20":             "2026-11-23T14:30:20",
		"14:30:19":             "2026-11-24T14:30:19",
		"9:05":                 "2026-11-24T09:05:00",
		"4:00pm":               "2026-11-23T16:00:00",
		"4:00 PM":              "2026-11-23T16:00:00",
		"12:15am":              "2026-11-24T00:15:00",
		"12:15pm":              "2026-11-24T12:15:00",
		"midnight":             "2026-11-24T00:00:00",
		"noon":                 "2026-11-24T12:00:00",
		"today":                "2026-11-23T14:30:20",
		"today 18:00":          "2026-11-23T18:00:00",
		"tomorrow":             "2026-11-24T00:00:00",
		"tomorrow 09:00":       "2026-11-24T09:00:00",
		"tomorrow noon":        "2026-11-24T12:00:00",
		"2026-11-23":           "2026-11-23T14:30:20",
		"2026-12-01":           "2026-12-01T00:00:00",
		"2026-12-01T08:15":     "2026-12-01T08:15:00",
		"2026-12-01 08:15:30":  "2026-12-01T08:15:30",
		"2027-11-24":           "2027-11-24T00:00:00",
		"12/01":                "2026-12-01T00:00:00",
		"12/01 08:00":          "2026-12-01T08:00:00",
		"12/01T08:00":          "2026-12-01T08:00:00",
		"11/23":                "2026-11-23T14:30:20",
		"11/22":                "2027-11-22T00:00:00",
		"11/23 14:00":          "2027-11-23T14:00:00",
		"1/5/27":               "2027-01-05T00:00:00",
		"01/05/2027":           "2027-01-05T00:00:00",
		" 2026-12-01T23:59:59": "2026-12-01T23:59:59",
	} {
		got, err := ParseBegin(in, now, nil)
		if err != nil || FormatTime(got, nil) != want {
			t.Errorf("ParseBegin(%q) = %v, %v, want %s", in, got, err, want)
		}
	}
	const remedy = "; use now+2h, 16:00, tomorrow, 2006-01-31 or 2006-01-31T16:00"
	refusals(t, func(s string) (time.Time, error) { return ParseBegin(s, now, time.UTC) }, [][2]string{
		{"", `begin time "": is empty` + remedy},
		{"soon", `begin time "soon": is not a time` + remedy},
		{"now-1h", `begin time "now-1h": is in the past` + remedy},
		{"now+", `begin time "now+": lacks a time after now+` + remedy},
		{"now+1parsec", `begin time "now+1parsec": unknown unit "parsec"` + remedy},
		{"now+-5", `begin time "now+-5": is not a time` + remedy},
		{"nowish", `begin time "nowish": is not a time` + remedy},
		{"now+367d", `begin time "now+367d": is more than a year ahead` + remedy},
		{"now+99999999999999999999", `begin time "now+99999999999999999999": is longer than 100 years` + remedy},
		{"9999-01-01", `begin time "9999-01-01": is more than a year ahead` + remedy},
		{"2020-01-01", `begin time "2020-01-01": is in the past` + remedy},
		{"0000-01-01", `begin time "0000-01-01": is in the past` + remedy},
		{"2026-11-23T14:30:19", `begin time "2026-11-23T14:30:19": is in the past` + remedy},
		{"today 10:00", `begin time "today 10:00": is in the past` + remedy},
		{"2027-02-29", `begin time "2027-02-29": is not a day of the calendar` + remedy},
		{"02/29", `begin time "02/29": is not a day of the calendar` + remedy},
		{"2026-13-01", `begin time "2026-13-01": is not a day of the calendar` + remedy},
		{"31/12", `begin time "31/12": is not a day of the calendar` + remedy},
		{"2026-12-00", `begin time "2026-12-00": is not a day of the calendar` + remedy},
		{"2026-12-01T", `begin time "2026-12-01T": lacks a time after T` + remedy},
		{"2026-12-01T25:00", `begin time "2026-12-01T25:00": has an hour above 23` + remedy},
		{"2026-12-01T08:00Z", `begin time "2026-12-01T08:00Z": has a bad time "08:00z"` + remedy},
		{"24:00", `begin time "24:00": has an hour above 23` + remedy},
		{"12:60", `begin time "12:60": has a minute above 59` + remedy},
		{"12:00:60", `begin time "12:00:60": has a second above 59` + remedy},
		{"13:00pm", `begin time "13:00pm": has an hour outside 1 to 12` + remedy},
		{"16", `begin time "16": is not a time` + remedy},
		{"1/2/345", `begin time "1/2/345": has a bad year "345"` + remedy},
		{"12345-1-1", `begin time "12345-1-1": is not a date` + remedy},
		{"a/b", `begin time "a/b": is not a date` + remedy},
		{"\x1b[0m", `begin time "\x1b[0m": is not a time` + remedy},
	})
}

func TestParseBeginInAZone(t *testing.T) {
	t.Parallel()
	berlin := zone(t, "Europe/Berlin")
	// 23:30 in London is already the next day in Berlin.
	now := time.Date(2026, 11, 23, 23, 30, 0, 0, time.UTC)
	for in, want := range map[string]time.Time{
		"00:15":    time.Date(2026, 11, 24, 23, 15, 0, 0, time.UTC),
		"01:00":    time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC),
		"tomorrow": time.Date(2026, 11, 24, 23, 0, 0, 0, time.UTC),
		"12/01":    time.Date(2026, 11, 30, 23, 0, 0, 0, time.UTC),
	} {
		if got, err := ParseBegin(in, now, berlin); err != nil || !got.Equal(want) {
			t.Errorf("ParseBegin(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	// On 29 March 2026 the clock jumps from 02:00 to 03:00: 02:30 is moved, and still the same day.
	now = time.Date(2026, 3, 28, 12, 0, 0, 0, berlin)
	got, err := ParseBegin("tomorrow 02:30", now, berlin)
	if err != nil || got.Before(time.Date(2026, 3, 29, 1, 0, 0, 0, berlin)) || got.After(time.Date(2026, 3, 29, 4, 0, 0, 0, berlin)) {
		t.Errorf("a skipped clock time: %v, %v", got, err)
	}
}

func TestBeginProperties(t *testing.T) {
	t.Parallel()
	zones := []*time.Location{time.UTC, zone(t, "Europe/Berlin"), zone(t, "America/St_Johns"), zone(t, "Pacific/Auckland")}
	rapid.Check(t, func(t *rapid.T) {
		loc := rapid.SampledFrom(zones).Draw(t, "zone")
		now := time.Unix(rapid.Int64Range(1_700_000_000, 2_500_000_000).Draw(t, "now"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns"))
		sec := now.Truncate(time.Second)

		// What is printed reads back as the same clock time.
		want := sec.Add(time.Duration(rapid.Int64Range(1, int64(MaxBegin/time.Second)).Draw(t, "ahead")) * time.Second)
		text := FormatTime(want, loc)
		got, err := ParseBegin(text, now, loc)
		switch {
		case err == nil && FormatTime(got, loc) == text:
		case want.Sub(sec) < 2*time.Hour || MaxBegin-want.Sub(sec) < 2*time.Hour:
			// The hour that is shown twice in autumn may be taken for the other one.
		default:
			t.Fatalf("%s read as %v, %v", text, got, err)
		}

		// A clock time is the next one: not before now, and within a day and an hour.
		at := time.Date(2026, 1, 1, rapid.IntRange(0, 23).Draw(t, "h"), rapid.IntRange(0, 59).Draw(t, "m"), 0, 0, time.UTC)
		got, err = ParseBegin(at.Format("15:04"), now, loc)
		if err != nil || got.Before(sec) || got.After(sec.Add(26*time.Hour)) {
			t.Fatalf("%s at %v read as %v, %v", at.Format("15:04"), now.In(loc), got, err)
		}
	})
}

func FuzzBegin(f *testing.F) {
	for _, s := range []string{"now", "now+2h", "16:00", "4:00pm", "noon", "tomorrow 09:00", "2026-12-01T08:00", "12/01/26", "02/29", "9999-99-99", "now+99999999999d"} {
		f.Add(s, int64(1_795_000_000))
	}
	f.Fuzz(func(t *testing.T, s string, unix int64) {
		now := time.Unix(unix%4_000_000_000, 0)
		got, err := ParseBegin(s, now, time.UTC)
		if err != nil {
			oneLine(t, err)
			return
		}
		if got.Before(now) || got.After(now.Add(MaxBegin)) || got.Nanosecond() != 0 {
			t.Fatalf("%q at %v read as %v", s, now, got)
		}
		if again, err := ParseBegin(FormatTime(got, time.UTC), now, time.UTC); err != nil || !again.Equal(got) {
			t.Fatalf("%q read as %v, then as %v, %v", s, got, again, err)
		}
	})
}
