// Package state holds what the controllers agree on: jobs, nodes, partitions, controllers and remembered requests.
//
// Rows are immutable: a change replaces a row whole. They live in copy-on-write B-trees, so that a reader takes a
// Snapshot without a lock and keeps it as long as it likes, while the one writer, the replicated state machine in package
// fsm, goes on. Nothing here knows the time, the network or the disk. DESIGN.md in this folder says why it is built so.
package state
