// Package fsm turns committed log entries into changes of package state.
//
// Apply is total, deterministic and bounded: whatever an entry says, every replica answers the same, without a clock,
// randomness, I/O or the order of a map, and an entry that would panic changes nothing. What cannot be read at all (a torn
// entry, an operation of a newer version) ends the process, because a replica that skips an entry is no replica.
package fsm
