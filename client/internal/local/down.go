package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/client/api"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// DefaultGrace is how long a daemon may take to end when it is asked to, before it is killed.
const DefaultGrace = 10 * time.Second

// Times that Down gives.
const (
	killLimit = 5 * time.Second
	// jobLimit is how long jobs may take to end beyond their own grace times.
	jobLimit = 15 * time.Second
)

// activeStates are those in which a job holds resources.
var activeStates = []fettlev1.JobState{
	fettlev1.JobState_JOB_STATE_DISPATCHING, fettlev1.JobState_JOB_STATE_RUNNING, fettlev1.JobState_JOB_STATE_COMPLETING,
	fettlev1.JobState_JOB_STATE_FENCING, fettlev1.JobState_JOB_STATE_SUSPENDED,
}

// Jobs are the jobs that hold resources.
type Jobs struct {
	IDs []uint64
	// Grace is the longest time that one of them has between TERM and KILL.
	Grace time.Duration
}

// Running answers which jobs hold resources. known is false when no controller could say.
func (c *Cluster) Running(ctx context.Context) (jobs Jobs, known bool) {
	alive := false
	for _, ct := range c.st.Controllers {
		if _, ok := recorded(c.dir, ct.Name); ok {
			alive = true
		}
	}
	if !alive || len(c.st.Controllers) == 0 {
		return Jobs{}, false
	}
	cl, err := quickClient(c.Controllers()...)
	if err != nil {
		return Jobs{}, false
	}
	defer cl.Close()
	err = cl.ListJobs(ctx, &fettlev1.ListJobsRequest{Select: &fettlev1.JobSelector{States: activeStates}}, func(_ *fettlev1.Header, list []*fettlev1.Job) error {
		for _, j := range list {
			jobs.IDs = append(jobs.IDs, j.GetId())
			jobs.Grace = max(jobs.Grace, time.Duration(j.GetSpec().GetKillGraceS())*time.Second)
		}
		return nil
	})
	return jobs, err == nil
}

// CancelJobs cancels jobs and waits until they have ended: for their grace time and a little longer.
func (c *Cluster) CancelJobs(ctx context.Context, jobs Jobs) error {
	cl, err := api.New(api.Config{Controllers: c.Controllers(), UserAgent: "fettle-down"})
	if err != nil {
		return err
	}
	defer cl.Close()
	req := &fettlev1.CancelJobsRequest{RequestId: api.NewRequestID(), Select: &fettlev1.JobSelector{Ids: jobs.IDs}}
	if _, err := api.Do(ctx, cl, api.Write, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.JobActionResponse, error) {
		return s.CancelJobs(ctx, req)
	}); err != nil {
		return err
	}
	limit := jobs.Grace + jobLimit
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	last := jobs.IDs
	for {
		if left, known := c.Running(ctx); known {
			last = slices.DeleteFunc(left.IDs, func(id uint64) bool { return !slices.Contains(jobs.IDs, id) })
			if len(last) == 0 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("interrupted; the jobs are being cancelled, the daemons run on: %w", ctx.Err())
		case <-deadline.C:
			return fmt.Errorf("job %d has not ended after %s; see fctl show job %d, or leave it with --keep-jobs", last[0], limit, last[0])
		case <-tick.C:
		}
	}
}

// Down ends all daemons: nodes first, then controllers. Those that do not end within grace are killed. It returns the
// names of those that it ended.
func (c *Cluster) Down(grace time.Duration, say func(string)) (ended []string, err error) {
	var names []string
	for _, n := range c.st.Nodes {
		names = append(names, n.Name)
	}
	if ended, err = endAll(c.dir, names, grace, say); err != nil {
		return ended, err
	}
	names = names[:0]
	for _, ct := range c.st.Controllers {
		names = append(names, ct.Name)
	}
	more, err := endAll(c.dir, names, grace, say)
	return append(ended, more...), err
}

// endAll ends daemons side by side.
func endAll(dir string, names []string, grace time.Duration, say func(string)) (ended []string, err error) {
	ids := make(map[string]identity)
	for _, name := range names {
		id, ok := recorded(dir, name)
		if !ok {
			_ = os.Remove(pidFile(dir, name))
			continue
		}
		if _, err := id.signal(syscall.SIGTERM); err != nil {
			return nil, fmt.Errorf("%s (pid %d) cannot be ended: %w", name, id.pid, err)
		}
		ids[name] = id
	}
	for _, name := range names {
		id, ok := ids[name]
		if !ok {
			continue
		}
		if err := finish(id, name, grace); err != nil {
			return ended, err
		}
		_ = os.Remove(pidFile(dir, name))
		say("ended " + name + ", pid " + fmt.Sprint(id.pid))
		ended = append(ended, name)
	}
	return ended, nil
}

// end asks one daemon to end and sees to it that it does.
func end(id identity, name string, limit time.Duration) error {
	if _, err := id.signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("%s (pid %d) cannot be ended: %w", name, id.pid, err)
	}
	return finish(id, name, limit)
}

// finish waits for a daemon that was asked to end, and kills it when it does not.
func finish(id identity, name string, limit time.Duration) error {
	if id.gone(limit) {
		return nil
	}
	if _, err := id.signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("%s (pid %d) cannot be killed: %w", name, id.pid, err)
	}
	if !id.gone(killLimit) {
		return fmt.Errorf("%s (pid %d) does not end, not even by SIGKILL; see what it waits for in /proc/%d/stack", name, id.pid, id.pid)
	}
	return nil
}

// Wipe removes everything of a cluster whose daemons have ended, and its directory if nothing else is in it.
func (c *Cluster) Wipe() error {
	for _, name := range c.names() {
		if id, ok := recorded(c.dir, name); ok {
			return fmt.Errorf("%s (pid %d) still runs", name, id.pid)
		}
	}
	for _, name := range c.names() {
		if err := os.RemoveAll(filepath.Join(c.dir, name)); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(c.dir, stateFile)); err != nil {
		return err
	}
	dir, err := c.setAside()
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, lockFile)); err != nil {
		return err
	}
	// What others have put there stays, and the directory with it.
	if err := os.Remove(dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.EBUSY) {
		return err
	}
	return nil
}

// setAside renames a directory that holds nothing but the lock, so that nobody who waits for the lock makes a new one in it
// while it is removed.
func (c *Cluster) setAside() (string, error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil || len(entries) != 1 {
		return c.dir, err
	}
	aside, err := os.MkdirTemp(filepath.Dir(c.dir), "."+filepath.Base(c.dir)+"-")
	if err != nil {
		// The parent is not ours: what cannot be renamed cannot be removed either.
		return c.dir, nil
	}
	if err := os.Rename(c.dir, aside); err != nil {
		_ = os.Remove(aside)
		return c.dir, nil
	}
	return aside, nil
}

func (c *Cluster) names() []string {
	var out []string
	for _, ct := range c.st.Controllers {
		out = append(out, ct.Name)
	}
	for _, n := range c.st.Nodes {
		out = append(out, n.Name)
	}
	return out
}
