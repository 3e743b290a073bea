package gres

import (
	"strconv"
	"strings"
)

// MaxSizeMiB bounds a memory size: 1 EiB.
const MaxSizeMiB = 1 << 40

const sizeRemedy = "use a number with K, M, G or T, for example 20G, 512M or 1.5T"

// maxFraction is how many digits a size may have after its point.
const maxFraction = 6

// ParseSize reads an amount of memory and returns MiB, rounded up to a whole one. A bare number is MiB, as Slurm's --mem
// has it. The units K, M, G, T and P (with or without "B" or "iB", in any case) are powers of 1024; a fraction may have
// up to six digits. "0" is zero: the caller says what that means. Negative sizes and sizes above MaxSizeMiB are refused.
func ParseSize(s string) (int64, error) {
	refuse := func(problem string) (int64, error) {
		return 0, &Error{"size", s, problem, sizeRemedy}
	}
	t := strings.ToLower(strings.TrimSpace(s))
	if t == "" {
		return refuse("is empty")
	}
	if t[0] == '-' {
		return refuse("is negative")
	}
	end := 0
	for end < len(t) && (t[end] >= '0' && t[end] <= '9' || t[end] == '.') {
		end++
	}
	num, unit := t[:end], strings.TrimSpace(t[end:])
	whole, frac, point := strings.Cut(num, ".")
	if !digits(whole) || point && !digits(frac) {
		return refuse("is not a number")
	}
	shift, ok := sizeShift(unit)
	if !ok {
		return refuse("unknown unit " + Quote(unit))
	}
	if len(frac) > maxFraction {
		return refuse("has more than six digits after the point")
	}
	// Counted in KiB. The fraction is below one unit, at most 2^40 KiB, and 10^6 * 2^40 fits into 63 bits.
	const maxKiB = MaxSizeMiB << 10
	n := number(whole, maxKiB>>shift)
	if n > maxKiB>>shift {
		return refuse("is larger than 1 EiB")
	}
	kib := n << shift
	if frac != "" {
		scale := int64(1)
		for range frac {
			scale *= 10
		}
		part := number(frac, scale) << shift
		kib += (part + scale - 1) / scale
	}
	if kib > maxKiB {
		return refuse("is larger than 1 EiB")
	}
	return (kib + 1023) >> 10, nil
}

// sizeShift answers how many bits a unit is above one KiB.
func sizeShift(unit string) (int, bool) {
	switch unit {
	case "k", "kb", "kib":
		return 0, true
	case "", "m", "mb", "mib":
		return 10, true
	case "g", "gb", "gib":
		return 20, true
	case "t", "tb", "tib":
		return 30, true
	case "p", "pb", "pib":
		return 40, true
	}
	return 0, false
}

// FormatSize prints MiB with the largest unit that keeps it whole, such as "20G", "1536M" or "0". ParseSize reads it
// back. A negative size prints as "0".
func FormatSize(mib int64) string {
	if mib <= 0 {
		return "0"
	}
	units := "MGTP"
	i := 0
	for i < len(units)-1 && mib%1024 == 0 {
		mib /= 1024
		i++
	}
	return strconv.FormatInt(mib, 10) + units[i:i+1]
}
