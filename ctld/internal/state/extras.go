package state

import (
	"slices"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Marks of fields that came after the first version. They are hashed only when they are set, each behind its mark.
const (
	markVRAM uint64 = 1<<32 + iota
	markGPUMilli
	markPreemptedBy
	markLostGPUS
	markPreemptedCount
	markClaim
	markStopGrace
	markProject
)

// mark hashes a number that is set.
func (c *canon) mark(m uint64, v int64) {
	if v != 0 {
		c.u(m)
		c.i(v)
	}
}

// canonShare covers what a part holds beside whole GPUs.
func canonShare(c *canon, a *fettlev1.NodeAllocation) {
	c.mark(markVRAM, a.GetVramMib())
	c.mark(markGPUMilli, int64(a.GetGpuMilli()))
}

// canonPreempted covers for whom an attempt was ended.
func canonPreempted(c *canon, a *fettlev1.Attempt) {
	c.mark(markPreemptedBy, int64(a.GetPreemptedBy()))
	c.mark(markLostGPUS, a.GetLostGpuS())
}

// canonTenant covers what a job counts and is charged to, and what preemption has to do with it.
func canonTenant(c *canon, j *Job) {
	c.mark(markPreemptedCount, int64(j.PreemptedCount))
	c.mark(markStopGrace, j.StopGraceS)
	if j.Project != "" {
		c.u(markProject)
		c.s(j.Project)
	}
	if j.Claim == nil {
		return
	}
	c.u(markClaim)
	c.u(j.Claim.GetIndex())
	c.i(j.Claim.GetMadeMs())
	c.u(uint64(len(j.Claim.GetNodes())))
	for _, a := range j.Claim.GetNodes() {
		c.s(a.GetNode())
		c.strings(a.GetGpuUuids())
		c.u(uint64(a.GetCpus()))
		c.i(a.GetMemMib())
		canonShare(c, a)
	}
	c.u(uint64(len(j.Claim.GetVictims())))
	for _, v := range j.Claim.GetVictims() {
		c.u(v.GetJobId())
		c.u(uint64(v.GetAttempt()))
		c.u(uint64(v.GetMode()))
		c.i(v.GetLostGpuS())
	}
}

func sortJobs(jobs []*Job) {
	slices.SortFunc(jobs, func(a, b *Job) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
}

// elements is how many jobs a row stands for: an array's own row for those of its elements that have none of their own.
func (j *Job) elements() int64 {
	if j.Array != nil {
		return int64(j.left())
	}
	return 1
}
