package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// gate is a file that jobs wait for.
type gate string

func (c *Cluster) gate() gate { return gate(filepath.Join(c.opt.Dir, "gate-"+uuid.NewString())) }

// wait is shell that waits until the gate is open, or the cluster's directory gone: no job outlives a test that failed.
func (g gate) wait() string {
	return "while [ -d " + filepath.Dir(string(g)) + " ] && [ ! -e " + string(g) + " ]; do sleep 0.05; done"
}

func (g gate) open(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(string(g), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs a client command and returns what it prints.
func (c *Cluster) run(ctx context.Context, t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := c.Command(ctx, name, args...).Output()
	if err != nil {
		t.Fatalf("%s %q: %v %s", name, args, err, stderrOf(err))
	}
	return string(out)
}

// refused runs a client command that has to be refused in one line that names all of these.
func (c *Cluster) refused(ctx context.Context, t *testing.T, name string, args []string, want ...string) {
	t.Helper()
	out, err := c.Command(ctx, name, args...).Output()
	if err == nil {
		t.Errorf("%s %q was not refused: %s", name, args, out)
		return
	}
	text := strings.TrimSpace(string(stderrOf(err)))
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%s %q was refused with %q, which does not say %q", name, args, text, w)
		}
	}
	if strings.Contains(text, "\n") {
		t.Errorf("%s %q was refused in several lines: %q", name, args, text)
	}
}

// apply sets the cluster's policy by the command.
func (c *Cluster) apply(ctx context.Context, t *testing.T, policy string) {
	t.Helper()
	c.run(ctx, t, "fctl", "apply", "--yes", "-f", writeFile(t, policy))
}

// writeFile writes a file of the test's own.
func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cluster.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// job submits a shell command by fsubmit, without an output file.
func (c *Cluster) job(ctx context.Context, t *testing.T, script string, args ...string) uint64 {
	t.Helper()
	return c.fsubmit(ctx, t, append(append([]string{"--output", "/dev/null"}, args...), "--wrap", script)...)
}

// started waits until a job has begun to run, and returns it.
func (c *Cluster) started(ctx context.Context, t *testing.T, id uint64) *fettlev1.Job {
	t.Helper()
	return c.awaitJob(ctx, t, id, "to run", func(j *fettlev1.Job) bool { return running(j) || over(j) })
}

// completed waits until a job is over, and checks that it went well.
func (c *Cluster) completed(ctx context.Context, t *testing.T, id uint64) *fettlev1.Job {
	t.Helper()
	j := c.awaitJob(ctx, t, id, "to end", over)
	if j.GetState() != fettlev1.JobState_JOB_STATE_COMPLETED {
		t.Errorf("job %d ended as %s: %s %s", id, j.GetState(), model.ReasonText(j.GetReason()), j.GetDetail())
	}
	return j
}

// waits waits until a job waits for this reason, and returns it. A job that starts instead fails the test.
func (c *Cluster) waits(ctx context.Context, t *testing.T, id uint64, reason fettlev1.Reason) *fettlev1.Job {
	t.Helper()
	j := c.awaitJob(ctx, t, id, "to wait: "+model.ReasonText(reason), func(j *fettlev1.Job) bool {
		return j.GetReason() == reason || j.GetState() != fettlev1.JobState_JOB_STATE_PENDING
	})
	if j.GetState() != fettlev1.JobState_JOB_STATE_PENDING {
		t.Fatalf("job %d is %s, it should wait: %s", id, j.GetState(), model.ReasonText(reason))
	}
	return j
}

// awaitLines waits until a file that jobs write has so many lines.
func awaitLines(ctx context.Context, t *testing.T, path string, n int) {
	t.Helper()
	err := Poll(ctx, fmt.Sprintf("wait for %d lines in %s", n, filepath.Base(path)), func() error {
		data, _ := os.ReadFile(path)
		if have := strings.Count(string(data), "\n"); have < n {
			return fmt.Errorf("there are %d", have)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// newestOf is a job's newest attempt, empty when there is none.
func newestOf(j *fettlev1.Job) *fettlev1.Attempt {
	if n := len(j.GetAttempts()); n > 0 {
		return j.GetAttempts()[n-1]
	}
	return &fettlev1.Attempt{}
}

// nodesOf and gpusOf are what a job's newest attempt holds, sorted.
func nodesOf(j *fettlev1.Job) (names []string) {
	for _, a := range newestOf(j).GetNodes() {
		names = append(names, a.GetNode())
	}
	slices.Sort(names)
	return names
}

func gpusOf(j *fettlev1.Job) (uuids []string) {
	for _, a := range newestOf(j).GetNodes() {
		uuids = append(uuids, a.GetGpuUuids()...)
	}
	slices.Sort(uuids)
	return uuids
}

// watch gathers what happens to jobs.
type watch struct {
	mu     sync.Mutex
	events []*fettlev1.Event
}

// watchJobs follows events of jobs on the leader until ctx ends.
func (c *Cluster) watchJobs(ctx context.Context, t *testing.T) *watch {
	t.Helper()
	d, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Client(d.Addr).GetCluster(ctx, &fettlev1.GetClusterRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	stream, err := c.Client(d.Addr).WatchEvents(ctx, &fettlev1.WatchEventsRequest{AfterIndex: resp.GetHeader().GetIndex()})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	w := &watch{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			msg, err := stream.Recv()
			if err != nil {
				if ctx.Err() == nil && !errors.Is(err, io.EOF) {
					t.Errorf("watch: %v", err)
				}
				return
			}
			if msg.GetResync() {
				t.Error("watch: events were lost")
				return
			}
			w.mu.Lock()
			for _, e := range msg.GetEvents() {
				if e.GetJobId() != 0 {
					w.events = append(w.events, e)
				}
			}
			w.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

// until waits until an event satisfies want, and returns all events so far.
func (w *watch) until(ctx context.Context, t *testing.T, what string, want func(*fettlev1.Event) bool) []*fettlev1.Event {
	t.Helper()
	var events []*fettlev1.Event
	err := Poll(ctx, "watch for "+what, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if events = slices.Clone(w.events); !slices.ContainsFunc(events, want) {
			return fmt.Errorf("not among %d events", len(events))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// holds reports whether a job in this state holds resources.
func holds(s fettlev1.JobState) bool {
	return s != fettlev1.JobState_JOB_STATE_PENDING && !model.Terminal(s)
}

// most is how many of the jobs that pick accepts held resources at once.
func most(events []*fettlev1.Event, pick func(*fettlev1.Event) bool) int {
	held, top := map[uint64]bool{}, 0
	for _, e := range events {
		switch {
		case !pick(e):
		case holds(e.GetState()):
			held[e.GetJobId()] = true
		default:
			delete(held, e.GetJobId())
		}
		top = max(top, len(held))
	}
	return top
}
