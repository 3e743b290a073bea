// Package attempt runs attempts through shims: it makes an attempt's file and directory, writes the order, forks the shim,
// and learns of its end; after a restart of the daemon it finds the shims again. It decides nothing: what to start and
// what to end it is told, and it answers with events.
//
// The lock of an attempt's file is taken by the daemon before it forks and is inherited by the shim, so that at no instant
// is a shim that will run a job not holding it. A file whose lock is free is therefore over: with an exit record, it
// ended; with a launch mark and no exit record, the shim was lost, and what it left is ended before it counts as over;
// with neither, it never started.
//
// Below the state directory lie attempts/ with a file for each attempt, closed to all but the daemon, and files/ with the
// attempts' own directories, which belong to the jobs' users; others can pass through it, and list nothing.
package attempt
