package jobscript

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/fettle-hpc/fettle/proto/gres"
)

// Merge leaves one option per name: the one of the highest origin, and within an origin the last. --set is different:
// all are kept, those of lower origins first, so that later ones override earlier ones. --gpus and --gres both ask for
// GPUs, so the higher origin's one replaces the other; both from one origin are refused. --gres and --gpus-per-node
// from one origin must agree. The lists may come in any order; the result is ordered by origin, then as given.
func Merge(lists ...[]Option) ([]Option, error) {
	all := slices.Concat(lists...)
	slices.SortStableFunc(all, func(a, b Option) int { return cmp.Compare(a.Origin, b.Origin) })
	if err := gpuConflict(all); err != nil {
		return nil, err
	}
	last := make(map[string]int)
	for i, o := range all {
		last[group(o.Name)] = i
	}
	var out []Option
	for i, o := range all {
		if o.Name == OptSet || last[group(o.Name)] == i {
			out = append(out, o)
		}
	}
	return out, nil
}

// group names what an option decides.
func group(name string) string {
	if name == OptGPUs {
		return OptGRES
	}
	return name
}

// gpuConflict looks for two requests for GPUs in the origin that decides.
func gpuConflict(all []Option) error {
	var asks []Option
	for _, o := range all {
		if group(o.Name) != OptGRES {
			continue
		}
		if len(asks) > 0 && asks[0].Origin < o.Origin {
			asks = asks[:0]
		}
		asks = append(asks, o)
	}
	for i := 1; i < len(asks); i++ {
		a, b := asks[i-1], asks[i]
		switch {
		case a.Name != b.Name:
			return b.Refuse("conflicts with "+place(a), "give one of them")
		case a.Name == OptGPUs || a.Written == b.Written:
			// Given twice: the last counts, as for any option.
		case !sameGPUs(a.Value, b.Value):
			return b.Refuse("contradicts "+place(a), "give one of them")
		}
	}
	return nil
}

// place says where an option stands, for the error of another.
func place(o Option) string {
	s := plain(o.Written) + " " + gres.Quote(o.Value)
	if o.Line > 0 {
		s += " on line " + strconv.Itoa(o.Line)
	}
	return s
}

func sameGPUs(a, b string) bool {
	x, errX := gres.ParseGRESList(a)
	y, errY := gres.ParseGRESList(b)
	return errX == nil && errY == nil && slices.Equal(x, y)
}
