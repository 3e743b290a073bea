package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/plugins/policy"
)

const hourMS = int64(time.Hour / time.Millisecond)

// cycle is the caller's side of Scorer: it keeps the waiting jobs and the scores that it holds for them.
type cycle struct {
	t      testing.TB
	s      *Scheduling
	jobs   map[uint64]policy.Job
	scores map[uint64]int64
	delta  Delta
	// params are the weights that the shipped policy and its twin have been given.
	params policy.Params
}

func newCycle(t testing.TB, cfg SchedulingConfig) *cycle {
	t.Helper()
	s, err := NewScheduling(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return &cycle{t: t, s: s, jobs: map[uint64]policy.Job{}, scores: map[uint64]int64{}, delta: Delta{Full: true}, params: cfg.Builtin}
}

// accounts are those of the jobs of the tests.
var accounts = []*policy.Account{
	nil,
	{Levels: []policy.Level{{Name: "lab", Usage: policy.One / 3, Share: policy.One / 2}, {Name: "ann", Usage: policy.One, Share: policy.One / 7}}},
	{Levels: []policy.Level{{Name: "thesis", Share: policy.One}}},
	{},
}

func job(id uint64) policy.Job {
	return policy.Job{
		ID: id, Priority: uint32(id%10 + 1), EligibleMS: int64(id) * 1000, Size: uint32(id%8 + 1), TimeLimitS: int64(id % 3 * 600),
		User: fmt.Sprint("user", id%5), Project: fmt.Sprint("project", id%2), Partition: fmt.Sprint("partition", id%3),
		EstimateS: int64(id % 7 * 300), RemainingS: int64(id % 4 * 100), RunS: int64(id % 6 * 50), Running: id%9 == 0, Account: accounts[id%4],
	}
}

func (c *cycle) put(jobs ...policy.Job) {
	for _, j := range jobs {
		c.jobs[j.ID] = j
		c.delta.Changed.Append(j)
	}
}

func (c *cycle) remove(ids ...uint64) {
	for _, id := range ids {
		delete(c.jobs, id)
		delete(c.scores, id)
		c.delta.Removed = append(c.delta.Removed, id)
	}
}

// score runs one cycle and checks that all scores that are now held are of the one policy that the source names.
func (c *cycle) score() Source {
	c.t.Helper()
	scores, source, err := c.s.Score(c.t.Context(), c.delta)
	if err != nil {
		c.t.Fatal(err)
	}
	if scores.All {
		clear(c.scores)
	} else if c.delta.Full {
		c.t.Fatal("a full delta is not answered with all scores")
	}
	c.delta = Delta{}
	if len(scores.ID) != len(scores.Score) {
		c.t.Fatalf("%d jobs, %d scores", len(scores.ID), len(scores.Score))
	}
	for i, id := range scores.ID {
		c.scores[id] = scores.Score[i]
	}
	if want := c.want(source); !maps.Equal(c.scores, want) {
		c.t.Fatalf("scores of %s are %v, want %v", source, c.scores, want)
	}
	return source
}

// want is what the named policy has to say; the test plugin's scores are an hour after the eligible time.
func (c *cycle) want(source Source) map[uint64]int64 {
	want := map[uint64]int64{}
	for id, j := range c.jobs {
		if source.Builtin || source.Name == "sched-multifactor" {
			want[id] = c.params.ScoreJob(j)
		} else {
			want[id] = j.EligibleMS + hourMS
		}
	}
	return want
}

// until runs cycles until the source is as wanted, each with a changed job.
func (c *cycle) until(what string, ok func(Source) bool) (last Source) {
	c.t.Helper()
	n := uint64(1_000_000)
	eventually(c.t, what, func() bool {
		n++
		c.put(job(n))
		last = c.score()
		return ok(last)
	})
	return last
}

func byPlugin(s Source) bool  { return !s.Builtin }
func byBuiltin(s Source) bool { return s.Builtin }

func scheduling(t testing.TB, name string, settings map[string]string) SchedulingConfig {
	cfg := SchedulingConfig{Builtin: policy.Defaults(), Plugin: quickSched(t, plugin(t, "sched-"+name))}
	cfg.Plugin.Settings = settings
	cfg.Plugin.CallTimeout = patience
	return cfg
}

// TestShippedPolicy: the plugin that is shipped answers what the built-in policy would, delta by delta.
func TestShippedPolicy(t *testing.T) {
	t.Parallel()
	cfg := SchedulingConfig{Builtin: policy.Defaults(), Plugin: quickSched(t, binaries.multifactor)}
	cfg.Plugin.CallTimeout = patience
	c := newCycle(t, cfg)
	ready(t, c.s.Plugin())
	for id := range uint64(1000) {
		c.put(job(id + 1))
	}
	if got := c.score(); got.Builtin || got.Name != "sched-multifactor" || got.Version == "" {
		t.Errorf("decided by %s, want the plugin", got)
	}
	changed := job(17)
	changed.Priority = 1
	c.put(changed, job(5000))
	c.remove(3, 4, 999_999)
	if got := c.score(); got.Builtin {
		t.Errorf("the delta was decided by %s", got)
	}
	c.remove(17)
	c.score()
	if calls := c.s.Status().GetCalls(); calls != 3 {
		t.Errorf("%d calls for three cycles", calls)
	}
	settings := map[string]string{policy.FairShareSetting: "100h", policy.SizeSetting: "30m", "partition.partition1": "2h", "project.project0": "-45m"}
	params, err := policy.ParseSettings(settings)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.s.Configure(t.Context(), settings, params); err != nil {
		t.Fatal(err)
	}
	c.params = params
	if got := c.score(); got.Builtin {
		t.Errorf("with new settings decided by %s", got)
	}
	if err := c.s.Configure(t.Context(), map[string]string{policy.PrioritySetting: "nonsense"}, policy.Defaults()); !errors.Is(err, ErrRefused) {
		t.Errorf("wrong settings answer %v, want ErrRefused", err)
	}
}

// TestFIFO: the smallest policy orders by eligible time alone, and has no settings.
func TestFIFO(t *testing.T) {
	t.Parallel()
	cfg := SchedulingConfig{Builtin: policy.Defaults(), Plugin: quickSched(t, binaries.fifo)}
	cfg.Plugin.CallTimeout = patience
	c := newCycle(t, cfg)
	ready(t, c.s.Plugin())
	for _, d := range []Delta{{Full: true, Changed: columns(job(3), job(9), job(4))}, {Changed: columns(job(9)), Removed: []uint64{3}}} {
		scores, source, err := c.s.Score(t.Context(), d)
		if err != nil || source.Name != "sched-fifo" || source.Builtin || !slices.Equal(scores.Score, d.Changed.EligibleMS) {
			t.Errorf("scores %v by %s, %v; want the eligible times %v", scores, source, err, d.Changed.EligibleMS)
		}
	}
	if err := c.s.Configure(t.Context(), map[string]string{"zeal": "1"}, policy.Defaults()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "zeal") {
		t.Errorf("a setting answers %v, want ErrRefused", err)
	}
}

// TestDeltas: after the first cycle the plugin is sent what changed and no more, and the answer names no more.
func TestDeltas(t *testing.T) {
	t.Parallel()
	c := newCycle(t, scheduling(t, "good", nil))
	ready(t, c.s.Plugin())
	c.put(job(1), job(2), job(3))
	c.score()
	scores, _, err := c.s.Score(t.Context(), Delta{Changed: columns(job(2)), Removed: []uint64{3}})
	if err != nil || scores.All || len(scores.ID) != 1 || scores.ID[0] != 2 {
		t.Errorf("a delta of one job answers %v, %v", scores, err)
	}
	scores, _, err = c.s.Score(t.Context(), Delta{})
	if err != nil || scores.All || len(scores.ID) != 0 {
		t.Errorf("an empty delta answers %v, %v", scores, err)
	}
}

func columns(jobs ...policy.Job) (c policy.Columns) {
	for _, j := range jobs {
		c.Append(j)
	}
	return c
}

func TestWithoutPlugin(t *testing.T) {
	t.Parallel()
	c := newCycle(t, SchedulingConfig{Builtin: policy.Defaults()})
	c.put(job(1), job(2))
	got := c.score()
	if !got.Builtin || !strings.Contains(got.String(), "no scheduling plugin is configured") {
		t.Errorf("decided by %s", got)
	}
	scores, _, err := c.s.Score(t.Context(), Delta{Changed: columns(job(7))})
	if err != nil || scores.All || len(scores.ID) != 1 {
		t.Errorf("a delta answers %v, %v; want its one job", scores, err)
	}
	if st := c.s.Status(); st.GetState() != "running" || !strings.Contains(st.GetName(), "built in") {
		t.Errorf("status %v", st)
	}
}

// TestMissingPlugin: the queue is ordered from the first cycle on, with the reason.
func TestMissingPlugin(t *testing.T) {
	t.Parallel()
	cfg := scheduling(t, "gone", nil)
	cfg.Plugin.Restart.Count = 1
	if err := os.Remove(cfg.Plugin.Path); err != nil {
		t.Fatal(err)
	}
	c := newCycle(t, cfg)
	got := c.until("the plugin is given up", func(s Source) bool { return strings.Contains(s.Reason, "disabled") })
	if !got.Builtin || !strings.Contains(got.Reason, "no such file") {
		t.Errorf("decided by %s, want the built-in policy and why", got)
	}
}

// TestWrongAnswers: one bad answer is not used, three open the breaker, and good ones are watched before they count again.
func TestWrongAnswers(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]string{
		"error":            `no idea\x1b[2J what to do`,
		"panic":            "out of range",
		"other generation": "generation",
		"short":            "2 scores for 3 jobs",
		"long":             "4 scores for 3 jobs",
		"oversize":         "larger than max",
		"infinite":         "beyond",
		"insatiable":       "asks for everything",
		"exit":             "not available",
		"crash":            "not available",
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			while := filepath.Join(t.TempDir(), "while")
			if err := os.WriteFile(while, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := scheduling(t, "bad", map[string]string{"mode": mode, "while": while})
			cfg.Plugin.Breaker.Probes = 3
			c := newCycle(t, cfg)
			ready(t, c.s.Plugin())
			c.put(job(1), job(2), job(3))
			got := c.score()
			if !got.Builtin || !strings.Contains(got.Reason, want) || strings.ContainsAny(got.Reason, "\n\x1b") {
				t.Fatalf("decided by %s, want the built-in policy because of %q", got, want)
			}
			c.until("the breaker opens", func(s Source) bool { return strings.Contains(s.Reason, "left alone") })
			if err := os.Remove(while); err != nil {
				t.Fatal(err)
			}
			watched := 0
			c.until("the plugin decides again", func(s Source) bool {
				if strings.Contains(s.Reason, "probation") {
					watched++
				}
				return byPlugin(s)
			})
			if watched != 3 {
				t.Errorf("%d good answers were watched before one counted, want 3", watched)
			}
		})
	}
}

// TestCrashSaysWhy: the panic of a plugin is what its status shows.
func TestCrashSaysWhy(t *testing.T) {
	t.Parallel()
	cfg := scheduling(t, "bad", map[string]string{"mode": "crash"})
	cfg.Plugin.Restart.Count = 1
	c := newCycle(t, cfg)
	ready(t, c.s.Plugin())
	c.put(job(1))
	c.until("it is disabled", func(s Source) bool { return strings.Contains(s.Reason, "disabled") })
	if got := c.s.Status().GetLastError(); !strings.Contains(got, "panic: scores went missing") {
		t.Errorf("last error %q does not show the panic", got)
	}
}

// TestStoppedPlugin: SIGSTOP makes it late, the cycle goes on without it, and a fresh one takes its place.
func TestStoppedPlugin(t *testing.T) {
	t.Parallel()
	cfg := scheduling(t, "good", nil)
	cfg.Plugin.CallTimeout = 100 * time.Millisecond
	cfg.Plugin.Breaker.Probes = 1
	c := newCycle(t, cfg)
	ready(t, c.s.Plugin())
	c.put(job(1), job(2))
	c.until("the plugin decides", byPlugin)
	pid := pidOf(t, c.s.Plugin())
	stop(t, pid)
	c.put(job(3))
	if got := c.score(); !got.Builtin || !strings.Contains(got.Reason, ErrLate.Error()) || gone(pid) {
		t.Errorf("decided by %s (plugin gone: %v), want the built-in policy because it is late", got, gone(pid))
	}
	c.until("a fresh plugin decides", byPlugin)
	if !gone(pid) {
		t.Error("the stopped process is still there")
	}
}

// TestLateByTheCallersClock: the caller's own deadline bounds the call too, and the order is answered all the same.
func TestLateByTheCallersClock(t *testing.T) {
	t.Parallel()
	c := newCycle(t, scheduling(t, "bad", map[string]string{"mode": "hang"}))
	ready(t, c.s.Plugin())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	scores, source, err := c.s.Score(ctx, Delta{Full: true, Changed: columns(job(1), job(2))})
	if err != nil || !source.Builtin || !scores.All || len(scores.ID) != 2 {
		t.Errorf("got %v by %s, %v; want both jobs by the built-in policy", scores, source, err)
	}
	if got := c.s.Status().GetFailures(); got != 0 {
		t.Errorf("the caller's hurry is counted as %d failures of the plugin", got)
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	c := newCycle(t, scheduling(t, "bad", map[string]string{"mode": "hang"}))
	ready(t, c.s.Plugin())
	ctx, cancel := context.WithCancelCause(t.Context())
	lost := errors.New("leadership lost")
	time.AfterFunc(10*time.Millisecond, func() { cancel(lost) })
	if _, _, err := c.s.Score(ctx, Delta{Full: true, Changed: columns(job(1))}); !errors.Is(err, lost) {
		t.Errorf("got %v, want the cause", err)
	}
	if _, _, err := c.s.Score(t.Context(), Delta{Changed: columns(job(2))}); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("a delta after an error: %v, want to be told that it must be full", err)
	}
}

// TestKilledBetweenDeltas: kill -9 at any moment; every cycle has the scores of exactly one policy (cycle checks it), and the
// plugin is always back in the end. The plugin itself complains when a delta does not fit what it holds.
func TestKilledBetweenDeltas(t *testing.T) {
	t.Parallel()
	cfg := scheduling(t, "good", nil)
	cfg.Plugin.Breaker.Failures = 1000
	c := newCycle(t, cfg)
	ready(t, c.s.Plugin())
	id := uint64(0)
	for range 8 {
		c.until("the plugin decides", byPlugin)
		for range 5 {
			id++
			c.put(job(id), job(id+100))
			if id > 3 {
				c.remove(id - 3)
			}
			if got := c.score(); got.Builtin {
				t.Fatalf("decided by %s without a kill", got)
			}
		}
		pid := pidOf(t, c.s.Plugin())
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		c.until("the built-in policy or a new process decides", func(s Source) bool {
			return byBuiltin(s) || c.s.Status().GetRestarts() > 0 && gone(pid)
		})
	}
	eventually(t, "each kill is followed by a restart", func() bool { return c.s.Status().GetRestarts() == 8 })
}

// TestRequestTooLarge: what does not fit is not sent, and the plugin is not blamed.
func TestRequestTooLarge(t *testing.T) {
	t.Parallel()
	cfg := scheduling(t, "good", nil)
	cfg.Plugin.MaxRequestBytes = 300
	c := newCycle(t, cfg)
	ready(t, c.s.Plugin())
	for id := range uint64(100) {
		c.put(job(id + 1))
	}
	if got := c.score(); !got.Builtin || !strings.Contains(got.Reason, ErrTooLarge.Error()) {
		t.Errorf("decided by %s, want the built-in policy because of the size", got)
	}
	if st := c.s.Status(); st.GetFailures() != 0 || st.GetState() != "running" {
		t.Errorf("status %v, want no failure", st)
	}
}

// TestConfigureScoresAnew: new weights void every score.
func TestConfigureScoresAnew(t *testing.T) {
	t.Parallel()
	c := newCycle(t, scheduling(t, "good", nil))
	ready(t, c.s.Plugin())
	c.put(job(1), job(2))
	c.score()
	if err := c.s.Configure(t.Context(), map[string]string{"any": "thing"}, policy.Defaults()); err != nil {
		t.Fatal(err)
	}
	scores, source, err := c.s.Score(t.Context(), Delta{})
	if err != nil || !scores.All || len(scores.ID) != 2 || source.Builtin {
		t.Errorf("after new settings: %v by %s, %v; want all scores by the plugin", scores, source, err)
	}
}

// TestConfigureDoesNotHoldUpACycle: while the plugin hangs over its settings the queue is ordered.
func TestConfigureDoesNotHoldUpACycle(t *testing.T) {
	t.Parallel()
	cfg := scheduling(t, "good", nil)
	cfg.Plugin.CallTimeout = 50 * time.Millisecond
	c := newCycle(t, cfg)
	p := c.s.Plugin()
	ready(t, p)
	pid := pidOf(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.s.Configure(ctx, map[string]string{"mode": "hang in configure"}, policy.Defaults()) }()
	eventually(t, "the settings are under way", func() bool { return len(p.calls) == 1 })
	c.put(job(1), job(2))
	if got := c.score(); !got.Builtin || !strings.Contains(got.Reason, ErrLate.Error()) {
		t.Errorf("decided by %s, want the built-in policy", got)
	}
	select {
	case err := <-done:
		t.Errorf("the settings did not hang: %v", err)
	default:
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("settings that were broken off: %v", err)
	}
	eventually(t, "one with the old settings is started", func() bool { return gone(pid) })
	c.until("the plugin decides", byPlugin)
}

func TestDeltasThatDoNotFit(t *testing.T) {
	t.Parallel()
	full := Delta{Full: true, Changed: columns(job(1), job(2))}
	for want, deltas := range map[string][]Delta{
		"have to be":               {{Changed: columns(job(1))}},
		"job 5 comes twice":        {full, {Changed: columns(job(5), job(5))}},
		"job 6 comes twice":        {{Full: true, Changed: columns(job(6), job(6))}},
		"job number 0":             {full, {Changed: columns(policy.Job{})}},
		"both changed and removed": {full, {Changed: columns(job(2)), Removed: []uint64{2}}},
		"1 jobs are removed":       {{Full: true, Removed: []uint64{1}}},
		"want one length":          {{Full: true, Changed: policy.Columns{ID: []uint64{1}}}},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			c := newCycle(t, SchedulingConfig{Builtin: policy.Defaults()})
			var err error
			for _, d := range deltas {
				_, _, err = c.s.Score(t.Context(), d)
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Fatalf("got %v, want %q", err, want)
			}
			if _, _, err := c.s.Score(t.Context(), full); err != nil {
				t.Errorf("a full delta afterwards: %v", err)
			}
		})
	}
}
