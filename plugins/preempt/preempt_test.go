package preempt

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// on is a candidate that holds whole cards on one node, and a CPU for each.
func on(id uint64, node int, lost int64, cards ...int) Candidate {
	return Candidate{
		ID: id, Size: uint32(len(cards)), LostS: lost, Score: int64(id), Holds: []Holding{{Node: node, Cards: cards, CPUs: len(cards)}},
	}
}

// and lets a candidate hold cards on one more node.
func (c Candidate) and(node int, cards ...int) Candidate {
	c.Size += uint32(len(cards))
	c.Holds = append(slices.Clone(c.Holds), Holding{Node: node, Cards: cards, CPUs: len(cards)})
	return c
}

func names(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("n%d", i)
	}
	return out
}

// blocked is a job that needs GPUs on a number of nodes; every candidate may be stopped, each card that one holds is of use, and free
// cards are given by node.
func blocked(id uint64, nodes, gpus int, candidates []Candidate, free ...int) Job {
	j := Job{ID: id, Needs: []Need{{Nodes: nodes, GPUs: gpus}}}
	for node, f := range free {
		p := Place{Node: node, GPUs: f, CPUs: f}
		for _, c := range candidates {
			for _, h := range c.Holds {
				if h.Node == node {
					p.Cards = append(p.Cards, h.Cards...)
				}
			}
		}
		slices.Sort(p.Cards)
		p.Cards = slices.Compact(p.Cards)
		j.Needs[0].Places = append(j.Needs[0].Places, p)
	}
	for i := range candidates {
		j.Candidates = append(j.Candidates, i)
	}
	return j
}

func TestSelect(t *testing.T) {
	t.Parallel()
	gang := on(1, 0, 100, 0, 1).and(1, 0, 1)
	for name, c := range map[string]struct {
		nodes, gpus int
		free        []int
		candidates  []Candidate
		victims     []uint64
		on          []int
		reason      string
	}{
		"the least lost":                         {1, 1, []int{0}, []Candidate{on(1, 0, 50, 0), on(2, 0, 20, 1), on(3, 0, 90, 2)}, []uint64{2}, []int{0}, "job 2 makes room on n0 and loses 20 GPU-seconds"},
		"one dear rather than two dearer":        {1, 2, []int{0}, []Candidate{on(1, 0, 50, 0), on(2, 0, 60, 1), on(3, 0, 50, 2, 3)}, []uint64{3}, []int{0}, ""},
		"two cheap rather than one dear":         {1, 2, []int{0}, []Candidate{on(1, 0, 10, 0), on(2, 0, 20, 1), on(3, 0, 50, 2, 3)}, []uint64{1, 2}, []int{0}, "jobs 1 and 2"},
		"beside what is free":                    {1, 2, []int{1}, []Candidate{on(1, 0, 50, 0), on(3, 0, 30, 2, 3)}, []uint64{1}, []int{0}, ""},
		"the cheaper node":                       {1, 1, []int{0, 0}, []Candidate{on(1, 0, 50, 0), on(2, 1, 40, 0)}, []uint64{2}, []int{1}, "on n1"},
		"at one price the smaller set":           {1, 2, []int{0, 0}, []Candidate{on(1, 0, 10, 0), on(2, 0, 10, 1), on(3, 1, 10, 0, 1)}, []uint64{3}, []int{1}, ""},
		"at one price and size the least urgent": {1, 1, []int{0, 0}, []Candidate{on(1, 0, 10, 0), on(2, 1, 10, 1)}, []uint64{2}, []int{1}, ""},
		"not half a job":                         {1, 3, []int{0}, []Candidate{on(1, 0, 1, 0), on(2, 0, 1, 1)}, nil, nil, "room on 0 of the 1 nodes"},
		"nobody to stop":                         {1, 1, []int{0}, nil, nil, nil, "no running job may be stopped"},
		"fits already":                           {1, 1, []int{1}, []Candidate{on(1, 0, 0, 0)}, nil, []int{0}, "without stopping anybody else"},
		"gang: not half of one":                  {2, 2, []int{0, 0}, []Candidate{on(1, 0, 1, 0, 1), on(2, 1, 1, 0)}, nil, nil, "room on 1 of the 2 nodes"},
		"gang: the cheapest nodes":               {2, 1, []int{0, 0, 0}, []Candidate{on(1, 0, 9, 0), on(2, 1, 1, 0), on(3, 2, 2, 0)}, []uint64{2, 3}, []int{1, 2}, "jobs 2 and 3 makes room on 2 nodes and loses 3"},
		"gang: a free node costs nothing":        {2, 1, []int{0, 1, 0}, []Candidate{on(1, 0, 9, 0), on(3, 2, 2, 0)}, []uint64{3}, []int{1, 2}, ""},
		"gang: a victim over nodes is paid once": {2, 2, []int{0, 0, 0, 0}, []Candidate{gang, on(2, 2, 120, 0, 1), on(3, 3, 120, 0, 1)}, []uint64{1}, []int{0, 1}, "loses 400 GPU-seconds"},
		"gang: what is stopped for one node is not needed for the other": {
			2, 2, []int{1, 0}, []Candidate{on(1, 0, 1, 0), on(2, 1, 90, 0, 1).and(0, 1)}, []uint64{2}, []int{0, 1}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := &Request{Nodes: names(len(c.free)), Candidates: c.candidates, Jobs: []Job{blocked(9, c.nodes, c.gpus, c.candidates, c.free...)}}
			got := Select(req)
			if len(got) != 1 || got[0].Job != 9 || !slices.Equal(got[0].Victims, c.victims) || !slices.Equal(got[0].Nodes, c.on) {
				t.Errorf("selected %+v, want victims %v on nodes %v", got, c.victims, c.on)
			}
			if !strings.Contains(got[0].Reason, c.reason) {
				t.Errorf("reason %q does not say %q", got[0].Reason, c.reason)
			}
			if err := Check(req, got); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRestartCounts: a job that saves on request still pays for coming back.
func TestRestartCounts(t *testing.T) {
	t.Parallel()
	quick, slow := on(1, 0, 100, 0), on(2, 0, 0, 1)
	slow.RestartS = 120
	req := &Request{Nodes: names(1), Candidates: []Candidate{quick, slow}}
	req.Jobs = []Job{blocked(9, 1, 1, req.Candidates, 0)}
	if got := Select(req); !slices.Equal(got[0].Victims, []uint64{1}) {
		t.Errorf("selected %+v, want job 1, which loses 100 s and not 120", got)
	}
}

// TestSharedCards: a card is free when all who share it are stopped, and one that somebody else shares never is.
func TestSharedCards(t *testing.T) {
	t.Parallel()
	candidates := []Candidate{on(1, 0, 10, 0), on(2, 0, 10, 0), on(3, 0, 50, 1), on(4, 0, 1, 2)}
	job := blocked(9, 1, 1, candidates, 0)
	job.Needs[0].Places[0].Cards = []int{0, 1} // who shares card 2 beside job 4 may not be stopped
	req := &Request{Nodes: names(1), Candidates: candidates, Jobs: []Job{job}}
	if got := Select(req); !slices.Equal(got[0].Victims, []uint64{1, 2}) {
		t.Errorf("selected %+v, want both who share card 0", got)
	}
	req.Jobs[0].Candidates = []int{0, 2}
	if got := Select(req); !slices.Equal(got[0].Victims, []uint64{3}) {
		t.Errorf("selected %+v, want job 3, as job 2 may not be stopped", got)
	}
}

// TestCPUsAndMemory: cards alone do not make room.
func TestCPUsAndMemory(t *testing.T) {
	t.Parallel()
	candidates := []Candidate{
		{ID: 1, Size: 1, LostS: 1, Holds: []Holding{{Cards: []int{0}, CPUs: 1, MemoryMiB: 10}}},
		{ID: 2, Size: 1, LostS: 5, Holds: []Holding{{CPUs: 8, MemoryMiB: 100}}},
		{ID: 3, Size: 1, LostS: 9, Holds: []Holding{{CPUs: 8, MemoryMiB: 900}}},
	}
	place := Place{CPUs: 1, MemoryMiB: 50, Cards: []int{0}}
	job := Job{ID: 9, Candidates: []int{0, 1, 2}, Needs: []Need{{Nodes: 1, GPUs: 1, CPUs: 8, MemoryMiB: 60, Places: []Place{place}}}}
	req := &Request{Nodes: names(1), Candidates: candidates, Jobs: []Job{job}}
	if got := Select(req); !slices.Equal(got[0].Victims, []uint64{1, 2}) {
		t.Errorf("selected %+v, want jobs 1 and 2", got)
	}
	req.Jobs[0].Needs[0].MemoryMiB = 600
	if got := Select(req); !slices.Equal(got[0].Victims, []uint64{1, 3}) {
		t.Errorf("selected %+v, want jobs 1 and 3 for their memory", got)
	}
}

// TestNeeds: of several ways to run, the one that loses least; among equals the preferred one.
func TestNeeds(t *testing.T) {
	t.Parallel()
	candidates := []Candidate{on(1, 0, 50, 0), on(2, 1, 40, 0)}
	job := blocked(9, 1, 1, candidates, 0, 0)
	a, b := job.Needs[0], job.Needs[0]
	a.Places, b.Places = a.Places[:1], b.Places[1:]
	job.Needs = []Need{a, b}
	req := &Request{Nodes: names(2), Candidates: candidates, Jobs: []Job{job}}
	if got := Select(req)[0]; got.Need != 1 || !slices.Equal(got.Victims, []uint64{2}) {
		t.Errorf("selected %+v, want the second need", got)
	}
	req.Candidates[1].LostS, req.Candidates[1].Score = 50, req.Candidates[0].Score
	if got := Select(req)[0]; got.Need != 0 {
		t.Errorf("selected %+v, want the preferred need", got)
	}
}

// TestLeftovers: what the victim of one job leaves over serves the next ones before anybody else is stopped.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	candidates := []Candidate{on(1, 0, 10, 0, 1, 2, 3).and(1, 0), on(2, 1, 100, 1), on(3, 1, 120, 2)}
	req := &Request{Nodes: names(2), Candidates: candidates}
	for id := range uint64(6) {
		gpus := 1
		if id == 0 {
			gpus = 2
		}
		req.Jobs = append(req.Jobs, blocked(id+10, 1, gpus, candidates, 0, 0))
	}
	want := [][]uint64{{1}, nil, nil, nil, {2}, {3}}
	got := Select(req)
	for i, s := range got {
		if !slices.Equal(s.Victims, want[i]) || len(s.Nodes) != 1 {
			t.Errorf("job %d: selected %+v, want victims %v", s.Job, s, want[i])
		}
	}
	if err := Check(req, got); err != nil {
		t.Error(err)
	}
}

// drawRequest is a small cluster full of jobs, some over several nodes, some sharing cards.
func drawRequest(t *rapid.T, jobs, most int) *Request {
	nodes := rapid.IntRange(1, 4).Draw(t, "nodes")
	req := &Request{Nodes: names(nodes)}
	for id := range rapid.IntRange(0, 7).Draw(t, "candidates") {
		c := Candidate{
			ID: uint64(id + 1), Size: rapid.Uint32Range(0, 8).Draw(t, "size"), LostS: rapid.Int64Range(0, 5).Draw(t, "lost"),
			RestartS: rapid.Int64Range(0, 2).Draw(t, "restart"), Score: rapid.Int64Range(0, 3).Draw(t, "score"),
		}
		for _, n := range rapid.SliceOfNDistinct(rapid.IntRange(0, nodes-1), 1, min(most, nodes), rapid.ID[int]).Draw(t, "on") {
			c.Holds = append(c.Holds, Holding{
				Node: n, Cards: rapid.SliceOfNDistinct(rapid.IntRange(0, 3), 0, 3, rapid.ID[int]).Draw(t, "cards"),
				CPUs: rapid.IntRange(0, 4).Draw(t, "cpus"), MemoryMiB: rapid.Int64Range(0, 4).Draw(t, "memory"),
			})
		}
		req.Candidates = append(req.Candidates, c)
	}
	for id := range jobs {
		j := Job{ID: uint64(100 + id)}
		for range rapid.IntRange(1, 2).Draw(t, "needs") {
			n := Need{
				Nodes: rapid.IntRange(1, 3).Draw(t, "k"), GPUs: rapid.IntRange(0, 4).Draw(t, "gpus"),
				CPUs: rapid.IntRange(0, 5).Draw(t, "need cpus"), MemoryMiB: rapid.Int64Range(0, 5).Draw(t, "need memory"),
			}
			for node := range nodes {
				if rapid.IntRange(0, 5).Draw(t, "left out") == 0 {
					continue
				}
				n.Places = append(n.Places, Place{
					Node: node, GPUs: rapid.IntRange(0, 2).Draw(t, "free"), CPUs: rapid.IntRange(0, 2).Draw(t, "free cpus"),
					MemoryMiB: rapid.Int64Range(0, 2).Draw(t, "free memory"),
					Cards:     rapid.SliceOfNDistinct(rapid.IntRange(0, 3), 0, 4, rapid.ID[int]).Draw(t, "usable"),
				})
			}
			j.Needs = append(j.Needs, n)
		}
		for c := range req.Candidates {
			if rapid.IntRange(0, 4).Draw(t, "protected") > 0 {
				j.Candidates = append(j.Candidates, c)
			}
		}
		req.Jobs = append(req.Jobs, j)
	}
	return req
}

// cheapestOfAll tries every set of victims for the first job of a request: the least cost, and whether there is any.
func cheapestOfAll(req *Request) (uint64, bool) {
	j, s := &req.Jobs[0], newState(req)
	best, found := uint64(math.MaxUint64), false
	for bits := range 1 << len(j.Candidates) {
		var cost uint64
		gone := map[int]bool{}
		for i, c := range j.Candidates {
			if bits&(1<<i) != 0 {
				gone[c] = true
				cost += req.Candidates[c].Cost()
			}
		}
		for k := range j.Needs {
			n, fit := &j.Needs[k], 0
			for i := range n.Places {
				if s.fits(n, &n.Places[i], func(c int) bool { return gone[c] }) {
					fit++
				}
			}
			if fit >= n.Nodes {
				best, found = min(best, cost), true
			}
		}
	}
	return best, found
}

func costOf(req *Request, victims []uint64) (cost uint64) {
	for i := range req.Candidates {
		if slices.Contains(victims, req.Candidates[i].ID) {
			cost += req.Candidates[i].Cost()
		}
	}
	return cost
}

// TestAgainstAllSets: whenever some set of victims makes room one is found, and nothing is done otherwise. On one node, and for gangs
// whose victims hold one node each, no set is cheaper.
func TestAgainstAllSets(t *testing.T) {
	t.Parallel()
	for most := 1; most <= 3; most++ {
		t.Run(fmt.Sprintf("victims on up to %d nodes", most), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				req := drawRequest(t, 1, most)
				got := Select(req)[0]
				cost, possible := cheapestOfAll(req)
				if possible != (len(got.Nodes) > 0) {
					t.Fatalf("selected %+v; possible: %v", got, possible)
				}
				if !possible {
					if len(got.Victims) > 0 || got.Reason == "" {
						t.Fatalf("selected %+v though nothing helps", got)
					}
					return
				}
				if err := Check(req, []Selection{got}); err != nil {
					t.Fatal(err)
				}
				exact := most == 1
				for _, n := range req.Jobs[0].Needs {
					exact = exact || most > 1 && n.Nodes == 1 && len(req.Jobs[0].Needs) == 1
				}
				if paid := costOf(req, got.Victims); paid < cost || exact && paid != cost {
					t.Fatalf("selected %+v for %d, the least is %d", got, paid, cost)
				}
			})
		})
	}
}

// TestAnswersPassTheCheck: whatever is asked for several jobs at once, the answer is sound as a whole, and the same again.
func TestAnswersPassTheCheck(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		req := drawRequest(t, rapid.IntRange(1, 4).Draw(t, "jobs"), 3)
		got := Select(req)
		if err := Check(req, got); err != nil {
			t.Fatalf("%v: %+v", err, got)
		}
		if again := Select(req); !reflect.DeepEqual(got, again) {
			t.Fatalf("asked twice: %+v and %+v", got, again)
		}
		back := FromProto(req.ToProto())
		if again := AnswerFromProto(AnswerToProto(Select(back))); fmt.Sprint(again) != fmt.Sprint(got) {
			t.Fatalf("over the wire: %+v, want %+v", again, got)
		}
	})
}

// TestManyOnOneNode: where not all subsets can be searched the answer is still sound.
func TestManyOnOneNode(t *testing.T) {
	t.Parallel()
	req := &Request{Nodes: names(1)}
	for id := range uint64(80) {
		req.Candidates = append(req.Candidates, on(id+1, 0, int64(id*id%17+1), int(id)))
	}
	req.Jobs = []Job{blocked(900, 1, 30, req.Candidates, 0)}
	got := Select(req)
	if err := Check(req, got); err != nil || len(got[0].Victims) != 30 {
		t.Errorf("%v, %d victims, want 30", err, len(got[0].Victims))
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	candidates := []Candidate{on(1, 0, 10, 0), on(2, 0, 10, 1), on(3, 1, 10, 0), on(4, 1, 10, 1)}
	req := &Request{Nodes: names(2), Candidates: candidates, Jobs: []Job{blocked(8, 1, 1, candidates, 0, 0), blocked(9, 1, 2, candidates, 0, 0)}}
	req.Jobs[0].Candidates = []int{0, 2}
	good := Selection{Job: 8, Victims: []uint64{1}, Nodes: []int{0}}
	for want, answer := range map[string][]Selection{
		"":                                       {good, {Job: 9, Victims: []uint64{3, 4}, Nodes: []int{1}}},
		"job 7 is not among":                     {{Job: 7}},
		"or comes twice":                         {good, good},
		"need 1 of 1":                            {{Job: 8, Need: 1, Victims: []uint64{1}, Nodes: []int{0}}},
		"job 2 may not be stopped for it":        {{Job: 8, Victims: []uint64{2}, Nodes: []int{0}}},
		"job 77 may not be stopped for it":       {{Job: 8, Victims: []uint64{77}, Nodes: []int{0}}},
		"job 1 is stopped twice":                 {{Job: 8, Victims: []uint64{1, 1}, Nodes: []int{0}}},
		"job 9: job 1 is stopped twice":          {good, {Job: 9, Victims: []uint64{1, 2}, Nodes: []int{0}}},
		"2 nodes, it needs 1":                    {{Job: 8, Victims: []uint64{1}, Nodes: []int{0, 1}}},
		"node number 5":                          {{Job: 8, Victims: []uint64{1}, Nodes: []int{5}}},
		"it does not fit when job 3 stop":        {{Job: 8, Victims: []uint64{3}, Nodes: []int{0}}},
		"job 3 is stopped for nothing":           {{Job: 8, Victims: []uint64{1, 3}, Nodes: []int{0}}},
		"job 9: it does not fit when job 2 stop": {good, {Job: 9, Victims: []uint64{2}, Nodes: []int{0}}},
	} {
		err := Check(req, answer)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestCost(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		candidate Candidate
		want      uint64
	}{
		{Candidate{Size: 8, LostS: 100, RestartS: 20}, 960},
		{Candidate{LostS: 5}, 5},
		{Candidate{Size: 1, LostS: -5, RestartS: -1}, 0},
		{Candidate{Size: math.MaxUint32, LostS: math.MaxInt64, RestartS: math.MaxInt64}, maxSize << 32},
	} {
		if got := c.candidate.Cost(); got != c.want {
			t.Errorf("%+v costs %d, want %d", c.candidate, got, c.want)
		}
	}
}

// full is a cluster of 5,000 nodes with eight cards, full of jobs of one to eight cards and some over two nodes.
func full() *Request {
	const nodes = 5000
	req := &Request{Nodes: names(nodes)}
	id := uint64(0)
	for n := range nodes {
		for card := 0; card < 8; {
			size := min(8-card, []int{1, 1, 2, 4, 8}[int(id)%5])
			cards := make([]int, size)
			for i := range cards {
				cards[i] = card + i
			}
			id++
			c := on(id, n, int64(id*7919%3600), cards...)
			card += size
			req.Candidates = append(req.Candidates, c)
		}
	}
	free := make([]int, nodes)
	for id, shape := range [][2]int{{1, 8}, {1, 4}, {4, 8}, {16, 8}, {1, 1}, {2, 4}, {1, 6}, {64, 8}} {
		j := Job{ID: uint64(1_000_000 + id), Needs: []Need{{Nodes: shape[0], GPUs: shape[1]}}}
		for node := range free {
			j.Needs[0].Places = append(j.Needs[0].Places, Place{Node: node, CPUs: 64, Cards: []int{0, 1, 2, 3, 4, 5, 6, 7}})
		}
		for i := range req.Candidates {
			j.Candidates = append(j.Candidates, i)
		}
		req.Jobs = append(req.Jobs, j)
	}
	return req
}

// BenchmarkSelect5000 serves eight blocked jobs on 40,000 busy cards.
func BenchmarkSelect5000(b *testing.B) {
	req := full()
	for b.Loop() {
		if got := Select(req); len(got[7].Nodes) != 64 {
			b.Fatal(got[7])
		}
	}
}

// BenchmarkCheck5000 checks the answer to that.
func BenchmarkCheck5000(b *testing.B) {
	req := full()
	got := Select(req)
	for b.Loop() {
		if err := Check(req, got); err != nil {
			b.Fatal(err)
		}
	}
}
