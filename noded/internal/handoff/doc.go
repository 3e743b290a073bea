// Package handoff holds the files by which the node daemon and a shim speak to each other. A shim outlives the daemon that
// started it, and may be of an older version than the daemon that next finds it; so everything between them is in files,
// in a format that says its version and lets later fields and records be skipped.
//
// An attempt has one file. Whoever owns the attempt holds a flock on it: the daemon until it forks, the shim, which
// inherits the open file, for its whole life. It begins with the Order, written before the fork; after it come records,
// appended by either side:
//
//	Shim     the shim's pid, when it listens
//	Launch   just before the first process of the attempt is forked
//	Control  an order of the daemon's to the shim, which reads on when it gets SIGCONT
//	Exit     how the attempt ended; synced before the shim ends
//
// One file instead of a directory of them is one inode, one sync and no rename for each job.
//
// The attempt's own directory, the only thing that belongs to the job's user, is elsewhere. The lease is a file of its
// own, shared by all attempts of a node.
//
// The package is linked into the shim, whose start is on the path of every job: it must not import fmt, net, encoding/json
// or protobuf.
package handoff

// ScriptFile is the name of a job's script in the attempt's own directory.
const ScriptFile = "script"

// File descriptors that the daemon gives a shim.
const (
	// AttemptFD is the attempt's file, locked, open for reading and appending.
	AttemptFD = 3
	// NotifyFD is the write end of a pipe: one NotifyStarted when the first process runs, end of file when the shim is gone.
	NotifyFD = 4
)

// NotifyStarted is what a shim writes to NotifyFD once the attempt's first process has been executed.
const NotifyStarted = 'S'
