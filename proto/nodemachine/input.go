package nodemachine

import fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"

// Input is something that happened to the node.
type Input interface{ input() }

// Boot is the first input of a machine: what was found at the daemon's start.
type Boot struct {
	// BootID is the kernel's; a new one means that no process of an earlier one is left.
	BootID string
	// DaemonID is random per start.
	DaemonID  string
	Inventory *fettlev1.Inventory
	// Records are the journal's, in order.
	Records []*Record
	// Found are the attempts that have a directory.
	Found []Found
	// Lease is what the lease file says; zero when there is none.
	Lease Lease
}

// FoundState is what a scan of an attempt's directory and lock showed.
type FoundState uint8

// What a scan may find. A shim that is gone without an exit record counts as running until the daemon has ended what it
// left behind and says so with ShimEnded.
const (
	FoundRunning FoundState = iota + 1
	FoundEnded
)

// Found is one attempt with a directory.
type Found struct {
	Key   Key
	State FoundState
	// Exit is set with FoundEnded.
	Exit *fettlev1.Exit
}

// Connected says that a stream to a controller is open; the machine answers with its Hello.
type Connected struct{}

// Received is a message from the stream that Connected spoke of.
type Received struct{ Msg *fettlev1.ControllerMessage }

// SessionLost says that the stream is gone.
type SessionLost struct{}

// JournalSynced says that every record up to a sequence number is on disk.
type JournalSynced struct{ Upto uint64 }

// ShimStarted says that the attempt's first process is running.
type ShimStarted struct{ Key Key }

// ShimFailed says that no process of the attempt was started, and that none will be.
type ShimFailed struct {
	Key  Key
	Exit *fettlev1.Exit
}

// ShimEnded says that no process of the attempt is left.
type ShimEnded struct {
	Key  Key
	Exit *fettlev1.Exit
}

// InventoryChanged replaces the inventory.
type InventoryChanged struct{ Inventory *fettlev1.Inventory }

// Tick lets time pass; about once a second, and no less often than the heartbeat.
type Tick struct{}

func (Boot) input()             {}
func (Connected) input()        {}
func (Received) input()         {}
func (SessionLost) input()      {}
func (JournalSynced) input()    {}
func (ShimStarted) input()      {}
func (ShimFailed) input()       {}
func (ShimEnded) input()        {}
func (InventoryChanged) input() {}
func (Tick) input()             {}

// Lease covers the attempts that may live only while the leader hears from the node. All times are CLOCK_BOOTTIME
// milliseconds. A shim ends its attempt when the deadline passes, or when the epoch is no longer the one it started in.
type Lease struct {
	EpochMS    int64
	DeadlineMS int64
}
