package raftstore

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil { // they mostly wait for elections
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait in these tests; nothing takes nearly as long.
const patience = 60 * time.Second

// notes is a state machine that remembers what was applied, once.
type notes struct {
	mu   sync.Mutex
	list []string
	gate chan struct{} // when set, Apply waits for it
}

func (n *notes) Apply(l *raft.Log) any {
	n.mu.Lock()
	gate := n.gate
	n.mu.Unlock()
	if gate != nil {
		<-gate
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Contains(n.list, string(l.Data)) { // as a request ID would have it
		n.list = append(n.list, string(l.Data))
	}
	return len(n.list)
}

func (n *notes) Snapshot() (raft.FSMSnapshot, error) { return frozen(n.all()), nil }

func (n *notes) Restore(r io.ReadCloser) error {
	var list []string
	if err := json.NewDecoder(r).Decode(&list); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = list
	return nil
}

func (n *notes) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.list)
}

type frozen []string

func (f frozen) Persist(sink raft.SnapshotSink) error {
	if err := json.NewEncoder(sink).Encode([]string(f)); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (frozen) Release() {}

// cluster is a set of controllers in this process, over loopback TCP and real
// files. It is also their Joiner: an "API address" is a node's name.
type cluster struct {
	t       testing.TB
	base    string
	timing  float64
	logger  *slog.Logger
	mu      sync.Mutex
	nodes   map[string]*node
	retired map[string]bool
}

type node struct {
	*Store
	name, dir string
	notes     *notes
	fatal     chan fatality
	gained    chan uint64
	lost      chan uint64
	stopped   bool
}

type fatality struct {
	code int
	msg  string
}

func newCluster(t testing.TB) *cluster {
	c := &cluster{t: t, base: t.TempDir(), timing: 0.5, nodes: make(map[string]*node), retired: make(map[string]bool),
		logger: slog.New(slog.DiscardHandler)}
	if os.Getenv("RAFTSTORE_TEST_LOG") != "" {
		c.logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	t.Cleanup(func() {
		for _, n := range c.running() {
			c.stop(n)
		}
	})
	return c
}

func (c *cluster) running() []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*node
	for _, n := range c.nodes {
		if !n.stopped {
			out = append(out, n)
		}
	}
	return out
}

// bound is a context that ends with the test's patience.
func (c *cluster) bound() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	c.t.Cleanup(cancel)
	return ctx
}

func (c *cluster) config(name string) (Config, *node) {
	n := &node{name: name, notes: &notes{}, fatal: make(chan fatality, 4),
		gained: make(chan uint64, 64), lost: make(chan uint64, 64)}
	c.mu.Lock()
	if old := c.nodes[name]; old != nil {
		n.dir = old.dir
	}
	c.mu.Unlock()
	if n.dir == "" {
		n.dir = filepath.Join(c.base, name)
	}
	return Config{
		DataDir: n.dir, NodeName: name, RaftAddr: "127.0.0.1:0", FSM: n.notes,
		Joiner: c, Timing: c.timing, MinFreeBytes: -1, AllowAnyFilesystem: true, Logger: c.logger.With("on", name),
		SnapshotThreshold: 64, SnapshotInterval: time.Hour, TrailingLogs: 128,
		WriteLimit: 10 * time.Second, // a busy test machine is not a sick disk
		Fatal:      func(code int, msg string) { n.fatal <- fatality{code, msg} },
		OnGained:   func(_ context.Context, term uint64) { n.gained <- term },
		OnLost:     func(term uint64) { n.lost <- term },
		Retired:    c.isRetired,
		OnRetire:   func(_ context.Context, id string) error { c.retire(id); return nil },
	}, n
}

func (c *cluster) isRetired(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.retired[id]
}

func (c *cluster) retire(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired[id] = true
}

// open opens a node on its directory as it is.
func (c *cluster) open(name string, change ...func(*Config)) (*node, error) {
	cfg, n := c.config(name)
	if old := c.node(name); old != nil && old.Store != nil {
		cfg.RaftAddr = old.layer.Addr().String() // come back where the others look
	}
	for _, f := range change {
		f(&cfg)
	}
	s, err := Open(c.bound(), cfg)
	if err != nil {
		return nil, err
	}
	n.Store = s
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[name] = n
	return n, nil
}

func (c *cluster) mustOpen(name string, change ...func(*Config)) *node {
	c.t.Helper()
	n, err := c.open(name, change...)
	if err != nil {
		c.t.Fatalf("open %s: %v", name, err)
	}
	return n
}

func (c *cluster) node(name string) *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[name]
}

func bootstrap(cfg *Config) { cfg.Bootstrap = true }

func join(names ...string) func(*Config) { return func(cfg *Config) { cfg.Join = names } }

// start makes a cluster of the named nodes, the first one bootstrapped.
func (c *cluster) start(names ...string) []*node {
	c.t.Helper()
	out := []*node{c.mustOpen(names[0], bootstrap)}
	for _, name := range names[1:] {
		out = append(out, c.mustOpen(name, join(names[0])))
	}
	return out
}

func (c *cluster) stop(n *node) {
	c.t.Helper()
	c.mu.Lock()
	stopped := n.stopped
	n.stopped = true
	c.mu.Unlock()
	if stopped {
		return
	}
	if err := n.Shutdown(c.bound()); err != nil {
		c.t.Errorf("shutdown of %s: %v", n.name, err)
	}
}

// crash ends a node without handing over: the others see only silence.
func (c *cluster) crash(n *node) {
	c.t.Helper()
	_ = n.layer.Close()
	c.mu.Lock()
	n.stopped = true
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	n.stopLead()
	if err := n.raft.Shutdown().Error(); err != nil {
		c.t.Errorf("crash of %s: %v", n.name, err)
	}
	if err := n.Shutdown(ctx); err != nil {
		c.t.Errorf("crash of %s: %v", n.name, err)
	}
}

// Cluster implements Joiner.
func (c *cluster) Cluster(_ context.Context, addr string) (ClusterInfo, error) {
	n := c.node(addr)
	if n == nil || n.stopped {
		return ClusterInfo{}, fmt.Errorf("%s: connection refused", addr)
	}
	return n.Identity().ClusterInfo, nil
}

// Join implements Joiner.
func (c *cluster) Join(ctx context.Context, addr string, req JoinRequest) error {
	n := c.node(addr)
	if n == nil || n.stopped {
		return fmt.Errorf("%s: connection refused", addr)
	}
	if l := n.LeaderInfo(); l.Name != "" {
		n = c.node(l.Name)
	}
	return n.AddServer(ctx, req)
}

// eventually waits for a condition.
func (c *cluster) eventually(what string, ok func() bool) {
	c.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			c.t.Fatalf("never happened: %s", what)
		}
	}
}

// leader waits for a ready leader among the running nodes.
func (c *cluster) leader() *node {
	c.t.Helper()
	var found *node
	c.eventually("a leader", func() bool {
		for _, n := range c.running() {
			if n.LeaderInfo().Ready {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

// put applies through whoever leads, until it is known to be done.
func (c *cluster) put(data string) {
	c.t.Helper()
	c.eventually("entry "+data, func() bool {
		_, _, err := c.leader().Apply(c.bound(), []byte(data))
		if err != nil {
			c.t.Logf("apply %q: %v", data, err)
		}
		return err == nil
	})
}

// same waits until every running node shows the wanted entries.
func (c *cluster) same(want []string) {
	c.t.Helper()
	for _, n := range c.running() {
		c.eventually(fmt.Sprintf("%s shows %d entries", n.name, len(want)), func() bool {
			return slices.Equal(n.notes.all(), want)
		})
	}
}

func (n *node) voters() int {
	count := 0
	for _, m := range n.Members() {
		if m.Voter {
			count++
		}
	}
	return count
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
