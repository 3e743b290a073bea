// Package daemon puts a controller together: the replicated log at the bottom, the job table on it, and above them what
// serves clients, nodes and, while this controller leads, the scheduler.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/fettle-hpc/fettle/ctld/internal/api"
	"github.com/fettle-hpc/fettle/ctld/internal/config"
	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/identity"
	"github.com/fettle-hpc/fettle/ctld/internal/leader"
	"github.com/fettle-hpc/fettle/ctld/internal/raftstore"
	"github.com/fettle-hpc/fettle/ctld/internal/session"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
	"github.com/fettle-hpc/fettle/proto/version"
)

// Options are the choices of one start, which are flags rather than configuration.
type Options struct {
	// Bootstrap makes a new cluster when the data directory is empty.
	Bootstrap bool
	// Join lists controllers to join through when this one is not a member yet; added to the configured ones.
	Join   []string
	Logger *slog.Logger
	// Fatal ends the process with a code and one line.
	Fatal func(code int, msg string)
}

// maxMessage bounds requests and answers of the API in bytes.
const maxMessage = 16 << 20

// Run runs a controller until ctx ends, then hands over leadership and stops.
func Run(ctx context.Context, cfg *config.Config, opt Options) error {
	log := opt.Logger
	// The name of the port is taken before the log is opened, so that a second controller on one address says so at once.
	ln, err := net.Listen("tcp", cfg.ClientAddr)
	if err != nil {
		return fmt.Errorf("client_addr %s: %w", cfg.ClientAddr, rootCause(err))
	}
	d := &daemon{cfg: cfg, opt: opt, log: log, started: time.Now(), dialer: newDialer()}
	defer d.dialer.close()
	if err := d.open(ctx); err != nil {
		_ = ln.Close()
		return err
	}
	return d.serve(ctx, ln)
}

type daemon struct {
	cfg     *config.Config
	opt     Options
	log     *slog.Logger
	started time.Time
	dialer  *dialer

	state     *state.Store
	fsm       *fsm.FSM
	raft      *raftstore.Store
	logWriter *logWriter
	plugins   *plugins
	nodes     *session.Server
	scheduler *leader.Scheduler
	keeper    *leader.Keeper
	clock     leader.Clock
	api       *api.Server
	// ready is closed when the parts above exist: leadership may be won before.
	ready chan struct{}
}

// open builds every part; the replicated log comes up in the middle of it.
func (d *daemon) open(ctx context.Context) error {
	d.ready = make(chan struct{})
	d.state = state.New("")
	d.fsm = fsm.New(d.state, fsm.Config{Fatal: d.opt.Fatal, Logger: d.log})
	store, err := raftstore.Open(ctx, raftstore.Config{
		DataDir: d.cfg.DataDir, NodeName: d.cfg.Name, RaftAddr: d.cfg.RaftAddr,
		Bootstrap: d.opt.Bootstrap, Join: append(append([]string{}, d.opt.Join...), d.cfg.Join...), Joiner: &joiner{d: d},
		FSM: d.fsm, Timing: d.cfg.Timing,
		OnGained: d.lead, OnLost: func(term uint64) { d.log.Info("leadership lost", "term", term) },
		Retired: d.retired, OnRetire: d.retire,
		Fatal: d.opt.Fatal, Logger: d.log,
	})
	if err != nil {
		return err
	}
	d.raft = store
	for _, w := range store.Warnings() {
		d.log.Warn(w)
	}
	if d.plugins, err = startPlugins(ctx, d.cfg, d.log); err != nil {
		return errors.Join(err, store.Shutdown(context.WithoutCancel(ctx)))
	}
	d.logWriter = &logWriter{raft: store, now: d.clock.Now}
	d.assemble()
	close(d.ready)
	return nil
}

func (d *daemon) assemble() {
	id := d.raft.Identity()
	auth := api.NewLoopbackAuth()
	times := session.Config{
		HeartbeatMS: ms(d.cfg.Node.Heartbeat), UnreachableMS: ms(d.cfg.Node.Unreachable),
		LeaseMS: ms(d.cfg.Node.Lease), LeaseMarginMS: ms(d.cfg.Node.LeaseMargin),
	}
	d.nodes = session.NewServer(session.ServerConfig{
		Times: times,
		Store: d.state, Proposer: nodeProposer{d.logWriter}, ClusterID: id.ClusterID + "/" + id.Incarnation,
		VerifyLeader: func(ctx context.Context) error { _, err := d.raft.WaitLinearizable(ctx); return err },
		LeaderHint:   func() error { return d.api.NotLeader() },
		AuthorizeNode: func(ctx context.Context, _ string) error {
			actor, _, err := auth.Caller(ctx)
			if err == nil && !actor.GetAdmin() {
				err = errors.New("only root and the user that runs the controllers may run node daemons")
			}
			return err
		},
		Logger: d.log,
	})
	d.scheduler = leader.NewScheduler(leader.SchedulerConfig{
		Store: d.state, Log: d.logWriter, Scorer: d.plugins, Connected: d.nodes.Connected, Logger: d.log, Now: d.clock.Now,
		Remaining: d.remaining, BusyOutside: d.busyOutside,
		Configure: d.plugins.ConfigureScheduling, Explain: d.plugins, Victims: d.plugins.preemption,
	})
	d.nodes.OnConnectivity(d.scheduler.Wake)
	d.nodes.OnBusyOutside(d.scheduler.NodeChanged)
	d.keeper = &leader.Keeper{
		Store: d.state, Log: d.logWriter, Logger: d.log, Now: d.clock.Now,
		Retention:  leader.Retention{MaxAge: time.Duration(d.cfg.Retention.MaxAge), MaxJobs: d.cfg.Retention.MaxJobs},
		Checkpoint: d.checkpoint,
	}
	d.api = api.NewServer(api.Config{
		ClusterID: id.ClusterID, Incarnation: id.Incarnation, ServerName: d.cfg.Name, Version: version.Version,
		Store: d.state, Log: d.logWriter, Raft: d.raft, Nodes: d.nodes, Scheduler: d.scheduler, Launchers: d.plugins, Auth: auth,
		Dial: d.dialer.dial, Logger: d.log, Now: d.clock.Now, Started: d.started,
		NodeLeaseMS: times.GrantedLeaseMS(),
	})
}

// remaining is how many seconds an attempt has to go by its own progress, -1 when it does not say.
func (d *daemon) remaining(job uint64, attempt uint32) int64 {
	p := d.nodes.Progress(job)
	if p == nil || p.GetAttempt() != attempt || p.GetTotalSteps() == 0 {
		return -1
	}
	return p.GetRemainingS()
}

// busyOutside are the cards of a node that something outside of jobs uses.
func (d *daemon) busyOutside(node string) []string {
	var uuids []string
	for _, g := range d.nodes.NodeBusyOutside(node) {
		uuids = append(uuids, g.UUID)
	}
	return uuids
}

// checkpoint is this replica's index and state hash, for the others to compare theirs with.
func (d *daemon) checkpoint() (uint64, []byte, bool) {
	snap := d.state.Snapshot()
	hash := snap.Hash()
	return snap.Index(), hash[:], snap.Index() > 0
}

func ms(d config.Duration) int64 { return time.Duration(d).Milliseconds() }

// lead does the leader's work for one term; it returns when the term is over.
func (d *daemon) lead(ctx context.Context, term uint64) {
	select {
	case <-d.ready:
	case <-ctx.Done():
		return
	}
	self := &raftlogv1.ServerChange{
		ServerId: d.raft.Identity().ServerID, Name: d.cfg.Name, ClientAddr: d.cfg.ClientAddr, RaftAddr: d.cfg.RaftAddr,
	}
	d.clock.Begin(d.state.Snapshot().NowMS())
	d.log.Info("leading", "term", term)
	for {
		err := leader.Announce(ctx, d.logWriter, self, term)
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
			d.log.Warn("term not announced, trying again", "err", err)
		}
	}
	var parts sync.WaitGroup
	parts.Go(func() { d.nodes.Lead(ctx, term) })
	parts.Go(func() { d.scheduler.Lead(ctx, term) })
	parts.Go(func() { d.keeper.Lead(ctx) })
	parts.Wait()
}

func (d *daemon) retired(serverID string) bool {
	for _, s := range d.state.Snapshot().Servers() {
		if s.GetServerId() == serverID {
			return s.GetRetired()
		}
	}
	return false
}

func (d *daemon) retire(ctx context.Context, serverID string) error {
	change := &raftlogv1.ServerChange{ServerId: serverID, Name: raftstore.ServerName(serverID), Retired: true}
	_, err := d.logWriter.Propose(ctx, &raftlogv1.Entry{Op: &raftlogv1.Entry_ServerChange{ServerChange: change}})
	return err
}

// serve answers until ctx ends, then stops in the order that loses least: leadership first, so that another controller
// takes over while this one still refers clients to it.
func (d *daemon) serve(ctx context.Context, ln net.Listener) error {
	srv := grpc.NewServer(
		grpc.Creds(identity.NewLoopbackCredentials()),
		grpc.UnaryInterceptor(api.RecoverUnary(d.log)), grpc.StreamInterceptor(api.RecoverStream(d.log)),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.MaxConcurrentStreams(10_000),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 15 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	fettlev1.RegisterControllerServiceServer(srv, d.api)
	fettlev1.RegisterNodeServiceServer(srv, d.nodes)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	keep, stopKeeping := context.WithCancel(ctx)
	var keeper sync.WaitGroup
	keeper.Go(func() { returnMemory(keep) })
	defer keeper.Wait()
	defer stopKeeping()
	d.log.Info("controller is up", "name", d.cfg.Name, "clients", d.cfg.ClientAddr, "raft", d.cfg.RaftAddr, "version", version.Version)
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	case <-d.raft.Done():
		err = errors.New("the replicated log stopped")
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if terr := d.raft.Transfer(stop); terr != nil && !errors.Is(terr, raftstore.ErrNotLeader) {
		d.log.Warn("leadership not handed over", "err", terr)
	}
	stopped := make(chan struct{})
	go func() { srv.GracefulStop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(2 * time.Second):
		srv.Stop()
		<-stopped
	}
	d.plugins.close()
	err = errors.Join(err, d.raft.Shutdown(stop))
	// Nobody leads and no stream is open any more: what served them ends by itself.
	d.nodes.Close()
	return err
}

func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

// pluginDir is where the plugins are: configured, beside the executable, or in ../lib/fettle.
func pluginDir(configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find plugins: %w", err)
	}
	if exe, err = filepath.EvalSymlinks(exe); err != nil {
		return "", fmt.Errorf("find plugins: %w", err)
	}
	beside := filepath.Dir(exe)
	if found, _ := filepath.Glob(filepath.Join(beside, "fettle-launch-*")); len(found) > 0 {
		return beside, nil
	}
	return filepath.Join(filepath.Dir(beside), "lib", "fettle"), nil
}
