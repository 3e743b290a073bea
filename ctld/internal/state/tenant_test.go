package state

import (
	"math"
	"math/big"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// fullTenant fills what projects and preemption have brought to a row.
func fullTenant(j *Job) {
	j.PreemptedCount, j.StopGraceS, j.Project = 20, 21, "nlp"
	j.Claim = &raftlogv1.Claim{
		Index: 22, MadeMs: 23, Nodes: []*fettlev1.NodeAllocation{{Node: "n", GpuUuids: []string{"GPU-0"}, Cpus: 1, MemMib: 2, VramMib: 3}},
		Victims: []*raftlogv1.Victim{{JobId: 4, Attempt: 5, Mode: 2, LostGpuS: 6}},
	}
}

// Every field of a claim is in the hash.
func TestClaimsAreInTheHash(t *testing.T) {
	t.Parallel()
	var buf canon
	seen := make(map[sum]int)
	for i, change := range []func(c *raftlogv1.Claim){
		func(*raftlogv1.Claim) {},
		func(c *raftlogv1.Claim) { c.Index++ },
		func(c *raftlogv1.Claim) { c.MadeMs++ },
		func(c *raftlogv1.Claim) { c.Nodes[0].Node = "m" },
		func(c *raftlogv1.Claim) { c.Nodes[0].GpuUuids = nil },
		func(c *raftlogv1.Claim) { c.Nodes[0].Cpus++ },
		func(c *raftlogv1.Claim) { c.Nodes[0].MemMib++ },
		func(c *raftlogv1.Claim) { c.Nodes[0].VramMib++ },
		func(c *raftlogv1.Claim) { c.Victims[0].JobId++ },
		func(c *raftlogv1.Claim) { c.Victims[0].Attempt++ },
		func(c *raftlogv1.Claim) { c.Victims[0].Mode++ },
		func(c *raftlogv1.Claim) { c.Victims[0].LostGpuS++ },
		func(c *raftlogv1.Claim) { c.Victims = nil },
	} {
		j := fullJob()
		change(j.Claim)
		h := hashJob(&buf, j)
		if k, twice := seen[h]; twice {
			t.Errorf("changes %d and %d lead to one hash", k, i)
		}
		seen[h] = i
	}
}

// What the ledger and reservations are survives a snapshot, and a claim finds its node again.
func TestTenantRecordsAreComplete(t *testing.T) {
	t.Parallel()
	j := plainJob()
	j.State, j.Held, j.HeldByAdmin, j.WaitingFor, j.Attempts, j.Attempt, j.FirstBad = model.Pending, false, false, nil, nil, 0, 0
	fullTenant(j)
	n := fullNode()
	n.Held, n.CPUsUsed, n.MemUsedMiB, n.Exclusive = nil, 0, 0, 0
	usage := &Usage{Project: "p", User: "u", GPUMS: 1, UpdatedMS: 2}
	spend := &Spend{Scope: Scope{ScopeUser, "u"}, Slots: []*raftlogv1.SpendSlot{{StartMs: 1, EndMs: 2, GpuMs: 3}}}
	res := &fettlev1.Reservation{Name: "r", Nodes: "n", StartMs: 1, EndMs: 2, Users: []string{"u"}}
	b := NewBuilder("c")
	for _, r := range []*raftlogv1.SnapshotRecord{
		{Record: &raftlogv1.SnapshotRecord_Meta{Meta: &raftlogv1.MetaRecord{NextJobId: 2}}},
		{Record: &raftlogv1.SnapshotRecord_Node{Node: &raftlogv1.NodeRecord{Node: n.Proto()}}},
		{Record: &raftlogv1.SnapshotRecord_Job{Job: j.record()}},
		{Record: &raftlogv1.SnapshotRecord_Usage{Usage: usage.record()}},
		{Record: &raftlogv1.SnapshotRecord_Spend{Spend: spend.record()}},
		{Record: &raftlogv1.SnapshotRecord_Reservation{Reservation: res}},
	} {
		if err := b.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	s, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	got := s.Job(1)
	if got.PreemptedCount != 20 || got.StopGraceS != 21 || got.Project != "nlp" || !proto.Equal(got.Claim, j.Claim) {
		t.Errorf("the job came back as %+v", got)
	}
	claims := 0
	s.ClaimsOn("n", func(o *Job, a *fettlev1.NodeAllocation) bool {
		claims++
		return o.ID == 1 && a.GetNode() == "n"
	})
	if claims != 1 {
		t.Errorf("%d claims on its node", claims)
	}
	if u := s.UsageOf("p", "u"); u == nil || u.GPUMS != 1 || u.UpdatedMS != 2 {
		t.Errorf("usage %+v", u)
	}
	if w := s.SpendOf(spend.Scope); w == nil || !reflect.DeepEqual(w.Scope, spend.Scope) || !proto.Equal(w.Slots[0], spend.Slots[0]) {
		t.Errorf("spend %+v", w)
	}
	if r := s.Reservation("r"); r == nil || !proto.Equal(r.Reservation, res) || !r.Whole("n") {
		t.Errorf("reservation %+v", r)
	}
	if err := b.Add(&raftlogv1.SnapshotRecord{Record: &raftlogv1.SnapshotRecord_Usage{Usage: usage.record()}}); err == nil {
		t.Error("a row twice was taken")
	}
}

// Decay in integers is what the formula says, to within what the steps and the rounding allow.
func TestDecayFollowsTheFormula(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Uint64Range(0, 1<<53).Draw(t, "v")
		half := rapid.Int64Range(60_000, 366*86_400_000).Draw(t, "half life")
		dt := rapid.Int64Range(0, 80*half).Draw(t, "dt")
		got, used := decay(v, dt, half)
		if used > dt || dt/half < 64 && dt-used > half>>decayBits+1 {
			t.Fatalf("decay over %d ms of %d uses %d", dt, half, used)
		}
		want := float64(v) * math.Exp2(-float64(dt)/float64(half))
		if slack := 1e-6*want + 25; math.Abs(float64(got)-want) > slack {
			t.Fatalf("%d after %d ms of %d is %d, want %g", v, dt, half, got, want)
		}
	})
}

// However often it is looked at, usage decays as if it were once: what a step leaves over is counted in the next.
func TestDecayInManySteps(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const half = 7 * 86_400_000
		u := &Usage{GPUMS: 1 << 50}
		steps := rapid.SliceOfN(rapid.Int64Range(0, 3_600_000), 1, 300).Draw(t, "steps")
		now := int64(0)
		for _, d := range steps {
			now += d
			u = u.charged(0, now, half)
		}
		once := (&Usage{GPUMS: 1 << 50}).At(now, half)
		if got := u.At(now, half); absDiff(got, once) > once>>18+100 {
			t.Fatalf("after %d ms in %d steps %d, at once %d", now, len(steps), got, once)
		}
	})
}

func absDiff(a, b uint64) uint64 {
	if a > b {
		return a - b
	}
	return b - a
}

// The constants of the decay are the roots that they claim to be.
func TestHalvesAreRoots(t *testing.T) {
	t.Parallel()
	root := new(big.Float).SetPrec(256).SetFloat64(0.5)
	for i, h := range halves {
		root.Sqrt(root)
		want, _ := new(big.Float).SetPrec(256).SetMantExp(root, 64).Int(nil)
		if want.Uint64() != h {
			t.Errorf("constant %d is %#x, want %#x", i, h, want.Uint64())
		}
	}
}

// What was used within a window is found, is never counted less than it is, and is forgotten when it has left the window.
func TestSpendWithinAWindow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const window = 86_400_000
		s := &Spend{}
		type use struct{ from, to, milli int64 }
		var all []use
		now := int64(10 * window)
		for range rapid.IntRange(1, 40).Draw(t, "uses") {
			now += rapid.Int64Range(0, window/4).Draw(t, "gap")
			u := use{from: now - rapid.Int64Range(0, 2*window).Draw(t, "long"), to: now, milli: rapid.Int64Range(1, 64_000).Draw(t, "gpus")}
			all = append(all, u)
			s = s.booked(u.milli, u.from, u.to, window)
		}
		exact, most := int64(0), int64(0)
		for _, u := range all {
			if d := u.to - max(u.from, now-window); d > 0 {
				exact += u.milli * d / 1000
			}
			if d := u.to - max(u.from, now-window-window/spendSlots); d > 0 {
				most += u.milli * d / 1000
			}
		}
		slack := int64(spendSlots+2) * int64(len(all))
		if got := s.Within(now, window); got < exact-slack || got > most+slack {
			t.Fatalf("%d is used within the window, want %d to %d", got, exact, most)
		}
		if got := s.Within(now+window+window/spendSlots, window); got != 0 {
			t.Fatalf("%d is used within a window in which nothing ran", got)
		}
		if len(s.Slots) > maxSpendSlots {
			t.Fatalf("%d slots", len(s.Slots))
		}
	})
}

// Reservations overlap exactly when they hold something in common at one time.
func TestReservationsOverlap(t *testing.T) {
	t.Parallel()
	make := func(nodes string, from, to int64, picked ...string) *Reservation {
		r := &fettlev1.Reservation{Name: nodes, Nodes: nodes, StartMs: from, EndMs: to}
		for _, u := range picked {
			r.Picked = append(r.Picked, &fettlev1.NodeAllocation{Node: "n1", GpuUuids: []string{u}})
		}
		c, err := compileReservation(r)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for i, c := range []struct {
		a, b *Reservation
		want string
	}{
		{make("n[1-3]", 0, 10), make("n[3-5]", 5, 15), "node n3"},
		{make("n[1-3]", 0, 10), make("n[3-5]", 10, 15), ""},
		{make("n[1-3]", 0, 0), make("n[3-5]", 100, 0), "node n3"},
		{make("n[1-3]", 20, 0), make("n3", 10, 20), ""},
		{make("n[1-2]", 0, 10), make("", 0, 10, "GPU-1"), "GPUs of n1"},
		{make("n2", 0, 10), make("", 0, 10, "GPU-1"), ""},
		{make("", 0, 10, "GPU-1", "GPU-2"), make("", 0, 10, "GPU-2"), "GPUs of n1"},
		{make("", 0, 10, "GPU-1"), make("", 0, 10, "GPU-2"), ""},
	} {
		if got, back := c.a.Overlaps(c.b), c.b.Overlaps(c.a); got != c.want || back != c.want {
			t.Errorf("%d: overlap %q and %q, want %q", i, got, back, c.want)
		}
	}
}

// A project admits its members, those of the projects above it, and with "*" everyone; a user's home is the first that names
// them.
func TestProjects(t *testing.T) {
	t.Parallel()
	p := &fettlev1.ClusterPolicy{Projects: []*fettlev1.Project{
		{Name: "lab", Members: []string{"root"}},
		{Name: "nlp", Parent: "lab", Members: []string{"ada", "bob"}},
		{Name: "vision", Parent: "lab", Members: []string{"bob"}},
		{Name: "open", Members: []string{"*"}},
	}}
	if err := model.ValidatePolicy(p); err != nil {
		t.Fatal(err)
	}
	c, err := compilePolicy(p)
	if err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]string{"ada": "nlp", "bob": "nlp", "root": "lab", "eve": "open"} {
		if got := c.home(user).GetName(); got != want {
			t.Errorf("%s is at home in %s, want %s", user, got, want)
		}
	}
	for _, x := range []struct {
		user, project string
		want          bool
	}{{"ada", "nlp", true}, {"ada", "vision", false}, {"root", "vision", true}, {"eve", "open", true}, {"eve", "lab", false}, {"bob", "lab", false}} {
		if got := c.projects[x.project].Admits(x.user); got != x.want {
			t.Errorf("%s in %s: %v", x.user, x.project, got)
		}
	}
	got := c.scopesOf(nil, "main", "nlp", "ada")
	want := []Scope{{ScopePartition, "main"}, {ScopeProject, "nlp"}, {ScopeProject, "lab"}, {ScopeUser, "ada"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("scopes %v", got)
	}
}
