package policy

import (
	"fmt"
	"strings"
	"time"
)

// Term is one addend of a score.
type Term struct {
	Name string
	// MS is in milliseconds; negative is earlier.
	MS int64
	// Inputs is what it was computed from, for people.
	Inputs string
}

// Terms takes a score apart: their sum is ScoreJob(j). Terms whose weight is 0 are left out.
func (p Params) Terms(j Job) []Term {
	terms := []Term{
		{"eligible", eligibleTerm(&j), "since " + time.UnixMilli(eligibleTerm(&j)).UTC().Format(time.RFC3339)},
		{"priority", p.priorityTerm(&j), fmt.Sprintf("priority %d (default %d), %s a level", level(&j), defaultPriority, Duration(p.PriorityMS))},
	}
	if p.SizeMS != 0 {
		left, said := remaining(&j)
		terms = append(terms, Term{"size", p.sizeTerm(&j), fmt.Sprintf("%d GPUs x %d s left (%s), counted as %d GPU-seconds; %s at most",
			max(j.Size, 1), left, said, area(j.Size, left), Duration(p.SizeMS))})
	}
	if p.FairShareMS != 0 {
		terms = append(terms, Term{"fair_share", p.fairShareTerm(j.Account), fmt.Sprintf("%s; %s at most", j.Account.words(), Duration(p.FairShareMS))})
	}
	if len(p.PartitionMS) > 0 {
		terms = append(terms, Term{"partition", -p.PartitionMS[j.Partition], "partition " + j.Partition})
	}
	if len(p.ProjectMS) > 0 {
		terms = append(terms, Term{"project", -p.ProjectMS[j.Project], "project " + j.Project})
	}
	if j.Running && p.HysteresisMS != 0 {
		terms = append(terms, Term{"running", -p.HysteresisMS, "it runs"})
	}
	return terms
}

// words says what an account used of what it is due.
func (a *Account) words() string {
	if a == nil || len(a.Levels) == 0 {
		return "no use is known"
	}
	var b strings.Builder
	for _, l := range a.Levels {
		fmt.Fprintf(&b, "%s used %s of %s due, ", l.Name, percent(l.Usage), percent(max(l.Share, 1)))
	}
	factor := halved(1000, a.Ratio())
	fmt.Fprintf(&b, "factor %d.%03d", factor/1000, factor%1000)
	return b.String()
}

func percent(part uint32) string {
	tenths := (uint64(min(part, One))*1000 + uint64(One)/2) >> partBits
	return fmt.Sprintf("%d.%d %%", tenths/10, tenths%10)
}

// Duration is a span of milliseconds as people write it: 7d18h, 2h30m, 1.5s.
func Duration(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	sign := ""
	if d < 0 {
		sign, d = "-", -d
	}
	days := ""
	if n := d / (24 * time.Hour); n > 0 {
		days = fmt.Sprintf("%dd", n)
		if d -= n * 24 * time.Hour; d == 0 {
			return sign + days
		}
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return sign + days + text
}
