package gres

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func TestParseSize(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int64{
		"1024": 1024, "20G": 20 << 10, "512M": 512, "1.5T": 3 << 19, "20GiB": 20 << 10, "20gb": 20 << 10, "20 G": 20 << 10,
		"0": 0, "0G": 0, "1K": 1, "1024K": 1, "1025K": 2, "0.5": 1, "1.5": 2, "1.000001G": 1025, "1048576T": MaxSizeMiB,
		"1024P": MaxSizeMiB, "0.1G": 103, "007M": 7,
	} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	const remedy = "; use a number with K, M, G or T, for example 20G, 512M or 1.5T"
	refusals(t, ParseSize, [][2]string{
		{"", `size "": is empty` + remedy},
		{"-1", `size "-1": is negative` + remedy},
		{"-20G", `size "-20G": is negative` + remedy},
		{"G", `size "G": is not a number` + remedy},
		{"1.G", `size "1.G": is not a number` + remedy},
		{".5G", `size ".5G": is not a number` + remedy},
		{"1.2.3G", `size "1.2.3G": is not a number` + remedy},
		{"20X", `size "20X": unknown unit "x"` + remedy},
		{"20Gb/s", `size "20Gb/s": unknown unit "gb/s"` + remedy},
		{"1e9", `size "1e9": unknown unit "e9"` + remedy},
		{"0x10", `size "0x10": unknown unit "x10"` + remedy},
		{"1.0000001G", `size "1.0000001G": has more than six digits after the point` + remedy},
		{"1000000000000000000T", `size "1000000000000000000T": is larger than 1 EiB` + remedy},
		{"1048577T", `size "1048577T": is larger than 1 EiB` + remedy},
		{"1048576.1T", `size "1048576.1T": is larger than 1 EiB` + remedy},
		{"99999999999999999999", `size "99999999999999999999": is larger than 1 EiB` + remedy},
	})
}

func TestFormatSize(t *testing.T) {
	t.Parallel()
	for in, want := range map[int64]string{0: "0", -5: "0", 1: "1M", 1536: "1536M", 20 << 10: "20G", 1 << 20: "1T", 1 << 30: "1P", 3 << 40: "3072P"} {
		if got := FormatSize(in); got != want {
			t.Errorf("FormatSize(%d) = %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.Int64Range(0, MaxSizeMiB).Draw(t, "mib")
		if got, err := ParseSize(FormatSize(want)); err != nil || got != want {
			t.Fatalf("%q read as %d, %v", FormatSize(want), got, err)
		}
	})
}

func TestSizeNeverRoundsDown(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		whole := rapid.Int64Range(0, 1<<20).Draw(t, "whole")
		frac := rapid.Int64Range(0, 999_999).Draw(t, "frac")
		got, err := ParseSize(fmt.Sprintf("%d.%06dG", whole, frac))
		micro := (whole*1_000_000 + frac) * 1024 // millionths of a MiB
		if err != nil || got*1_000_000 < micro || (got-1)*1_000_000 >= micro && got > 0 {
			t.Fatalf("%d.%06dG read as %d MiB, %v", whole, frac, got, err)
		}
	})
}

func FuzzSize(f *testing.F) {
	for _, s := range []string{"20G", "1.5T", "1024", "0", "-1", "1048576T", "20GiB", "0.000001K", "1e400"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err != nil {
			oneLine(t, err)
			return
		}
		if n < 0 || n > MaxSizeMiB {
			t.Fatalf("%q read as %d", s, n)
		}
		if again, err := ParseSize(FormatSize(n)); err != nil || again != n {
			t.Fatalf("%q read as %d, then as %d, %v", s, n, again, err)
		}
	})
}
