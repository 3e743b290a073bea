package policyfile_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/fettle-hpc/fettle/client/internal/policyfile"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// policies draws policies as a controller may hold them.
func policies() *rapid.Generator[*fettlev1.ClusterPolicy] {
	return rapid.Custom(func(t *rapid.T) *fettlev1.ClusterPolicy {
		p := &fettlev1.ClusterPolicy{}
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z][a-z0-9_.-]{0,5}`), 0, 4, rapid.ID[string]).Draw(t, "names")
		def := rapid.IntRange(-1, 3).Draw(t, "default")
		for i, n := range names {
			limit := rapid.Int64Range(0, 90*86400).Draw(t, "max")
			part := &fettlev1.Partition{Name: n, IsDefault: i == def, MaxTimeS: limit, Down: rapid.Bool().Draw(t, "down")}
			if limit > 0 {
				part.DefaultTimeS = rapid.Int64Range(0, limit).Draw(t, "time")
			}
			part.Nodes = rapid.SampledFrom([]string{"", "n1", "n[1-3]", "gpu[01-16],x"}).Draw(t, "nodes")
			drawPreemption(t, part)
			p.Partitions = append(p.Partitions, part)
		}
		drawTenancy(t, p)
		keys := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z "\\]{1,6}`), 0, 4, rapid.ID[string]).Draw(t, "keys")
		for _, k := range sorted(keys) {
			p.Scheduling = append(p.Scheduling, &fettlev1.KeyValue{Key: k, Value: rapid.OneOf(rapid.StringMatching(`-?[0-9]{1,20}`), rapid.String()).Draw(t, "value")})
		}
		return p
	})
}

func sorted(s []string) []string {
	for i := range s {
		for j := i; j > 0 && s[j] < s[j-1]; j-- {
			s[j], s[j-1] = s[j-1], s[j]
		}
	}
	return s
}

func TestWhatIsShownReadsBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := policies().Draw(t, "policy")
		text := policyfile.Format(want)
		got, err := policyfile.Parse([]byte(text))
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Fatalf("(-want +got)\n%s\nof\n%s", diff, text)
		}
	})
}

func TestDiffIsEmptyOnlyForEqualPolicies(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := policies().Draw(t, "a"), policies().Draw(t, "b")
		if d := policyfile.Diff(a, a); len(d) > 0 {
			t.Fatalf("a policy differs from itself: %q", d)
		}
		same := policyfile.Format(a) == policyfile.Format(b)
		if d := policyfile.Diff(a, b); (len(d) == 0) != same {
			t.Fatalf("diff %q between\n%s\nand\n%s", d, policyfile.Format(a), policyfile.Format(b))
		}
	})
}

func TestLimits(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"size":       strings.Repeat("#", policyfile.MaxSize+1),
		"partitions": strings.Repeat("[[partition]]\nname=\"a\"\n", 300),
		"name":       "partition=[{name=\"" + strings.Repeat("a", 65) + "\"}]",
		"version":    "version = -1",
	} {
		var e *policyfile.Error
		if _, err := policyfile.Parse([]byte(text)); !errors.As(err, &e) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	p, err := policyfile.Parse([]byte("version = 7\npartition = [{name = \"a\", max_time = \"unlimited\", state = \"UP\"}]\n[scheduling]\na = 1.5\nb = true\n"))
	if err != nil || p.GetVersion() != 7 || p.GetPartitions()[0].GetMaxTimeS() != 0 || p.GetScheduling()[0].GetValue() != "1.5" || p.GetScheduling()[1].GetValue() != "true" {
		t.Errorf("got %v, %v", p, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("[[partition]]\nname = \"a\"\nnodes = \"n[1-3]\"\nmax_time = \"2-0\"\n[scheduling]\nx = 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := policyfile.Parse([]byte(text))
		if err != nil {
			var e *policyfile.Error
			if !errors.As(err, &e) {
				t.Errorf("%q: %T", text, err)
			}
			return
		}
		p.Version = 0
		again, err := policyfile.Parse([]byte(policyfile.Format(p)))
		if err != nil {
			t.Fatalf("%q shown as\n%s\n%v", text, policyfile.Format(p), err)
		}
		if d := policyfile.Diff(p, again); len(d) > 0 {
			t.Errorf("%q: %q", text, d)
		}
	})
}
