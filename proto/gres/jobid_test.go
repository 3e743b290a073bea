package gres

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestParseJobIDs(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]uint64{
		"12":                  {12},
		"12,15-18":            {12, 15, 16, 17, 18},
		" 3 , 1-2 ":           {3, 1, 2},
		"5,4-6,5":             {5, 4, 6},
		"007":                 {7},
		"9223372036854775806": {math.MaxInt64 - 1},
	} {
		if got, err := ParseJobIDs(in); err != nil || !slices.Equal(got, want) {
			t.Errorf("ParseJobIDs(%q) = %v, %v", in, got, err)
		}
	}
	if got, err := ParseJobIDs("1-100000"); err != nil || len(got) != MaxJobIDs {
		t.Errorf("a full list: %d, %v", len(got), err)
	}
	const remedy = "; use job numbers such as 12,15-20"
	refusals(t, ParseJobIDs, [][2]string{
		{"", `job list "": has an empty item` + remedy},
		{"1,,2", `job list "1,,2": has an empty item` + remedy},
		{"0", `job list "0": job numbers start at 1` + remedy},
		{"-5", `job list "-5": the range "-5" lacks a number` + remedy},
		{"5-", `job list "5-": the range "5-" lacks a number` + remedy},
		{"1-2-3", `job list "1-2-3": "1-2-3" is not a job number` + remedy},
		{"20-15", `job list "20-15": the range "20-15" runs backwards` + remedy},
		{"abc", `job list "abc": "abc" is not a job number` + remedy},
		{"12_3", `job list "12_3": "12_3" is an array element where a whole job is wanted` + remedy},
		{"12.3", `job list "12.3": "12.3" names an attempt where a job is wanted` + remedy},
		{"1-100001", `job list "1-100001": names more than 100000 jobs` + remedy},
		{"1-60000,1-60000", `job list "1-60000,1-60000": names more than 100000 jobs` + remedy},
		{"1-9223372036854775806", `job list "1-9223372036854775806": names more than 100000 jobs` + remedy},
		{"9223372036854775807", `job list "9223372036854775807": "9223372036854775807" is too large` + remedy},
		{"18446744073709551616", `job list "18446744073709551616": "18446744073709551616" is too large` + remedy},
	})
}

func TestParseJobAttempt(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]JobAttempt{"123": {123, 0}, "123.2": {123, 2}, " 1.4294967295 ": {1, math.MaxUint32}} {
		got, err := ParseJobAttempt(in)
		if err != nil || got != want {
			t.Errorf("ParseJobAttempt(%q) = %v, %v", in, got, err)
		}
		if again, err := ParseJobAttempt(got.String()); err != nil || again != got {
			t.Errorf("%v printed as %q, read as %v, %v", got, got.String(), again, err)
		}
	}
	const remedy = "; use a job number such as 123, or 123.2 for its second attempt"
	refusals(t, ParseJobAttempt, [][2]string{
		{"", `job "": is empty` + remedy},
		{"123.", `job "123.": the attempt "" is not a number` + remedy},
		{"123.0", `job "123.0": attempts start at 1` + remedy},
		{"123.x", `job "123.x": the attempt "x" is not a number` + remedy},
		{"123.4294967296", `job "123.4294967296": the attempt is too large` + remedy},
		{".2", `job ".2": lacks the job number` + remedy},
		{"1,2", `job "1,2": "1,2" is not a job number` + remedy},
	})
}

func TestFormatJobIDs(t *testing.T) {
	t.Parallel()
	for want, in := range map[string][]uint64{"": nil, "12,15-20": {20, 15, 16, 17, 18, 19, 12, 12}, "1,2": {2, 1}, "1-3": {1, 2, 3}, "5": {5}} {
		if got := FormatJobIDs(in); got != want {
			t.Errorf("FormatJobIDs(%v) = %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(rapid.Uint64Range(1, 60), 1, 80).Draw(t, "ids")
		got, err := ParseJobIDs(FormatJobIDs(ids))
		slices.Sort(ids)
		if err != nil || !slices.Equal(got, slices.Compact(ids)) {
			t.Fatalf("%v printed as %q, read as %v, %v", ids, FormatJobIDs(ids), got, err)
		}
	})
}

func FuzzJobIDs(f *testing.F) {
	for _, s := range []string{"12,15-20", "1", "1-100000", "9223372036854775806", "123.2", "12_3", "0", "1-,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if ids, err := ParseJobIDs(s); err != nil {
			oneLine(t, err)
		} else {
			if len(ids) == 0 || len(ids) > MaxJobIDs || slices.Contains(ids, 0) {
				t.Fatalf("%q read as %d ids", s, len(ids))
			}
			sorted := slices.Clone(ids)
			slices.Sort(sorted)
			if again, err := ParseJobIDs(FormatJobIDs(ids)); err != nil || !slices.Equal(again, sorted) {
				t.Fatalf("%q does not survive printing: %v", s, err)
			}
		}
		if j, err := ParseJobAttempt(s); err != nil {
			oneLine(t, err)
		} else if again, err := ParseJobAttempt(j.String()); err != nil || again != j || j.Job == 0 {
			t.Fatalf("%q read as %v, then as %v, %v", s, j, again, err)
		}
	})
}
