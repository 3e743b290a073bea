package raftstore

import (
	"strings"
	"time"
)

// Identity is who this server is, written once to identity.json.
type Identity struct {
	ClusterInfo
	// ServerID is "<name>.<uuid>", never reused.
	ServerID string
	// Name is the node name at the time the identity was made.
	Name string
	// Created is when.
	Created time.Time
}

// Leader is the leader as this server knows it.
type Leader struct {
	// ID, Name and Addr (Raft address) are empty when no leader is known.
	ID, Name, Addr string
	// Term is this server's current term.
	Term uint64
	// Self is true when this server believes that it leads.
	Self bool
	// Ready is true when Self is and all entries of earlier terms are applied.
	Ready bool
}

// Server is one member of the cluster.
type Server struct {
	ID, Name, Addr string
	// Voter is false while a server is catching up.
	Voter bool
}

// Member is a Server with what the local server knows of it.
type Member struct {
	Server
	// Leader and Self mark the leader and the local server.
	Leader, Self bool
	// LastContact is when a call to it last succeeded (leader only), or for the
	// leader's row on a follower when it was last heard; zero when unknown.
	LastContact time.Time
	// MatchIndex is the last index known to be on its disk, 0 when unknown.
	// Filled in by the leader for all and by each server for itself.
	MatchIndex uint64
	// Regressed is set by the leader when the member acknowledged entries and
	// later showed a shorter log: its data directory was rolled back.
	Regressed bool
}

// Status is a summary of the local server.
type Status struct {
	Identity Identity
	// State is "Follower", "Candidate", "Leader" or "Shutdown".
	State         string
	Term          uint64
	LastIndex     uint64
	CommitIndex   uint64
	AppliedIndex  uint64
	SnapshotIndex uint64
	Members       []Member
	Disk          Disk
}

// DiskLevel grades the free space of the data directory.
type DiskLevel int

// Disk levels.
const (
	// DiskOK: go on.
	DiskOK DiskLevel = iota
	// DiskLow: a leader should hand over.
	DiskLow
	// DiskCritical: refuse new work, record only what ends or frees things.
	DiskCritical
)

// Disk is the state of the data directory's file system.
type Disk struct {
	FreeBytes, TotalBytes uint64
	Level                 DiskLevel
}

// ServerName returns the node name within a server ID.
func ServerName(serverID string) string {
	if i := strings.LastIndexByte(serverID, '.'); i > 0 {
		return serverID[:i]
	}
	return serverID
}
