package policy

import "fmt"

// Job is what a policy may know of a job that waits, or that runs and is compared with those that do.
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
	Partition  string
	// EstimateS is what the whole job takes in seconds, as predicted by its launcher or the history; 0 is unknown.
	EstimateS int64
	// RemainingS is what is left in seconds, as its own progress says; 0 is unknown.
	RemainingS int64
	// RunS is how many seconds it has run so far, without the work that was lost.
	RunS int64
	// Running says that it runs.
	Running bool
	// Account is what fair share goes by; nil has used nothing.
	Account *Account
}

// Columns are jobs, one slice an attribute, all of one length. Append keeps them so.
type Columns struct {
	ID         []uint64
	Priority   []uint32
	EligibleMS []int64
	Size       []uint32
	TimeLimitS []int64
	User       []string
	Project    []string
	Partition  []string
	EstimateS  []int64
	RemainingS []int64
	RunS       []int64
	Running    []bool
	Account    []*Account
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
	c.Partition = append(c.Partition, j.Partition)
	c.EstimateS = append(c.EstimateS, j.EstimateS)
	c.RemainingS = append(c.RemainingS, j.RemainingS)
	c.RunS = append(c.RunS, j.RunS)
	c.Running = append(c.Running, j.Running)
	c.Account = append(c.Account, j.Account)
}

// AppendAll adds all jobs of other columns, which have one length.
func (c *Columns) AppendAll(o *Columns) {
	c.ID = append(c.ID, o.ID...)
	c.Priority = append(c.Priority, o.Priority...)
	c.EligibleMS = append(c.EligibleMS, o.EligibleMS...)
	c.Size = append(c.Size, o.Size...)
	c.TimeLimitS = append(c.TimeLimitS, o.TimeLimitS...)
	c.User = append(c.User, o.User...)
	c.Project = append(c.Project, o.Project...)
	c.Partition = append(c.Partition, o.Partition...)
	c.EstimateS = append(c.EstimateS, o.EstimateS...)
	c.RemainingS = append(c.RemainingS, o.RemainingS...)
	c.RunS = append(c.RunS, o.RunS...)
	c.Running = append(c.Running, o.Running...)
	c.Account = append(c.Account, o.Account...)
}

// At answers the i-th job.
func (c *Columns) At(i int) Job {
	return Job{
		ID: c.ID[i], Priority: c.Priority[i], EligibleMS: c.EligibleMS[i], Size: c.Size[i], TimeLimitS: c.TimeLimitS[i],
		User: c.User[i], Project: c.Project[i], Partition: c.Partition[i], EstimateS: c.EstimateS[i],
		RemainingS: c.RemainingS[i], RunS: c.RunS[i], Running: c.Running[i], Account: c.Account[i],
	}
}

// Set replaces the i-th job.
func (c *Columns) Set(i int, j Job) {
	c.ID[i], c.Priority[i], c.EligibleMS[i], c.Size[i], c.TimeLimitS[i] = j.ID, j.Priority, j.EligibleMS, j.Size, j.TimeLimitS
	c.User[i], c.Project[i], c.Partition[i], c.EstimateS[i] = j.User, j.Project, j.Partition, j.EstimateS
	c.RemainingS[i], c.RunS[i], c.Running[i], c.Account[i] = j.RemainingS, j.RunS, j.Running, j.Account
}

// Truncate keeps the first n jobs, and the memory of the rest.
func (c *Columns) Truncate(n int) {
	clear(c.User[n:])
	clear(c.Project[n:])
	clear(c.Partition[n:])
	clear(c.Account[n:])
	c.ID, c.Priority, c.EligibleMS, c.Size, c.TimeLimitS = c.ID[:n], c.Priority[:n], c.EligibleMS[:n], c.Size[:n], c.TimeLimitS[:n]
	c.User, c.Project, c.Partition, c.EstimateS = c.User[:n], c.Project[:n], c.Partition[:n], c.EstimateS[:n]
	c.RemainingS, c.RunS, c.Running, c.Account = c.RemainingS[:n], c.RunS[:n], c.Running[:n], c.Account[:n]
}

// Reset empties the columns and keeps their memory.
func (c *Columns) Reset() { c.Truncate(0) }

// Check says whether all columns have one length.
func (c *Columns) Check() error {
	for _, col := range []struct {
		name string
		len  int
	}{
		{"priority", len(c.Priority)}, {"eligible", len(c.EligibleMS)}, {"size", len(c.Size)}, {"time limit", len(c.TimeLimitS)},
		{"user", len(c.User)}, {"project", len(c.Project)}, {"partition", len(c.Partition)}, {"estimate", len(c.EstimateS)},
		{"remaining", len(c.RemainingS)}, {"run", len(c.RunS)}, {"running", len(c.Running)}, {"account", len(c.Account)},
	} {
		if col.len != len(c.ID) {
			return fmt.Errorf("column %s has %d elements, id has %d: want one length", col.name, col.len, len(c.ID))
		}
	}
	return nil
}

// ScoreColumns appends the score of every job to dst, in the columns' order.
func (p Params) ScoreColumns(dst []int64, c *Columns) []int64 {
	shares := map[*Account]int64{}
	for i := range c.ID {
		j := c.At(i)
		share, known := shares[j.Account]
		if !known {
			share = p.fairShareTerm(j.Account)
			shares[j.Account] = share
		}
		dst = append(dst, p.score(&j, share))
	}
	return dst
}
