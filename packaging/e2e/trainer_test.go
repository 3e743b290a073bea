package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// trainer returns the trainer's command and the Python that goes with it, as `make e2e` provides them.
func trainer(t *testing.T) (engine, python string) {
	t.Helper()
	engine, python = os.Getenv("FETTLE_E2E_ENGINE"), os.Getenv("FETTLE_E2E_PYTHON")
	if engine == "" || python == "" {
		t.Skip("needs LLaMA-Factory: run `make e2e`, which installs it")
	}
	return engine, python
}

// TestTrainingSurvivesKills kills the node daemon and the leading controller at once, with SIGKILL, while a real
// fine-tuning job trains. The job goes on, and its exit code, log and adapter are complete.
func TestTrainingSurvivesKills(t *testing.T) {
	engine, python := trainer(t)
	c := upCluster(t, Options{Nodes: 1, CPUs: 4, GRES: "gpu:h100:1", Engine: engine})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	example := filepath.Join("..", "quickstart")
	work := t.TempDir()
	if err := os.CopyFS(filepath.Join(work, "data"), os.DirFS(filepath.Join(example, "data"))); err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(filepath.Join(example, "train_low.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(work, "train.yaml"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(ctx, python, filepath.Join(example, "tiny_model.py"), filepath.Join(work, "tiny-model")).CombinedOutput(); err != nil {
		t.Fatalf("tiny model: %v\n%s", err, out)
	}
	submit := c.Command(ctx, "fsubmit", "--parsable", "--gpus", "1", "--set", "logging_steps=1", "--output", filepath.Join(work, "train.log"),
		"--set", "output_dir="+filepath.Join(work, "out"), filepath.Join(work, "train.yaml"))
	out, err := submit.Output()
	if err != nil {
		t.Fatalf("fsubmit: %v %s", err, stderrOf(err))
	}
	var id uint64
	if _, err := fmt.Sscan(string(out), &id); err != nil {
		t.Fatalf("fsubmit printed %q", out)
	}

	job := func() (*fettlev1.Job, error) {
		d, err := c.Leader(ctx)
		if err != nil {
			return nil, err
		}
		resp, err := c.Client(d.Addr).GetJob(ctx, &fettlev1.GetJobRequest{JobId: id})
		return resp.GetJob(), err
	}
	if err := Poll(ctx, "wait for the training to be under way", func() error {
		j, err := job()
		if err == nil && j.GetProgress().GetStep() < 5 {
			err = fmt.Errorf("job is %s at step %d: %s", j.GetState(), j.GetProgress().GetStep(), j.GetDetail())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
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
	if err := c.Nodes[0].Start(); err != nil {
		t.Fatal(err)
	}
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	var ended *fettlev1.Job
	if err := Poll(ctx, "wait for the job to end", func() error {
		j, err := job()
		if err == nil && j.GetEndMs() == 0 {
			err = fmt.Errorf("job is %s at step %d", j.GetState(), j.GetProgress().GetStep())
		}
		ended = j
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if ended.GetState() != fettlev1.JobState_JOB_STATE_COMPLETED || ended.GetExitCode() != 0 || ended.GetAttempt() != 1 {
		t.Errorf("job is %s with exit code %d after %d attempts (%s); want completed, 0, 1", ended.GetState(), ended.GetExitCode(), ended.GetAttempt(), ended.GetDetail())
	}
	if _, err := os.Stat(filepath.Join(work, "out", "adapter_model.safetensors")); err != nil {
		t.Error(err)
	}
	checkSteps(t, filepath.Join(work, "out", "trainer_log.jsonl"))
	file, err := os.ReadFile(filepath.Join(work, "train.log"))
	if err != nil {
		t.Fatal(err)
	}
	shown, err := c.Command(ctx, "flog", fmt.Sprint(id)).Output()
	if err != nil {
		t.Fatalf("flog: %v %s", err, stderrOf(err))
	}
	if !strings.Contains(string(shown), strings.TrimSpace(string(file[max(len(file)-400, 0):]))) {
		t.Errorf("flog does not show the end of the job's output file")
	}
}

// checkSteps checks that the trainer's own log has every step, once, and a loss that fell.
func checkSteps(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return
	}
	var first, last float64
	next := 1
	for line := range strings.Lines(string(data)) {
		var row struct {
			Step  int      `json:"current_steps"`
			Total int      `json:"total_steps"`
			Loss  *float64 `json:"loss"`
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Errorf("trainer log: %v in %q", err, line)
			return
		}
		if row.Loss == nil {
			continue
		}
		if row.Step != next {
			t.Errorf("trainer log goes from step %d to %d", next-1, row.Step)
			return
		}
		next++
		if first == 0 {
			first = *row.Loss
		}
		last = *row.Loss
	}
	if last >= first || next < 10 {
		t.Errorf("after %d steps the loss went from %.3f to %.3f", next-1, first, last)
	}
}

func stderrOf(err error) []byte {
	if ee, ok := err.(*exec.ExitError); ok {
		return ee.Stderr
	}
	return nil
}
