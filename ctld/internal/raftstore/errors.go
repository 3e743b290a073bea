package raftstore

import (
	"errors"
	"fmt"

	"github.com/fettle-hpc/fettle/ctld/internal/raftstore/datadir"
	"github.com/fettle-hpc/fettle/ctld/internal/raftstore/peernet"
)

// Exit codes of a controller process, returned by ExitCode and passed to
// Config.Fatal. A supervisor restarts on ExitSlowWrite and ExitWriteError (with
// back-off) and must not restart on ExitNoIdentity and ExitDataLost.
const (
	// ExitNoIdentity: the data directory holds no identity and neither
	// Bootstrap nor Join was given, or the one given does not fit.
	ExitNoIdentity = 64
	// ExitDataLost: the data directory lost acknowledged data, is quarantined
	// after an I/O error, or belongs to a server that was removed from the
	// cluster. Discard it and join again.
	ExitDataLost = 65
	// ExitSlowWrite: a write to the log took longer than Config.WriteLimit.
	ExitSlowWrite = 70
	// ExitWriteError: a write to the log failed.
	ExitWriteError = 71
)

// Outcomes of a proposal. A nil error means committed and applied here. An error
// that Is ErrUnknown means that the entry may or may not be committed, now or
// later: only a retry with the same idempotency key can tell. Every other error
// is a definite failure: the entry is not in the log and never will be.
var (
	// ErrUnknown marks an outcome that cannot be known: leadership was lost, the
	// caller's context ended, the log write failed or the store closed after the
	// entry was handed to Raft.
	ErrUnknown = errors.New("outcome unknown")
	// ErrNotLeader marks a call that only the leader can serve. The error is a
	// *NotLeaderError that names the leader if one is known.
	ErrNotLeader = errors.New("not the leader")
	// ErrTransferring means that leadership is being handed over; retry shortly.
	ErrTransferring = errors.New("leadership is being transferred")
	// ErrOverloaded means that the log takes no more proposals just now: too many
	// in flight, or the leader did not accept one within Config.EnqueueTimeout.
	ErrOverloaded = errors.New("too many proposals in flight")
	// ErrTooLarge means that the entry exceeds MaxEntryBytes.
	ErrTooLarge = errors.New("entry too large")
	// ErrNoSuccessor means that no other voter could take over the leadership.
	ErrNoSuccessor = errors.New("no other voter can take over")
	// ErrClosed means that the store is shutting down or closed.
	ErrClosed = errors.New("raft store is closed")
)

// Errors of Open and of the membership calls.
var (
	// ErrNoIdentity: see ExitNoIdentity.
	ErrNoIdentity = errors.New("data directory has no identity")
	// ErrDataLost: see ExitDataLost.
	ErrDataLost = errors.New("data directory lost acknowledged data")
	// ErrQuarantined: an earlier run met an I/O error in this data directory.
	ErrQuarantined = datadir.ErrQuarantined
	// ErrRemoved: this server was removed from the cluster.
	ErrRemoved = datadir.ErrRemoved
	// ErrSlowDisk: the data directory did not pass the write probe in time.
	ErrSlowDisk = datadir.ErrSlow
	// ErrWrite: a write failed while opening.
	ErrWrite = datadir.ErrWrite
	// ErrLocked: another process uses the data directory.
	ErrLocked = datadir.ErrLocked
	// ErrJoinRefused: the cluster will never accept this join. A Joiner wraps it
	// into errors that must not be retried.
	ErrJoinRefused = errors.New("join refused")
	// ErrRetired: the server ID was used before and is never accepted again.
	ErrRetired = peernet.ErrRetired
	// ErrNameInUse: a live member of the cluster has this name.
	ErrNameInUse = errors.New("controller name is in use")
	// ErrOtherName: the data directory belongs to a controller of another name.
	// Exits as ErrNoIdentity does.
	ErrOtherName = errors.New("data directory belongs to another controller")
	// ErrClusterExists: Bootstrap was asked for on an empty directory, but another
	// controller serves a cluster already. Exits as ErrNoIdentity does.
	ErrClusterExists = errors.New("a cluster exists already")
)

// NotLeaderError says who leads. It Is ErrNotLeader.
type NotLeaderError struct {
	// LeaderID and LeaderAddr name the leader this server last heard of; both are
	// empty when there is none. LeaderAddr is the leader's Raft address.
	LeaderID, LeaderAddr string
}

// Error implements error.
func (e *NotLeaderError) Error() string {
	if e.LeaderID == "" {
		return "not the leader, and no leader is known"
	}
	return fmt.Sprintf("not the leader, which is %s at %s", e.LeaderID, e.LeaderAddr)
}

// Is reports whether target is ErrNotLeader.
func (e *NotLeaderError) Is(target error) bool { return target == ErrNotLeader }

// unknownError carries the reason for an unknown outcome.
type unknownError struct{ cause error }

func (e *unknownError) Error() string        { return "outcome unknown: " + e.cause.Error() }
func (e *unknownError) Is(target error) bool { return target == ErrUnknown }
func (e *unknownError) Unwrap() error        { return e.cause }

// ExitCode maps an error of Open to the exit code of the process: 64, 65, 70, 71,
// 0 for nil and 1 for everything else.
func ExitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrNoIdentity), errors.Is(err, ErrClusterExists), errors.Is(err, ErrOtherName):
		return ExitNoIdentity
	case errors.Is(err, ErrDataLost), errors.Is(err, datadir.ErrDamaged), errors.Is(err, ErrQuarantined),
		errors.Is(err, ErrRemoved), errors.Is(err, ErrRetired):
		return ExitDataLost
	case errors.Is(err, ErrSlowDisk):
		return ExitSlowWrite
	case errors.Is(err, ErrWrite):
		return ExitWriteError
	}
	return 1
}
