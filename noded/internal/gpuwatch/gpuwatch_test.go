package gpuwatch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// table is a process table: parents by pid.
type table map[int]int

func (p table) Parent(pid int) (int, bool) { parent, ok := p[pid]; return parent, ok }

func (p table) Name(pid int) string {
	if _, ok := p[pid]; !ok {
		return ""
	}
	return fmt.Sprint("prog", pid)
}

// group is a cgroup.
type group []int

func (g group) Pids() ([]int, error) {
	if g == nil {
		return nil, errors.New("no group")
	}
	return g, nil
}

func key(job uint64) nodemachine.Key { return nodemachine.Key{Job: job, Attempt: 1, Fence: job} }

// procs reads "PID:MIB", and "PID:MIB/g" for a process that draws.
func procs(t *testing.T, list ...string) []*fettlev1.GPUProcess {
	t.Helper()
	var out []*fettlev1.GPUProcess
	for _, s := range list {
		p := &fettlev1.GPUProcess{}
		text, kind, _ := strings.Cut(s, "/")
		if _, err := fmt.Sscanf(text, "%d:%d", &p.Pid, &p.MemoryMib); err != nil {
			t.Fatal(err)
		}
		p.Graphics = kind == "g"
		out = append(out, p)
	}
	return out
}

func reading(t *testing.T, uuid string, used int64, list ...string) *fettlev1.GPUReading {
	t.Helper()
	return &fettlev1.GPUReading{Uuid: uuid, MemoryUsedMib: &used, Processes: procs(t, list...)}
}

// rounds numbers rounds.
type rounds struct {
	t     *testing.T
	w     *Watch
	n     uint64
	tree  table
	cards []*fettlev1.GPU
}

func newRounds(t *testing.T, change func(*Config)) *rounds {
	t.Helper()
	r := &rounds{t: t, tree: table{}}
	cfg := Config{ToleranceMiB: 512, TolerancePercent: 10, IdleMiB: 1024, Processes: r.tree}
	if change != nil {
		change(&cfg)
	}
	r.w = New(cfg)
	return r
}

// look takes a new round and returns what is to be ended and what is in use, such as "u0: 7 prog7 300; u1: +2048".
func (r *rounds) look(attempts []Attempt, readings ...*fettlev1.GPUReading) (ended []nodemachine.Key, busy string) {
	r.t.Helper()
	r.n++
	over, marked := r.w.Round(r.n, readings, r.cards, attempts)
	for _, o := range over {
		ended = append(ended, o.Key)
	}
	return ended, describe(marked)
}

func describe(marked []*fettlev1.GPUReading) string {
	var parts []string
	for _, m := range marked {
		var words []string
		for _, p := range m.GetForeign() {
			words = append(words, strings.TrimSpace(fmt.Sprintf("%d %s %d", p.GetPid(), p.GetName(), p.GetMemoryMib())))
		}
		if m.GetForeignMemoryMib() > 0 {
			words = append(words, fmt.Sprintf("+%d", m.GetForeignMemoryMib()))
		}
		if len(words) > 0 {
			parts = append(parts, m.GetUuid()+": "+strings.Join(words, ", "))
		}
	}
	return strings.Join(parts, "; ")
}

func (r *rounds) want(attempts []Attempt, ended []nodemachine.Key, busy string, readings ...*fettlev1.GPUReading) {
	r.t.Helper()
	gotEnded, gotBusy := r.look(attempts, readings...)
	if !slices.Equal(gotEnded, ended) || gotBusy != busy {
		r.t.Errorf("round %d: to end %v, busy %q; want %v, %q", r.n, gotEnded, gotBusy, ended, busy)
	}
}

func TestWhoExceedsItsShareIsEnded(t *testing.T) {
	t.Parallel()
	r := newRounds(t, nil)
	// Two attempts on one card: shims 100 and 200, a trainer below a script below each.
	for pid, parent := range (table{101: 100, 102: 101, 201: 200, 202: 201, 100: 50, 200: 50, 50: 1}) {
		r.tree[pid] = parent
	}
	two := []Attempt{
		{Key: key(1), GPUs: []string{"u0"}, VRAMMiB: 20 << 10, Shim: 100},
		{Key: key(2), GPUs: []string{"u0"}, VRAMMiB: 20 << 10, Shim: 200},
	}
	r.want(two, nil, "", reading(t, "u0", 40_000, "101:2000", "102:20000", "202:20480")) // 22000: within 10 %
	r.want(two, nil, "", reading(t, "u0", 43_000, "101:2000", "102:21000", "202:20480")) // once
	r.want(two, nil, "", reading(t, "u0", 40_000, "101:2000", "102:19000", "202:20480")) // and not again
	r.want(two, nil, "", reading(t, "u0", 43_000, "101:2000", "102:21000", "202:20480"))
	over, _ := r.w.Round(99, []*fettlev1.GPUReading{reading(t, "u0", 43_000, "101:2000", "102:21001", "202:20480")}, nil, two)
	if len(over) != 1 || over[0].Key != key(1) || over[0].String() != "used 23001 MiB of the memory of u0, above its share of 20480 MiB and the 2048 MiB that are tolerated beyond it" {
		t.Fatalf("%v", over)
	}
	r.n = 99
	r.want(two, nil, "", reading(t, "u0", 43_000, "101:2000", "102:21000", "202:20480")) // told once
	r.want(two[1:], nil, "", reading(t, "u0", 21_000, "202:20480"))
}

func TestToleranceOfSmallShares(t *testing.T) {
	t.Parallel()
	r := newRounds(t, nil)
	r.tree[11] = 10
	small := []Attempt{{Key: key(1), GPUs: []string{"u0", "u1"}, VRAMMiB: 1000, Shim: 10}}
	r.want(small, nil, "", reading(t, "u0", 1512, "11:1512"), reading(t, "u1", 1512, "11:1512"))
	r.want(small, nil, "", reading(t, "u0", 1512, "11:1512"), reading(t, "u1", 1513, "11:1513"))
	r.want(small, []nodemachine.Key{key(1)}, "", reading(t, "u0", 100, "11:100"), reading(t, "u1", 1513, "11:1513"))
}

func TestSharesThatAreNotWatched(t *testing.T) {
	t.Parallel()
	r := newRounds(t, nil)
	r.tree[11] = 10
	for name, a := range map[string]Attempt{
		"whole GPUs": {Key: key(1), GPUs: []string{"u0"}, Shim: 10},
		"over":       {Key: key(2), GPUs: []string{"u0"}, VRAMMiB: 10, Shim: 10, Over: true},
		"not told":   {Key: key(3), GPUs: []string{"u0"}, VRAMMiB: 10, Shim: 10},
	} {
		mib := "11:70000"
		if name == "not told" {
			mib = "11:0"
		}
		for range 3 {
			r.want([]Attempt{a}, nil, "", reading(t, "u0", 70_000, mib))
		}
	}
}

// A round that comes twice is one: readings are asked for at another pace than they are made.
func TestTheSameRoundCountsOnce(t *testing.T) {
	t.Parallel()
	r := newRounds(t, nil)
	r.tree[11], r.tree[77] = 10, 1
	a := []Attempt{{Key: key(1), GPUs: []string{"u0"}, VRAMMiB: 1000, Shim: 10}}
	round := func(n uint64) ([]Overuse, string) {
		over, marked := r.w.Round(n, []*fettlev1.GPUReading{reading(t, "u0", 9000, "11:9000"), reading(t, "u1", 300, "77:300")}, nil, a)
		return over, describe(marked)
	}
	for _, n := range []uint64{5, 5, 5, 0} {
		if over, busy := round(n); len(over) != 0 || busy != "" {
			t.Fatalf("round %d: %v, %q", n, over, busy)
		}
	}
	if over, busy := round(6); len(over) != 1 || busy != "u1: 77 prog77 300" {
		t.Fatalf("%v, %q", over, busy)
	}
	// Told again what was found, though nothing new was read; also when the card itself could not be read.
	if over, busy := round(6); len(over) != 0 || busy != "u1: 77 prog77 300" {
		t.Errorf("%v, %q", over, busy)
	}
	if _, marked := r.w.Round(0, nil, nil, a); describe(marked) != "u1: 77 prog77 300" {
		t.Errorf("%q", describe(marked))
	}
}

func TestStrangers(t *testing.T) {
	t.Parallel()
	r := newRounds(t, nil)
	for pid, parent := range (table{11: 10, 77: 1, 78: 1}) {
		r.tree[pid] = parent
	}
	a := []Attempt{{Key: key(1), GPUs: []string{"u0"}, Shim: 10}}
	// Beside a job, and on a card that nobody holds; two rounds to begin, even by another process; one to end.
	r.want(a, nil, "", reading(t, "u0", 900, "11:500", "77:300"), reading(t, "u1", 300, "77:300"))
	r.want(a, nil, "u0: 77 prog77 300; u1: 78 prog78 0", reading(t, "u0", 900, "11:500", "77:300"), reading(t, "u1", 300, "78:0"))
	r.want(a, nil, "u1: 78 prog78 5", reading(t, "u0", 500, "11:500"), reading(t, "u1", 300, "78:5"))
	r.want(a, nil, "", reading(t, "u0", 500, "11:500"), reading(t, "u1", 0))
	r.want(a, nil, "", reading(t, "u0", 500, "11:500"), reading(t, "u1", 300, "78:5"))
	// A screen is no computation.
	for range 3 {
		r.want(a, nil, "", reading(t, "u0", 500, "11:500"), reading(t, "u1", 3000, "78:2990/g"))
	}
}

func TestMemoryWithoutAProcess(t *testing.T) {
	t.Parallel()
	r := newRounds(t, nil)
	r.tree[78] = 1
	r.want(nil, nil, "", reading(t, "u0", 1024), reading(t, "u1", 1025), reading(t, "u2", 5000, "78:4000/g"))
	r.want(nil, nil, "u1: +1025", reading(t, "u0", 1024), reading(t, "u1", 1025), reading(t, "u2", 5000, "78:4000/g"))
	r.want(nil, nil, "u1: +2000", reading(t, "u0", 1024), reading(t, "u1", 2000), reading(t, "u2", 5000, "78:0/g")) // it may be its
	any := newRounds(t, func(c *Config) { c.IdleMiB = 0 })
	for range 3 {
		any.want(nil, nil, "", reading(t, "u0", 80_000))
	}
}

// The driver takes a moment to clear up behind an attempt; its shim, its processes and in the end its entry are gone by then.
func TestWhatAnAttemptLeavesForAMoment(t *testing.T) {
	t.Parallel()
	r := newRounds(t, nil)
	r.tree[11] = 10
	a := Attempt{Key: key(1), GPUs: []string{"u0"}, Shim: 10}
	r.want([]Attempt{a}, nil, "", reading(t, "u0", 70_000, "11:69000"))
	r.want([]Attempt{a}, nil, "", reading(t, "u0", 70_000, "11:69000"))
	delete(r.tree, 11)
	a.Over, a.Shim = true, 0
	r.want([]Attempt{a}, nil, "", reading(t, "u0", 70_000, "11:69000"))
	r.want(nil, nil, "", reading(t, "u0", 70_000, "11:69000"))
	r.want(nil, nil, "", reading(t, "u0", 70_000))
	r.want(nil, nil, "", reading(t, "u0", 0))
	// What stays for longer is in the way, whoever has left it.
	r.want(nil, nil, "", reading(t, "u0", 70_000))
	r.want(nil, nil, "u0: +70000", reading(t, "u0", 70_000))
}

// Where the driver's process numbers mean nothing here, a job's own processes must not make its card look taken.
func TestProcessesThatCannotBeSeen(t *testing.T) {
	t.Parallel()
	r := newRounds(t, nil)
	a := []Attempt{{Key: key(1), GPUs: []string{"u0"}, VRAMMiB: 1000, Shim: 10}}
	r.want(a, nil, "", reading(t, "u0", 70_000, "4242:69000"), reading(t, "u1", 5000, "4343:4000"))
	r.want(a, nil, "u1: 4343  4000", reading(t, "u0", 70_000, "4242:69000"), reading(t, "u1", 5000, "4343:4000"))
}

func TestProcessesOfALostShim(t *testing.T) {
	t.Parallel()
	r := newRounds(t, nil)
	r.tree[11], r.tree[12], r.tree[21] = 10, 1, 20
	byGroup := Attempt{Key: key(1), GPUs: []string{"u0"}, Shim: 10, Group: group{11, 12}}
	without := Attempt{Key: key(2), GPUs: []string{"u1"}, Shim: 20, Group: group(nil)}
	round := func() []*fettlev1.GPUReading {
		return []*fettlev1.GPUReading{reading(t, "u0", 500, "11:200", "12:200"), reading(t, "u1", 500, "21:500")}
	}
	r.want([]Attempt{byGroup, without}, nil, "", round()...)
	r.tree[11], r.tree[21] = 1, 1 // init has inherited them
	byGroup.Shim, without.Shim = 0, 0
	for range 3 {
		r.want([]Attempt{byGroup, without}, nil, "", round()...)
	}
	r.want(nil, nil, "", round()...)
	r.want(nil, nil, "u0: 11 prog11 200, 12 prog12 200; u1: 21 prog21 500", round()...)
}

// What uses a card that is cut up uses an instance.
func TestInstances(t *testing.T) {
	t.Parallel()
	r := newRounds(t, nil)
	r.cards = []*fettlev1.GPU{{Uuid: "card"}, {Uuid: "MIG-1", MigParent: "card"}, {Uuid: "MIG-2", MigParent: "card"}}
	r.tree[11], r.tree[77] = 10, 1
	a := []Attempt{{Key: key(1), GPUs: []string{"MIG-1"}, Shim: 10}}
	for want := range slices.Values([]string{"", "MIG-2: 77 prog77 3000"}) {
		r.want(a, nil, want, reading(t, "card", 9000, "11:4000", "77:3000"), reading(t, "MIG-1", 4000, "11:4000"), reading(t, "MIG-2", 3000, "77:3000"))
	}
}

// A process table that goes round in circles, as one read while it changes may.
func TestAncestryEnds(t *testing.T) {
	t.Parallel()
	r := newRounds(t, nil)
	r.tree[5], r.tree[6], r.tree[7] = 6, 5, 7
	r.want(nil, nil, "", reading(t, "u0", 10, "5:5", "7:5"))
	r.want(nil, nil, "u0: 5 prog5 5, 7 prog7 5", reading(t, "u0", 10, "5:5", "7:5"))
}
