package e2e

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

const limitsPolicy = `
[[partition]]
name = "main"
default = true
max_gpus_per_job = 4
[[partition]]
name = "narrow"
max_jobs_running = 4
[[project]]
name = "open"
members = ["*"]
[[project]]
name = "lab"
max_gpus = 4
[[project]]
name = "tight"
parent = "lab"
members = ["*"]
max_gpus = 3
[[user]]
name = "*"
max_gpus = 5
`

// TestLimitsHoldWhileManySubmit races submits that run into the limits of a partition, a project and a user, and counts what
// runs at any time.
func TestLimitsHoldWhileManySubmit(t *testing.T) {
	t.Parallel()
	c := upCluster(t, Options{Nodes: 1, CPUs: 64, GRES: "gpu:h100:8"})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	c.apply(ctx, t, limitsPolicy)
	c.refused(ctx, t, "fsubmit", []string{"--gpus", "5", "--wrap", "true"}, "gpus", "4")
	c.refused(ctx, t, "fsubmit", []string{"--project", "lab2", "--wrap", "true"}, "lab2")
	w := c.watchJobs(ctx, t)
	g := c.gate()
	kinds := []struct {
		name, limit string
		spec        func(*fettlev1.JobSpec)
		why         fettlev1.Reason
	}{
		{"partition", "4", func(s *fettlev1.JobSpec) { s.Partition = "narrow" }, fettlev1.Reason_REASON_LIMIT_PARTITION},
		{"project", "3", func(s *fettlev1.JobSpec) { s.Project, s.GpusPerNode = "tight", &fettlev1.GPURequest{Count: 1} }, fettlev1.Reason_REASON_LIMIT_PROJECT},
		{"user", "5", func(s *fettlev1.JobSpec) { s.GpusPerNode = &fettlev1.GPURequest{Count: 1} }, fettlev1.Reason_REASON_LIMIT_USER},
	}
	var mu sync.Mutex
	kind := map[uint64]string{}
	submit := func(i int) (uint64, error) {
		k := kinds[i]
		spec := &fettlev1.JobSpec{Name: k.name, Method: "script", Script: []byte("#!/bin/sh\n" + g.wait() + "\n"), WorkDir: "/", StdoutPath: "/dev/null"}
		k.spec(spec)
		id, err := c.submitOne(ctx, spec)
		mu.Lock()
		defer mu.Unlock()
		kind[id] = k.name
		return id, err
	}
	// First as many as may run, then many more at once.
	var ids []uint64
	for i, n := range []int{4, 3, 2} {
		for range n {
			id, err := submit(i)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		c.started(ctx, t, id)
	}
	const racing = 200
	late := make([]uint64, racing)
	var group sync.WaitGroup
	for i := range racing {
		group.Go(func() {
			id, err := submit(i % len(kinds))
			if err != nil {
				t.Errorf("submit: %v", err)
			}
			late[i] = id
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	for i, k := range kinds {
		if j := c.waits(ctx, t, late[i], k.why); !strings.Contains(j.GetDetail(), k.limit) {
			t.Errorf("job %d waits with %s, which does not say %q: %s", late[i], j.GetReason(), k.limit, j.GetDetail())
		}
	}
	if quota := c.run(ctx, t, "fctl", "quota", "show"); !strings.Contains(quota, "narrow") || !strings.Contains(quota, "tight") {
		t.Errorf("fctl quota leaves out limits:\n%s", quota)
	}
	g.open(t)
	ids = append(ids, late...)
	ended := map[uint64]bool{}
	events := w.until(ctx, t, "the end of every job", func(e *fettlev1.Event) bool {
		if e.GetState() == fettlev1.JobState_JOB_STATE_COMPLETED {
			ended[e.GetJobId()] = true
		}
		return len(ended) == len(ids)
	})
	for _, x := range []struct {
		kinds string
		want  int
	}{{"partition", 4}, {"project", 3}, {"project user", 5}} {
		if got := most(events, func(e *fettlev1.Event) bool { return strings.Contains(x.kinds, kind[e.GetJobId()]) }); got != x.want {
			t.Errorf("%d jobs under the limits of %s held resources at once, want %d", got, x.kinds, x.want)
		}
	}
}
