// Package raftstore keeps one replicated log for the controllers: hashicorp/raft
// over a bbolt log, wrapped so that a controller can neither lose acknowledged
// entries by accident nor hang the cluster with a sick disk.
//
// It knows nothing of jobs. The state machine is handed in as a raft.FSM; the
// package adds identity and boot checks, a watchdog on every write, three clear
// outcomes of a proposal, linearizable reads, leadership callbacks and membership
// changes. DESIGN.md beside this file says why each of them is there.
package raftstore
