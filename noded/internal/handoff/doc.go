// Package handoff holds the files by which the node daemon and a shim speak to each other. A shim outlives the daemon that
// started it, and may be of an older version than the daemon that next finds it; so everything between them is a file in
// the attempt's directory, in a format that says its version and lets later fields be skipped.
//
//	lock     held with flock by whoever owns the attempt: the daemon until it forks, the shim for its whole life
//	order    what to run and how; written once by the daemon
//	shim     the shim's pid; written once by the shim when it listens
//	launch   exists from just before the first process of the attempt is forked
//	control  records appended by the daemon; the shim reads on when it gets SIGCONT
//	exit     how the attempt ended; synced, then renamed into place
//	files/   the attempt's own directory, the only thing in here that belongs to the job's user
//
// One more file, the lease, is shared by all attempts of a node.
//
// The package is linked into the shim, whose start is on the path of every job: it must not import fmt, net, encoding/json
// or protobuf.
package handoff

// Names in an attempt's directory.
const (
	LockFile    = "lock"
	OrderFile   = "order"
	ShimFile    = "shim"
	LaunchFile  = "launch"
	ControlFile = "control"
	ExitFile    = "exit"
	FilesDir    = "files"
	// ScriptFile is the name of a job's script in FilesDir.
	ScriptFile = "script"
)

// File descriptors that the daemon gives a shim.
const (
	// LockFD is the lock, held.
	LockFD = 3
	// NotifyFD is the write end of a pipe: one NotifyStarted when the first process runs, end of file when the shim is gone.
	NotifyFD = 4
)

// NotifyStarted is what a shim writes to NotifyFD once the attempt's first process has been executed.
const NotifyStarted = 'S'
