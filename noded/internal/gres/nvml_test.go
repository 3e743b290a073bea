package gres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// long is a deadline that nothing is meant to reach, short one that is meant to be reached.
const (
	long  = time.Minute
	short = 300 * time.Millisecond
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func (s stand) source(change func(*Config)) *NVML {
	s.t.Helper()
	cfg := Config{Helper: s.path(), Interval: 100 * time.Millisecond, Deadline: long, Logger: quiet(), silence: long,
		backoff: func(int) time.Duration { return time.Millisecond }, recheck: time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	n, err := NewNVML(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// running runs the source until the test ends or the returned function is called.
func (s stand) running(change func(*Config)) (*NVML, func()) {
	s.t.Helper()
	n := s.source(change)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	n.mu.Lock()
	n.running = true // so that nothing is asked beside Run
	n.mu.Unlock()
	go func() { done <- n.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("Run: %v", err)
		}
	})
	s.t.Cleanup(stop)
	return n, stop
}

// health waits until the inventory reads like this: "0 ok; 1 the reason".
func (s stand) health(n *NVML, want string) {
	s.t.Helper()
	end := time.NewTimer(time.Minute)
	defer end.Stop()
	got := ""
	for {
		gpus, err := n.Inventory(s.t.Context())
		if got = state(gpus, err); got == want {
			return
		}
		select {
		case <-n.Changed():
		case <-end.C:
			s.t.Fatalf("inventory is %q, want %q", got, want)
		}
	}
}

func state(gpus []*fettlev1.GPU, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	var parts []string
	for _, g := range gpus {
		text := g.GetHealthDetail()
		if !g.GetUnhealthy() {
			text += "ok"
		}
		parts = append(parts, fmt.Sprintf("%d %s", g.GetIndex(), text))
	}
	return strings.Join(parts, "; ")
}

const silent = "the NVIDIA driver does not answer within 300ms"

func TestAsked(t *testing.T) {
	t.Parallel()
	s := newStand(t, []string{has(2), uses(2)})
	n := s.source(func(c *Config) { c.Library = "/opt/nvml.so" })
	gpus, err := n.Inventory(t.Context())
	if got := state(gpus, err); got != "0 ok; 1 ok" {
		t.Fatal(got)
	}
	want := &fettlev1.GPU{Index: 1, Uuid: "GPU-0001", Type: "h100", Model: "NVIDIA H100 80GB HBM3", MemoryMib: 81559, PciBusId: "0000:01:00.0"}
	if !equal(gpus[1:], []*fettlev1.GPU{want}) {
		t.Errorf("gpu %v, want %v", gpus[1], want)
	}
	gpus[0].Unhealthy = true // the answer is the caller's
	round, err := n.Readings(t.Context())
	readings := round.GPUs
	if err != nil || round.Number == 0 || len(readings) != 2 || readings[1].GetMemoryUsedMib() != 1001 || readings[1].UtilisationPct != nil ||
		len(readings[1].GetProcesses()) != 1 || readings[1].GetProcesses()[0].GetPid() != 101 {
		t.Errorf("readings %v, %v", readings, err)
	}
	if got := s.read("args.1"); got != "watch --count 1 --library /opt/nvml.so" {
		t.Errorf("arguments %q", got)
	}
	s.health(n, "0 ok; 1 ok")
	for line := range strings.Lines(s.read("env.1")) {
		if strings.HasPrefix(line, "LD_BIND_NOW") || strings.HasPrefix(line, "SECRET") {
			t.Errorf("environment has %q", line)
		}
	}
}

func TestChildEnv(t *testing.T) {
	t.Parallel()
	got := strings.Join(childEnv([]string{"LD_BIND_NOW=1", "PATH=/bin", "SECRET=x", "LD_LIBRARY_PATH=/n", "LD_PRELOAD=y"}), " ")
	if want := "PATH=/bin LD_LIBRARY_PATH=/n LC_ALL=C"; got != want {
		t.Errorf("environment %q, want %q", got, want)
	}
}

// Whatever fettle-nvml does wrong, the answer is one line that says what, in time, and the process is gone.
func TestAskedInVain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		plan []string
		want string
		soon bool // the deadline is meant to be met
	}{
		"hangs":           {[]string{"hang"}, silent, true},
		"hangs halfway":   {[]string{has(1), "hang"}, silent, true},
		"hangs after all": {[]string{has(1), uses(1), "hang"}, silent, true},
		"crashes":         {[]string{"crash"}, "fettle-nvml: signal: killed", false},
		"crashes halfway": {[]string{has(1), "crash"}, "fettle-nvml: signal: killed", false},
		"gives up":        {[]string{"complain fettle-nvml: it is \x1bno good", "complain second line", "exit 1"}, "fettle-nvml: exit status 1: fettle-nvml: it is no good", false},
		"is loud":         {[]string{"loud", "exit 3"}, "fettle-nvml: exit status 3: complaint", false},
		"fails at last":   {[]string{has(1), uses(1), "exit 1"}, "fettle-nvml: exit status 1", false},
		"says nothing":    {[]string{"exit 0"}, "fettle-nvml makes no sense: no inventory", false},
		"babbles":         {[]string{"Segmentation fault? Not I!"}, "fettle-nvml makes no sense: not a message: invalid character 'S' looking for beginning of value", false},
		"stops midway":    {[]string{has(1), `half {"version":1,"read`}, "fettle-nvml ended by itself", false},
		"never ends":      {[]string{has(1), "endless " + uses(1)}, "fettle-nvml makes no sense: it does not stop talking", false},
		"never pauses":    {[]string{"huge"}, "fettle-nvml makes no sense: a line of more than 1048576 bytes", false},
		"is from later":   {[]string{`{"version":2,"news":{}}`}, "fettle-nvml makes no sense: message version 2, want 1: fettle-nvml is of another release than the node daemon: install both from the same one", false},
		"wrong order":     {[]string{uses(1), has(1)}, "fettle-nvml makes no sense: no inventory", false},
		"leaves an heir":  {[]string{has(1), uses(1), "orphan", "exit 0"}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStand(t, c.plan)
			n := s.source(func(cfg *Config) {
				if c.soon {
					cfg.Deadline = short
				}
			})
			gpus, err := n.Inventory(t.Context())
			if name == "leaves an heir" {
				// The heir keeps the output open but is of the same process group.
				if state(gpus, err) != "0 ok" {
					t.Errorf("%v, %v", gpus, err)
				}
				s.gone("orphan")
				return
			}
			if want := "ask the NVIDIA driver for GPUs: " + c.want; err == nil || err.Error() != want {
				t.Errorf("%v, %v, want %s", gpus, err, want)
			}
			// Under a loaded machine the stand-in may be killed before it could note who it is.
			if s.runs() > 0 && s.read("pid.1") != "" {
				s.gone("pid.1")
			}
		})
	}
}

func TestNoProgram(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	n := s.source(func(c *Config) { c.Helper = "/nowhere/fettle-nvml" })
	if _, err := n.Inventory(t.Context()); err == nil || !strings.Contains(err.Error(), "start /nowhere/fettle-nvml: fork/exec /nowhere/fettle-nvml: no such file") {
		t.Error(err)
	}
}

func TestCallerGivesUp(t *testing.T) {
	t.Parallel()
	s := newStand(t, []string{"hang"})
	n := s.source(nil)
	reason := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		s.until("it runs", func() bool { return s.runs() > 0 && s.read("pid.1") != "" })
		cancel(reason)
	}()
	if _, err := n.Inventory(ctx); !errors.Is(err, reason) {
		t.Error(err)
	}
	s.gone("pid.1")
	// That is no fault of the driver's.
	if n.failures != 0 || n.book.down != "" {
		t.Errorf("%d failures, %q", n.failures, n.book.down)
	}
}

func TestSlowIsFine(t *testing.T) {
	t.Parallel()
	s := newStand(t, []string{"await go", has(1), uses(1)})
	n := s.source(nil)
	answer := make(chan string)
	go func() { answer <- state(n.Inventory(t.Context())) }()
	s.until("it runs", func() bool { return s.runs() > 0 })
	select {
	case got := <-answer:
		t.Fatalf("answered %q before fettle-nvml did", got)
	default:
	}
	s.allow("go")
	if got := <-answer; got != "0 ok" {
		t.Error(got)
	}
}

func TestWatched(t *testing.T) {
	t.Parallel()
	s := newStand(t, []string{"await go", has(2), uses(2), "await xid", met(1, 31), met(1, 119), "await lost",
		strings.Replace(has(1), `"gpus":[`, `"problems":["gpu 1: is lost"],"gpus":[`, 1), uses(1), "await end", "hang"})
	now := time.Date(2026, 9, 26, 12, 0, 5, 0, time.UTC)
	n, stop := s.running(func(c *Config) { c.now = func() time.Time { return now } })
	s.allow("go")
	s.health(n, "0 ok; 1 ok")
	if got := s.read("args.1"); got != "watch --interval 100ms" {
		t.Errorf("arguments %q", got)
	}
	s.allow("xid")
	const xid = "Xid 119 at 2026-09-26T12:00:05Z: the GPU's system processor does not answer: reset the card, then restart fettle-noded"
	s.health(n, "0 ok; 1 "+xid)
	round, err := n.Readings(t.Context())
	readings := round.GPUs
	if err != nil || len(readings) != 2 || len(readings[0].GetXids()) != 0 || fmt.Sprint(readings[1].GetXids()) != "[31 119]" || readings[1].GetMemoryUsedMib() != 1001 {
		t.Errorf("readings %v, %v", readings, err)
	}
	s.allow("lost")
	s.health(n, "0 ok; 1 the driver no longer lists it; "+xid)
	// A card that cannot be read tells its errors still.
	s.until("there are new readings", func() bool {
		var newer Round
		newer, err = n.Readings(t.Context())
		readings = newer.GPUs
		if len(readings) == 2 && readings[1].MemoryUsedMib == nil && newer.Number <= round.Number {
			t.Errorf("round %d after %d", newer.Number, round.Number)
		}
		return err != nil || len(readings) == 2 && readings[1].MemoryUsedMib == nil
	})
	if err != nil || fmt.Sprint(readings[1].GetXids()) != "[31 119]" {
		t.Errorf("readings %v, %v", readings, err)
	}
	stop()
	s.gone("pid.1")
	if s.runs() != 1 {
		t.Errorf("%d runs for one watch", s.runs())
	}
}

// A driver that hung is believed again when it has answered twice.
func TestRecovery(t *testing.T) {
	t.Parallel()
	s := newStand(t,
		[]string{has(2), uses(2), "hang"},
		[]string{"await better", has(2), uses(2), "await sure", uses(2), "await end"})
	n, _ := s.running(func(c *Config) { c.silence = 2 * time.Second })
	const silent = "the NVIDIA driver does not answer within 2s"
	s.health(n, "0 "+silent+"; 1 "+silent)
	if r, err := n.Readings(t.Context()); err != nil || len(r.GPUs) != 0 {
		t.Errorf("readings %v, %v of a driver that is silent", r, err)
	}
	s.gone("pid.1")
	s.allow("better")
	s.until("there are readings", func() bool { r, _ := n.Readings(t.Context()); return len(r.GPUs) == 2 })
	if got := state(n.Inventory(t.Context())); got != "0 "+silent+"; 1 "+silent {
		t.Errorf("after one answer: %s", got)
	}
	s.allow("sure")
	s.health(n, "0 ok; 1 ok")
}

// Crashes are borne for a while: the cards themselves may be well.
func TestCrashes(t *testing.T) {
	t.Parallel()
	s := newStand(t,
		[]string{has(1), uses(1), "crash"},
		[]string{has(1), "crash"},
		[]string{"await third", "crash"},
		[]string{"await fourth", has(1), uses(1), uses(1), "await end"})
	var mu sync.Mutex
	var rows []int
	n, _ := s.running(func(c *Config) {
		c.backoff = func(failures int) time.Duration {
			mu.Lock()
			defer mu.Unlock()
			rows = append(rows, failures)
			return time.Millisecond
		}
	})
	s.until("it ran thrice", func() bool { return s.runs() == 3 })
	s.health(n, "0 ok")
	s.allow("third")
	s.health(n, "0 the card cannot be watched: fettle-nvml: signal: killed")
	s.allow("fourth")
	s.health(n, "0 ok")
	mu.Lock()
	defer mu.Unlock()
	if fmt.Sprint(rows) != "[1 2 3]" {
		t.Errorf("failures in a row %v", rows)
	}
}

// A process that even SIGKILL does not end is left behind, and no second one is sent after it.
func TestUnkillable(t *testing.T) {
	t.Parallel()
	s := newStand(t,
		[]string{has(1), uses(1), "hang"},
		[]string{has(1), uses(1), uses(1), "await end"})
	var mu sync.Mutex
	var spared *child
	tries := make(chan int, 1000)
	n, stop := s.running(func(c *Config) {
		c.silence, c.killWait = 2*time.Second, 10*time.Millisecond
		c.kill = func(c *child) {
			mu.Lock()
			defer mu.Unlock()
			if spared == nil || spared == c {
				spared = c
				return
			}
			c.kill()
		}
		c.backoff = func(failures int) time.Duration {
			select {
			case tries <- failures:
			default:
			}
			return time.Millisecond
		}
	})
	for failures := range tries {
		if failures == 5 {
			break
		}
	}
	if s.runs() != 1 {
		t.Errorf("%d runs although the first one hangs", s.runs())
	}
	want := fmt.Sprintf("0 the NVIDIA driver does not answer: process %s hangs in it and cannot be ended", s.read("pid.1"))
	s.health(n, want)
	// The driver lets go of it after all.
	mu.Lock()
	spared.kill()
	mu.Unlock()
	s.health(n, "0 ok")
	s.gone("pid.1")
	stop()
	s.gone("pid.2")
}

func TestNoGPUs(t *testing.T) {
	t.Parallel()
	s := newStand(t,
		[]string{`{"version":1,"inventory":{"gpus":[],"note":"no NVIDIA driver library is installed"}}`},
		[]string{`{"version":1,"inventory":{"gpus":[],"note":"no NVIDIA driver library is installed"}}`},
		[]string{"await driver", has(1), uses(1), "await end"})
	n, _ := s.running(func(c *Config) {
		c.backoff = func(int) time.Duration { t.Error("a machine without GPUs failed"); return long }
	})
	s.health(n, "")
	if r, err := n.Readings(t.Context()); err != nil || len(r.GPUs) != 0 {
		t.Errorf("readings %v, %v", r, err)
	}
	// The driver is installed later.
	s.allow("driver")
	s.health(n, "0 ok")
}

// A question that was asked before Run began, and Run itself, never run fettle-nvml side by side.
func TestOneAtATime(t *testing.T) {
	t.Parallel()
	s := newStand(t, []string{"await answer", has(1), uses(1)}, []string{has(1), uses(1), "await end"})
	n := s.source(nil)
	answer := make(chan string, 2)
	go func() { answer <- state(n.Inventory(t.Context())) }()
	s.until("it runs", func() bool { return s.runs() == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	s.until("Run has begun", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.running
	})
	go func() { answer <- state(n.Inventory(t.Context())) }()
	if s.runs() != 1 {
		t.Errorf("%d runs at a time", s.runs())
	}
	s.allow("answer")
	for range 2 {
		if got := <-answer; got != "0 ok" {
			t.Error(got)
		}
	}
	s.until("it is watched", func() bool { return s.runs() == 2 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNothingKnown(t *testing.T) {
	t.Parallel()
	s := newStand(t, []string{"crash"}, []string{"crash"}, []string{"crash"}, []string{"crash"}, []string{"await better", has(1), "await end"})
	n, _ := s.running(nil)
	if _, err := n.Inventory(t.Context()); err == nil || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("error %v", err)
	}
	s.until("it ran five times", func() bool { return s.runs() == 5 })
	s.allow("better")
	select {
	case <-n.Changed():
	case <-time.After(time.Minute):
		t.Fatal("nobody was told of the first GPU")
	}
}

func TestEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for name, plan := range map[string][]string{
		"before the first answer": {"hang"}, "while watching": {has(1), uses(1), "hang"}, "between two runs": {"crash"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStand(t, plan)
			began := make(chan struct{}, 1)
			n, stop := s.running(func(c *Config) {
				c.backoff = func(int) time.Duration { began <- struct{}{}; return time.Hour }
			})
			switch name {
			case "before the first answer":
				s.until("it runs", func() bool { return s.runs() > 0 && s.read("pid.1") != "" })
			case "while watching":
				s.health(n, "0 ok")
			default:
				<-began
			}
			stop() // and Run returns nil
			s.gone("pid.1")
		})
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	last := time.Duration(0)
	for failures := range 100 {
		d := backoff(failures)
		if d < last || d < time.Second || d > maxBackoff {
			t.Errorf("after %d failures %v, after one less %v", failures, d, last)
		}
		last = d
	}
	if last != maxBackoff {
		t.Errorf("ends at %v", last)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "the path of fettle-nvml is missing"},
		{Config{Helper: "fettle-nvml"}, `the path of fettle-nvml, "fettle-nvml", does not start with /`},
		{Config{Helper: "/x", Interval: time.Millisecond}, "interval 1ms is below 100ms"},
		{Config{Helper: "/x", Deadline: -1}, "deadline -1ns is below 0"},
	} {
		if _, err := NewNVML(c.cfg); err == nil || err.Error() != c.want {
			t.Errorf("%+v: %v, want %s", c.cfg, err, c.want)
		}
	}
}
