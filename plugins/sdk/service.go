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
	launcher   Launcher
	// calls keeps Configure and Score of a scheduling policy from overlapping.
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

// CheckColumns says whether the columns of a request fit each other.
func CheckColumns(req *pluginv1.ScoreRequest) error {
	n := len(req.GetJobId())
	for _, c := range []struct {
		name string
		len  int
	}{
		{"priority", len(req.GetPriority())}, {"eligible_ms", len(req.GetEligibleMs())}, {"size", len(req.GetSize())},
		{"time_limit_s", len(req.GetTimeLimitS())}, {"user", len(req.GetUser())}, {"project", len(req.GetProject())},
	} {
		if c.len != 0 && c.len != n {
			return fmt.Errorf("column %s has %d elements, job_id has %d", c.name, c.len, n)
		}
	}
	return nil
}

// launcherServer carries calls to the implementation.
type launcherServer struct {
	pluginv1.UnsafeLauncherServiceServer
	Launcher
}
