package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fettle-hpc/fettle/packaging/e2e"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// latency measures an idle cluster: the whole fsubmit process, and from its start to the first line of the script.
func (b *bench) latency() error {
	if err := b.up(e2e.Options{Nodes: 1, CPUs: 16}); err != nil {
		return err
	}
	script := filepath.Join(b.dir, "first.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\ndate +%s%N >\"$1\"\n"), 0o755); err != nil {
		return err
	}
	var whole, first []time.Duration
	for i := range b.size(60, 5) {
		mark := filepath.Join(b.dir, fmt.Sprintf("mark%d", i))
		began := time.Now()
		out, err := b.cluster.Command(b.ctx, "fsubmit", "--parsable", "--output", "/dev/null", script, mark).CombinedOutput()
		if err != nil {
			return fmt.Errorf("fsubmit: %w: %s", err, out)
		}
		whole = append(whole, time.Since(began))
		at, err := b.awaitMark(mark)
		if err != nil {
			return err
		}
		first = append(first, at.Sub(began))
	}
	round := func(d time.Duration) string { return d.Round(100 * time.Microsecond).String() }
	line("fsubmit, whole process, median", round(percentile(whole, 50)), "<= 8 ms (sbatch 4-6 ms)")
	line("fsubmit to first line of the script, median", round(percentile(first, 50)), "<= 30 ms (Slurm 912 ms)")
	line("fsubmit to first line of the script, p99", round(percentile(first, 99)), "<= 100 ms (Slurm 2.9 s)")
	return nil
}

// awaitMark waits for the time that the script wrote down.
func (b *bench) awaitMark(path string) (time.Time, error) {
	var at time.Time
	err := e2e.Poll(b.ctx, "wait for the script", func() error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		ns, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		at = time.Unix(0, ns)
		return err
	})
	return at, err
}

// throughput measures no-op jobs from start to end on one node.
func (b *bench) throughput() error {
	for _, slots := range []int{64, 512} {
		if err := b.up(e2e.Options{Nodes: 1, CPUs: slots}); err != nil {
			return err
		}
		n := b.size(3000, 100)
		before, err := nodeCPU(b.cluster)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := b.submitMany(n, func() *fettlev1.JobSpec {
			s := held("noop")
			s.Hold = false
			return s
		}); err != nil {
			return err
		}
		if err := b.awaitIdle(); err != nil {
			return err
		}
		took := time.Since(began)
		after, err := nodeCPU(b.cluster)
		if err != nil {
			return err
		}
		line(fmt.Sprintf("no-op jobs, start to end, %d slots", slots), fmt.Sprintf("%.0f/s", float64(n)/took.Seconds()), ">= 300/s (Slurm 27-98/s)")
		line("  CPU of the node daemon and its shims, a job", ((after - before) / time.Duration(n)).Round(10*time.Microsecond).String(), "< 16 ms (Slurm 16-19 ms)")
		b.down()
	}
	return nil
}

func (b *bench) submitMany(n int, spec func() *fettlev1.JobSpec) error {
	leader, err := b.cluster.Leader(b.ctx)
	if err != nil {
		return err
	}
	for n > 0 {
		// Small enough that the entries which Raft keeps in memory weigh little beside the jobs themselves.
		k := min(n, 25)
		resp, err := b.cluster.Client(leader.Addr).SubmitJobs(b.ctx, batchOf(k, spec))
		if err != nil {
			return err
		}
		for _, r := range resp.GetResults() {
			if e := r.GetError(); e != nil {
				return fmt.Errorf("%s: %s", e.GetField(), e.GetProblem())
			}
		}
		n -= k
	}
	return nil
}

func (b *bench) awaitIdle() error { return b.awaitCounts(0, 0) }

// nodeCPU is the CPU time of a node daemon and everything that it started and waited for.
func nodeCPU(c *e2e.Cluster) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.Nodes[0].Pid()))
	if err != nil {
		return 0, err
	}
	// Fields 14 to 17 (utime, stime, cutime, cstime), counted after the command's closing parenthesis.
	f := strings.Fields(string(data)[strings.LastIndexByte(string(data), ')')+1:])
	var ticks int64
	for _, i := range []int{11, 12, 13, 14} {
		v, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += v
	}
	return time.Duration(ticks) * (time.Second / 100), nil
}
