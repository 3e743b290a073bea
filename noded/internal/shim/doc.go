// Package shim owns one attempt at a time on one node: it sets up what the job's processes run in, starts the first, waits until
// none is left, ends them when a limit passes or the daemon orders it, and leaves a record of how it went. It depends on
// nothing but the attempt's file, so it goes on when the node daemon is killed, upgraded or stopped. While the daemon that
// started it lives, a shim whose attempt is over takes another: starting a process for each costs more than all else that
// a short job needs.
//
// The package imports neither fmt nor net: a shim is started for every job.
package shim
