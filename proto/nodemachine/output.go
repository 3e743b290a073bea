package nodemachine

import fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"

// Output is something for the daemon to do, in the order given. The machine holds back by itself what must wait for the
// journal, so an output may be carried out as soon as it is seen.
type Output interface{ output() }

// Append adds a record to the journal. Sequence numbers rise by one. The daemon syncs in groups and answers JournalSynced.
type Append struct {
	Seq    uint64
	Record *Record
	// Lazy records may wait for the next sync that something else needs, or for a second.
	Lazy bool
}

// StartShim starts an attempt.
type StartShim struct {
	Key     Key
	Prepare *fettlev1.Prepare
	// ClusterID for the job's environment.
	ClusterID string
	// LeaseEpochMS is the lease that the attempt lives under; 0 when it needs none.
	LeaseEpochMS int64
}

// StopShim ends an attempt: TERM, then KILL after the grace. A later order may shorten the grace, never lengthen it.
type StopShim struct {
	Key     Key
	GraceMS int64
}

// SignalShim delivers a signal to the attempt's processes.
type SignalShim struct {
	Key    Key
	Signal int32
}

// LimitShim replaces the attempt's time limit, in seconds from its start; 0 means none.
type LimitShim struct {
	Key     Key
	Seconds int64
}

// SetLease makes the lease known to the shims.
type SetLease struct{ Lease Lease }

// Send puts a message on the stream.
type Send struct{ Msg *fettlev1.NodeMessage }

// CloseSession ends the stream, with the reason in one line.
type CloseSession struct {
	Reason string
	// Refused says that the controller was not one to obey; try another, and tell the operator.
	Refused bool
}

// ReadLog passes on the leader's order to read an attempt's output.
type ReadLog struct{ Order *fettlev1.ReadNodeLog }

// Forget says that nobody will ask for the attempt again: its directory may go.
type Forget struct{ Key Key }

func (Append) output()       {}
func (StartShim) output()    {}
func (StopShim) output()     {}
func (SignalShim) output()   {}
func (LimitShim) output()    {}
func (SetLease) output()     {}
func (Send) output()         {}
func (CloseSession) output() {}
func (ReadLog) output()      {}
func (Forget) output()       {}
