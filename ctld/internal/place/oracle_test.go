package place

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// oracle knows the nodes and what is held on them from what the test did, and answers by going through everything.
type oracle struct {
	w     *world
	whole map[string]bool
	// shared is what is given of a card in shares.
	shared    map[string]int64
	cpus, mem map[string]int64
	busy      map[string]bool
}

func newOracle(w *world) *oracle {
	o := &oracle{w: w, whole: map[string]bool{}, shared: map[string]int64{}, cpus: map[string]int64{}, mem: map[string]int64{}, busy: map[string]bool{}}
	for _, allocs := range w.held {
		for _, a := range allocs {
			o.cpus[a.GetNode()] += int64(a.GetCpus())
			o.mem[a.GetNode()] += a.GetMemMib()
			o.busy[a.GetNode()] = true
			for _, u := range a.GetGpuUuids() {
				if a.GetVramMib() > 0 {
					o.shared[u] += a.GetVramMib() + DefaultHeadroomMiB
				} else {
					o.whole[u] = true
				}
			}
		}
	}
	return o
}

// open reports whether a node has the CPUs and all but the cards.
func (o *oracle) open(n Node, r *Request) bool {
	outside := slices.ContainsFunc(n.GPUs, func(g GPU) bool { return g.BusyOutside })
	return n.Ready && int64(n.CPUs)-o.cpus[n.Name] >= int64(r.CPUs) && n.MemMiB-o.mem[n.Name] >= r.MemMiB &&
		(!r.Exclusive || !o.busy[n.Name] && !outside) && (r.Constraint == nil || r.Constraint.Matches(n.Features))
}

// cards are those of one type that a node could give.
func (o *oracle) cards(n Node, r *Request, typ string) (list []GPU) {
	for _, g := range n.GPUs {
		if g.Type != typ || !g.Usable || g.BusyOutside || o.whole[g.UUID] || g.MemMiB < r.MinCardMiB {
			continue
		}
		if r.VRAMMiB == 0 && o.shared[g.UUID] > 0 || r.VRAMMiB > 0 && g.MemMiB-o.shared[g.UUID] < r.VRAMMiB+DefaultHeadroomMiB {
			continue
		}
		list = append(list, g)
	}
	return list
}

// most are the most cards of one type that each open node could give, the largest first.
func (o *oracle) most(r *Request, asked string) (counts []int) {
	for _, n := range o.w.nodes {
		if !o.open(n, r) {
			continue
		}
		most := 0
		for _, typ := range []string{"h100", "a100"} {
			if asked == "" || asked == typ {
				most = max(most, len(o.cards(n, r, typ)))
			}
		}
		counts = append(counts, most)
	}
	slices.SortFunc(counts, func(a, b int) int { return b - a })
	return counts
}

func (o *oracle) fits(r *Request, choice GPUChoice) bool {
	counts := o.most(r, choice.Type)
	atLeast := func(n int) int {
		k := slices.IndexFunc(counts, func(c int) bool { return c < n })
		if k < 0 {
			return len(counts)
		}
		return k
	}
	bound := r.Nodes
	if r.Total && bound == 0 {
		bound = math.MaxInt
	}
	switch {
	case !r.Total:
		return atLeast(choice.Count) >= bound
	case r.Even:
		for k := 1; k <= min(choice.Count, bound); k++ {
			if choice.Count%k == 0 && atLeast(choice.Count/k) >= k {
				return true
			}
		}
		return false
	}
	sum := 0
	for _, c := range counts[:min(len(counts), bound)] {
		sum += c
	}
	return sum >= choice.Count
}

// A request is placed if and only if it fits, and a total is on as few nodes as it fits on.
func TestPlacesWhatFits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		const nodes = 6
		for range rapid.IntRange(5, 30).Draw(t, "steps") {
			w.step(t, nodes)
		}
		o := newOracle(w)
		for range 10 {
			r := drawRequest(t, nodes)
			if len(r.DeviceIndexes)+len(r.DeviceUUIDs) > 0 {
				continue
			}
			allocs, ok := w.c.Place(&r, w.c.Eligible(&r))
			want := o.fits(&r, GPUChoice{r.GPUType, r.GPUs})
			preferred := want
			for _, alt := range r.Alternatives {
				want = want || o.fits(&r, alt)
			}
			if ok != want {
				t.Fatalf("%+v: placed %v, want %v\n%s", r, ok, want, dump(w.c))
			}
			if ok && preferred && len(r.Alternatives) > 0 && len(allocs[0].GetGpuUuids()) != r.GPUs {
				t.Fatalf("%+v: an alternative was taken although the first choice fits: %v", r, allocs)
			}
			if ok && r.Total && r.GPUType != "" {
				for fewer := 1; fewer < len(allocs); fewer++ {
					s := r
					s.Nodes = fewer
					if o.fits(&s, GPUChoice{r.GPUType, r.GPUs}) {
						t.Fatalf("%+v: on %d nodes, %d would do", r, len(allocs), fewer)
					}
				}
			}
			if idle := w.c.CouldPlace(&r, w.c.Eligible(&r)); ok && !idle {
				t.Fatalf("%+v: fits now, but not on idle nodes", r)
			}
		}
	})
}

// worth is islands touched and the weight of links among cards.
func worth(cards []GPU) (islands, weight int) {
	seen := map[int]bool{}
	for i, a := range cards {
		if a.Island == 0 {
			islands++
		} else if !seen[a.Island] {
			seen[a.Island] = true
			islands++
		}
		for _, b := range cards[:i] {
			switch {
			case a.Island > 0 && a.Island == b.Island:
				weight += 4
			case a.NUMA == b.NUMA:
				weight++
			}
		}
	}
	return islands, weight
}

// closest is the fewest islands and then the largest weight of n of the cards.
func closest(cards []GPU, n int) (islands, weight int) {
	islands = math.MaxInt
	for set := range uint64(1) << len(cards) {
		if bits.OnesCount64(set) != n {
			continue
		}
		var some []GPU
		for i := range cards {
			if set&(1<<i) != 0 {
				some = append(some, cards[i])
			}
		}
		if i, w := worth(some); i < islands || i == islands && w > weight {
			islands, weight = i, w
		}
	}
	return islands, weight
}

// waste is F(f) as its definition has it, times the sum of the weights.
func waste(typ string, size, free int) (sum int64) {
	for _, d := range someDemand {
		if (d.Type != "" && d.Type != typ) || min(d.GPUs, size) > free {
			sum += int64(free) * d.Weight
		}
	}
	return sum
}

// The node that a job gets is the best by the published order, found by going through all nodes and sets of cards.
func TestPlacesBest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		w.c.SetDemand(someDemand)
		const nodes = 7
		for range rapid.IntRange(5, 30).Draw(t, "steps") {
			w.step(t, nodes)
		}
		o := newOracle(w)
		for range 6 {
			r := Request{GPUs: rapid.IntRange(1, 4).Draw(t, "gpus"), GPUType: rapid.SampledFrom([]string{"", "h100"}).Draw(t, "type"), CPUs: 1}
			type option struct {
				node, typ string
				cost      []int64
			}
			var best *option
			for name, n := range w.nodes {
				left := 0
				for _, typ := range []string{"h100", "a100"} {
					left += len(o.cards(n, &r, typ))
				}
				for _, typ := range []string{"h100", "a100"} {
					cards := o.cards(n, &r, typ)
					if !o.open(n, &r) || r.GPUType != "" && r.GPUType != typ || len(cards) < r.GPUs {
						continue
					}
					var all []GPU
					for _, g := range n.GPUs {
						if g.Type == typ {
							all = append(all, g)
						}
					}
					islands, weight := closest(cards, r.GPUs)
					least, _ := closest(all, r.GPUs)
					opt := &option{name, typ, []int64{
						int64(islands - least), -int64(weight), cards[0].MemMiB, waste(typ, len(all), len(cards)-r.GPUs) - waste(typ, len(all), len(cards)),
						int64(left - r.GPUs), int64(n.CPUs) - o.cpus[name],
					}}
					if best == nil || cmp.Or(slices.Compare(opt.cost, best.cost), cmp.Compare(opt.node, best.node)) < 0 {
						best = opt
					}
				}
			}
			allocs, ok := w.c.Place(&r, w.c.Eligible(&r))
			if ok != (best != nil) {
				t.Fatalf("%+v: placed %v, want %v", r, ok, best)
			}
			if !ok {
				continue
			}
			n := w.nodes[allocs[0].GetNode()]
			var got []GPU
			for _, u := range allocs[0].GetGpuUuids() {
				got = append(got, n.GPUs[slices.IndexFunc(n.GPUs, func(g GPU) bool { return g.UUID == u })])
			}
			if n.Name != best.node || got[0].Type != best.typ {
				t.Fatalf("%+v: got %s of %s, want %s of %s %v\n%s", r, got[0].Type, n.Name, best.typ, best.node, best.cost, dump(w.c))
			}
			i, wt := worth(got)
			if bi, bw := closest(o.cards(n, &r, best.typ), r.GPUs); i != bi || wt != bw {
				t.Fatalf("%+v: cards %v touch %d islands with weight %d, want %d and %d", r, allocs[0].GetGpuUuids(), i, wt, bi, bw)
			}
		}
	})
}

// Where too many ways would have to be compared the greedy choice still takes whole islands first.
func TestManyIslands(t *testing.T) {
	t.Parallel()
	n := Node{Name: "n", Ready: true, CPUs: 8}
	for i := range 64 {
		n.GPUs = append(n.GPUs, GPU{UUID: fmt.Sprint(i), Index: uint32(i), Type: "h100", Island: 1 + i/4, NUMA: i / 32, Usable: true})
	}
	c := New()
	c.SetNode(n)
	for _, want := range []int{4, 8, 13, 60} {
		r := Request{GPUs: want, CPUs: 1}
		allocs, ok := c.Place(&r, c.Eligible(&r))
		if !ok || len(allocs[0].GetGpuUuids()) != want {
			t.Fatalf("%d cards: %v", want, allocs)
		}
		islands := map[int]bool{}
		for _, u := range allocs[0].GetGpuUuids() {
			var i int
			if _, err := fmt.Sscan(u, &i); err != nil {
				t.Fatal(err)
			}
			islands[i/4] = true
		}
		if len(islands) != (want+3)/4 {
			t.Errorf("%d cards touch %d islands, want %d", want, len(islands), (want+3)/4)
		}
	}
}
