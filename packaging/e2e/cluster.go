// Package e2e runs real clusters for tests and benchmarks: the built binaries as processes on loopback, killed and
// started again at will.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Options say what a cluster is made of. Bin and Dir are needed.
type Options struct {
	// Bin is the directory of the built binaries, Dir where everything of the cluster is kept.
	Bin, Dir string
	// Controllers defaults to 3, Nodes to 0.
	Controllers, Nodes int
	// CPUs of each node, default 64. GRES declares GPUs, e.g. "gpu:h100:8"; empty declares none.
	CPUs int
	GRES string
	// NodeConf is added to the configuration of nodes, by name: GPUs or features of their own, for example.
	NodeConf map[string]string
	// Times is added to each controller's configuration: a [node] table, for example.
	Times string
	// Engine is the trainer's command for nodes.
	Engine string
}

// Cluster is a set of daemons. Its methods may be called from any goroutine.
type Cluster struct {
	opt         Options
	Controllers []*Daemon
	Nodes       []*Daemon

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
}

// Daemon is one process that can be killed and started again.
type Daemon struct {
	Name string
	// Addr is a controller's client address.
	Addr string
	Log  string
	args []string

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
}

// Start runs the daemon with its usual arguments and any extra ones.
func (d *Daemon) Start(extra ...string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	log, err := os.OpenFile(d.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(d.args[0], append(append([]string{}, d.args[1:]...), extra...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", d.Name, err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	d.cmd, d.exited = cmd, exited
	return nil
}

// Signal sends a signal; Kill also waits until the process is gone.
func (d *Daemon) Signal(sig syscall.Signal) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd == nil {
		return fmt.Errorf("%s was not started", d.Name)
	}
	return d.cmd.Process.Signal(sig)
}

// Kill ends the process with a signal and waits until it is gone.
func (d *Daemon) Kill(sig syscall.Signal) {
	if err := d.Signal(sig); err == nil || errors.Is(err, os.ErrProcessDone) {
		d.Wait()
	}
}

// Wait waits until the process is gone and returns its exit code, -1 after a signal.
func (d *Daemon) Wait() int {
	d.mu.Lock()
	cmd, exited := d.cmd, d.exited
	d.mu.Unlock()
	<-exited
	return cmd.ProcessState.ExitCode()
}

// Pid is the process id of the newest start.
func (d *Daemon) Pid() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cmd.Process.Pid
}

// Running reports whether the process is there.
func (d *Daemon) Running() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd == nil {
		return false
	}
	select {
	case <-d.exited:
		return false
	default:
		return true
	}
}

// Ports for daemons are below those that the kernel gives to outgoing connections, so that nobody takes one while a daemon is
// down or not up yet.
const (
	lowestPort  = 11_000
	highestPort = 30_000
)

// given are the ports that this process has handed out.
var given = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// freePorts finds n ports that nobody listens on.
func freePorts(n int) ([]int, error) {
	given.Lock()
	defer given.Unlock()
	var ports []int
	for range 100 * n {
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		if given.ports[port] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		_ = l.Close()
		given.ports[port] = true
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("no %d free ports from %d to %d", n, lowestPort, highestPort)
}

// Up starts a cluster and waits until it has a leader and all nodes are up.
func Up(ctx context.Context, opt Options) (*Cluster, error) {
	if opt.Controllers == 0 {
		opt.Controllers = 3
	}
	if opt.CPUs == 0 {
		opt.CPUs = 64
	}
	c := &Cluster{opt: opt, conns: map[string]*grpc.ClientConn{}}
	ports, err := freePorts(2 * opt.Controllers)
	if err != nil {
		return nil, err
	}
	for i := range opt.Controllers {
		name := fmt.Sprintf("c%d", i+1)
		addr := fmt.Sprintf("127.0.0.1:%d", ports[2*i])
		conf := fmt.Sprintf("name = %q\ndata_dir = %q\nclient_addr = %q\nraft_addr = \"127.0.0.1:%d\"\nplugin_dir = %q\n%s\n",
			name, filepath.Join(opt.Dir, name), addr, ports[2*i+1], opt.Bin, opt.Times)
		d, err := c.daemon(name, "fettle-ctld", conf)
		if err != nil {
			return nil, err
		}
		d.Addr = addr
		c.Controllers = append(c.Controllers, d)
		start := []string{"--bootstrap"}
		if i > 0 {
			start = []string{"--join", c.Controllers[0].Addr}
		}
		if err := d.Start(start...); err != nil {
			return c, err
		}
		if i == 0 {
			if err := c.AwaitLeader(ctx); err != nil {
				return c, err
			}
		}
	}
	if err := c.awaitVoters(ctx); err != nil {
		return c, err
	}
	for i := range opt.Nodes {
		if err := c.AddNode(fmt.Sprintf("n%d", i+1)); err != nil {
			return c, err
		}
	}
	return c, c.AwaitNodes(ctx)
}

func (c *Cluster) daemon(name, binary, conf string) (*Daemon, error) {
	if err := os.MkdirAll(c.opt.Dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(c.opt.Dir, name+".toml")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		return nil, err
	}
	return &Daemon{Name: name, Log: filepath.Join(c.opt.Dir, name+".log"), args: []string{filepath.Join(c.opt.Bin, binary), "--config", path}}, nil
}

// AddNode starts another node daemon.
func (c *Cluster) AddNode(name string) error {
	var quoted []string
	for _, a := range c.Addrs() {
		quoted = append(quoted, fmt.Sprintf("%q", a))
	}
	conf := fmt.Sprintf("name = %q\nstate_dir = %q\ncontrollers = [%s]\ncpus = %d\nplugin_dir = %q\n",
		name, filepath.Join(c.opt.Dir, name), strings.Join(quoted, ", "), c.opt.CPUs, c.opt.Bin)
	if c.opt.GRES != "" {
		conf += fmt.Sprintf("gres = %q\n", c.opt.GRES)
	}
	if c.opt.Engine != "" {
		conf += fmt.Sprintf("engine = %q\n", c.opt.Engine)
	}
	conf += c.opt.NodeConf[name]
	d, err := c.daemon(name, "fettle-noded", conf)
	if err != nil {
		return err
	}
	c.Nodes = append(c.Nodes, d)
	return d.Start()
}

// Addrs are the controllers' client addresses.
func (c *Cluster) Addrs() []string {
	var addrs []string
	for _, d := range c.Controllers {
		addrs = append(addrs, d.Addr)
	}
	return addrs
}

// Env is the environment for client commands.
func (c *Cluster) Env() []string {
	return append(os.Environ(), "FETTLE_CONTROLLERS="+strings.Join(c.Addrs(), ","), "XDG_CONFIG_HOME="+c.opt.Dir)
}

// Command prepares a client command of this cluster.
func (c *Cluster) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.opt.Bin, name), args...)
	cmd.Env = c.Env()
	cmd.Dir = c.opt.Dir
	return cmd
}

// Client is a client of one controller.
func (c *Cluster) Client(addr string) fettlev1.ControllerServiceClient {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn := c.conns[addr]
	if conn == nil {
		var err error
		conn, err = grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
			grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}))
		if err != nil {
			panic(err) // Only a malformed target: a bug here.
		}
		c.conns[addr] = conn
	}
	return fettlev1.NewControllerServiceClient(conn)
}

// retryPause is the pause between tries of anything that waits for a cluster.
const retryPause = 20 * time.Millisecond

// Poll calls f until it returns nil or ctx ends; the last error is returned with the reason.
func Poll(ctx context.Context, what string, f func() error) error {
	tick := time.NewTicker(retryPause)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (last: %w)", what, ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// Do calls f with one controller after the other until one has an answer that counts: success, or a refusal that another
// would repeat, which is returned.
func (c *Cluster) Do(ctx context.Context, f func(ctx context.Context, cl fettlev1.ControllerServiceClient) error) error {
	var final error
	err := Poll(ctx, "no controller answers", func() error {
		var last error
		for _, d := range c.Controllers {
			try, cancel := context.WithTimeout(ctx, 5*time.Second)
			last = f(try, c.Client(d.Addr))
			cancel()
			switch status.Code(last) {
			case codes.Unavailable, codes.DeadlineExceeded, codes.FailedPrecondition, codes.Aborted, codes.Canceled, codes.ResourceExhausted:
				continue
			}
			final = last
			return nil
		}
		return last
	})
	return errors.Join(err, final)
}

// Leader is the controller that leads.
func (c *Cluster) Leader(ctx context.Context) (*Daemon, error) {
	for _, d := range c.Controllers {
		if !d.Running() {
			continue
		}
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		resp, err := c.Client(d.Addr).GetCluster(try, &fettlev1.GetClusterRequest{})
		cancel()
		if err == nil && resp.GetHeader().GetIsLeader() {
			return d, nil
		}
	}
	return nil, errors.New("no controller says that it leads")
}

// AwaitLeader waits until a controller leads and answers as the leader.
func (c *Cluster) AwaitLeader(ctx context.Context) error {
	return Poll(ctx, "wait for a leader", func() error {
		d, err := c.Leader(ctx)
		if err != nil {
			return err
		}
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, err = c.Client(d.Addr).GetCluster(try, &fettlev1.GetClusterRequest{Read: &fettlev1.ReadOptions{Level: fettlev1.ReadLevel_READ_LEVEL_LINEARIZABLE}})
		return err
	})
}

func (c *Cluster) awaitVoters(ctx context.Context) error {
	return Poll(ctx, "wait for all controllers to vote", func() error {
		d, err := c.Leader(ctx)
		if err != nil {
			return err
		}
		resp, err := c.Client(d.Addr).GetCluster(ctx, &fettlev1.GetClusterRequest{})
		if err != nil {
			return err
		}
		voters := 0
		for _, s := range resp.GetServers() {
			if s.GetVoter() {
				voters++
			}
		}
		if voters < len(c.Controllers) {
			return fmt.Errorf("%d of %d vote", voters, len(c.Controllers))
		}
		return nil
	})
}

// AwaitNodes waits until all nodes are up and in contact with the leader.
func (c *Cluster) AwaitNodes(ctx context.Context) error {
	if len(c.Nodes) == 0 {
		return nil
	}
	return Poll(ctx, "wait for the nodes", func() error {
		d, err := c.Leader(ctx)
		if err != nil {
			return err
		}
		resp, err := c.Client(d.Addr).ListNodes(ctx, &fettlev1.ListNodesRequest{})
		if err != nil {
			return err
		}
		up := 0
		for _, n := range resp.GetNodes() {
			if n.GetState() == fettlev1.NodeState_NODE_STATE_UP && n.GetLastContactMs() > 0 {
				up++
			}
		}
		if up < len(c.Nodes) {
			return fmt.Errorf("%d of %d nodes are up", up, len(c.Nodes))
		}
		return nil
	})
}

// Jobs lists all jobs as one controller has them now.
func (c *Cluster) Jobs(ctx context.Context, addr string, req *fettlev1.ListJobsRequest) (*fettlev1.Header, []*fettlev1.Job, error) {
	stream, err := c.Client(addr).ListJobs(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	var header *fettlev1.Header
	var jobs []*fettlev1.Job
	for {
		page, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return header, jobs, nil
		}
		if err != nil {
			return header, jobs, err
		}
		if page.GetHeader() != nil {
			header = page.GetHeader()
		}
		jobs = append(jobs, page.GetJobs()...)
	}
}

// Down ends all daemons and whatever jobs they left.
func (c *Cluster) Down() {
	for _, d := range append(append([]*Daemon{}, c.Nodes...), c.Controllers...) {
		if d.Running() {
			d.Kill(syscall.SIGKILL)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}

// Logs are the last lines of every daemon's log, for a failed test.
func (c *Cluster) Logs() string {
	var b strings.Builder
	for _, d := range append(append([]*Daemon{}, c.Controllers...), c.Nodes...) {
		data, _ := os.ReadFile(d.Log)
		lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
		fmt.Fprintf(&b, "--- %s\n%s\n", d.Name, bytes.Join(lines[max(len(lines)-15, 0):], []byte("\n")))
	}
	return b.String()
}
