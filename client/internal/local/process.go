package local

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// identity tells a process from every other one, also from a later one with the same number.
type identity struct {
	pid int
	// start is the process's start in clock ticks since boot, boot the boot's id.
	start uint64
	boot  string
}

// identify looks a process up. ok is false when there is none, or only its unread exit status is left.
func identify(pid int) (id identity, ok bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return identity{}, false
	}
	// The command's name, in parentheses, may hold anything; the fields after it count from the state on.
	i := bytes.LastIndexByte(data, ')')
	if i < 0 {
		return identity{}, false
	}
	fields := strings.Fields(string(data[i+1:]))
	const state, starttime = 0, 19
	if len(fields) <= starttime || fields[state] == "Z" || fields[state] == "X" {
		return identity{}, false
	}
	start, err := strconv.ParseUint(fields[starttime], 10, 64)
	if err != nil {
		return identity{}, false
	}
	return identity{pid: pid, start: start, boot: bootID()}, true
}

func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// pidFile is where a daemon's identity is written: "PID START BOOT".
func pidFile(dir, name string) string { return filepath.Join(dir, name, "pid") }

func (id identity) write(dir, name string) error {
	return writeFile(pidFile(dir, name), fmt.Appendf(nil, "%d %d %s\n", id.pid, id.start, id.boot))
}

// recorded reads the identity of a daemon that was started, ok is false when it does not run any more.
func recorded(dir, name string) (id identity, ok bool) {
	data, err := os.ReadFile(pidFile(dir, name))
	if err != nil {
		return identity{}, false
	}
	var want identity
	if _, err := fmt.Sscanf(string(data), "%d %d %s", &want.pid, &want.start, &want.boot); err != nil || want.pid <= 1 {
		return identity{}, false
	}
	now, ok := identify(want.pid)
	return want, ok && now == want
}

// child is a daemon that this process has started.
type child struct {
	id   identity
	name string
	log  string
	// from is the size of the log before the start.
	from int64
}

// start runs a daemon in a session of its own, its output appended to its log.
func start(dir, name, path string, args, env []string) (*child, error) {
	home := filepath.Join(dir, name)
	logPath := filepath.Join(home, "log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	var from int64
	if st, err := log.Stat(); err == nil {
		from = st.Size()
	}
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = home, env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s cannot be started: %w", path, cause(err))
	}
	ch := &child{name: name, log: logPath, from: from, id: identity{pid: cmd.Process.Pid}}
	// A daemon that has ended already is found by exited.
	if id, ok := identify(cmd.Process.Pid); ok {
		ch.id = id
		if err := id.write(dir, name); err != nil {
			return nil, err
		}
	}
	return ch, cmd.Process.Release()
}

func cause(err error) error {
	var e *os.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// exited answers how a child ended, or "" while it runs; code is its exit status where that is known.
func (ch *child) exited() (how string, code int) {
	var ws unix.WaitStatus
	pid, err := unix.Wait4(ch.id.pid, &ws, unix.WNOHANG, nil)
	switch {
	case err == nil && pid == 0:
		return "", 0
	case err != nil:
		if now, ok := identify(ch.id.pid); ok && now == ch.id {
			return "", 0
		}
		return "ended", 0
	case ws.Signaled():
		return "was ended by signal " + unix.SignalName(ws.Signal()), 0
	}
	return "ended with exit status " + strconv.Itoa(ws.ExitStatus()), ws.ExitStatus()
}

// failure is the error for a child that ended: how, and its last words.
func (ch *child) failure(how string) error {
	words := lastLine(ch.log, ch.from)
	if words == "" {
		return fmt.Errorf("%s %s and left no message; see %s", ch.name, how, ch.log)
	}
	return fmt.Errorf("%s %s: %s; see %s", ch.name, how, words, ch.log)
}

// lastLine is the last line of a file that is not empty, from an offset on.
func lastLine(path string, from int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	from = max(from, st.Size()-8192)
	data, err := io.ReadAll(io.NewSectionReader(f, from, st.Size()-from))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if len(last) > 300 {
		last = last[:300] + "..."
	}
	return last
}

// signal sends a signal to the very process that id names. It reports whether the process was there.
func (id identity) signal(sig syscall.Signal) (bool, error) {
	// The handle pins the process before its identity is checked, so that the signal cannot reach another one that was
	// given the same number in between.
	p, err := os.FindProcess(id.pid)
	if err != nil {
		return false, nil
	}
	defer p.Release()
	if now, ok := identify(id.pid); !ok || now != id {
		return false, nil
	}
	err = p.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH) {
		return false, nil
	}
	return err == nil, err
}

// gone waits until the process is gone, at most for limit; it reports whether it is.
func (id identity) gone(limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for {
		var ws unix.WaitStatus
		_, _ = unix.Wait4(id.pid, &ws, unix.WNOHANG, nil) // in case it is our own child
		if now, ok := identify(id.pid); !ok || now != id {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
}
