package raftstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// Limits and defaults.
const (
	// MaxEntryBytes is the largest entry Apply takes. Larger ones hold up
	// heartbeats; stage big payloads in several entries.
	MaxEntryBytes = 512 << 10
	// DefaultWriteLimit is how long one write to the log may take.
	DefaultWriteLimit = 3 * time.Second
	// DefaultEnqueueTimeout bounds the wait for the leader to take a proposal.
	DefaultEnqueueTimeout = 5 * time.Second
	// DefaultMaxInFlight bounds proposals that wait for their outcome.
	DefaultMaxInFlight = 4096
	// DefaultMinFreeBytes is the free space below which Open refuses to start.
	DefaultMinFreeBytes = 1 << 30
	// DefaultSnapshotThreshold, DefaultSnapshotInterval, DefaultTrailingLogs and
	// DefaultSnapshotRetain: a snapshot is taken when more than Threshold entries
	// were added, looked at every Interval; the newest Retain snapshots and the
	// last TrailingLogs entries before them are kept, so that one unreadable
	// snapshot can always be made good from the one before and the log.
	DefaultSnapshotThreshold = 8192
	DefaultSnapshotInterval  = 60 * time.Second
	DefaultTrailingLogs      = 20480
	DefaultSnapshotRetain    = 3
	// heartbeatTimeout is the unit of Config.Timing: how long a follower waits for
	// the leader, and a candidate for votes. A leader steps down after half of it.
	heartbeatTimeout = time.Second
	// TransferTimeout bounds the hand-over of leadership in Shutdown.
	TransferTimeout = 3 * time.Second
)

// Config says how to open a Store. DataDir, NodeName, RaftAddr (or Listener) and
// FSM are required; the zero value of everything else is a usable default.
type Config struct {
	// DataDir is a directory on a local disk that belongs to this store alone. It
	// is made with mode 0700 when missing.
	DataDir string
	// NodeName is the controller's name for people (a host name, "c1"): 1 to 63
	// letters, digits, '-', '_' and '.'. It must be unique among live members; a
	// controller that lost its data comes back under its old name and a new ID.
	NodeName string
	// RaftAddr is the host:port to listen on. Ignored when Listener is set.
	RaftAddr string
	// Listener, when set, is used instead of listening on RaftAddr. The store
	// closes it.
	Listener net.Listener
	// AdvertiseAddr is the host:port the other controllers dial. Empty means the
	// listener's own address, which must then not be a wildcard.
	AdvertiseAddr string
	// Peers overrides the Raft addresses of other controllers by node name, for
	// moving one without a membership change. Usually empty.
	Peers map[string]string
	// TLS secures the Raft port in both directions and should ask for and verify
	// client certificates. nil means plain TCP, which is refused unless every
	// address is a loopback address. TLS 1.3 is enforced.
	TLS *tls.Config
	// AuthorizePeer, when set, is asked about every inbound connection after the
	// TLS handshake with the server ID the peer claims (state is nil without TLS).
	AuthorizePeer func(serverID string, state *tls.ConnectionState) error

	// Bootstrap makes a new cluster with this server as its only member if the
	// data directory is empty. On a directory with an identity it does nothing. With
	// Join as well, the addresses there are asked first, and Open refuses when one
	// of them serves a cluster: then this controller was wiped.
	Bootstrap bool
	// Join lists API addresses of controllers to join through if this server is
	// not a voter yet. On a directory that is a member it does nothing.
	Join []string
	// Joiner carries the join over the network. Required with Join.
	Joiner Joiner

	// FSM is the state machine. A raft.BatchingFSM gets batches, of command
	// entries only.
	FSM raft.FSM
	// OnGained is called after this server was elected and its FSM has applied all
	// entries of earlier terms. ctx ends when that leadership does. OnLost follows
	// once OnGained returned, before any later OnGained. Both run on one
	// goroutine, perhaps before Open returned; neither may call Shutdown.
	OnGained func(ctx context.Context, term uint64)
	// OnLost: see OnGained. It is called for exactly the terms OnGained was.
	OnLost func(term uint64)
	// OnMembership is called on every server when a committed membership is
	// applied, on the goroutine that applies entries. It must not block.
	OnMembership func(index uint64, servers []Server)
	// Retired reports whether a server ID was removed earlier. Such IDs may not
	// join or connect. Usually reads the FSM.
	Retired func(serverID string) bool
	// OnRetire is called on the leader before it removes a server, so that the FSM
	// can remember the ID for good. An error stops the removal.
	OnRetire func(ctx context.Context, serverID string) error

	// Timing multiplies the heartbeat and election (1 s) and lease (500 ms)
	// times. 0 means 1; use 2 on shared or slow machines.
	Timing float64
	// SnapshotThreshold, SnapshotInterval, TrailingLogs, SnapshotRetain: 0 means
	// the default of the same name.
	SnapshotThreshold uint64
	SnapshotInterval  time.Duration
	TrailingLogs      uint64
	SnapshotRetain    int
	// WriteLimit ends the process when one write takes longer. 0 means
	// DefaultWriteLimit.
	WriteLimit time.Duration
	// EnqueueTimeout: 0 means DefaultEnqueueTimeout.
	EnqueueTimeout time.Duration
	// MaxInFlight: 0 means DefaultMaxInFlight.
	MaxInFlight int
	// MinFreeBytes refuses to start with less free space. 0 means
	// DefaultMinFreeBytes, negative switches the check off.
	MinFreeBytes int64
	// AllowAnyFilesystem permits network file systems for DataDir.
	AllowAnyFilesystem bool

	// Fatal ends the process with an exit code after printing one line. nil prints
	// to standard error and calls os.Exit. If it returns (in tests), the store is
	// dead: every writer of the log stops for good.
	Fatal func(code int, msg string)
	// Logger: nil discards.
	Logger *slog.Logger
	// Hooks inject faults in tests.
	Hooks Hooks
}

// Hooks inject faults. BeforeWrite and AfterWrite are called around each write to
// the log and vote store with the name of the operation ("StoreLogs",
// "DeleteRange", "Set", "SetUint64", "highwater"). They may block to act as a hung
// disk, or return an error that stands for the write's.
type Hooks struct {
	// BeforeWrite comes before the write; an error skips it.
	BeforeWrite func(op string) error
	// AfterWrite comes after a write that succeeded, as a failing sync would.
	AfterWrite func(op string) error
	// Dial replaces the dialer of the Raft port.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Joiner carries a join to the cluster over whatever network the caller has.
type Joiner interface {
	// Cluster asks the controller at addr which cluster it is a member of.
	Cluster(ctx context.Context, addr string) (ClusterInfo, error)
	// Join asks the leader, through the controller at addr, to call
	// Store.AddServer with req, and returns when that has. Errors are retried
	// until the context of Open ends, unless they Is ErrJoinRefused or ErrRetired.
	Join(ctx context.Context, addr string, req JoinRequest) error
}

// ClusterInfo names a cluster.
type ClusterInfo struct {
	// ClusterID is the random UUID made by the bootstrap.
	ClusterID string
	// Incarnation is the random UUID of this line of history; node daemons obey
	// only the incarnation they know.
	Incarnation string
}

// JoinRequest is what a joining server tells the leader.
type JoinRequest struct {
	// ClusterID is the cluster it means to join.
	ClusterID string
	// ServerID is its new identity, "<name>.<uuid>".
	ServerID string
	// RaftAddr is where the others reach its Raft port.
	RaftAddr string
}

// Validate reports the first field that cannot work.
func (c *Config) Validate() error {
	switch {
	case c.DataDir == "":
		return errors.New("DataDir: empty, give the directory of the raft log")
	case !validName(c.NodeName):
		return fmt.Errorf("NodeName: %q is not 1-63 letters, digits, '-', '_' or '.'", c.NodeName)
	case c.RaftAddr == "" && c.Listener == nil:
		return errors.New("RaftAddr: empty, give host:port")
	case c.FSM == nil:
		return errors.New("FSM: nil")
	case len(c.Join) > 0 && c.Joiner == nil:
		return errors.New("config has Join but no Joiner")
	case c.Timing < 0:
		return fmt.Errorf("config has a negative Timing, %v", c.Timing)
	case c.SnapshotRetain < 0:
		return fmt.Errorf("SnapshotRetain: %d is negative", c.SnapshotRetain)
	case c.WriteLimit < 0, c.EnqueueTimeout < 0, c.SnapshotInterval < 0, c.MaxInFlight < 0:
		return errors.New("WriteLimit, EnqueueTimeout, SnapshotInterval and MaxInFlight must not be negative")
	}
	return nil
}

// setDefaults replaces zero values.
func (c *Config) setDefaults() {
	def := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.SnapshotInterval, DefaultSnapshotInterval)
	def(&c.WriteLimit, DefaultWriteLimit)
	def(&c.EnqueueTimeout, DefaultEnqueueTimeout)
	if c.Timing == 0 {
		c.Timing = 1
	}
	if c.SnapshotThreshold == 0 {
		c.SnapshotThreshold = DefaultSnapshotThreshold
	}
	if c.TrailingLogs == 0 {
		c.TrailingLogs = DefaultTrailingLogs
	}
	if c.SnapshotRetain == 0 {
		c.SnapshotRetain = DefaultSnapshotRetain
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = DefaultMaxInFlight
	}
	if c.MinFreeBytes == 0 {
		c.MinFreeBytes = DefaultMinFreeBytes
	}
	if c.Fatal == nil {
		c.Fatal = exit
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// scale stretches a time by Timing.
func (c *Config) scale(d time.Duration) time.Duration {
	return time.Duration(float64(d) * c.Timing)
}

func validName(s string) bool {
	if len(s) == 0 || len(s) > 63 {
		return false
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r) {
			return false
		}
	}
	return true
}
