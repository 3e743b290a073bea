package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Options are what Up is asked for.
type Options struct {
	// Dir holds the cluster.
	Dir string
	// BinDir holds fettle-ctld and fettle-noded.
	BinDir string
	// Controllers and Nodes are how many there shall be; 0 means as many as there are, or 3 and 1 for a new cluster.
	Controllers, Nodes int
	// Settings change what node daemons are told; nil fields stay as they are.
	GPUs      *int
	GPUType   *string
	CPUs      *int
	MemoryMiB *int64
	Engine    *string
	// Scheduler is the controllers' scheduling policy: "built-in", a name in the plugin directory, or an absolute path.
	Scheduler *string
	// Timeout bounds the wait for the cluster to be up; 0 means a minute.
	Timeout time.Duration
	// Environ is the daemons' environment.
	Environ []string
	// Say is told what happens, one line at a time; may be nil.
	Say func(string)
}

// Cluster is a cluster in a directory, held under its lock.
type Cluster struct {
	dir  string
	st   *state
	lock *os.File
	// held are the ports that are kept for controllers until they start.
	held map[string][]net.Listener
	// claims keep other fettle up away from those ports as long as this one is at work.
	claims []io.Closer
}

// Open takes the cluster in dir under its lock. Close it after use.
func Open(ctx context.Context, dir string) (*Cluster, error) {
	if _, err := load(dir); err != nil {
		return nil, err
	}
	c, err := lockDir(ctx, dir)
	if err != nil {
		return nil, err
	}
	if c.st, err = load(dir); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// lockDir takes the lock of a directory that is there.
func lockDir(ctx context.Context, dir string) (*Cluster, error) {
	path := filepath.Join(dir, lockFile)
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && same(f, path) {
			return &Cluster{dir: dir, lock: f}, nil
		}
		if err == nil {
			// The directory was wiped while we waited.
			f.Close()
			if f, err = openLock(path); err != nil {
				return nil, err
			}
			continue
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("%s: another fettle up or down is at work; wait for it", dir)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// lockFile is locked while a command is at work in the directory.
const lockFile = "lock"

func openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, foreign(path)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w in %s; make one with fettle up", errNoCluster, filepath.Dir(path))
	}
	return f, err
}

// same reports whether an open file is still the one at path.
func same(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// Close gives the lock back. The daemons go on.
func (c *Cluster) Close() {
	c.letGo()
	c.lock.Close()
}

// letGo gives all ports back that are still held or claimed.
func (c *Cluster) letGo() {
	for name := range c.held {
		c.freePorts(name)
	}
	for _, claim := range c.claims {
		claim.Close()
	}
	c.claims = nil
}

// Controllers are the client addresses.
func (c *Cluster) Controllers() []string {
	out := make([]string, len(c.st.Controllers))
	for i, ct := range c.st.Controllers {
		out[i] = ct.ClientAddr
	}
	return out
}

// plan checks the options against what there is and adds what shall be new.
func (c *Cluster) plan(o Options) error {
	fresh := c.st == nil
	if fresh {
		c.st = &state{Version: stateVersion, Settings: Settings{GPUs: -1}}
	}
	st := c.st
	want := func(asked, have, standard int) int {
		switch {
		case asked > 0:
			return asked
		case fresh:
			return standard
		}
		return have
	}
	controllers, nodes := want(o.Controllers, len(st.Controllers), 3), want(o.Nodes, len(st.Nodes), 1)
	switch {
	case controllers > MaxControllers || controllers%2 == 0:
		return fmt.Errorf("controllers %d: must be 1, 3, 5 or 7; with an even number no more may fail than with one fewer", controllers)
	case nodes > MaxNodes:
		return fmt.Errorf("nodes %d: more than %d; ask for fewer", nodes, MaxNodes)
	case controllers < len(st.Controllers):
		return fmt.Errorf("controllers %d: the cluster in %s has %d; start anew with fettle down --wipe, or keep them", controllers, c.dir, len(st.Controllers))
	case nodes < len(st.Nodes):
		return fmt.Errorf("nodes %d: the cluster in %s has %d; start anew with fettle down --wipe, or keep them", nodes, c.dir, len(st.Nodes))
	}
	for i := len(st.Controllers); i < controllers; i++ {
		st.Controllers = append(st.Controllers, controller{Name: fmt.Sprintf("c%d", i+1),
			ClientAddr: fmt.Sprintf("127.0.0.1:%d", 7100+10*i), RaftAddr: fmt.Sprintf("127.0.0.1:%d", 7101+10*i)})
	}
	if err := c.reservePorts(); err != nil {
		return err
	}
	for i := len(st.Nodes); i < nodes; i++ {
		st.Nodes = append(st.Nodes, node{Name: fmt.Sprintf("n%d", i+1)})
	}
	set(&st.Settings.GPUs, o.GPUs)
	set(&st.Settings.GPUType, o.GPUType)
	set(&st.Settings.CPUs, o.CPUs)
	set(&st.Settings.MemoryMiB, o.MemoryMiB)
	set(&st.Settings.Engine, o.Engine)
	set(&st.Settings.Scheduler, o.Scheduler)
	if st.Settings.GPUs < 0 && st.Settings.GPUType != "" {
		return errors.New("gpu-type: names a type but no number of GPUs is declared; add --gpus N")
	}
	return nil
}

// reservePorts gives every controller that is no member yet and does not run two ports that are free, those that it had
// if they are, and holds them until the controller is started. A member keeps its ports for ever: others know it by them.
func (c *Cluster) reservePorts() error {
	for i := range c.st.Controllers {
		ct := &c.st.Controllers[i]
		if _, ok := recorded(c.dir, ct.Name); ok || ct.Joined {
			continue
		}
		for _, addr := range []*string{&ct.ClientAddr, &ct.RaftAddr} {
			l, claim, err := reserve(port(*addr))
			if err != nil {
				return err
			}
			c.claims = append(c.claims, claim)
			*addr = l.Addr().String()
			if c.held == nil {
				c.held = make(map[string][]net.Listener)
			}
			c.held[ct.Name] = append(c.held[ct.Name], l)
		}
	}
	return nil
}

// freePorts lets go of the ports that are held for a controller.
func (c *Cluster) freePorts(name string) {
	for _, l := range c.held[name] {
		l.Close()
	}
	delete(c.held, name)
}

func set[T any](into *T, v *T) {
	if v != nil {
		*into = *v
	}
}

func (c *Cluster) controllerConfig(ct controller) []setting {
	return []setting{text("name", ct.Name), text("data_dir", filepath.Join(c.dir, ct.Name, "data")),
		text("client_addr", ct.ClientAddr), text("raft_addr", ct.RaftAddr)}
}

func (c *Cluster) nodeConfig(i int) []setting {
	n, s := c.st.Nodes[i], c.st.Settings
	addrs := c.Controllers()
	for k := range addrs {
		addrs[k] = quote(addrs[k])
	}
	out := []setting{text("name", n.Name), text("state_dir", filepath.Join(c.dir, n.Name, "state")),
		{"controllers", "[" + strings.Join(addrs, ", ") + "]"}}
	switch {
	case s.GPUs > 0 && s.GPUType != "":
		out = append(out, text("gres", fmt.Sprintf("gpu:%s:%d", s.GPUType, s.GPUs)))
	case s.GPUs > 0:
		out = append(out, text("gres", fmt.Sprintf("gpu:%d", s.GPUs)))
	case s.GPUs == 0 || i > 0:
		// Two nodes of one machine must not both find the same cards.
		out = append(out, text("gres", "none"))
	}
	if s.CPUs > 0 {
		out = append(out, setting{"cpus", fmt.Sprint(s.CPUs)})
	}
	if s.MemoryMiB > 0 {
		out = append(out, text("memory", fmt.Sprintf("%dM", s.MemoryMiB)))
	}
	if s.Engine != "" {
		out = append(out, text("engine", s.Engine))
	}
	return out
}

// environ is the environment for daemons: the caller's, without what belongs to a job or to a client.
func environ(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return strings.HasPrefix(name, "FETTLE_")
	})
}
