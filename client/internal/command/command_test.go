package command

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/internal/fakectl"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != text {
		t.Errorf("%s:\ngot\n%s\nwant\n%s", name, text, want)
	}
}

// buffer is a bytes.Buffer that several goroutines may use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// testEnv is a command's surroundings with a controller and a terminal of its own.
func testEnv(s *fakectl.Server, out render.Terminal) (*Env, *buffer, *buffer) {
	var stdout, stderr buffer
	return &Env{
		Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Out: out, Err: out,
		Getenv: func(name string) string {
			if name == "FETTLE_CONTROLLERS" {
				return s.Addr()
			}
			return ""
		},
		Environ: func() []string { return nil }, Getwd: os.Getwd, Now: func() time.Time { return now },
		Executable: os.Executable,
	}, &stdout, &stderr
}

func ms(d time.Duration) int64 { return now.Add(d).UnixMilli() }

func queueOf(s *fakectl.Server) {
	loss := 0.6931
	s.Put(
		&fettlev1.Job{Id: 1041, User: "alice", State: model.Running, Attempt: 1, StartMs: ms(-90 * time.Minute),
			Spec:     &fettlev1.JobSpec{Name: "customer-support-bot-v3", Method: "lora", Priority: 1, Project: "support", Nodes: 1, GpusPerNode: &fettlev1.GPURequest{Type: "h100", Count: 4}},
			Attempts: []*fettlev1.Attempt{{Number: 1, Nodes: []*fettlev1.NodeAllocation{{Node: "gpu01"}}}},
			Progress: &fettlev1.Progress{Step: 130, TotalSteps: 500, Loss: &loss, RemainingS: 15000}},
		&fettlev1.Job{Id: 1042, User: "bob", State: model.Completing, Attempt: 1, StartMs: ms(-2 * time.Second),
			Spec:     &fettlev1.JobSpec{Name: "sweep", Method: "script", Priority: 5, Nodes: 2, TimeLimitS: 600},
			Attempts: []*fettlev1.Attempt{{Number: 1, Nodes: []*fettlev1.NodeAllocation{{Node: "gpu02"}, {Node: "gpu03"}}}}},
		&fettlev1.Job{Id: 1043, User: "carol", State: model.Pending, Reason: fettlev1.Reason_REASON_RESOURCES,
			Spec: &fettlev1.JobSpec{Name: "模型微调-实验", Method: "full", Priority: 3, Project: "lab", Nodes: 4, GpusPerNode: &fettlev1.GPURequest{Count: 8}}},
		&fettlev1.Job{Id: 1044, User: "eve", State: model.Pending, Reason: fettlev1.Reason_REASON_PRIORITY,
			Spec: &fettlev1.JobSpec{Name: "x\x1b]0;pwned\x07", Method: "qlora", Priority: 9}},
	)
}

func TestQueueFitsTheTerminal(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	queueOf(s)
	for name, term := range map[string]render.Terminal{
		"queue-160.txt":   {TTY: true, Width: 160, Height: 40, UTF8: true},
		"queue-100.txt":   {TTY: true, Width: 100, Height: 40, UTF8: true},
		"queue-80.txt":    {TTY: true, Width: 80, Height: 24},
		"queue-50.txt":    {TTY: true, Width: 50, Height: 24, UTF8: true},
		"queue-color.txt": {TTY: true, Width: 120, Height: 24, UTF8: true, Color: true},
		"queue-pipe.txt":  {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env, out, errs := testEnv(s, term)
			if code := Main(t.Context(), []string{"fqueue"}, env); code != 0 {
				t.Fatalf("status %d: %s", code, errs)
			}
			golden(t, name, out.String())
			for line := range strings.SplitSeq(out.String(), "\n") {
				if term.Width > 0 && !term.Color && render.Width(line) > term.Width {
					t.Errorf("a line is %d wide: %q", render.Width(line), line)
				}
				if !term.Color && strings.Contains(line, "\x1b") {
					t.Errorf("an escape got through: %q", line)
				}
			}
		})
	}
}

func TestInfoFitsTheTerminal(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	used, util, temp, power := int64(70000), uint32(98), int32(71), uint32(650)
	s.SetNodes(&fettlev1.Node{Name: "gpu01", State: fettlev1.NodeState_NODE_STATE_UP, Drained: true, DrainReason: "a long story about a card",
		Inventory: &fettlev1.Inventory{Cpus: 96, MemoryMib: 1 << 20, Isolation: &fettlev1.Isolation{Level: "full", Cgroup: "v2"},
			Gpus: []*fettlev1.GPU{{Uuid: "GPU-1", Type: "h200", Model: "NVIDIA H200", MemoryMib: 143771}}},
		Readings: []*fettlev1.GPUReading{{Uuid: "GPU-1", MemoryUsedMib: &used, UtilisationPct: &util, TemperatureC: &temp, PowerW: &power}}})
	for _, width := range []int{100, 60} {
		env, out, errs := testEnv(s, render.Terminal{TTY: true, Width: width, UTF8: true})
		if code := Main(t.Context(), []string{"finfo"}, env); code != 0 {
			t.Fatalf("status %d: %s", code, errs)
		}
		golden(t, fmt.Sprintf("info-%d.txt", width), out.String())
	}
}

func TestWatchRedrawsUntilInterrupted(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	queueOf(s)
	ctx, cancel := context.WithCancel(t.Context())
	env, out, errs := testEnv(s, render.Terminal{TTY: true, Width: 100, Height: 8, UTF8: true})
	env.Now = func() time.Time {
		// Called for every frame: three are enough.
		if strings.Count(out.String(), "\x1b[H\x1b[2J") == 3 {
			cancel()
		}
		return now
	}
	if code := Main(ctx, []string{"fqueue", "--watch", "--interval", "100ms"}, env); code != 0 {
		t.Fatalf("status %d: %s", code, errs)
	}
	frames := strings.Split(out.String(), "\x1b[H\x1b[2J")
	if len(frames) < 4 {
		t.Fatalf("%d frames", len(frames)-1)
	}
	golden(t, "queue-watch.txt", frames[1])
}

func TestLogsOnATerminalAreFiltered(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	s.Put(&fettlev1.Job{Id: 5, State: model.Completed, Attempt: 1})
	s.Log(5, 1, false, "ok \x1b[32mgreen\x1b[0m \x1b]0;title\x07 no line break")
	for _, tc := range []struct {
		args []string
		term render.Terminal
		want string
	}{
		{[]string{"flog", "5"}, render.Terminal{TTY: true, Width: 80}, "ok \x1b[32mgreen\x1b[0m ^[]0;title^G no line break\n"},
		{[]string{"flog", "5"}, render.Terminal{}, "ok \x1b[32mgreen\x1b[0m \x1b]0;title\x07 no line break"},
		{[]string{"flog", "--raw", "5"}, render.Terminal{TTY: true}, "ok \x1b[32mgreen\x1b[0m \x1b]0;title\x07 no line break\n"},
	} {
		env, out, errs := testEnv(s, tc.term)
		if code := Main(t.Context(), tc.args, env); code != 0 {
			t.Fatalf("status %d: %s", code, errs)
		}
		if out.String() != tc.want {
			t.Errorf("%v: got %q, want %q", tc.args, out.String(), tc.want)
		}
	}
}

func TestScriptsOnATerminalAreEscaped(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	s.Put(&fettlev1.Job{Id: 5, State: model.Completed, Spec: &fettlev1.JobSpec{Script: []byte("#!/bin/sh\n\techo \x1b[2J\n")}})
	env, out, _ := testEnv(s, render.Terminal{TTY: true, Width: 80})
	if code := Main(t.Context(), []string{"fctl", "show", "job", "--script", "5"}, env); code != 0 || out.String() != "#!/bin/sh\n\techo \\x1b[2J\n" {
		t.Errorf("status %d, %q", code, out.String())
	}
}

func TestErrorsAreEscaped(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	s.Refuse(func(*fettlev1.JobSpec) *fettlev1.ErrorDetail {
		return &fettlev1.ErrorDetail{Field: "name", Problem: "bad\x1b[2J\nfsubmit: Submitted job 1", Remedy: "\u202e"}
	})
	env, _, errs := testEnv(s, render.Terminal{TTY: true, Width: 80, Color: true})
	code := Main(t.Context(), []string{"fsubmit", "--wrap", "true"}, env)
	if want := "fsubmit: error: name: bad\\x1b[2J\\nfsubmit: Submitted job 1; \\u202e\n"; code != 1 || errs.String() != want {
		t.Errorf("status %d, %q, want %q", code, errs.String(), want)
	}
}

func TestProgressIsFollowedToTheEnd(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	job := &fettlev1.Job{Id: 5, State: model.Running, Attempt: 1, Spec: &fettlev1.JobSpec{Name: "x"}, Progress: &fettlev1.Progress{Step: 1, TotalSteps: 2, RemainingS: 9}}
	s.Put(job)
	env, out, errs := testEnv(s, render.Terminal{TTY: true, Width: 80})
	reads := 0
	env.Stdout = writerFunc(func(p []byte) (int, error) {
		if reads++; reads == 1 {
			s.Change(5, func(j *fettlev1.Job) { j.State, j.Progress.Step = model.Completed, 2 })
		}
		return out.Write(p)
	})
	if code := Main(t.Context(), []string{"flog", "-f", "--progress", "5"}, env); code != 0 {
		t.Fatalf("status %d: %s", code, errs)
	}
	want := "\r\x1b[Kjob 5 running  ############............  50%  step 1 of 2  0:09 left" + "\r\x1b[Kjob 5 completed  ######################## 100%  step 2 of 2\n"
	if out.String() != want {
		t.Errorf("got  %q\nwant %q", out.String(), want)
	}
	if errs.String() != "flog: job 5 (x) completed\n" {
		t.Errorf("stderr %q", errs.String())
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestInterruptedWaitSaysThatTheJobGoesOn(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	env, out, errs := testEnv(s, render.Terminal{})
	ctx, cancel := context.WithCancel(t.Context())
	env.Stdout = writerFunc(func(p []byte) (int, error) {
		cancel()
		return out.Write(p)
	})
	code := Main(ctx, []string{"fsubmit", "--wait", "--wrap", "sleep 9"}, env)
	if code != exitInterrupted || errs.String() != "fsubmit: job 1 goes on; fcancel 1 ends it\n" {
		t.Errorf("status %d, %q", code, errs.String())
	}
}

func TestHelpIsFitToRead(t *testing.T) {
	t.Parallel()
	var all []*command
	var walk func(c *command)
	walk = func(c *command) {
		all = append(all, c)
		for _, s := range c.subs {
			walk(s)
		}
	}
	for _, p := range programs {
		c := p.build()
		c.setPaths("")
		walk(c)
	}
	f := fettleCommand()
	f.setPaths("")
	walk(f)
	for _, c := range all {
		text := helpText(c)
		for line := range strings.SplitSeq(text, "\n") {
			if len(line) > 104 || strings.Contains(line, "\t") || strings.TrimRight(line, " ") != line {
				t.Errorf("%s --help: bad line %q", c.path, line)
			}
			for _, r := range line {
				if r > 0x7e {
					t.Errorf("%s --help: not ASCII: %q", c.path, line)
				}
			}
		}
		if !strings.HasPrefix(text, "NAME\n   "+c.path+" - ") || c.brief == "" || c.synopsis == "" {
			t.Errorf("%s --help starts %q", c.path, text[:min(len(text), 60)])
		}
		seen := make(map[string]bool)
		for _, f := range c.allFlags() {
			for _, n := range []string{f.name, f.short} {
				if n != "" && seen[n] {
					t.Errorf("%s has two flags %s", c.path, n)
				}
				seen[n] = true
			}
			if f.help == "" {
				t.Errorf("%s --%s has no help", c.path, f.name)
			}
		}
		if len(c.subs) == 0 && c.run == nil {
			t.Errorf("%s does nothing", c.path)
		}
	}
}

func TestScan(t *testing.T) {
	t.Parallel()
	flags := []*option{
		{name: "gpus", short: "G", arg: "N"}, {name: "yes", short: "y"}, {name: "verbose", short: "v"}, {name: "set", arg: "K=V", repeat: true},
	}
	stopAtFirst := func([]string) bool { return true }
	for _, tc := range []struct {
		args  string
		stop  func([]string) bool
		flags string
		rest  string
		err   string
	}{
		{args: "", flags: "", rest: ""},
		{args: "a b", rest: "a b"},
		{args: "--gpus 4 a -y b", flags: "gpus=4 yes=", rest: "a b"},
		{args: "a --gpus 4 -y", stop: stopAtFirst, rest: "a --gpus 4 -y"},
		{args: "-y a --gpus 4", stop: stopAtFirst, flags: "yes=", rest: "a --gpus 4"},
		{args: "-yv -G4 -G=5 -vG 6", flags: "yes= verbose= gpus=4 gpus=5 verbose= gpus=6"},
		{args: "--gpus=4 --set a=b=c --set=d=", flags: "gpus=4 set=a=b=c set=d="},
		{args: "-- --gpus -y", rest: "--gpus -y"},
		{args: "a -- b -- c", rest: "a b -- c"},
		{args: "- -y", flags: "yes=", rest: "-"},
		{args: "--gpus -5", flags: "gpus=-5"},
		{args: "--yes=true --yes=false", flags: "yes="},
		{args: "--gpus", err: "--gpus: needs a value; write --gpus N"},
		{args: "--gpus -y", err: "--gpus: needs a value; write --gpus N, or --gpus=-y when that is the value"},
		{args: "-G --yes", err: "-G: needs a value; write -G N"},
		{args: "--yes=1", err: `--yes "1": takes no value; write --yes alone`},
		{args: "--gpsu 1", err: "unknown flag --gpsu; did you mean --gpus?"},
		{args: "-gpus 1", err: "unknown flag -gpus; write --gpus"},
		{args: "-x", err: "unknown flag -x"},
		{args: "-yx", err: "unknown flag -x"},
		{args: "--", rest: ""},
		{args: "--=x", err: "unknown flag --"},
	} {
		p, err := scan(strings.Fields(tc.args), flags, tc.stop, nil)
		if tc.err != "" || err != nil {
			if err == nil || err.Error() != tc.err {
				t.Errorf("%q: error %v, want %s", tc.args, err, tc.err)
			}
			continue
		}
		var got []string
		for _, g := range p.flags {
			got = append(got, g.flag.name+"="+g.value)
		}
		if strings.Join(got, " ") != tc.flags || strings.Join(p.args, " ") != tc.rest {
			t.Errorf("%q: got %v and %v, want %s and %s", tc.args, got, p.args, tc.flags, tc.rest)
		}
	}
}

func FuzzScan(f *testing.F) {
	f.Add("--gpus 4 a -yv -- b", true)
	f.Add("-G= --set=", false)
	f.Fuzz(func(t *testing.T, line string, stop bool) {
		cmd := submitCommand()
		var at func([]string) bool
		if stop {
			at = cmd.stop
		}
		args := strings.Fields(line)
		p, err := scan(args, cmd.allFlags(), at, cmd.unknown)
		if err == nil && len(p.args) > len(args) {
			t.Errorf("%q: more arguments than words: %q", line, p.args)
		}
		if err != nil && strings.ContainsFunc(render.Line(err.Error()), func(r rune) bool { return r < ' ' }) {
			t.Errorf("%q: %q", line, err)
		}
	})
}

func TestNearest(t *testing.T) {
	t.Parallel()
	words := []string{"gpus", "gres", "priority", "partition", "time", "json"}
	for in, want := range map[string]string{"gpu": "gpus", "josn": "json", "prioritty": "priority", "part": "partition", "tiem": "time", "x": "", "completely": "", "GPUS": "gpus"} {
		if got := nearest(in, words); got != want {
			t.Errorf("nearest(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestTailer(t *testing.T) {
	t.Parallel()
	text := "one\ntwo\nthree\nfour"
	for lines, want := range map[int]string{0: "", 1: "four", 2: "three\nfour", 4: text, 9: text} {
		for size := 1; size <= len(text); size++ {
			for _, tail := range []string{"", "\n"} {
				tl := &tailer{lines: lines}
				for i := 0; i < len(text+tail); i += size {
					if err := tl.hold(chunk(text+tail, i, min(size, len(text+tail)-i))); err != nil {
						t.Fatal(err)
					}
				}
				var got strings.Builder
				if err := tl.flush(func(ch api.LogChunk) error {
					if !strings.HasPrefix((text + tail)[ch.Offset:], string(ch.Data)) {
						t.Errorf("offset %d does not hold %q", ch.Offset, ch.Data)
					}
					got.Write(ch.Data)
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				w := want
				if w != "" {
					w += tail
				}
				if got.String() != w {
					t.Errorf("%d lines in pieces of %d: got %q, want %q", lines, size, got.String(), w)
				}
			}
		}
	}
}

func chunk(text string, at, n int) api.LogChunk {
	return api.LogChunk{Attempt: 1, Offset: int64(at), Data: []byte(text[at : at+n])}
}

func TestWaitStatus(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		state fettlev1.JobState
		code  int32
		want  int
	}{{model.Completed, 0, 0}, {model.Failed, 3, 3}, {model.Failed, 0, 1}, {model.Cancelled, 0, 1}, {model.Cancelled, 143, 143}, {model.Timeout, -1, 1}, {model.Failed, 300, 1}} {
		if got := waitStatus(&fettlev1.Job{State: tc.state, ExitCode: tc.code}); got != tc.want {
			t.Errorf("%v with %d gives %d, want %d", tc.state, tc.code, got, tc.want)
		}
	}
}

func TestJobSummaries(t *testing.T) {
	t.Parallel()
	var got []string
	for _, s := range model.States() {
		last := &fettlev1.Attempt{Number: 2, Outcome: s, Nodes: []*fettlev1.NodeAllocation{{Node: "n1", Exit: &fettlev1.Exit{Code: 2}}}}
		got = append(got, jobSummary(&fettlev1.Job{Id: 7, State: s, ExitCode: 2, Attempt: 2, StartMs: 1000, EndMs: 5500, Detail: "why", Spec: &fettlev1.JobSpec{Name: "x"},
			Attempts: []*fettlev1.Attempt{last}}))
	}
	golden(t, "summaries.txt", strings.Join(got, "\n")+"\n")
	if slices.Contains(got, "") {
		t.Error("an empty summary")
	}
}

func BenchmarkQueue50k(b *testing.B) {
	s := fakectl.Start(b)
	for i := range 50_000 {
		s.Put(&fettlev1.Job{Id: uint64(i + 1), State: model.Pending, Reason: fettlev1.Reason_REASON_PRIORITY, User: "alice", SubmitMs: now.UnixMilli(),
			Spec: &fettlev1.JobSpec{Name: "train_lora", Method: "lora", Priority: uint32(1 + i%10), Partition: "main", Nodes: 1, GpusPerNode: &fettlev1.GPURequest{Type: "h100", Count: 4}, WorkDir: "/home/alice"}})
	}
	for b.Loop() {
		env, _, errs := testEnv(s, render.Terminal{})
		env.Stdout = writerFunc(func(p []byte) (int, error) { return len(p), nil })
		if code := Main(context.Background(), []string{"fqueue"}, env); code != 0 {
			b.Fatal(errs.String())
		}
	}
}
