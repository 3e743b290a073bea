package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/fettle-hpc/fettle/packaging/e2e"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// queue measures listing, memory, cancelling and restarting with many jobs waiting.
func (b *bench) queue() error {
	if err := b.up(e2e.Options{}); err != nil {
		return err
	}
	leader, err := b.cluster.Leader(b.ctx)
	if err != nil {
		return err
	}
	empty, err := b.settledRSS(leader)
	if err != nil {
		return err
	}
	have := 0
	for _, pending := range []int{1_000, 10_000, 50_000, 100_000} {
		if b.quick && pending > 10_000 {
			break
		}
		n := 0
		if err := b.submitMany(pending-have, func() *fettlev1.JobSpec {
			n++
			return held("bench-" + strconv.Itoa(have+n))
		}); err != nil {
			return err
		}
		have = pending
		all, err := b.timeCommand(5, "fqueue")
		if err != nil {
			return err
		}
		goal := "-"
		if pending == 50_000 {
			goal = "<= 200 ms (Slurm 330-2,600 ms)"
		}
		line(fmt.Sprintf("fqueue, %d pending, whole list", pending), all.Round(time.Millisecond).String(), goal)
		if pending != 50_000 {
			continue
		}
		ten, err := b.timeCommand(9, "fqueue", "-j", "100-109")
		if err != nil {
			return err
		}
		line("fqueue, 50000 pending, ten jobs", ten.Round(100*time.Microsecond).String(), "<= 15 ms (Slurm 13 ms)")
		used, err := b.settledRSS(leader)
		if err != nil {
			return err
		}
		line("controller memory a pending job (resident heap)", fmt.Sprintf("%d B", (used-empty)/int64(pending)), "<= 2,048 B (Slurm 5 KiB)")
		for _, d := range b.cluster.Controllers {
			if d != leader {
				if err := b.restart(d, have); err != nil {
					return err
				}
				break
			}
		}
	}
	return b.cancelMany()
}

// timeCommand is the median wall time of a whole client process.
func (b *bench) timeCommand(n int, name string, args ...string) (time.Duration, error) {
	var times []time.Duration
	for range n {
		cmd := b.cluster.Command(b.ctx, name, args...)
		out, err := os.Create(filepath.Join(b.dir, "out"))
		if err != nil {
			return 0, err
		}
		cmd.Stdout = out
		began := time.Now()
		err = cmd.Run()
		times = append(times, time.Since(began))
		_ = out.Close()
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
	}
	return percentile(times, 50), nil
}

// settledRSS is rss once it no longer changes: a controller gives garbage back when it is at rest.
func (b *bench) settledRSS(d *e2e.Daemon) (int64, error) {
	const tolerance = 64 << 10
	last, since := int64(-1), time.Now()
	for {
		now, err := rss(d)
		if err != nil {
			return 0, err
		}
		if last < 0 || now > last+tolerance || now < last-tolerance {
			last, since = now, time.Now()
		}
		if time.Since(since) > 4*time.Second {
			return now, nil
		}
		select {
		case <-b.ctx.Done():
			return 0, b.ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// rss is a process's resident anonymous memory in bytes: its heap and stacks, without the pages of the log file that
// the kernel keeps mapped for it.
func rss(d *e2e.Daemon) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Pid()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no RssAnon of %s", d.Name)
}

// cancelMany measures fcancel over 10,000 waiting jobs.
func (b *bench) cancelMany() error {
	n := b.size(10_000, 1_000)
	began := time.Now()
	if out, err := b.cluster.Command(b.ctx, "fcancel", "--yes", fmt.Sprintf("1-%d", n)).CombinedOutput(); err != nil {
		return fmt.Errorf("fcancel: %w: %.300s", err, out)
	}
	line(fmt.Sprintf("fcancel of %d pending jobs", n), time.Since(began).Round(time.Millisecond).String(), "<= 0.5 s (Slurm 6.2 s)")
	return nil
}

// restart measures how long a killed controller takes until it answers from its whole state again.
func (b *bench) restart(d *e2e.Daemon, jobs int) error {
	d.Kill(syscall.SIGKILL)
	began := time.Now()
	if err := d.Start(); err != nil {
		return err
	}
	if err := e2e.Poll(b.ctx, "wait for the controller", func() error {
		resp, err := b.cluster.Client(d.Addr).GetCluster(b.ctx, &fettlev1.GetClusterRequest{})
		if err == nil && resp.GetJobsTotal() < uint64(jobs) {
			err = fmt.Errorf("%d jobs", resp.GetJobsTotal())
		}
		return err
	}); err != nil {
		return err
	}
	took := time.Since(began)
	if err := b.cluster.AwaitLeader(b.ctx); err != nil {
		return err
	}
	line(fmt.Sprintf("restart of a killed follower with %d jobs", jobs), took.Round(10*time.Millisecond).String(), "<= 1 s (Slurm 2.0 s)")
	return nil
}

// failover measures from the kill of the leader to the next submit that is answered.
func (b *bench) failover() error {
	if err := b.up(e2e.Options{}); err != nil {
		return err
	}
	var times []time.Duration
	for range b.size(10, 2) {
		leader, err := b.cluster.Leader(b.ctx)
		if err != nil {
			return err
		}
		began := time.Now()
		leader.Kill(syscall.SIGKILL)
		req := &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{{RequestId: uuid.NewString(), Spec: held("failover")}}}
		for answered := false; !answered; {
			for _, d := range b.cluster.Controllers {
				if d.Running() && b.tryOnce(d, req) == nil {
					answered = true
					break
				}
			}
			if b.ctx.Err() != nil {
				return b.ctx.Err()
			}
		}
		times = append(times, time.Since(began))
		if err := leader.Start(); err != nil {
			return err
		}
		if err := b.cluster.AwaitLeader(b.ctx); err != nil {
			return err
		}
	}
	line("leader killed to next submit answered, median", percentile(times, 50).Round(10*time.Millisecond).String(), "-")
	line("leader killed to next submit answered, p95", percentile(times, 95).Round(10*time.Millisecond).String(), "<= 3 s (Slurm 3-154 s)")
	return nil
}

// tryOnce sends a request to one controller, which waits for a leader if there is none.
func (b *bench) tryOnce(d *e2e.Daemon, req *fettlev1.SubmitJobsRequest) error {
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Second)
	defer cancel()
	_, err := b.cluster.Client(d.Addr).SubmitJobs(ctx, req)
	return err
}
