package sdk

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// serve runs the plugin and ends the process.
func serve(info Info, s *service) {
	if err := info.check(s.kind); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	s.level = new(slog.LevelVar)
	slog.SetDefault(slog.New(newLogHandler(os.Stderr, info.Name, s.level)))
	exitWithHost()
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  Handshake,
		VersionedPlugins: map[int]goplugin.PluginSet{ABIVersion: {PluginKey: &grpcPlugin{service: s}}},
		GRPCServer:       newServer,
		// go-plugin's own messages are about its inner life; errors of serving come out as the process ending.
		Logger: hclog.New(&hclog.LoggerOptions{Name: info.Name, Level: hclog.Warn, Output: os.Stderr, JSONFormat: true}),
	})
	os.Exit(0)
}

// PluginKey is the name under which every fettle plugin is found in its go-plugin set.
const PluginKey = "fettle"

// newServer raises gRPC's own limit of 4 MiB and turns panics into errors.
func newServer(opts []grpc.ServerOption) *grpc.Server {
	return grpc.NewServer(append(opts,
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxSendMsgSize(MaxMessageBytes),
		grpc.UnaryInterceptor(recoverPanic))...)
}

func recoverPanic(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if r := recover(); r != nil {
			slog.Error("plugin method panicked", "method", info.FullMethod, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			resp, err = nil, status.Errorf(codes.Internal, "%s panicked: %v", info.FullMethod, r)
		}
	}()
	return next(ctx, req)
}

// grpcPlugin binds the services to go-plugin's server.
type grpcPlugin struct {
	goplugin.NetRPCUnsupportedPlugin
	service *service
}

func (p *grpcPlugin) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	pluginv1.RegisterPluginServiceServer(s, p.service)
	switch p.service.kind {
	case pluginv1.PluginKind_PLUGIN_KIND_SCHEDULING:
		pluginv1.RegisterSchedulingPolicyServiceServer(s, &schedulingServer{service: p.service})
	case pluginv1.PluginKind_PLUGIN_KIND_PREEMPTION:
		pluginv1.RegisterPreemptionPolicyServiceServer(s, &preemptionServer{service: p.service})
	case pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER:
		pluginv1.RegisterLauncherServiceServer(s, &launcherServer{Launcher: p.service.launcher})
	default:
		return fmt.Errorf("unknown plugin kind %v", p.service.kind)
	}
	return nil
}

// GRPCClient answers the bare connection: hosts make the clients that they need from it.
func (p *grpcPlugin) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}
