package raftstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// Transfer hands leadership to another voter: the one that was heard from lately
// and has most of the log. It returns when this server no longer leads. With no
// such voter the error Is ErrNoSuccessor. Leader only.
func (s *Store) Transfer(ctx context.Context) error { return s.TransferTo(ctx, "") }

// TransferTo hands leadership to the voter with this ID; an empty one leaves the
// choice to Transfer. It returns when this server no longer leads. Leader only.
func (s *Store) TransferTo(ctx context.Context, serverID string) error {
	if s.raft.State() != raft.Leader {
		return s.notLeader()
	}
	candidates := s.successors()
	if serverID != "" {
		candidates = slices.DeleteFunc(candidates, func(c Server) bool { return c.ID != serverID })
		if len(candidates) == 0 {
			return fmt.Errorf("%w: %s", ErrNoSuccessor, serverID)
		}
	}
	if len(candidates) == 0 {
		return ErrNoSuccessor
	}
	var err error
	for _, c := range candidates {
		err = s.await(ctx, func() raft.Future {
			return s.raft.LeadershipTransferToServer(raft.ServerID(c.ID), raft.ServerAddress(c.Addr))
		})
		if s.raft.State() != raft.Leader {
			return nil
		}
		if err == nil || ctx.Err() != nil {
			break
		}
		s.log.Warn("leadership transfer failed", "to", c.ID, "err", err)
	}
	return err
}

// successors lists the other voters that could lead, the best first: those heard
// from lately, by how much of the log they have.
func (s *Store) successors() []Server {
	term := s.raft.CurrentTerm()
	var members []Member
	for _, m := range s.configuration().Servers {
		a := s.acks.peer(m.ID, term)
		if m.Suffrage == raft.Voter && string(m.ID) != s.ident.ServerID && time.Since(a.at) < 2*s.heartbeat {
			members = append(members, Member{Server: server(m), MatchIndex: a.match})
		}
	}
	slices.SortStableFunc(members, func(a, b Member) int { return cmp.Compare(b.MatchIndex, a.MatchIndex) })
	out := make([]Server, len(members))
	for i, m := range members {
		out[i] = m.Server
	}
	return out
}
