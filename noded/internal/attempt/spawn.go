package attempt

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
)

// shimEnv is a shim's whole environment: one processor is enough for it, and it need not ask cgroups how many there are.
var shimEnv = []string{"GOMAXPROCS=1", "GODEBUG=containermaxprocs=0,updatemaxprocs=0"}

// spawn forks the shim, which inherits the locked file, and begins to watch it.
func (m *Manager) spawn(e *entry, file *os.File) error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	if err := unix.SetNonblock(pipe[0], true); err != nil {
		_, _ = unix.Close(pipe[0]), unix.Close(pipe[1])
		return os.NewSyscallError("fcntl", err)
	}
	null := m.devNull.Fd()
	pidfd := -1
	pid, err := syscall.ForkExec(m.cfg.ShimPath, []string{"fettle-shim", "run", file.Name()}, &syscall.ProcAttr{
		Dir: "/", Env: shimEnv,
		Files: []uintptr{null, null, m.shimLog.Fd(), file.Fd(), uintptr(pipe[1])},
		Sys:   &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
	})
	_ = unix.Close(pipe[1])
	if err != nil {
		_ = unix.Close(pipe[0])
		return &os.PathError{Op: "exec", Path: m.cfg.ShimPath, Err: err}
	}
	m.mu.Lock()
	e.pid, e.pidfd, e.child, e.notify = pid, pidfd, true, pipe[0]
	m.becomeAlive(e)
	m.mu.Unlock()
	m.watch.add(e)
	return nil
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

// findPid learns an adopted shim's pid. It fails for a moment when the daemon before this one died between the fork and
// the shim's first words.
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
	e.pid, e.pidfd = pid, fd
	// What was asked for before this daemon's time, or while the pid was not known, may wait in the control file.
	m.poke(e)
	return fd >= 0
}
