package api

import (
	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// linksOf says what a submit would come to by the job's dependencies and its deadline: for dry runs, as the log judges them
// when the job is truly submitted.
func (s *Server) linksOf(snap *state.Snapshot, actor *raftlogv1.Actor, spec *fettlev1.JobSpec) (warnings []string, err *model.FieldError) {
	full := limited(snap, spec)
	never, err := fsm.CheckLinks(snap, actor, s.cfg.Now().UnixMilli(), full)
	if err == nil && never != "" {
		warnings = append(warnings, endsAtOnce+never)
	}
	return warnings, err
}

// limited is the specification with the time limit that its partition gives it.
func limited(snap *state.Snapshot, spec *fettlev1.JobSpec) *fettlev1.JobSpec {
	full := state.CloneSpec(spec)
	if p := snap.Partition(full.GetPartition()); p != nil && full.GetTimeLimitS() == 0 {
		if full.TimeLimitS = p.GetDefaultTimeS(); full.TimeLimitS == 0 {
			full.TimeLimitS = p.GetMaxTimeS()
		}
	}
	return full
}

// endsAtOnce begins the warning about a job that can never start.
const endsAtOnce = "the job is ended at once: "

// warnEnded tells the user of a new job that has ended already, because what it depends on can never come.
func (s *Server) warnEnded(r *fettlev1.SubmitResult) {
	if r.GetJobId() == 0 || r.GetDuplicate() {
		return
	}
	if j := s.cfg.Store.Snapshot().Job(r.GetJobId()); j != nil && j.Finished() && j.Reason == fettlev1.Reason_REASON_DEPENDENCY_NEVER {
		r.Warnings = append(r.Warnings, endsAtOnce+j.Detail)
	}
}
