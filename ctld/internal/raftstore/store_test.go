package raftstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/raftstore/datadir"
)

func TestBootstrapAndJoin(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.start("c1", "c2", "c3")
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprint("entry ", i))
		c.put(want[i])
	}
	c.same(want)
	ids := make(map[string]bool)
	for _, n := range nodes {
		if n.voters() != 3 {
			t.Errorf("%s sees %d voters: %+v", n.name, n.voters(), n.Members())
		}
		id := n.Identity()
		if id.ClusterInfo != nodes[0].Identity().ClusterInfo || ServerName(id.ServerID) != n.name || ids[id.ServerID] {
			t.Errorf("identity of %s: %+v", n.name, id)
		}
		ids[id.ServerID] = true
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	t.Parallel()
	for _, flags := range []struct {
		name          string
		first, others func(*Config)
	}{
		{"same flags", bootstrap, join("c1")},
		{"no flags", func(*Config) {}, func(*Config) {}},
	} {
		t.Run(flags.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			nodes := c.start("c1", "c2", "c3")
			c.put("a")
			c.put("b")
			var ids []string
			for _, n := range nodes {
				ids = append(ids, n.Identity().ServerID)
				c.stop(n)
			}
			for i, n := range nodes {
				change := flags.others
				if i == 0 {
					change = flags.first
				}
				if got := c.mustOpen(n.name, change).Identity().ServerID; got != ids[i] {
					t.Errorf("%s came back as %s, was %s", n.name, got, ids[i])
				}
			}
			c.put("c")
			c.same([]string{"a", "b", "c"})
		})
	}
}

func TestFailover(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start("c1", "c2", "c3")
	c.put("before")
	old := c.leader()
	c.crash(old)
	next := c.leader()
	if next == old || next.LeaderInfo().Term <= 1 {
		t.Fatalf("leader %+v", next.LeaderInfo())
	}
	c.put("after")
	c.mustOpen(old.name)
	c.same([]string{"before", "after"})
}

func TestLeadershipCallbacks(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.start("c1", "c2", "c3")
	first := c.leader()
	term := first.LeaderInfo().Term
	if err := first.Transfer(c.bound()); err != nil {
		t.Fatal(err)
	}
	c.eventually("another leader", func() bool { return c.leader() != first })
	for _, n := range nodes {
		c.stop(n)
	}
	seen := make(map[uint64]string)
	for _, n := range nodes {
		close(n.gained)
		close(n.lost)
		var gained, lost []uint64
		for g := range n.gained {
			gained = append(gained, g)
			if other := seen[g]; other != "" {
				t.Errorf("term %d was led by %s and %s", g, other, n.name)
			}
			seen[g] = n.name
		}
		for l := range n.lost {
			lost = append(lost, l)
		}
		if !slices.Equal(gained, lost) {
			t.Errorf("%s gained terms %v but lost %v", n.name, gained, lost)
		}
		if !slices.IsSorted(gained) {
			t.Errorf("%s gained %v", n.name, gained)
		}
	}
	if seen[term] != first.name {
		t.Errorf("term %d was led by %q, not by %s", term, seen[term], first.name)
	}
}

func TestGainedComesAfterEarlierEntriesAreApplied(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	shown := make(chan []string, 1)
	n := c.mustOpen("c1", bootstrap)
	for i := range 50 {
		c.put(fmt.Sprint(i))
	}
	c.stop(n)
	c.mustOpen("c1", func(cfg *Config) {
		fsm := cfg.FSM.(*notes)
		cfg.OnGained = func(context.Context, uint64) { shown <- fsm.all() }
	})
	select {
	case got := <-shown:
		if len(got) != 50 {
			t.Errorf("the new leader acted on %d of 50 entries", len(got))
		}
	case <-c.bound().Done():
		t.Fatal("never gained leadership")
	}
}

func TestOnGainedContextEndsWithLeadership(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.start("c1", "c2", "c3")
	c.stop(nodes[2])
	ended := make(chan error, 8)
	block := func(cfg *Config) {
		cfg.OnGained = func(ctx context.Context, term uint64) {
			<-ctx.Done()
			ended <- context.Cause(ctx)
		}
	}
	c.mustOpen("c3", block)
	for c.leader().name != "c3" {
		if err := c.leader().Transfer(c.bound()); err != nil && !errors.Is(err, ErrNotLeader) {
			t.Fatal(err)
		}
	}
	if err := c.node("c3").Transfer(c.bound()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, ErrNotLeader) {
			t.Errorf("cause %v", err)
		}
	case <-c.bound().Done():
		t.Fatal("the context outlived the leadership")
	}
}

func TestTransferAndShutdownHandOver(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start("c1", "c2", "c3")
	first := c.leader()
	if err := first.Transfer(c.bound()); err != nil {
		t.Fatal(err)
	}
	second := c.leader()
	if second == first {
		t.Fatal("leadership stayed")
	}
	if err := first.Transfer(c.bound()); !errors.Is(err, ErrNotLeader) {
		t.Errorf("transfer by a follower: %v", err)
	}
	term := second.LeaderInfo().Term
	c.stop(second)
	third := c.leader()
	if got := third.LeaderInfo().Term; got != term+1 {
		t.Errorf("shutdown of the leader cost %d terms, a hand-over costs one", got-term)
	}
	if _, _, err := second.Apply(c.bound(), []byte("x")); !errors.Is(err, ErrClosed) || errors.Is(err, ErrUnknown) {
		t.Errorf("apply after shutdown: %v", err)
	}
}

func TestTransferWithoutSuccessor(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start("c1")
	if err := c.leader().Transfer(c.bound()); !errors.Is(err, ErrNoSuccessor) {
		t.Errorf("got %v", err)
	}
}

func TestSnapshotAndRestore(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.start("c1", "c2", "c3")
	behind := nodes[0]
	if behind == c.leader() {
		behind = nodes[1]
	}
	c.stop(behind)
	var want []string
	for i := range 300 {
		want = append(want, fmt.Sprint(i))
		c.put(want[i])
	}
	lead := c.leader()
	index, err := lead.Snapshot(c.bound())
	if err != nil || index < 300 || lead.Status().SnapshotIndex != index {
		t.Fatalf("snapshot at %d, status says %d: %v", index, lead.Status().SnapshotIndex, err)
	}
	first, err := lead.logs.FirstIndex()
	if err != nil || first < 100 {
		t.Fatalf("the log was not cut: it begins at %d, %v", first, err)
	}
	// A follower that lacks what was cut gets the snapshot.
	behind = c.mustOpen(behind.name)
	c.put("last")
	want = append(want, "last")
	c.same(want)
	if behind.Status().SnapshotIndex != index {
		t.Errorf("follower has snapshot %d, not %d", behind.Status().SnapshotIndex, index)
	}
	// And so does a restart.
	c.stop(lead)
	c.mustOpen(lead.name)
	c.same(want)
}

func TestSecondProcessOnOneDirectory(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.mustOpen("c1", bootstrap)
	cfg, _ := c.config("c1")
	cfg.DataDir = n.dir
	_, err := Open(c.bound(), cfg)
	if !errors.Is(err, ErrLocked) || ExitCode(err) != 1 {
		t.Errorf("second open: %v (exit %d)", err, ExitCode(err))
	}
	c.put("still here")
}

func TestPlainTCPOnlyOnLoopback(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	_, err := c.open("c1", bootstrap, func(cfg *Config) { cfg.RaftAddr = "0.0.0.0:0"; cfg.AdvertiseAddr = "192.0.2.1:1" })
	if err == nil || errors.Is(err, ErrNoIdentity) {
		t.Fatalf("opened a plain port to the world: %v", err)
	}
	// Nothing was decided yet: the same directory can still be bootstrapped.
	c.mustOpen("c1", bootstrap)
}

func TestValidate(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for name, change := range map[string]func(*Config){
		"DataDir":  func(cfg *Config) { cfg.DataDir = "" },
		"NodeName": func(cfg *Config) { cfg.NodeName = "a b" },
		"RaftAddr": func(cfg *Config) { cfg.RaftAddr = "" },
		"FSM":      func(cfg *Config) { cfg.FSM = nil },
		"Joiner":   func(cfg *Config) { cfg.Join, cfg.Joiner = []string{"x"}, nil },
		"Timing":   func(cfg *Config) { cfg.Timing = -1 },
	} {
		cfg, _ := c.config("c1")
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestWaitLeaderEndsWithContext(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.start("c1", "c2")
	c.crash(nodes[0])
	c.eventually("the leader is forgotten", func() bool { return nodes[1].LeaderInfo().ID == "" })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if l, err := nodes[1].WaitLeader(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %+v, %v", l, err)
	}
}

func TestTimingTooShort(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	_, err := c.open("c1", bootstrap, func(cfg *Config) { cfg.Timing = 0.001 })
	if err == nil || ExitCode(err) != 1 || errors.Is(err, ErrDataLost) {
		t.Fatalf("got %v (exit %d)", err, ExitCode(err))
	}
	c.mustOpen("c1", bootstrap)
}

// TestFlap loses and regains leadership faster than the callbacks run.
func TestFlap(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	type event struct {
		term   uint64
		gained bool
	}
	events := make(chan event, 16)
	hold := make(chan struct{})
	n := c.mustOpen("c1", bootstrap, func(cfg *Config) {
		cfg.OnGained = func(ctx context.Context, term uint64) {
			<-hold
			events <- event{term, true}
		}
		cfg.OnLost = func(term uint64) { events <- event{term, false} }
	})
	c.leader()
	for range 3 {
		n.lead.notify <- false
		n.lead.notify <- true
	}
	c.eventually("the notifications are taken", func() bool { return len(n.lead.notify) == 0 })
	close(hold)
	c.leader()
	if err := n.Barrier(c.bound()); err != nil {
		t.Fatal(err)
	}
	c.stop(n)
	close(events)
	want, count := true, 0
	for e := range events {
		if e.gained != want || e.term == 0 {
			t.Fatalf("event %d is %+v", count, e)
		}
		want = !want
		count++
	}
	if !want || count < 4 {
		t.Errorf("%d events, the last one gained: %v", count, !want)
	}
}

func TestTLSBetweenControllers(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(nil)
	srv.StartTLS()
	srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	conf := &tls.Config{Certificates: srv.TLS.Certificates, RootCAs: roots, ClientAuth: tls.RequireAnyClientCert}
	var asked atomic.Int32
	secure := func(cfg *Config) {
		cfg.TLS = conf
		cfg.AuthorizePeer = func(id string, state *tls.ConnectionState) error {
			if id == "" || state == nil || len(state.PeerCertificates) == 0 {
				return errors.New("who is that")
			}
			asked.Add(1)
			return nil
		}
	}
	c := newCluster(t)
	c.mustOpen("c1", bootstrap, secure)
	c.mustOpen("c2", join("c1"), secure)
	c.put("a")
	c.same([]string{"a"})
	if asked.Load() == 0 {
		t.Error("nobody was asked about the peers")
	}
}

func TestDiskLevels(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	tests := []struct {
		name        string
		free, total uint64
		want        DiskLevel
	}{
		{"large disk, 5 % free", 25 * gib, 500 * gib, DiskOK},
		{"large disk, under a gigabyte", gib - 1, 500 * gib, DiskLow},
		{"large disk, under half of that", gib/2 - 1, 500 * gib, DiskCritical},
		{"small disk, 11 % free", 11 << 20, 100 << 20, DiskOK},
		{"small disk, 9 % free", 9 << 20, 100 << 20, DiskLow},
		{"small disk, 4 % free", 4 << 20, 100 << 20, DiskCritical},
	}
	for _, tt := range tests {
		if got := gradeDisk(datadir.Space{Free: tt.free, Total: tt.total}).Level; got != tt.want {
			t.Errorf("%s: level %v, want %v", tt.name, got, tt.want)
		}
	}
}
