package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func sleeper(name string) *fettlev1.JobSpec {
	return &fettlev1.JobSpec{Name: name, Method: "script", Script: []byte("#!/bin/sh\nexit 0\n"), WorkDir: "/tmp", Hold: true}
}

// submitOne submits through any controller and returns the job's number.
func (c *Cluster) submitOne(ctx context.Context, spec *fettlev1.JobSpec) (uint64, error) {
	req := uuid.NewString()
	var id uint64
	err := c.Do(ctx, func(ctx context.Context, cl fettlev1.ControllerServiceClient) error {
		resp, err := cl.SubmitJobs(ctx, &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{{RequestId: req, Spec: spec}}})
		if err != nil {
			return err
		}
		if e := resp.GetResults()[0].GetError(); e != nil {
			return status.Error(codes.InvalidArgument, e.GetField()+": "+e.GetProblem())
		}
		id = resp.GetResults()[0].GetJobId()
		return nil
	})
	return id, err
}

// TestWipedControllerIsRefusedAndRejoins is the case that loses acknowledged jobs where Raft is started on an empty
// directory: one controller is behind, another is wiped, and the two would make a majority without the data.
func TestWipedControllerIsRefusedAndRejoins(t *testing.T) {
	t.Parallel()
	c := upCluster(t, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var stale, wiped *Daemon
	for _, d := range c.Controllers {
		switch {
		case d == leader:
		case stale == nil:
			stale = d
		default:
			wiped = d
		}
	}
	stale.Kill(syscall.SIGKILL)
	var ids []uint64
	for i := range 10 {
		id, err := c.submitOne(ctx, sleeper(fmt.Sprintf("j%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	wiped.Kill(syscall.SIGKILL)
	if err := os.RemoveAll(filepath.Join(c.opt.Dir, wiped.Name)); err != nil {
		t.Fatal(err)
	}
	if err := wiped.Start(); err != nil {
		t.Fatal(err)
	}
	if code := wiped.Wait(); code != 64 {
		t.Errorf("the wiped controller ended with %d, want 64", code)
	}
	log, _ := os.ReadFile(wiped.Log)
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	if last := lines[len(lines)-1]; !strings.Contains(last, "--join") || !strings.Contains(last, "--bootstrap") {
		t.Errorf("the last line does not say what to do: %s", last)
	}
	if err := stale.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitLeader(ctx); err != nil {
		t.Fatal(err)
	}
	if err := wiped.Start("--join", leader.Addr); err != nil {
		t.Fatal(err)
	}
	if err := c.awaitVoters(ctx); err != nil {
		t.Fatal(err)
	}
	for _, d := range c.Controllers {
		err := Poll(ctx, "wait for "+d.Name+" to have every job", func() error {
			_, jobs, err := c.Jobs(ctx, d.Addr, &fettlev1.ListJobsRequest{})
			if err != nil {
				return err
			}
			if len(jobs) != len(ids) {
				return fmt.Errorf("%d of %d jobs", len(jobs), len(ids))
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestReadsWithoutQuorum checks that a controller alone still answers what it has, labelled as stale, and refuses what it
// cannot promise.
func TestReadsWithoutQuorum(t *testing.T) {
	t.Parallel()
	c := upCluster(t, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if _, err := c.submitOne(ctx, sleeper("j")); err != nil {
		t.Fatal(err)
	}
	last := c.Controllers[2]
	if err := Poll(ctx, "wait for the last controller to have the job", func() error {
		_, jobs, err := c.Jobs(ctx, last.Addr, &fettlev1.ListJobsRequest{})
		if err == nil && len(jobs) != 1 {
			err = fmt.Errorf("%d jobs", len(jobs))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	c.Controllers[0].Kill(syscall.SIGKILL)
	c.Controllers[1].Kill(syscall.SIGKILL)
	if err := Poll(ctx, "wait for the last controller to see that it is alone", func() error {
		h, jobs, err := c.Jobs(ctx, last.Addr, &fettlev1.ListJobsRequest{})
		if err != nil {
			return err
		}
		if len(jobs) != 1 {
			t.Errorf("a stale read shows %d jobs, want 1", len(jobs))
		}
		if h.GetIsLeader() || h.GetLevel() != fettlev1.ReadLevel_READ_LEVEL_STALE {
			return fmt.Errorf("header %v", h)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	short, cancelShort := context.WithTimeout(ctx, 3*time.Second)
	defer cancelShort()
	_, _, err := c.Jobs(short, last.Addr, &fettlev1.ListJobsRequest{Read: &fettlev1.ReadOptions{Level: fettlev1.ReadLevel_READ_LEVEL_LINEARIZABLE}})
	if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
		t.Errorf("a linearizable read without a quorum answered %v", err)
	}
}

// TestFollowerForwards checks that a client may talk to any controller, and that the follower's own user is not taken
// for the caller where it matters.
func TestFollowerForwards(t *testing.T) {
	t.Parallel()
	c := upCluster(t, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range c.Controllers {
		resp, err := c.Client(d.Addr).SubmitJobs(ctx, &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{{RequestId: d.Name, Spec: sleeper(d.Name)}}})
		if err != nil {
			t.Errorf("submit through %s (leader is %s): %v", d.Name, leader.Name, err)
			continue
		}
		id := resp.GetResults()[0].GetJobId()
		got, err := c.Client(d.Addr).GetJob(ctx, &fettlev1.GetJobRequest{JobId: id, Read: &fettlev1.ReadOptions{MinIndex: resp.GetHeader().GetIndex()}})
		if err != nil || got.GetJob().GetUid() != uint32(os.Getuid()) || got.GetHeader().GetServerName() != d.Name {
			t.Errorf("read of the own write through %s: %v %v", d.Name, got, err)
		}
	}
}
