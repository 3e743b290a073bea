package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/plugins/preempt"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// crowded is two nodes with two cards each, all busy, and a blocked job that needs one. Job 2 loses least; job 5 is protected.
func crowded() *preempt.Request {
	req := &preempt.Request{Nodes: []string{"a", "b"}}
	for i, lost := range []int64{500, 100, 300, 400, 0} {
		req.Candidates = append(req.Candidates, preempt.Candidate{
			ID: uint64(i + 1), Size: 1, LostS: lost, RestartS: 120, Holds: []preempt.Holding{{Node: i % 2, Cards: []int{i / 2}, CPUs: 4}},
		})
	}
	places := []preempt.Place{{Node: 0, Cards: []int{0, 1}}, {Node: 1, Cards: []int{0, 1}}}
	req.Jobs = []preempt.Job{
		{ID: 90, Needs: []preempt.Need{{Nodes: 1, GPUs: 1, Places: places}}, Candidates: []int{0, 1, 2, 3}},
		{ID: 91, Needs: []preempt.Need{{Nodes: 2, GPUs: 2, Places: places}}, Candidates: []int{0}},
	}
	return req
}

func preempting(t testing.TB, path string, settings map[string]string) *Preemption {
	t.Helper()
	cfg := PreemptionConfig{Plugin: quick(t, path, pluginv1.PluginKind_PLUGIN_KIND_PREEMPTION)}
	cfg.Plugin.Settings, cfg.Plugin.CallTimeout, cfg.Plugin.Breaker.Probes = settings, patience, 2
	return preemptingWith(t, cfg)
}

func preemptingWith(t testing.TB, cfg PreemptionConfig) *Preemption {
	t.Helper()
	p, err := NewPreemption(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	if p.Plugin() != nil {
		ready(t, p.Plugin())
	}
	return p
}

// choose asks once and checks that the answer is sound, whoever gave it.
func choose(t testing.TB, p *Preemption) Source {
	t.Helper()
	req := crowded()
	answer, source, err := p.Select(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(req, crowded()) {
		t.Fatal("the request was changed")
	}
	if err := preempt.Check(req, answer); err != nil {
		t.Fatalf("answer of %s: %v", source, err)
	}
	if len(answer) != 2 || !slices.Equal(answer[0].Victims, []uint64{2}) || !slices.Equal(answer[0].Nodes, []int{1}) || len(answer[1].Victims) != 0 {
		t.Fatalf("%s chose %+v, want job 2 for the first and nobody for the second", source, answer)
	}
	if ours := answer[0].Reason == "so says\\x1b[2J the test"; ours == (source.Builtin || source.Name == "preempt-lostwork") {
		t.Fatalf("%s says %q", source, answer[0].Reason)
	}
	return source
}

func chooseUntil(t testing.TB, p *Preemption, what string, ok func(Source) bool) {
	t.Helper()
	eventually(t, what, func() bool { return ok(choose(t, p)) })
}

// TestShippedPreemption: the plugin that is shipped answers what the built-in policy would.
func TestShippedPreemption(t *testing.T) {
	t.Parallel()
	p := preempting(t, binaries.lostwork, nil)
	if got := choose(t, p); got.Builtin || got.Name != "preempt-lostwork" || got.Version == "" {
		t.Errorf("decided by %s, want the plugin", got)
	}
	answer, source, err := p.Select(t.Context(), crowded())
	if err != nil || source.Builtin || fmt.Sprint(answer) != fmt.Sprint(preempt.Select(crowded())) {
		t.Errorf("%s answers %+v, %v", source, answer, err)
	}
	if st := p.Status(); st.GetKind() != "preemption" || st.GetName() != "preempt-lostwork" || st.GetCalls() != 2 {
		t.Errorf("status %v", st)
	}
	if err := p.Configure(t.Context(), map[string]string{"mercy": "1"}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "mercy") {
		t.Errorf("a setting answers %v, want ErrRefused", err)
	}
	if answer, source, err := p.Select(t.Context(), &preempt.Request{}); len(answer) != 0 || err != nil || p.Status().GetCalls() != 3 {
		t.Errorf("for nobody: %v by %s, %v; want no call", answer, source, err)
	}
}

func TestPreemptionWithoutPlugin(t *testing.T) {
	t.Parallel()
	p := preemptingWith(t, PreemptionConfig{})
	if got := choose(t, p); !got.Builtin || !strings.Contains(got.String(), "lostwork (built in: no preemption plugin is configured)") {
		t.Errorf("decided by %s", got)
	}
	if st := p.Status(); st.GetState() != "running" || st.GetKind() != "preemption" || p.Plugin() != nil || p.Configure(t.Context(), nil) != nil {
		t.Errorf("status %v", st)
	}
	if _, err := NewPreemption(t.Context(), PreemptionConfig{Plugin: Config{Path: "x"}}); err == nil {
		t.Error("a relative path passes")
	}
}

// TestWrongVictims: one bad selection spoils the answer, three bad answers open the breaker, and good ones are watched before they
// count again. Nobody is ever stopped wrongly (choose checks it).
func TestWrongVictims(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]string{
		"error":        "cannot choose",
		"panic":        "nobody left",
		"protected":    "job 5 may not be stopped for it",
		"for nothing":  "is stopped for nothing",
		"half":         "it does not fit",
		"twice":        "comes twice",
		"unknown job":  "is not among the blocked ones",
		"unknown need": "need 2147483648 of 1",
		"unknown node": "node number 4294967295",
		"oversize":     "larger than max",
		"exit":         "not available",
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			while := filepath.Join(t.TempDir(), "while")
			if err := os.WriteFile(while, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			p := preempting(t, plugin(t, "preempt-bad"), map[string]string{"mode": mode, "while": while})
			if got := choose(t, p); !got.Builtin || !strings.Contains(got.Reason, want) {
				t.Fatalf("decided by %s, want the built-in policy because of %q", got, want)
			}
			chooseUntil(t, p, "the breaker opens", func(s Source) bool { return strings.Contains(s.Reason, "left alone") })
			if err := os.Remove(while); err != nil {
				t.Fatal(err)
			}
			watched := 0
			chooseUntil(t, p, "the plugin decides again", func(s Source) bool {
				if strings.Contains(s.Reason, "probation") {
					watched++
				}
				return byPlugin(s)
			})
			if watched != 2 {
				t.Errorf("%d good answers were watched before one counted, want 2", watched)
			}
		})
	}
}

// TestSilentPreemption: a policy may well stop nobody.
func TestSilentPreemption(t *testing.T) {
	t.Parallel()
	p := preempting(t, plugin(t, "preempt-shy"), map[string]string{"mode": "silent"})
	answer, source, err := p.Select(t.Context(), crowded())
	if err != nil || source.Builtin || len(answer) != 0 {
		t.Errorf("%s answers %+v, %v; want nothing", source, answer, err)
	}
}

// TestStoppedPreemption: SIGSTOP makes it late; the answer comes all the same, and a fresh one takes its place.
func TestStoppedPreemption(t *testing.T) {
	t.Parallel()
	cfg := PreemptionConfig{Plugin: quick(t, plugin(t, "preempt-good"), pluginv1.PluginKind_PLUGIN_KIND_PREEMPTION)}
	cfg.Plugin.CallTimeout, cfg.Plugin.Breaker.Probes = 100*time.Millisecond, 1
	p := preemptingWith(t, cfg)
	chooseUntil(t, p, "the plugin decides", byPlugin)
	pid := pidOf(t, p.Plugin())
	stop(t, pid)
	if got := choose(t, p); !got.Builtin || !strings.Contains(got.Reason, ErrLate.Error()) {
		t.Errorf("decided by %s, want the built-in policy because it is late", got)
	}
	chooseUntil(t, p, "a fresh plugin decides", byPlugin)
	if !gone(pid) {
		t.Error("the stopped process is still there")
	}
}

// TestPreemptionKilled: kill -9 at any moment; every answer is sound and the plugin comes back.
func TestPreemptionKilled(t *testing.T) {
	t.Parallel()
	p := preempting(t, plugin(t, "preempt-good"), nil)
	for range 3 {
		chooseUntil(t, p, "the plugin decides", byPlugin)
		pid := pidOf(t, p.Plugin())
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		chooseUntil(t, p, "the built-in policy or a new process decides", func(s Source) bool { return byBuiltin(s) || gone(pid) })
	}
	eventually(t, "each kill is followed by a restart", func() bool { return p.Status().GetRestarts() == 3 })
}

func TestPreemptionCancelled(t *testing.T) {
	t.Parallel()
	p := preempting(t, plugin(t, "preempt-bad"), map[string]string{"mode": "hang"})
	ctx, cancel := context.WithCancelCause(t.Context())
	lost := errors.New("leadership lost")
	time.AfterFunc(10*time.Millisecond, func() { cancel(lost) })
	if _, _, err := p.Select(ctx, crowded()); !errors.Is(err, lost) {
		t.Errorf("got %v, want the cause", err)
	}
	hurried, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	answer, source, err := p.Select(hurried, crowded())
	if err != nil || !source.Builtin || len(answer) != 2 || p.Status().GetFailures() != 0 {
		t.Errorf("in a hurry: %+v by %s, %v, %d failures; want the built-in policy's, and the plugin not blamed",
			answer, source, err, p.Status().GetFailures())
	}
}

// TestPreemptionTooLarge: what does not fit is not sent, and the plugin is not blamed.
func TestPreemptionTooLarge(t *testing.T) {
	t.Parallel()
	cfg := PreemptionConfig{Plugin: quick(t, plugin(t, "preempt-good"), pluginv1.PluginKind_PLUGIN_KIND_PREEMPTION)}
	cfg.Plugin.MaxRequestBytes = 100
	p := preemptingWith(t, cfg)
	if got := choose(t, p); !got.Builtin || !strings.Contains(got.Reason, ErrTooLarge.Error()) || p.Status().GetFailures() != 0 {
		t.Errorf("decided by %s, want the built-in policy because of the size", got)
	}
}

// TestKindsAreChecked: a scheduling policy is no preemption policy.
func TestKindsAreChecked(t *testing.T) {
	t.Parallel()
	cfg := quick(t, plugin(t, "sched-good"), pluginv1.PluginKind_PLUGIN_KIND_PREEMPTION)
	cfg.Restart.Count = 1
	p := start(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Ready(ctx); err == nil || !strings.Contains(err.Error(), "it is a scheduling plugin, not a preemption one") {
		t.Errorf("got %v", err)
	}
}
