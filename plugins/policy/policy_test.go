package policy

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const hour = int64(time.Hour / time.Millisecond)

// plain orders by priority and age alone.
var plain = Params{PriorityMS: 2 * hour}

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
		"default priority is its eligible time":    {plain, 5, 1_000_000, 8, 60, 1_000_000},
		"most urgent is eight hours early":         {plain, 1, 100 * hour, 8, 0, 92 * hour},
		"least urgent is ten hours late":           {plain, 10, 100 * hour, 8, 0, 110 * hour},
		"unset priority is the default":            {plain, 0, 7, 1, 0, 7},
		"priority beyond the range is the last":    {plain, 4_000_000_000, 0, 1, 0, 10 * hour},
		"size counts for nothing without a weight": {plain, 5, 0, math.MaxUint32, math.MaxInt64, 0},
		"the smallest gains the whole weight":      {sized, 5, 0, 1, 60, -168 * hour},
		"smaller than the smallest gains no more":  {sized, 5, 0, 0, 1, -168 * hour},
		"the largest gains nothing":                {sized, 5, 0, 1000, 10_000, 0},
		"larger than the largest loses no more":    {sized, 5, 0, math.MaxUint32, math.MaxInt64, 0},
		"no limit counts as ten minutes":           {sized, 5, 0, 4, 0, sized.Score(5, 0, 4, 600)},
		"a negative limit is none":                 {sized, 5, 0, 4, -5, sized.Score(5, 0, 4, 600)},
		"the zero value is eligible time":          {Params{}, 1, 42, 1, 1, 42},
		"absurd eligible times do not wrap around": {plain, 10, math.MaxInt64, 1, 0, eligibleBound + 10*hour},
		"by default fresh and tiny is 180 h early": {Defaults(), 5, 0, 1, 60, -180 * hour},
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
	if at(1, 47) >= at(5, 0) {
		t.Error("an urgent job does not overtake a routine one of two days before")
	}
	if at(1, 49) <= at(5, 0) {
		t.Error("an urgent job overtakes a routine one that has waited two days longer")
	}
	if p.Score(1, 0, 8, 86_400) >= p.Score(5, 0, 1, 8*3600) {
		t.Error("an urgent day on eight GPUs does not come before eight routine hours on one")
	}
	if p.Score(5, 0, 8, 86_400) <= p.Score(5, 24*hour, 1, 3600) {
		t.Error("a small job does not overtake a day's work on eight GPUs of a day before")
	}
}

// TestRemaining: who is believed about how long a job still runs.
func TestRemaining(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		job  Job
		want int64
		said string
	}{
		"nothing known":                        {Job{}, 600, byRunSoFar},
		"nothing known, has run long":          {Job{RunS: 7200}, 7200, byRunSoFar},
		"limit":                                {Job{TimeLimitS: 3600}, 3600, byLimit},
		"limit, part of it done":               {Job{TimeLimitS: 3600, RunS: 3000}, 600, byLimit},
		"limit, all of it done":                {Job{TimeLimitS: 3600, RunS: 4000}, 1, byLimit},
		"limit before prediction":              {Job{TimeLimitS: 3600, EstimateS: 60}, 3600, byLimit},
		"prediction":                           {Job{EstimateS: 5000, RunS: 1000}, 4000, byPrediction},
		"prediction outrun":                    {Job{EstimateS: 5000, RunS: 5000}, 5000, byRunSoFar},
		"progress before all":                  {Job{RemainingS: 50, EstimateS: 5000}, 50, byProgress},
		"progress before the limit":            {Job{RemainingS: 50, TimeLimitS: 3600}, 50, byProgress},
		"but the limit is kept whatever it is": {Job{RemainingS: 5000, TimeLimitS: 3600, RunS: 3000}, 600, byProgress},
		"a negative run is none":               {Job{TimeLimitS: 3600, RunS: -9}, 3600, byLimit},
	} {
		if got, said := remaining(&c.job); got != c.want || said != c.said {
			t.Errorf("%s: %d s %s, want %d s %s", name, got, said, c.want, c.said)
		}
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

// TestSiteTerms: a partition's or a project's jobs are moved by what the site says, those of others are not.
func TestSiteTerms(t *testing.T) {
	t.Parallel()
	p := Params{PartitionMS: map[string]int64{"debug": 2 * hour}, ProjectMS: map[string]int64{"thesis": hour, "idle": -3 * hour}}
	for _, c := range []struct {
		partition, project string
		want               int64
	}{{"debug", "lab", -2 * hour}, {"gpu", "lab", 0}, {"gpu", "thesis", -hour}, {"debug", "idle", hour}} {
		if got := p.ScoreJob(Job{Partition: c.partition, Project: c.project}); got != c.want {
			t.Errorf("%s of %s scores %d, want %d", c.project, c.partition, got, c.want)
		}
	}
	if got := p.BoundMS(); got != 6*hour {
		t.Errorf("D is %d, want 2 h of partitions and 4 h of projects", got)
	}
}

func TestRunning(t *testing.T) {
	t.Parallel()
	p := Defaults()
	if d := p.ScoreJob(Job{}) - p.ScoreJob(Job{Running: true}); d != hour {
		t.Errorf("running is worth %d ms, want an hour", d)
	}
	if p.BoundMS() != (108+168+12)*hour || p.RunningBoundMS() != (108+168+12+1)*hour {
		t.Errorf("D is %s, with running jobs %s", Duration(p.BoundMS()), Duration(p.RunningBoundMS()))
	}
}

func drawParams(t *rapid.T) Params {
	p := Params{
		PriorityMS:   rapid.Int64Range(0, maxPriorityStep.Milliseconds()).Draw(t, "P"),
		SizeMS:       rapid.Int64Range(0, maxWeight.Milliseconds()).Draw(t, "W"),
		FairShareMS:  rapid.Int64Range(0, maxWeight.Milliseconds()).Draw(t, "F"),
		HysteresisMS: rapid.Int64Range(0, maxWeight.Milliseconds()).Draw(t, "h"),
	}
	site := rapid.MapOf(rapid.SampledFrom([]string{"a", "b", "c"}), rapid.Int64Range(-maxWeight.Milliseconds(), maxWeight.Milliseconds()))
	p.PartitionMS, p.ProjectMS = site.Draw(t, "partitions"), site.Draw(t, "projects")
	return p
}

func drawAccount(t *rapid.T, name string) *Account {
	levels := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Level {
		return Level{Usage: rapid.Uint32Range(0, 2*One).Draw(t, "usage"), Share: rapid.Uint32Range(0, One).Draw(t, "share")}
	}), 0, 4).Draw(t, name+" account")
	if len(levels) == 0 {
		return nil
	}
	return &Account{Levels: levels}
}

// drawJob is a job that asks for whatever moves it furthest, often at the ends of the ranges.
func drawJob(t *rapid.T, name string) Job {
	seconds := rapid.OneOf(rapid.SampledFrom([]int64{math.MinInt64, -1, 0, 1, 60, maxArea, math.MaxInt64}), rapid.Int64Range(-1, 1<<40))
	return Job{
		Priority:  rapid.OneOf(rapid.SampledFrom([]uint32{1, 10}), rapid.Uint32Range(0, 12)).Draw(t, name+" priority"),
		Size:      rapid.OneOf(rapid.SampledFrom([]uint32{0, 1, math.MaxUint32}), rapid.Uint32()).Draw(t, name+" size"),
		Partition: rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, name+" partition"),
		Project:   rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, name+" project"),

		TimeLimitS: seconds.Draw(t, name+" limit"), EstimateS: seconds.Draw(t, name+" estimate"),
		RemainingS: seconds.Draw(t, name+" remaining"), RunS: seconds.Draw(t, name+" run"), Account: drawAccount(t, name),
	}
}

// TestBound is the starvation bound: what became eligible more than D later never stands before.
func TestBound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawParams(t)
		j, k := drawJob(t, "j"), drawJob(t, "k")
		bound := p.BoundMS()
		if k.Running = rapid.Bool().Draw(t, "k runs"); k.Running {
			bound = p.RunningBoundMS()
		}
		j.EligibleMS = rapid.Int64Range(0, 1<<45).Draw(t, "eligible")
		k.EligibleMS = j.EligibleMS + bound + rapid.Int64Range(1, 1<<40).Draw(t, "beyond D")
		if sj, sk := p.ScoreJob(j), p.ScoreJob(k); sk <= sj {
			t.Fatalf("score %d of a job eligible at %d is not after %d of one eligible at %d (D = %d)", sk, k.EligibleMS, sj, j.EligibleMS, bound)
		}
	})
}

// TestArrivals is the bound over a whole queue: jobs keep arriving that ask for whatever brings them forward, usage
// changes under all of them, and each is scored when it comes or when the adversary pleases. At any time the jobs ordered before any other
// one became eligible at most D after it.
func TestArrivals(t *testing.T) {
	t.Parallel()
	type held struct {
		Job
		score int64
	}
	rapid.Check(t, func(t *rapid.T) {
		p := drawParams(t)
		var queue []held
		var now int64
		check := func() {
			// The latest eligible time of all that come before is compared with each in turn.
			slices.SortFunc(queue, func(a, b held) int { return cmp.Compare(a.score, b.score) })
			latest := int64(math.MinInt64)
			for _, h := range queue {
				if latest > h.EligibleMS+p.BoundMS() {
					t.Fatalf("a job eligible at %d stands before one eligible at %d, D = %d", latest, h.EligibleMS, p.BoundMS())
				}
				latest = max(latest, h.EligibleMS)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"arrive": func(t *rapid.T) {
				now += rapid.Int64Range(0, max(p.BoundMS(), 10)/5).Draw(t, "gap")
				j := drawJob(t, "job")
				j.EligibleMS = now
				queue = append(queue, held{j, p.ScoreJob(j)})
				check()
			},
			"change": func(t *rapid.T) {
				if len(queue) == 0 {
					t.Skip("nobody waits")
				}
				h := &queue[rapid.IntRange(0, len(queue)-1).Draw(t, "which")]
				h.Account, h.RunS, h.RemainingS = drawAccount(t, "new"), rapid.Int64Range(0, 1<<30).Draw(t, "run"), rapid.Int64Range(0, 1<<30).Draw(t, "left")
				h.score = p.ScoreJob(h.Job)
				check()
			},
		})
	})
}

// TestBoundIsTight says that D could not be smaller.
func TestBoundIsTight(t *testing.T) {
	t.Parallel()
	p := Params{
		PriorityMS: 2 * hour, SizeMS: 100 * hour, FairShareMS: 12 * hour,
		PartitionMS: map[string]int64{"good": hour, "bad": -hour}, ProjectMS: map[string]int64{"good": hour},
	}
	spent := &Account{Levels: []Level{{Usage: One, Share: 1}}}
	patient := p.ScoreJob(Job{Priority: 10, Size: 1000, TimeLimitS: 100_000, Partition: "bad", Account: spent})
	urgent := Job{Priority: 1, Size: 1, TimeLimitS: 1, Partition: "good", Project: "good", EligibleMS: p.BoundMS()}
	if got := p.ScoreJob(urgent); got != patient {
		t.Errorf("at exactly D the scores are %d and %d, want a tie", got, patient)
	}
	urgent.EligibleMS--
	if got := p.ScoreJob(urgent); got >= patient {
		t.Errorf("just inside D the urgent job scores %d, want it before %d", got, patient)
	}
}

// TestAgeNeverSaturates says that a later eligible time never helps, at any age.
func TestAgeNeverSaturates(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, j := drawParams(t), drawJob(t, "j")
		j.EligibleMS = rapid.Int64Range(0, 1<<50).Draw(t, "eligible")
		later := rapid.Int64Range(1, 1<<50).Draw(t, "later")
		before := p.ScoreJob(j)
		j.EligibleMS += later
		if after := p.ScoreJob(j); after-before != later {
			t.Fatalf("%d ms of waiting moved the score by %d", later, after-before)
		}
	})
}

// TestTerms: what people are shown adds up to the score, and names what it came from.
func TestTerms(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, j := drawParams(t), drawJob(t, "j")
		j.EligibleMS, j.Running = rapid.Int64Range(0, 1<<45).Draw(t, "eligible"), rapid.Bool().Draw(t, "running")
		var sum int64
		for _, term := range p.Terms(j) {
			sum += term.MS
			if term.Name == "" || term.Inputs == "" {
				t.Fatalf("term %v without words", term)
			}
		}
		if want := p.ScoreJob(j); sum != want {
			t.Fatalf("the terms add up to %d, the score is %d", sum, want)
		}
	})
	j := Job{
		Priority: 3, EligibleMS: 1_700_000_000_000, Size: 8, TimeLimitS: 7200, Partition: "debug",
		Account: &Account{Levels: []Level{{"lab", One / 2, One / 4}, {"ann", 0, One / 3}}},
	}
	p := Defaults()
	p.PartitionMS = map[string]int64{"debug": hour / 2}
	want := []Term{
		{"eligible", 1_700_000_000_000, "since 2023-11-14T22:13:20Z"},
		{"priority", -24 * hour, "priority 3 (default 5), 12h a level"},
		{"size", p.sizeTerm(&j), "8 GPUs x 7200 s left (by its time limit), counted as 57600 GPU-seconds; 7d at most"},
		{"fair_share", -3 * hour, "lab used 50.0 % of 25.0 % due, ann used 0.0 % of 33.3 % due, factor 0.250; 12h at most"},
		{"partition", -hour / 2, "partition debug"},
	}
	if got := p.Terms(j); !slices.Equal(got, want) {
		t.Errorf("terms\n%v\nwant\n%v", got, want)
	}
}

func TestDuration(t *testing.T) {
	t.Parallel()
	for ms, want := range map[int64]string{
		0: "0s", 1500: "1.5s", 90_000: "1m30s", 2 * hour: "2h", hour / 2: "30m", -3 * hour: "-3h", 198 * hour: "8d6h", 168 * hour: "7d", -25*hour - 60_000: "-1d1h1m",
	} {
		if got := Duration(ms); got != want {
			t.Errorf("%d ms is %s, want %s", ms, got, want)
		}
	}
}

func TestParseSettings(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		settings map[string]string
		want     func(*Params)
		problem  string
	}{
		"nothing": {nil, func(*Params) {}, ""},
		"all": {map[string]string{
			PrioritySetting: "30m", SizeSetting: "100h", FairShareSetting: "1h", HysteresisSetting: "0s", "partition.debug": "2h", "project.a.b": "-1h",
		}, func(p *Params) {
			*p = Params{
				PriorityMS: hour / 2, SizeMS: 100 * hour, FairShareMS: hour, HysteresisMS: 0,
				PartitionMS: map[string]int64{"debug": 2 * hour}, ProjectMS: map[string]int64{"a.b": -hour},
			}
		}, ""},
		"zero":              {map[string]string{PrioritySetting: "0s"}, func(p *Params) { p.PriorityMS = 0 }, ""},
		"unknown key":       {map[string]string{"zeal": "1", "age": "2"}, nil, `setting "age": unknown`},
		"no name":           {map[string]string{"partition.": "1h"}, nil, `setting "partition.": unknown`},
		"not a duration":    {map[string]string{SizeSetting: "7"}, nil, "size_weight"},
		"negative":          {map[string]string{PrioritySetting: "-1h"}, nil, "priority_step"},
		"beyond the bounds": {map[string]string{SizeSetting: "337h"}, nil, "336h"},
		"far too dear":      {map[string]string{"project.x": "-337h"}, nil, "setting project.x: \"-337h\" is not a duration from -336h"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseSettings(c.settings)
			if c.problem != "" {
				if err == nil || !strings.Contains(err.Error(), c.problem) {
					t.Errorf("error %v does not say %q", err, c.problem)
				}
				return
			}
			want := Defaults()
			c.want(&want)
			if err != nil || !equal(got, want) {
				t.Errorf("got %v, %v; want %v", got, err, want)
			}
			for key := range c.settings {
				if !Knows(key) {
					t.Errorf("%s is read but not known", key)
				}
			}
		})
	}
	if Knows("backfill_depth") || Knows("partition.") {
		t.Error("knows foreign keys")
	}
}

func TestColumns(t *testing.T) {
	t.Parallel()
	account := &Account{Levels: []Level{{Usage: One, Share: One}}}
	jobs := []Job{
		{ID: 7, Priority: 1, EligibleMS: 10, Size: 8, TimeLimitS: 60, User: "ann", Project: "p", Account: account},
		{ID: 9, Priority: 5, EligibleMS: 20, Size: 1, User: "bob", Project: "q", Partition: "x", EstimateS: 5, RemainingS: 6, RunS: 7, Running: true},
		{ID: 11, Account: account},
	}
	var c Columns
	for range 2 {
		for i, j := range jobs {
			c.Append(j)
			if c.At(i) != j {
				t.Errorf("job %d reads back as %v, want %v", i, c.At(i), j)
			}
		}
		if err := c.Check(); err != nil || c.Len() != 3 {
			t.Errorf("%d jobs, %v; want 3", c.Len(), err)
		}
		p := Defaults()
		var want []int64
		for _, j := range jobs {
			want = append(want, p.ScoreJob(j))
		}
		if got := p.ScoreColumns(nil, &c); !slices.Equal(got, want) {
			t.Errorf("scores %v, want %v", got, want)
		}
		c.AppendAll(&c)
		if c.Check() != nil || c.Len() != 6 || c.At(4) != jobs[1] {
			t.Errorf("with all of it once more: %d jobs, %v", c.Len(), c.Check())
		}
		c.Set(0, jobs[1])
		if c.At(0) != jobs[1] {
			t.Errorf("job 0 is set to %v, want %v", c.At(0), jobs[1])
		}
		c.Truncate(1)
		if err := c.Check(); err != nil || c.Len() != 1 || c.At(0) != jobs[1] {
			t.Errorf("cut to %d jobs, %v", c.Len(), err)
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
	accounts := make([]*Account, 100)
	for i := range accounts {
		accounts[i] = &Account{Levels: []Level{{Usage: uint32(i), Share: 100}, {Usage: 7, Share: 1000}}}
	}
	for i := range 100_000 {
		c.Append(Job{ID: uint64(i + 1), Priority: uint32(i%10 + 1), EligibleMS: int64(i), Size: 8, TimeLimitS: int64(i), Account: accounts[i%100]})
	}
	p := Defaults()
	var dst []int64
	for b.Loop() {
		dst = p.ScoreColumns(dst[:0], &c)
	}
}
