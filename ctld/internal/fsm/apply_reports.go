package fsm

import (
	"fmt"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// applyReports takes what nodes say of attempts. A report counts only for the very attempt that it names.
func applyReports(t *state.Txn, op *raftlogv1.AttemptReports) *Result {
	if n := len(op.GetReports()); n > model.MaxReportsPerEntry {
		return &Result{Err: tooMany("reports", n, model.MaxReportsPerEntry)}
	}
	r := &Result{Reports: make([]ReportOutcome, 0, len(op.GetReports()))}
	for _, rep := range op.GetReports() {
		k := rep.GetKey()
		r.Reports = append(r.Reports, ReportOutcome{JobID: k.GetJobId(), Attempt: k.GetAttempt(), Node: rep.GetNode(), Status: applyReport(t, rep)})
	}
	return r
}

func applyReport(t *state.Txn, rep *fettlev1.AttemptReport) ReportStatus {
	k := rep.GetKey()
	j := t.Job(k.GetJobId())
	if j == nil || !j.Active() {
		return ReportStale
	}
	a := j.Current()
	if (a.GetNumber() != k.GetAttempt() || a.GetFence() != k.GetFence() && !bugFenceNotChecked) && !bugStaleCompletionApplied {
		return ReportStale
	}
	rank := rankOf(a, rep.GetNode())
	if rank < 0 {
		return ReportStale
	}
	part := a.GetNodes()[rank]
	if part.GetExit() != nil {
		return ReportRepeated
	}
	switch rep.GetKind() {
	case fettlev1.ReportKind_REPORT_KIND_PREPARED:
		if part.GetPrepared() {
			return ReportRepeated
		}
		t.EditPart(j.ID, rank).Prepared = true
	case fettlev1.ReportKind_REPORT_KIND_STARTED:
		if part.GetStarted() {
			return ReportRepeated
		}
		p := t.EditPart(j.ID, rank)
		p.Prepared, p.Started = true, true
		forgiveNode(t, p.GetNode())
	case fettlev1.ReportKind_REPORT_KIND_ENDED:
		if rep.GetExit() == nil {
			return ReportMalformed
		}
		endPart(t, j.ID, rank, cleanExit(rep.GetExit()))
		return ReportApplied
	default:
		return ReportMalformed
	}
	runWhenPrepared(t, j.ID)
	return ReportApplied
}

func rankOf(a *fettlev1.Attempt, node string) int {
	for i, p := range a.GetNodes() {
		if p.GetNode() == node {
			return i
		}
	}
	return -1
}

// cleanExit keeps what is known of an exit, its text cut to one line. The controller's own verdicts are not a node's to
// give.
func cleanExit(e *fettlev1.Exit) *fettlev1.Exit {
	return &fettlev1.Exit{
		Code: e.GetCode(), Signal: e.GetSignal(), NeverStarted: e.GetNeverStarted(), OomKilled: e.GetOomKilled(),
		TimedOut: e.GetTimedOut(), LeaseExpired: e.GetLeaseExpired(), ShimLost: e.GetShimLost(), UserError: e.GetUserError(),
		Class: e.GetClass(), Detail: model.OneLine(e.GetDetail(), model.MaxDetail), StartMs: e.GetStartMs(), EndMs: e.GetEndMs(),
		StdoutStart: max(0, e.GetStdoutStart()), StderrStart: max(0, e.GetStderrStart()),
	}
}

// runWhenPrepared moves a job to RUNNING once every node of its attempt is prepared.
func runWhenPrepared(t *state.Txn, id uint64) {
	j := t.Job(id)
	if j.State != model.Dispatching {
		return
	}
	for _, p := range j.Current().GetNodes() {
		if !p.GetPrepared() {
			return
		}
	}
	j = t.EditJob(id)
	setState(j, model.Running)
	j.StartMS = t.NowMS()
	t.EditAttempt(id).StartMs = j.StartMS
}

// forgiveNode ends a run of failed launches.
func forgiveNode(t *state.Txn, name string) {
	if n := t.Node(name); n != nil && n.LaunchFailures > 0 {
		t.EditNode(name).LaunchFailures = 0
	}
}

// endPart records that the current attempt is over on one node and gives that node's resources back. When it was the last
// node, the job moves on; a bad end of one node begins the end of the others.
func endPart(t *state.Txn, id uint64, rank int, exit *fettlev1.Exit) {
	before := t.Job(id)
	ending := before.CancelRequested || before.RequeueRequested || before.FirstBad != 0 || preempted(before)
	p := t.EditPart(id, rank)
	p.Exit = exit
	if !exit.GetNeverStarted() && !exit.GetNodeLost() {
		// It ran, even if the news of its start was lost.
		p.Prepared, p.Started = true, true
	}
	j := t.EditJob(id)
	if n := t.EditNode(p.GetNode()); n != nil {
		n.Free(id, j.Attempt, p)
		t.Charge(j, int64(p.GetGpuMilli()), j.Current().GetDispatchMs())
		judgeNode(n, j, exit, ending)
	}
	if bugGangHalfFreed {
		for _, q := range j.Current().GetNodes() {
			if n := t.EditNode(q.GetNode()); n != nil && q.GetExit() == nil {
				n.Free(id, j.Attempt, q)
			}
		}
	}
	bad := !model.Clean(exit)
	if bad && j.FirstBad == 0 {
		j.FirstBad = uint32(rank) + 1
	}
	for _, q := range j.Current().GetNodes() {
		if q.GetExit() == nil {
			partlyEnded(t, j, exit, bad)
			return
		}
	}
	conclude(t, id)
}

// partlyEnded is for a gang of which other nodes have not ended. A clean end leaves them to finish what they do, such as
// writing the model; after a bad one they have to end too.
func partlyEnded(t *state.Txn, j *state.Job, exit *fettlev1.Exit, bad bool) {
	switch {
	case !bad:
		runWhenPrepared(t, j.ID)
	case exit.GetNodeLost() || exit.GetLeaseExpired():
		if j.State != model.Fencing {
			setState(j, model.Fencing)
		}
		noteEnd(j, fettlev1.Reason_REASON_NODE_LOST, exit.GetDetail())
	default:
		beginEnd(j)
		noteEnd(j, badReason(exit), exit.GetDetail())
	}
}

// noteEnd keeps the first reason for which an attempt is being ended.
func noteEnd(j *state.Job, r fettlev1.Reason, detail string) {
	if j.EndReason == 0 {
		j.EndReason, j.Reason, j.Detail = r, r, detail
	}
}

// judgeNode counts launches in a row that failed through the node's own fault. One that the controller was ending anyway,
// or that failed through the user's settings, says nothing about the node.
func judgeNode(n *state.Node, j *state.Job, exit *fettlev1.Exit, ending bool) {
	switch {
	case exit.GetNodeLost() || exit.GetUserError():
	case !exit.GetNeverStarted():
		n.LaunchFailures = 0
	case ending:
	default:
		n.LaunchFailures++
		if n.LaunchFailures >= model.LaunchFailureLimit && !n.Drained {
			n.Drained = true
			n.DrainReason = model.OneLine(fmt.Sprintf("%d launches failed in a row, the last of job %d: %s", n.LaunchFailures, j.ID, exit.GetDetail()), model.MaxDetail)
		}
	}
}
