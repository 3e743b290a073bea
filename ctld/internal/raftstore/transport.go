package raftstore

import (
	"io"
	"time"

	"github.com/hashicorp/raft"

	"github.com/fettle-hpc/fettle/ctld/internal/raftstore/hclogslog"
	"github.com/fettle-hpc/fettle/ctld/internal/raftstore/peernet"
)

// rpcTimeout bounds one call to another controller; snapshots get more by size.
const rpcTimeout = 10 * time.Second

// transport is Raft's network transport with two changes: calls go to a server
// identity (peernet checks that this one answers) at an address that may be
// overridden by configuration, and what the others acknowledge is noted down.
type transport struct {
	*raft.NetworkTransport
	layer *peernet.Layer
	acks  *acks
	peers map[string]string
}

func newTransport(layer *peernet.Layer, cfg *Config, a *acks) *transport {
	return &transport{
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream:                  layer,
			MaxPool:                 3,
			MaxRPCsInFlight:         1, // a pipeline can wedge for good on one refused call
			Timeout:                 rpcTimeout,
			MsgpackUseNewTimeFormat: true,
			Logger:                  hclogslog.New(cfg.Logger, "raft-net"),
		}),
		layer: layer,
		acks:  a,
		peers: cfg.Peers,
	}
}

// target is where to reach a server.
func (t *transport) target(id raft.ServerID, address raft.ServerAddress) raft.ServerAddress {
	return peernet.Target(string(id), t.address(id, address))
}

func (t *transport) address(id raft.ServerID, address raft.ServerAddress) string {
	if override := t.peers[ServerName(string(id))]; override != "" {
		return override
	}
	return string(address)
}

// AppendEntries implements raft.Transport.
func (t *transport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	call := t.acks.begin(id, req.Term)
	err := t.NetworkTransport.AppendEntries(id, t.target(id, to), req, resp)
	if err == nil && resp.Term == req.Term {
		var match uint64
		if resp.Success && req.PrevLogEntry+uint64(len(req.Entries)) > 0 {
			match = req.PrevLogEntry + uint64(len(req.Entries))
		}
		t.acks.end(call, resp.Success, match, resp.LastLog)
	}
	return err
}

// AppendEntriesPipeline implements raft.Transport; there are no pipelines.
func (t *transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// RequestVote implements raft.Transport.
func (t *transport) RequestVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return t.NetworkTransport.RequestVote(id, t.target(id, to), req, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (t *transport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.NetworkTransport.RequestPreVote(id, t.target(id, to), req, resp)
}

// InstallSnapshot implements raft.Transport.
func (t *transport) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	call := t.acks.begin(id, req.Term)
	err := t.NetworkTransport.InstallSnapshot(id, t.target(id, to), req, resp, data)
	if err == nil && resp.Success && resp.Term == req.Term {
		t.acks.end(call, true, req.LastLogIndex, req.LastLogIndex)
	}
	return err
}

// TimeoutNow implements raft.Transport.
func (t *transport) TimeoutNow(id raft.ServerID, to raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.NetworkTransport.TimeoutNow(id, t.target(id, to), req, resp)
}

// EncodePeer implements raft.Transport. Messages carry plain addresses.
func (t *transport) EncodePeer(id raft.ServerID, address raft.ServerAddress) []byte {
	return []byte(t.address(id, address))
}

// Close implements raft.WithClose: it ends every connection in both directions.
func (t *transport) Close() error {
	t.CloseStreams()
	return t.NetworkTransport.Close()
}
