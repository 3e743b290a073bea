package api

import (
	"context"
	"errors"
	"io"
	"iter"
	"os/user"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// rowsPerPage is how many jobs travel in one message of a list, bytesPerPage about how many bytes: far below what a
// message may have.
const (
	rowsPerPage  = 1000
	bytesPerPage = 2 << 20
)

// view is a snapshot fit for a read, or the leader to ask instead.
type view struct {
	snap   *state.Snapshot
	level  fettlev1.ReadLevel
	leader fettlev1.ControllerServiceClient
	ctx    context.Context
}

// read brings a snapshot to the freshness that is asked for.
func (s *Server) read(ctx context.Context, opt *fettlev1.ReadOptions) (view, error) {
	level := opt.GetLevel()
	if level == fettlev1.ReadLevel_READ_LEVEL_UNSPECIFIED {
		level = fettlev1.ReadLevel_READ_LEVEL_STALE
	}
	if level == fettlev1.ReadLevel_READ_LEVEL_STALE {
		if _, _, err := s.cfg.Auth.Caller(ctx); err != nil {
			return view{}, err
		}
	} else {
		_, leader, fwd, err := s.toLeader(ctx)
		if err != nil || leader != nil {
			return view{leader: leader, ctx: fwd}, err
		}
	}
	if level == fettlev1.ReadLevel_READ_LEVEL_LINEARIZABLE {
		if _, err := s.cfg.Raft.WaitLinearizable(ctx); err != nil {
			return view{}, s.toStatus(err)
		}
	}
	if opt.GetMinIndex() > 0 {
		if err := s.waitApplied(ctx, opt.GetMinIndex()); err != nil {
			return view{}, err
		}
	}
	return view{snap: s.cfg.Store.Snapshot(), level: level, ctx: ctx}, nil
}

// applyWait bounds how long a read waits for an index.
const applyWait = 10 * time.Second

// waitApplied waits until this controller has applied an index, as long as that may still come about.
func (s *Server) waitApplied(ctx context.Context, index uint64) error {
	if s.cfg.Store.Snapshot().Index() >= index {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, s.applyWait)
	defer cancel()
	err := s.cfg.Raft.WaitApplied(wait, index)
	if err != nil && ctx.Err() == nil && wait.Err() != nil {
		return detailed(codes.Unavailable, &fettlev1.ErrorDetail{
			Problem: "this controller has not come to index " + idText(index), Remedy: "ask another one, or without an index",
		})
	}
	return s.toStatus(err)
}

// GetJob implements fettle.v1.ControllerService.
func (s *Server) GetJob(ctx context.Context, req *fettlev1.GetJobRequest) (*fettlev1.GetJobResponse, error) {
	v, err := s.read(ctx, req.GetRead())
	if err != nil {
		return nil, err
	}
	if v.leader != nil {
		return v.leader.GetJob(v.ctx, req)
	}
	j := oneJob(v.snap, req.GetJobId(), req.ArrayIndex)
	if j == nil && !s.cfg.Raft.LeaderInfo().Self && v.level == fettlev1.ReadLevel_READ_LEVEL_STALE {
		// It may be so new that only the leader has it: a client that was just given the number must not hear that there
		// is no such job.
		if _, leader, fwd, err := s.toLeader(ctx); err == nil && leader != nil {
			return leader.GetJob(fwd, req)
		}
	}
	if j == nil {
		return nil, refuse(model.NotFound, "job", "no job "+nameOf(req.GetJobId(), req.ArrayIndex), "fqueue --all lists jobs")
	}
	return &fettlev1.GetJobResponse{Header: s.header(v.snap, v.level), Job: s.row(ctx, j, true)}, nil
}

// ListJobs implements fettle.v1.ControllerService.
func (s *Server) ListJobs(req *fettlev1.ListJobsRequest, stream grpc.ServerStreamingServer[fettlev1.ListJobsResponse]) error {
	v, err := s.read(stream.Context(), req.GetRead())
	if err != nil {
		return err
	}
	if v.leader != nil {
		up, err := v.leader.ListJobs(v.ctx, req)
		if err != nil {
			return err
		}
		return relay(up.Recv, stream.Send)
	}
	if err := checkSelector(req.GetSelect()); err != nil {
		return err
	}
	page := &fettlev1.ListJobsResponse{Header: s.header(v.snap, v.level)}
	sent, bytes := uint32(0), 0
	match := newMatcher(req.GetSelect())
	know := s.leaderView(stream.Context())
	now := s.cfg.Now().UnixMilli()
	for j := range candidates(v.snap, req.GetSelect(), req.GetIncludeFinished(), req.GetAfterId()) {
		if !match.matches(j) {
			continue
		}
		page.Jobs = append(page.Jobs, rowAt(j, req.GetFull(), know, now))
		sent++
		if bytes += weigh(j, req.GetFull()); len(page.Jobs) == rowsPerPage || bytes > bytesPerPage {
			if err := stream.Send(page); err != nil {
				return err
			}
			page, bytes = &fettlev1.ListJobsResponse{}, 0
		}
		if req.GetLimit() > 0 && sent == req.GetLimit() {
			break
		}
	}
	if page.Header != nil || len(page.Jobs) > 0 {
		return stream.Send(page)
	}
	return nil
}

// weigh is about how many bytes a job's row takes: what may be large in it is counted.
func weigh(j *state.Job, full bool) int {
	spec := j.Spec
	n := 512 + len(spec.GetComment()) + 32*(len(spec.GetNodelist())+len(spec.GetExclude())+len(spec.GetDeviceUuids()))
	attempts := j.Attempts
	if full {
		n += len(spec.GetScript()) + len(spec.GetConfig())
		for _, a := range spec.GetArgs() {
			n += len(a)
		}
		for _, list := range [][]*fettlev1.KeyValue{spec.GetEnv(), spec.GetSet()} {
			for _, kv := range list {
				n += len(kv.GetKey()) + len(kv.GetValue())
			}
		}
	} else if len(attempts) > 1 {
		attempts = attempts[len(attempts)-1:]
	}
	for _, at := range attempts {
		for _, a := range at.GetNodes() {
			n += 64 + 48*len(a.GetGpuUuids()) + len(a.GetExit().GetDetail())
		}
	}
	return n
}

// relay passes a stream on.
func relay[T any](recv func() (*T, error), send func(*T) error) error {
	for {
		m, err := recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := send(m); err != nil {
			return err
		}
	}
}

// row is a job's row for an answer about it alone.
func (s *Server) row(ctx context.Context, j *state.Job, full bool) *fettlev1.Job {
	return rowAt(j, full, s.leaderView(ctx), s.cfg.Now().UnixMilli())
}

func rowAt(j *state.Job, full bool, know *leaderView, nowMS int64) *fettlev1.Job {
	p := j.Proto(full)
	know.show(p, j, nowMS)
	showEnds(p)
	return p
}

// candidates yields the jobs that can match, through the narrowest index, in ascending id order.
func candidates(snap *state.Snapshot, sel *fettlev1.JobSelector, finished bool, after uint64) iter.Seq[*state.Job] {
	keep := func(j *state.Job) bool { return j.ID > after && (finished || !model.Terminal(j.State)) }
	if len(sel.GetIds())+len(sel.GetElements()) > 0 {
		return namedJobs(snap, sel, after)
	}
	source := unfinished(snap)
	if finished {
		source = func(yield func(*state.Job) bool) { snap.Jobs(after, yield) }
	} else if len(sel.GetUsers()) == 1 {
		if u, err := user.Lookup(sel.GetUsers()[0]); err == nil {
			if uid, err := strconv.ParseUint(u.Uid, 10, 32); err == nil {
				source = func(yield func(*state.Job) bool) { snap.JobsOfUser(uint32(uid), yield) }
			}
		}
	}
	return func(yield func(*state.Job) bool) {
		for j := range source {
			if keep(j) && !yield(j) {
				return
			}
		}
	}
}

// unfinished yields pending and active jobs in ascending id order.
func unfinished(snap *state.Snapshot) iter.Seq[*state.Job] {
	return func(yield func(*state.Job) bool) {
		var active []*state.Job
		for j := range snap.Active {
			active = append(active, j)
		}
		for j := range snap.Pending {
			for len(active) > 0 && active[0].ID < j.ID {
				if !yield(active[0]) {
					return
				}
				active = active[1:]
			}
			if !yield(j) {
				return
			}
		}
		for _, j := range active {
			if !yield(j) {
				return
			}
		}
	}
}

// matcher tests jobs against a selector.
type matcher struct {
	sel    *fettlev1.JobSelector
	states map[fettlev1.JobState]bool
}

func newMatcher(sel *fettlev1.JobSelector) matcher {
	m := matcher{sel: sel, states: map[fettlev1.JobState]bool{}}
	for _, st := range sel.GetStates() {
		m.states[st] = true
	}
	return m
}

func (m matcher) matches(j *state.Job) bool {
	in := func(list []string, v string) bool { return len(list) == 0 || slices.Contains(list, v) }
	if len(m.states) > 0 && (!m.states[j.State] || j.IsArray() && !j.Finished() && j.Array.Left == nil) {
		// Nothing of such an array waits any more: its elements are found by their own states.
		return false
	}
	if !in(m.sel.GetUsers(), j.User) || !in(m.sel.GetNames(), j.Spec.GetName()) ||
		!in(m.sel.GetPartitions(), j.Spec.GetPartition()) || !in(m.sel.GetProjects(), j.Spec.GetProject()) {
		return false
	}
	if len(m.sel.GetNodes()) == 0 {
		return true
	}
	if at := j.Current(); at != nil {
		for _, a := range at.GetNodes() {
			if slices.Contains(m.sel.GetNodes(), a.GetNode()) {
				return true
			}
		}
	}
	return false
}
