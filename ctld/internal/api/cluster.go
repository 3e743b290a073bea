package api

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/raftstore"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// firstError is the refusal of an entry that stands for one thing.
func firstError(res *fsm.Result) *model.FieldError {
	if res.Err != nil {
		return res.Err
	}
	for _, a := range res.Actions {
		if a.Err != nil {
			return a.Err
		}
	}
	return nil
}

func needAdmin(actor *raftlogv1.Actor) error {
	if !actor.GetAdmin() {
		return refuse(model.Denied, "", "only the cluster's admin may do this", "run it as root or as the user that runs the controllers")
	}
	return nil
}

// ListNodes implements fettle.v1.ControllerService.
func (s *Server) ListNodes(ctx context.Context, req *fettlev1.ListNodesRequest) (*fettlev1.ListNodesResponse, error) {
	v, err := s.read(ctx, req.GetRead())
	if err != nil {
		return nil, err
	}
	if v.leader != nil {
		return v.leader.ListNodes(v.ctx, req)
	}
	resp := &fettlev1.ListNodesResponse{Header: s.header(v.snap, v.level)}
	know := s.leaderView(ctx)
	for n := range v.snap.Nodes {
		if len(req.GetNames()) > 0 && !slices.Contains(req.GetNames(), n.Name) {
			continue
		}
		resp.Nodes = append(resp.Nodes, nodeRow(n, know))
	}
	for _, name := range req.GetNames() {
		if v.snap.Node(name) == nil {
			return nil, refuse(model.NotFound, "node", "no node "+name, "finfo lists the nodes")
		}
	}
	return resp, nil
}

func nodeRow(n *state.Node, know *leaderView) *fettlev1.Node {
	p := n.Proto()
	p.Readings = know.readings(n.Name)
	for _, r := range p.Readings {
		if len(r.GetForeign()) > 0 || r.GetForeignMemoryMib() > 0 {
			p.GpusBusyOutside = append(p.GpusBusyOutside, r.GetUuid())
		}
	}
	p.LastContactMs = know.contact(n.Name)
	return p
}

// UpdateNode implements fettle.v1.ControllerService.
func (s *Server) UpdateNode(ctx context.Context, req *fettlev1.UpdateNodeRequest) (*fettlev1.UpdateNodeResponse, error) {
	actor, leader, fwd, err := s.toLeader(ctx)
	if err != nil {
		return nil, err
	}
	if leader != nil {
		return leader.UpdateNode(fwd, req)
	}
	if err := needAdmin(actor); err != nil {
		return nil, err
	}
	res, err := s.cfg.Log.Propose(ctx, &raftlogv1.Entry{Actor: actor, RequestId: req.GetRequestId(), Op: &raftlogv1.Entry_UpdateNode{UpdateNode: req}})
	if err != nil {
		return nil, s.toStatus(err)
	}
	if fe := firstError(res); fe != nil {
		return nil, fieldError(fe)
	}
	snap := s.cfg.Store.Snapshot()
	resp := &fettlev1.UpdateNodeResponse{Header: s.header(snap, fettlev1.ReadLevel_READ_LEVEL_LEADER)}
	if n := snap.Node(req.GetNode()); n != nil {
		resp.Node = nodeRow(n, s.leaderView(ctx))
	}
	return resp, nil
}

// GetCluster implements fettle.v1.ControllerService.
func (s *Server) GetCluster(ctx context.Context, req *fettlev1.GetClusterRequest) (*fettlev1.GetClusterResponse, error) {
	v, err := s.read(ctx, req.GetRead())
	if err != nil {
		return nil, err
	}
	if v.leader != nil {
		return v.leader.GetCluster(v.ctx, req)
	}
	counts, hash := v.snap.Counts(), v.snap.Hash()
	resp := &fettlev1.GetClusterResponse{
		Header: s.header(v.snap, v.level), StateHash: hex.EncodeToString(hash[:]),
		JobsPending: uint64(counts.Pending()), JobsRunning: uint64(counts.Active()), JobsTotal: uint64(counts.Total()),
		Version: s.cfg.Version, StartMs: s.cfg.Started.UnixMilli(), Scheduler: s.cfg.Scheduler.Stats(),
	}
	known := map[string]*raftlogv1.ServerChange{}
	for _, srv := range v.snap.Servers() {
		known[srv.GetServerId()] = srv
	}
	know := s.leaderView(ctx)
	for _, m := range s.cfg.Raft.Members() {
		contact := know.servers[m.ID]
		if m.Leader && contact == nil {
			// The leader does not answer: what this controller itself has heard of it counts.
			contact = serverContacts([]raftstore.Member{m})[m.ID]
		}
		resp.Servers = append(resp.Servers, &fettlev1.ServerInfo{
			Id: m.ID, Name: m.Name, RaftAddr: m.Addr, ClientAddr: known[m.ID].GetClientAddr(), Voter: m.Voter, Leader: m.Leader,
			LastContactMs: contact.GetLastContactMs(), Unreachable: contact.GetUnreachable(),
		})
	}
	return resp, nil
}

// AddServer implements fettle.v1.ControllerService: a joining controller asks for it. An empty server id only asks which
// cluster this is.
func (s *Server) AddServer(ctx context.Context, req *fettlev1.AddServerRequest) (*fettlev1.AddServerResponse, error) {
	actor, leader, fwd, err := s.toLeader(ctx)
	if err != nil {
		return nil, err
	}
	if leader != nil {
		return leader.AddServer(fwd, req)
	}
	if err := needAdmin(actor); err != nil {
		return nil, err
	}
	resp := &fettlev1.AddServerResponse{Header: s.header(s.cfg.Store.Snapshot(), fettlev1.ReadLevel_READ_LEVEL_LEADER), ClusterId: s.cfg.ClusterID, Incarnation: s.cfg.Incarnation}
	if req.GetServerId() == "" {
		return resp, nil
	}
	// Raft judges the request; only a controller that it takes is put on record, with the address that clients use.
	if err := s.cfg.Raft.AddServer(ctx, raftstore.JoinRequest{ClusterID: req.GetClusterId(), ServerID: req.GetServerId(), RaftAddr: req.GetRaftAddr()}); err != nil {
		return nil, s.joinRefused(req, err)
	}
	res, err := s.cfg.Log.Propose(ctx, &raftlogv1.Entry{Actor: actor, Op: &raftlogv1.Entry_ServerChange{ServerChange: &raftlogv1.ServerChange{
		ServerId: req.GetServerId(), Name: req.GetName(), ClientAddr: req.GetClientAddr(), RaftAddr: req.GetRaftAddr(),
	}}})
	if err != nil {
		return nil, s.toStatus(err)
	}
	if fe := firstError(res); fe != nil {
		return nil, fieldError(fe)
	}
	return resp, nil
}

// RemoveServer implements fettle.v1.ControllerService.
func (s *Server) RemoveServer(ctx context.Context, req *fettlev1.RemoveServerRequest) (*fettlev1.RemoveServerResponse, error) {
	actor, leader, fwd, err := s.toLeader(ctx)
	if err != nil {
		return nil, err
	}
	if leader != nil {
		return leader.RemoveServer(fwd, req)
	}
	if err := needAdmin(actor); err != nil {
		return nil, err
	}
	id, err := s.memberID(req.GetServer())
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Raft.RemoveServer(ctx, id); err != nil {
		return nil, s.membershipError(err)
	}
	return &fettlev1.RemoveServerResponse{Header: s.header(s.cfg.Store.Snapshot(), fettlev1.ReadLevel_READ_LEVEL_LEADER)}, nil
}

// TransferLeadership implements fettle.v1.ControllerService.
func (s *Server) TransferLeadership(ctx context.Context, req *fettlev1.TransferLeadershipRequest) (*fettlev1.TransferLeadershipResponse, error) {
	actor, leader, fwd, err := s.toLeader(ctx)
	if err != nil {
		return nil, err
	}
	if leader != nil {
		return leader.TransferLeadership(fwd, req)
	}
	if err := needAdmin(actor); err != nil {
		return nil, err
	}
	var id string
	if req.GetTo() != "" {
		if id, err = s.memberID(req.GetTo()); err != nil {
			return nil, err
		}
	}
	if err := s.cfg.Raft.TransferTo(ctx, id); err != nil {
		return nil, s.membershipError(err)
	}
	return &fettlev1.TransferLeadershipResponse{Header: s.header(s.cfg.Store.Snapshot(), fettlev1.ReadLevel_READ_LEVEL_LEADER)}, nil
}

// memberID finds a controller by id or name.
func (s *Server) memberID(what string) (string, error) {
	if what == "" {
		return "", refuse(model.Invalid, "server", "is missing", "name a controller; fctl raft list shows them")
	}
	for _, m := range s.cfg.Raft.Members() {
		if m.ID == what || m.Name == what {
			return m.ID, nil
		}
	}
	return "", refuse(model.NotFound, "server", "no controller "+what+" in this cluster", "fctl raft list shows them")
}

// The fields of a refused join by which the joining controller knows what it was refused for.
const (
	// FieldServerID is that of an identity that was removed from the cluster.
	FieldServerID = "server_id"
	// FieldName is that of a name that a controller in contact has.
	FieldName = "name"
)

// joinRefused says in one line what is wrong with a join and what to do about it.
func (s *Server) joinRefused(req *fettlev1.AddServerRequest, err error) error {
	switch {
	case errors.Is(err, raftstore.ErrRetired):
		return refuse(model.Conflict, FieldServerID, req.GetServerId()+" was removed from this cluster for good",
			"start it with --discard --join HOST:PORT to come back under a new identity")
	case errors.Is(err, raftstore.ErrNameInUse):
		return refuse(model.Conflict, FieldName, "a controller named "+req.GetName()+" is in the cluster and alive", "choose another name, or stop that one first")
	}
	return s.membershipError(err)
}

// membershipError keeps the reason of a refused change of members in one line.
func (s *Server) membershipError(err error) error {
	if st := s.toStatus(err); st != nil && !isInternal(st) {
		return st
	}
	return refuse(model.Conflict, "server", err.Error(), "")
}

// GetPolicy implements fettle.v1.ControllerService.
func (s *Server) GetPolicy(ctx context.Context, req *fettlev1.GetPolicyRequest) (*fettlev1.GetPolicyResponse, error) {
	v, err := s.read(ctx, req.GetRead())
	if err != nil {
		return nil, err
	}
	if v.leader != nil {
		return v.leader.GetPolicy(v.ctx, req)
	}
	return &fettlev1.GetPolicyResponse{Header: s.header(v.snap, v.level), Policy: v.snap.Policy()}, nil
}

// SetPolicy implements fettle.v1.ControllerService.
func (s *Server) SetPolicy(ctx context.Context, req *fettlev1.SetPolicyRequest) (*fettlev1.SetPolicyResponse, error) {
	actor, leader, fwd, err := s.toLeader(ctx)
	if err != nil {
		return nil, err
	}
	if leader != nil {
		return leader.SetPolicy(fwd, req)
	}
	if err := needAdmin(actor); err != nil {
		return nil, err
	}
	if req.GetPolicy() == nil {
		return nil, refuse(model.Invalid, "policy", "is missing", "")
	}
	if err := s.cfg.Launchers.CheckScheduling(req.GetPolicy().GetScheduling()); err != nil {
		return nil, refuse(model.Invalid, "scheduling", err.Error(), "")
	}
	req.Policy.Version = req.GetExpectVersion()
	res, err := s.cfg.Log.Propose(ctx, &raftlogv1.Entry{Actor: actor, RequestId: req.GetRequestId(), Op: &raftlogv1.Entry_SetPolicy{SetPolicy: req.GetPolicy()}})
	if err != nil {
		return nil, s.toStatus(err)
	}
	if fe := firstError(res); fe != nil {
		return nil, fieldError(fe)
	}
	snap := s.cfg.Store.Snapshot()
	return &fettlev1.SetPolicyResponse{Header: s.header(snap, fettlev1.ReadLevel_READ_LEVEL_LEADER), Policy: snap.Policy()}, nil
}

// ListPlugins implements fettle.v1.ControllerService. It answers for the controller asked: each has its own processes.
func (s *Server) ListPlugins(ctx context.Context, _ *fettlev1.ListPluginsRequest) (*fettlev1.ListPluginsResponse, error) {
	if _, _, err := s.cfg.Auth.Caller(ctx); err != nil {
		return nil, err
	}
	return &fettlev1.ListPluginsResponse{
		Header: s.header(s.cfg.Store.Snapshot(), fettlev1.ReadLevel_READ_LEVEL_STALE), Plugins: s.cfg.Launchers.Statuses(),
	}, nil
}
