package policy

import "fmt"

// Job is what a policy may know of a waiting job.
type Job struct {
	ID uint64
	// Priority is 1 (most urgent) to 10.
	Priority uint32
	// EligibleMS is when it became eligible, in Unix milliseconds.
	EligibleMS int64
	// Size is its GPUs in all; a job without GPUs counts its CPUs / 8, at least 1.
	Size uint32
	// TimeLimitS is in seconds; 0 means none.
	TimeLimitS int64
	User       string
	Project    string
}

// Columns are waiting jobs, one slice an attribute, all of one length.
type Columns struct {
	ID         []uint64
	Priority   []uint32
	EligibleMS []int64
	Size       []uint32
	TimeLimitS []int64
	User       []string
	Project    []string
}

// Len is the number of jobs.
func (c *Columns) Len() int { return len(c.ID) }

// Append adds a job.
func (c *Columns) Append(j Job) {
	c.ID = append(c.ID, j.ID)
	c.Priority = append(c.Priority, j.Priority)
	c.EligibleMS = append(c.EligibleMS, j.EligibleMS)
	c.Size = append(c.Size, j.Size)
	c.TimeLimitS = append(c.TimeLimitS, j.TimeLimitS)
	c.User = append(c.User, j.User)
	c.Project = append(c.Project, j.Project)
}

// At answers the i-th job.
func (c *Columns) At(i int) Job {
	return Job{
		ID: c.ID[i], Priority: c.Priority[i], EligibleMS: c.EligibleMS[i], Size: c.Size[i], TimeLimitS: c.TimeLimitS[i],
		User: c.User[i], Project: c.Project[i],
	}
}

// Reset empties the columns and keeps their memory.
func (c *Columns) Reset() {
	clear(c.User)
	clear(c.Project)
	c.ID, c.Priority, c.EligibleMS, c.Size = c.ID[:0], c.Priority[:0], c.EligibleMS[:0], c.Size[:0]
	c.TimeLimitS, c.User, c.Project = c.TimeLimitS[:0], c.User[:0], c.Project[:0]
}

// Check says whether all columns have one length.
func (c *Columns) Check() error {
	n := len(c.ID)
	if len(c.Priority) != n || len(c.EligibleMS) != n || len(c.Size) != n || len(c.TimeLimitS) != n ||
		len(c.User) != n || len(c.Project) != n {
		return fmt.Errorf("columns of lengths %d (id), %d, %d, %d, %d, %d, %d: want one length", n, len(c.Priority),
			len(c.EligibleMS), len(c.Size), len(c.TimeLimitS), len(c.User), len(c.Project))
	}
	return nil
}

// ScoreColumns appends the score of every job to dst, in the columns' order.
func (p Params) ScoreColumns(dst []int64, c *Columns) []int64 {
	for i := range c.ID {
		dst = append(dst, p.Score(c.Priority[i], c.EligibleMS[i], c.Size[i], c.TimeLimitS[i]))
	}
	return dst
}
