package api

import (
	"encoding/hex"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/raftstore"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func TestNodeVerbs(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.connect("n1")
	c.node("n2")
	resp, err := c.leader.client.ListNodes(c.as(bob), &fettlev1.ListNodesRequest{})
	if err != nil || len(resp.GetNodes()) != 2 || resp.GetNodes()[0].GetName() != "n1" {
		t.Fatalf("nodes %v, %v", resp, err)
	}
	if resp.GetNodes()[0].GetLastContactMs() == 0 || resp.GetNodes()[1].GetLastContactMs() != 0 {
		t.Errorf("last contacts: %v", resp.GetNodes())
	}
	if resp, err = c.follower.client.ListNodes(c.ctx, &fettlev1.ListNodesRequest{Names: []string{"n1"}}); err != nil || len(resp.GetNodes()) != 1 || resp.GetNodes()[0].GetLastContactMs() == 0 {
		t.Errorf("through the follower: %v, %v", resp, err)
	}
	do := func(action fettlev1.NodeAction, reason string) *fettlev1.Node {
		t.Helper()
		resp, err := c.follower.client.UpdateNode(c.ctx, &fettlev1.UpdateNodeRequest{RequestId: c.requestID(), Node: "n2", Action: action, Reason: reason})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetNode()
	}
	if n := do(fettlev1.NodeAction_NODE_ACTION_DRAIN, "fan"); !n.GetDrained() || n.GetDrainReason() != "fan" {
		t.Errorf("drained: %v", n)
	}
	if n := do(fettlev1.NodeAction_NODE_ACTION_RESUME, ""); n.GetDrained() {
		t.Errorf("resumed: %v", n)
	}
	id, _ := c.running(ada, "n2")
	if n := do(fettlev1.NodeAction_NODE_ACTION_DECLARE_DEAD, ""); n.GetState() != state.NodeDown {
		t.Errorf("declared dead: %v", n)
	}
	if j := c.snap().Job(id); !j.Current().GetNodes()[0].GetExit().GetNodeLost() {
		t.Errorf("its job: %v", j.Current())
	}
	if n := do(fettlev1.NodeAction_NODE_ACTION_REMOVE, ""); n != nil || c.snap().Node("n2") != nil {
		t.Errorf("removed: %v", n)
	}
}

func TestClusterVerbs(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.submit(ada, script())
	resp, err := c.follower.client.GetCluster(c.ctx, &fettlev1.GetClusterRequest{})
	if err != nil {
		t.Fatal(err)
	}
	hash := c.snap().Hash()
	if resp.GetStateHash() != hex.EncodeToString(hash[:]) || resp.GetJobsPending() != 1 || resp.GetJobsTotal() != 1 || resp.GetVersion() != "v1" || resp.GetScheduler().GetPolicy() != "multifactor" {
		t.Errorf("cluster %v", resp)
	}
	if s := resp.GetServers(); len(s) != 2 || s[0].GetClientAddr() != c.leader.addr || !s[0].GetLeader() || s[1].GetLeader() {
		t.Errorf("servers %v", s)
	}

	// Which cluster it is, asked by a controller that wants to join.
	add, err := c.follower.client.AddServer(c.ctx, &fettlev1.AddServerRequest{})
	if err != nil || add.GetClusterId() != "c" || add.GetIncarnation() != "i" || len(c.leader.raft.joined) != 0 {
		t.Errorf("asked: %v, %v", add, err)
	}
	join := &fettlev1.AddServerRequest{ClusterId: "c", ServerId: "c3.z", Name: "c3", RaftAddr: "127.0.0.1:9", ClientAddr: "127.0.0.1:8"}
	if _, err = c.follower.client.AddServer(c.ctx, join); err != nil {
		t.Fatal(err)
	}
	if got := c.leader.raft.joined; len(got) != 1 || got[0] != (raftstore.JoinRequest{ClusterID: "c", ServerID: "c3.z", RaftAddr: "127.0.0.1:9"}) {
		t.Errorf("joined %v", got)
	}
	if n := len(c.snap().Servers()); n != 3 {
		t.Errorf("%d servers on record", n)
	}
	// One that Raft refuses leaves no trace.
	c.leader.raft.set(func() { c.leader.raft.fail = raftstore.ErrRetired })
	if _, err := c.leader.client.AddServer(c.ctx, &fettlev1.AddServerRequest{ClusterId: "c", ServerId: "c4.z", Name: "c4"}); err == nil || len(c.snap().Servers()) != 3 {
		t.Errorf("refused by Raft: %v, %d servers on record", err, len(c.snap().Servers()))
	}
	for kind, want := range map[error]string{
		fmt.Errorf("%w: c4.z", raftstore.ErrRetired): "server_id: c4.z was removed from this cluster for good; " +
			"start it with --discard --join HOST:PORT to come back under a new identity",
		fmt.Errorf("%w: c4.x is alive", raftstore.ErrNameInUse): "name: a controller named c4 is in the cluster and alive; choose another name, or stop that one first",
	} {
		c.leader.raft.set(func() { c.leader.raft.fail = kind })
		if _, err := c.follower.client.AddServer(c.ctx, &fettlev1.AddServerRequest{ClusterId: "c", ServerId: "c4.z", Name: "c4"}); text(err) != want {
			t.Errorf("%v: %q, want %q", kind, text(err), want)
		}
	}
	c.leader.raft.set(func() { c.leader.raft.fail = nil })

	for _, who := range []string{"c2", "c2.x"} {
		if _, err := c.leader.client.RemoveServer(c.ctx, &fettlev1.RemoveServerRequest{Server: who}); err != nil {
			t.Error(err)
		}
		if _, err := c.leader.client.TransferLeadership(c.ctx, &fettlev1.TransferLeadershipRequest{To: who}); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.follower.client.TransferLeadership(c.ctx, &fettlev1.TransferLeadershipRequest{}); err != nil {
		t.Error(err)
	}
	r := c.leader.raft
	if len(r.removed) != 2 || r.removed[0] != "c2.x" || r.removed[1] != "c2.x" || len(r.moved) != 3 || r.moved[0] != "c2.x" || r.moved[2] != "" {
		t.Errorf("removed %v, moved to %v", r.removed, r.moved)
	}
	plugins, err := c.follower.client.ListPlugins(c.ctx, &fettlev1.ListPluginsRequest{})
	if err != nil || len(plugins.GetPlugins()) != 1 || plugins.GetHeader().GetServerName() != "c2" {
		t.Errorf("plugins %v, %v", plugins, err)
	}
}

func TestPolicyVerbs(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	set := func(expect uint64, names ...string) error {
		p := &fettlev1.ClusterPolicy{Version: 99}
		for i, n := range names {
			p.Partitions = append(p.Partitions, &fettlev1.Partition{Name: n, IsDefault: i == 0})
		}
		_, err := c.follower.client.SetPolicy(c.ctx, &fettlev1.SetPolicyRequest{RequestId: c.requestID(), Policy: p, ExpectVersion: expect})
		return err
	}
	if err := set(0, "gold"); err != nil {
		t.Fatal(err)
	}
	if err := set(1, "gold", "main"); err != nil {
		t.Fatal(err)
	}
	if err := set(1, "lost"); err == nil {
		t.Error("what somebody else has set was overwritten")
	}
	resp, err := c.follower.client.GetPolicy(c.as(bob), &fettlev1.GetPolicyRequest{Read: &fettlev1.ReadOptions{MinIndex: c.snap().Index()}})
	if p := resp.GetPolicy(); err != nil || p.GetVersion() != 2 || len(p.GetPartitions()) != 2 {
		t.Errorf("policy %v, %v", p, err)
	}
}

func TestControllersOutOfContact(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	// A follower tells the leader's contacts, not its own. Which of the others are out of contact is the leader's to say.
	see := func(ok func([]*fettlev1.ServerInfo) bool) {
		t.Helper()
		var resp *fettlev1.GetClusterResponse
		if poll(c.ctx, func() (done bool) {
			var err error
			resp, err = c.follower.client.GetCluster(c.ctx, &fettlev1.GetClusterRequest{})
			return err == nil && ok(resp.GetServers())
		}) != nil {
			t.Fatalf("servers %v", resp.GetServers())
		}
	}
	heard := time.Now().Add(-time.Hour)
	c.leader.raft.set(func() {
		m := slices.Clone(c.leader.raft.members)
		m[0].Self, m[0].LastContact, m[1].LastContact = true, time.Now(), heard
		gone := raftstore.Member{Server: raftstore.Server{ID: "c9.x", Name: "c9", Voter: true}}
		c.leader.raft.members = append(m, gone)
		c.follower.raft.set(func() { c.follower.raft.members = append(slices.Clone(c.follower.raft.members), gone) })
	})
	see(func(s []*fettlev1.ServerInfo) bool {
		return len(s) == 3 && !s[0].GetUnreachable() && s[0].GetLastContactMs() > heard.UnixMilli() &&
			s[1].GetUnreachable() && s[1].GetLastContactMs() == heard.UnixMilli() && s[2].GetUnreachable() && s[2].GetLastContactMs() == 0
	})
	// Without a leader in reach it says what it has heard of that one itself, and nothing of the others.
	c.follower.raft.set(func() { c.follower.raft.leader.ID, c.follower.raft.members[0].LastContact = "nobody.x", heard })
	see(func(s []*fettlev1.ServerInfo) bool {
		return s[0].GetUnreachable() && s[0].GetLastContactMs() == heard.UnixMilli() && !s[1].GetUnreachable() && s[1].GetLastContactMs() == 0
	})
}
