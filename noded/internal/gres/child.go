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

// errLate means that fettle-nvml did not answer in time.
var errLate = errors.New("no answer in time")

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

// startChild runs the program. The context ends its output, not the program: call stop.
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
	c := &child{pid: cmd.Process.Pid, stdout: out, lines: bufio.NewReaderSize(out, 64<<10), stderr: &complaints{}, ended: make(chan struct{})}
	go c.stderr.collect(errs)
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
	timer := time.NewTimer(wait)
	defer timer.Stop()
	gone := true
	select {
	case <-c.ended:
	case <-timer.C:
		gone = false
	}
	// Both ends of reading: ours now, the collector's by the child's end or by this.
	_ = c.stdout.Close()
	c.stderr.close()
	return gone
}

// next reads one message, waiting for at most wait. The end of the output is io.EOF.
func (c *child) next(ctx context.Context, wait time.Duration) (report.Message, error) {
	if err := c.stdout.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return report.Message{}, fmt.Errorf("deadline for fettle-nvml: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.stdout.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := c.line()
	switch {
	case ctx.Err() != nil:
		return report.Message{}, context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return report.Message{}, fmt.Errorf("%w: %v", errLate, wait)
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
	mu   sync.Mutex
	file *os.File
	done chan struct{}
	kept []byte
}
