// Package cgroup makes a group for each attempt, on v2 and on v1 hosts, and finds out at start what the host lets it
// enforce. What it cannot do it names, one line a thing; it never fails for it.
//
// The groups are /sys/fs/cgroup/[CONTROLLER/]fettle/NODE/gN: a subtree of the daemon's own, since an init system rewrites
// the device rules of units that it manages. The daemon makes them, sets their limits and takes them back; the shim puts
// the job's processes in and ends them. A group is used by one attempt at a time, and by many one after another.
package cgroup
