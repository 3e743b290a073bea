package policy

import (
	"maps"
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestLog2(t *testing.T) {
	t.Parallel()
	for _, x := range []uint64{1, 2, 3, 7, 60, 1000, 65535, 65536, maxArea, 1<<32 - 1} {
		if got, want := float64(log2(x))/(1<<logBits), math.Log2(float64(x)); got > want+1e-9 || got < want-1e-6 {
			t.Errorf("log2(%d) = %.9f, want %.9f", x, got, want)
		}
	}
}

// TestHalved: the fair-share factor is the formula's to a millisecond, stays within its weight and never grows with use.
func TestHalved(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		weight := rapid.Int64Range(0, maxWeight.Milliseconds()).Draw(t, "weight")
		r := rapid.OneOf(rapid.Uint64Range(0, 4*uint64(One)), rapid.Uint64Range(0, 70*uint64(One)), rapid.Uint64()).Draw(t, "ratio")
		got, exact := halved(weight, r), float64(weight)*math.Exp2(-float64(r)/float64(One))
		if d := exact - float64(got); d < -0.01 || d > 1.01 {
			t.Fatalf("%d halved %d/2^20 times is %d, the formula gives %.3f", weight, r, got, exact)
		}
		if next := halved(weight, r+1); r != math.MaxUint64 && (next > got || next < 0) {
			t.Fatalf("%d after %d", next, got)
		}
	})
	if got := halved(1000, 0); got != 1000 {
		t.Errorf("no use is worth %d of 1000", got)
	}
}

func TestPart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		n, all uint64
		want   uint32
	}{{0, 0, 0}, {1, 0, 0}, {1, 4, One / 4}, {4, 4, One}, {9, 4, One}, {1 << 62, 1 << 63, One / 2}, {math.MaxUint64 - 1, math.MaxUint64, One - 1}, {1, math.MaxUint64, 0}} {
		want := c.want
		if got := Part(c.n, c.all); got != want {
			t.Errorf("%d of %d is %d, want %d", c.n, c.all, got, want)
		}
	}
	if got := Due(1, math.MaxUint64); got != 1 {
		t.Errorf("the least due part is %d, want 1", got)
	}
}

// TestFairShare: who used less of what it is due comes first; use counts at every level.
func TestFairShare(t *testing.T) {
	t.Parallel()
	p := Params{FairShareMS: 12 * hour}
	account := func(levels ...Level) int64 { return p.ScoreJob(Job{Account: &Account{Levels: levels}}) }
	at := func(usage, share uint32) Level { return Level{Usage: usage, Share: share} }
	for name, c := range map[string]struct{ got, want int64 }{
		"no account":          {p.ScoreJob(Job{}), -12 * hour},
		"no use":              {account(at(0, One/10)), -12 * hour},
		"just its part":       {account(at(One/4, One/4)), -6 * hour},
		"twice its part":      {account(at(One/2, One/4)), -3 * hour},
		"at two levels":       {account(at(One/4, One/4), at(One/2, One/2)), -3 * hour},
		"more than there is":  {account(at(math.MaxUint32, One)), -6 * hour},
		"nothing due":         {account(at(One, 0)), 0},
		"an endless path":     {account(make([]Level, 1000)...), -12 * hour},
		"endless use of none": {account(at(One, 0), at(One, 0), at(One, 0)), 0},
	} {
		if c.got != c.want {
			t.Errorf("%s scores %d, want %d", name, c.got, c.want)
		}
	}
}

func equal(a, b Params) bool {
	return a.PriorityMS == b.PriorityMS && a.SizeMS == b.SizeMS && a.FairShareMS == b.FairShareMS && a.HysteresisMS == b.HysteresisMS &&
		maps.Equal(a.PartitionMS, b.PartitionMS) && maps.Equal(a.ProjectMS, b.ProjectMS)
}
