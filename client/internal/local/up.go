package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fettle-hpc/fettle/client/api"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// pollEvery is how often Up looks whether what it waits for has come.
const pollEvery = 50 * time.Millisecond

// Up starts what is missing of the cluster in o.Dir, makes it first if there is none, and waits until it has a leader,
// all controllers are voters and all nodes are up. started is how many daemons it started.
func Up(ctx context.Context, o Options) (started int, err error) {
	if o.Say == nil {
		o.Say = func(string) {}
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	for _, name := range []string{"fettle-ctld", "fettle-noded"} {
		if st, err := os.Stat(filepath.Join(o.BinDir, name)); err != nil || st.IsDir() {
			return 0, fmt.Errorf("%s is not in %s; build it with make build, or name its directory with --bin-dir", name, o.BinDir)
		}
	}
	if err := os.MkdirAll(o.Dir, dirMode()); err != nil {
		return 0, fmt.Errorf("%s: %w; use --dir", o.Dir, cause(err))
	}
	c, err := lockDir(ctx, o.Dir)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if c.st, err = load(o.Dir); err != nil && !errors.Is(err, errNoCluster) {
		return 0, err
	}
	if err := c.plan(o); err != nil {
		return 0, err
	}
	u := &starter{Cluster: c, o: o, clients: make(map[string]*api.Client), sessions: make(map[string]uint64)}
	defer u.close()
	if o.Scheduler != nil {
		for _, ct := range c.st.Controllers {
			if _, err := u.scheduler(ct, *o.Scheduler); err != nil {
				return 0, err
			}
		}
	}
	if err := c.st.save(c.dir); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, errSlow)
	defer cancel()
	err = u.run(ctx)
	return u.started, err
}

var errSlow = errors.New("the cluster is not up yet")

// starter is one run of Up.
type starter struct {
	*Cluster
	o        Options
	children []*child
	started  int
	clients  map[string]*api.Client
	// changed are the controllers that run with another config than is in their file by now.
	changed []controller
	// sessions are those that nodes had before they were started here.
	sessions map[string]uint64
	// joining is set once there is a leader through which controllers can join.
	joining bool
}

func (u *starter) close() {
	for _, cl := range u.clients {
		_ = cl.Close()
	}
}

func (u *starter) run(ctx context.Context) error {
	if err := u.startJoined(); err != nil {
		return err
	}
	if !u.anyJoined() {
		if err := u.bootstrap(ctx); err != nil {
			return err
		}
	} else if err := u.wait(ctx, "waiting for a leader", u.haveLeader); err != nil {
		return err
	}
	if err := u.startNodes(ctx); err != nil {
		return err
	}
	if err := u.joinOthers(ctx); err != nil {
		return err
	}
	if err := u.restartChanged(ctx); err != nil {
		return err
	}
	return u.wait(ctx, "waiting for the nodes", u.nodesUp)
}

// startJoined starts the controllers that belong to the group already.
func (u *starter) startJoined() error {
	for i := range u.st.Controllers {
		ct := &u.st.Controllers[i]
		if ct.Joined && u.empty(*ct) && u.othersWithData(ct.Name) {
			if err := u.lost(ct); err != nil {
				return err
			}
		}
	}
	for _, ct := range u.st.Controllers {
		if ct.Joined {
			if err := u.controller(ct); err != nil {
				return err
			}
		}
	}
	return nil
}

func (u *starter) anyJoined() bool {
	for _, ct := range u.st.Controllers {
		if ct.Joined {
			return true
		}
	}
	return false
}

// bootstrap starts the first controller of a new cluster and waits until it leads itself.
func (u *starter) bootstrap(ctx context.Context) error {
	first := &u.st.Controllers[0]
	if err := u.controller(*first, "--bootstrap"); err != nil {
		return err
	}
	if err := u.wait(ctx, "waiting for "+first.Name+" to lead", u.haveLeader); err != nil {
		return err
	}
	first.Joined = true
	return u.st.save(u.dir)
}

// startNodes starts the node daemons that do not run, and those again whose config changed: jobs do not mind.
func (u *starter) startNodes(ctx context.Context) error {
	before := u.nodeSessions(ctx)
	for i, n := range u.st.Nodes {
		changed, err := u.config(n.Name, u.nodeConfig(i))
		if err != nil {
			return err
		}
		if id, ok := recorded(u.dir, n.Name); ok {
			if !changed {
				continue
			}
			u.o.Say("starting " + n.Name + " again, its settings have changed")
			if err := end(id, n.Name, DefaultGrace); err != nil {
				return err
			}
		}
		u.sessions[n.Name] = before[n.Name]
		if err := u.daemon("fettle-noded", n.Name, "node "+n.Name); err != nil {
			return err
		}
	}
	return nil
}

// nodeSessions are the nodes' newest sessions as far as a controller knows them.
func (u *starter) nodeSessions(ctx context.Context) map[string]uint64 {
	out := make(map[string]uint64)
	for _, ct := range u.st.Controllers {
		cl, err := u.client(ct.ClientAddr)
		if err != nil {
			continue
		}
		r, err := listNodes(ctx, cl)
		if err != nil {
			continue
		}
		for _, n := range r.GetNodes() {
			out[n.GetName()] = max(out[n.GetName()], n.GetSession())
		}
	}
	return out
}

func (u *starter) daemon(program, name, what string, args ...string) error {
	args = append([]string{"--config", filepath.Join(u.dir, name, "config.toml")}, args...)
	ch, err := start(u.dir, name, filepath.Join(u.o.BinDir, program), args, environ(u.o.Environ))
	if err != nil {
		return err
	}
	u.o.Say("started " + what + ", pid " + fmt.Sprint(ch.id.pid))
	u.children = append(u.children, ch)
	u.started++
	return nil
}

// wait polls until f is content, a daemon that was started ends, or the time is up. msg is said when it takes a while.
func (u *starter) wait(ctx context.Context, msg string, f func(context.Context) (missing string, err error)) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	said := msg == ""
	from := time.Now()
	for {
		for _, ch := range slices.Clone(u.children) {
			if how, code := ch.exited(); how != "" {
				if err := u.mend(ch, how, code); err != nil {
					return err
				}
			}
		}
		missing, err := f(ctx)
		if err != nil || missing == "" {
			return err
		}
		if !said && time.Since(from) > time.Second {
			u.o.Say(msg)
			said = true
		}
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), errSlow) {
				return fmt.Errorf("the cluster was not up within %s: %s; see the logs under %s, or run %s again to wait on", u.o.Timeout, missing, u.dir, u.again("up"))
			}
			return fmt.Errorf("interrupted; what was started runs on, see fettle status: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// client returns a connection to one controller that gives up quickly.
func (u *starter) client(addr string) (*api.Client, error) {
	if cl := u.clients[addr]; cl != nil {
		return cl, nil
	}
	cl, err := quickClient(addr)
	if err == nil {
		u.clients[addr] = cl
	}
	return cl, err
}

func quickClient(addrs ...string) (*api.Client, error) {
	return api.New(api.Config{Controllers: addrs, Timeout: time.Second, TryTimeout: 700 * time.Millisecond,
		ConnectTimeout: 500 * time.Millisecond, UserAgent: "fettle-up"})
}

func ask(ctx context.Context, cl *api.Client) (*fettlev1.GetClusterResponse, error) {
	return api.Do(ctx, cl, api.Read, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.GetClusterResponse, error) {
		return s.GetCluster(ctx, &fettlev1.GetClusterRequest{})
	})
}

// leader answers what the leader says of the cluster, nil when no controller leads.
func (u *starter) leader(ctx context.Context) (*fettlev1.GetClusterResponse, error) {
	for _, ct := range u.st.Controllers {
		if _, ok := recorded(u.dir, ct.Name); !ok {
			continue
		}
		cl, err := u.client(ct.ClientAddr)
		if err != nil {
			return nil, err
		}
		if r, err := ask(ctx, cl); err == nil && r.GetHeader().GetIsLeader() {
			return r, nil
		}
	}
	return nil, nil
}

func (u *starter) haveLeader(ctx context.Context) (string, error) {
	r, err := u.leader(ctx)
	if r == nil {
		return u.noLeader(), err
	}
	return "", nil
}

// allVoters waits for every controller to be a voting member that answers, and remembers those that are.
func (u *starter) allVoters(ctx context.Context) (string, error) {
	r, err := u.leader(ctx)
	if r == nil {
		return u.noLeader(), err
	}
	missing := ""
	changed := false
	for i := range u.st.Controllers {
		ct := &u.st.Controllers[i]
		voter := false
		for _, s := range r.GetServers() {
			voter = voter || s.GetVoter() && (s.GetRaftAddr() == ct.RaftAddr || s.GetName() == ct.Name)
		}
		switch {
		case !voter && ct.Joined:
			return "", fmt.Errorf("%s was taken out of the group with fctl raft remove; to have it again, start anew with fettle down --wipe", ct.Name)
		case !voter:
			missing = ct.Name + " is not a member yet"
		case !ct.Joined:
			ct.Joined, ct.Lost, changed = true, false, true
		}
		if cl, err := u.client(ct.ClientAddr); err != nil {
			return "", err
		} else if _, err := ask(ctx, cl); err != nil {
			missing = ct.Name + " does not answer"
		}
	}
	if changed {
		if err := u.st.save(u.dir); err != nil {
			return "", err
		}
	}
	return missing, nil
}

// nodesUp waits for every node to be registered and up; those that were started here, with what they offer now.
func (u *starter) nodesUp(ctx context.Context) (string, error) {
	for _, ct := range u.st.Controllers {
		cl, err := u.client(ct.ClientAddr)
		if err != nil {
			return "", err
		}
		r, err := listNodes(ctx, cl)
		if err != nil {
			continue
		}
		up := make(map[string]bool)
		for _, n := range r.GetNodes() {
			before := u.sessions[n.GetName()]
			up[n.GetName()] = n.GetState() == fettlev1.NodeState_NODE_STATE_UP && (before == 0 || n.GetSession() != before)
		}
		for _, n := range u.st.Nodes {
			if !up[n.Name] {
				return "node " + n.Name + " is not up", nil
			}
		}
		return "", nil
	}
	return "no controller answers", nil
}

func listNodes(ctx context.Context, cl *api.Client) (*fettlev1.ListNodesResponse, error) {
	return api.Do(ctx, cl, api.Read, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.ListNodesResponse, error) {
		return s.ListNodes(ctx, &fettlev1.ListNodesRequest{})
	})
}

// dirMode lets jobs of other users pass through to their own files when root runs the cluster; nobody else can list.
func dirMode() os.FileMode {
	if os.Geteuid() == 0 {
		return 0o711
	}
	return 0o700
}
