package raftstore

import (
	"context"
	"fmt"

	"github.com/hashicorp/raft"
)

// TransferTo hands leadership to the voter with this ID; an empty one leaves the choice to Transfer. It returns when
// this server no longer leads. Leader only.
func (s *Store) TransferTo(ctx context.Context, serverID string) error {
	if serverID == "" {
		return s.Transfer(ctx)
	}
	if s.raft.State() != raft.Leader {
		return s.notLeader()
	}
	for _, c := range s.successors() {
		if c.ID == serverID {
			return s.await(ctx, func() raft.Future {
				return s.raft.LeadershipTransferToServer(raft.ServerID(c.ID), raft.ServerAddress(c.Addr))
			})
		}
	}
	return fmt.Errorf("%w: %s", ErrNoSuccessor, serverID)
}
