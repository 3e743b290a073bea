// Package progress follows a trainer's own account of itself, trainer_log.jsonl, piece by piece as the file grows.
//
// The file has traps: it is appended to when a run resumes, so steps may stand in it twice; its remaining_time is wrong
// after a resume; its last line has no loss; and a loss that is not a number is written as no JSON reader takes it.
package progress

import (
	"bytes"
	"encoding/json"
	"math"
	"regexp"
	"strconv"
	"strings"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

const (
	// maxLine is the longest line that is looked at; the trainer's have about 200 bytes.
	maxLine = 16 << 10
	// window is how many lines the pace is taken from.
	window = 32
	// slack is how much longer than the attempt a line may say to have trained, in milliseconds.
	slack = 5000
)

// cursor is what is kept between calls.
type cursor struct {
	Attempt uint32 `json:"a"`
	// Partial is the start of a line whose end has not come yet; Skip says that it grew too long.
	Partial []byte `json:"p,omitempty"`
	Skip    bool   `json:"k,omitempty"`

	Step  int64    `json:"s"`
	Total int64    `json:"t"`
	Loss  *float64 `json:"l,omitempty"`
	LR    *float64 `json:"r,omitempty"`
	Epoch *float64 `json:"e,omitempty"`
	// Updated is when the newest line arrived, Unix milliseconds; 0 before the first.
	Updated int64 `json:"u"`
	// First is the step of the attempt's first line, -1 before it.
	First int64 `json:"f"`
	// Samples are the newest lines: the pace.
	Samples []sample `json:"w,omitempty"`
}

// sample is one line: its step, how long the trainer says it had trained (-1 unknown) and when the line was read, both in
// milliseconds.
type sample struct {
	Step    int64 `json:"s"`
	Elapsed int64 `json:"e"`
	At      int64 `json:"a"`
}

// Read takes the bytes that were added to the file since the last call, and that call's cursor, and answers how far the
// attempt is (nil before its first line) and the next cursor. now and start are Unix milliseconds; start, that of the
// attempt, sets lines of earlier attempts apart and may be 0.
func Read(data, last []byte, attempt uint32, now, start int64) (*fettlev1.Progress, []byte) {
	c := load(last, attempt)
	for len(data) > 0 {
		line, rest, ended := bytes.Cut(data, []byte("\n"))
		data = rest
		if !ended {
			c.keep(line)
			break
		}
		if !c.Skip && len(c.Partial)+len(line) <= maxLine {
			c.take(append(c.Partial, line...), now, start)
		}
		c.Partial, c.Skip = nil, false
	}
	next, err := json.Marshal(c)
	if err != nil {
		// Not reached: every number in it is finite.
		next = nil
	}
	return c.progress(attempt), next
}

func load(last []byte, attempt uint32) *cursor {
	c := &cursor{First: -1}
	if len(last) == 0 || json.Unmarshal(last, c) != nil || c.Attempt != attempt || len(c.Samples) > window || len(c.Partial) > maxLine {
		c = &cursor{First: -1}
	}
	c.Attempt = attempt
	return c
}

func (c *cursor) keep(part []byte) {
	if c.Skip || len(c.Partial)+len(part) > maxLine {
		c.Partial, c.Skip = nil, true
		return
	}
	c.Partial = append(c.Partial, part...)
}

// line is one record of the file.
type line struct {
	Step    *int64   `json:"current_steps"`
	Total   *int64   `json:"total_steps"`
	Loss    *float64 `json:"loss"`
	LR      *float64 `json:"lr"`
	Epoch   *float64 `json:"epoch"`
	Elapsed string   `json:"elapsed_time"`
}

// noNumber are the values that Python writes and JSON does not know.
var noNumber = regexp.MustCompile(`:\s*(NaN|-?Infinity)\b`)

var lossNoNumber = regexp.MustCompile(`"loss":\s*(NaN|-?Infinity)\b`)

func (c *cursor) take(text []byte, now, start int64) {
	var l line
	lost := false
	if json.Unmarshal(text, &l) != nil {
		lost = lossNoNumber.Match(text)
		l = line{}
		if json.Unmarshal(noNumber.ReplaceAll(text, []byte(": null")), &l) != nil {
			return
		}
	}
	if l.Step == nil || *l.Step < 0 || *l.Step > math.MaxInt64/4 {
		return
	}
	s := sample{Step: *l.Step, Elapsed: duration(l.Elapsed), At: now}
	if start > 0 && s.Elapsed >= 0 && s.Elapsed > now-start+slack {
		// Trained longer than this attempt has been there: left by an earlier one.
		return
	}
	if n := len(c.Samples); n > 0 {
		prev := c.Samples[n-1]
		if s.Step < prev.Step || (s.Elapsed >= 0 && prev.Elapsed >= 0 && s.Elapsed < prev.Elapsed) {
			// Another run began here; the steps before it were lost.
			*c = cursor{Attempt: c.Attempt, First: -1}
		}
	}
	if c.First < 0 {
		c.First = s.Step
	}
	c.Step, c.Updated = s.Step, now
	if l.Total != nil && *l.Total >= 0 && *l.Total <= math.MaxInt64/4 {
		c.Total = *l.Total
	}
	for _, v := range []struct{ from, to **float64 }{{&l.Loss, &c.Loss}, {&l.LR, &c.LR}, {&l.Epoch, &c.Epoch}} {
		if *v.from != nil {
			*v.to = *v.from
		}
	}
	if lost {
		c.Loss = nil
	}
	if len(c.Samples) == window {
		c.Samples = append(c.Samples[:0], c.Samples[1:]...)
	}
	c.Samples = append(c.Samples, s)
}

func (c *cursor) progress(attempt uint32) *fettlev1.Progress {
	if c.First < 0 {
		return nil
	}
	return &fettlev1.Progress{
		Step: c.Step, TotalSteps: c.Total, Loss: c.Loss, LearningRate: c.LR, Epoch: c.Epoch,
		RemainingS: c.remaining(), UpdatedMs: c.Updated, Attempt: attempt,
	}
}

// remaining answers the seconds to the end at the pace of the newest lines, -1 when two lines do not tell one yet.
func (c *cursor) remaining() int64 {
	if c.Total <= 0 {
		return -1
	}
	left := c.Total - c.Step
	if left <= 0 {
		return 0
	}
	first, last := c.Samples[0], c.Samples[len(c.Samples)-1]
	steps := last.Step - first.Step
	if steps <= 0 {
		return -1
	}
	took := last.At - first.At
	if first.Elapsed >= 0 && last.Elapsed-first.Elapsed >= 1000 {
		// The trainer's clock has whole seconds but no jitter of when the file was looked at.
		took = last.Elapsed - first.Elapsed
	}
	if took <= 0 {
		return -1
	}
	seconds := math.Ceil(float64(left) * float64(took) / float64(steps) / 1000)
	if seconds > 1<<40 {
		return -1
	}
	return int64(seconds)
}

var days = regexp.MustCompile(`^(\d{1,6}) days?, (.*)$`)

// duration reads what Python prints for a time span, "h:mm:ss" or "2 days, h:mm:ss", in milliseconds; -1 when it is none.
func duration(text string) int64 {
	var total int64
	if m := days.FindStringSubmatch(text); m != nil {
		n, _ := strconv.ParseInt(m[1], 10, 64)
		total, text = n*24*3600, m[2]
	}
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return -1
	}
	factor := []int64{3600, 60, 1}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 20)
		if err != nil {
			return -1
		}
		total += int64(n) * factor[i]
	}
	return total * 1000
}
