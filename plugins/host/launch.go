package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/fettle-hpc/fettle/plugins/sdk"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// Bounds of the connection to a plugin.
const (
	maxHeaderBytes = 32 << 10
	windowBytes    = 4 << 20
	maxStdioChunk  = 64 << 10
)

// instance is one run of a plugin: a process with a connection to it.
type instance struct {
	proc *process
	conn *grpc.ClientConn
	info *pluginv1.InfoResponse
	abi  int
	// settled counts the attempts to change its settings: scores from before one are not comparable with those after.
	settled atomic.Uint64
	// exited is closed when the process is reaped and everything of it is cleared away.
	exited chan struct{}
	// cause is why it was ended by us, when it was. Plugin's lock guards it.
	cause error
	// broke says that its connection broke and that this has been counted. Plugin's lock guards it.
	broke bool
}

// launch starts the plugin, shakes hands, connects, asks who it is and configures it, all within cfg.StartTimeout.
// Cancelling ctx ends the attempt. The file's checksum is answered as soon as it is known.
//
// go-plugin starts and negotiates. Its client's connection is not used: that one takes messages of any size, has a
// broker through which a plugin can make goroutines here without end, and its Kill calls the plugin without a deadline.
func launch(ctx context.Context, cfg *Config, settings map[string]string, log *pluginLog) (inst *instance, sum string, err error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.StartTimeout)
	defer cancel()
	file, sum, err := openExecutable(cfg)
	if err != nil {
		return nil, sum, err
	}
	defer func() { _ = file.Close() }()
	dir, err := makeSocketDir(cfg.SocketDir)
	if err != nil {
		return nil, sum, err
	}
	inst = &instance{exited: make(chan struct{})}
	attached := func() bool { return true }
	clientConfig := &goplugin.ClientConfig{
		HandshakeConfig:  sdk.Handshake,
		VersionedPlugins: map[int]goplugin.PluginSet{sdk.ABIVersion: {}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     cfg.StartTimeout,
		Logger:           hclog.NewNullLogger(),
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: dir},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, _ string) (runner.Runner, error) {
			inst.proc = newProcess(cfg, cmd.Env, dir, log)
			if cfg.Checksum != "" {
				inst.proc.file = file
			}
			attached = context.AfterFunc(ctx, inst.proc.kill)
			return inst.proc, nil
		},
	}
	client := goplugin.NewClient(clientConfig)
	addr, err := client.Start()
	if inst.proc == nil {
		return nil, sum, errors.Join(err, os.RemoveAll(dir))
	}
	if err == nil {
		inst.abi = client.NegotiatedVersion()
		inst.conn, err = connect(cfg, clientConfig, addr)
	}
	go inst.attend(dir)
	if err == nil {
		err = inst.introduce(ctx, cfg, settings)
	}
	if !attached() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		inst.proc.kill()
		<-inst.exited
		return nil, sum, startError(ctx, cfg, err, inst.proc)
	}
	return inst, sum, nil
}

// startError says in one line why a start failed.
func startError(ctx context.Context, cfg *Config, err error, p *process) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("not ready within %v%s", cfg.StartTimeout, p.lastWords())
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case p.endedItself():
		return fmt.Errorf("ended before it was ready: %s%s", exitText(p.waitErr), p.lastWords())
	default:
		return fmt.Errorf("start: %s%s", printable(err.Error(), maxErrorText), p.lastWords())
	}
}

// lastWords are the words for the end of an error, empty when there are none.
func (p *process) lastWords() string {
	if text := p.words.String(); text != "" {
		return "; its last line: " + text
	}
	return ""
}

// connect makes the connection over the negotiated socket, with the certificates that the two made for each other.
func connect(cfg *Config, negotiated *goplugin.ClientConfig, addr net.Addr) (*grpc.ClientConn, error) {
	if negotiated.TLSConfig == nil || negotiated.TLSConfig.RootCAs == nil {
		return nil, errors.New("the plugin offers no certificate")
	}
	return grpc.NewClient("passthrough:///"+cfg.Name,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, addr.Network(), addr.String())
		}),
		grpc.WithTransportCredentials(credentials.NewTLS(negotiated.TLSConfig)),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(cfg.MaxResponseBytes),
			grpc.MaxCallSendMsgSize(cfg.MaxRequestBytes)),
		grpc.WithMaxHeaderListSize(maxHeaderBytes),
		grpc.WithInitialWindowSize(windowBytes),
		grpc.WithInitialConnWindowSize(windowBytes),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithUserAgent("fettle"))
}

// attend waits for the end of the process and clears up after it.
func (i *instance) attend(dir string) {
	defer close(i.exited)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var drained sync.WaitGroup
	if i.conn != nil {
		drained.Go(func() { i.drainStdio(ctx) })
	}
	<-i.proc.done
	cancel()
	if i.conn != nil {
		_ = i.conn.Close()
	}
	drained.Wait()
	if err := os.RemoveAll(dir); err != nil {
		i.proc.log.logger.Warn("plugin socket directory not removed", "error", err)
	}
}

// drainStdio reads what a plugin prints through os.Stdout and os.Stderr, which go-plugin redirects into a stream. If nobody
// read it the plugin would block. The stream's messages are {1: channel, 2: bytes}; being go-plugin's own they are
// read as unknown fields.
func (i *instance) drainStdio(ctx context.Context) {
	desc := &grpc.StreamDesc{ServerStreams: true}
	stream, err := i.conn.NewStream(ctx, desc, "/plugin.GRPCStdio/StreamStdio", grpc.MaxCallRecvMsgSize(maxStdioChunk))
	if err != nil {
		return
	}
	if stream.SendMsg(&emptypb.Empty{}) != nil || stream.CloseSend() != nil {
		return
	}
	var speed pace
	writers := [2]*lineWriter{{emit: i.proc.log.line}, {emit: i.proc.log.line}}
	for {
		var msg emptypb.Empty
		// Any end is the end: an old plugin has no such stream, a dead one no connection.
		if err := stream.RecvMsg(&msg); err != nil {
			break
		}
		channel, data := stdioChunk(msg.ProtoReflect().GetUnknown())
		_, _ = writers[channel].Write(data)
		if pause := speed.take(time.Now(), float64(len(data)), readRate, readBurst); pause > 0 {
			t := time.NewTimer(pause)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
			}
		}
	}
	for _, w := range writers {
		w.flush()
	}
}

// stdioChunk answers 0 for standard output and 1 for everything else, and the bytes.
func stdioChunk(b []byte) (channel int, data []byte) {
	channel = 1
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return channel, data
		}
		b = b[n:]
		switch {
		case num == 1 && kind == protowire.VarintType:
			v, m := protowire.ConsumeVarint(b)
			if m >= 0 && v == 1 {
				channel = 0
			}
			n = m
		case num == 2 && kind == protowire.BytesType:
			data, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, kind, b)
		}
		if n < 0 {
			return channel, data
		}
		b = b[n:]
	}
	return channel, data
}

// introduce asks the plugin who it is, checks that against what it should be, and configures it.
func (i *instance) introduce(ctx context.Context, cfg *Config, settings map[string]string) error {
	client := pluginv1.NewPluginServiceClient(i.conn)
	info, err := client.Info(ctx, &pluginv1.InfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("info: %w", err)
	}
	if err := checkInfo(cfg, info); err != nil {
		return err
	}
	i.info = info
	if _, err := client.Configure(ctx, &pluginv1.ConfigureRequest{Settings: settings}); err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	return nil
}

// checkInfo says whether a plugin is the one that the configuration means.
func checkInfo(cfg *Config, info *pluginv1.InfoResponse) error {
	for _, f := range []struct{ name, value string }{{"name", info.GetName()}, {"version", info.GetVersion()}} {
		if f.value == "" || len(f.value) > 64 || printable(f.value, 64) != f.value {
			return invalid("%s %q is not 1 to 64 printable characters", f.name, printable(f.value, 64))
		}
	}
	if info.GetKind() != cfg.Kind {
		return invalid("it is a %s plugin, not a %s one", kindName(info.GetKind()), kindName(cfg.Kind))
	}
	if cfg.Kind != pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER {
		return nil
	}
	if !isMethod(info.GetMethod()) {
		return invalid("method %q is not lower-case letters, digits, - or _", printable(info.GetMethod(), 64))
	}
	if cfg.Method != "" && cfg.Method != info.GetMethod() {
		return invalid("it launches method %q, not %q", info.GetMethod(), cfg.Method)
	}
	return nil
}

// isMethod says whether s can name a training method.
func isMethod(s string) bool {
	if s == "" || len(s) > 32 {
		return false
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			return false
		}
	}
	return true
}

// kindName is the word that PluginStatus and messages use.
func kindName(k pluginv1.PluginKind) string {
	switch k {
	case pluginv1.PluginKind_PLUGIN_KIND_SCHEDULING:
		return "scheduling"
	case pluginv1.PluginKind_PLUGIN_KIND_PREEMPTION:
		return "preemption"
	case pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER:
		return "launcher"
	default:
		return "unknown"
	}
}
