// Package killtree finds and ends all processes of an attempt: by cgroup v2, by the v1 freezer, or, where there are no
// cgroups, by walking the descendants of a subreaper in /proc. A process group is never enough: torchrun starts every
// worker in a session of its own, and those outlive it.
//
// Signals go through pidfds whose process is checked to belong to the tree after the pidfd was opened, so a pid that was
// freed and taken by a stranger in between is never hit.
//
// The package is linked into the shim and imports neither fmt nor net.
package killtree
