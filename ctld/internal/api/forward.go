package api

import (
	"context"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/fettle-hpc/fettle/ctld/internal/identity"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// Authenticator tells who calls.
type Authenticator interface {
	// Caller returns the verified caller of a request, and whether another controller forwarded it.
	Caller(ctx context.Context) (actor *raftlogv1.Actor, forwarded bool, err error)
}

// forwardKey carries the caller's identity from a follower to the leader: "uid:gid:name". It is believed only when the
// connection itself belongs to this cluster's controllers.
const forwardKey = "fettle-forwarded-for"

// LoopbackAuth knows callers by the owner of their loopback socket. The user who runs the controller, and root, are admins,
// and theirs are the connections on which forwarded identities are believed.
type LoopbackAuth struct{ self uint32 }

// NewLoopbackAuth makes an Authenticator for a controller that runs as the calling process's user.
func NewLoopbackAuth() *LoopbackAuth { return &LoopbackAuth{self: uint32(os.Getuid())} }

// Caller implements Authenticator.
func (a *LoopbackAuth) Caller(ctx context.Context) (*raftlogv1.Actor, bool, error) {
	u, ok := identity.FromContext(ctx)
	if !ok {
		return nil, false, refuse(model.Denied, "", "the connection says nothing about who is calling", "connect over loopback")
	}
	if nobody(u.UID) && u.UID != a.self {
		return nil, false, refuse(model.Denied, "user", "the kernel gives the caller no user of its own (uid "+strconv.FormatUint(uint64(u.UID), 10)+")", "call as a user that this host knows, not from a user namespace without a mapping")
	}
	admin := u.UID == 0 || u.UID == a.self
	if md, ok := metadata.FromIncomingContext(ctx); ok && len(md.Get(forwardKey)) > 0 {
		if !admin {
			return nil, false, refuse(model.Denied, "", "only controllers may forward requests", "")
		}
		fwd, ok := parseForwarded(md.Get(forwardKey))
		if !ok {
			return nil, false, refuse(model.Invalid, "", "malformed forwarded identity", "")
		}
		fwd.Admin = fwd.GetUid() == 0 || fwd.GetUid() == a.self
		return fwd, true, nil
	}
	return &raftlogv1.Actor{User: u.Name, Uid: u.UID, Gid: u.GID, Admin: admin}, false, nil
}

// nobody reports whether a user id stands for users that have none here: what the kernel shows for the ids of a user
// namespace that are not mapped, and the id that no user can have.
func nobody(uid uint32) bool { return uid == 65534 || uid == 65535 || uid == math.MaxUint32 }

func parseForwarded(values []string) (*raftlogv1.Actor, bool) {
	parts := strings.SplitN(values[0], ":", 3)
	if len(values) != 1 || len(parts) != 3 || parts[2] == "" || len(parts[2]) > model.MaxUser {
		return nil, false
	}
	uid, err1 := strconv.ParseUint(parts[0], 10, 32)
	gid, err2 := strconv.ParseUint(parts[1], 10, 32)
	return &raftlogv1.Actor{Uid: uint32(uid), Gid: uint32(gid), User: parts[2]}, err1 == nil && err2 == nil
}

func forwardedFor(a *raftlogv1.Actor) string {
	return strconv.FormatUint(uint64(a.GetUid()), 10) + ":" + strconv.FormatUint(uint64(a.GetGid()), 10) + ":" + a.GetUser()
}

// leaderWait bounds how long a request waits for a leader to be elected.
const leaderWait = 10 * time.Second

// toLeader decides where a request is served: here (nil client), or at the leader, with a context that carries the
// caller. It waits while there is no leader.
func (s *Server) toLeader(ctx context.Context) (*raftlogv1.Actor, fettlev1.ControllerServiceClient, context.Context, error) {
	actor, forwarded, err := s.cfg.Auth.Caller(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	leader := s.cfg.Raft.LeaderInfo()
	if leader.ID == "" || (leader.Self && !leader.Ready) {
		wait, cancel := context.WithTimeout(ctx, leaderWait)
		defer cancel()
		if leader, err = s.cfg.Raft.WaitLeader(wait); err != nil {
			return nil, nil, nil, s.NotLeader()
		}
	}
	if leader.Self {
		return actor, nil, ctx, nil
	}
	addr := s.leaderAddr(s.cfg.Store.Snapshot(), leader)
	if forwarded || addr == "" {
		return nil, nil, nil, s.NotLeader()
	}
	client, err := s.cfg.Dial(addr)
	if err != nil {
		return nil, nil, nil, s.toStatus(err)
	}
	return actor, client, metadata.AppendToOutgoingContext(ctx, forwardKey, forwardedFor(actor)), nil
}
