package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
)

// drainTime is how long the last words of an ended process are waited for; a grandchild may hold the pipe open for ever.
const drainTime = 200 * time.Millisecond

// process is one run of a plugin's executable, as a go-plugin runner.
//
// It is not go-plugin's own runner because that one kills only the direct child, waits without a bound for pipes that a
// grandchild may hold, and leaves the death of the host to chance.
//
// One goroutine owns it, locked to a thread that is spent on it: the kernel sends the child SIGKILL when the thread that
// forked it ends, so the thread has to live as long as the child, and no_new_privs is set on that thread before the fork.
type process struct {
	// path is what people know, file what is executed when set.
	path string
	file *os.File
	env  []string
	dir  string
	data uint64

	// log takes the lines of standard error, words the one that says why it ended.
	log   *pluginLog
	words lastWords

	stdout, stderr *os.File
	// dead is closed once the process is reaped, done once its last words are read too; waitErr is set by then.
	dead, done chan struct{}
	waitErr    error

	mu     sync.Mutex
	pid    int
	killed bool
	reaped bool
}

// newProcess prepares a run: environ is what go-plugin wants the process to see, dir the private directory for its socket.
func newProcess(cfg *Config, environ []string, dir string, log *pluginLog) *process {
	env := slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		return strings.HasPrefix(kv, goplugin.EnvUnixSocketDir+"=")
	})
	env = append(env, goplugin.EnvUnixSocketDir+"="+dir)
	return &process{
		path: cfg.Path, env: append(env, cfg.environment()...), dir: dir, data: cfg.MemoryBytes, log: log,
		dead: make(chan struct{}), done: make(chan struct{}),
	}
}

// Start forks the plugin. It is called once.
func (p *process) Start(context.Context) error {
	started := make(chan error, 1)
	go p.own(started)
	return <-started
}

// own forks, waits and reaps. The thread is never unlocked, so it ends with the goroutine.
func (p *process) own(started chan<- error) {
	runtime.LockOSThread()
	defer close(p.done)
	cmd, err := p.fork()
	started <- err
	if err != nil {
		p.waitErr = err
		close(p.dead)
		return
	}
	logRead := make(chan struct{})
	go func() {
		defer close(logRead)
		readLog(p)
	}()
	// Look without reaping: as long as the leader is a zombie nobody else can get its number, so what is left of its
	// group can be killed by it.
	for errors.Is(unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	p.mu.Lock()
	_ = unix.Kill(-p.pid, unix.SIGKILL)
	p.waitErr = cmd.Wait()
	p.reaped = true
	p.mu.Unlock()
	close(p.dead)
	// Readers see what is still in the pipes, then the end.
	limit := time.Now().Add(drainTime)
	_ = p.stdout.SetReadDeadline(limit)
	_ = p.stderr.SetReadDeadline(limit)
	<-logRead
	_, _ = p.stdout.Close(), p.stderr.Close()
}

// fork starts the child with its ends of the pipes.
func (p *process) fork() (*exec.Cmd, error) {
	stdout, childOut, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	stderr, childErr, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe: %w", errors.Join(err, stdout.Close(), childOut.Close()))
	}
	cmd, err := p.forkWith(childOut, childErr)
	// The child has its own copies; these would keep the readers from seeing the end.
	_, _ = childOut.Close(), childErr.Close()
	if err != nil {
		return nil, errors.Join(err, stdout.Close(), stderr.Close())
	}
	p.stdout, p.stderr = stdout, stderr
	return cmd, nil
}

func (p *process) forkWith(stdout, stderr *os.File) (*exec.Cmd, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("no_new_privs: %w", err)
	}
	cmd := &exec.Cmd{
		Path: p.path, Args: []string{p.path}, Env: p.env, Dir: "/", Stdout: stdout, Stderr: stderr,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	}
	if p.file != nil {
		// Number 3 in the child, and left open there: an interpreter opens the script after the exec.
		cmd.Path, cmd.ExtraFiles = "/proc/self/fd/3", []*os.File{p.file}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed {
		return nil, errors.New("killed before it was started")
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	for _, l := range []struct {
		resource int
		value    uint64
	}{{unix.RLIMIT_CORE, 0}, {unix.RLIMIT_DATA, p.data}} {
		// The process may have ended by now; if it has not and cannot be bounded, it is not let loose.
		if err := unix.Prlimit(p.pid, l.resource, &unix.Rlimit{Cur: l.value, Max: l.value}, nil); err != nil && !errors.Is(err, unix.ESRCH) {
			_ = unix.Kill(-p.pid, unix.SIGKILL)
			return nil, errors.Join(fmt.Errorf("limit %d of process %d: %w", l.resource, p.pid, err), cmd.Wait())
		}
	}
	return cmd, nil
}

// kill ends the process and its group at once. It may be called at any time and more than once.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = true
	if p.pid != 0 && !p.reaped {
		_ = unix.Kill(-p.pid, unix.SIGKILL)
	}
}

// endedItself says that a process that is done was not ended by kill.
func (p *process) endedItself() bool {
	if p.pid == 0 {
		return false
	}
	var exit *exec.ExitError
	if !errors.As(p.waitErr, &exit) {
		return p.waitErr == nil
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && !(status.Signaled() && status.Signal() == syscall.SIGKILL)
}

// Wait waits for the end of the process.
func (p *process) Wait(context.Context) error {
	<-p.done
	return p.waitErr
}

// Kill is kill for go-plugin, which calls it when a start fails.
func (p *process) Kill(context.Context) error {
	p.kill()
	return nil
}

// Stdout carries the handshake; go-plugin reads it to its end.
func (p *process) Stdout() io.ReadCloser { return io.NopCloser(&slowReader{r: p.stdout, stop: p.dead}) }

// Stderr shows go-plugin nothing. Its reader takes the plugin's word for the types in a line's JSON and panics in our process
// when they differ; readLog reads the lines instead.
func (p *process) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name is the executable.
func (p *process) Name() string { return p.path }

// ID is the process number, empty before the start.
func (p *process) ID() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid == 0 {
		return ""
	}
	return strconv.Itoa(p.pid)
}

// Diagnose adds nothing: what the process said on its way out is in its log lines.
func (p *process) Diagnose(context.Context) string { return "" }

// PluginToHost admits only a socket in the directory that the plugin was given, so that it cannot have its host connect elsewhere.
func (p *process) PluginToHost(network, address string) (string, string, error) {
	if network != "unix" || filepath.Dir(address) != p.dir {
		return "", "", fmt.Errorf("address %s %q is not a socket in its own directory", printable(network, 16), printable(address, 128))
	}
	st, err := os.Lstat(address)
	if err != nil {
		return "", "", fmt.Errorf("socket: %w", err)
	}
	if st.Mode().Type() != os.ModeSocket {
		return "", "", fmt.Errorf("%q is not a socket", printable(address, 128))
	}
	return network, address, nil
}

// HostToPlugin is for brokered connections, which are not used.
func (p *process) HostToPlugin(string, string) (string, string, error) {
	return "", "", errors.ErrUnsupported
}

// Reading faster than this from a plugin that floods would only move its work into the host.
const (
	readRate  = 4 << 20 // bytes a second
	readBurst = 4 << 20
)

// slowReader reads at a bounded rate, so that a flood blocks the one who makes it.
type slowReader struct {
	r    io.Reader
	stop <-chan struct{}
	pace pace
}

func (s *slowReader) Read(b []byte) (int, error) {
	n, err := s.r.Read(b[:min(len(b), 64<<10)])
	if pause := s.pace.take(time.Now(), float64(n), readRate, readBurst); pause > 0 {
		t := time.NewTimer(pause)
		defer t.Stop()
		select {
		case <-t.C:
		case <-s.stop:
		}
	}
	return n, err
}

// pace is a token bucket that lets its user go into debt and says how long to wait for it.
type pace struct {
	tokens float64
	at     time.Time
}

func (p *pace) take(now time.Time, n, rate, burst float64) time.Duration {
	if p.at.IsZero() {
		p.tokens = burst
	} else {
		p.tokens = min(burst, p.tokens+rate*now.Sub(p.at).Seconds())
	}
	p.at = now
	p.tokens -= n
	if p.tokens >= 0 {
		return 0
	}
	return time.Duration(-p.tokens / rate * float64(time.Second))
}
