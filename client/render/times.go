package render

import (
	"strconv"
	"time"
)

// AppendSpan appends a number of seconds as Slurm prints it: M:SS, H:MM:SS or D-HH:MM:SS. Negative spans print as 0:00.
func AppendSpan(dst []byte, seconds int64) []byte {
	seconds = max(seconds, 0)
	d, h, m, s := seconds/86400, seconds/3600%24, seconds/60%60, seconds%60
	switch {
	case d > 0:
		dst = strconv.AppendInt(dst, d, 10)
		dst = append(dst, '-', byte('0'+h/10), byte('0'+h%10), ':', byte('0'+m/10), byte('0'+m%10))
	case h > 0:
		dst = strconv.AppendInt(dst, h, 10)
		dst = append(dst, ':', byte('0'+m/10), byte('0'+m%10))
	default:
		dst = strconv.AppendInt(dst, m, 10)
	}
	return append(dst, ':', byte('0'+s/10), byte('0'+s%10))
}

// Span is AppendSpan as a string.
func Span(seconds int64) string { return string(AppendSpan(nil, seconds)) }

// Time prints Unix milliseconds as local time, 2006-01-02T15:04:05; "-" for 0.
func Time(ms int64) string {
	if ms == 0 {
		return "-"
	}
	return time.UnixMilli(ms).Format("2006-01-02T15:04:05")
}

// Ago prints how long before now something happened, in its largest unit: "3 s", "12 min", "5 h", "9 d".
func Ago(d time.Duration) string {
	switch {
	case d < 0:
		return "0 s"
	case d < 2*time.Minute:
		return strconv.Itoa(int(d.Seconds())) + " s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + " min"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + " h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + " d"
}

// Count prints n with commas between groups of three digits.
func Count(n uint64) string {
	s := strconv.FormatUint(n, 10)
	if len(s) <= 3 {
		return s
	}
	b := make([]byte, 0, len(s)+len(s)/3)
	for i := range len(s) {
		if i > 0 && (len(s)-i)%3 == 0 {
			b = append(b, ',')
		}
		b = append(b, s[i])
	}
	return string(b)
}

// Plural prints a number with its noun: "1 job", "2 jobs", "1,200 jobs".
func Plural(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return Count(n) + " " + noun + "s"
}

// Size prints MiB for people, with at most one digit after the point: "512M", "1.5G", "80G", "2T".
func Size(mib int64) string {
	if mib <= 0 {
		return "0"
	}
	v, unit := float64(mib), 0
	for v >= 1024 && unit < 3 {
		v /= 1024
		unit++
	}
	prec := 1
	if v >= 100 || v == float64(int64(v)) {
		prec = 0
	}
	s := strconv.FormatFloat(v, 'f', prec, 64)
	if len(s) > 2 && s[len(s)-2:] == ".0" {
		s = s[:len(s)-2]
	}
	return s + "MGTP"[unit:unit+1]
}
