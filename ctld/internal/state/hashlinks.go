package state

// Marks of what arrays, dependencies, deadlines and shares brought; see extras.go.
const (
	markElement uint64 = 1<<33 + iota
	markArray
	markWaitingFor
	markDeadline
	markEstimate
	markMaxRunning
	markHeldShare
	markExclusive
)

// canonLinks writes what a row has to do with other rows, and what of the specification came later.
func canonLinks(c *canon, j *Job) {
	if j.ArrayJobID != 0 {
		c.u(markElement)
		c.u(j.ArrayJobID)
		c.u(uint64(j.ArrayIndex))
	}
	if a := j.Array; a != nil {
		c.u(markArray)
		c.u(uint64(len(a.Left)))
		for _, r := range a.Left {
			c.u(uint64(r.GetFirst()))
			c.u(uint64(r.GetLast()))
			c.u(uint64(r.GetStep()))
		}
		for _, n := range []uint32{a.Pending, a.Active, a.Completed, a.Failed, a.Cancelled} {
			c.u(uint64(n))
		}
	}
	if len(j.WaitingFor) > 0 {
		c.u(markWaitingFor)
		c.u(uint64(len(j.WaitingFor)))
		for _, d := range j.WaitingFor {
			c.u(uint64(d.GetKind()))
			c.u(d.GetJobId())
			c.b(d.Index != nil)
			c.u(uint64(d.GetIndex()))
		}
	}
	c.mark(markDeadline, j.Spec.GetDeadlineMs())
	c.mark(markEstimate, j.Spec.GetEstimatedRunS())
	c.mark(markMaxRunning, int64(j.Spec.GetArray().GetMaxRunning()))
}
