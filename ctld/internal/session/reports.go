package session

import (
	"google.golang.org/protobuf/proto"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// Report takes an attempt report from a node.
func (m *Machine) Report(id ConnID, r *fettlev1.AttemptReport, snap *state.Snapshot) []Output {
	c := m.conns[id]
	switch {
	case c == nil:
		return nil
	case c.session != 0:
		return m.report(c, r, snap)
	case len(c.early) >= maxEarly:
		return m.refuse(id, "too many reports before the session was open")
	}
	c.early = append(c.early, r)
	return nil
}

// report decides whether the log must hear of it. What the log knows already is acknowledged at once; an attempt that
// the log has closed but that lives on (it was fenced and its node came back) is killed by an explicit order.
func (m *Machine) report(c *conn, r *fettlev1.AttemptReport, snap *state.Snapshot) []Output {
	key, kind := r.GetKey(), r.GetKind()
	if key.GetFence() > snap.Index() {
		// An attempt that this log never heard of: never a reason to kill, nor to forget how it ended.
		return nil
	}
	id := attemptID{key.GetJobId(), key.GetAttempt()}
	part := allocation(snap.Job(key.GetJobId()), key, c.node)
	if part == nil || part.GetExit() != nil {
		return m.closed(c, id, r, snap)
	}
	switch {
	case kind <= c.proposed[id],
		kind == fettlev1.ReportKind_REPORT_KIND_PREPARED && part.GetPrepared(),
		kind == fettlev1.ReportKind_REPORT_KIND_STARTED && part.GetStarted():
		return nil
	}
	c.proposed[id] = kind
	clean := cleanReport(r, c.node)
	entry := &raftlogv1.Entry{Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: []*fettlev1.AttemptReport{clean}}}}
	out := []Output{{Propose: &Propose{Entry: entry, Report: &PendingReport{Conn: c.id, Report: clean}}}}
	if bugAckBeforeCommit && kind == fettlev1.ReportKind_REPORT_KIND_ENDED {
		out = append(out, m.ack(c, key, snap.Index()))
	}
	return out
}

// closed answers a report of an attempt that holds nothing on the node any more.
func (m *Machine) closed(c *conn, id attemptID, r *fettlev1.AttemptReport, snap *state.Snapshot) []Output {
	if r.GetKind() == fettlev1.ReportKind_REPORT_KIND_ENDED {
		delete(c.given, id)
		delete(c.proposed, id)
		return []Output{m.ack(c, r.GetKey(), snap.Index())}
	}
	if snap.Job(r.GetKey().GetJobId()) == nil {
		// The job was purged, so the attempt had ended by some evidence; but a row that is missing is never a reason to
		// kill.
		return nil
	}
	if c.given[id].order == orderKill {
		return nil
	}
	c.given[id] = given{order: orderKill}
	return []Output{m.kill(c, r.GetKey(), 0, 0)}
}

// cleanReport keeps what is known of a report, so that one node's overlong text cannot keep the reports of others, which
// go into the same entry, out of the log.
func cleanReport(r *fettlev1.AttemptReport, node string) *fettlev1.AttemptReport {
	key := r.GetKey()
	out := &fettlev1.AttemptReport{
		Key:  &fettlev1.AttemptKey{JobId: key.GetJobId(), Attempt: key.GetAttempt(), Fence: key.GetFence()},
		Kind: r.GetKind(), Node: node,
	}
	if r.GetExit() != nil {
		out.Exit = proto.CloneOf(r.GetExit())
		out.Exit.ProtoReflect().SetUnknown(nil)
		out.Exit.Detail = model.OneLine(r.GetExit().GetDetail(), model.MaxDetail)
	}
	return out
}

// reportCommitted says that a report is in the log at index, whatever the state machine made of it.
func (m *Machine) reportCommitted(p *PendingReport, index uint64) []Output {
	c := m.conns[p.Conn]
	if c == nil || p.Report.GetKind() != fettlev1.ReportKind_REPORT_KIND_ENDED {
		return nil
	}
	id := attemptID{p.Report.GetKey().GetJobId(), p.Report.GetKey().GetAttempt()}
	delete(c.proposed, id)
	delete(c.given, id)
	return []Output{m.ack(c, p.Report.GetKey(), index)}
}
