package fsm

import (
	"strings"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

const (
	classDone      = fettlev1.ExitClass_EXIT_CLASS_DONE
	classOOM       = fettlev1.ExitClass_EXIT_CLASS_OUT_OF_MEMORY
	classTransient = fettlev1.ExitClass_EXIT_CLASS_TRANSIENT
	classPermanent = fettlev1.ExitClass_EXIT_CLASS_PERMANENT
)

// What one node's end means for its job, for jobs that may and may not be requeued.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	type end struct {
		state  fettlev1.JobState
		reason fettlev1.Reason
		code   int32
	}
	back := func(r fettlev1.Reason) end { return end{model.Pending, r, 0} }
	for name, c := range map[string]struct {
		exit        *fettlev1.Exit
		free, bound end
		detail      string
	}{
		"status 0":            {&fettlev1.Exit{}, end{model.Completed, 0, 0}, end{model.Completed, 0, 0}, ""},
		"done, odd status":    {&fettlev1.Exit{Code: 3, Class: classDone}, end{model.Completed, 0, 0}, end{model.Completed, 0, 0}, ""},
		"status 3":            {&fettlev1.Exit{Code: 3}, end{model.Failed, fettlev1.Reason_REASON_NON_ZERO_EXIT, 3}, end{model.Failed, fettlev1.Reason_REASON_NON_ZERO_EXIT, 3}, "exit status 3"},
		"signal 9":            {&fettlev1.Exit{Code: -1, Signal: 9}, end{model.Failed, fettlev1.Reason_REASON_SIGNALLED, 137}, end{model.Failed, fettlev1.Reason_REASON_SIGNALLED, 137}, "ended by signal 9"},
		"permanent, status 0": {&fettlev1.Exit{Class: classPermanent, Detail: "bad config"}, end{model.Failed, fettlev1.Reason_REASON_PERMANENT_ERROR, 1}, end{model.Failed, fettlev1.Reason_REASON_PERMANENT_ERROR, 1}, "bad config"},
		"transient":           {&fettlev1.Exit{Code: 1, Class: classTransient}, back(fettlev1.Reason_REASON_BACKOFF), end{model.Failed, fettlev1.Reason_REASON_NON_ZERO_EXIT, 1}, "exit status 1"},
		"over its share": {
			&fettlev1.Exit{Code: -1, Signal: 15, Class: fettlev1.ExitClass_EXIT_CLASS_VRAM_EXCEEDED, Detail: "used 9 of 4 GiB"},
			end{model.OutOfMemory, fettlev1.Reason_REASON_VRAM_EXCEEDED, 143}, end{model.OutOfMemory, fettlev1.Reason_REASON_VRAM_EXCEEDED, 143}, "used 9 of 4 GiB",
		},
		"out of memory":        {&fettlev1.Exit{Code: 1, Class: classOOM}, end{model.OutOfMemory, fettlev1.Reason_REASON_OUT_OF_MEMORY, 1}, end{model.OutOfMemory, fettlev1.Reason_REASON_OUT_OF_MEMORY, 1}, "exit status 1"},
		"oom killed":           {&fettlev1.Exit{Code: -1, Signal: 9, OomKilled: true}, end{model.OutOfMemory, fettlev1.Reason_REASON_OUT_OF_MEMORY, 137}, end{model.OutOfMemory, fettlev1.Reason_REASON_OUT_OF_MEMORY, 137}, "ended by signal 9"},
		"timed out, status 0":  {&fettlev1.Exit{TimedOut: true}, end{model.Timeout, fettlev1.Reason_REASON_TIME_LIMIT, 1}, end{model.Timeout, fettlev1.Reason_REASON_TIME_LIMIT, 1}, "exit status 0"},
		"lease ran out":        {&fettlev1.Exit{Code: -1, LeaseExpired: true}, back(fettlev1.Reason_REASON_NODE_LOST), end{model.NodeFail, fettlev1.Reason_REASON_NODE_LOST, 1}, "exit status -1"},
		"shim lost":            {&fettlev1.Exit{Code: -1, ShimLost: true, Detail: "shim gone"}, back(fettlev1.Reason_REASON_SHIM_LOST), end{model.Failed, fettlev1.Reason_REASON_SHIM_LOST, 1}, "shim gone"},
		"launch failed":        {&fettlev1.Exit{Code: -1, NeverStarted: true, Detail: "disk full"}, back(fettlev1.Reason_REASON_BACKOFF), end{model.NodeFail, fettlev1.Reason_REASON_LAUNCH_FAILED, 1}, "disk full"},
		"user's launch failed": {&fettlev1.Exit{Code: -1, NeverStarted: true, UserError: true, Detail: "no such work_dir"}, end{model.Failed, fettlev1.Reason_REASON_PERMANENT_ERROR, 1}, end{model.Failed, fettlev1.Reason_REASON_PERMANENT_ERROR, 1}, "no such work_dir"},
	} {
		for _, noRequeue := range []bool{false, true} {
			r := up(t, "n1")
			s := script(1, 1, 2)
			s.NoRequeue = noRequeue
			id := r.submit(s)
			k := r.dispatch(id, part(s, "n1", 0, 1))
			r.now += 5000
			if st := r.ended(k, "n1", c.exit); st != ReportApplied {
				t.Fatalf("%s: %s", name, st)
			}
			want, j := c.free, r.job(id)
			if noRequeue {
				want = c.bound
			}
			if j.State != want.state || j.Reason != want.reason || j.ExitCode != want.code || j.Detail != c.detail {
				t.Errorf("%s (no requeue %v): %s %s exit code %d detail %q", name, noRequeue, model.StateName(j.State), j.Reason, j.ExitCode, j.Detail)
			}
			r.wantIdle("n1")
			if over := j.Finished(); over != (j.EndMS == r.now) {
				t.Errorf("%s: finished %v, ended at %d", name, over, j.EndMS)
			}
			if a := j.Current(); a.GetEndMs() != r.now || a.GetOutcome() == 0 || a.GetNodes()[0].GetExit() == nil {
				t.Errorf("%s: attempt = %v", name, a)
			}
		}
	}
}

func TestTransientFailuresAreRetriedWithBackoff(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	id := r.submit(script(1, 1, 0))
	var last int64
	for try := 1; ; try++ {
		k := r.dispatch(id, part(r.job(id).Spec, "n1"))
		r.ended(k, "n1", &fettlev1.Exit{Code: 1, Class: classTransient, Detail: "NCCL timeout"})
		j := r.job(id)
		if try == 3 {
			if j.State != model.Failed || j.Reason != fettlev1.Reason_REASON_RETRIES_EXHAUSTED || j.Failures != 3 {
				t.Fatalf("after the third failure: %+v", j)
			}
			return
		}
		wait := j.RetryAtMS - r.now
		if j.State != model.Pending || j.Failures != uint32(try) || wait <= last || j.EligibleMS != j.RetryAtMS {
			t.Fatalf("after failure %d: waits %d ms after %d: %+v", try, wait, last, j)
		}
		last, r.now = wait, j.RetryAtMS
	}
}

func TestRetriesZero(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	s := script(1, 1, 0)
	s.Retries = new(uint32)
	id := r.submit(s)
	r.ended(r.dispatch(id, part(s, "n1")), "n1", &fettlev1.Exit{Code: 1, Class: classTransient})
	r.wantState(id, model.Failed)
	if got := r.job(id).Reason; got != fettlev1.Reason_REASON_NON_ZERO_EXIT {
		t.Errorf("reason %s", got)
	}
}

// A report counts for the very attempt that it names and no other: not for the next attempt, another fence, another
// node, or a job that is over (spur #474).
func TestStaleReports(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2")
	id := r.submit(script(1, 1, 1))
	first := r.dispatch(id, part(r.job(id).Spec, "n1", 0))
	r.ok(requeueOp(id))
	r.ended(first, "n1", &fettlev1.Exit{Code: -1, Signal: 15})
	second := r.dispatch(id, part(r.job(id).Spec, "n1", 0))
	before := r.snap()
	otherFence := clone(second)
	otherFence.Fence--
	for name, c := range map[string]struct {
		key  *fettlev1.AttemptKey
		node string
		want ReportStatus
	}{
		"an earlier attempt": {first, "n1", ReportStale},
		"another fence":      {otherFence, "n1", ReportStale},
		"another node":       {second, "n2", ReportStale},
		"no job":             {&fettlev1.AttemptKey{JobId: 99, Attempt: 1, Fence: 5}, "n1", ReportStale},
		"no key":             {nil, "n1", ReportStale},
	} {
		for _, k := range []fettlev1.ReportKind{1, 2, 3} {
			if got := r.report(c.key, c.node, k, &fettlev1.Exit{}); got != c.want {
				t.Errorf("%s, kind %d: %s", name, k, got)
			}
		}
	}
	for _, kind := range []fettlev1.ReportKind{0, 9} {
		if got := r.report(second, "n1", kind, nil); got != ReportMalformed {
			t.Errorf("kind %d: %s", kind, got)
		}
	}
	if got := r.ended(second, "n1", nil); got != ReportMalformed {
		t.Errorf("an end without an exit: %s", got)
	}
	if r.snap().Job(id) != before.Job(id) || r.snap().Node("n1") != before.Node("n1") {
		t.Error("a stale report changed something")
	}
	if got := r.ended(second, "n1", &fettlev1.Exit{}); got != ReportApplied {
		t.Errorf("the right one: %s", got)
	}
	if got := r.ended(second, "n1", &fettlev1.Exit{Code: 1}); got != ReportStale {
		t.Errorf("an end after the end: %s", got)
	}
	r.wantState(id, model.Completed)
}

func TestGangRunsWhenAllArePrepared(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2")
	s := script(2, 1, 1)
	id := r.submit(s)
	k := r.dispatch(id, part(s, "n1", 0), part(s, "n2", 0))
	if r.prepared(k, "n1") != ReportApplied || r.prepared(k, "n1") != ReportRepeated {
		t.Error("reports of n1")
	}
	r.wantState(id, model.Dispatching)
	r.now += 50
	r.prepared(k, "n2")
	r.wantState(id, model.Running)
	if j := r.job(id); j.StartMS != r.now || j.Current().GetStartMs() != r.now {
		t.Errorf("job = %+v", j)
	}
	r.started(k, "n2")
	if p := r.job(id).Current().GetNodes(); p[0].GetStarted() || !p[1].GetStarted() {
		t.Errorf("parts = %v", p)
	}
}

// The first bad end of a gang ends it: its own node is free at once, the others hold on until they report.
func TestGangBadEnd(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2", "n3")
	s := script(3, 1, 4)
	id := r.submit(s)
	k := r.dispatch(id, part(s, "n1", 0, 1, 2, 3), part(s, "n2", 0, 1, 2, 3), part(s, "n3", 0, 1, 2, 3))
	for _, n := range []string{"n1", "n2", "n3"} {
		r.started(k, n)
	}
	r.ended(k, "n2", &fettlev1.Exit{Code: 7, Detail: "loss is NaN"})
	r.wantState(id, model.Completing)
	r.wantIdle("n2")
	for _, n := range []string{"n1", "n3"} {
		if len(r.node(n).Held) != 4 {
			t.Errorf("%s was freed early", n)
		}
	}
	r.ended(k, "n1", &fettlev1.Exit{Code: -1, Signal: 15})
	r.wantState(id, model.Completing)
	r.ended(k, "n3", &fettlev1.Exit{Code: -1, Signal: 9})
	j := r.job(id)
	if j.State != model.Failed || j.ExitCode != 7 || j.Detail != "n2: loss is NaN" || j.Reason != fettlev1.Reason_REASON_NON_ZERO_EXIT {
		t.Errorf("job = %+v", j)
	}
	r.wantIdle("n1", "n2", "n3")
}

// A rank that ends well leaves the others alone: they may still be writing the model.
func TestGangCleanEndsOneByOne(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2")
	s := script(2, 1, 1)
	id := r.submit(s)
	k := r.dispatch(id, part(s, "n1", 0), part(s, "n2", 0))
	r.prepared(k, "n1")
	// n1 ends before the news that n2 is prepared: it ran, so it was prepared and started.
	r.ended(k, "n1", &fettlev1.Exit{})
	r.wantState(id, model.Dispatching)
	r.wantIdle("n1")
	r.started(k, "n2")
	r.wantState(id, model.Running)
	r.ended(k, "n2", &fettlev1.Exit{})
	r.wantState(id, model.Completed)
}

// A gang of which one node cannot prepare is aborted and tried again; the nodes that were told to stop are not blamed.
func TestGangAbort(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2")
	s := script(2, 1, 1)
	id := r.submit(s)
	k := r.dispatch(id, part(s, "n1", 0), part(s, "n2", 0))
	r.prepared(k, "n1")
	r.ended(k, "n2", &fettlev1.Exit{Code: -1, NeverStarted: true, Detail: "no room for the journal"})
	r.wantState(id, model.Completing)
	r.ended(k, "n1", &fettlev1.Exit{Code: -1, NeverStarted: true, Detail: "killed before it started"})
	j := r.job(id)
	if j.State != model.Pending || j.Current().GetReason() != fettlev1.Reason_REASON_GANG_ABORTED || j.Detail != "n2: no room for the journal" {
		t.Errorf("job = %+v", j)
	}
	if a, b := r.node("n1").LaunchFailures, r.node("n2").LaunchFailures; a != 0 || b != 1 {
		t.Errorf("n1 is blamed %d times, n2 %d times", a, b)
	}
}

// A node that fails launches in a row is drained; a start in between, or a user's own mistake, does not count (spur #503, #520).
func TestFailedLaunchesDrainTheNode(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2")
	fail := func(exit *fettlev1.Exit) uint64 {
		id := r.submit(script(1, 1, 0))
		r.ended(r.dispatch(id, part(r.job(id).Spec, "n1")), "n1", exit)
		return id
	}
	broken := &fettlev1.Exit{Code: -1, NeverStarted: true, Detail: "cgroup: read-only\nfile system"}
	fail(broken)
	fail(broken)
	fail(&fettlev1.Exit{Code: -1, NeverStarted: true, UserError: true})
	if n := r.node("n1"); n.LaunchFailures != 2 || n.Drained {
		t.Fatalf("node = %+v", n)
	}
	ok := r.submit(script(1, 1, 0))
	r.started(r.dispatch(ok, part(r.job(ok).Spec, "n1")), "n1")
	if n := r.node("n1"); n.LaunchFailures != 0 {
		t.Fatalf("a start does not clear the count: %+v", n)
	}
	fail(broken)
	fail(broken)
	last := fail(broken)
	n := r.node("n1")
	if !n.Drained || n.DrainReason != "3 launches failed in a row, the last of job 7: cgroup: read-only file system" || last != 7 {
		t.Fatalf("node = %+v", n)
	}
	r.ok(nodeAction("n1", fettlev1.NodeAction_NODE_ACTION_RESUME, ""))
	if n := r.node("n1"); n.Drained || n.LaunchFailures != 0 {
		t.Errorf("node = %+v", n)
	}
}

// A job that cannot be launched anywhere is held before it drains the whole cluster.
func TestFailedLaunchesHoldTheJob(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2")
	id := r.submit(script(1, 1, 0))
	launch := func() {
		r.now = max(r.now, r.job(id).RetryAtMS)
		node := "n1"
		if r.node("n1").Drained {
			node = "n2"
		}
		r.ended(r.dispatch(id, part(r.job(id).Spec, node)), node, &fettlev1.Exit{Code: -1, NeverStarted: true, Detail: "launcher crashed"})
	}
	for range model.JobLaunchFailureLimit - 1 {
		launch()
		if j := r.job(id); j.Held || j.State != model.Pending || j.RetryAtMS <= r.now {
			t.Fatalf("job = %+v", j)
		}
	}
	launch()
	if j := r.job(id); !j.Held || j.HeldByAdmin || j.Reason != fettlev1.Reason_REASON_LAUNCH_FAILED || j.Detail != "launcher crashed" {
		t.Fatalf("job = %+v", j)
	}
	if r.node("n2").Drained {
		t.Error("one job drained the whole cluster")
	}
	// Nothing but a release takes the reason away.
	begin := r.now + 1
	r.ok(updateJobOp(&fettlev1.UpdateJobRequest{JobId: id, BeginMs: &begin}))
	if j := r.job(id); !j.HeldByLaunches() || j.EligibleMS != 0 {
		t.Errorf("after an update: %+v", j)
	}
	r.now = begin
	r.ok(releaseOp(id))
	if j := r.job(id); j.HeldByLaunches() || j.Detail != "" {
		t.Errorf("after a release: %+v", j)
	}
	launch()
	if j := r.job(id); j.Held {
		t.Errorf("held again after one more failure: %+v", j)
	}
}

// A gang's launch counts once, on however many of its nodes it failed, and --retries has no say in it.
func TestFailedLaunchesCountOnceForAGang(t *testing.T) {
	t.Parallel()
	r := up(t, "n1", "n2")
	s := script(2, 1, 1)
	none := uint32(0)
	s.Retries = &none
	id := r.submit(s)
	for i := range model.JobLaunchFailureLimit {
		if j := r.job(id); j.Held || j.Failures != 0 {
			t.Fatalf("after %d launches: %+v", i, j)
		}
		for _, n := range []string{"n1", "n2"} {
			r.ok(nodeAction(n, fettlev1.NodeAction_NODE_ACTION_RESUME, ""))
		}
		r.now = max(r.now, r.job(id).RetryAtMS)
		k := r.dispatch(id, part(r.job(id).Spec, "n1", 0), part(r.job(id).Spec, "n2", 0))
		for _, n := range []string{"n1", "n2"} {
			r.ended(k, n, &fettlev1.Exit{Code: -1, NeverStarted: true, Detail: "no cgroup"})
		}
	}
	if j := r.job(id); !j.HeldByLaunches() || j.Detail != "n1: no cgroup" {
		t.Errorf("job = %+v", j)
	}
}

func TestDetailsAreOneShortLine(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	id := r.submit(script(1, 1, 0))
	r.ended(r.dispatch(id, part(r.job(id).Spec, "n1")), "n1", &fettlev1.Exit{Code: 1, Detail: "a\nb\x1b[31m" + strings.Repeat("é", 1000), NodeLost: true})
	j := r.job(id)
	if len(j.Detail) > model.MaxDetail || strings.ContainsAny(j.Detail, "\n\x1b") || !strings.HasPrefix(j.Detail, "a b") {
		t.Errorf("detail = %q", j.Detail)
	}
	if j.State != model.Failed {
		t.Errorf("a node's claim to be lost was believed: %s", model.StateName(j.State))
	}
}

func TestAttemptsKeptAreBounded(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	id := r.submit(script(1, 1, 0))
	for range model.MaxAttemptsKept + 5 {
		k := r.dispatch(id, part(r.job(id).Spec, "n1"))
		r.ok(requeueOp(id))
		r.ended(k, "n1", &fettlev1.Exit{Code: -1, Signal: 15})
	}
	j := r.job(id)
	if len(j.Attempts) != model.MaxAttemptsKept || j.Attempt != model.MaxAttemptsKept+5 || j.Attempts[0].GetNumber() != 6 {
		t.Errorf("%d attempts are kept of %d, the oldest is %d", len(j.Attempts), j.Attempt, j.Attempts[0].GetNumber())
	}
}

func TestReportsRefusedWhole(t *testing.T) {
	t.Parallel()
	r := up(t)
	many := make([]*fettlev1.AttemptReport, model.MaxReportsPerEntry+1)
	for i := range many {
		many[i] = &fettlev1.AttemptReport{}
	}
	err := r.apply(&raftlogv1.Entry{Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: many}}}).Err
	wantRefusal(t, err, model.Invalid, "reports: 2049 in one request, the limit is 2048; split the request")
}
