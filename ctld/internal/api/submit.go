package api

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// maxBatch bounds the jobs of one request.
const maxBatch = 1000

// entryBudget is how many bytes of specs go into one log entry: under the log's limit with room for the envelope.
const entryBudget = 480 << 10

// maxSubmission bounds one job as it was sent, so that it fits into an entry whatever else a newer client put into it.
const maxSubmission = model.MaxSpecBytes + 4<<10

// SubmitJobs implements fettle.v1.ControllerService.
func (s *Server) SubmitJobs(ctx context.Context, req *fettlev1.SubmitJobsRequest) (*fettlev1.SubmitJobsResponse, error) {
	actor, leader, fwd, err := s.toLeader(ctx)
	if err != nil {
		return nil, err
	}
	if leader != nil {
		return leader.SubmitJobs(fwd, req)
	}
	if n := len(req.GetJobs()); n == 0 || n > maxBatch {
		return nil, refuse(model.Invalid, "jobs", fmt.Sprintf("%d jobs in one request", n), fmt.Sprintf("send 1 to %d", maxBatch))
	}
	results := make([]*fettlev1.SubmitResult, len(req.GetJobs()))
	var chosen []int
	for i, sub := range req.GetJobs() {
		results[i] = s.checkSubmission(ctx, actor, sub, req.GetDryRun())
		if results[i].GetError() == nil && !req.GetDryRun() {
			chosen = append(chosen, i)
		}
	}
	begun := false
	for len(chosen) > 0 {
		entry, n := submitEntry(actor, req.GetJobs(), chosen)
		res, err := s.cfg.Log.Propose(ctx, entry)
		if err != nil {
			return nil, s.afterPart(begun, err)
		}
		for k, i := range chosen[:n] {
			if res.Err != nil {
				results[i].Error = res.Err.Proto()
				continue
			}
			fillSubmit(results[i], res.Submit[k])
			s.warnEnded(results[i])
		}
		begun = begun || res.Err == nil
		chosen = chosen[n:]
	}
	return &fettlev1.SubmitJobsResponse{Header: s.header(s.cfg.Store.Snapshot(), fettlev1.ReadLevel_READ_LEVEL_LEADER), Results: results}, nil
}

// submitEntry packs as many of the chosen submissions as fit into one entry.
func submitEntry(actor *raftlogv1.Actor, jobs []*fettlev1.JobSubmission, chosen []int) (*raftlogv1.Entry, int) {
	op := &raftlogv1.SubmitJobs{}
	size := 0
	for _, i := range chosen {
		n := proto.Size(jobs[i]) + 8
		if len(op.Jobs) > 0 && size+n > entryBudget {
			break
		}
		size += n
		op.Jobs = append(op.Jobs, jobs[i])
	}
	return &raftlogv1.Entry{Actor: actor, Op: &raftlogv1.Entry_Submit{Submit: op}}, len(op.Jobs)
}

func fillSubmit(r *fettlev1.SubmitResult, out fsm.SubmitOutcome) {
	r.JobId, r.Duplicate, r.Error = out.JobID, out.Duplicate, out.Err.Proto()
}

// checkSubmission fills defaults and asks everybody who can know that a job is wrong before it costs a GPU.
func (s *Server) checkSubmission(ctx context.Context, actor *raftlogv1.Actor, sub *fettlev1.JobSubmission, dryRun bool) *fettlev1.SubmitResult {
	r := &fettlev1.SubmitResult{}
	spec := sub.GetSpec()
	if spec == nil {
		r.Error = &fettlev1.ErrorDetail{Field: "spec", Problem: "is missing", Remedy: "send a job specification"}
		return r
	}
	// That is the controller's to fill in.
	spec.EstimatedRunS = 0
	if !dryRun {
		if fe := model.CheckRequestID(sub.GetRequestId()); fe != nil {
			r.Error = fe.Proto()
			return r
		}
		// A repeat is answered by the log alone: nobody who was asked the first time may refuse it now.
		if j := s.cfg.Store.Snapshot().JobByRequest(actor.GetUid(), sub.GetRequestId()); j != nil {
			if spec.Method == "" {
				spec.Method = j.Spec.GetMethod()
			}
			return r
		}
	}
	if len(spec.GetConfig()) > 0 {
		checked, err := s.cfg.Launchers.Check(ctx, spec)
		if err != nil {
			r.Error = &fettlev1.ErrorDetail{Field: "method", Problem: err.Error()}
			return r
		}
		if spec.Method == "" {
			spec.Method = checked.Method
		}
		if len(checked.Problems) > 0 {
			r.Error = checked.Problems[0]
			return r
		}
		r.Warnings = checked.Warnings
		if dryRun {
			r.RenderedConfig, r.Estimate = checked.Rendered, checked.Estimate
		}
	}
	// The log gets the spec as it was sent, so that a repeat is recognised whatever defaults hold by then.
	snap := s.cfg.Store.Snapshot()
	full := state.CloneSpec(spec)
	if part := snap.DefaultPartition(); full.GetPartition() == "" && part != nil {
		full.Partition = part.GetName()
	}
	model.NormalizeSpec(full)
	if fe := model.ValidateSpec(full); fe != nil {
		r.Error = fe.Proto()
		return r
	}
	if fe := contradiction(full); fe != nil {
		r.Error = fe.Proto()
		return r
	}
	if n := proto.Size(sub); n > maxSubmission {
		r.Error = &fettlev1.ErrorDetail{Field: "spec", Problem: fmt.Sprintf("has %d bytes, the limit is %d", n, maxSubmission), Remedy: "put large files where the job can read them"}
		return r
	}
	warnings, fe := tenancyOf(snap, actor, full)
	if fe != nil {
		r.Error = fe.Proto()
		return r
	}
	r.Warnings = append(r.Warnings, warnings...)
	r.Warnings = append(r.Warnings, s.fits(snap, full)...)
	if dryRun {
		r.Spec = full
		warnings, fe := s.linksOf(snap, actor, full)
		if fe != nil {
			r.Error = fe.Proto()
		}
		r.Warnings = append(r.Warnings, warnings...)
		r.Start = s.predicted(ctx, snap, actor, full)
	}
	return r
}
