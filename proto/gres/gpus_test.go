package gres

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// refusals runs a table of inputs with the exact lines that refuse them.
func refusals[T any](t *testing.T, parse func(string) (T, error), cases [][2]string) {
	t.Helper()
	for _, c := range cases {
		got, err := parse(c[0])
		if err == nil {
			t.Errorf("%q was read as %v", c[0], got)
			continue
		}
		oneLine(t, err)
		if err.Error() != c[1] {
			t.Errorf("%q\n got %s\nwant %s", c[0], err, c[1])
		}
	}
}

func TestParseGRES(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]GPUs{
		"gpu":                            {"", 1},
		"gpu:4":                          {"", 4},
		"GPU:H100:4":                     {"h100", 4},
		" gpu:h100 ":                     {"h100", 1},
		"gpu:4090:2":                     {"4090", 2},
		"gpu:1g.5gb:7":                   {"1g.5gb", 7},
		"gpu:rtx_a6000-ada:64":           {"rtx_a6000-ada", 64},
		"gpu:h100:0008":                  {"h100", 8},
		"none":                           {},
		"gpu:" + strings.Repeat("a", 64): {strings.Repeat("a", 64), 1},
	} {
		if got, err := ParseGRES(in); err != nil || got != want {
			t.Errorf("ParseGRES(%q) = %v, %v", in, got, err)
		}
		if got, err := ParseNodeGRES(in); err != nil || got != want {
			t.Errorf("ParseNodeGRES(%q) = %v, %v", in, got, err)
		}
	}
	const remedy = "; use gpu:N or gpu:TYPE:N, for example gpu:4 or gpu:h100:4"
	const only = "; gpu is the only generic resource" + remedy
	refusals(t, ParseGRES, [][2]string{
		{"", `gres "": is empty` + remedy},
		{"gpu:", `gres "gpu:": the count is missing` + remedy},
		{"gpu:h100:", `gres "gpu:h100:": the count is missing` + remedy},
		{"gpu::4", `gres "gpu::4": the type is empty` + remedy},
		{"gpu:0", `gres "gpu:0": the count is zero; leave the option out for a job without GPUs`},
		{"gpu:-1", `gres "gpu:-1": the count "-1" is not a whole number` + remedy},
		{"gpu:1.5", `gres "gpu:1.5": the count "1.5" is not a whole number` + remedy},
		{"gpu:h100:x", `gres "gpu:h100:x": the count "x" is not a whole number` + remedy},
		{"gpu:4294967296", `gres "gpu:4294967296": more than 64 GPUs per node` + remedy},
		{"gpu:99999999999999999999999", `gres "gpu:99999999999999999999999": more than 64 GPUs per node` + remedy},
		{"gpu:h100:4:8", `gres "gpu:h100:4:8": has too many parts` + remedy},
		{"gpu:h 100:4", `gres "gpu:h 100:4": the type may not hold " "` + remedy},
		{"gpu:-h100:4", `gres "gpu:-h100:4": the type does not start with a letter or a digit` + remedy},
		{"gpu:显卡:1", `gres "gpu:显卡:1": the type does not start with a letter or a digit` + remedy},
		{"gpu:" + strings.Repeat("a", 65), `gres "gpu:` + strings.Repeat("a", 60) + `"...: the type is longer than 64 characters` + remedy},
		{"gpus:4", `gres "gpus:4": unknown resource "gpus"; did you mean "gpu"?` + strings.Replace(remedy, ";", "", 1)},
		{"shard:2", `gres "shard:2": unknown resource "shard"` + only},
		{"4", `gres "4": unknown resource "4"` + only},
		{"gpu:2,shard:1", `gres "gpu:2,shard:1": unknown resource "shard"` + only},
		{"gpu:2,", `gres "gpu:2,": has an empty item` + remedy},
		{"gpu:h100:2,gpu:a100:2", `gres "gpu:h100:2,gpu:a100:2": lists 2 kinds of GPU where one is possible; ask for one type, or leave the type out: gpu:N`},
		{"gpu:\x1b[2J", `gres "gpu:\x1b[2J": the type does not start with a letter or a digit` + remedy},
	})
	refusals(t, ParseNodeGRES, [][2]string{
		{"gpu:h100:2,gpu:a100:2", `node gres "gpu:h100:2,gpu:a100:2": lists 2 kinds of GPU where one is possible; declare one type per node, or leave the type out: gpu:N`},
	})
}

func TestParseGPUs(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]GPUs{
		"4": {"", 4}, "h100:4": {"h100", 4}, "H100": {"h100", 1}, "65536": {"", 65536}, "4090:1": {"4090", 1},
	} {
		if got, err := ParseGPUs(in); err != nil || got != want {
			t.Errorf("ParseGPUs(%q) = %v, %v", in, got, err)
		}
	}
	const remedy = "; use N or TYPE:N, for example 4 or h100:4"
	refusals(t, ParseGPUs, [][2]string{
		{"", `gpus "": is empty` + remedy},
		{"0", `gpus "0": the count is zero; leave the option out for a job without GPUs`},
		{"-1", `gpus "-1": the count "-1" is not a whole number` + remedy},
		{"1.5", `gpus "1.5": the count "1.5" is not a whole number` + remedy},
		{"65537", `gpus "65537": more than 65536 GPUs per job` + remedy},
		{"gpu:4", `gpus "gpu:4": "gpu:" belongs to --gres` + remedy},
		{"a100:1,h100:1", `gpus "a100:1,h100:1": lists several kinds of GPU where one is possible` + remedy},
	})
	refusals(t, ParseGPUsPerNode, [][2]string{
		{"65", `gpus per node "65": more than 64 GPUs per node` + remedy},
	})
}

func TestSplitGPUsOverNodes(t *testing.T) {
	t.Parallel()
	if got, err := (GPUs{"h100", 8}).Split(2); err != nil || got != (GPUs{"h100", 4}) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := (GPUs{Count: 3}).Split(0); err != nil || got != (GPUs{Count: 3}) {
		t.Errorf("got %v, %v", got, err)
	}
	_, err := (GPUs{"h100", 5}).Split(2)
	const want = `gpus "h100:5": cannot be shared evenly by 2 nodes; ask for a multiple of 2, or say gpus per node with --gpus-per-node`
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

func TestParseType(t *testing.T) {
	t.Parallel()
	if got, err := ParseType(" H100-80GB "); err != nil || got != "h100-80gb" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, in := range []string{"", ".x", "a b", "a:b", strings.Repeat("a", 65)} {
		if _, err := ParseType(in); err == nil {
			t.Errorf("%q accepted", in)
		}
	}
}

var genType = rapid.StringMatching(`[a-z0-9][a-z0-9._-]{0,20}`)

func TestGPUsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := GPUs{Count: rapid.IntRange(0, MaxGPUsPerNode).Draw(t, "count")}
		if want.Count > 0 && rapid.Bool().Draw(t, "typed") {
			want.Type = genType.Draw(t, "type")
		}
		if got, err := ParseGRES(want.String()); err != nil || got != want {
			t.Fatalf("%q read as %v, %v", want.String(), got, err)
		}
		if want.Count > 0 {
			short := strings.TrimPrefix(want.String(), "gpu:")
			if got, err := ParseGPUs(short); err != nil || got != want {
				t.Fatalf("%q read as %v, %v", short, got, err)
			}
		}
	})
}

func FuzzGRES(f *testing.F) {
	for _, s := range []string{"gpu", "gpu:4", "gpu:h100:4", "none", "gpu:4090:1", "gpu:,", "h100:4", "4", "gpu:-1", "gpu:1e9", "\xff:\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, parse := range []func(string) (GPUs, error){ParseGRES, ParseNodeGRES, ParseGPUs, ParseGPUsPerNode} {
			g, err := parse(s)
			if err != nil {
				oneLine(t, err)
				continue
			}
			if g.Count < 0 || g.Count > MaxGPUsPerJob || g.Type != strings.ToLower(g.Type) {
				t.Fatalf("%q read as %v", s, g)
			}
			if g.Count <= MaxGPUsPerNode {
				if again, err := ParseGRES(g.String()); err != nil || again != g {
					t.Fatalf("%q read as %v, printed as %q, read back as %v, %v", s, g, g.String(), again, err)
				}
			}
		}
	})
}
