package local

import (
	"context"
	"net"
	"path/filepath"
	"strconv"
	"sync"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Daemon is how one daemon of a local cluster is.
type Daemon struct {
	Name string
	// PID is 0 when it does not run.
	PID   int
	Alive bool
	// Role is leader, follower, joining or silent for controllers; up, unreachable, down or not registered for nodes;
	// ended for either when it does not run.
	Role string
	// Ports are the client and the Raft port of a controller.
	Ports []int
	// Log is the path of its log.
	Log string
}

// Status is how a local cluster is.
type Status struct {
	Dir                string
	Controllers, Nodes []Daemon
	// Waiting and Active count jobs; Known is false when no controller answered.
	Waiting, Active uint64
	Known           bool
}

// Healthy reports whether all daemons run, one controller leads and all nodes are up.
func (s Status) Healthy() bool {
	leads := false
	for _, d := range s.Controllers {
		if !d.Alive || d.Role == "silent" {
			return false
		}
		leads = leads || d.Role == "leader"
	}
	for _, d := range s.Nodes {
		if !d.Alive || d.Role != "up" {
			return false
		}
	}
	return leads
}

// Look finds out how the cluster in dir is, without taking its lock.
func Look(ctx context.Context, dir string) (Status, error) {
	st, err := load(dir)
	if err != nil {
		return Status{}, err
	}
	s := Status{Dir: dir, Controllers: make([]Daemon, len(st.Controllers)), Nodes: make([]Daemon, len(st.Nodes))}
	answers := make([]*fettlev1.GetClusterResponse, len(st.Controllers))
	nodes := make([]*fettlev1.ListNodesResponse, len(st.Controllers))
	var wg sync.WaitGroup
	for i, ct := range st.Controllers {
		d := daemon(dir, ct.Name)
		d.Ports = []int{port(ct.ClientAddr), port(ct.RaftAddr)}
		s.Controllers[i] = d
		if d.Alive {
			wg.Go(func() { answers[i], nodes[i] = look(ctx, ct.ClientAddr) })
		}
	}
	wg.Wait()
	// The leader knows best; any other is better than none.
	best := -1
	for i, r := range answers {
		d := &s.Controllers[i]
		switch {
		case !d.Alive:
		case r == nil:
			d.Role = "silent"
		case r.GetHeader().GetIsLeader():
			d.Role, best = "leader", i
		default:
			d.Role = "follower"
			if best < 0 {
				best = i
			}
			for _, m := range r.GetServers() {
				if m.GetRaftAddr() == st.Controllers[i].RaftAddr && !m.GetVoter() {
					d.Role = "joining"
				}
			}
		}
	}
	for i, n := range st.Nodes {
		d := daemon(dir, n.Name)
		if d.Alive {
			d.Role = "not registered"
			if best >= 0 {
				for _, x := range nodes[best].GetNodes() {
					if x.GetName() == n.Name {
						d.Role = nodeRole(x.GetState())
					}
				}
			}
		}
		s.Nodes[i] = d
	}
	if best >= 0 {
		s.Known, s.Waiting, s.Active = true, answers[best].GetJobsPending(), answers[best].GetJobsRunning()
	}
	return s, nil
}

func daemon(dir, name string) Daemon {
	d := Daemon{Name: name, Role: "ended", Log: filepath.Join(dir, name, "log")}
	if id, ok := recorded(dir, name); ok {
		d.PID, d.Alive = id.pid, true
	}
	return d
}

func look(ctx context.Context, addr string) (*fettlev1.GetClusterResponse, *fettlev1.ListNodesResponse) {
	cl, err := quickClient(addr)
	if err != nil {
		return nil, nil
	}
	defer cl.Close()
	r, err := ask(ctx, cl)
	if err != nil {
		return nil, nil
	}
	n, err := listNodes(ctx, cl)
	if err != nil {
		n = nil
	}
	return r, n
}

func nodeRole(s fettlev1.NodeState) string {
	switch s {
	case fettlev1.NodeState_NODE_STATE_UP:
		return "up"
	case fettlev1.NodeState_NODE_STATE_UNREACHABLE:
		return "unreachable"
	case fettlev1.NodeState_NODE_STATE_DOWN:
		return "down"
	}
	return "not registered"
}

func port(addr string) int {
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		return 0
	}
	return n
}
