// Package handoff holds the files by which the node daemon and a shim speak to each other. A shim outlives the daemon that
// started it, and may be of an older version than the daemon that next finds it; so everything between them is in files,
// in a format that says its version and lets later fields and records be skipped.
//
// An attempt has one file. Whoever owns the attempt holds a flock on it: the daemon until it hands the open file to a shim,
// the shim until the attempt is over. It begins with the Order, written before it is handed over; after it come records,
// appended by either side:
//
//	Shim     the shim's pid, when it listens
//	Launch   just before the first process of the attempt is forked
//	Outputs  where in its files the attempt's own output begins, when they were not empty
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

// OrdersFD is a shim's end of a socket (SOCK_SEQPACKET) on which the daemon gives it attempts, one after another. A message
// is the name of the attempt's file, and carries two descriptors: the file, locked and open for reading and appending, and
// the write end of a pipe, which gets one NotifyStarted when the first process runs and is closed when the attempt is over.
// The shim ends when the socket is closed, after the attempt that it has in hand.
const OrdersFD = 3

// NotifyStarted is what a shim writes to the pipe once the attempt's first process has been executed.
const NotifyStarted = 'S'
