package host

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/fettle-hpc/fettle/plugins/policy"
)

// TestExplainShipped: the shipped plugin takes its scores apart as the built-in twin does, and before it has scored anything the twin
// does.
func TestExplainShipped(t *testing.T) {
	t.Parallel()
	settings := map[string]string{policy.HysteresisSetting: "3h", "project.project1": "1h"}
	params, err := policy.ParseSettings(settings)
	if err != nil {
		t.Fatal(err)
	}
	cfg := SchedulingConfig{Builtin: params, Plugin: quickSched(t, binaries.multifactor)}
	cfg.Plugin.CallTimeout, cfg.Plugin.Settings = patience, settings
	c := newCycle(t, cfg)
	ready(t, c.s.Plugin())
	jobs := columns(job(1), job(2), job(9), job(18))
	byTwin, source, err := c.s.Explain(t.Context(), 0, &jobs)
	if err != nil || !source.Builtin {
		t.Fatalf("nobody has scored yet: explained by %s, %v; want the built-in policy", source, err)
	}
	c.put(job(1))
	c.score()
	got := explainPatiently(t, c, &jobs)
	if !reflect.DeepEqual(got, byTwin) {
		t.Errorf("the plugin explains\n%+v\nthe twin\n%+v", got, byTwin)
	}
	if nobody := explainPatiently(t, c, &policy.Columns{}); len(nobody.Jobs) != 0 || nobody.BoundMS != params.BoundMS() {
		t.Errorf("of nobody: %+v, want D alone", nobody)
	}
	if got.BoundMS != params.BoundMS() || len(got.Jobs) != 4 || got.Jobs[2].Score != params.ScoreJob(job(9)) {
		t.Errorf("bound %d, jobs %+v", got.BoundMS, got.Jobs)
	}
}

// explainPatiently asks the plugin until it is in time, which a busy machine may keep it from.
func explainPatiently(t *testing.T, c *cycle, jobs *policy.Columns) (got Explanation) {
	t.Helper()
	c.s.plugin.mu.Lock()
	c.s.plugin.breaker.limits.Failures = 1000
	c.s.plugin.mu.Unlock()
	eventually(t, "the plugin explains", func() bool {
		var source Source
		var err error
		got, source, err = c.s.Explain(t.Context(), 0, jobs)
		if err != nil && !errors.Is(err, ErrLate) {
			t.Fatal(err)
		}
		return err == nil && !source.Builtin
	})
	return got
}

// TestExplainWords: what a plugin says is made printable and cut short.
func TestExplainWords(t *testing.T) {
	t.Parallel()
	c := newCycle(t, scheduling(t, "good", nil))
	ready(t, c.s.Plugin())
	c.put(job(7))
	c.score()
	jobs := columns(job(7))
	got := explainPatiently(t, c, &jobs)
	term := got.Jobs[0].Terms[1]
	if term.Name != `an\x1b[2Jhour` || len(term.Inputs) > maxUserText+len("…") || got.Jobs[0].Terms[0].Inputs != "of user2" || got.BoundMS != 5 {
		t.Errorf("explained as %+v", got)
	}
}

// TestExplainUnserved: a policy that cannot explain is no failure, and has no terms.
func TestExplainUnserved(t *testing.T) {
	t.Parallel()
	cfg := SchedulingConfig{Builtin: policy.Defaults(), Plugin: quickSched(t, binaries.fifo)}
	cfg.Plugin.CallTimeout = patience
	c := newCycle(t, cfg)
	ready(t, c.s.Plugin())
	jobs := columns(job(7), job(8))
	if _, _, err := c.s.Score(t.Context(), Delta{Full: true, Changed: jobs}); err != nil {
		t.Fatal(err)
	}
	got := explainPatiently(t, c, &jobs)
	if len(got.Jobs) != 2 || got.Jobs[1].ID != 8 || got.Jobs[1].Terms != nil || got.BoundMS != 0 {
		t.Errorf("explained as %+v", got)
	}
}

// TestExplainWrongly: an explanation that does not add up is none, and a cycle goes on as before.
func TestExplainWrongly(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]error{
		"hang": ErrLate, "error": ErrRefused, "sum": ErrInvalid, "around": ErrInvalid, "other": ErrInvalid, "short": ErrInvalid,
		"wordless": ErrInvalid, "nothing": ErrInvalid, "many": ErrInvalid, "bound": ErrInvalid,
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			c := newCycle(t, scheduling(t, "good", map[string]string{"explain": mode}))
			ready(t, c.s.Plugin())
			c.put(job(7), job(8))
			c.score()
			jobs := columns(job(7), job(8))
			_, source, err := c.s.Explain(t.Context(), 0, &jobs)
			if !errors.Is(err, want) && !errors.Is(err, ErrLate) {
				t.Errorf("explained by %s, %v; want %v", source, err, want)
			}
			c.put(job(9))
			if got := c.score(); got.Builtin {
				t.Errorf("the next cycle is decided by %s", got)
			}
		})
	}
}

func TestExplainLimits(t *testing.T) {
	t.Parallel()
	c := newCycle(t, scheduling(t, "good", map[string]string{"explain": "hang"}))
	ready(t, c.s.Plugin())
	var many policy.Columns
	for id := range uint64(maxExplained + 1) {
		many.Append(job(id + 1))
	}
	if _, _, err := c.s.Explain(t.Context(), 0, &many); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "1001 jobs") {
		t.Errorf("too many jobs: %v", err)
	}
	if _, _, err := c.s.Explain(t.Context(), 0, &policy.Columns{ID: []uint64{1}}); err == nil {
		t.Error("columns of different lengths pass")
	}
	c.put(job(7))
	c.score()
	// While one is under way another waits, as long as its caller does.
	c.s.explaining <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	one := columns(job(7))
	if _, _, err := c.s.Explain(ctx, 0, &one); !errors.Is(err, context.Canceled) {
		t.Errorf("behind another explanation: %v", err)
	}
	<-c.s.explaining
}
