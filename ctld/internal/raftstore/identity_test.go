package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/fettle-hpc/fettle/ctld/internal/raftstore/datadir"
)

// wipe empties a node's data directory.
func (c *cluster) wipe(n *node) {
	c.t.Helper()
	if err := os.RemoveAll(n.dir); err != nil {
		c.t.Fatal(err)
	}
}

// refused checks that an open fails with one line and an exit code.
func (c *cluster) refused(name string, code int, sentinel error, hint string, change ...func(*Config)) {
	c.t.Helper()
	n, err := c.open(name, change...)
	if err == nil {
		c.stop(n)
		c.t.Fatalf("%s was opened", name)
	}
	if !errors.Is(err, sentinel) || ExitCode(err) != code {
		c.t.Errorf("%s: got %v (exit %d), want %v (exit %d)", name, err, ExitCode(err), sentinel, code)
	}
	if !strings.Contains(err.Error(), hint) || strings.Contains(err.Error(), "\n") {
		c.t.Errorf("%s: %q is not one line that says %q", name, err, hint)
	}
}

// TestWipedControllerCannotLoseEntries is the accident that an empty
// configuration's generous vote allows: one of three is down, the other two
// acknowledge entries, one of those two is wiped and started beside the stale one.
func TestWipedControllerCannotLoseEntries(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.start("c1", "c2", "c3")
	var want []string
	put := func(n int) {
		for range n {
			want = append(want, fmt.Sprint("entry ", len(want)))
			c.put(want[len(want)-1])
		}
	}
	put(5)
	c.same(want)
	lead := c.leader()
	followers := slices.DeleteFunc(slices.Clone(nodes), func(n *node) bool { return n == lead })
	stale, wiped := followers[0], followers[1]
	c.stop(stale)
	put(10)
	c.same(want)
	oldID := wiped.Identity().ServerID
	c.stop(wiped)
	c.crash(lead)
	c.wipe(wiped)

	// With its old flags it is refused, whatever they were.
	c.refused(wiped.name, ExitNoIdentity, ErrNoIdentity, "--bootstrap once per cluster or --join ADDR")
	stale = c.mustOpen(stale.name)
	c.refused(wiped.name, ExitNoIdentity, ErrClusterExists, "use --join", bootstrap, join(stale.name))

	// The stale one alone elects nobody; beside the old leader it catches up.
	lead = c.mustOpen(lead.name)
	c.same(want)

	// It comes back under a new identity, and the old one is gone for good.
	back := c.mustOpen(wiped.name, join(lead.name, stale.name))
	newID := back.Identity().ServerID
	if newID == oldID || ServerName(newID) != wiped.name {
		t.Errorf("identity %s after %s", newID, oldID)
	}
	put(3)
	c.same(want)
	for _, n := range c.running() {
		if n.voters() != 3 || slices.ContainsFunc(n.Members(), func(m Member) bool { return m.ID == oldID }) {
			t.Errorf("%s sees %+v", n.name, n.Members())
		}
	}
	if !c.isRetired(oldID) {
		t.Error("the old identity was not retired")
	}
	// Every one of the three carries everything: any two survive.
	c.crash(lead)
	put(1)
	c.same(want)
}

func TestBootstrapTwiceIsTheSameCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.mustOpen("c1", bootstrap)
	first := n.Identity()
	c.put("a")
	c.stop(n)
	n = c.mustOpen("c1", bootstrap, join("c1"))
	if n.Identity() != first {
		t.Errorf("identity changed from %+v to %+v", first, n.Identity())
	}
	c.put("b")
	c.same([]string{"a", "b"})
}

func TestDirectoryOfAnotherController(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.mustOpen("c1", bootstrap)
	c.stop(n)
	c.refused("c2", ExitNoIdentity, ErrOtherName, "c1", func(cfg *Config) { cfg.DataDir = n.dir })
}

func TestInterruptedBootstrapGoesOn(t *testing.T) {
	t.Parallel()
	for _, logged := range []bool{false, true} {
		t.Run(fmt.Sprintf("log written %v", logged), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			if logged {
				// All done but the last step.
				n := c.mustOpen("c1", bootstrap)
				c.stop(n)
				path := filepath.Join(n.dir, "identity.json")
				if err := os.Rename(path, path+".pending"); err != nil {
					t.Fatal(err)
				}
			} else {
				cfg, n := c.config("c1")
				cfg.setDefaults()
				dir, err := openDir(&cfg)
				if err != nil {
					t.Fatal(err)
				}
				if err := dir.SetPendingIdentity(newIdentity("c1", datadir.OriginBootstrap, ClusterInfo{"c", "i"})); err != nil {
					t.Fatal(err)
				}
				_ = dir.Close()
				c.nodes["c1"] = &node{dir: n.dir, stopped: true}
			}
			c.mustOpen("c1", bootstrap)
			c.put("a")
			c.same([]string{"a"})
		})
	}
}

func TestDamagedDirectories(t *testing.T) {
	t.Parallel()
	remove := func(names ...string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			for _, name := range names {
				if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	tests := []struct {
		name   string
		damage func(t *testing.T, dir string)
	}{
		{"identity lost", remove("identity.json")},
		{"log lost", remove("raft.db")},
		{"log and mark lost", remove("raft.db", "highwater.json")},
		{"log and snapshots lost", remove("raft.db", "snapshots")},
		{"log cut short", func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "raft.db"), 100); err != nil {
				t.Fatal(err)
			}
		}},
		{"log cut in half", func(t *testing.T, dir string) {
			path := filepath.Join(dir, "raft.db")
			st, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, st.Size()/2); err != nil {
				t.Fatal(err)
			}
		}},
		{"pages of the log overwritten", func(t *testing.T, dir string) {
			path := filepath.Join(dir, "raft.db")
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			page := os.Getpagesize()
			for i := 2 * page; i < len(data); i++ {
				data[i] ^= 0x55
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"both pages that head the log zeroed", func(t *testing.T, dir string) {
			f, err := os.OpenFile(filepath.Join(dir, "raft.db"), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(make([]byte, 2*os.Getpagesize()), 0); err != nil {
				t.Fatal(err)
			}
		}},
		{"snapshots lost after the log was cut", remove("snapshots")},
		{"identity is not JSON", func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "identity.json"), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			n := c.mustOpen("c1", bootstrap)
			for i := range 200 {
				c.put(fmt.Sprint(i))
			}
			if _, err := n.Snapshot(c.bound()); err != nil {
				t.Fatal(err)
			}
			c.stop(n)
			tt.damage(t, n.dir)
			again, err := c.open("c1", bootstrap)
			if err == nil {
				c.stop(again)
				t.Fatal("opened")
			}
			if ExitCode(err) != ExitDataLost {
				t.Errorf("%v (exit %d)", err, ExitCode(err))
			}
		})
	}
}

// TestRolledBackLog restores an older copy of the log, as from a backup.
func TestRolledBackLog(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.start("c1", "c2", "c3")
	c.put("a")
	c.same([]string{"a"})
	victim := nodes[0]
	if victim == c.leader() {
		victim = nodes[1]
	}
	c.stop(victim)
	path := filepath.Join(victim.dir, "raft.db")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	victim = c.mustOpen(victim.name)
	c.put("b")
	c.same([]string{"a", "b"})
	c.stop(victim)
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	c.refused(victim.name, ExitDataLost, ErrDataLost, "--join ADDR")
	c.refused(victim.name, ExitDataLost, ErrDataLost, "--join ADDR", join(c.leader().name))
	if _, err := Discard(victim.dir); err != nil {
		t.Fatal(err)
	}
	c.mustOpen(victim.name, join(c.leader().name))
	c.put("c")
	c.same([]string{"a", "b", "c"})
}

// TestRolledBackTerm restores a log that has every entry but forgot a vote.
func TestRolledBackTerm(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.mustOpen("c1", bootstrap)
	c.put("a")
	c.stop(n)
	cfg, _ := c.config("c1")
	cfg.setDefaults()
	dir, err := openDir(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	mark, err := dir.Mark()
	if err != nil || mark.Term == 0 || mark.Index == 0 {
		t.Fatalf("mark after a clean stop: %+v, %v", mark, err)
	}
	mark.Term++
	if err := dir.SetMark(mark); err != nil {
		t.Fatal(err)
	}
	_ = dir.Close()
	c.refused("c1", ExitDataLost, ErrDataLost, "term")
}

func TestNewestSnapshotBroken(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.mustOpen("c1", bootstrap)
	var want []string
	snap := func() {
		for range 50 {
			want = append(want, fmt.Sprint(len(want)))
			c.put(want[len(want)-1])
		}
		if _, err := n.Snapshot(c.bound()); err != nil {
			t.Fatal(err)
		}
	}
	snap()
	snap()
	c.stop(n)
	list, err := os.ReadDir(filepath.Join(n.dir, "snapshots"))
	if err != nil || len(list) != 2 {
		t.Fatalf("snapshots: %v, %v", list, err)
	}
	if err := os.Truncate(filepath.Join(n.dir, "snapshots", list[1].Name(), "state.bin"), 10); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(n.dir, "snapshots", "9-9-9.tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	c.mustOpen("c1")
	c.same(want)
	if _, err := os.Stat(filepath.Join(n.dir, "snapshots", "9-9-9.tmp")); err == nil {
		t.Error("an unfinished snapshot survived the start")
	}
}

func TestNameOfALiveMember(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start("c1", "c2", "c3")
	lead := c.leader()
	for _, victim := range c.running() {
		cfg, _ := c.config(victim.name)
		cfg.DataDir = filepath.Join(t.TempDir(), "impostor")
		cfg.Join = []string{lead.name}
		if _, err := Open(c.bound(), cfg); !errors.Is(err, ErrNameInUse) {
			t.Errorf("second %s: %v", victim.name, err)
		}
	}
	if lead.voters() != 3 {
		t.Errorf("members %+v", lead.Members())
	}
	c.put("x")
	c.same([]string{"x"})
}

func TestRetiredServerStaysOut(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start("c1", "c2", "c3")
	lead := c.leader()
	var gone *node
	for _, n := range c.running() {
		if n != lead {
			gone = n
		}
	}
	id := gone.Identity().ServerID
	c.stop(gone)
	if err := lead.RemoveServer(c.bound(), id); err != nil {
		t.Fatal(err)
	}
	if err := lead.RemoveServer(c.bound(), id); err != nil {
		t.Errorf("second removal: %v", err)
	}
	if !c.isRetired(id) || lead.voters() != 2 {
		t.Errorf("retired %v, members %+v", c.isRetired(id), lead.Members())
	}
	if err := lead.RemoveServer(c.bound(), lead.Identity().ServerID); err == nil {
		t.Error("the leader removed itself")
	}
	req := JoinRequest{ClusterID: lead.Identity().ClusterID, ServerID: id, RaftAddr: freeAddress(t)}
	if err := lead.AddServer(c.bound(), req); !errors.Is(err, ErrRetired) {
		t.Errorf("retired ID: %v", err)
	}
}

// TestRemovedServerLeaves removes a running follower, which the leader then does
// not talk to any more, and one that is down.
func TestRemovedServerLeaves(t *testing.T) {
	t.Parallel()
	for _, down := range []bool{false, true} {
		t.Run(fmt.Sprintf("down %v", down), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.start("c1", "c2", "c3")
			lead := c.leader()
			var gone *node
			for _, n := range c.running() {
				if n != lead {
					gone = n
				}
			}
			c.put("a")
			c.same([]string{"a"})
			id := gone.Identity().ServerID
			if down {
				c.stop(gone)
			}
			if err := lead.RemoveServer(c.bound(), id); err != nil {
				t.Fatal(err)
			}
			if down {
				gone = c.mustOpen(gone.name)
			}
			f := c.died(gone)
			if f.code != ExitDataLost || !strings.Contains(f.msg, "removed from the cluster") {
				t.Errorf("died with %+v", f)
			}
			c.stop(gone)
			c.refused(gone.name, ExitDataLost, ErrRemoved, "removed from the cluster")
			if _, err := Discard(gone.dir); err != nil {
				t.Fatal(err)
			}
			c.mustOpen(gone.name, join(lead.name))
			c.put("b")
			c.same([]string{"a", "b"})
		})
	}
}

func TestAddServerChecksItsRequest(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.mustOpen("c1", bootstrap)
	c.leader()
	good := JoinRequest{ClusterID: n.Identity().ClusterID, ServerID: newServerID("c9"), RaftAddr: "127.0.0.1:1"}
	for name, change := range map[string]func(*JoinRequest){
		"another cluster":   func(r *JoinRequest) { r.ClusterID = "x" },
		"no uuid":           func(r *JoinRequest) { r.ServerID = "c9" },
		"address as an ID":  func(r *JoinRequest) { r.ServerID = "127.0.0.1:7000" },
		"bad name":          func(r *JoinRequest) { r.ServerID = newServerID("a b") },
		"no port":           func(r *JoinRequest) { r.RaftAddr = "127.0.0.1" },
		"address of the c1": func(r *JoinRequest) { r.RaftAddr = n.layer.Addr().String() },
	} {
		req := good
		change(&req)
		if err := n.AddServer(c.bound(), req); !errors.Is(err, ErrJoinRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(n.Members()) != 1 {
		t.Errorf("members %+v", n.Members())
	}
}

// TestUnfinishedJoinGoesOn interrupts a join before the vote was given.
func TestUnfinishedJoinGoesOn(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start("c1")
	cfg, n := c.config("c2")
	cfg.Join = []string{"c1"}
	ctx, cancel := context.WithCancel(c.bound())
	cfg.Joiner = deafJoiner{c: c, joined: cancel}
	if _, err := Open(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted join: %v", err)
	}
	c.mu.Lock()
	c.nodes["c2"] = &node{name: "c2", dir: n.dir, stopped: true}
	c.mu.Unlock()
	c.refused("c2", ExitNoIdentity, ErrNoIdentity, "--join ADDR")
	c.mustOpen("c2", join("c1"))
	c.put("a")
	c.same([]string{"a"})
	if v := c.leader().voters(); v != 2 {
		t.Errorf("%d voters", v)
	}
}

// deafJoiner finds the cluster but never gets through to the leader.
type deafJoiner struct {
	c      *cluster
	joined func()
}

func (d deafJoiner) Cluster(ctx context.Context, addr string) (ClusterInfo, error) {
	return d.c.Cluster(ctx, addr)
}

func (d deafJoiner) Join(context.Context, string, JoinRequest) error {
	d.joined()
	return errors.New("no route")
}

func TestMovedAddress(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.start("c1", "c2", "c3")
	moved := nodes[2]
	c.stop(moved)
	addr := freeAddress(t)
	c.mustOpen(moved.name, join(c.leader().name), func(cfg *Config) { cfg.RaftAddr = addr })
	c.put("a")
	c.same([]string{"a"})
	for _, m := range c.leader().Members() {
		if m.Name == moved.name && (m.Addr != addr || !m.Voter) {
			t.Errorf("member %+v, want %s", m, addr)
		}
	}
	if v := c.leader().voters(); v != 3 {
		t.Errorf("%d voters", v)
	}
}

// TestAllAddressesMoved starts all three on other ports, told by Peers alone.
func TestAllAddressesMoved(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.start("c1", "c2", "c3")
	c.put("a")
	peers := make(map[string]string)
	for _, n := range nodes {
		c.stop(n)
		peers[n.name] = freeAddress(t)
	}
	for _, n := range nodes {
		c.mustOpen(n.name, func(cfg *Config) { cfg.RaftAddr, cfg.Peers = peers[n.name], peers })
	}
	c.put("b")
	c.same([]string{"a", "b"})
}

func TestRecoverFromLostQuorum(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.start("c1", "c2", "c3")
	c.put("a")
	c.put("b")
	c.same([]string{"a", "b"})
	before := nodes[0].Identity()
	for _, n := range nodes {
		c.stop(n)
	}
	cfg, _ := c.config("c1")
	cfg.RaftAddr = nodes[0].layer.Addr().String()
	id, err := Recover(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if id.ServerID != before.ServerID || id.ClusterID != before.ClusterID || id.Incarnation == before.Incarnation {
		t.Errorf("identity %+v after %+v", id, before)
	}
	survivor := c.mustOpen("c1")
	c.put("c")
	c.same([]string{"a", "b", "c"})
	// One that was not lost after all cannot disturb the new line of history.
	ghost := c.mustOpen("c2")
	if survivor.voters() != 1 || ghost.LeaderInfo().ID != "" {
		t.Errorf("members %+v, ghost follows %+v", survivor.Members(), ghost.LeaderInfo())
	}
	c.stop(ghost)
	if _, err := Discard(ghost.dir); err != nil {
		t.Fatal(err)
	}
	c.mustOpen("c2", join("c1"))
	c.put("d")
	c.same([]string{"a", "b", "c", "d"})
}

// TestSnapshotTheMachineRejects is what an older binary meets after an upgrade was
// taken back: nothing is lost, and nobody must be told to discard anything.
func TestSnapshotTheMachineRejects(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.mustOpen("c1", bootstrap)
	c.put("a")
	if _, err := n.Snapshot(c.bound()); err != nil {
		t.Fatal(err)
	}
	c.stop(n)
	newer := errors.New("snapshot format 2 is newer than this program")
	_, err := c.open("c1", func(cfg *Config) { cfg.FSM = picky{FSM: cfg.FSM, err: newer} })
	if !errors.Is(err, newer) || errors.Is(err, ErrDataLost) || ExitCode(err) != 1 {
		t.Errorf("got %v (exit %d)", err, ExitCode(err))
	}
	c.mustOpen("c1")
	c.same([]string{"a"})
}

type picky struct {
	raft.FSM
	err error
}

func (p picky) Restore(io.ReadCloser) error { return p.err }
