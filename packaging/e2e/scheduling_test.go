package e2e

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// schedulingPolicy gives each group of tests nodes of its own.
const schedulingPolicy = `
[[partition]]
name = "line"
nodes = "n1"
[[partition]]
name = "share"
nodes = "n2"
[[partition]]
name = "racks"
nodes = "n[3-6]"
[[partition]]
name = "kept"
nodes = "n7"
[[partition]]
name = "main"
nodes = "n8"
default = true
`

// TestScheduling is what a job may ask for and in which order jobs start, on one cluster that keeps its leader.
func TestScheduling(t *testing.T) {
	t.Parallel()
	rack := func(gpus, leaf, features string) string {
		return fmt.Sprintf("gres = %q\nswitch = %q\nfeatures = [%s]\n", gpus, leaf, features)
	}
	c := upCluster(t, Options{Nodes: 8, CPUs: 16, NodeConf: map[string]string{
		"n1": "gres = \"gpu:h100:4\"\n",
		"n2": "gres = \"gpu:h100:1\"\ngpu_memory = \"80G\"\n",
		"n3": rack("gpu:h200:2", "leaf1", `"ib"`),
		"n4": rack("gpu:h100:2", "leaf1", `"ib"`),
		"n5": rack("gpu:h100:2", "leaf2", `"ib", "old"`),
		"n6": rack("gpu:h100:2", "leaf2", `"ib"`),
		"n7": "gres = \"gpu:h100:2\"\n",
		"n8": "gres = \"gpu:h100:2\"\n",
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	c.apply(ctx, t, schedulingPolicy)
	for name, f := range map[string]func(context.Context, *testing.T, *Cluster){
		"Backfill": testBackfill, "SharedMemory": testSharedMemory, "Wishes": testWishes, "Reservation": testReservation, "BeginAndDeadline": testBeginAndDeadline,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(ctx, t, c)
		})
	}
}

// testBackfill has a job that needs the whole node wait for one that has most of it.
func testBackfill(ctx context.Context, t *testing.T, c *Cluster) {
	w := c.watchJobs(ctx, t)
	first, second, rest := c.gate(), c.gate(), c.gate()
	most := c.job(ctx, t, first.wait(), "-p", "line", "--gpus", "3", "-t", "10")
	c.started(ctx, t, most)
	head := c.job(ctx, t, second.wait(), "-p", "line", "--gpus", "4", "-t", "2", "--priority", "1")
	c.waits(ctx, t, head, fettlev1.Reason_REASON_RESOURCES)
	// One GPU is free until the head's turn comes: in ten minutes, by the time limit of what runs.
	long := c.job(ctx, t, rest.wait(), "-p", "line", "--gpus", "1", "-t", "20", "--priority", "10")
	open := c.job(ctx, t, rest.wait(), "-p", "line", "--gpus", "1", "--priority", "10")
	c.explains(ctx, t, head, long)
	short := c.job(ctx, t, first.wait(), "-p", "line", "--gpus", "1", "-t", "5", "--priority", "10")
	c.started(ctx, t, short)
	for _, id := range []uint64{long, open} {
		if j := c.waits(ctx, t, id, fettlev1.Reason_REASON_PRIORITY); j.GetStartMs() != 0 {
			t.Errorf("job %d started although it would delay job %d", id, head)
		}
	}
	// A more urgent one of the same size goes first.
	urgent := c.job(ctx, t, second.wait(), "-p", "line", "--gpus", "4", "-t", "1", "--priority", "1")
	c.waits(ctx, t, urgent, fettlev1.Reason_REASON_RESOURCES)
	first.open(t)
	c.started(ctx, t, urgent)
	c.waits(ctx, t, head, fettlev1.Reason_REASON_RESOURCES)
	second.open(t)
	rest.open(t)
	jobs := []uint64{most, short, urgent, head, long, open}
	for _, id := range jobs {
		c.completed(ctx, t, id)
	}
	var order []uint64
	for _, e := range w.until(ctx, t, "the end of the last", func(e *fettlev1.Event) bool {
		return e.GetJobId() == open && e.GetState() == fettlev1.JobState_JOB_STATE_COMPLETED
	}) {
		if e.GetState() == fettlev1.JobState_JOB_STATE_DISPATCHING && slices.Contains(jobs, e.GetJobId()) {
			order = append(order, e.GetJobId())
		}
	}
	if len(order) != len(jobs) || !slices.Equal(order[:4], jobs[:4]) {
		t.Errorf("jobs started in the order %v, want %v and then the others", order, jobs[:4])
	}
}

// explains checks the answers to why and when, about a job at the head of the queue and one that would start with a time limit
// that lets it end before the head's turn.
func (c *Cluster) explains(ctx context.Context, t *testing.T, head, long uint64) {
	t.Helper()
	why := c.run(ctx, t, "fqueue", "--why", fmt.Sprint(long))
	if !strings.HasPrefix(why, fmt.Sprintf("Job %d", long)) || !strings.Contains(why, "waits: Priority") || !strings.Contains(why, "--time") {
		t.Errorf("fqueue --why does not say that a shorter time limit would start job %d now:\n%s", long, why)
	}
	d, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Client(d.Addr).ExplainJob(ctx, &fettlev1.ExplainJobRequest{JobId: long, Why: true, Order: true})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(resp.GetWhy().GetBehind(), func(a *fettlev1.JobAhead) bool { return a.GetJobId() == head }) || resp.GetOrder().GetBoundMs() == 0 {
		t.Errorf("job %d waits behind %v with bound %d, want job %d among them", long, resp.GetWhy().GetBehind(), resp.GetOrder().GetBoundMs(), head)
	}
	starts, err := c.Client(d.Addr).PredictStarts(ctx, &fettlev1.PredictStartsRequest{Select: &fettlev1.JobSelector{Ids: []uint64{head, long}}})
	if err != nil {
		t.Fatal(err)
	}
	when := map[uint64]int64{}
	for _, p := range starts.GetStarts() {
		when[p.GetJobId()] = p.GetStartMs()
	}
	if when[head] == 0 || when[long] < when[head] {
		t.Errorf("expected starts are %v, want job %d before job %d", when, head, long)
	}
	if shown := c.run(ctx, t, "fqueue", "--start", fmt.Sprint(head)); !strings.Contains(shown, fmt.Sprint(head)) || !strings.Contains(shown, "n1") {
		t.Errorf("fqueue --start does not say where job %d will start:\n%s", head, shown)
	}
}

// testSharedMemory has jobs with shares of a card and one that wants all of it.
func testSharedMemory(ctx context.Context, t *testing.T, c *Cluster) {
	gates := []gate{c.gate(), c.gate(), c.gate(), c.gate(), c.gate()}
	out := filepath.Join(t.TempDir(), "share")
	a := c.job(ctx, t, `echo "$FETTLE_VRAM_MIB $FETTLE_VRAM_FRACTION" >`+out+"; "+gates[0].wait(), "-p", "share", "--vram", "30G")
	b := c.job(ctx, t, gates[1].wait(), "-p", "share", "--vram", "30G")
	card := gpusOf(c.started(ctx, t, a))
	if other := gpusOf(c.started(ctx, t, b)); len(card) != 1 || !slices.Equal(card, other) {
		t.Errorf("two jobs of 30G are on cards %v and %v, want one card", card, other)
	}
	if err := Poll(ctx, "wait for the job's environment", func() error {
		data, err := os.ReadFile(out)
		if err == nil && string(data) != "30720 0.3750\n" {
			err = fmt.Errorf("a job with 30G of 80G was told %q", data)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	third := c.job(ctx, t, gates[2].wait(), "-p", "share", "--vram", "30G")
	c.waits(ctx, t, third, fettlev1.Reason_REASON_RESOURCES)
	whole := c.job(ctx, t, gates[3].wait(), "-p", "share", "--gpus", "1", "--priority", "10")
	c.waits(ctx, t, whole, fettlev1.Reason_REASON_PRIORITY)
	gates[0].open(t)
	c.completed(ctx, t, a)
	if got := gpusOf(c.started(ctx, t, third)); !slices.Equal(got, card) {
		t.Errorf("the third job of 30G is on %v, want %v", got, card)
	}
	// The card is shared still.
	c.waits(ctx, t, whole, fettlev1.Reason_REASON_RESOURCES)
	gates[1].open(t)
	c.completed(ctx, t, b)
	c.waits(ctx, t, whole, fettlev1.Reason_REASON_RESOURCES)
	gates[2].open(t)
	j := c.started(ctx, t, whole)
	if newestOf(j).GetNodes()[0].GetVramMib() != 0 || !slices.Equal(gpusOf(j), card) {
		t.Errorf("the job that asked for a whole card got %v", newestOf(j))
	}
	small := c.job(ctx, t, gates[4].wait(), "-p", "share", "--vram", "1G")
	c.waits(ctx, t, small, fettlev1.Reason_REASON_RESOURCES)
	gates[3].open(t)
	c.completed(ctx, t, whole)
	gates[4].open(t)
	if last := c.completed(ctx, t, small); newestOf(last).GetStartMs() < c.completed(ctx, t, whole).GetEndMs() {
		t.Error("a job with a share started on a card that another one had for itself")
	}
	large := c.job(ctx, t, "true", "-p", "share", "--vram", "90G")
	c.waits(ctx, t, large, fettlev1.Reason_REASON_NO_SUITABLE_NODE)
	c.run(ctx, t, "fcancel", fmt.Sprint(large))
}

// testWishes has jobs ask for alternatives, GPUs wherever they are, nodes of their own, features and nodes of one switch.
func testWishes(ctx context.Context, t *testing.T, c *Cluster) {
	place := func(want []string, args ...string) (id uint64, done gate) {
		t.Helper()
		done = c.gate()
		id = c.job(ctx, t, done.wait(), append([]string{"-p", "racks"}, args...)...)
		if got := nodesOf(c.started(ctx, t, id)); want != nil && !slices.Equal(got, want) {
			t.Errorf("fsubmit %q runs on %v, want %v", args, got, want)
		}
		return id, done
	}
	end := func(id uint64, g gate) {
		t.Helper()
		g.open(t)
		c.completed(ctx, t, id)
	}
	// The preferred type as long as there is one, then the other.
	first, g1 := place([]string{"n3"}, "--gres", "gpu:h200:2|gpu:h100:1")
	second, g2 := place(nil, "--gres", "gpu:h200:2|gpu:h100:1", "-C", "ib&!old")
	j := c.started(ctx, t, second)
	if nodes := nodesOf(j); len(gpusOf(j)) != 1 || slices.Contains(nodes, "n3") || slices.Contains(nodes, "n5") {
		t.Errorf("the second choice of a job that must not be on old nodes is %v on %v", gpusOf(j), nodes)
	}
	end(first, g1)
	end(second, g2)
	// A gang is kept below one switch, whole nodes first.
	gang, g3 := place([]string{"n5", "n6"}, "--nodes", "2", "--gres", "gpu:h100:2")
	old, g4 := place([]string{"n4"}, "--gpus", "h100:2")
	third := c.job(ctx, t, "true", "-p", "racks", "--gpus", "h100:1", "--constraint", "old")
	c.waits(ctx, t, third, fettlev1.Reason_REASON_RESOURCES)
	end(gang, g3)
	end(old, g4)
	if got := nodesOf(c.completed(ctx, t, third)); !slices.Equal(got, []string{"n5"}) {
		t.Errorf("a job that needs an old node ran on %v", got)
	}
	// GPUs wherever they are.
	total, g5 := place([]string{"n4", "n5", "n6"}, "--gpus", "h100:6", "--nodes", "any")
	if got := gpusOf(c.started(ctx, t, total)); len(got) != 6 {
		t.Errorf("six GPUs in all are %v", got)
	}
	end(total, g5)
	// Nodes of its own, not even for a job without a GPU.
	alone, g6 := place([]string{"n3"}, "--exclusive", "-w", "n3")
	beside := c.job(ctx, t, "true", "-p", "racks", "-w", "n3")
	c.waits(ctx, t, beside, fettlev1.Reason_REASON_RESOURCES)
	end(alone, g6)
	c.completed(ctx, t, beside)
	c.refused(ctx, t, "fsubmit", []string{"-p", "racks", "-C", "ib&", "--wrap", "true"}, "-C", "feature")
	nowhere := c.job(ctx, t, "true", "-p", "racks", "-C", "nvme")
	c.waits(ctx, t, nowhere, fettlev1.Reason_REASON_NO_SUITABLE_NODE)
	c.run(ctx, t, "fcancel", fmt.Sprint(nowhere))
}

// testReservation keeps a node for somebody, and for nobody later on.
func testReservation(ctx context.Context, t *testing.T, c *Cluster) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	c.run(ctx, t, "fctl", "reservation", "create", "course", "--nodes", "n7", "--duration", "1h", "--users", me.Username)
	outside := c.job(ctx, t, "true", "-p", "kept", "--gpus", "1", "-t", "1")
	c.waits(ctx, t, outside, fettlev1.Reason_REASON_RESERVATION)
	g := c.gate()
	inside := c.job(ctx, t, g.wait(), "-p", "kept", "--gpus", "1", "-t", "10", "--reservation", "course")
	if got := nodesOf(c.started(ctx, t, inside)); !slices.Equal(got, []string{"n7"}) {
		t.Errorf("the job of the reservation is on %v", got)
	}
	c.waits(ctx, t, outside, fettlev1.Reason_REASON_RESERVATION)
	c.refused(ctx, t, "fsubmit", []string{"-p", "kept", "--reservation", "cours", "--wrap", "true"}, "reservation")
	c.refused(ctx, t, "fctl", []string{"reservation", "create", "other", "--nodes", "n[7-8]", "--duration", "2h"}, "course")
	g.open(t)
	c.completed(ctx, t, inside)
	c.run(ctx, t, "fctl", "reservation", "delete", "course")
	c.completed(ctx, t, outside)

	// Maintenance in an hour: who is over by then may start.
	c.run(ctx, t, "fctl", "reservation", "create", "fans", "--nodes", "n7", "--start", "now+1h", "--duration", "1h")
	long := c.job(ctx, t, "true", "-p", "kept", "--gpus", "1", "-t", "2:00:00")
	c.waits(ctx, t, long, fettlev1.Reason_REASON_RESERVATION)
	c.completed(ctx, t, c.job(ctx, t, "true", "-p", "kept", "--gpus", "1", "-t", "30"))
	c.waits(ctx, t, long, fettlev1.Reason_REASON_RESERVATION)
	c.run(ctx, t, "fctl", "reservation", "delete", "fans")
	c.completed(ctx, t, long)
}

// testBeginAndDeadline has jobs that must not start yet, and not any more.
func testBeginAndDeadline(ctx context.Context, t *testing.T, c *Cluster) {
	g := c.gate()
	later := c.job(ctx, t, "true", "--begin", "now+1s")
	full := c.job(ctx, t, g.wait(), "--gpus", "2")
	c.started(ctx, t, full)
	late := c.job(ctx, t, "true", "--gpus", "1", "--deadline", "now+2s")
	never := c.job(ctx, t, "true", "--gpus", "1", "--deadline", "now+1h", "-t", "30", "--begin", "now+10m")
	c.waits(ctx, t, never, fettlev1.Reason_REASON_BEGIN_TIME)
	if j := c.completed(ctx, t, later); j.GetStartMs() < j.GetSpec().GetBeginMs() || j.GetSpec().GetBeginMs() == 0 {
		t.Errorf("a job started at %d, its begin is %d", j.GetStartMs(), j.GetSpec().GetBeginMs())
	}
	j := c.awaitJob(ctx, t, late, "to end", over)
	if j.GetReason() != fettlev1.Reason_REASON_DEADLINE || j.GetAttempt() != 0 || j.GetEndMs() < j.GetSpec().GetDeadlineMs() {
		t.Errorf("a job whose deadline passed ended as %s, %s (%s) with %d attempts", j.GetState(), j.GetReason(), j.GetDetail(), j.GetAttempt())
	}
	c.refused(ctx, t, "fsubmit", []string{"--deadline", "now+10m", "-t", "30", "--wrap", "true"}, "deadline")
	c.run(ctx, t, "fcancel", fmt.Sprint(never))
	g.open(t)
	c.completed(ctx, t, full)
}
