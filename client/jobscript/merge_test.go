package jobscript

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func flag(t *testing.T, origin Origin, pairs ...string) []Option {
	t.Helper()
	var out []Option
	for i := 0; i < len(pairs); i += 2 {
		o, ok, err := NewOption(origin, pairs[i], pairs[i+1])
		if err != nil || !ok {
			t.Fatalf("%s=%s: %v", pairs[i], pairs[i+1], err)
		}
		out = append(out, o)
	}
	return out
}

func TestMergePrecedence(t *testing.T) {
	t.Parallel()
	defaults := flag(t, OriginDefault, "partition", "main", "priority", "7", "cpus", "1", "set", "a=0")
	file, err := Parse("j.sh", []byte("#!/bin/sh\n#FETTLE -c 4 --set a=1\n#SBATCH -p gpu -c 2 -t 60 -J x\n#FETTLE --set b=1 --no-requeue\n"))
	if err != nil {
		t.Fatal(err)
	}
	flags := flag(t, OriginFlag, "time", "30", "set", "a=2", "requeue", "", "J", "y", "job-name", "z")
	const want = "default:priority=7 default:set=a=0 #SBATCH:partition=gpu@3 #FETTLE:cpus=4@2 #FETTLE:set=a=1@2 #FETTLE:set=b=1@4 " +
		":time=30 :set=a=2 :requeue=true :job-name=z"
	for _, lists := range [][][]Option{{defaults, file.Options, flags}, {flags, file.Options, defaults}} {
		got, err := Merge(lists...)
		if err != nil || flat(got) != want {
			t.Errorf("got %s, %v\nwant %s", flat(got), err, want)
		}
	}
	if got, err := Merge(); err != nil || len(got) != 0 {
		t.Errorf("nothing merges to %v, %v", got, err)
	}
}

func TestMergeGPUs(t *testing.T) {
	t.Parallel()
	file := func(text string) []Option {
		f, err := lines(text)
		if err != nil {
			t.Fatal(err)
		}
		return f.Options
	}
	for _, c := range []struct {
		name    string
		options []Option
		want    string
	}{
		{"a flag replaces the other way to ask", slices.Concat(file("#SBATCH --gres=gpu:a100:4"), flag(t, OriginFlag, "gpus", "2")), ":gpus=2"},
		{"none takes the GPUs away", slices.Concat(file("#SBATCH --gpus=4"), flag(t, OriginFlag, "gres", "none")), ":gres=none"},
		{"#FETTLE beats #SBATCH", file("#FETTLE --gpus 2\n#SBATCH --gres=gpu:4"), "#FETTLE:gpus=2@2"},
		{"the same twice", file("#SBATCH --gres=gpu:4 --gpus-per-node=4"), "#SBATCH:gres=gpu:4@2"},
		{"the last of one spelling", file("#SBATCH --gpus=4 -G 2"), "#SBATCH:gpus=2@2"},
		{"a quarrel below the deciding origin", slices.Concat(file("#SBATCH --gres=gpu:4 --gpus=1"), flag(t, OriginFlag, "gpus", "2")), ":gpus=2"},
	} {
		if got, err := Merge(c.options); err != nil || flat(got) != c.want {
			t.Errorf("%s: got %s, %v, want %s", c.name, flat(got), err, c.want)
		}
	}
	for in, want := range map[string]string{
		"#SBATCH --gres=gpu:4\n#SBATCH --gpus=4":               `j.sh:3: #SBATCH --gpus "4": conflicts with --gres "gpu:4" on line 2; give one of them`,
		"#SBATCH --gres=gpu:a100:2\n#SBATCH --gpus-per-node=4": `j.sh:3: #SBATCH --gpus-per-node "gpu:4": contradicts --gres "gpu:a100:2" on line 2; give one of them`,
	} {
		if got, err := Merge(file(in)); err == nil || err.Error() != want {
			t.Errorf("%q: got %s, %v\nwant %s", in, flat(got), err, want)
		}
	}
	if _, err := Merge(flag(t, OriginFlag, "gpus", "4", "gres", "gpu:4")); err == nil || err.Error() != `--gres "gpu:4": conflicts with --gpus "4"; give one of them` {
		t.Errorf("flags: %v", err)
	}
}

// TestMergeAgainstAModel checks every option against the plain rule: highest origin, then last.
func TestMergeAgainstAModel(t *testing.T) {
	t.Parallel()
	gen := rapid.Custom(func(t *rapid.T) Option {
		return Option{
			Name:   rapid.SampledFrom([]string{OptTime, OptNodes, OptSet, OptHold, OptGPUs}).Draw(t, "name"),
			Value:  rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "value"),
			Origin: Origin(rapid.IntRange(int(OriginDefault), int(OriginFlag)).Draw(t, "origin")),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOf(gen).Draw(t, "options")
		want, sets := map[string]Option{}, 0
		for origin := OriginDefault; origin <= OriginFlag; origin++ {
			for _, o := range in {
				if o.Origin == origin {
					want[o.Name] = o
					if o.Name == OptSet {
						sets++
					}
				}
			}
		}
		before := slices.Clone(in)
		got, err := Merge(in)
		if err != nil || !slices.Equal(in, before) {
			t.Fatalf("%v, or the input changed", err)
		}
		for _, o := range got {
			if o.Name != OptSet && o != want[o.Name] {
				t.Fatalf("%+v won over %+v", o, want[o.Name])
			}
			if o.Name == OptSet {
				sets--
			}
		}
		if o, ok := Find(got, OptSet); sets != 0 || ok && o != want[OptSet] {
			t.Fatalf("--set: %d lost, last %+v, want %+v", sets, o, want[OptSet])
		}
		if again, err := Merge(got); err != nil || !slices.Equal(again, got) {
			t.Fatalf("merging twice changes the result")
		}
	})
}
