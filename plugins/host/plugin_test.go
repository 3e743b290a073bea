package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// TestStartsThatFail: whatever a file does instead of starting, the host says what in one line and goes on.
func TestStartsThatFail(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"sched-silent":     "not ready within",
		"sched-exits":      "exit status 7; its last line: no such file: weights.db",
		"sched-babbles":    `hello\x1b[31m, is this the queue?`,
		"sched-elsewhere":  "is not a socket in its own directory",
		"sched-outside":    "is not a socket in its own directory",
		"sched-future":     "Plugin version: 99",
		"sched-netrpc":     "netrpc",
		"sched-plain":      "no certificate",
		"launch-scheduler": "it is a scheduling plugin, not a launcher one",
		"launch-impostor":  `it launches method "other", not "impostor"`,
		"launch-refuse":    `setting refuse: "me"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := quickSched(t, plugin(t, name))
			if method, ok := strings.CutPrefix(name, "launch-"); ok {
				cfg.Kind, cfg.Method = pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER, method
			}
			if name == "sched-silent" {
				cfg.StartTimeout = 300 * time.Millisecond
			}
			cfg.Settings = map[string]string{"refuse": "me"}
			cfg.Restart.Count = 1
			p := start(t, cfg)
			eventually(t, "the plugin is disabled", func() bool { return p.Status().GetState() == "disabled" })
			st := p.Status()
			if !strings.Contains(st.GetLastError(), want) || strings.ContainsAny(st.GetLastError(), "\n\x1b") {
				t.Errorf("last error %q does not say %q in one clean line", st.GetLastError(), want)
			}
			if st.GetRestarts() != 1 {
				t.Errorf("%d restarts, want the one that is allowed", st.GetRestarts())
			}
			if err := p.Ready(t.Context()); !errors.Is(err, ErrDisabled) {
				t.Errorf("Ready answers %v, want ErrDisabled", err)
			}
		})
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(path string) error
		want    string
	}{
		"missing":                {os.Remove, "no such file"},
		"not executable":         {func(p string) error { return os.Chmod(p, 0o644) }, "is not an executable file"},
		"a directory":            {func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o755)) }, "is not an executable file"},
		"anybody's to write":     {func(p string) error { return os.Chmod(p, 0o757) }, "chmod o-w"},
		"not the expected bytes": {func(p string) error { return os.WriteFile(p, []byte("#!/bin/sh\n"), 0o755) }, "has checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "fettle-sched-file")
			if err := errors.Join(os.WriteFile(path, []byte("#!/bin/true\n"), 0o755), c.prepare(path)); err != nil {
				t.Fatal(err)
			}
			cfg := quickSched(t, path)
			cfg.Checksum = strings.Repeat("00", 32)
			cfg.Restart.Count = 1
			p := start(t, cfg)
			eventually(t, "the plugin is disabled", func() bool { return p.Status().GetState() == "disabled" })
			if got := p.Status().GetLastError(); !strings.Contains(got, c.want) {
				t.Errorf("last error %q does not say %q", got, c.want)
			}
		})
	}
}

// TestChecksum: the right file starts from the descriptor that was hashed and knows its own name all the same.
func TestChecksum(t *testing.T) {
	t.Parallel()
	path := plugin(t, "launch-lora")
	plain := quickLaunch(t, path)
	first := start(t, plain)
	ready(t, first)
	sum := first.Status().GetChecksum()

	cfg := quickLaunch(t, path)
	cfg.Checksum = strings.ToUpper(sum)
	p := start(t, cfg)
	got := validate(t, p, "arguments").GetWarnings()
	if want := []string{path, "<nil>", path}; !slices.Equal(got, want) {
		t.Errorf("executable and arguments %q, want %q", got, want)
	}
	if len(sum) != 64 || p.Status().GetChecksum() != sum {
		t.Errorf("checksums %q and %q, want one of 64 digits", sum, p.Status().GetChecksum())
	}
}

func TestSocketDirOfOthers(t *testing.T) {
	t.Parallel()
	cfg := quickLaunch(t, plugin(t, "launch-lora"))
	cfg.SocketDir = t.TempDir()
	if err := os.Chmod(cfg.SocketDir, 0o755); err != nil {
		t.Fatal(err)
	}
	cfg.Restart.Count = 1
	p := start(t, cfg)
	eventually(t, "the plugin is disabled", func() bool { return p.Status().GetState() == "disabled" })
	if got := p.Status().GetLastError(); !strings.Contains(got, "chmod 700") {
		t.Errorf("last error %q does not say what to do", got)
	}
}

// validate asks a launcher, whose YAML is a command (see internal/testplugin).
func validate(t testing.TB, p *Plugin, command string) *pluginv1.ValidateResponse {
	t.Helper()
	resp, err := tryValidate(t, p, command)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return resp
}

func tryValidate(t testing.TB, p *Plugin, command string) (*pluginv1.ValidateResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return NewLauncher(p, "lora").Validate(ctx, &pluginv1.ValidateRequest{Config: &pluginv1.TrainingConfig{Yaml: []byte(command)}})
}

// TestConfinement: what the process can see and do.
func TestConfinement(t *testing.T) {
	t.Parallel()
	cfg := quickLaunch(t, plugin(t, "launch-lora"))
	cfg.Env = []string{allowedVariable, "FETTLE_TEST_UNSET"}
	cfg.MemoryBytes = 1 << 30
	p := start(t, cfg)
	var names []string
	for _, kv := range validate(t, p, "environment").GetWarnings() {
		name, value, _ := strings.Cut(kv, "=")
		names = append(names, name)
		if name == "PLUGIN_UNIX_SOCKET_DIR" && filepath.Dir(value) != cfg.SocketDir {
			t.Errorf("sockets go to %s, want below %s", value, cfg.SocketDir)
		}
	}
	slices.Sort(names)
	want := []string{
		"FETTLE_PLUGIN", allowedVariable, "PLUGIN_CLIENT_CERT", "PLUGIN_MAX_PORT", "PLUGIN_MIN_PORT",
		"PLUGIN_PROTOCOL_VERSIONS", "PLUGIN_UNIX_SOCKET_DIR",
	}
	if !slices.Equal(names, want) {
		t.Errorf("the plugin sees %q, want only %q", names, want)
	}
	pid := pidOf(t, p)
	if !slices.Contains(validate(t, p, "status").GetWarnings(), "NoNewPrivs: 1") {
		t.Error("the plugin may gain privileges")
	}
	if pgid, err := unix.Getpgid(pid); err != nil || pgid != pid {
		t.Errorf("process group %d, %v; want its own, %d", pgid, err, pid)
	}
	var limit unix.Rlimit
	for resource, want := range map[int]uint64{unix.RLIMIT_DATA: 1 << 30, unix.RLIMIT_CORE: 0} {
		if err := unix.Prlimit(pid, resource, nil, &limit); err != nil || limit.Max != want {
			t.Errorf("limit %d is %d, %v; want %d", resource, limit.Max, err, want)
		}
	}
	if st, err := os.Stat(cfg.SocketDir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("socket directory: mode %v, %v; want 0700", st.Mode(), err)
	}
}

// TestMemoryIsBounded: a plugin that eats memory dies of it alone.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	cfg := quickLaunch(t, plugin(t, "launch-lora"))
	cfg.MemoryBytes = 512 << 20
	p := start(t, cfg)
	if _, err := tryValidate(t, p, "eat"); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("eating answers %v, want ErrUnavailable", err)
	}
	eventually(t, "the end is explained", func() bool { return strings.Contains(p.Status().GetLastError(), "out of memory") })
	if got := validate(t, p, "12345").GetWarnings(); !slices.Equal(got, []string{"5 bytes"}) {
		t.Errorf("after the restart it answers %q", got)
	}
}

// TestChildrenEndWithIt: the whole process group goes.
func TestChildrenEndWithIt(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"closed", "killed"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			p := start(t, quickLaunch(t, plugin(t, "launch-lora")))
			child, err := strconv.Atoi(validate(t, p, "child").GetWarnings()[0])
			if err != nil || gone(child) {
				t.Fatalf("child %d, %v", child, err)
			}
			pid := pidOf(t, p)
			if how == "closed" {
				p.Close()
			} else if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, "plugin and child are gone", func() bool { return gone(pid) && gone(child) })
		})
	}
}

// TestCloseEndsAStoppedPlugin: a process that is stopped cannot hold up its host.
func TestCloseEndsAStoppedPlugin(t *testing.T) {
	t.Parallel()
	p := start(t, quickLaunch(t, plugin(t, "launch-lora")))
	ready(t, p)
	pid := pidOf(t, p)
	stop(t, pid)
	p.Close()
	if !gone(pid) {
		t.Error("the stopped plugin lives on")
	}
	if _, err := tryValidate(t, p, ""); !errors.Is(err, ErrClosed) {
		t.Errorf("a call after Close answers %v, want ErrClosed", err)
	}
}

func TestCloseDuringStart(t *testing.T) {
	t.Parallel()
	p := start(t, quickSched(t, plugin(t, "sched-silent")))
	eventually(t, "it is starting", func() bool { return p.Status().GetState() == "starting" })
	p.Close()
}

func TestContextEndsThePlugin(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	p, err := Start(ctx, quickLaunch(t, plugin(t, "launch-lora")))
	if err != nil {
		t.Fatal(err)
	}
	ready(t, p)
	pid := pidOf(t, p)
	cancel()
	<-p.done
	if !gone(pid) {
		t.Error("the plugin outlives its context")
	}
}

// TestRestartLimit: a plugin that keeps ending is given up, and comes back when somebody says so.
func TestRestartLimit(t *testing.T) {
	t.Parallel()
	cfg := quickLaunch(t, plugin(t, "launch-lora"))
	cfg.Restart.Count = 2
	p := start(t, cfg)
	for range 3 {
		ready(t, p)
		pid := pidOf(t, p)
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the end is noticed", func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.inst == nil || p.inst.proc.pid != pid
		})
	}
	eventually(t, "the plugin is disabled", func() bool { return p.Status().GetState() == "disabled" })
	st := p.Status()
	if st.GetRestarts() != 2 || !strings.Contains(st.GetLastError(), "ended 3 times") || !strings.Contains(st.GetLastError(), "killed") {
		t.Errorf("status %v, want 2 restarts and the reason", st)
	}
	p.Enable()
	if got := validate(t, p, "123").GetWarnings(); !slices.Equal(got, []string{"3 bytes"}) {
		t.Errorf("enabled again it answers %q", got)
	}
	if got := p.Status(); got.GetState() != "running" || got.GetLastError() != "" {
		t.Errorf("status %v, want running and no error", got)
	}
}

func TestDisableAndEnable(t *testing.T) {
	t.Parallel()
	p := start(t, quickLaunch(t, plugin(t, "launch-lora")))
	ready(t, p)
	pid := pidOf(t, p)
	p.Disable("switched off by ann")
	eventually(t, "it is gone", func() bool { return gone(pid) && p.Status().GetState() == "disabled" })
	if _, err := tryValidate(t, p, ""); !errors.Is(err, ErrDisabled) || !strings.Contains(err.Error(), "ann") {
		t.Errorf("a call answers %v, want ErrDisabled and who did it", err)
	}
	p.Enable()
	validate(t, p, "")
}

// TestReload: the file that is there now is run.
func TestReload(t *testing.T) {
	t.Parallel()
	path := plugin(t, "launch-lora")
	p := start(t, quickLaunch(t, path))
	ready(t, p)
	if got := p.Status().GetVersion(); got != "1.0" {
		t.Fatalf("version %q", got)
	}
	if err := os.WriteFile(path+".version", []byte("2.0"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.Reload()
	eventually(t, "the new version runs", func() bool {
		st := p.Status()
		return st.GetState() == "running" && st.GetVersion() == "2.0"
	})
}

func TestConfigure(t *testing.T) {
	t.Parallel()
	cfg := quickLaunch(t, plugin(t, "launch-lora"))
	cfg.Settings = map[string]string{"engine": "a"}
	p := start(t, cfg)
	expect := func(want ...string) {
		t.Helper()
		if got := validate(t, p, "settings").GetWarnings(); !slices.Equal(got, want) {
			t.Errorf("settings %q, want %q", got, want)
		}
	}
	expect("engine=a")
	if err := p.Configure(t.Context(), map[string]string{"engine": "b"}); err != nil {
		t.Fatal(err)
	}
	expect("engine=b")
	err := p.Configure(t.Context(), map[string]string{"engine": "c", "refuse": "it"})
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), `"it"`) {
		t.Errorf("settings that it does not take: %v, want its own words", err)
	}
	p.Reload()
	eventually(t, "it runs again", func() bool { return p.Status().GetRestarts() == 1 && p.Status().GetState() == "running" })
	expect("engine=b")
}

// TestStatus: what fctl plugin list shows.
func TestStatus(t *testing.T) {
	t.Parallel()
	cfg := quickLaunch(t, plugin(t, "launch-lora"))
	cfg.Lazy = true
	p := start(t, cfg)
	if got := p.Status(); got.GetState() != "idle" || got.GetKind() != "launcher" || got.GetName() != "launch-lora" {
		t.Errorf("status before the first call: %v", got)
	}
	for range 5 {
		validate(t, p, "")
	}
	if _, err := tryValidate(t, p, "error"); !errors.Is(err, ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
	st := p.Status()
	if st.GetState() != "running" || st.GetVersion() != "1.0" || st.GetAbiVersion() != 1 || st.GetPath() != cfg.Path ||
		st.GetCalls() != 6 || st.GetFailures() != 1 || st.GetP50Us() <= 0 || st.GetP99Us() < st.GetP50Us() {
		t.Errorf("status %v", st)
	}
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	good := Config{Path: "/usr/lib/fettle/fettle-launch-lora", Kind: pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER, SocketDir: "/run/fettle/plugins"}
	if err := good.Validate(); err != nil {
		t.Errorf("good configuration: %v", err)
	}
	for want, change := range map[string]func(*Config){
		"path: empty":                       func(c *Config) { c.Path = "" },
		"path: \"x\" is relative":           func(c *Config) { c.Path = "x" },
		"kind:":                             func(c *Config) { c.Kind = 0 },
		"given for a preemption policy":     func(c *Config) { c.Kind, c.Method = pluginv1.PluginKind_PLUGIN_KIND_PREEMPTION, "lora" },
		"method: \"lora\" given":            func(c *Config) { c.Kind, c.Method = pluginv1.PluginKind_PLUGIN_KIND_SCHEDULING, "lora" },
		"checksum:":                         func(c *Config) { c.Checksum = "abc" },
		"socket_dir: empty":                 func(c *Config) { c.SocketDir = "" },
		"socket_dir: \"run\" is relative":   func(c *Config) { c.SocketDir = "run" },
		"leave room for 72":                 func(c *Config) { c.SocketDir = "/" + strings.Repeat("d", 72) },
		"env: \"A=B\"":                      func(c *Config) { c.Env = []string{"A=B"} },
		"env: \"PLUGIN_UNIX_SOCKET_DIR\"":   func(c *Config) { c.Env = []string{"PLUGIN_UNIX_SOCKET_DIR"} },
		"start_timeout: negative":           func(c *Config) { c.StartTimeout = -1 },
		"breaker.max_open: negative; use 0": func(c *Config) { c.Breaker.MaxOpen = -time.Second },
	} {
		bad := good
		change(&bad)
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
		if _, err := Start(t.Context(), bad); err == nil {
			t.Errorf("%s: started all the same", want)
		}
	}
}

func ExampleSource() {
	fmt.Println(Source{Name: "sched-multifactor", Version: "0.1"})
	fmt.Println(Source{Name: "multifactor", Builtin: true, Reason: "sched-multifactor: plugin is late"})
	// Output:
	// sched-multifactor 0.1
	// multifactor (built in: sched-multifactor: plugin is late)
}
