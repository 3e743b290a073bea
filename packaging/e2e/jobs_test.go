package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// fsubmit submits through the real command and returns the job's number.
func (c *Cluster) fsubmit(ctx context.Context, t *testing.T, args ...string) uint64 {
	t.Helper()
	out, err := c.Command(ctx, "fsubmit", append([]string{"--parsable"}, args...)...).Output()
	if err != nil {
		t.Fatalf("fsubmit %q: %v %s", args, err, stderrOf(err))
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		t.Fatalf("fsubmit printed %q", out)
	}
	return id
}

// awaitJob polls a job until want is satisfied.
func (c *Cluster) awaitJob(ctx context.Context, t *testing.T, id uint64, what string, want func(*fettlev1.Job) bool) *fettlev1.Job {
	t.Helper()
	var job *fettlev1.Job
	err := Poll(ctx, fmt.Sprintf("wait for job %d %s", id, what), func() error {
		d, err := c.Leader(ctx)
		if err != nil {
			return err
		}
		resp, err := c.Client(d.Addr).GetJob(ctx, &fettlev1.GetJobRequest{JobId: id})
		if err != nil {
			return err
		}
		if job = resp.GetJob(); !want(job) {
			return fmt.Errorf("it is %s: %s", job.GetState(), job.GetDetail())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return job
}

func running(j *fettlev1.Job) bool { return j.GetState() == fettlev1.JobState_JOB_STATE_RUNNING }
func over(j *fettlev1.Job) bool    { return j.GetEndMs() != 0 }

// TestJobSurvivesKills kills the node daemon and the leader at once while a job runs, and checks that the job, its exit
// code and its output are untouched, whether it ends before or after the daemon is back.
func TestJobSurvivesKills(t *testing.T) {
	t.Parallel()
	c := upCluster(t, Options{Nodes: 1, CPUs: 4})
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	gate := filepath.Join(c.opt.Dir, "gate")
	long := c.fsubmit(ctx, t, "--wrap", "i=0; while [ ! -e "+gate+" ]; do i=$((i+1)); echo line $i; sleep 0.02; done; echo last $i; exit 7")
	short := c.fsubmit(ctx, t, "--wrap", "sleep 1; echo done; exit 3")
	c.awaitJob(ctx, t, long, "to run", running)
	c.awaitJob(ctx, t, short, "to run", running)
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []*Daemon{c.Nodes[0], leader} {
		if err := d.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	c.Nodes[0].Wait()
	leader.Wait()
	// The short one ends while nobody looks.
	output := func(id uint64) string {
		b, _ := os.ReadFile(filepath.Join(c.opt.Dir, fmt.Sprintf("fettle-%d.out", id)))
		return string(b)
	}
	if err := Poll(ctx, "wait for the short job's last line", func() error {
		if !strings.Contains(output(short), "done") {
			return errors.New("not there")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := c.Nodes[0].Start(); err != nil {
		t.Fatal(err)
	}
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	c.awaitJob(ctx, t, long, "to be seen running again", func(j *fettlev1.Job) bool { return running(j) && j.GetAttempt() == 1 })
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for id, code := range map[uint64]int32{long: 7, short: 3} {
		j := c.awaitJob(ctx, t, id, "to end", over)
		if j.GetExitCode() != code || j.GetAttempt() != 1 || j.GetState() != fettlev1.JobState_JOB_STATE_FAILED {
			t.Errorf("job %d ended as %s with exit code %d after %d attempts, want FAILED, %d, 1", id, j.GetState(), j.GetExitCode(), j.GetAttempt(), code)
		}
	}
	lines := strings.Split(strings.TrimSpace(output(long)), "\n")
	for i, l := range lines[:len(lines)-1] {
		if l != fmt.Sprintf("line %d", i+1) {
			t.Fatalf("output line %d is %q", i+1, l)
		}
	}
	shown, err := c.Command(ctx, "flog", fmt.Sprint(long)).Output()
	if err != nil || !strings.Contains(string(shown), lines[len(lines)-1]) || strings.Count(string(shown), "\n") < len(lines) {
		t.Errorf("flog shows %d lines of %d: %v %s", strings.Count(string(shown), "\n"), len(lines), err, stderrOf(err))
	}
}

// TestGangRanks runs a gang over two nodes and checks what each rank is told.
func TestGangRanks(t *testing.T) {
	t.Parallel()
	c := upCluster(t, Options{Nodes: 2, CPUs: 4, GRES: "gpu:h100:4"})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	out := filepath.Join(c.opt.Dir, "ranks")
	id := c.fsubmit(ctx, t, "--nodes", "2", "--gpus", "4", "--output", "/dev/null", "--wrap",
		`echo "$FETTLE_NODE_RANK $NODE_RANK $NNODES $NPROC_PER_NODE $MASTER_ADDR $MASTER_PORT $CUDA_VISIBLE_DEVICES" >>`+out)
	if j := c.awaitJob(ctx, t, id, "to end", over); j.GetState() != fettlev1.JobState_JOB_STATE_COMPLETED || len(j.GetAttempts()[0].GetNodes()) != 2 {
		t.Fatalf("the gang ended as %s (%s) on %d nodes", j.GetState(), j.GetDetail(), len(j.GetAttempts()[0].GetNodes()))
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var ranks []string
	port := ""
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) != 7 || f[0] != f[1] || f[2] != "2" || f[3] != "2" || f[4] != "127.0.0.1" || len(strings.Split(f[6], ",")) != 2 || (port != "" && f[5] != port) {
			t.Errorf("a rank was told %q", line)
			continue
		}
		port = f[5]
		ranks = append(ranks, f[0])
	}
	if len(ranks) != 2 || ranks[0] == ranks[1] {
		t.Errorf("ranks %v, want 0 and 1", ranks)
	}
}

// TestCancelLeavesNoProcess cancels a job whose processes ignore TERM and hide in sessions of their own.
func TestCancelLeavesNoProcess(t *testing.T) {
	t.Parallel()
	c := upCluster(t, Options{Nodes: 1, CPUs: 4})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	pids := filepath.Join(c.opt.Dir, "pids")
	id := c.fsubmit(ctx, t, "--kill-grace", "1s", "--wrap",
		`trap '' TERM; (trap '' TERM; setsid sh -c 'trap "" TERM; echo $$ >>`+pids+`; while :; do sleep 1; done' &) ; echo $$ >>`+pids+`; while :; do sleep 1; done`)
	if err := Poll(ctx, "wait for both processes", func() error {
		if b, _ := os.ReadFile(pids); strings.Count(string(b), "\n") < 2 {
			return errors.New("not there")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Command(ctx, "fcancel", fmt.Sprint(id)).CombinedOutput(); err != nil {
		t.Fatalf("fcancel: %v %s", err, out)
	}
	if j := c.awaitJob(ctx, t, id, "to end", over); j.GetState() != fettlev1.JobState_JOB_STATE_CANCELLED {
		t.Errorf("job ended as %s", j.GetState())
	}
	data, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(data)) {
		pid, err := strconv.Atoi(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, 0); err == nil && !zombie(pid) {
			t.Errorf("process %d of the cancelled job is alive", pid)
		}
	}
}

func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

// TestWaitGivesTheExitCode checks what scripts around fsubmit rely on.
func TestWaitGivesTheExitCode(t *testing.T) {
	t.Parallel()
	c := upCluster(t, Options{Controllers: 1, Nodes: 1, CPUs: 4})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for wrap, want := range map[string]int{"exit 0": 0, "exit 5": 5, "kill -9 $$": 137} {
		err := c.Command(ctx, "fsubmit", "--wait", "--retries", "0", "--wrap", wrap).Run()
		code := 0
		var ee *exec.ExitError
		if errors.As(err, &ee) {
			code = ee.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if code != want {
			t.Errorf("fsubmit --wait --wrap %q ended with %d, want %d", wrap, code, want)
		}
	}
	id := c.fsubmit(ctx, t, "--time", "0:01", "--kill-grace", "1s", "--wrap", "sleep 60")
	if j := c.awaitJob(ctx, t, id, "to end", over); j.GetState() != fettlev1.JobState_JOB_STATE_TIMEOUT {
		t.Errorf("a job over its time limit ended as %s: %s", j.GetState(), j.GetDetail())
	}
}
