package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

const takeoverPolicy = `
[[partition]]
name = "batch"
nodes = "n1"
preempt = "requeue"
preempt_grace = "2m"
min_run = "0s"
[[partition]]
name = "ranked"
nodes = "n3"
preempt = "requeue"
min_run = "0s"
priority_gap = 0
[[partition]]
name = "main"
nodes = "n2"
default = true
`

// TestSchedulingAcrossLeaders kills the leader in the middle of arrays, chains of jobs and a preemption, all on one cluster.
func TestSchedulingAcrossLeaders(t *testing.T) {
	t.Parallel()
	c := upCluster(t, Options{Nodes: 3, CPUs: 32, NodeConf: map[string]string{
		"n1": "gres = \"gpu:h100:4\"\n", "n2": "gres = \"gpu:h100:2\"\n", "n3": "gres = \"gpu:h100:1\"\n",
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	c.apply(ctx, t, takeoverPolicy)
	scenarios := []struct {
		name   string
		before func(context.Context, *testing.T, *Cluster) (after func(*testing.T))
	}{
		{"Array", arrayTakeover}, {"Dependencies", dependencyTakeover}, {"LeftAlone", leftAloneTakeover}, {"Rank", rankTakeover}, {"Preemption", preemptionTakeover},
	}
	after := make([]func(*testing.T), len(scenarios))
	for i, s := range scenarios {
		t.Run("Before"+s.name, func(t *testing.T) { after[i] = s.before(ctx, t, c) })
	}
	if t.Failed() {
		return
	}
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	leader.Kill(syscall.SIGKILL)
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitLeader(ctx); err != nil {
		t.Fatal(err)
	}
	// The last one first: while it preempts, those that are to be left alone are left alone.
	for i, s := range slices.Backward(scenarios) {
		t.Run("After"+s.name, after[i])
	}
}

// arrayTakeover has three elements of an array run when the leader goes.
func arrayTakeover(ctx context.Context, t *testing.T, c *Cluster) func(*testing.T) {
	g, out := c.gate(), filepath.Join(c.opt.Dir, "elements")
	id := c.job(ctx, t, `echo "$FETTLE_ARRAY_JOB_ID $FETTLE_ARRAY_INDEX start" >>`+out+"; "+g.wait()+`; echo "$FETTLE_ARRAY_JOB_ID $FETTLE_ARRAY_INDEX end" >>`+out, "--array", "0-11%3")
	lines := func() []string {
		data, _ := os.ReadFile(out)
		return strings.Split(strings.TrimSpace(string(data)), "\n")
	}
	awaitLines(ctx, t, out, 3)
	c.waits(ctx, t, id, fettlev1.Reason_REASON_ARRAY_LIMIT)
	c.run(ctx, t, "fcancel", fmt.Sprintf("%d_5", id))
	c.run(ctx, t, "fctl", "hold", fmt.Sprintf("%d_7", id))
	c.refused(ctx, t, "fcancel", []string{fmt.Sprintf("%d_12", id)}, fmt.Sprintf("%d_12", id))
	queue := c.run(ctx, t, "fqueue", "--noheader", "-o", "jobid,state,reason", fmt.Sprint(id))
	for _, want := range []string{"_0 ", "_1 ", "_2 ", "_7 ", "_[3-4,6,8-11%3] "} {
		if !strings.Contains(queue, fmt.Sprint(id)+want) {
			t.Errorf("fqueue does not show %d%s:\n%s", id, want, queue)
		}
	}
	return func(t *testing.T) {
		g.open(t)
		array := c.awaitJob(ctx, t, id, "to have only the held element left", func(j *fettlev1.Job) bool { return j.GetArrayCounts().GetCompleted() == 10 })
		if n := array.GetArrayCounts(); over(array) || n.GetPending() != 1 || n.GetActive() != 0 || n.GetCancelled() != 1 || n.GetFailed() != 0 {
			t.Errorf("with an element held the array is %s with %v", array.GetState(), n)
		}
		c.run(ctx, t, "fctl", "release", fmt.Sprintf("%d_7", id))
		array = c.awaitJob(ctx, t, id, "to end", over)
		if array.GetState() != fettlev1.JobState_JOB_STATE_CANCELLED || array.GetArrayCounts().GetCompleted() != 11 {
			t.Errorf("the array with a cancelled element ended as %s with %v", array.GetState(), array.GetArrayCounts())
		}
		now, most := 0, 0
		times := map[string]int{}
		for _, l := range lines() {
			times[l]++
			if strings.HasSuffix(l, " start") {
				now++
			} else {
				now--
			}
			most = max(most, now)
		}
		if most != 3 {
			t.Errorf("at most %d elements ran at once, want 3", most)
		}
		for i := range 12 {
			want := 1
			if i == 5 {
				want = 0
			}
			for _, what := range []string{"start", "end"} {
				if got := times[fmt.Sprintf("%d %d %s", id, i, what)]; got != want {
					t.Errorf("element %d: %d times %s, want %d", i, got, what, want)
				}
			}
		}
	}
}

// dependencyTakeover has jobs wait for others when the leader goes.
func dependencyTakeover(ctx context.Context, t *testing.T, c *Cluster) func(*testing.T) {
	g := c.gate()
	after := func(dependency string) uint64 { return c.job(ctx, t, "true", "-d", dependency) }
	good, bad := c.job(ctx, t, g.wait()), c.job(ctx, t, g.wait()+"; exit 3")
	second := after(fmt.Sprintf("afterok:%d", good))
	third := after(fmt.Sprintf("afterok:%d", second))
	ifBad := after(fmt.Sprintf("afternotok:%d", bad))
	whatever := after(fmt.Sprintf("afterany:%d:%d", good, bad))
	either := after(fmt.Sprintf("afternotok:%d?afternotok:%d", good, bad))
	never := after(fmt.Sprintf("afterok:%d", bad))
	neverToo := after(fmt.Sprintf("afternotok:%d", good))
	chained := after(fmt.Sprintf("afterok:%d", never))
	alone := c.job(ctx, t, g.wait(), "-J", "alone", "-d", "singleton")
	next := c.job(ctx, t, "true", "-J", "alone", "-d", "singleton")
	c.refused(ctx, t, "fsubmit", []string{"-d", "afterok:4000000", "--wrap", "true"}, "4000000")
	for _, id := range []uint64{good, bad, alone} {
		c.started(ctx, t, id)
	}
	for _, id := range []uint64{second, third, ifBad, whatever, either, never, neverToo, chained, next} {
		c.waits(ctx, t, id, fettlev1.Reason_REASON_DEPENDENCY)
	}
	return func(t *testing.T) {
		c.waits(ctx, t, third, fettlev1.Reason_REASON_DEPENDENCY)
		g.open(t)
		ends := map[uint64]int64{bad: c.awaitJob(ctx, t, bad, "to end", over).GetEndMs()}
		for _, id := range []uint64{good, alone} {
			ends[id] = c.completed(ctx, t, id).GetEndMs()
		}
		for _, x := range []struct {
			id    uint64
			after []uint64
		}{{second, []uint64{good}}, {third, []uint64{second}}, {ifBad, []uint64{bad}}, {whatever, []uint64{good, bad}}, {either, []uint64{bad}}, {next, []uint64{alone}}} {
			j := c.completed(ctx, t, x.id)
			ends[x.id] = j.GetEndMs()
			for _, a := range x.after {
				if j.GetAttempt() != 1 || newestOf(j).GetDispatchMs() < ends[a] {
					t.Errorf("job %d started at %d, in attempt %d; job %d, which it depends on, ended at %d", x.id, newestOf(j).GetDispatchMs(), j.GetAttempt(), a, ends[a])
				}
			}
		}
		for _, id := range []uint64{never, neverToo, chained} {
			j := c.awaitJob(ctx, t, id, "to end", over)
			if j.GetState() != fettlev1.JobState_JOB_STATE_CANCELLED || j.GetReason() != fettlev1.Reason_REASON_DEPENDENCY_NEVER || j.GetAttempt() != 0 {
				t.Errorf("job %d, whose dependency is never met, ended as %s: %s %s", id, j.GetState(), j.GetReason(), j.GetDetail())
			}
			if shown := c.run(ctx, t, "fqueue", "--noheader", "-o", "state,reason", fmt.Sprint(id)); !strings.Contains(shown, "DependencyNeverSatisfied") {
				t.Errorf("fqueue shows %q", shown)
			}
		}
	}
}

// leftAloneTakeover has an urgent job wait for one of little weight, where the partition allows no preemption.
func leftAloneTakeover(ctx context.Context, t *testing.T, c *Cluster) func(*testing.T) {
	g := c.gate()
	old := c.job(ctx, t, g.wait(), "-p", "main", "--gpus", "2", "--priority", "10")
	c.started(ctx, t, old)
	urgent := c.job(ctx, t, "true", "-p", "main", "--gpus", "2", "--priority", "1", "--preempt")
	c.waits(ctx, t, urgent, fettlev1.Reason_REASON_RESOURCES)
	return func(t *testing.T) {
		c.waits(ctx, t, urgent, fettlev1.Reason_REASON_RESOURCES)
		g.open(t)
		o, u := c.completed(ctx, t, old), c.completed(ctx, t, urgent)
		if o.GetAttempt() != 1 || o.GetPreemptedCount() != 0 || newestOf(u).GetDispatchMs() < o.GetEndMs() {
			t.Errorf("a job was touched for another although its partition does not allow it: %v", o.GetAttempts())
		}
	}
}

// rankTakeover has a job that may preempt wait for one that is ahead of it in the order, where the order alone decides.
func rankTakeover(ctx context.Context, t *testing.T, c *Cluster) func(*testing.T) {
	g := c.gate()
	ahead := c.job(ctx, t, g.wait(), "-p", "ranked", "--gpus", "1", "--priority", "1", "-t", "2")
	c.started(ctx, t, ahead)
	behind := c.job(ctx, t, "true", "-p", "ranked", "--gpus", "1", "--priority", "10", "-t", "4-0", "--preempt")
	c.waits(ctx, t, behind, fettlev1.Reason_REASON_RESOURCES)
	return func(t *testing.T) {
		if err := c.AwaitNodes(ctx); err != nil {
			t.Fatal(err)
		}
		c.waits(ctx, t, behind, fettlev1.Reason_REASON_RESOURCES)
		g.open(t)
		c.completed(ctx, t, behind)
		if j := c.completed(ctx, t, ahead); j.GetAttempt() != 1 || j.GetPreemptedCount() != 0 {
			t.Errorf("a job was ended for one behind it in the order: %v", j.GetAttempts())
		}
	}
}

// preemptionTakeover has the leader go while a job makes room for another.
func preemptionTakeover(ctx context.Context, t *testing.T, c *Cluster) func(*testing.T) {
	ready, asked, save, done, other := filepath.Join(c.opt.Dir, "ready"), filepath.Join(c.opt.Dir, "asked"), c.gate(), c.gate(), c.gate()
	// Runs until it is asked to end, then saves; the next attempt goes on from there.
	victim := `[ "$FETTLE_ATTEMPT" -gt 1 ] && exit 0; trap 'echo "$FETTLE_JOB_ID" >>` + asked + "; " + save.wait() + "; exit 0' TERM; echo >>" + ready + "; " + other.wait()
	pair := []uint64{
		c.job(ctx, t, victim, "-p", "batch", "--gpus", "2", "--priority", "10"),
		c.job(ctx, t, victim, "-p", "batch", "--gpus", "2", "--priority", "10"),
	}
	held := map[uint64][]string{}
	for _, id := range pair {
		held[id] = gpusOf(c.started(ctx, t, id))
	}
	awaitLines(ctx, t, ready, 2)
	// One that does not ask for it waits, one that does gets the room.
	patient := c.job(ctx, t, "true", "-p", "batch", "--gpus", "2", "--priority", "2")
	c.waits(ctx, t, patient, fettlev1.Reason_REASON_RESOURCES)
	urgent := c.job(ctx, t, done.wait(), "-p", "batch", "--gpus", "2", "--priority", "1", "--preempt")
	c.waits(ctx, t, urgent, fettlev1.Reason_REASON_PREEMPTING)
	awaitLines(ctx, t, asked, 1)
	return func(t *testing.T) {
		c.waits(ctx, t, urgent, fettlev1.Reason_REASON_PREEMPTING)
		late := c.job(ctx, t, "true", "-p", "batch", "--gpus", "1", "-t", "1", "--priority", "1")
		c.waits(ctx, t, late, fettlev1.Reason_REASON_RESOURCES)
		data, err := os.ReadFile(asked)
		if err != nil {
			t.Fatal(err)
		}
		stopped, spared := pair[0], pair[1]
		switch strings.TrimSpace(string(data)) {
		case fmt.Sprint(pair[0]):
		case fmt.Sprint(pair[1]):
			stopped, spared = pair[1], pair[0]
		default:
			t.Fatalf("asked to end: %q, want one of %v", data, pair)
		}
		save.open(t)
		u := c.started(ctx, t, urgent)
		if got := gpusOf(u); !slices.Equal(got, held[stopped]) {
			t.Errorf("the urgent job has GPUs %v, those that were freed for it are %v", got, held[stopped])
		}
		v := c.awaitJob(ctx, t, stopped, "to wait again", func(j *fettlev1.Job) bool { return j.GetState() == fettlev1.JobState_JOB_STATE_PENDING })
		if a := newestOf(v); a.GetPreemptedBy() != urgent || a.GetReason() != fettlev1.Reason_REASON_PREEMPTED || v.GetPreemptedCount() != 1 || a.GetEndMs() > newestOf(u).GetDispatchMs() {
			t.Errorf("the attempt that made room: %v, the job was ended %d times for others", a, v.GetPreemptedCount())
		}
		if shown := c.run(ctx, t, "fctl", "show", "job", fmt.Sprint(stopped)); !strings.Contains(shown, fmt.Sprint(urgent)) {
			t.Errorf("fctl show job does not say for whom job %d was ended:\n%s", stopped, shown)
		}
		done.open(t)
		first := c.completed(ctx, t, urgent)
		for _, id := range []uint64{patient, late} {
			if j := c.completed(ctx, t, id); newestOf(j).GetDispatchMs() < first.GetEndMs() {
				t.Errorf("job %d started on GPUs that were kept for job %d", id, urgent)
			}
		}
		if j := c.completed(ctx, t, stopped); j.GetAttempt() != 2 {
			t.Errorf("the job that made room ended in attempt %d, want 2", j.GetAttempt())
		}
		other.open(t)
		if j := c.completed(ctx, t, spared); j.GetAttempt() != 1 || j.GetPreemptedCount() != 0 {
			t.Errorf("the job that need not make room was touched: attempt %d", j.GetAttempt())
		}
	}
}
