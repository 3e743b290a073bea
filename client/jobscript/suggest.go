package jobscript

import (
	"slices"
	"strings"
)

// maxTypo is the edit distance up to which a name counts as a typing error; short names allow less.
const maxTypo = 2

// suggest returns the option name most like the one given, or "" when none is near. Names that fettle has are preferred
// at equal distance, then earlier ones.
func suggest(origin Origin, name string) string {
	name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	if len(name) < 2 || len(name) > 64 {
		return ""
	}
	limit := maxTypo
	if len(name) <= 4 {
		limit = 1
	}
	best, bestDist := "", limit+1
	consider := func(candidate string) {
		d := distance(name, candidate)
		if len(name) >= 3 && strings.HasPrefix(candidate, name) {
			d = min(d, 1)
		}
		if d < bestDist {
			best, bestDist = candidate, d
		}
	}
	for i := range specs {
		if origin != OriginSBATCH || !slices.Contains(slurmLacks, specs[i].Name) {
			consider(specs[i].Name)
		}
	}
	if origin == OriginSBATCH {
		for i := range foreigns {
			consider(foreigns[i].name)
		}
	}
	return best
}

// distance is the number of letters to add, drop, change or swap with their neighbour to make b of a.
func distance(a, b string) int {
	before, last, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(last[j]+1, cur[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, last, cur = last, cur, before
	}
	return last[len(b)]
}
