package fakectl

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// SubmitJobs implements fettle.v1.ControllerService.
func (s *Server) SubmitJobs(_ context.Context, req *fettlev1.SubmitJobsRequest) (*fettlev1.SubmitJobsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.submits = append(s.submits, proto.Clone(req).(*fettlev1.SubmitJobsRequest))
	r := &fettlev1.SubmitJobsResponse{}
	for _, sub := range req.GetJobs() {
		res := &fettlev1.SubmitResult{Warnings: s.answer.GetWarnings()}
		spec := proto.Clone(sub.GetSpec()).(*fettlev1.JobSpec)
		model.NormalizeSpec(spec)
		if spec.Partition == "" {
			spec.Partition = model.DefaultPartition
		}
		var bad *fettlev1.ErrorDetail
		if s.refusal != nil {
			bad = s.refusal(spec)
		}
		switch {
		case bad != nil:
			res.Error = bad
		case req.GetDryRun():
			res.Spec, res.RenderedConfig, res.Estimate, res.Start = spec, s.answer.GetRenderedConfig(), s.answer.GetEstimate(), s.answer.GetStart()
		case s.keys[sub.GetRequestId()] != 0:
			res.JobId, res.Duplicate = s.keys[sub.GetRequestId()], true
		default:
			id := s.nextID
			s.keys[sub.GetRequestId()] = id
			s.put(&fettlev1.Job{Id: id, Spec: spec, User: "alice", Uid: 1000, State: model.Pending,
				Reason: fettlev1.Reason_REASON_PRIORITY, RequestId: sub.GetRequestId(), ArrayLeft: spec.GetArray()})
			res.JobId = id
		}
		r.Results = append(r.Results, res)
	}
	r.Header = s.head()
	s.wake()
	return r, nil
}

// act does something to the jobs that a selector picks and gathers the outcomes.
func (s *Server) act(sel *fettlev1.JobSelector, f func(*fettlev1.Job) *fettlev1.ErrorDetail) *fettlev1.JobActionResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &fettlev1.JobActionResponse{}
	byID := len(sel.GetUsers())+len(sel.GetStates())+len(sel.GetNames())+len(sel.GetPartitions())+len(sel.GetProjects())+len(sel.GetNodes()) == 0
	if byID {
		for _, id := range sel.GetIds() {
			res := &fettlev1.JobActionResult{JobId: id}
			if j := s.jobs[id]; j == nil {
				res.Error = &fettlev1.ErrorDetail{Problem: "no such job", Remedy: "fqueue --all lists jobs"}
			} else {
				res.Error = s.change(j, f)
			}
			r.Results = append(r.Results, res)
		}
		for _, e := range sel.GetElements() {
			model.ArrayEach(e.GetRanges(), func(i uint32) bool {
				res := &fettlev1.JobActionResult{JobId: e.GetJobId(), ArrayIndex: &i}
				if j := s.find(e.GetJobId(), &i); j == nil {
					res.Error = &fettlev1.ErrorDetail{Problem: "no such job", Remedy: "fqueue --all lists jobs"}
				} else {
					res.Error = s.change(s.split(j), f)
				}
				r.Results = append(r.Results, res)
				return true
			})
		}
	} else {
		for _, j := range s.picked(sel, false) {
			r.Results = append(r.Results, &fettlev1.JobActionResult{JobId: j.GetId(), Error: s.change(j, f)})
		}
	}
	r.Header = s.head()
	s.wake()
	return r
}

// split gives an element that has none a row of its own; s.mu is held.
func (s *Server) split(j *fettlev1.Job) *fettlev1.Job {
	if j.GetId() != j.GetArrayJobId() {
		return j
	}
	array := proto.Clone(s.jobs[j.GetId()]).(*fettlev1.Job)
	array.ArrayLeft.Ranges = model.ArrayWithout(array.GetArrayLeft().GetRanges(), j.GetArrayIndex())
	s.put(array)
	j.Id = s.nextID
	s.put(j)
	return s.jobs[j.GetId()]
}

func (s *Server) change(j *fettlev1.Job, f func(*fettlev1.Job) *fettlev1.ErrorDetail) *fettlev1.ErrorDetail {
	j = proto.Clone(j).(*fettlev1.Job)
	if model.Terminal(j.GetState()) {
		return &fettlev1.ErrorDetail{Problem: "is " + model.StateName(j.GetState()) + " already"}
	}
	if bad := f(j); bad != nil {
		return bad
	}
	s.put(j)
	return nil
}

// CancelJobs implements fettle.v1.ControllerService.
func (s *Server) CancelJobs(_ context.Context, req *fettlev1.CancelJobsRequest) (*fettlev1.JobActionResponse, error) {
	return s.act(req.GetSelect(), func(j *fettlev1.Job) *fettlev1.ErrorDetail {
		if req.GetSignal() != 0 {
			if j.GetState() != model.Running {
				return &fettlev1.ErrorDetail{Problem: "is not running"}
			}
			j.Detail = fmt.Sprintf("signal %d", req.GetSignal())
			return nil
		}
		j.State, j.CancelRequested = model.Cancelled, true
		return nil
	}), nil
}

// HoldJobs implements fettle.v1.ControllerService.
func (s *Server) HoldJobs(_ context.Context, req *fettlev1.JobActionRequest) (*fettlev1.JobActionResponse, error) {
	return s.act(req.GetSelect(), func(j *fettlev1.Job) *fettlev1.ErrorDetail {
		if j.GetState() != model.Pending {
			return &fettlev1.ErrorDetail{Problem: "is running", Remedy: "cancel or requeue it"}
		}
		j.Held, j.Reason = true, fettlev1.Reason_REASON_HELD_BY_USER
		return nil
	}), nil
}

// ReleaseJobs implements fettle.v1.ControllerService.
func (s *Server) ReleaseJobs(_ context.Context, req *fettlev1.JobActionRequest) (*fettlev1.JobActionResponse, error) {
	return s.act(req.GetSelect(), func(j *fettlev1.Job) *fettlev1.ErrorDetail {
		j.Held, j.Reason = false, fettlev1.Reason_REASON_PRIORITY
		return nil
	}), nil
}

// RequeueJobs implements fettle.v1.ControllerService.
func (s *Server) RequeueJobs(_ context.Context, req *fettlev1.JobActionRequest) (*fettlev1.JobActionResponse, error) {
	return s.act(req.GetSelect(), func(j *fettlev1.Job) *fettlev1.ErrorDetail {
		j.State = model.Completing
		return nil
	}), nil
}

// UpdateJob implements fettle.v1.ControllerService.
func (s *Server) UpdateJob(_ context.Context, req *fettlev1.UpdateJobRequest) (*fettlev1.UpdateJobResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.find(req.GetJobId(), req.ArrayIndex)
	if j == nil {
		return nil, notFound(req.GetJobId(), req.ArrayIndex)
	}
	if req.ArrayIndex != nil {
		j = s.split(j)
	}
	j = proto.Clone(j).(*fettlev1.Job)
	if req.Priority != nil {
		j.Spec.Priority = req.GetPriority()
	}
	if req.TimeLimitS != nil {
		j.Spec.TimeLimitS = req.GetTimeLimitS()
	}
	if req.Name != nil {
		j.Spec.Name = req.GetName()
	}
	if req.Comment != nil {
		j.Spec.Comment = req.GetComment()
	}
	if req.DeadlineMs != nil {
		j.Spec.DeadlineMs = req.GetDeadlineMs()
	}
	if req.ArrayMaxRunning != nil {
		j.Spec.Array.MaxRunning = req.GetArrayMaxRunning()
	}
	if req.NoRequeue != nil {
		j.Spec.NoRequeue = req.GetNoRequeue()
	}
	if len(req.GetNodelist()) > 0 || req.GetClearNodelist() {
		j.Spec.Nodelist = req.GetNodelist()
	}
	s.put(j)
	s.wake()
	return &fettlev1.UpdateJobResponse{Header: s.head(), Job: s.jobs[j.GetId()]}, nil
}

// GetJob implements fettle.v1.ControllerService.
func (s *Server) GetJob(_ context.Context, req *fettlev1.GetJobRequest) (*fettlev1.GetJobResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.find(req.GetJobId(), req.ArrayIndex)
	if j == nil {
		return nil, notFound(req.GetJobId(), req.ArrayIndex)
	}
	return &fettlev1.GetJobResponse{Header: s.head(), Job: j}, nil
}

// ListJobs implements fettle.v1.ControllerService.
func (s *Server) ListJobs(req *fettlev1.ListJobsRequest, stream grpc.ServerStreamingServer[fettlev1.ListJobsResponse]) error {
	s.mu.Lock()
	header, jobs, size := s.head(), s.picked(req.GetSelect(), req.GetIncludeFinished()), s.PageSize
	s.mu.Unlock()
	if size == 0 {
		size = 1000
	}
	page := &fettlev1.ListJobsResponse{Header: header}
	for _, j := range jobs {
		if j.GetId() <= req.GetAfterId() {
			continue
		}
		page.Jobs = append(page.Jobs, j)
		if len(page.GetJobs()) == size {
			if err := stream.Send(page); err != nil {
				return err
			}
			if f, ok := s.fault("/fettle.v1.ControllerService/ListPage"); ok {
				return f.Err
			}
			page = &fettlev1.ListJobsResponse{}
		}
	}
	if page.Header != nil || len(page.GetJobs()) > 0 {
		return stream.Send(page)
	}
	return nil
}

// WatchEvents implements fettle.v1.ControllerService.
func (s *Server) WatchEvents(req *fettlev1.WatchEventsRequest, stream grpc.ServerStreamingServer[fettlev1.WatchEventsResponse]) error {
	after := req.GetAfterIndex()
	first := true
	for {
		s.mu.Lock()
		var out []*fettlev1.Event
		for _, e := range s.events {
			if e.GetIndex() > after && (len(req.GetSelect().GetIds()) == 0 || matches(&fettlev1.JobSelector{Ids: req.GetSelect().GetIds()}, &fettlev1.Job{Id: e.GetJobId(), ArrayJobId: e.GetArrayJobId(), ArrayIndex: e.GetArrayIndex()})) {
				out = append(out, e)
			}
		}
		after = max(after, s.index)
		wait, header := s.changed, s.head()
		s.mu.Unlock()
		if first || len(out) > 0 {
			m := &fettlev1.WatchEventsResponse{Events: out}
			if first {
				m.Header, first = header, false
			}
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-wait:
		}
	}
}

// ReadLog implements fettle.v1.ControllerService: it follows over all attempts until the job is over.
func (s *Server) ReadLog(req *fettlev1.ReadLogRequest, stream grpc.ServerStreamingServer[fettlev1.ReadLogResponse]) error {
	attempt, offset := req.GetAttempt(), req.GetOffset()
	tail := req.GetTailBytes()
	for {
		s.mu.Lock()
		j := s.find(req.GetJobId(), req.ArrayIndex)
		if j == nil {
			s.mu.Unlock()
			return notFound(req.GetJobId(), req.ArrayIndex)
		}
		if attempt == 0 {
			attempt = j.GetAttempt()
		}
		all := s.logs[logKey{j.GetId(), attempt, req.GetStderr()}]
		wait := s.changed
		s.mu.Unlock()
		if tail > 0 {
			offset, tail = max(0, int64(len(all))-tail), 0
		}
		if int64(len(all)) > offset {
			// Small pieces, so that readers meet borders.
			part := all[offset:min(int64(len(all)), offset+100)]
			if err := stream.Send(&fettlev1.ReadLogResponse{Attempt: attempt, Data: part, Offset: offset}); err != nil {
				return err
			}
			offset += int64(len(part))
			if f, ok := s.fault("/fettle.v1.ControllerService/LogPiece"); ok {
				return f.Err
			}
			continue
		}
		over := model.Terminal(j.GetState())
		if attempt < j.GetAttempt() && req.GetFollow() {
			attempt, offset = attempt+1, 0
			continue
		}
		if !req.GetFollow() || over {
			if over {
				return stream.Send(&fettlev1.ReadLogResponse{Attempt: attempt, Job: j})
			}
			return nil
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-wait:
		}
	}
}

// ListNodes implements fettle.v1.ControllerService.
func (s *Server) ListNodes(_ context.Context, req *fettlev1.ListNodesRequest) (*fettlev1.ListNodesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &fettlev1.ListNodesResponse{Header: s.head()}
	for _, n := range s.nodes {
		if len(req.GetNames()) == 0 {
			r.Nodes = append(r.Nodes, n)
		}
	}
	for _, name := range req.GetNames() {
		found := false
		for _, n := range s.nodes {
			if n.GetName() == name {
				r.Nodes, found = append(r.Nodes, n), true
			}
		}
		if !found {
			return nil, Refusal(codes.NotFound, &fettlev1.ErrorDetail{Field: "node", Problem: "no node " + name, Remedy: "finfo lists the nodes"})
		}
	}
	return r, nil
}

// UpdateNode implements fettle.v1.ControllerService.
func (s *Server) UpdateNode(_ context.Context, req *fettlev1.UpdateNodeRequest) (*fettlev1.UpdateNodeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, n := range s.nodes {
		if n.GetName() != req.GetNode() {
			continue
		}
		n = proto.Clone(n).(*fettlev1.Node)
		switch req.GetAction() {
		case fettlev1.NodeAction_NODE_ACTION_DRAIN:
			n.Drained, n.DrainReason = true, req.GetReason()
		case fettlev1.NodeAction_NODE_ACTION_RESUME:
			n.Drained, n.DrainReason = false, ""
		case fettlev1.NodeAction_NODE_ACTION_DECLARE_DEAD:
			n.State = fettlev1.NodeState_NODE_STATE_DOWN
		case fettlev1.NodeAction_NODE_ACTION_REMOVE:
			if len(n.GetGpuHolders()) > 0 {
				return nil, Refusal(codes.FailedPrecondition, &fettlev1.ErrorDetail{Problem: "it holds jobs", Remedy: "drain it and wait"})
			}
			s.nodes = append(s.nodes[:i:i], s.nodes[i+1:]...)
			return &fettlev1.UpdateNodeResponse{Header: s.head(), Node: n}, nil
		}
		s.nodes[i] = n
		return &fettlev1.UpdateNodeResponse{Header: s.head(), Node: n}, nil
	}
	return nil, Refusal(codes.NotFound, &fettlev1.ErrorDetail{Problem: "no such node", Remedy: "finfo lists the nodes"})
}

// GetCluster implements fettle.v1.ControllerService.
func (s *Server) GetCluster(context.Context, *fettlev1.GetClusterRequest) (*fettlev1.GetClusterResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &fettlev1.GetClusterResponse{Header: s.head(), Servers: slices.Clone(s.servers), Version: "1.0.0", StateHash: "00ff", StartMs: 1_700_000_000_000}
	for _, j := range s.jobs {
		switch {
		case j.GetState() == model.Pending:
			r.JobsPending++
		case !model.Terminal(j.GetState()):
			r.JobsRunning++
		}
		r.JobsTotal++
	}
	return r, nil
}

// TransferLeadership implements fettle.v1.ControllerService.
func (s *Server) TransferLeadership(_ context.Context, req *fettlev1.TransferLeadershipRequest) (*fettlev1.TransferLeadershipResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, v := range s.servers {
		v = proto.Clone(v).(*fettlev1.ServerInfo)
		v.Leader = v.GetName() == req.GetTo()
		s.servers[i] = v
	}
	return &fettlev1.TransferLeadershipResponse{Header: s.head()}, nil
}

// RemoveServer implements fettle.v1.ControllerService.
func (s *Server) RemoveServer(_ context.Context, req *fettlev1.RemoveServerRequest) (*fettlev1.RemoveServerResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, v := range s.servers {
		if v.GetName() == req.GetServer() {
			s.servers = append(s.servers[:i:i], s.servers[i+1:]...)
			return &fettlev1.RemoveServerResponse{Header: s.head()}, nil
		}
	}
	return nil, Refusal(codes.NotFound, &fettlev1.ErrorDetail{Field: "server", Problem: "no controller " + req.GetServer(), Remedy: "fctl raft list shows them"})
}

// GetPolicy implements fettle.v1.ControllerService.
func (s *Server) GetPolicy(context.Context, *fettlev1.GetPolicyRequest) (*fettlev1.GetPolicyResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &fettlev1.GetPolicyResponse{Header: s.head(), Policy: s.policy}, nil
}

// SetPolicy implements fettle.v1.ControllerService.
func (s *Server) SetPolicy(_ context.Context, req *fettlev1.SetPolicyRequest) (*fettlev1.SetPolicyResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := req.GetExpectVersion(); v != 0 && v != s.policy.GetVersion() {
		return nil, Refusal(codes.FailedPrecondition, &fettlev1.ErrorDetail{Problem: "the policy was changed meanwhile", Remedy: "start again from fctl policy show"})
	}
	p := proto.Clone(req.GetPolicy()).(*fettlev1.ClusterPolicy)
	p.Version = s.policy.GetVersion() + 1
	s.policy = p
	return &fettlev1.SetPolicyResponse{Header: s.head(), Policy: p}, nil
}

// ListPlugins implements fettle.v1.ControllerService.
func (s *Server) ListPlugins(context.Context, *fettlev1.ListPluginsRequest) (*fettlev1.ListPluginsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &fettlev1.ListPluginsResponse{Header: s.head(), Plugins: slices.Clone(s.plugins)}, nil
}
