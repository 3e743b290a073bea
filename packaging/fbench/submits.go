package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fettle-hpc/fettle/packaging/e2e"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func held(name string) *fettlev1.JobSpec {
	return &fettlev1.JobSpec{Name: name, Method: "script", Script: []byte("#!/bin/sh\nexit 0\n"), WorkDir: "/tmp", Hold: true, StdoutPath: "/dev/null"}
}

func batchOf(n int, spec func() *fettlev1.JobSpec) *fettlev1.SubmitJobsRequest {
	req := &fettlev1.SubmitJobsRequest{}
	for range n {
		req.Jobs = append(req.Jobs, &fettlev1.JobSubmission{RequestId: uuid.NewString(), Spec: spec()})
	}
	return req
}

// submits measures durable submits a second: each answered when a quorum has it on disk.
func (b *bench) submits() error {
	if err := b.up(e2e.Options{}); err != nil {
		return err
	}
	goal := map[int]string{1: "-", 16: "-", 256: ">= 5,000/s (Slurm 1,200-2,800)"}
	for _, callers := range []int{1, 16, 256} {
		rate, p50, err := b.submitRate(callers, 1, b.size(4, 1))
		if err != nil {
			return err
		}
		line(fmt.Sprintf("durable submits, %d callers", callers), fmt.Sprintf("%.0f/s", rate), goal[callers])
		if callers == 1 {
			line("  median of one submit over gRPC", p50.Round(10*time.Microsecond).String(), "-")
		}
	}
	rate, _, err := b.submitRate(16, 100, b.size(4, 1))
	if err != nil {
		return err
	}
	line("durable submits, batches of 100, 16 callers", fmt.Sprintf("%.0f/s", rate), ">= 20,000/s")
	return nil
}

// submitRate runs callers for some seconds and returns jobs a second and the median time of a call.
func (b *bench) submitRate(callers, batch, seconds int) (float64, time.Duration, error) {
	leader, err := b.cluster.Leader(b.ctx)
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(b.ctx, time.Duration(seconds)*time.Second)
	defer cancel()
	var jobs atomic.Int64
	var mu sync.Mutex
	var times []time.Duration
	var failed error
	var group sync.WaitGroup
	began := time.Now()
	for range callers {
		group.Go(func() {
			var own []time.Duration
			for ctx.Err() == nil {
				start := time.Now()
				resp, err := b.cluster.Client(leader.Addr).SubmitJobs(ctx, batchOf(batch, func() *fettlev1.JobSpec { return held("bench") }))
				if err != nil {
					// The server may notice the end of the time a little earlier than this side does.
					if code := status.Code(err); ctx.Err() == nil && code != codes.DeadlineExceeded && code != codes.Canceled {
						mu.Lock()
						failed = err
						mu.Unlock()
					}
					break
				}
				own = append(own, time.Since(start))
				jobs.Add(int64(len(resp.GetResults())))
			}
			mu.Lock()
			times = append(times, own...)
			mu.Unlock()
		})
	}
	group.Wait()
	if failed != nil {
		return 0, 0, failed
	}
	return float64(jobs.Load()) / time.Since(began).Seconds(), percentile(times, 50), nil
}

func percentile(times []time.Duration, p int) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[(len(times)-1)*p/100]
}
