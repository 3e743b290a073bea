package sdk

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

const roleVariable = "FETTLE_SDK_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "":
		os.Exit(m.Run())
	case "host":
		playHost()
	case "plugin":
		exitWithHost()
		fmt.Println(os.Getpid())
		<-time.After(time.Hour)
	}
}

// playHost starts a plugin without any help of the kernel, says its number and waits to be killed.
func playHost() {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"=plugin")
	cmd.Stdout = os.Stdout
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	if err := cmd.Wait(); err != nil {
		panic(err)
	}
}

// TestEndsWithItsHost: a plugin whose host is killed ends by itself. Its output closing is the sign.
func TestEndsWithItsHost(t *testing.T) {
	t.Parallel()
	host := exec.Command(os.Args[0])
	host.Env = append(os.Environ(), roleVariable+"=host")
	out, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p, err := os.FindProcess(pid); err == nil && t.Failed() {
			_ = p.Kill()
		}
	})
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := lines.ReadString('\n')
		ended <- err
	}()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatalf("plugin %d outlives its host", pid)
	}
	_ = host.Wait()
}

// testPolicy does what a test says.
type testPolicy struct {
	settings map[string]string
	score    func(*pluginv1.ScoreRequest) (*pluginv1.ScoreResponse, error)
}

func (p *testPolicy) Configure(_ context.Context, settings map[string]string) error {
	p.settings = settings
	if settings["bad"] != "" {
		return errors.New("setting bad: unknown")
	}
	return nil
}

func (p *testPolicy) Score(_ context.Context, req *pluginv1.ScoreRequest) (*pluginv1.ScoreResponse, error) {
	return p.score(req)
}

// testLauncher fails in the given way, or panics.
type testLauncher struct {
	Launcher
	problem error
}

func (l *testLauncher) Validate(context.Context, *pluginv1.ValidateRequest) (*pluginv1.ValidateResponse, error) {
	if l.problem != nil {
		return nil, l.problem
	}
	panic("in a user's config")
}

// serveTest connects to a service as a host would, without a process between.
func serveTest(t *testing.T, s *service) *grpc.ClientConn {
	t.Helper()
	s.level = new(slog.LevelVar)
	ctx, cancel := context.WithCancel(context.Background())
	attach, closed := make(chan *goplugin.ReattachConfig, 1), make(chan struct{})
	go goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  Handshake,
		VersionedPlugins: map[int]goplugin.PluginSet{ABIVersion: {PluginKey: &grpcPlugin{service: s}}},
		GRPCServer:       newServer,
		Test:             &goplugin.ServeTestConfig{Context: ctx, ReattachConfigCh: attach, CloseCh: closed},
	})
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: Handshake, Plugins: goplugin.PluginSet{PluginKey: &grpcPlugin{}}, Reattach: <-attach,
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
	})
	t.Cleanup(func() {
		client.Kill()
		cancel()
		<-closed
	})
	protocol, err := client.Client()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := protocol.Dispense(PluginKey)
	if err != nil {
		t.Fatal(err)
	}
	conn, ok := raw.(*grpc.ClientConn)
	if !ok {
		t.Fatalf("dispensed a %T", raw)
	}
	return conn
}

func TestScheduling(t *testing.T) {
	t.Parallel()
	p := &testPolicy{}
	s := &service{
		info: Info{Name: "sched-test", Version: "3"}, kind: pluginv1.PluginKind_PLUGIN_KIND_SCHEDULING,
		configure: p.Configure, scheduling: p,
	}
	conn := serveTest(t, s)
	plug, sched := pluginv1.NewPluginServiceClient(conn), pluginv1.NewSchedulingPolicyServiceClient(conn)
	info, err := plug.Info(t.Context(), &pluginv1.InfoRequest{})
	if err != nil || info.GetName() != "sched-test" || info.GetKind() != s.kind || info.GetAbiVersions()[0] != ABIVersion {
		t.Errorf("info %v, %v", info, err)
	}

	_, err = plug.Configure(t.Context(), &pluginv1.ConfigureRequest{Settings: map[string]string{"weight": "2", LogLevelSetting: "debug"}})
	if err != nil || len(p.settings) != 1 || p.settings["weight"] != "2" || s.level.Level() != slog.LevelDebug {
		t.Errorf("configured with %v at level %v, %v; want weight alone, and debug", p.settings, s.level, err)
	}
	for _, bad := range []map[string]string{{"bad": "1"}, {LogLevelSetting: "loud"}} {
		if _, err := plug.Configure(t.Context(), &pluginv1.ConfigureRequest{Settings: bad}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("settings %v answer %v, want InvalidArgument", bad, err)
		}
	}

	// Larger than gRPC's own limit of 4 MiB, both ways.
	const many = 1 << 20
	p.score = func(req *pluginv1.ScoreRequest) (*pluginv1.ScoreResponse, error) {
		return &pluginv1.ScoreResponse{Score: req.GetEligibleMs()}, nil
	}
	req := &pluginv1.ScoreRequest{Generation: 9, JobId: make([]uint64, many), EligibleMs: make([]int64, many)}
	for i := range many {
		req.JobId[i], req.EligibleMs[i] = uint64(i+1), 1_700_000_000_000
	}
	resp, err := sched.Score(t.Context(), req, grpc.MaxCallRecvMsgSize(MaxMessageBytes))
	if err != nil || len(resp.GetScore()) != many || resp.GetGeneration() != 9 {
		t.Errorf("%d scores of generation %d, %v", len(resp.GetScore()), resp.GetGeneration(), err)
	}
	if _, err := sched.Score(t.Context(), &pluginv1.ScoreRequest{JobId: []uint64{1}, Size: []uint32{1, 2}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("columns that do not fit answer %v, want InvalidArgument", err)
	}

	p.score = func(*pluginv1.ScoreRequest) (*pluginv1.ScoreResponse, error) { panic("oh") }
	if _, err := sched.Score(t.Context(), &pluginv1.ScoreRequest{}); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "oh") {
		t.Errorf("a panic answers %v, want Internal", err)
	}
	p.score = func(*pluginv1.ScoreRequest) (*pluginv1.ScoreResponse, error) { return nil, errors.New("no") }
	if _, err := sched.Score(t.Context(), &pluginv1.ScoreRequest{}); status.Code(err) != codes.Internal {
		t.Errorf("an error answers %v, want Internal", err)
	}
}

// explaining is a policy that explains too.
type explaining struct{ testPolicy }

func (*explaining) Explain(_ context.Context, req *pluginv1.ExplainRequest) (*pluginv1.ExplainResponse, error) {
	if req.GetJobs().GetNowMs() < 0 {
		return nil, errors.New("no")
	}
	return &pluginv1.ExplainResponse{BoundMs: int64(len(req.GetJobs().GetJobId()))}, nil
}

// TestExplain: served when the policy can, and Unimplemented when it cannot.
func TestExplain(t *testing.T) {
	t.Parallel()
	p := &explaining{}
	kind := pluginv1.PluginKind_PLUGIN_KIND_SCHEDULING
	can := pluginv1.NewSchedulingPolicyServiceClient(serveTest(t, &service{info: Info{Name: "a", Version: "1"}, kind: kind, scheduling: p}))
	cannot := pluginv1.NewSchedulingPolicyServiceClient(serveTest(t, &service{info: Info{Name: "a", Version: "1"}, kind: kind, scheduling: &p.testPolicy}))
	req := &pluginv1.ExplainRequest{Jobs: &pluginv1.ScoreRequest{JobId: []uint64{1, 2}}}
	if resp, err := can.Explain(t.Context(), req); err != nil || resp.GetBoundMs() != 2 {
		t.Errorf("explained %v, %v", resp, err)
	}
	if _, err := cannot.Explain(t.Context(), req); status.Code(err) != codes.Unimplemented {
		t.Errorf("a policy that does not explain answers %v, want Unimplemented", err)
	}
	for code, jobs := range map[codes.Code]*pluginv1.ScoreRequest{
		codes.Internal: {NowMs: -1}, codes.InvalidArgument: {JobId: []uint64{1}, Account: []uint32{0}},
	} {
		if _, err := can.Explain(t.Context(), &pluginv1.ExplainRequest{Jobs: jobs}); status.Code(err) != code {
			t.Errorf("%v answers %v, want %v", jobs, err, code)
		}
	}
}

// testVictims answers the number of candidates as the job to help.
type testVictims struct{ testPolicy }

func (*testVictims) SelectVictims(_ context.Context, req *pluginv1.SelectVictimsRequest) (*pluginv1.SelectVictimsResponse, error) {
	if len(req.GetJobs()) == 0 {
		return nil, errors.New("nobody")
	}
	return &pluginv1.SelectVictimsResponse{Selections: []*pluginv1.Selection{{JobId: uint64(len(req.GetCandidates()))}}}, nil
}

func TestPreemption(t *testing.T) {
	t.Parallel()
	p := &testVictims{}
	s := &service{info: Info{Name: "preempt-x", Version: "1"}, kind: pluginv1.PluginKind_PLUGIN_KIND_PREEMPTION, configure: p.Configure, preemption: p}
	conn := serveTest(t, s)
	client := pluginv1.NewPreemptionPolicyServiceClient(conn)
	info, err := pluginv1.NewPluginServiceClient(conn).Info(t.Context(), &pluginv1.InfoRequest{})
	if err != nil || info.GetKind() != s.kind {
		t.Errorf("info %v, %v", info, err)
	}
	good := &pluginv1.SelectVictimsRequest{
		Nodes:      []string{"n"},
		Candidates: []*pluginv1.Candidate{{JobId: 1, Holds: []*pluginv1.Holding{{Node: 0}}}},
		Jobs:       []*pluginv1.BlockedJob{{JobId: 2, Candidates: []uint32{0}, Needs: []*pluginv1.Need{{Places: []*pluginv1.Place{{Node: 0}}}}}},
	}
	if resp, err := client.SelectVictims(t.Context(), good); err != nil || resp.GetSelections()[0].GetJobId() != 1 {
		t.Errorf("answer %v, %v", resp, err)
	}
	if _, err := client.SelectVictims(t.Context(), &pluginv1.SelectVictimsRequest{}); status.Code(err) != codes.Internal {
		t.Errorf("an error answers %v, want Internal", err)
	}
	for want, bad := range map[string]*pluginv1.SelectVictimsRequest{
		"a candidate of job 2 is number 1 of 1": {Candidates: good.Candidates[:1], Nodes: good.Nodes, Jobs: []*pluginv1.BlockedJob{{JobId: 2, Candidates: []uint32{1}}}},
		"a place of job 2 is on node number 0":  {Candidates: nil, Jobs: []*pluginv1.BlockedJob{{JobId: 2, Needs: good.Jobs[0].Needs}}},
		"job 1 holds part of node number 0":     {Candidates: good.Candidates},
	} {
		if _, err := client.SelectVictims(t.Context(), bad); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want InvalidArgument: %s", err, want)
		}
	}
	_, err = pluginv1.NewSchedulingPolicyServiceClient(conn).Score(t.Context(), &pluginv1.ScoreRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a preemption policy answers Score with %v, want Unimplemented", err)
	}
}

func TestLauncher(t *testing.T) {
	t.Parallel()
	l := &testLauncher{}
	s := &service{info: Info{Name: "launch-x", Version: "1", Method: "x"}, kind: pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER, launcher: l}
	conn := serveTest(t, s)
	client := pluginv1.NewLauncherServiceClient(conn)
	info, err := pluginv1.NewPluginServiceClient(conn).Info(t.Context(), &pluginv1.InfoRequest{})
	if err != nil || info.GetMethod() != "x" {
		t.Errorf("info %v, %v", info, err)
	}
	for range 2 {
		if _, err := client.Validate(t.Context(), &pluginv1.ValidateRequest{}); status.Code(err) != codes.Internal {
			t.Errorf("a panic answers %v, want Internal, and the plugin to go on", err)
		}
	}
	l.problem = status.Error(codes.NotFound, "no such")
	if _, err := client.Validate(t.Context(), &pluginv1.ValidateRequest{}); status.Code(err) != codes.NotFound {
		t.Errorf("got %v, want the implementation's own code", err)
	}
	_, err = pluginv1.NewSchedulingPolicyServiceClient(conn).Score(t.Context(), &pluginv1.ScoreRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a launcher answers Score with %v, want Unimplemented", err)
	}
}

func TestInfoCheck(t *testing.T) {
	t.Parallel()
	const sched, launch = pluginv1.PluginKind_PLUGIN_KIND_SCHEDULING, pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER
	for name, c := range map[string]struct {
		info Info
		kind pluginv1.PluginKind
		want string
	}{
		"policy":                  {Info{Name: "a", Version: "1"}, sched, ""},
		"launcher":                {Info{Name: "a", Version: "1", Method: "lora"}, launch, ""},
		"no name":                 {Info{Version: "1"}, sched, "name is empty"},
		"name with a space":       {Info{Name: "a b", Version: "1"}, sched, "space"},
		"no version":              {Info{Name: "a"}, sched, "version is empty"},
		"launcher without method": {Info{Name: "a", Version: "1"}, launch, "needs a method"},
		"policy with method":      {Info{Name: "a", Version: "1", Method: "lora"}, sched, "for launchers only"},
	} {
		err := c.info.check(c.kind)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestLogLines: one JSON object a line, with the keys that hosts read.
func TestLogLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(newLogHandler(&out, "sched-x", slog.LevelDebug))
	log.Debug("one\ntwo", "job", 7, slog.Group("g", "msg", "inner"))
	log.Error("bad", "error", errors.New("e"))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines: %s", len(lines), out.String())
	}
	var first map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil {
		t.Fatal(err)
	}
	at, _ := first["@timestamp"].(string)
	if _, err := time.Parse(logTime, at); err != nil {
		t.Errorf("timestamp %q: %v", at, err)
	}
	delete(first, "@timestamp")
	want := map[string]any{"@level": "debug", "@message": "one\ntwo", "@module": "sched-x", "job": 7.0, "g": map[string]any{"msg": "inner"}}
	if fmt.Sprint(first) != fmt.Sprint(want) {
		t.Errorf("line is %v, want %v", first, want)
	}
	if !strings.Contains(lines[1], `"@level":"error"`) {
		t.Errorf("line %s is no error", lines[1])
	}
	for l, want := range map[slog.Level]string{slog.LevelDebug - 4: "debug", slog.LevelInfo + 1: "info", slog.LevelWarn: "warn", slog.LevelError + 4: "error"} {
		if got := levelName(l); got != want {
			t.Errorf("level %v is %s, want %s", l, got, want)
		}
	}
}
