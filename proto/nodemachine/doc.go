// Package nodemachine is the node's half of the node protocol as a pure state machine: no clock, no disk, no network,
// no randomness. The node daemon feeds it what happened (orders, ends of shims, journal syncs, time) and carries out
// what it answers; a simulation does the same on a virtual clock.
//
// What it keeps, whatever the order of faults:
//
//   - An intent is on disk before a shim is started, and an attempt is started at most once on this node.
//   - Only the current session's orders are obeyed; a session is taken only from the cluster that the node belongs to,
//     with a term and a session index that never go back.
//   - An order to end an attempt that the node does not know leaves a tombstone on disk before it is answered, so that a
//     late order to start the attempt is refused.
//   - Nothing is ended because an answer lacks it: the only way to an end is an order, the shim's own limits, or its exit.
//   - An end is reported until its acknowledgement names a committed index; only then is the attempt forgotten.
//   - A lease that ran out is never extended: what it covered is over, and a new lease has a new epoch.
package nodemachine
