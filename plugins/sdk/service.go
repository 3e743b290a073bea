package sdk

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// service answers what every plugin answers and holds the implementation.
type service struct {
	pluginv1.UnimplementedPluginServiceServer
	info       Info
	kind       pluginv1.PluginKind
	level      *slog.LevelVar
	configure  func(ctx context.Context, settings map[string]string) error
	scheduling SchedulingPolicy
	preemption PreemptionPolicy
	launcher   Launcher
	// calls keeps the calls of a scheduling or preemption policy from overlapping.
	calls sync.Mutex
}

func (s *service) Info(context.Context, *pluginv1.InfoRequest) (*pluginv1.InfoResponse, error) {
	return &pluginv1.InfoResponse{
		Name: s.info.Name, Version: s.info.Version, Kind: s.kind,
		AbiVersions: []uint32{ABIVersion}, Method: s.info.Method,
	}, nil
}

func (s *service) Configure(ctx context.Context, req *pluginv1.ConfigureRequest) (*pluginv1.ConfigureResponse, error) {
	settings := maps.Clone(req.GetSettings())
	if text, ok := settings[LogLevelSetting]; ok {
		var l slog.Level
		if err := l.UnmarshalText([]byte(text)); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "%s: %q is not debug, info, warn or error", LogLevelSetting, text)
		}
		s.level.Set(l)
		delete(settings, LogLevelSetting)
	}
	s.calls.Lock()
	defer s.calls.Unlock()
	if err := s.configure(ctx, settings); err != nil {
		return nil, asStatus(err, codes.InvalidArgument)
	}
	return &pluginv1.ConfigureResponse{}, nil
}

// asStatus gives an implementation's plain error a code; one that carries a code keeps it.
func asStatus(err error, code codes.Code) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(code, err.Error())
}

type schedulingServer struct {
	pluginv1.UnimplementedSchedulingPolicyServiceServer
	service *service
}

func (s *schedulingServer) Score(ctx context.Context, req *pluginv1.ScoreRequest) (*pluginv1.ScoreResponse, error) {
	if err := CheckColumns(req); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	s.service.calls.Lock()
	defer s.service.calls.Unlock()
	resp, err := s.service.scheduling.Score(ctx, req)
	if err != nil {
		return nil, asStatus(err, codes.Internal)
	}
	if resp.GetGeneration() == 0 && resp != nil {
		resp.Generation = req.GetGeneration()
	}
	return resp, nil
}

// Explain answers for policies that can.
func (s *schedulingServer) Explain(ctx context.Context, req *pluginv1.ExplainRequest) (*pluginv1.ExplainResponse, error) {
	explainer, ok := s.service.scheduling.(Explainer)
	if !ok {
		return nil, status.Error(codes.Unimplemented, "this policy does not explain its scores")
	}
	if err := CheckColumns(req.GetJobs()); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	s.service.calls.Lock()
	defer s.service.calls.Unlock()
	resp, err := explainer.Explain(ctx, req)
	if err != nil {
		return nil, asStatus(err, codes.Internal)
	}
	return resp, nil
}

type preemptionServer struct {
	pluginv1.UnimplementedPreemptionPolicyServiceServer
	service *service
}

func (s *preemptionServer) SelectVictims(ctx context.Context, req *pluginv1.SelectVictimsRequest) (*pluginv1.SelectVictimsResponse, error) {
	if err := CheckVictims(req); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	s.service.calls.Lock()
	defer s.service.calls.Unlock()
	resp, err := s.service.preemption.SelectVictims(ctx, req)
	if err != nil {
		return nil, asStatus(err, codes.Internal)
	}
	return resp, nil
}

// CheckVictims says whether the numbers in a request fit its lists.
func CheckVictims(req *pluginv1.SelectVictimsRequest) error {
	nodes, candidates := len(req.GetNodes()), len(req.GetCandidates())
	for _, j := range req.GetJobs() {
		for _, c := range j.GetCandidates() {
			if int(c) >= candidates {
				return fmt.Errorf("a candidate of job %d is number %d of %d", j.GetJobId(), c, candidates)
			}
		}
		for _, n := range j.GetNeeds() {
			for _, p := range n.GetPlaces() {
				if int(p.GetNode()) >= nodes {
					return fmt.Errorf("a place of job %d is on node number %d of %d", j.GetJobId(), p.GetNode(), nodes)
				}
			}
		}
	}
	for _, c := range req.GetCandidates() {
		for _, h := range c.GetHolds() {
			if int(h.GetNode()) >= nodes {
				return fmt.Errorf("job %d holds part of node number %d of %d", c.GetJobId(), h.GetNode(), nodes)
			}
		}
	}
	return nil
}

// CheckColumns says whether the columns of a request fit each other, and the numbers in them their lists.
func CheckColumns(req *pluginv1.ScoreRequest) error {
	n := len(req.GetJobId())
	for _, c := range []struct {
		name string
		len  int
	}{
		{"priority", len(req.GetPriority())}, {"eligible_ms", len(req.GetEligibleMs())}, {"size", len(req.GetSize())},
		{"time_limit_s", len(req.GetTimeLimitS())}, {"user", len(req.GetUser())}, {"project", len(req.GetProject())},
		{"estimate_s", len(req.GetEstimateS())}, {"remaining_s", len(req.GetRemainingS())}, {"run_s", len(req.GetRunS())},
		{"partition", len(req.GetPartition())}, {"account", len(req.GetAccount())}, {"running", len(req.GetRunning())},
	} {
		if c.len != 0 && c.len != n {
			return fmt.Errorf("column %s has %d elements, job_id has %d", c.name, c.len, n)
		}
	}
	for _, c := range []struct {
		name  string
		index []uint32
		len   int
	}{
		{"user", req.GetUser(), len(req.GetUsers())}, {"project", req.GetProject(), len(req.GetProjects())},
		{"partition", req.GetPartition(), len(req.GetPartitions())}, {"account", req.GetAccount(), len(req.GetAccounts())},
	} {
		for i, at := range c.index {
			if int(at) >= c.len {
				return fmt.Errorf("%s of job %d is number %d of %d", c.name, req.GetJobId()[i], at, c.len)
			}
		}
	}
	return nil
}

// launcherServer carries calls to the implementation.
type launcherServer struct {
	pluginv1.UnsafeLauncherServiceServer
	Launcher
}
