package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fettle-hpc/fettle/packaging/e2e"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// planner is the package whose benchmarks measure planning alone, on one core: 100,000 jobs wait for 5,000 nodes of 8 GPUs.
const planner = "github.com/fettle-hpc/fettle/ctld/internal/sched"

// figures are what one benchmark measured, by unit: "ns/op", "starts/s".
type figures struct {
	name string
	of   map[string]float64
}

// duration is the time of one operation.
func (f figures) duration() time.Duration { return time.Duration(f.of["ns/op"]) }

// scheduling measures planning alone, and what a long queue costs a real cluster.
func (b *bench) scheduling() error {
	const size = "100000 pending x 5000 nodes x 8 GPUs"
	cycles, err := b.planning("^BenchmarkIncremental$", b.size(50, 1))
	if err != nil {
		return err
	}
	worst := slices.MaxFunc(cycles, func(x, y figures) int { return cmp.Compare(x.duration(), y.duration()) })
	for _, f := range cycles {
		if f.name == "Incremental/mixed" {
			line("incremental cycle, "+size, f.duration().Round(10*time.Microsecond).String(), "<= 100 ms")
		}
	}
	line("  the slowest of "+strconv.Itoa(len(cycles))+" kinds of queues: "+strings.TrimPrefix(worst.name, "Incremental/"), worst.duration().Round(10*time.Microsecond).String(), "<= 100 ms")
	full, err := b.planning("^BenchmarkFull$", b.size(3, 1))
	if err != nil {
		return err
	}
	for _, f := range full {
		line("full cycle, "+size+", "+strings.TrimPrefix(f.name, "Full/"), f.duration().Round(time.Millisecond).String(), "<= 1 s")
	}
	starts, err := b.planning("^BenchmarkStarts$", b.size(20, 1))
	if err != nil {
		return err
	}
	rate := map[string]float64{}
	for _, f := range starts {
		rate[f.name] = f.of["starts/s"]
	}
	few, many := rate["Starts/1000"], rate["Starts/100000"]
	line("starts planned, 1000 pending", fmt.Sprintf("%.0f/s", few), "-")
	line("starts planned, 100000 pending", fmt.Sprintf("%.0f/s, %.0f %%", many, 100*many/few), ">= 80 % of that at 1,000")
	memory, err := b.planning("^BenchmarkMemory$", 1)
	if err != nil {
		return err
	}
	line("planner memory a pending job", fmt.Sprintf("%.0f B", memory[0].of["bytes/job"]), "-")
	return b.startsBehind()
}

// planning runs benchmarks of the planner, each n times. It needs the source tree, as `go run` of this command does.
func (b *bench) planning(pattern string, n int) ([]figures, error) {
	cmd := exec.CommandContext(b.ctx, "go", "test", "-run", "^$", "-bench", pattern, "-benchtime", strconv.Itoa(n)+"x", "-cpu", "1", planner)
	out, err := cmd.Output()
	if err != nil {
		var ee *exec.ExitError
		if errors.As(err, &ee) {
			out = append(out, ee.Stderr...)
		}
		return nil, fmt.Errorf("go test -bench %s: %w: %.500s", pattern, err, out)
	}
	list, err := parseBenchmarks(out)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("no benchmark matches %s", pattern)
	}
	return list, err
}

// parseBenchmarks reads the lines "BenchmarkName  N  VALUE UNIT ..." of `go test -bench`.
func parseBenchmarks(out []byte) ([]figures, error) {
	var list []figures
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 4 || !strings.HasPrefix(words[0], "Benchmark") {
			continue
		}
		f := figures{strings.TrimPrefix(words[0], "Benchmark"), map[string]float64{}}
		for i := 2; i+1 < len(words); i += 2 {
			v, err := strconv.ParseFloat(words[i], 64)
			if err != nil {
				return nil, fmt.Errorf("benchmark line %q: %w", lines.Text(), err)
			}
			f.of[words[i+1]] = v
		}
		list = append(list, f)
	}
	return list, nil
}

// startsBehind measures no-op jobs from start to end on a real cluster while others wait for a GPU that is taken.
func (b *bench) startsBehind() error {
	if err := b.up(e2e.Options{Nodes: 1, CPUs: 64, GRES: "gpu:h100:1"}); err != nil {
		return err
	}
	hold := held("hold")
	hold.Hold, hold.Script, hold.GpusPerNode = false, []byte("#!/bin/sh\nwhile [ -d "+b.dir+" ]; do sleep 1; done\n"), &fettlev1.GPURequest{Count: 1}
	if err := b.submitMany(1, func() *fettlev1.JobSpec { return hold }); err != nil {
		return err
	}
	if err := b.awaitCounts(0, 1); err != nil {
		return err
	}
	few, many := 1000, b.size(100_000, 5_000)
	have, base := 0, 0.0
	for _, pending := range []int{few, many} {
		if err := b.submitMany(pending-have, func() *fettlev1.JobSpec {
			s := held("behind")
			s.Hold, s.GpusPerNode = false, &fettlev1.GPURequest{Count: 1}
			return s
		}); err != nil {
			return err
		}
		have = pending
		n := b.size(3000, 200)
		began := time.Now()
		if err := b.submitMany(n, func() *fettlev1.JobSpec {
			s := held("noop")
			s.Hold = false
			return s
		}); err != nil {
			return err
		}
		if err := b.awaitCounts(pending, 1); err != nil {
			return err
		}
		rate := float64(n) / time.Since(began).Seconds()
		text, goal := fmt.Sprintf("%.0f/s", rate), "-"
		if pending == few {
			base = rate
		} else {
			text, goal = fmt.Sprintf("%.0f/s, %.0f %%", rate, 100*rate/base), ">= 80 % of that at 1,000"
		}
		line(fmt.Sprintf("no-op jobs, start to end, %d pending behind a GPU", pending), text, goal)
	}
	return nil
}

// awaitCounts waits until so many jobs wait and so many run.
func (b *bench) awaitCounts(pending, running int) error {
	leader, err := b.cluster.Leader(b.ctx)
	if err != nil {
		return err
	}
	return e2e.Poll(b.ctx, "wait for the queue", func() error {
		resp, err := b.cluster.Client(leader.Addr).GetCluster(b.ctx, &fettlev1.GetClusterRequest{})
		if err == nil && (resp.GetJobsPending() != uint64(pending) || resp.GetJobsRunning() != uint64(running)) {
			err = fmt.Errorf("%d waiting, %d running", resp.GetJobsPending(), resp.GetJobsRunning())
		}
		return err
	})
}
