//go:build fettlebugs

package session

import (
	"fmt"
	"slices"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

var (
	bugAckBeforeCommit   bool
	bugLeaseUnverified   bool
	bugNoGrace           bool
	bugMissingMeansEnded bool
)

var bugs = map[string]*bool{
	// An end is acknowledged when it is proposed, so that the node forgets what the log may never hear.
	"ack_before_commit": &bugAckBeforeCommit,
	// A leader that cannot prove its leadership goes on granting leases.
	"lease_unverified": &bugLeaseUnverified,
	// A new leader takes nodes for lost that it has not given a chance to be heard.
	"no_grace_after_election": &bugNoGrace,
	// What a hello does not mention counts as ended.
	"missing_means_ended": &bugMissingMeansEnded,
}

// Bugs names the seeded bugs.
func Bugs() []string {
	var names []string
	for n := range bugs {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// SetBug turns a seeded bug on or off. Not for concurrent use.
func SetBug(name string, on bool) error {
	b, ok := bugs[name]
	if !ok {
		return fmt.Errorf("session: no seeded bug %q", name)
	}
	*b = on
	return nil
}

// endMissing is the bug missing_means_ended.
func (m *Machine) endMissing(c *conn, snap *state.Snapshot) []Output {
	var out []Output
	for _, id := range snap.ActiveOn(c.node) {
		j := snap.Job(id)
		key := keyOf(j, j.Current())
		if slices.ContainsFunc(c.hello.GetAttempts(), func(r *fettlev1.AttemptReport) bool { return r.GetKey().GetFence() == key.GetFence() }) {
			continue
		}
		r := &fettlev1.AttemptReport{Key: key, Kind: fettlev1.ReportKind_REPORT_KIND_ENDED, Exit: &fettlev1.Exit{Code: -1, ShimLost: true}, Node: c.node}
		entry := &raftlogv1.Entry{Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: []*fettlev1.AttemptReport{r}}}}
		out = append(out, Output{Propose: &Propose{Entry: entry, Report: &PendingReport{Conn: c.id, Report: r}}})
	}
	return out
}
