package gres

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/gres/report"
)

// errLate means that fettle-nvml did not answer in time, for which the driver is to blame.
var errLate = errors.New("the NVIDIA driver does not answer")

// maxStderr bounds what is kept of a child's complaints.
const maxStderr = 4 << 10

// child is a running fettle-nvml, leader of its own process group.
type child struct {
	pid    int
	stdout *os.File
	lines  *bufio.Reader
	stderr *complaints
	// ended is closed when the child was reaped; result is set before that.
	ended  chan struct{}
	result error

	mu     sync.Mutex
	reaped bool
}

// startChild runs the program. Whoever starts it calls stop.
func startChild(path string, args []string) (*child, error) {
	out, outChild, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe for %s: %w", path, err)
	}
	defer outChild.Close()
	errs, errsChild, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pipe for %s: %w", path, err), out.Close())
	}
	defer errsChild.Close()
	cmd := exec.Command(path, args...)
	cmd.Env = childEnv(os.Environ())
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = outChild, errsChild
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", path, err), out.Close(), errs.Close())
	}
	c := &child{pid: cmd.Process.Pid, stdout: out, lines: bufio.NewReaderSize(out, 64<<10), stderr: collect(errs), ended: make(chan struct{})}
	go c.reap(cmd)
	return c, nil
}

// childEnv is what fettle-nvml needs of the environment. LD_BIND_NOW would end it at its start: the driver's functions are
// only there after the library was opened.
func childEnv(all []string) []string {
	var env []string
	for _, kv := range all {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "PATH", "LD_LIBRARY_PATH", "HOME", "TZ", "GOTRACEBACK":
			env = append(env, kv)
		}
	}
	return append(env, "LC_ALL=C")
}

// reap waits for the child's end. It is the one goroutine that nobody waits for beyond killWait: a process that is stuck in
// the driver does not end, and then neither does the wait for it.
func (c *child) reap(cmd *exec.Cmd) {
	for {
		// Seen before it is reaped, so that its process group cannot be another's yet when what it left behind is killed.
		err := unix.Waitid(unix.P_PID, c.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	c.mu.Lock()
	_ = unix.Kill(-c.pid, unix.SIGKILL)
	c.result = cmd.Wait()
	c.reaped = true
	c.mu.Unlock()
	close(c.ended)
}

// kill ends the child and whatever it started.
func (c *child) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reaped {
		_ = unix.Kill(-c.pid, unix.SIGKILL)
	}
}

// stop ends the child and reports whether it is gone. It waits for at most wait.
func (c *child) stop(kill func(*child), wait time.Duration) bool {
	kill(c)
	_ = c.stdout.Close()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-c.ended:
		c.stderr.close(timer.C)
		return true
	case <-timer.C:
		now := make(chan time.Time)
		close(now)
		c.stderr.close(now)
		return false
	}
}

// next reads one message, waiting until end, which is some limit after something. The end of the output is io.EOF.
func (c *child) next(ctx context.Context, end time.Time, limit time.Duration) (report.Message, error) {
	if err := c.stdout.SetReadDeadline(end); err != nil {
		return report.Message{}, fmt.Errorf("deadline for fettle-nvml: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.stdout.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := c.line()
	switch {
	case ctx.Err() != nil:
		return report.Message{}, context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return report.Message{}, fmt.Errorf("%w within %v", errLate, limit)
	case err != nil:
		return report.Message{}, err
	}
	m, err := report.Decode(line)
	if err != nil {
		return report.Message{}, fmt.Errorf("fettle-nvml makes no sense: %w", err)
	}
	return m, nil
}

// line reads up to a newline, at most report.MaxMessage bytes. Output that ends without one is cut off.
func (c *child) line() ([]byte, error) {
	var whole []byte
	for {
		part, err := c.lines.ReadSlice('\n')
		whole = append(whole, part...)
		switch {
		case len(whole) > report.MaxMessage:
			return nil, fmt.Errorf("fettle-nvml makes no sense: a line of more than %d bytes", report.MaxMessage)
		case err == nil:
			return whole, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(whole) > 0:
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
}

// complaints keeps the beginning of what a child writes to its standard error.
type complaints struct {
	file *os.File
	// done is closed when nothing more is read; kept is set before that.
	done chan struct{}
	kept []byte
}

func collect(f *os.File) *complaints {
	c := &complaints{file: f, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		c.kept, _ = io.ReadAll(io.LimitReader(f, maxStderr))
		_, _ = io.Copy(io.Discard, f)
	}()
	return c
}

// close ends the collecting, at the latest when the timer rings.
func (c *complaints) close(timer <-chan time.Time) {
	select {
	case <-c.done:
	case <-timer:
	}
	_ = c.file.Close()
	<-c.done
}

// text is the first line; only after close.
func (c *complaints) text() string {
	for line := range strings.Lines(string(c.kept)) {
		if t := report.Text(line); t != "" {
			return t
		}
	}
	return ""
}
