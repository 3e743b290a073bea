package attempt

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
)

// shimEnv is a shim's whole environment: one processor is enough for it, and it need not ask cgroups how many there are.
var shimEnv = []string{"GOMAXPROCS=1", "GODEBUG=containermaxprocs=0,updatemaxprocs=0"}

const (
	// maxIdle bounds the shims that wait for an attempt.
	maxIdle = 64
	// idleFor is how long one waits at most.
	idleFor = 10 * time.Second
)

// shimProc is a shim that this daemon has started. Its fields but the constant pid are under Manager.mu.
type shimProc struct {
	pid   int
	pidfd int // -1 once it is gone, and on kernels without
	sock  int // -1 once it gets no more attempts
	since time.Time
}

// hand gives an attempt to a shim and begins to watch it. file is locked; the shim's hold on it outlives the daemon's.
func (m *Manager) hand(e *entry, file *os.File) error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(pipe[1])
	// A shim that has died while it waited is passed over.
	for p := m.takeIdle(); p != nil; p = m.takeIdle() {
		if m.give(e, p, file, pipe) == nil {
			return nil
		}
		m.dismiss(p)
	}
	p, err := m.startShim()
	if err == nil {
		if err = m.give(e, p, file, pipe); err == nil {
			return nil
		}
		m.dismiss(p)
	}
	_ = unix.Close(pipe[0])
	return err
}

// give sends the attempt's file and the pipe's writing end.
func (m *Manager) give(e *entry, p *shimProc, file *os.File, pipe [2]int) error {
	rights := unix.UnixRights(int(file.Fd()), pipe[1])
	if err := unix.Sendmsg(p.sock, []byte(file.Name()), rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT); err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	m.mu.Lock()
	e.shim, e.notify = p, pipe[0]
	m.becomeAlive(e)
	m.mu.Unlock()
	m.watch.add(e)
	return nil
}

// startShim starts a shim that waits for attempts.
func (m *Manager) startShim() (*shimProc, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[1])
	null := m.devNull.Fd()
	p := &shimProc{pidfd: -1, sock: pair[0]}
	p.pid, err = syscall.ForkExec(m.cfg.ShimPath, []string{"fettle-shim", "serve"}, &syscall.ProcAttr{
		Dir: "/", Env: shimEnv, Files: []uintptr{null, null, m.shimLog.Fd(), uintptr(pair[1])},
		Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &p.pidfd},
	})
	if err != nil {
		_ = unix.Close(pair[0])
		return nil, &os.PathError{Op: "exec", Path: m.cfg.ShimPath, Err: err}
	}
	m.watch.addShim(p)
	return p, nil
}

// reap takes away the zombie of a shim, and says whether the shim is gone.
func (m *Manager) reap(p *shimProc) bool {
	for {
		pid, err := unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if pid == 0 && err == nil {
			return false
		}
		break
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.pidfd >= 0 {
		_ = unix.Close(p.pidfd)
		p.pidfd = -1
	}
	p.pid = 0
	return true
}

func (m *Manager) takeIdle() *shimProc {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.idle)
	if n == 0 {
		return nil
	}
	p := m.idle[n-1]
	m.idle = m.idle[:n-1]
	return p
}

// releaseShim lets a shim whose attempt is over have another one.
func (m *Manager) releaseShim(p *shimProc) {
	m.mu.Lock()
	p.since = m.cfg.Now()
	keep := len(m.idle) < maxIdle && p.pid != 0
	if keep {
		m.idle = append(m.idle, p)
	}
	m.mu.Unlock()
	if !keep {
		m.dismiss(p)
	}
}

// dismiss lets a shim end once it has nothing in hand.
func (m *Manager) dismiss(p *shimProc) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.sock >= 0 {
		_ = unix.Close(p.sock)
		p.sock = -1
	}
}

// dismissIdle ends the shims that have waited too long.
func (m *Manager) dismissIdle(before time.Time) {
	m.mu.Lock()
	var old []*shimProc
	for len(m.idle) > 0 && m.idle[0].since.Before(before) {
		old = append(old, m.idle[0])
		m.idle = m.idle[1:]
	}
	m.mu.Unlock()
	for _, p := range old {
		m.dismiss(p)
	}
}

// becomeAlive passes on what was asked while there was no shim yet. The caller holds mu.
func (m *Manager) becomeAlive(e *entry) {
	e.phase = alive
	if e.stop != nil {
		m.tell(e, &handoff.Control{Stop: true, GraceMS: *e.stop})
	}
	if e.limit != nil {
		m.tell(e, &handoff.Control{Limit: true, LimitS: *e.limit})
	}
	e.stop, e.limit = nil, nil
}

// findPid learns an adopted shim's pid. It fails for a moment when the daemon before this one died right after it had
// handed the attempt over.
func (m *Manager) findPid(e *entry) bool {
	_, recs, err := m.read(e.key, e.records)
	if err != nil || recs.Shim == nil || recs.Shim.PID <= 0 {
		return false
	}
	pid := int(recs.Shim.PID)
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil && !errors.Is(err, unix.ENOSYS) {
		return false
	}
	if err != nil {
		fd = -1
	}
	// Held still: then the pid was the shim's when the pidfd was opened.
	lock, err := openLocked(m.path(e.key), os.O_RDWR)
	if !errors.Is(err, errLocked) {
		if lock != nil {
			_ = lock.Close()
		}
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e.adopted = &shimProc{pid: pid, pidfd: fd, sock: -1}
	// What was asked for before this daemon's time, or while the pid was not known, may wait in the file.
	m.poke(e)
	return fd >= 0
}

// poke makes a shim look at its attempt's file. The caller holds mu.
func (m *Manager) poke(e *entry) {
	p := e.shim
	if p == nil {
		p = e.adopted
	}
	switch {
	case p == nil:
	case p.pidfd >= 0:
		_ = unix.PidfdSendSignal(p.pidfd, unix.SIGCONT, nil, 0)
	case p.pid > 0:
		_ = unix.Kill(p.pid, unix.SIGCONT)
	}
}
