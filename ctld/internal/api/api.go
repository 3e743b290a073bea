// Package api serves fettle.v1 to clients: checks who asks and what for, proposes what changes, answers from snapshots.
//
// Any controller answers. A follower forwards writes, and reads that must be fresh, to the leader once, with the caller's
// identity; a forwarded request is never forwarded again. Errors become gRPC codes in one place (errors.go).
package api

import (
	"context"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/fsm"
	"github.com/fettle-hpc/fettle/ctld/internal/leader"
	"github.com/fettle-hpc/fettle/ctld/internal/raftstore"
	"github.com/fettle-hpc/fettle/ctld/internal/sched"
	"github.com/fettle-hpc/fettle/ctld/internal/session"
	"github.com/fettle-hpc/fettle/ctld/internal/state"
	"github.com/fettle-hpc/fettle/plugins/host"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// Log puts entries into the replicated log.
type Log interface {
	// Propose returns once the entry is committed and applied here. An error that Is raftstore.ErrUnknown leaves open
	// whether it will be.
	Propose(ctx context.Context, e *raftlogv1.Entry) (*fsm.Result, error)
}

// Raft is what the API asks of the replication below it.
type Raft interface {
	LeaderInfo() raftstore.Leader
	WaitLeader(ctx context.Context) (raftstore.Leader, error)
	WaitLinearizable(ctx context.Context) (uint64, error)
	WaitApplied(ctx context.Context, index uint64) error
	LastContact() time.Time
	Members() []raftstore.Member
	Status() raftstore.Status
	AddServer(ctx context.Context, req raftstore.JoinRequest) error
	RemoveServer(ctx context.Context, serverID string) error
	// TransferTo hands leadership to a server, or to any when serverID is empty.
	TransferTo(ctx context.Context, serverID string) error
}

// Scheduler is what the API shows of the scheduler on the leader.
type Scheduler interface {
	// Waits are the newest cycle's findings; nil on a follower.
	Waits() map[uint64]sched.Wait
	Stats() *fettlev1.SchedulerStats
	// Score is a pending job's score in the newest cycle.
	Score(job uint64) (int64, bool)
	// Why, Forecast, Predict and Order put questions to the planner and the policy of the leader.
	Why(ctx context.Context, job uint64) (sched.Why, leader.Position, error)
	Forecast(ctx context.Context) (map[uint64]sched.Start, error)
	Predict(ctx context.Context, c leader.Candidate) (sched.Start, bool, error)
	Order(ctx context.Context, j *state.Job) (host.Explanation, host.Source, error)
	// Predicted is when a waiting job was first said to start, in Unix milliseconds; 0: nothing was said.
	Predicted(job uint64) int64
	PredictionStats() []*fettlev1.PredictionStats
}

// Launchers checks training configs at submit.
type Launchers interface {
	// Check asks the method's launcher about a job. The error is one line for the user.
	Check(ctx context.Context, spec *fettlev1.JobSpec) (Checked, error)
	// CheckScheduling says in one line what is wrong with settings of the scheduling policy.
	CheckScheduling(settings []*fettlev1.KeyValue) error
	// Statuses lists all plugins of this controller.
	Statuses() []*fettlev1.PluginStatus
}

// Checked is a launcher's view of a config at submit.
type Checked struct {
	// Method is the one that the config asks for, when the spec left it open.
	Method   string
	Problems []*fettlev1.ErrorDetail
	Warnings []string
	Rendered []byte
	Estimate *fettlev1.MemoryEstimate
}

// Config is what a Server needs; all fields are required.
type Config struct {
	ClusterID string
	// Incarnation is this line of the cluster's history.
	Incarnation string
	ServerName  string
	Version     string
	Store       *state.Store
	Log         Log
	Raft        Raft
	Nodes       *session.Server
	Scheduler   Scheduler
	Launchers   Launchers
	Auth        Authenticator
	// Dial opens a connection to another controller's API, reused by address.
	Dial    func(addr string) (fettlev1.ControllerServiceClient, error)
	Logger  *slog.Logger
	Now     func() time.Time
	Started time.Time
	// NodeLeaseMS is the lease that this controller grants to nodes when it leads.
	NodeLeaseMS int64
}

// Server implements fettle.v1.ControllerService.
type Server struct {
	fettlev1.UnimplementedControllerServiceServer
	cfg      Config
	log      *slog.Logger
	capacity capacity
	views    viewCache
	streams  quota
	// leaseSeen is the last lease of a leader's that was warned of.
	leaseSeen atomic.Int64
	// applyWait is the constant but in tests.
	applyWait time.Duration
}

// NewServer makes the service.
func NewServer(cfg Config) *Server { return &Server{cfg: cfg, log: cfg.Logger, applyWait: applyWait} }

// header labels an answer that was made from snap.
func (s *Server) header(snap *state.Snapshot, level fettlev1.ReadLevel) *fettlev1.Header {
	leader := s.cfg.Raft.LeaderInfo()
	h := &fettlev1.Header{
		ClusterId: s.cfg.ClusterID, ServerName: s.cfg.ServerName, Index: snap.Index(), Term: leader.Term, Level: level,
		IsLeader: leader.Self, LeaderName: leader.Name, LeaderAddr: s.leaderAddr(snap, leader),
	}
	if !leader.Self {
		h.AgeMs = -1
		if t := s.cfg.Raft.LastContact(); !t.IsZero() {
			// Not by cfg.Now, which is the cluster's time and may be ahead of this machine's.
			h.AgeMs = max(time.Since(t).Milliseconds(), 0)
		}
	}
	return h
}

func idText(id uint64) string { return strconv.FormatUint(id, 10) }

// leaderAddr is the leader's client address as the log knows it; empty when there is no leader.
func (s *Server) leaderAddr(snap *state.Snapshot, leader raftstore.Leader) string {
	if leader.ID == "" {
		return ""
	}
	for _, srv := range snap.Servers() {
		if srv.GetServerId() == leader.ID && !srv.GetRetired() {
			return srv.GetClientAddr()
		}
	}
	return ""
}
