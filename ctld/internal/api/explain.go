package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/grpc/codes"

	"github.com/fettle-hpc/fettle/ctld/internal/leader"
	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// maxAhead bounds the jobs that an explanation names.
const maxAhead = 20

// ExplainJob implements fettle.v1.ControllerService. Only the leader plans, so only it can say.
func (s *Server) ExplainJob(ctx context.Context, req *fettlev1.ExplainJobRequest) (*fettlev1.ExplainJobResponse, error) {
	_, up, fwd, err := s.toLeader(ctx)
	if err != nil {
		return nil, err
	}
	if up != nil {
		return up.ExplainJob(fwd, req)
	}
	v, err := s.read(ctx, req.GetRead())
	if err != nil {
		return nil, err
	}
	j := oneJob(v.snap, req.GetJobId(), req.ArrayIndex)
	if j == nil {
		return nil, refuse(model.NotFound, "job", "no job "+nameOf(req.GetJobId(), req.ArrayIndex), "fqueue --all lists jobs")
	}
	resp := &fettlev1.ExplainJobResponse{Header: s.header(v.snap, fettlev1.ReadLevel_READ_LEVEL_LEADER), Job: s.row(ctx, j, true)}
	waits := j.State == fettlev1.JobState_JOB_STATE_PENDING
	if waits && req.GetWhy() {
		if resp.Why, err = s.why(ctx, v.snap, j, resp.Job); err != nil {
			return nil, s.unplanned(err)
		}
	}
	if waits && req.GetStart() {
		starts, err := s.cfg.Scheduler.Forecast(ctx)
		if err != nil {
			return nil, s.unplanned(err)
		}
		if start, ok := starts[j.ID]; ok {
			resp.Start = prediction(j, start)
		}
	}
	if req.GetOrder() {
		if resp.Order, err = s.order(ctx, j); err != nil {
			return nil, s.unplanned(err)
		}
	}
	return resp, nil
}

// unplanned is the answer when the scheduler or the policy cannot be asked.
func (s *Server) unplanned(err error) error {
	if errors.Is(err, leader.ErrNotLeading) {
		return s.NotLeader()
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return s.toStatus(err)
	}
	return detailed(codes.Unavailable, &fettlev1.ErrorDetail{Field: "job", Problem: "cannot be explained: " + model.OneLine(err.Error(), model.MaxDetail), Remedy: "try again"})
}

// why puts together what the planner says, and what the row says of a job that may not start.
func (s *Server) why(ctx context.Context, snap *state.Snapshot, j *state.Job, shown *fettlev1.Job) (*fettlev1.JobWhy, error) {
	w, at, err := s.cfg.Scheduler.Why(ctx, j.ID)
	if err != nil {
		return nil, err
	}
	out := &fettlev1.JobWhy{
		Reason: w.Reason, Detail: w.Detail, BehindCount: uint32(len(w.Behind) + len(w.Running)),
		Position: uint32(at.All), PartitionPosition: uint32(at.Partition), ProjectPosition: uint32(at.Project),
	}
	if at.All == 0 {
		// The planner does not have it: its row keeps it.
		out.Reason, out.Detail = shown.GetReason(), shown.GetDetail()
		for _, id := range waitsFor(snap, j) {
			out.Behind = append(out.Behind, ahead(snap.Job(id), 0))
		}
		out.BehindCount = uint32(len(out.Behind))
		return out, nil
	}
	starts, err := s.cfg.Scheduler.Forecast(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range append(slices.Clone(w.Behind), w.Running...) {
		if o := snap.Job(id); o != nil && len(out.Behind) < maxAhead {
			expected := starts[id].AtMS
			if o.Active() {
				expected = s.expectedEnd(o)
			}
			out.Behind = append(out.Behind, ahead(o, expected))
		}
	}
	if out.Detail == "" {
		out.Detail = sentence(out, w)
	}
	out.Limits = limitsInWay(snap, j)
	for _, c := range w.Changes {
		out.Changes = append(out.Changes, change(j, c))
	}
	return out, nil
}

// waitsFor are the jobs that a job's dependencies wait for.
func waitsFor(snap *state.Snapshot, j *state.Job) []uint64 {
	var ids []uint64
	for _, d := range j.Spec.GetDependencies() {
		if o := snap.Job(d.GetJobId()); o != nil && !o.Finished() && len(ids) < maxAhead {
			ids = append(ids, o.ID)
		}
	}
	return ids
}

// sentence says in a few words what keeps a job that waits for resources or its turn.
func sentence(why *fettlev1.JobWhy, w sched.Why) string {
	// "1 job keeps", "2 jobs keep"
	jobs := func(n int, verb string) string {
		if n == 1 {
			return "1 job " + verb + "s"
		}
		return strconv.Itoa(n) + " jobs " + verb
	}
	switch {
	case why.GetReason() == fettlev1.Reason_REASON_UNSPECIFIED:
		return "it starts with the next cycle"
	case len(w.Behind) > 0 && len(w.Running) > 0:
		return jobs(len(w.Behind), "stand") + " before it in the order, and " + jobs(len(w.Running), "hold") + " what it needs"
	case len(w.Behind) > 0:
		return jobs(len(w.Behind), "keep") + " what it could use, before it in the order"
	case len(w.Running) > 0:
		return jobs(len(w.Running), "hold") + " what it needs"
	}
	return ""
}

func ahead(o *state.Job, expectedMS int64) *fettlev1.JobAhead {
	a := &fettlev1.JobAhead{
		JobId: o.ID, ArrayJobId: o.ArrayJobID, ArrayIndex: o.ArrayIndex, Name: o.Spec.GetName(), User: o.User,
		Priority: o.Spec.GetPriority(), State: o.State, ExpectedMs: expectedMS, Gpus: asked(o.Spec),
	}
	if o.Active() {
		a.Gpus = 0
		for _, part := range o.Current().GetNodes() {
			a.Gpus += uint32(len(part.GetGpuUuids()))
		}
	}
	return a
}

// asked is how many GPUs a job asks for in all.
func asked(spec *fettlev1.JobSpec) uint32 {
	if total := spec.GetGpusTotal().GetCount(); total > 0 {
		return total
	}
	return spec.GetGpusPerNode().GetCount() * max(spec.GetNodes(), 1)
}

// expectedEnd is when a running job ends by its own progress, or else by its time limit; 0 when neither says.
func (s *Server) expectedEnd(j *state.Job) int64 {
	if p := s.cfg.Nodes.Progress(j.ID); p != nil && p.GetAttempt() == j.Attempt && p.GetRemainingS() > 0 {
		return s.cfg.Now().UnixMilli() + p.GetRemainingS()*1000
	}
	if limit := j.Spec.GetTimeLimitS(); limit > 0 {
		if start := cmp.Or(j.Current().GetStartMs(), j.Current().GetDispatchMs()); start > 0 {
			return start + limit*1000
		}
	}
	return 0
}

// limitsInWay are the limits that the job would exceed if it started now.
func limitsInWay(snap *state.Snapshot, j *state.Job) []*fettlev1.LimitInWay {
	var list []*fettlev1.LimitInWay
	for _, b := range snap.Bounds(j.Spec.GetPartition(), j.Account(), j.User) {
		use := snap.Use(b.Scope)
		for _, l := range []struct {
			name             string
			max, used, asked int64
		}{
			{"max_gpus", int64(b.Limits.GetMaxGpus()), (use.GPUMilli + 999) / 1000, int64(asked(j.Spec))},
			{"max_jobs_running", int64(b.Limits.GetMaxJobsRunning()), int64(use.Running), 1},
		} {
			if l.max > 0 && l.asked > 0 && l.used+l.asked > l.max {
				list = append(list, &fettlev1.LimitInWay{Kind: b.Scope.Kind, Scope: b.Scope.Name, Limit: l.name, Max: l.max, Used: l.used, Asked: l.asked})
			}
		}
	}
	return list
}

// change writes a change as options of fsubmit.
func change(j *state.Job, c sched.Change) *fettlev1.JobChange {
	out := &fettlev1.JobChange{Text: c.Text, Preempts: len(c.Victims) > 0, Victims: c.Victims, LostGpuS: c.LostGPUS}
	add := func(key, value string) {
		out.Options = append(out.Options, &fettlev1.KeyValue{Key: key, Value: value})
	}
	cards := func(n int, typ string) string {
		if typ == "" {
			return strconv.Itoa(n)
		}
		return typ + ":" + strconv.Itoa(n)
	}
	spec := j.Spec
	switch c.Kind {
	case sched.ChangeGPUs:
		if spec.GetGpusTotal().GetCount() > 0 {
			add("gpus", cards(c.GPUs, spec.GetGpusTotal().GetType()))
		} else {
			add("gpus-per-node", cards(c.GPUs, spec.GetGpusPerNode().GetType()))
		}
	case sched.ChangeNodes:
		add("nodes", strconv.Itoa(c.Nodes))
	case sched.ChangeType:
		if spec.GetGpusTotal().GetCount() > 0 {
			add("gpus", cards(c.GPUs, c.Type))
		} else {
			add("gpus-per-node", cards(c.GPUs, c.Type))
		}
	case sched.ChangeLimit:
		add("time", fmt.Sprintf("%dm", c.LimitS/60))
	case sched.ChangeNodelist:
		for _, o := range []struct {
			name string
			set  bool
		}{
			{"nodelist", len(spec.GetNodelist()) > 0},
			{"exclude", len(spec.GetExclude()) > 0},
			{"device", len(spec.GetDeviceIndexes())+len(spec.GetDeviceUuids()) > 0},
			{"constraint", spec.GetConstraint() != ""},
		} {
			if o.set {
				add(o.name, "")
			}
		}
	case sched.ChangeCPUs:
		add("cpus", strconv.FormatUint(uint64(c.CPUs), 10))
	case sched.ChangeMemory:
		add("mem", strconv.FormatInt(c.MemMiB, 10)+"M")
	case sched.ChangePartition:
		add("partition", c.Partition)
	case sched.ChangeReservation:
		add("reservation", "")
	case sched.ChangePreempt:
		add("preempt", "")
	}
	return out
}

func prediction(j *state.Job, start sched.Start) *fettlev1.StartPrediction {
	p := &fettlev1.StartPrediction{StartMs: start.AtMS, LowMs: start.LowMS, HighMs: start.HighMS}
	for _, n := range start.Nodes {
		p.Nodes = append(p.Nodes, &fettlev1.NodeAllocation{Node: n})
	}
	if j != nil {
		p.JobId, p.ArrayJobId, p.ArrayIndex = j.ID, j.ArrayJobID, j.ArrayIndex
	}
	return p
}

// predicted is when a job would start if it were submitted now; nil when the planner cannot tell.
func (s *Server) predicted(ctx context.Context, snap *state.Snapshot, actor *raftlogv1.Actor, spec *fettlev1.JobSpec) *fettlev1.StartPrediction {
	full := limited(snap, spec)
	if full.GetHold() || len(full.GetDependencies()) > 0 || full.GetBeginMs() > s.cfg.Now().UnixMilli() {
		return nil
	}
	project := full.GetProject()
	if home := snap.HomeProject(actor.GetUser()); project == "" && home != nil {
		project = home.GetName()
	}
	start, ok, err := s.cfg.Scheduler.Predict(ctx, leader.Candidate{Spec: full, User: actor.GetUser(), Project: project})
	if err != nil || !ok {
		return nil
	}
	return prediction(nil, start)
}

// order takes a job's place apart.
func (s *Server) order(ctx context.Context, j *state.Job) (*fettlev1.JobOrder, error) {
	ex, source, err := s.cfg.Scheduler.Order(ctx, j)
	if err != nil {
		return nil, err
	}
	out := &fettlev1.JobOrder{BoundMs: ex.BoundMS, Policy: source.String()}
	if len(ex.Jobs) > 0 {
		out.Score = ex.Jobs[0].Score
		for _, t := range ex.Jobs[0].Terms {
			out.Terms = append(out.Terms, &fettlev1.OrderTerm{Name: t.Name, Ms: t.MS, Inputs: t.Inputs})
		}
	}
	if j.State == fettlev1.JobState_JOB_STATE_PENDING {
		if _, at, err := s.cfg.Scheduler.Why(ctx, j.ID); err == nil {
			out.Position = uint32(at.All)
		}
	}
	return out, nil
}

// PredictStarts implements fettle.v1.ControllerService.
func (s *Server) PredictStarts(ctx context.Context, req *fettlev1.PredictStartsRequest) (*fettlev1.PredictStartsResponse, error) {
	_, up, fwd, err := s.toLeader(ctx)
	if err != nil {
		return nil, err
	}
	if up != nil {
		return up.PredictStarts(fwd, req)
	}
	if err := checkSelector(req.GetSelect()); err != nil {
		return nil, err
	}
	v, err := s.read(ctx, req.GetRead())
	if err != nil {
		return nil, err
	}
	starts, err := s.cfg.Scheduler.Forecast(ctx)
	if err != nil {
		return nil, s.unplanned(err)
	}
	match := newMatcher(req.GetSelect())
	resp := &fettlev1.PredictStartsResponse{Header: s.header(v.snap, fettlev1.ReadLevel_READ_LEVEL_LEADER)}
	var unknown []*fettlev1.StartPrediction
	for j := range candidates(v.snap, req.GetSelect(), false, 0) {
		if j.State != fettlev1.JobState_JOB_STATE_PENDING || !match.matches(j) {
			continue
		}
		if start, ok := starts[j.ID]; ok {
			resp.Starts = append(resp.Starts, prediction(j, start))
		} else {
			unknown = append(unknown, prediction(j, sched.Start{}))
		}
	}
	slices.SortStableFunc(resp.Starts, func(a, b *fettlev1.StartPrediction) int { return cmp.Compare(a.GetStartMs(), b.GetStartMs()) })
	resp.Starts = append(resp.Starts, unknown...)
	if n := int(req.GetLimit()); n > 0 && len(resp.Starts) > n {
		resp.Starts = resp.Starts[:n]
	}
	return resp, nil
}

// GetPredictionStats implements fettle.v1.ControllerService.
func (s *Server) GetPredictionStats(ctx context.Context, req *fettlev1.GetPredictionStatsRequest) (*fettlev1.GetPredictionStatsResponse, error) {
	_, up, fwd, err := s.toLeader(ctx)
	if err != nil {
		return nil, err
	}
	if up != nil {
		return up.GetPredictionStats(fwd, req)
	}
	v, err := s.read(ctx, req.GetRead())
	if err != nil {
		return nil, err
	}
	return &fettlev1.GetPredictionStatsResponse{
		Header: s.header(v.snap, fettlev1.ReadLevel_READ_LEVEL_LEADER), Stats: s.cfg.Scheduler.PredictionStats(),
	}, nil
}
