package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// binaries are the executables under test, built once.
var binaries struct{ test, multifactor, fifo, lostwork string }

const (
	secretVariable  = "FETTLE_TEST_SECRET"
	allowedVariable = "FETTLE_TEST_ALLOWED"
	helperVariable  = "FETTLE_TEST_HOST"
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(helperVariable); spec != "" {
		runHelperHost(spec)
		return
	}
	dir, err := os.MkdirTemp("", "plugins")
	if err != nil {
		panic(err)
	}
	if err := buildPlugins(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for name, value := range map[string]string{secretVariable: "hunter2", allowedVariable: "yes"} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func buildPlugins(dir string) error {
	binaries.test = filepath.Join(dir, "testplugin")
	binaries.multifactor = filepath.Join(dir, "fettle-sched-multifactor")
	binaries.fifo = filepath.Join(dir, "fettle-sched-fifo")
	binaries.lostwork = filepath.Join(dir, "fettle-preempt-lostwork")
	for path, pkg := range map[string]string{
		binaries.test: "./internal/testplugin", binaries.multifactor: "../cmd/fettle-sched-multifactor",
		binaries.fifo: "../cmd/fettle-sched-fifo", binaries.lostwork: "../cmd/fettle-preempt-lostwork",
	} {
		cmd := exec.Command("go", "build", "-o", path, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", cmd, err, out)
		}
	}
	return nil
}

// plugin puts the test plugin into a directory of its own under the name that makes it what it is.
func plugin(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fettle-"+name)
	if err := os.Link(binaries.test, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// socketDir is short, as socket paths have to be.
func socketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, err := os.ReadDir(filepath.Join(dir, "s"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		for _, e := range left {
			t.Errorf("%s is left in the socket directory", e.Name())
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "s")
}

// quick are limits that a test can wait for; behaviour under the default ones is tested without processes.
func quick(t testing.TB, path string, kind pluginv1.PluginKind) Config {
	t.Helper()
	return Config{
		Path: path, Kind: kind, SocketDir: socketDir(t), Logger: quiet(),
		StartTimeout: 20 * time.Second,
		Restart:      RestartLimits{Count: 50, MinBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond},
		Breaker:      BreakerLimits{Failures: 3, Open: 50 * time.Millisecond, MaxOpen: 100 * time.Millisecond},
	}
}

func quickSched(t testing.TB, path string) Config {
	return quick(t, path, pluginv1.PluginKind_PLUGIN_KIND_SCHEDULING)
}

func quickLaunch(t testing.TB, path string) Config {
	return quick(t, path, pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// start starts a plugin and ends it with the test.
func start(t testing.TB, cfg Config) *Plugin {
	t.Helper()
	p, err := Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// ready waits until the plugin runs.
func ready(t testing.TB, p *Plugin) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Ready(ctx); err != nil {
		t.Fatal(err)
	}
}

// patience is how long a test waits for what must come; it says nothing about how fast that should be.
const patience = time.Minute

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// pidOf is the process number of a running plugin.
func pidOf(t testing.TB, p *Plugin) int {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inst == nil {
		t.Fatal("the plugin is not running")
	}
	return p.inst.proc.pid
}

// gone says that no process has the number, or only a zombie that its new parent has not reaped.
func gone(pid int) bool {
	if errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}

// stop stops all threads of a process.
func stop(t testing.TB, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process has stopped", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil || len(threads) == 0 {
			t.Fatalf("no threads of %d: %v", pid, err)
		}
		for _, path := range threads {
			stat, err := os.ReadFile(path)
			_, rest, _ := strings.Cut(string(stat), ") ")
			if err == nil && !strings.HasPrefix(rest, "T") {
				return false
			}
		}
		return true
	})
}

// recorder keeps log records as text.
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, string(b))
	return len(b), nil
}

func (r *recorder) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (r *recorder) count(part string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lines {
		if strings.Contains(l, part) {
			n++
		}
	}
	return n
}

func (r *recorder) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "")
}

// runHelperHost is a host of its own, to be killed: it prints the plugin's process number and waits.
func runHelperHost(spec string) {
	path, dir, _ := strings.Cut(spec, "|")
	p, err := Start(context.Background(), Config{Path: path, SocketDir: dir, Logger: quiet(), Kind: pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER})
	if err != nil {
		panic(err)
	}
	if err := p.Ready(context.Background()); err != nil {
		panic(err)
	}
	fmt.Println(p.inst.proc.pid)
	select {}
}

// TestHostKilled: a host that is killed leaves no plugin behind, and the next one clears its socket directory.
func TestHostKilled(t *testing.T) {
	t.Parallel()
	path, dir := plugin(t, "launch-lora"), socketDir(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperVariable+"="+path+"|"+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if gone(pid) {
		t.Fatalf("plugin %d is not running", pid)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "the plugin is gone with its host", func() bool { return gone(pid) })
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Fatalf("%d entries in the dead host's socket directory, want its one", len(left))
	}
	cfg := quickLaunch(t, path)
	cfg.SocketDir = dir
	p := start(t, cfg)
	ready(t, p)
	if left, _ := os.ReadDir(dir); len(left) != 1 || !strings.HasPrefix(left[0].Name(), fmt.Sprint(os.Getpid(), ".")) {
		t.Errorf("socket directory holds %v, want only our own", left)
	}
}
