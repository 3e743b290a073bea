package gres

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestExpandHosts(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"n1":                        "n1",
		"n1,n[2-4,07-09],gpu[1-2]":  "n1 n2 n3 n4 n07 n08 n09 gpu1 gpu2",
		"gpu[08-11]":                "gpu08 gpu09 gpu10 gpu11",
		"n[98-101]":                 "n98 n99 n100 n101",
		"n[098-101]":                "n098 n099 n100 n101",
		"rack[1-2]n[1-2]":           "rack1n1 rack1n2 rack2n1 rack2n2",
		"n[1-2]-ib":                 "n1-ib n2-ib",
		"N1, n1 ,n[1-2]":            "n1 n2",
		"n[0-2]":                    "n0 n1 n2",
		"gpu01.cluster.example":     "gpu01.cluster.example",
		"n[1-2].a":                  "n1.a n2.a",
		"a":                         "a",
		"7":                         "7",
		"n[999999999999999]":        "n999999999999999",
		"login,gpu[01-02,04],cpu-a": "login gpu01 gpu02 gpu04 cpu-a",
	} {
		got, err := ExpandHosts(in)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("ExpandHosts(%q) = %v, %v", in, got, err)
		}
	}
	got, err := ExpandHosts("n[08-100]x")
	if err != nil || len(got) != 93 || got[0] != "n08x" || got[91] != "n99x" || got[92] != "n100x" {
		t.Errorf("a range that outgrows its padding: %v, %v", got, err)
	}
	if got, err := ExpandHosts("n[1-65536]"); err != nil || len(got) != MaxHosts {
		t.Errorf("a full list: %d, %v", len(got), err)
	}
	const remedy = "; use names such as n1,n[2-4],gpu[01-16]"
	refusals(t, ExpandHosts, [][2]string{
		{"", `node list "": is empty` + remedy},
		{",", `node list ",": has an empty item` + remedy},
		{"n1,,n2", `node list "n1,,n2": has an empty item` + remedy},
		{"n[1-999999999]", `node list "n[1-999999999]": names more than 65536 nodes` + remedy},
		{"n[1-65537]", `node list "n[1-65537]": names more than 65536 nodes` + remedy},
		{"n[1-60000],m[1-60000]", `node list "n[1-60000],m[1-60000]": names more than 65536 nodes` + remedy},
		{"a[1-9999]b[1-9999]c[1-9999]d[1-9999]e[1-9999]", `node list "a[1-9999]b[1-9999]c[1-9999]d[1-9999]e[1-9999]": names more than 65536 nodes` + remedy},
		{"n[1-", `node list "n[1-": has a [ without a ]` + remedy},
		{"n[1,2", `node list "n[1,2": has a [ without a ]` + remedy},
		{"]n[", `node list "]n[": has a ] without a [` + remedy},
		{"n[1]]", `node list "n[1]]": has a ] without a [` + remedy},
		{"n[[1-2]]", `node list "n[[1-2]]": has nested brackets` + remedy},
		{"n[]", `node list "n[]": has an empty bracket or range` + remedy},
		{"n[1,]", `node list "n[1,]": has an empty bracket or range` + remedy},
		{"n[a-b]", `node list "n[a-b]": has a bad range "a-b"` + remedy},
		{"n[-5]", `node list "n[-5]": has a bad range "-5"` + remedy},
		{"n[1-2-3]", `node list "n[1-2-3]": has a bad range "1-2-3"` + remedy},
		{"n[4-2]", `node list "n[4-2]": has a range "4-2" that runs backwards` + remedy},
		{"n[001-20]", `node list "n[001-20]": has a range "001-20" whose ends are padded differently` + remedy},
		{"n[1-010]", `node list "n[1-010]": has a range "1-010" whose ends are padded differently` + remedy},
		{"n[1-9999999999999999999999]", `node list "n[1-9999999999999999999999]": has a range "1-9999999999999999999999" with too many digits` + remedy},
		{"n_1", `node list "n_1": the name "n_1" may not hold "_"` + remedy},
		{"-n", `node list "-n": the name "-n" may not start or end with a dash` + remedy},
		{"n-[1-2],m-", `node list "n-[1-2],m-": the name "m-" may not start or end with a dash` + remedy},
		{"a..b", `node list "a..b": the name "a..b" has an empty label` + remedy},
		{"../etc", `node list "../etc": the name "../etc" has an empty label` + remedy},
		{"n 1", `node list "n 1": the name "n 1" may not hold " "` + remedy},
		{"节点1", `node list "节点1": the name "节点1" may not hold "节"` + remedy},
		{"n\x00", `node list "n\x00": the name "n\x00" may not hold "\x00"` + remedy},
		{strings.Repeat("a", 64), `node list "` + strings.Repeat("a", 64) + `": the name "` + strings.Repeat("a", 64) + `" has a label longer than 63 characters` + remedy},
		{strings.Repeat("a,", 1<<19) + "a", `node list "` + strings.Repeat("a,", 32) + `"...: is longer than 1 MiB` + remedy},
	})
}

func TestFormatHosts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"gpu07 gpu01 gpu02 gpu04 gpu03 gpu03", "gpu[01-04,07]"},
		{"n1", "n1"},
		{"n n1 n2", "n,n[1-2]"},
		{"n10 n9 n8 n100", "n[8-10,100]"},
		{"n08 n09 n10", "n[08-10]"},
		{"n8 n09 n10", "n[8,09-10]"},
		{"n1 n01 n2 n02", "n[1,01,2,02]"},
		{"n099 n100 n101", "n[099-101]"},
		{"n99 n100", "n[99-100]"},
		{"rack1n1 rack1n2 rack2n1", "rack1n[1-2],rack2n1"},
		{"gpu01.dc1.example gpu02.dc1.example", "gpu[01-02].dc1.example"},
		{"login.dc1 login.dc2", "login.dc[1-2]"},
		{"n1-ib n2-ib n1", "n1,n[1-2]-ib"},
		{"b a", "a,b"},
		{"n00000000000000000001 n00000000000000000002", "n00000[000000000000001-000000000000002]"},
	} {
		if got := FormatHosts(strings.Fields(c.in)); got != c.want {
			t.Errorf("FormatHosts(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func TestNodeName(t *testing.T) {
	t.Parallel()
	if got, err := NodeName(" GPU-01.Example "); err != nil || got != "gpu-01.example" {
		t.Errorf("got %q, %v", got, err)
	}
	const remedy = "; use letters, digits and dashes, starting and ending with a letter or digit, for example gpu01"
	refusals(t, NodeName, [][2]string{
		{"", `node name "": is empty` + remedy},
		{"a/b", `node name "a/b": may not hold "/"` + remedy},
		{"n[1-2]", `node name "n[1-2]": may not hold "["` + remedy},
		{".", `node name ".": has an empty label` + remedy},
		{strings.Repeat("a.", 127), `node name "` + strings.Repeat("a.", 32) + `"...: is longer than 253 characters` + remedy},
	})
}

// genHost makes names that collide in prefix, number and padding as often as possible.
var genHost = rapid.Custom(func(t *rapid.T) string {
	prefix := rapid.SampledFrom([]string{"n", "gpu", "n-", "a1b", ""}).Draw(t, "prefix")
	num := fmt.Sprintf("%0*d", rapid.IntRange(1, 3).Draw(t, "width"), rapid.IntRange(0, 120).Draw(t, "num"))
	suffix := rapid.SampledFrom([]string{"", "", "-ib", ".dc1", "x"}).Draw(t, "suffix")
	if rapid.IntRange(0, 9).Draw(t, "bare") == 0 {
		num = ""
		prefix = strings.Trim(prefix, "-") + "z"
	}
	return prefix + num + suffix
})

func TestHostsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfN(genHost, 1, 60).Draw(t, "names")
		text := FormatHosts(names)
		got, err := ExpandHosts(text)
		if err != nil {
			t.Fatalf("%v printed as %q: %v", names, text, err)
		}
		slices.SortFunc(names, CompareHosts)
		names = slices.Compact(names)
		if !slices.Equal(got, names) {
			t.Fatalf("%v printed as %q, read as %v", names, text, got)
		}
		if again := FormatHosts(got); again != text {
			t.Fatalf("printing is not stable: %q, then %q", text, again)
		}
	})
}

func TestCompareHostsIsATotalOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := genHost.Draw(t, "a"), genHost.Draw(t, "b"), genHost.Draw(t, "c")
		if (CompareHosts(a, b) == 0) != (a == b) || CompareHosts(a, b) != -CompareHosts(b, a) {
			t.Fatalf("%q and %q compare as %d and %d", a, b, CompareHosts(a, b), CompareHosts(b, a))
		}
		if CompareHosts(a, b) < 0 && CompareHosts(b, c) < 0 && CompareHosts(a, c) >= 0 {
			t.Fatalf("%q < %q < %q, but not the first < the last", a, b, c)
		}
	})
}

func TestHostSetAgainstAMap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		gen := rapid.SliceOf(genHost)
		as, bs := gen.Draw(t, "a"), gen.Draw(t, "b")
		a, b := NewHostSet(as...), NewHostSet(bs...)
		inA, inB := map[string]bool{}, map[string]bool{}
		for _, n := range as {
			inA[n] = true
		}
		for _, n := range bs {
			inB[n] = true
		}
		if a.Len() != len(inA) || len(a.Names()) != len(inA) {
			t.Fatalf("%v has %d names", as, a.Len())
		}
		union, inter, minus := a.Union(b), a.Intersect(b), a.Minus(b)
		all := true
		for _, n := range slices.Concat(as, bs, []string{"other"}) {
			if a.Contains(n) != inA[n] || union.Contains(n) != (inA[n] || inB[n]) || inter.Contains(n) != (inA[n] && inB[n]) ||
				minus.Contains(n) != (inA[n] && !inB[n]) {
				t.Fatalf("%q is misplaced among %v and %v", n, as, bs)
			}
			if inB[n] && !inA[n] {
				all = false
			}
		}
		if a.ContainsAll(b) != all {
			t.Fatalf("ContainsAll of %v and %v is %v", as, bs, !all)
		}
		if a.Len() > 0 {
			if again, err := ParseHostSet(a.String()); err != nil || !slices.Equal(again.Names(), a.Names()) {
				t.Fatalf("%v printed as %q, read as %v, %v", as, a, again, err)
			}
		}
	})
	if _, err := ParseHostSet("n["); err == nil {
		t.Error("a bad list made a set")
	}
}

func FuzzHostlist(f *testing.F) {
	for _, s := range []string{"n1,n[2-4,07-09],gpu[01-16]", "n[1-999999999]", "n[1-", "]n[", "n[[1]]", "a[1-2]b[3-4]", "n[08-100].x", "login", "n[1-65536]", "n00000000000000000001"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		names, err := ExpandHosts(s)
		if err != nil {
			oneLine(t, err)
			return
		}
		if len(names) == 0 || len(names) > MaxHosts {
			t.Fatalf("%q names %d nodes", s, len(names))
		}
		for _, n := range names {
			if lowered, err := NodeName(n); err != nil || lowered != n {
				t.Fatalf("%q made the name %q: %v", s, n, err)
			}
		}
		text := FormatHosts(names)
		again, err := ExpandHosts(text)
		slices.SortFunc(names, CompareHosts)
		if err != nil || !slices.Equal(again, names) {
			t.Fatalf("%q printed as %q, read as %v, %v", s, text, again, err)
		}
	})
}
