package e2e

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

var (
	chaosFor   = flag.Duration("chaos.for", 20*time.Second, "how long the leader is killed again and again")
	chaosEvery = flag.Duration("chaos.every", 5*time.Second, "how often")
	chaosSeed  = flag.Uint64("chaos.seed", 0, "seed of the clients' choices; 0 takes the time")
)

// witness is a job that writes down when it starts and ends, on one clock, where no fault reaches.
const witness = `#!/bin/sh
read up _ </proc/uptime
echo "$FETTLE_JOB_ID $FETTLE_ATTEMPT start $up" >>"$1"
%s
read up _ </proc/uptime
echo "$FETTLE_JOB_ID $FETTLE_ATTEMPT end $up" >>"$1"
exit %d
`

// ledger is what clients were told.
type ledger struct {
	mu   sync.Mutex
	jobs map[uint64]string // job number to request id
	exit map[uint64]int
	// cancelled jobs: the cancel was answered without an error.
	cancelled map[uint64]bool
	problems  []string
}

func (l *ledger) problem(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.problems = append(l.problems, fmt.Sprintf(format, args...))
}

// TestChaos submits, cancels and lets jobs end while the leader is killed with SIGKILL again and again and started anew.
// At the end every answered job exists on all replicas in a legal, final state, none ran twice at once, every request id
// made one job, and the replicas' states are equal.
func TestChaos(t *testing.T) {
	t.Parallel()
	c := upCluster(t, Options{Nodes: 2, CPUs: 16, GRES: "gpu:h100:8"})
	seed := *chaosSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat the clients' choices with: go test ./packaging/e2e -run TestChaos -chaos.for %v -chaos.every %v -chaos.seed %d", *chaosFor, *chaosEvery, seed)
	ctx, cancel := context.WithTimeout(t.Context(), *chaosFor+3*time.Minute)
	defer cancel()
	l := &ledger{jobs: map[uint64]string{}, exit: map[uint64]int{}, cancelled: map[uint64]bool{}}
	wit := filepath.Join(c.opt.Dir, "witness")
	deadline := time.Now().Add(*chaosFor)
	var stop atomic.Bool
	var clients sync.WaitGroup
	for i := range 6 {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		clients.Go(func() {
			pace := time.NewTicker(80 * time.Millisecond)
			defer pace.Stop()
			for !stop.Load() && ctx.Err() == nil {
				c.oneJob(ctx, l, rng, wit)
				<-pace.C
			}
		})
	}
	kills := c.killLeaders(ctx, t, deadline)
	stop.Store(true)
	clients.Wait()
	if kills == 0 {
		t.Error("no leader was killed")
	}
	c.awaitAllEnded(ctx, t, l)
	c.checkLedger(ctx, t, l)
	checkWitness(t, wit, l)
	for _, p := range l.problems {
		t.Error(p)
	}
	t.Logf("%d jobs, %d cancels answered, %d leaders killed", len(l.jobs), len(l.cancelled), kills)
}

// oneJob submits one job, repeating the same request until it is answered, and sometimes cancels one.
func (c *Cluster) oneJob(ctx context.Context, l *ledger, rng *rand.Rand, wit string) {
	req := uuid.NewString()
	body, exit := ":", 0
	if rng.IntN(4) == 0 {
		body = fmt.Sprintf("sleep 0.%d", rng.IntN(9)+1)
	}
	if rng.IntN(5) == 0 {
		exit = 1 + rng.IntN(3)
	}
	spec := &fettlev1.JobSpec{
		Name: "chaos", Method: "script", Script: fmt.Appendf(nil, witness, body, exit), Args: []string{wit}, WorkDir: c.opt.Dir,
		StdoutPath: "out-%j.log", Priority: uint32(1 + rng.IntN(10)), GpusPerNode: &fettlev1.GPURequest{Count: uint32(rng.IntN(2))},
		KillGraceS: 2, Retries: new(uint32),
	}
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
	if err != nil {
		if ctx.Err() == nil {
			l.problem("submit %s: %v", req, err)
		}
		return
	}
	l.mu.Lock()
	if other, ok := l.jobs[id]; ok {
		l.problems = append(l.problems, fmt.Sprintf("job number %d was given to %s and to %s", id, other, req))
	}
	l.jobs[id], l.exit[id] = req, exit
	l.mu.Unlock()
	if rng.IntN(6) != 0 {
		return
	}
	err = c.Do(ctx, func(ctx context.Context, cl fettlev1.ControllerServiceClient) error {
		resp, err := cl.CancelJobs(ctx, &fettlev1.CancelJobsRequest{RequestId: uuid.NewString(), Select: &fettlev1.JobSelector{Ids: []uint64{id}}})
		if err == nil && resp.GetResults()[0].GetError() == nil {
			l.mu.Lock()
			l.cancelled[id] = true
			l.mu.Unlock()
		}
		return err
	})
	if err != nil && ctx.Err() == nil {
		l.problem("cancel %d: %v", id, err)
	}
}

// killLeaders kills the leader with SIGKILL at every interval and starts it again, until the deadline.
func (c *Cluster) killLeaders(ctx context.Context, t *testing.T, deadline time.Time) int {
	t.Helper()
	kills := 0
	tick := time.NewTicker(*chaosEvery)
	defer tick.Stop()
	for time.Now().Before(deadline) {
		select {
		case <-ctx.Done():
			return kills
		case <-tick.C:
		}
		d, err := c.Leader(ctx)
		if err != nil {
			continue
		}
		d.Kill(syscall.SIGKILL)
		kills++
		if err := d.Start(); err != nil {
			t.Error(err)
			return kills
		}
	}
	return kills
}

func (c *Cluster) awaitAllEnded(ctx context.Context, t *testing.T, l *ledger) {
	t.Helper()
	err := Poll(ctx, "wait for all jobs to end", func() error {
		d, err := c.Leader(ctx)
		if err != nil {
			return err
		}
		_, open, err := c.Jobs(ctx, d.Addr, &fettlev1.ListJobsRequest{})
		if err != nil {
			return err
		}
		if len(open) > 0 {
			return fmt.Errorf("%d jobs are not over, job %d is %s: %s", len(open), open[0].GetId(), open[0].GetState(), open[0].GetDetail())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	_ = l
}

// checkLedger compares what clients were told with what every replica has.
func (c *Cluster) checkLedger(ctx context.Context, t *testing.T, l *ledger) {
	t.Helper()
	hashes := map[string][]string{}
	err := Poll(ctx, "wait for equal replicas", func() error {
		clear(hashes)
		for _, d := range c.Controllers {
			resp, err := c.Client(d.Addr).GetCluster(ctx, &fettlev1.GetClusterRequest{})
			if err != nil {
				return err
			}
			key := fmt.Sprintf("%d %s", resp.GetHeader().GetIndex(), resp.GetStateHash())
			hashes[key] = append(hashes[key], d.Name)
		}
		if len(hashes) > 1 {
			return fmt.Errorf("replicas differ: %v", hashes)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for _, d := range c.Controllers {
		_, jobs, err := c.Jobs(ctx, d.Addr, &fettlev1.ListJobsRequest{IncludeFinished: true})
		if err != nil {
			t.Errorf("%s: %v", d.Name, err)
			continue
		}
		byID, byRequest := map[uint64]*fettlev1.Job{}, map[string]uint64{}
		for _, j := range jobs {
			byID[j.GetId()] = j
			if other, ok := byRequest[j.GetRequestId()]; ok {
				t.Errorf("%s: request %s made jobs %d and %d", d.Name, j.GetRequestId(), other, j.GetId())
			}
			byRequest[j.GetRequestId()] = j.GetId()
		}
		for id, req := range l.jobs {
			j := byID[id]
			if j == nil {
				t.Errorf("%s: answered job %d does not exist", d.Name, id)
				continue
			}
			checkEnd(t, d.Name, j, req, l)
		}
	}
}

func checkEnd(t *testing.T, where string, j *fettlev1.Job, req string, l *ledger) {
	t.Helper()
	if j.GetRequestId() != req {
		t.Errorf("%s: job %d is of request %s, want %s", where, j.GetId(), j.GetRequestId(), req)
	}
	if !model.Terminal(j.GetState()) {
		t.Errorf("%s: job %d is %s", where, j.GetId(), j.GetState())
		return
	}
	want := l.exit[j.GetId()]
	switch j.GetState() {
	case fettlev1.JobState_JOB_STATE_COMPLETED:
		if want != 0 {
			t.Errorf("%s: job %d is completed, but exits with %d", where, j.GetId(), want)
		}
	case fettlev1.JobState_JOB_STATE_FAILED:
		if want == 0 || int(j.GetExitCode()) != want {
			t.Errorf("%s: job %d failed with %d (%s), want %d", where, j.GetId(), j.GetExitCode(), j.GetDetail(), want)
		}
	case fettlev1.JobState_JOB_STATE_CANCELLED:
	default:
		t.Errorf("%s: job %d ended as %s: %s", where, j.GetId(), j.GetState(), j.GetDetail())
	}
}

// checkWitness checks that no two attempts of a job were alive at once and none was started twice.
func checkWitness(t *testing.T, path string, l *ledger) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	type span struct{ start, end float64 }
	spans := map[uint64]map[int]*span{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var id uint64
		var attempt int
		var what string
		var at float64
		if _, err := fmt.Sscan(strings.TrimSpace(lines.Text()), &id, &attempt, &what, &at); err != nil {
			t.Errorf("witness line %q: %v", lines.Text(), err)
			continue
		}
		if l.jobs[id] == "" {
			t.Errorf("job %d ran, but no client was ever told of it", id)
		}
		if spans[id] == nil {
			spans[id] = map[int]*span{}
		}
		s := spans[id][attempt]
		switch {
		case what == "start" && s != nil:
			t.Errorf("job %d attempt %d was started twice", id, attempt)
		case what == "start":
			spans[id][attempt] = &span{start: at, end: -1}
		case s == nil:
			t.Errorf("job %d attempt %d ended without a start", id, attempt)
		default:
			s.end = at
		}
	}
	for id, attempts := range spans {
		for n, s := range attempts {
			if next := attempts[n+1]; next != nil && s.end > next.start {
				t.Errorf("job %d: attempt %d ran until %.2f, attempt %d since %.2f", id, n, s.end, n+1, next.start)
			}
		}
	}
	if len(spans) == 0 {
		t.Error("no job ran")
	}
}
