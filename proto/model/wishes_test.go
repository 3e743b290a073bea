package model

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
)

func TestValidateWishes(t *testing.T) {
	t.Parallel()
	dep := func(ds ...*fettlev1.Dependency) func(*fettlev1.JobSpec) {
		return func(s *fettlev1.JobSpec) { s.Dependencies = ds }
	}
	total := func(s *fettlev1.JobSpec) {
		s.GpusPerNode, s.Nodes, s.Nodelist, s.DeviceIndexes = nil, 0, nil, nil
		s.GpusTotal = &fettlev1.GPURequest{Type: "h100", Count: 12}
	}
	alternatives := func(s *fettlev1.JobSpec) {
		s.DeviceIndexes = nil
		s.GpuAlternatives = []*fettlev1.GPURequest{{Type: "a100", Count: 4}}
	}
	array := func(rs ...*fettlev1.ArrayRange) func(*fettlev1.JobSpec) {
		return func(s *fettlev1.JobSpec) { s.Array = &fettlev1.ArraySpec{Ranges: rs} }
	}
	for _, c := range []struct {
		line   string
		change []func(*fettlev1.JobSpec)
	}{
		{"", []func(*fettlev1.JobSpec){alternatives}},
		{"gpus: has alternatives to no GPUs; name the preferred one first", []func(*fettlev1.JobSpec){alternatives, func(s *fettlev1.JobSpec) { s.GpusPerNode = nil }}},
		{"gpus: names an alternative twice; name each once", []func(*fettlev1.JobSpec){alternatives, func(s *fettlev1.JobSpec) { s.GpuAlternatives[0] = proto.Clone(s.GpusPerNode).(*fettlev1.GPURequest) }}},
		{"gpus: has an alternative without GPUs; give each a number", []func(*fettlev1.JobSpec){alternatives, func(s *fettlev1.JobSpec) { s.GpuAlternatives[0].Count = 0 }}},
		{"gpus: has an alternative above 64 per node; spread the job over more nodes", []func(*fettlev1.JobSpec){alternatives, func(s *fettlev1.JobSpec) { s.GpuAlternatives[0].Count = 65 }}},
		{"gpus: has more than 8 alternatives; name fewer", []func(*fettlev1.JobSpec){alternatives, func(s *fettlev1.JobSpec) { s.GpuAlternatives = make([]*fettlev1.GPURequest, 8) }}},
		{"device: does not go with alternatives; pin GPUs of one request only", []func(*fettlev1.JobSpec){func(s *fettlev1.JobSpec) {
			s.GpuAlternatives = []*fettlev1.GPURequest{{Type: "a100", Count: 4}}
		}}},
		{"", []func(*fettlev1.JobSpec){total}},
		{"nodes: does not go with GPUs in all; leave it out, or ask for GPUs per node", []func(*fettlev1.JobSpec){total, func(s *fettlev1.JobSpec) { s.Nodes = 1 }}},
		{"gpus: (12 in all) does not go with GPUs per node; use one or the other", []func(*fettlev1.JobSpec){total, func(s *fettlev1.JobSpec) { s.GpusPerNode = &fettlev1.GPURequest{Count: 1} }}},
		{"gpus: is above 65536 in all; ask for fewer GPUs", []func(*fettlev1.JobSpec){total, func(s *fettlev1.JobSpec) { s.GpusTotal.Count = 65537 }}},
		{`gpus: names the type "h100" but no number; write h100:1, or leave the type out`, []func(*fettlev1.JobSpec){total, func(s *fettlev1.JobSpec) { s.GpusTotal.Count = 0 }}},
		{"", []func(*fettlev1.JobSpec){func(s *fettlev1.JobSpec) { s.VramMib = 20480 }}},
		{"", []func(*fettlev1.JobSpec){total, func(s *fettlev1.JobSpec) { s.VramMib = 1 }}},
		{"vram: is negative; use a size such as 20G", []func(*fettlev1.JobSpec){func(s *fettlev1.JobSpec) { s.VramMib = -1 }}},
		{"vram: is above 16 TiB; ask for less memory", []func(*fettlev1.JobSpec){func(s *fettlev1.JobSpec) { s.VramMib = MaxVRAMMiB + 1 }}},
		{"vram: is asked of no GPU; ask for GPUs too, for example one", []func(*fettlev1.JobSpec){func(s *fettlev1.JobSpec) { s.VramMib, s.GpusPerNode, s.DeviceIndexes = 1, nil, nil }}},
		{"vram: does not go with exclusive; an exclusive job has its GPUs whole; leave one of them out", []func(*fettlev1.JobSpec){func(s *fettlev1.JobSpec) { s.VramMib, s.Exclusive = 1, true }}},
		{"", []func(*fettlev1.JobSpec){func(s *fettlev1.JobSpec) { s.Constraint = "IB & (h100|h200)" }}},
		{`constraint: "ib&" ends where a feature is wanted; join features with & and |, negate with !, group with (), for example ib&(h100|h200)`, []func(*fettlev1.JobSpec){func(s *fettlev1.JobSpec) { s.Constraint = "ib&" }}},
		{`reservation: "a b" is not a name; use letters, digits, dots, dashes and underscores, starting with a letter or digit`, []func(*fettlev1.JobSpec){func(s *fettlev1.JobSpec) { s.Reservation = "a b" }}},
		{"", []func(*fettlev1.JobSpec){func(s *fettlev1.JobSpec) { s.BeginMs, s.DeadlineMs, s.TimeLimitS = 1000, 61_000, 60 }}},
		{"deadline: is out of range; use a time such as now+8hours", []func(*fettlev1.JobSpec){func(s *fettlev1.JobSpec) { s.DeadlineMs = -1 }}},
		{"deadline: is not after the begin time; use a later deadline or an earlier begin", []func(*fettlev1.JobSpec){func(s *fettlev1.JobSpec) { s.BeginMs, s.DeadlineMs = 5, 5 }}},
		{"deadline: comes before the time limit from the begin time on is over; use a later deadline or a shorter limit", []func(*fettlev1.JobSpec){func(s *fettlev1.JobSpec) { s.BeginMs, s.DeadlineMs, s.TimeLimitS = 1001, 61_000, 60 }}},
		{"", []func(*fettlev1.JobSpec){array(&fettlev1.ArrayRange{First: 0, Last: 9999}), func(s *fettlev1.JobSpec) { s.Array.MaxRunning = 4 }}},
		{"array: names no element; use elements such as 0-99", []func(*fettlev1.JobSpec){array()}},
		{"array: has a range that runs backwards; name the lower end first", []func(*fettlev1.JobSpec){array(&fettlev1.ArrayRange{First: 2, Last: 1})}},
		{"array: has an element above 999999; use lower numbers", []func(*fettlev1.JobSpec){array(&fettlev1.ArrayRange{First: 1_000_000, Last: 1_000_000})}},
		{"array: has ranges that are not in order, or meet; name elements in ascending order, each once", []func(*fettlev1.JobSpec){array(&fettlev1.ArrayRange{First: 0, Last: 4}, &fettlev1.ArrayRange{First: 4, Last: 5})}},
		{"array: has more than 10000 elements; use several arrays", []func(*fettlev1.JobSpec){array(&fettlev1.ArrayRange{First: 0, Last: 10_000})}},
		{"array: has a limit above 10000 running elements; lower it, or leave it out", []func(*fettlev1.JobSpec){array(&fettlev1.ArrayRange{}), func(s *fettlev1.JobSpec) { s.Array.MaxRunning = 10_001 }}},
		{"", []func(*fettlev1.JobSpec){dep(&fettlev1.Dependency{Kind: AfterOK, JobId: 3}, &fettlev1.Dependency{Kind: AfterOK, JobId: 3, Index: proto.Uint32(0)}, &fettlev1.Dependency{Kind: Singleton})}},
		{"dependency: names afterok:3_0 twice; name it once", []func(*fettlev1.JobSpec){dep(&fettlev1.Dependency{Kind: AfterOK, JobId: 3, Index: proto.Uint32(0)}, &fettlev1.Dependency{Kind: AfterOK, JobId: 3, Index: proto.Uint32(0)})}},
		{"dependency: is of an unknown kind; use afterok, afternotok, afterany, after or singleton", []func(*fettlev1.JobSpec){dep(nil)}},
		{"dependency: names a job for singleton; singleton takes none", []func(*fettlev1.JobSpec){dep(&fettlev1.Dependency{Kind: Singleton, JobId: 3})}},
		{"dependency: names no job for afterany; write afterany:12", []func(*fettlev1.JobSpec){dep(&fettlev1.Dependency{Kind: AfterAny})}},
		{"dependency: names an element above 999999; use one that the array has", []func(*fettlev1.JobSpec){dep(&fettlev1.Dependency{Kind: After, JobId: 1, Index: proto.Uint32(1_000_000)})}},
		{"dependency: names more than 256 jobs; depend on an array, or on a job in between", []func(*fettlev1.JobSpec){dep(make([]*fettlev1.Dependency, 257)...)}},
		{"dependency: asks for any one of none; name jobs to depend on", []func(*fettlev1.JobSpec){func(s *fettlev1.JobSpec) { s.DependencyAny = true }}},
	} {
		s := good()
		for _, f := range c.change {
			f(s)
		}
		err := ValidateSpec(s)
		if c.line == "" {
			if err != nil {
				t.Errorf("refused: %v", err)
				continue
			}
			NormalizeSpec(s)
			once := proto.Clone(s)
			if NormalizeSpec(s); !proto.Equal(once, s) || ValidateSpec(s) != nil {
				t.Errorf("normalised again: %v, then %v, %v", once, s, ValidateSpec(s))
			}
			continue
		}
		if err == nil || err.Error() != c.line || err.Kind != Invalid {
			t.Errorf("got %v\nwant %s", err, c.line)
		}
	}
}

func TestNormalizeWishes(t *testing.T) {
	t.Parallel()
	s := &fettlev1.JobSpec{
		Script: []byte("#!"), GpusTotal: &fettlev1.GPURequest{Type: "H100", Count: 3}, Constraint: " IB , (a)",
		Array: &fettlev1.ArraySpec{Ranges: []*fettlev1.ArrayRange{{First: 1, Last: 1}, {First: 2, Last: 9, Step: 4}}},
	}
	NormalizeSpec(s)
	if s.GetNodes() != 0 || s.GetGpusTotal().GetType() != "h100" || s.GetConstraint() != "ib&a" || ArrayText(s.GetArray()) != "1,2-6:4" {
		t.Errorf("got %v", s)
	}
	g := &fettlev1.JobSpec{GpusPerNode: &fettlev1.GPURequest{Type: "H200", Count: 1}, GpuAlternatives: []*fettlev1.GPURequest{{Type: "H100", Count: 2}}, GpusTotal: &fettlev1.GPURequest{}}
	NormalizeSpec(g)
	if c := GPUChoices(g); len(c) != 2 || c[1].GetType() != "h100" || g.GetNodes() != 1 || g.GetGpusTotal() != nil {
		t.Errorf("got %v", g)
	}
}

// Taking elements out of an array one by one, in any order, leaves exactly the others.
func TestArrayWithout(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		left := rapid.SliceOfNDistinct(rapid.Uint32Range(0, 60), 1, 30, rapid.ID).Draw(t, "elements")
		rs := ArrayRanges(gres.RangesOf(slices.Clone(left)))
		for len(left) > 0 {
			var got []uint32
			ArrayEach(rs, func(n uint32) bool { got = append(got, n); return true })
			want := slices.Sorted(slices.Values(left))
			if !slices.Equal(got, want) || ArrayLen(rs) != len(want) || checkRanges("array", &fettlev1.ArraySpec{Ranges: rs}) != nil {
				t.Fatalf("%v holds %v, want %v", rs, got, want)
			}
			for n := range uint32(62) {
				if ArrayHas(rs, n) != slices.Contains(want, n) {
					t.Fatalf("%v has %d: %v", rs, n, ArrayHas(rs, n))
				}
			}
			i := rapid.IntRange(0, len(left)-1).Draw(t, "out")
			rs = ArrayWithout(rs, left[i])
			left = slices.Delete(left, i, i+1)
			rs = ArrayWithout(rs, 61)
		}
		if rs != nil {
			t.Fatalf("%v is left", rs)
		}
	})
}

func TestFateOf(t *testing.T) {
	t.Parallel()
	// Per kind: pending, running, completed, failed, cancelled.
	for kind, want := range map[fettlev1.DependencyKind]string{After: ".++++", AfterOK: "..+--", AfterNotOK: "..-++", AfterAny: "..+++", Singleton: "....."} {
		got := ""
		for _, s := range []fettlev1.JobState{Pending, Running, Completed, Failed, Cancelled} {
			got += string(".+-"[FateOf(kind, s, s == Running)])
		}
		if got != want {
			t.Errorf("%s: %s, want %s", kind, got, want)
		}
	}
}

func TestDependencyTexts(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"afterok:1,afterok:2_0,singleton", "after:1?afternotok:2?afterany:3"} {
		d, err := gres.ParseDependencies(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := DependenciesText(ToDependencies(d), d.Any); got != text {
			t.Errorf("%q printed as %q", text, got)
		}
	}
	if !strings.HasPrefix(DependencyText(&fettlev1.Dependency{Kind: 99, JobId: 7}), "unknown") {
		t.Error("a kind of a newer version has no text")
	}
}

func TestValidateFeatures(t *testing.T) {
	t.Parallel()
	for line, inv := range map[string]*fettlev1.Inventory{
		"": {Cpus: 1, Features: []string{"ib", "rack-1.b"}, SwitchName: "leaf 3"},
		"inventory.features: more than 256; declare fewer":                                                                        {Cpus: 1, Features: make([]string, 257)},
		`inventory.features: "IB" is not in its plain form; use ib`:                                                               {Cpus: 1, Features: []string{"IB"}},
		`inventory.features: "ib" is listed twice; list each once`:                                                                {Cpus: 1, Features: []string{"ib", "ib"}},
		"inventory.switch_name: holds a control character; use plain text on one line":                                            {Cpus: 1, SwitchName: "a\n"},
		`inventory.features: "a&b" a feature may not hold "&"; use letters, digits, dots, dashes and underscores, for example ib`: {Cpus: 1, Features: []string{"a&b"}},
	} {
		err := ValidateInventory(inv)
		if line == "" && err != nil || line != "" && (err == nil || err.Error() != line) {
			t.Errorf("got %v, want %s", err, line)
		}
	}
}
