package api

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/fettle-hpc/fettle/ctld/internal/raftstore"
	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// leaderView is what only a leader's memory knows, for one answer.
type leaderView struct {
	waits func(job uint64) (sched.Wait, bool)
	// predicted is when a waiting job was first said to start, 0 when nothing was said.
	predicted func(job uint64) int64
	progress  func(job uint64) *fettlev1.Progress
	contact   func(node string) int64
	readings  func(node string) []*fettlev1.GPUReading
	// servers are the leader's contacts by server id; empty when there is no view.
	servers map[string]*fettlev1.ServerContact
}

const (
	// viewFor is how long a follower shows the leader's view before it asks again, viewTimeout how long it waits for it.
	viewFor     = 500 * time.Millisecond
	viewTimeout = 300 * time.Millisecond
	// viewJobs bounds how many jobs' reasons travel: those at the head of the queue, which were looked at.
	viewJobs = 20_000
)

// viewCache keeps the newest view that a follower was given.
type viewCache struct {
	mu   sync.Mutex
	at   time.Time
	view *leaderView
	// asking says that somebody is on the way for a newer one.
	asking bool
}

// leaderView returns the leader's view: this controller's own when it leads, a recent copy otherwise. Without a leader in
// reach it knows nothing, and answers say only what the log does. Of many who want a newer copy one waits for it.
func (s *Server) leaderView(ctx context.Context) *leaderView {
	leader := s.cfg.Raft.LeaderInfo()
	if leader.Self {
		return s.ownView()
	}
	c := &s.views
	c.mu.Lock()
	if c.asking || (c.view != nil && time.Since(c.at) < viewFor) {
		defer c.mu.Unlock()
		if c.view == nil {
			return emptyView()
		}
		return c.view
	}
	c.asking = true
	c.mu.Unlock()
	view := s.askLeader(ctx, leader)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.view, c.at, c.asking = view, time.Now(), false
	return view
}

// askLeader fetches the leader's view; an empty one when that does not answer soon.
func (s *Server) askLeader(ctx context.Context, leader raftstore.Leader) *leaderView {
	addr := s.leaderAddr(s.cfg.Store.Snapshot(), leader)
	if addr == "" {
		return emptyView()
	}
	client, err := s.cfg.Dial(addr)
	if err != nil {
		return emptyView()
	}
	// The controller itself asks, so it says so: any admin of this host would be answered the same.
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(context.WithoutCancel(ctx), nil), viewTimeout)
	defer cancel()
	resp, err := client.GetLeaderView(ctx, &fettlev1.GetLeaderViewRequest{})
	if err != nil {
		return emptyView()
	}
	s.compareLease(leader.Name, resp.GetNodeLeaseMs())
	return copiedView(resp)
}

// compareLease warns, once for each value, when the leader grants leases of another length: this controller would wait for
// its own when it leads, and start jobs again that another's lease lets run on.
func (s *Server) compareLease(leader string, leaseMS int64) {
	if leaseMS == 0 || leaseMS == s.cfg.NodeLeaseMS || s.leaseSeen.Swap(leaseMS) == leaseMS {
		return
	}
	s.cfg.Logger.Warn("node.lease differs from the leader's; it has to be equal on all controllers", "leader", leader,
		"own_ms", s.cfg.NodeLeaseMS, "leader_ms", leaseMS)
}

func (s *Server) ownView() *leaderView {
	waits, contact := s.cfg.Scheduler.Waits(), s.cfg.Nodes.LastContactMS()
	return &leaderView{
		waits:     func(job uint64) (sched.Wait, bool) { w, ok := waits[job]; return w, ok },
		predicted: s.cfg.Scheduler.Predicted,
		progress:  s.cfg.Nodes.Progress, readings: s.cfg.Nodes.Readings,
		contact: func(node string) int64 { return contact[node] },
		servers: serverContacts(s.cfg.Raft.Members()),
	}
}

// silentFor is how long a controller may leave the leader without an answer before it is shown as unreachable: many
// heartbeats, and less than anybody waits who looks for what is wrong.
const silentFor = 5 * time.Second

// serverContacts is what the leader knows of the others. One that has not answered in its term is out of contact: heartbeats
// go out at once when it begins.
// Contacts are by the machine's own clock, not by the cluster's.
func serverContacts(members []raftstore.Member) map[string]*fettlev1.ServerContact {
	out := make(map[string]*fettlev1.ServerContact, len(members))
	for _, m := range members {
		c := &fettlev1.ServerContact{Id: m.ID, Unreachable: !m.Self && time.Since(m.LastContact) > silentFor}
		if !m.LastContact.IsZero() {
			c.LastContactMs = m.LastContact.UnixMilli()
		}
		out[m.ID] = c
	}
	return out
}

// emptyView gives no reasons at all, not even the usual one.
func emptyView() *leaderView {
	v := copiedView(nil)
	v.waits = func(uint64) (sched.Wait, bool) { return sched.Wait{}, true }
	return v
}

func copiedView(r *fettlev1.GetLeaderViewResponse) *leaderView {
	predicted := map[uint64]int64{}
	waits, progress, nodes := map[uint64]sched.Wait{}, map[uint64]*fettlev1.Progress{}, map[string]*fettlev1.NodeContact{}
	for _, w := range r.GetWaits() {
		waits[w.GetJobId()] = sched.Wait{Reason: w.GetReason(), Detail: w.GetDetail()}
		predicted[w.GetJobId()] = w.GetPredictedStartMs()
	}
	for _, p := range r.GetProgress() {
		progress[p.GetJobId()] = p.GetProgress()
	}
	for _, n := range r.GetNodes() {
		nodes[n.GetNode()] = n
	}
	servers := map[string]*fettlev1.ServerContact{}
	for _, c := range r.GetServers() {
		servers[c.GetId()] = c
	}
	return &leaderView{
		servers:   servers,
		waits:     func(job uint64) (sched.Wait, bool) { w, ok := waits[job]; return w, ok },
		predicted: func(job uint64) int64 { return predicted[job] },
		progress:  func(job uint64) *fettlev1.Progress { return progress[job] },
		contact:   func(node string) int64 { return nodes[node].GetLastContactMs() },
		readings:  func(node string) []*fettlev1.GPUReading { return nodes[node].GetReadings() },
	}
}

// GetLeaderView implements fettle.v1.ControllerService.
func (s *Server) GetLeaderView(ctx context.Context, _ *fettlev1.GetLeaderViewRequest) (*fettlev1.GetLeaderViewResponse, error) {
	actor, _, err := s.cfg.Auth.Caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := needAdmin(actor); err != nil {
		return nil, err
	}
	if !s.cfg.Raft.LeaderInfo().Self {
		return nil, s.NotLeader()
	}
	own, snap := s.ownView(), s.cfg.Store.Snapshot()
	resp := &fettlev1.GetLeaderViewResponse{NodeLeaseMs: s.cfg.NodeLeaseMS}
	for id, w := range s.cfg.Scheduler.Waits() {
		if len(resp.Waits) == viewJobs {
			break
		}
		resp.Waits = append(resp.Waits, &fettlev1.JobWait{JobId: id, Reason: w.Reason, Detail: w.Detail, PredictedStartMs: own.predicted(id)})
	}
	for j := range snap.Active {
		if p := own.progress(j.ID); p != nil {
			resp.Progress = append(resp.Progress, &fettlev1.JobProgress{JobId: j.ID, Progress: p})
		}
	}
	for n := range snap.Nodes {
		resp.Nodes = append(resp.Nodes, &fettlev1.NodeContact{Node: n.Name, LastContactMs: own.contact(n.Name), Readings: own.readings(n.Name)})
	}
	for _, id := range slices.Sorted(maps.Keys(own.servers)) {
		resp.Servers = append(resp.Servers, own.servers[id])
	}
	return resp, nil
}

// show adds to a job's row what the view knows: why it waits and how far it is.
func (v *leaderView) show(p *fettlev1.Job, j *state.Job, nowMS int64) {
	if j.State == fettlev1.JobState_JOB_STATE_PENDING {
		w := sched.WaitOf(j, v.waits, nowMS)
		if p.Reason = w.Reason; j.HeldByLaunches() {
			p.Reason = fettlev1.Reason_REASON_LAUNCH_FAILED_HELD
		}
		if w.Detail != "" {
			p.Detail = w.Detail
		}
		p.PredictedStartMs = v.predicted(j.ID)
		return
	}
	// Not that of an attempt before this one.
	if pr := v.progress(j.ID); pr.GetAttempt() == j.Attempt {
		p.Progress = pr
	}
}
