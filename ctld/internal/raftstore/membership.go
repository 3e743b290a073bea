package raftstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"
)

// configTimeout bounds the wait for Raft to take one membership change.
const configTimeout = 10 * time.Second

// newServerID makes an identity that was never used before. The name is in it for
// people; the UUID makes it unique for all time.
func newServerID(name string) string { return name + "." + uuid.NewString() }

func (r *JoinRequest) validate(cluster string) error {
	i := strings.LastIndexByte(r.ServerID, '.')
	if i < 0 || !validName(r.ServerID[:i]) {
		return fmt.Errorf("%w: server ID %q is not name.uuid", ErrJoinRefused, r.ServerID)
	}
	if id, err := uuid.Parse(r.ServerID[i+1:]); err != nil || id.String() != r.ServerID[i+1:] {
		return fmt.Errorf("%w: server ID %q is not name.uuid", ErrJoinRefused, r.ServerID)
	}
	if host, port, err := net.SplitHostPort(r.RaftAddr); err != nil || host == "" || port == "" {
		return fmt.Errorf("%w: raft address %q is not host:port", ErrJoinRefused, r.RaftAddr)
	}
	if r.ClusterID != cluster {
		return fmt.Errorf("%w: this is cluster %s, not %s", ErrJoinRefused, cluster, r.ClusterID)
	}
	return nil
}

// AddServer makes a server a voter: it is added without a vote, gets the vote once
// it has caught up, and any earlier server of the same name is removed for good
// before that. A server that is a member already only has its address changed.
//
// It returns when the server is a voter or ctx ends; then the server stays a
// non-voter that keeps catching up, and a repeated call goes on from there. Errors
// that Is ErrJoinRefused, ErrRetired or ErrNameInUse will not go away by
// themselves. Leader only.
func (s *Store) AddServer(ctx context.Context, req JoinRequest) error {
	if err := req.validate(s.ident.ClusterID); err != nil {
		return err
	}
	if s.cfg.Retired != nil && s.cfg.Retired(req.ServerID) {
		return fmt.Errorf("%w: %s", ErrRetired, req.ServerID)
	}
	unlock, err := s.lockMembership(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for _, m := range s.configuration().Servers {
		same := string(m.ID) == req.ServerID
		if same && m.Suffrage == raft.Voter && string(m.Address) == req.RaftAddr {
			return nil
		}
		if same {
			continue
		}
		switch {
		case ServerName(string(m.ID)) == ServerName(req.ServerID):
			if err := s.replace(ctx, m, req); err != nil {
				return err
			}
		case string(m.Address) == req.RaftAddr:
			return fmt.Errorf("%w: address %s belongs to %s", ErrJoinRefused, req.RaftAddr, m.ID)
		}
	}
	if err := s.change(ctx, func() raft.Future {
		return s.raft.AddNonvoter(raft.ServerID(req.ServerID), raft.ServerAddress(req.RaftAddr), 0, configTimeout)
	}); err != nil {
		return fmt.Errorf("add %s: %w", req.ServerID, err)
	}
	if err := s.catchUp(ctx, raft.ServerID(req.ServerID)); err != nil {
		return fmt.Errorf("add %s: %w", req.ServerID, err)
	}
	if err := s.change(ctx, func() raft.Future {
		return s.raft.AddVoter(raft.ServerID(req.ServerID), raft.ServerAddress(req.RaftAddr), 0, configTimeout)
	}); err != nil {
		return fmt.Errorf("give %s a vote: %w", req.ServerID, err)
	}
	s.log.Info("server added", "id", req.ServerID, "addr", req.RaftAddr)
	return nil
}

// replace removes old, which has the name of the server that joins, unless it is
// alive.
func (s *Store) replace(ctx context.Context, old raft.Server, req JoinRequest) error {
	if string(old.ID) == s.ident.ServerID {
		return fmt.Errorf("%w: %s is the leader", ErrNameInUse, old.ID)
	}
	alive, err := s.answers(ctx, old.ID)
	if err != nil {
		return err
	}
	if alive {
		return fmt.Errorf("%w: %s at %s is alive; choose another name or stop it", ErrNameInUse, old.ID, old.Address)
	}
	s.log.Info("server replaced", "old_id", string(old.ID), "id", req.ServerID)
	return s.remove(ctx, string(old.ID))
}

// answers reports whether a server acknowledges a call begun from now on.
func (s *Store) answers(ctx context.Context, id raft.ServerID) (bool, error) {
	moment := s.acks.now()
	limit := time.NewTimer(2 * s.heartbeat)
	defer limit.Stop()
	for {
		changed := s.acks.changed.wait()
		if s.acks.peer(id, s.raft.CurrentTerm()).seq > moment {
			return true, nil
		}
		select {
		case <-changed:
		case <-limit.C:
			return false, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// catchUp waits until a server has everything that the leader had a moment
// before, in rounds, until a round took less than an election timeout.
func (s *Store) catchUp(ctx context.Context, id raft.ServerID) error {
	for {
		target, start := s.raft.LastIndex(), time.Now()
		for {
			changed := s.acks.changed.wait()
			have := s.acks.peer(id, s.raft.CurrentTerm())
			if have.match >= target {
				break
			}
			if s.raft.State() != raft.Leader {
				return s.notLeader()
			}
			select {
			case <-changed:
			case <-time.After(s.heartbeat):
			case <-s.done:
				return ErrClosed
			case <-ctx.Done():
				return fmt.Errorf("it has caught up to entry %d of %d: %w", have.match, target, context.Cause(ctx))
			}
		}
		if time.Since(start) < s.heartbeat {
			return nil
		}
	}
}

// RemoveServer removes a server for good; its ID can never join again. The leader
// does not remove itself: transfer leadership first. Leader only, safe to repeat.
func (s *Store) RemoveServer(ctx context.Context, serverID string) error {
	unlock, err := s.lockMembership(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if serverID == s.ident.ServerID {
		return fmt.Errorf("%s leads: transfer leadership, then remove it", serverID)
	}
	return s.remove(ctx, serverID)
}

func (s *Store) remove(ctx context.Context, id string) error {
	known := slices.ContainsFunc(s.configuration().Servers, func(m raft.Server) bool { return string(m.ID) == id })
	if !known {
		return nil
	}
	if s.cfg.OnRetire != nil {
		if err := s.cfg.OnRetire(ctx, id); err != nil {
			return fmt.Errorf("retire %s: %w", id, err)
		}
	}
	if err := s.change(ctx, func() raft.Future {
		return s.raft.RemoveServer(raft.ServerID(id), 0, configTimeout)
	}); err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	s.log.Info("server removed", "id", id)
	return nil
}

// lockMembership admits one membership change at a time, on a ready leader.
func (s *Store) lockMembership(ctx context.Context) (unlock func(), err error) {
	if s.flight.isClosed() {
		return nil, ErrClosed
	}
	select {
	case s.membership <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	unlock = func() { <-s.membership }
	if _, err := s.waitReady(ctx); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// change makes one membership change and waits for its commit.
func (s *Store) change(ctx context.Context, request func() raft.Future) error {
	err := s.await(ctx, request)
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress),
		errors.Is(err, raft.ErrEnqueueTimeout), errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown):
		return s.outcome(err)
	}
	return err // a configuration that Raft finds wrong
}

// onMembership follows the committed membership as entries and snapshots go by.
func (s *Store) onMembership(index uint64, c raft.Configuration) {
	servers := make([]Server, 0, len(c.Servers))
	here := false
	for _, m := range c.Servers {
		servers = append(servers, server(m))
		here = here || string(m.ID) == s.ident.ServerID
	}
	s.acks.retain(c)
	if s.cfg.OnMembership != nil {
		s.cfg.OnMembership(index, servers)
	}
	if here {
		s.member.Store(true)
	} else if s.member.Load() {
		s.removed(fmt.Sprintf("%s was removed from the cluster by entry %d", s.ident.ServerID, index))
	}
}

// onRetired is called when another member says that this server is retired.
func (s *Store) onRetired() {
	s.removed(s.ident.ServerID + " was removed from the cluster, says another member")
}

// removed ends a server that the cluster has dismissed.
func (s *Store) removed(reason string) {
	s.removedOnce.Do(func() {
		if err := s.dir.MarkRemoved(reason); err != nil {
			s.log.Error("removal cannot be noted", "err", err)
		}
		s.fatal(ExitDataLost, fmt.Sprintf("%s: discard %s and start with --join ADDR to come back", reason, s.dir.Path()))
	})
}

// watchMembership looks out for a removal that this server was not told of as
// committed: the leader stops talking to a removed server at once. When the latest
// membership lacks this server and no leader is heard, it calls the others, who
// say whether it is retired.
func (s *Store) watchMembership(ctx context.Context) {
	tick := time.NewTicker(5 * s.heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if _, here := s.self(); here || !s.member.Load() || s.LeaderInfo().ID != "" {
			continue
		}
		s.log.Warn("this server seems to have been removed from the cluster", "id", s.ident.ServerID)
		for _, m := range s.configuration().Servers {
			if c, err := s.layer.Dial(s.trans.target(m.ID, m.Address), 0); err == nil {
				_ = c.Close()
			}
		}
	}
}

func server(m raft.Server) Server {
	return Server{ID: string(m.ID), Name: ServerName(string(m.ID)), Addr: string(m.Address), Voter: m.Suffrage == raft.Voter}
}

// Members lists the latest membership in the order of names.
func (s *Store) Members() []Member {
	_, leader := s.raft.LeaderWithID()
	term := s.raft.CurrentTerm()
	var out []Member
	for _, m := range s.configuration().Servers {
		row := Member{Server: server(m), Leader: m.ID == leader, Self: string(m.ID) == s.ident.ServerID}
		switch {
		case row.Self:
			row.MatchIndex = s.raft.LastIndex()
			row.LastContact = time.Now()
		case s.raft.State() == raft.Leader:
			a := s.acks.peer(m.ID, term)
			row.LastContact, row.MatchIndex, row.Regressed = a.at, a.match, a.regressed
		case row.Leader:
			row.LastContact = s.raft.LastContact()
		}
		out = append(out, row)
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return out
}
