// Package cgroup makes a group for each attempt, on v2 and on v1 hosts, and finds out at start what the host lets it
// enforce. What it cannot do it names, one line a thing; it never fails for it.
//
// The groups are /sys/fs/cgroup/[CONTROLLER/]fettle/NODE/JOB.ATTEMPT.FENCE: a subtree of the daemon's own, since an init
// system rewrites the device rules of units that it manages. The daemon creates and removes them; the shim moves the
// job's processes in and ends them.
package cgroup
