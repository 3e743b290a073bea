// Package shim owns one attempt on one node: it sets up what the job's processes run in, starts the first, waits until
// none is left, ends them when a limit passes or the daemon orders it, and leaves a record of how it went. It depends on
// nothing but the files in the attempt's directory, so it goes on when the node daemon is killed, upgraded or stopped.
//
// The package imports neither fmt nor net: a shim is started for every job.
package shim
