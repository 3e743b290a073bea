package gres

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"90":          90 * time.Minute,
		"90:30":       90*time.Minute + 30*time.Second,
		"1:30:00":     90 * time.Minute,
		"01:30:05":    90*time.Minute + 5*time.Second,
		"2-12":        60 * time.Hour,
		"2-12:30":     60*time.Hour + 30*time.Minute,
		"2-12:30:15":  60*time.Hour + 30*time.Minute + 15*time.Second,
		"0:90:00":     90 * time.Minute,
		"0-48:00:00":  48 * time.Hour,
		"UNLIMITED":   Unlimited,
		"infinite":    Unlimited,
		"90m":         90 * time.Minute,
		"1h30m":       90 * time.Minute,
		"1h 30m":      90 * time.Minute,
		"2d":          48 * time.Hour,
		"1w2d3h4m5s":  9*24*time.Hour + 3*time.Hour + 4*time.Minute + 5*time.Second,
		"1.5h":        90 * time.Minute,
		"0.5d":        12 * time.Hour,
		"1.50m":       90 * time.Second,
		"90min":       90 * time.Minute,
		"2hours":      2 * time.Hour,
		"2 Hours":     2 * time.Hour,
		"0":           0,
		"0s":          0,
		"36500-00":    MaxDuration,
		" 5 ":         5 * time.Minute,
		"0000000010":  10 * time.Minute,
		"1.000h":      time.Hour,
		"2.0":         2 * time.Minute,
		"30.5":        30*time.Minute + 30*time.Second,
		"00:00:00":    0,
		"100:00:00":   100 * time.Hour,
		"1day":        24 * time.Hour,
		"3weeks":      21 * 24 * time.Hour,
		"45secs":      45 * time.Second,
		"52560000":    MaxDuration,
		"36500d":      MaxDuration,
		"0-0:0:0":     0,
		"1-0:0:1":     24*time.Hour + time.Second,
		"1hr5mins":    65 * time.Minute,
		"876000h0.0s": MaxDuration,
	} {
		if got, err := ParseDuration(in); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	const remedy = "; use minutes, HH:MM:SS, D-HH:MM:SS or 90m"
	refusals(t, ParseTimeLimit, [][2]string{
		{"", `time limit "": is empty` + remedy},
		{"0", `time limit "0": is zero; use UNLIMITED for the longest possible, or minutes, HH:MM:SS, D-HH:MM:SS or 90m`},
		{"00:00:00", `time limit "00:00:00": is zero; use UNLIMITED for the longest possible, or minutes, HH:MM:SS, D-HH:MM:SS or 90m`},
		{"-1", `time limit "-1": is negative` + remedy},
		{"-1:00", `time limit "-1:00": is negative` + remedy},
		{"5x", `time limit "5x": unknown unit "x"` + remedy},
		{"5 fortnights", `time limit "5 fortnights": unknown unit "fortnights"` + remedy},
		{"1h30", `time limit "1h30": lacks a unit after "30"` + remedy},
		{"30m1h", `time limit "30m1h": has its units out of order` + remedy},
		{"1h1h", `time limit "1h1h": has its units out of order` + remedy},
		{"h", `time limit "h": is not a time` + remedy},
		{"soon", `time limit "soon": is not a time` + remedy},
		{"1:2:3:4", `time limit "1:2:3:4": has too many parts` + remedy},
		{"1-2:3:4:5", `time limit "1-2:3:4:5": has too many parts` + remedy},
		{"1-", `time limit "1-": is not a time` + remedy},
		{"1-2-3", `time limit "1-2-3": is not a time` + remedy},
		{":30", `time limit ":30": is not a time` + remedy},
		{"1:", `time limit "1:": is not a time` + remedy},
		{"1:xx", `time limit "1:xx": is not a time` + remedy},
		{"1:-5", `time limit "1:-5": is not a time` + remedy},
		{"1.5s", `time limit "1.5s": is not a whole number of seconds` + remedy},
		{"0.0000000001h", `time limit "0.0000000001h": is not a whole number of seconds` + remedy},
		{"1.h", `time limit "1.h": is not a time` + remedy},
		{"36501d", `time limit "36501d": is longer than 100 years` + remedy},
		{"36500-00:00:01", `time limit "36500-00:00:01": is longer than 100 years` + remedy},
		{"36500.5d", `time limit "36500.5d": is longer than 100 years` + remedy},
		{"99999999999999999999", `time limit "99999999999999999999": is longer than 100 years` + remedy},
		{"9223372036854775807:00:00", `time limit "9223372036854775807:00:00": is longer than 100 years` + remedy},
		{"1e3", `time limit "1e3": unknown unit "e"` + remedy},
		{"٣", `time limit "٣": is not a time` + remedy},
	})
}

func TestFormatDuration(t *testing.T) {
	t.Parallel()
	for in, want := range map[time.Duration]string{
		0:                           "00:00:00",
		-time.Hour:                  "00:00:00",
		90 * time.Second:            "00:01:30",
		1999 * time.Millisecond:     "00:00:01",
		24*time.Hour - time.Second:  "23:59:59",
		24 * time.Hour:              "1-00:00:00",
		123*time.Hour + time.Second: "5-03:00:01",
		Unlimited:                   "UNLIMITED",
	} {
		if got := FormatDuration(in); got != want {
			t.Errorf("FormatDuration(%d) = %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		want := time.Duration(rapid.Int64Range(0, int64(MaxDuration/time.Second)).Draw(t, "s")) * time.Second
		if got, err := ParseDuration(FormatDuration(want)); err != nil || got != want {
			t.Fatalf("%q read as %v, %v", FormatDuration(want), got, err)
		}
	})
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{"90", "1:30", "1:30:00", "2-12:30:15", "UNLIMITED", "1h30m", "1.5h", "5x", "-1", "99999999999999999999d", "1-2-3", "0.1s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDuration(s)
		if err != nil {
			oneLine(t, err)
			return
		}
		if d < 0 || d > MaxDuration && d != Unlimited || d%time.Second != 0 && d != Unlimited {
			t.Fatalf("%q read as %d", s, d)
		}
		if again, err := ParseDuration(FormatDuration(d)); err != nil || again != d {
			t.Fatalf("%q read as %v, printed as %q, read back as %v, %v", s, d, FormatDuration(d), again, err)
		}
	})
}
