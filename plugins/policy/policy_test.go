package policy

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const hour = int64(time.Hour / time.Millisecond)

func TestScore(t *testing.T) {
	t.Parallel()
	sized := Params{PriorityMS: 2 * hour, SizeMS: 168 * hour}
	for name, c := range map[string]struct {
		params   Params
		priority uint32
		eligible int64
		size     uint32
		limit    int64
		want     int64
	}{
		"default priority is its eligible time":    {Defaults(), 5, 1_000_000, 8, 60, 1_000_000},
		"most urgent is eight hours early":         {Defaults(), 1, 100 * hour, 8, 0, 92 * hour},
		"least urgent is ten hours late":           {Defaults(), 10, 100 * hour, 8, 0, 110 * hour},
		"unset priority is the default":            {Defaults(), 0, 7, 1, 0, 7},
		"priority beyond the range is the last":    {Defaults(), 4_000_000_000, 0, 1, 0, 10 * hour},
		"size counts for nothing by default":       {Defaults(), 5, 0, math.MaxUint32, math.MaxInt64, 0},
		"the smallest gains the whole weight":      {sized, 5, 0, 1, 60, -168 * hour},
		"smaller than the smallest gains no more":  {sized, 5, 0, 0, 1, -168 * hour},
		"the largest gains nothing":                {sized, 5, 0, 1000, 10_000, 0},
		"larger than the largest loses no more":    {sized, 5, 0, math.MaxUint32, math.MaxInt64, 0},
		"no limit counts as ten minutes":           {sized, 5, 0, 4, 0, sized.Score(5, 0, 4, 600)},
		"a negative limit is none":                 {sized, 5, 0, 4, -5, sized.Score(5, 0, 4, 600)},
		"the zero value is eligible time":          {Params{}, 1, 42, 1, 1, 42},
		"absurd eligible times do not wrap around": {Defaults(), 10, math.MaxInt64, 1, 0, eligibleBound + 10*hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := c.params.Score(c.priority, c.eligible, c.size, c.limit); got != c.want {
				t.Errorf("score %d, want %d", got, c.want)
			}
		})
	}
}

// TestOrder says what people rely on: urgency first among equals, age before all in the end.
func TestOrder(t *testing.T) {
	t.Parallel()
	p := Defaults()
	at := func(priority uint32, hours int64) int64 { return p.Score(priority, hours*hour, 1, 0) }
	for level := uint32(1); level < 10; level++ {
		if at(level, 0) >= at(level+1, 0) {
			t.Errorf("priority %d is not before %d", level, level+1)
		}
	}
	if at(1, 3) >= at(5, 0) {
		t.Error("an urgent job does not overtake a routine one of three hours before")
	}
	if at(1, 9) <= at(5, 0) {
		t.Error("an urgent job overtakes a routine one that has waited nine hours longer")
	}
}

func TestSizeTerm(t *testing.T) {
	t.Parallel()
	p := Params{SizeMS: 14 * 24 * hour}
	last := int64(math.MinInt64)
	for area := int64(60); area <= maxArea; area = area*11/10 + 1 {
		got := p.Score(5, 0, 1, area)
		if got <= last {
			t.Fatalf("area %d scores %d, not later than the smaller one's %d", area, got, last)
		}
		last = got
		exact := -float64(p.SizeMS) * math.Log(maxArea/float64(area)) / math.Log(maxArea/float64(minArea))
		if diff := math.Abs(float64(got) - exact); diff > 1000 {
			t.Fatalf("area %d scores %d, the formula gives %.0f", area, got, exact)
		}
	}
}

func TestLog2(t *testing.T) {
	t.Parallel()
	for _, x := range []uint64{1, 2, 3, 7, 60, 1000, 65535, 65536, maxArea, 1<<32 - 1} {
		if got, want := float64(log2(x))/(1<<logBits), math.Log2(float64(x)); got > want+1e-9 || got < want-1e-6 {
			t.Errorf("log2(%d) = %.9f, want %.9f", x, got, want)
		}
	}
}

func drawParams(t *rapid.T) Params {
	return Params{
		PriorityMS: rapid.Int64Range(0, maxPriorityStep.Milliseconds()).Draw(t, "P"),
		SizeMS:     rapid.Int64Range(0, maxSizeWeight.Milliseconds()).Draw(t, "W"),
	}
}

// TestBound is the starvation bound: what became eligible more than D later never stands before.
func TestBound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawParams(t)
		draw := func(name string, eligible int64) int64 {
			return p.Score(
				rapid.Uint32Range(0, 12).Draw(t, name+" priority"), eligible,
				rapid.Uint32().Draw(t, name+" size"), rapid.Int64Range(-1, 1<<40).Draw(t, name+" limit"))
		}
		eligible := rapid.Int64Range(0, 1<<45).Draw(t, "eligible")
		later := eligible + p.BoundMS() + rapid.Int64Range(1, 1<<40).Draw(t, "beyond D")
		if j, k := draw("j", eligible), draw("k", later); k <= j {
			t.Fatalf("score %d of a job eligible at %d is not after %d of one eligible at %d (D = %d)", k, later, j, eligible, p.BoundMS())
		}
	})
}

// TestBoundIsTight says that D could not be smaller.
func TestBoundIsTight(t *testing.T) {
	t.Parallel()
	p := Params{PriorityMS: 2 * hour, SizeMS: 100 * hour}
	patient := p.Score(10, 0, 1000, 100_000)
	if urgent := p.Score(1, p.BoundMS(), 1, 1); urgent != patient {
		t.Errorf("at exactly D the scores are %d and %d, want a tie", urgent, patient)
	}
	if urgent := p.Score(1, p.BoundMS()-1, 1, 1); urgent >= patient {
		t.Errorf("just inside D the urgent job scores %d, want it before %d", urgent, patient)
	}
}

// TestAgeNeverSaturates says that a later eligible time never helps, at any age.
func TestAgeNeverSaturates(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawParams(t)
		priority, size := rapid.Uint32Range(1, 10).Draw(t, "priority"), rapid.Uint32Range(1, 10_000).Draw(t, "size")
		limit := rapid.Int64Range(0, 1<<30).Draw(t, "limit")
		a := rapid.Int64Range(0, 1<<50).Draw(t, "eligible")
		b := a + rapid.Int64Range(1, 1<<50).Draw(t, "later")
		if sa, sb := p.Score(priority, a, size, limit), p.Score(priority, b, size, limit); sb-sa != b-a {
			t.Fatalf("%d ms of waiting moved the score by %d", b-a, sb-sa)
		}
	})
}

func TestParseSettings(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		settings map[string]string
		want     Params
		problem  string
	}{
		"nothing":           {nil, Defaults(), ""},
		"both":              {map[string]string{PrioritySetting: "30m", SizeSetting: "168h"}, Params{hour / 2, 168 * hour}, ""},
		"zero":              {map[string]string{PrioritySetting: "0s"}, Params{}, ""},
		"unknown key":       {map[string]string{"zeal": "1", "age": "2"}, Params{}, `setting "age": unknown`},
		"not a duration":    {map[string]string{SizeSetting: "7"}, Params{}, "size_weight"},
		"negative":          {map[string]string{PrioritySetting: "-1h"}, Params{}, "priority_step"},
		"beyond the bounds": {map[string]string{SizeSetting: "337h"}, Params{}, "336h"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseSettings(c.settings)
			if c.problem == "" && (err != nil || got != c.want) {
				t.Errorf("got %v, %v; want %v", got, err, c.want)
			}
			if c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)) {
				t.Errorf("error %v does not say %q", err, c.problem)
			}
		})
	}
}

func TestColumns(t *testing.T) {
	t.Parallel()
	jobs := []Job{
		{ID: 7, Priority: 1, EligibleMS: 10, Size: 8, TimeLimitS: 60, User: "ann", Project: "p"},
		{ID: 9, Priority: 5, EligibleMS: 20, Size: 1, User: "bob", Project: "q"},
	}
	var c Columns
	for range 2 {
		for i, j := range jobs {
			c.Append(j)
			if c.At(i) != j {
				t.Errorf("job %d reads back as %v, want %v", i, c.At(i), j)
			}
		}
		if err := c.Check(); err != nil || c.Len() != 2 {
			t.Errorf("%d jobs, %v; want 2", c.Len(), err)
		}
		p := Defaults()
		want := []int64{p.Score(1, 10, 8, 60), p.Score(5, 20, 1, 0)}
		if got := p.ScoreColumns(nil, &c); !slices.Equal(got, want) {
			t.Errorf("scores %v, want %v", got, want)
		}
		c.Reset()
	}
	c.Append(jobs[0])
	c.Project = nil
	if c.Check() == nil {
		t.Error("columns of different lengths pass")
	}
}

func BenchmarkScoreColumns100k(b *testing.B) {
	var c Columns
	for i := range 100_000 {
		c.Append(Job{ID: uint64(i + 1), Priority: uint32(i%10 + 1), EligibleMS: int64(i), Size: 8, TimeLimitS: int64(i)})
	}
	p := Params{PriorityMS: 2 * hour, SizeMS: 168 * hour}
	var dst []int64
	for b.Loop() {
		dst = p.ScoreColumns(dst[:0], &c)
	}
}
