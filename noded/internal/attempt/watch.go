package attempt

import (
	"errors"
	"maps"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// watcher waits for all shims on one thread. An attempt that this daemon handed over is over when its pipe is closed; one
// that it found, when the shim's pidfd becomes readable, since such a shim gets no other. Where there is no pidfd the
// attempt's lock is looked at.
type watcher struct {
	m    *Manager
	ep   int
	quit int // eventfd

	mu      sync.Mutex
	next    int32
	watched map[int32]*entry
	shims   map[int32]*shimProc
	polled  []*entry
}

const (
	// pollMS is how often attempts without a pidfd are looked at.
	pollMS = 50
	// sweepMS is how often shims that wait are looked through.
	sweepMS = 10_000
)

// Epoll data: a number in Fd, what it counts in Pad.
const (
	onQuit = iota
	onNotify
	onAdopted
	onShim
)

func newWatcher(m *Manager) (*watcher, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	quit, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(ep)
		return nil, os.NewSyscallError("eventfd", err)
	}
	w := &watcher{m: m, ep: ep, quit: quit, watched: map[int32]*entry{}, shims: map[int32]*shimProc{}}
	if err := w.register(quit, 0, onQuit); err != nil {
		_, _ = unix.Close(ep), unix.Close(quit)
		return nil, err
	}
	return w, nil
}

func (w *watcher) register(fd int, number, which int32) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: number, Pad: which}
	if which == onAdopted || which == onShim {
		// A pidfd stays readable until it is closed, which comes later and elsewhere.
		ev.Events |= unix.EPOLLONESHOT
	}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(w.ep, unix.EPOLL_CTL_ADD, fd, &ev))
}

// interrupt makes run look around.
func (w *watcher) interrupt() {
	_, _ = unix.Write(w.quit, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

func (w *watcher) close() {
	for _, e := range w.watched {
		if e.notify >= 0 {
			_ = unix.Close(e.notify)
		}
		if e.adopted != nil && e.adopted.pidfd >= 0 {
			_ = unix.Close(e.adopted.pidfd)
		}
	}
	for _, p := range w.shims {
		if p.pidfd >= 0 {
			_ = unix.Close(p.pidfd)
		}
	}
	_, _ = unix.Close(w.ep), unix.Close(w.quit)
}

// add watches an attempt.
func (w *watcher) add(e *entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	n := w.next
	fd, which := e.notify, int32(onNotify)
	if e.adopted != nil {
		fd, which = e.adopted.pidfd, onAdopted
	}
	if fd >= 0 {
		w.watched[n] = e
		err := w.register(fd, n, which)
		if err == nil {
			return
		}
		w.m.logEntry(e, "cannot watch an attempt, its lock is polled", err)
		delete(w.watched, n)
	}
	w.polled = append(w.polled, e)
	w.interrupt()
}

// addShim watches a shim's own end. One without a pidfd is looked at now and then: only its zombie waits for that.
func (w *watcher) addShim(p *shimProc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	w.shims[w.next] = p
	if p.pidfd < 0 {
		return
	}
	if err := w.register(p.pidfd, w.next, onShim); err != nil {
		w.m.cfg.Log.Warn("cannot watch a shim's end", "pid", p.pid, "err", err)
	}
}

// sweep looks at all shims.
func (w *watcher) sweep() {
	w.mu.Lock()
	shims := maps.Clone(w.shims)
	w.mu.Unlock()
	for n, p := range shims {
		if w.m.reap(p) {
			w.mu.Lock()
			delete(w.shims, n)
			w.mu.Unlock()
		}
	}
	w.m.dismissIdle(w.m.cfg.Now().Add(-idleFor))
}

func (w *watcher) run() {
	events := make([]unix.EpollEvent, 256)
	swept := time.Now()
	for {
		timeout := sweepMS
		w.mu.Lock()
		if len(w.polled) > 0 {
			timeout = pollMS
		}
		w.mu.Unlock()
		n, err := unix.EpollWait(w.ep, events, timeout)
		if err != nil && !errors.Is(err, unix.EINTR) {
			w.m.cfg.Log.Error("cannot wait for shims", "err", err)
			return
		}
		if w.m.ctx.Err() != nil {
			return
		}
		for _, ev := range events[:max(0, n)] {
			w.handle(ev.Fd, ev.Pad)
		}
		w.poll()
		if time.Since(swept) > sweepMS*time.Millisecond {
			swept = time.Now()
			w.sweep()
		}
	}
}

func (w *watcher) handle(number, which int32) {
	w.mu.Lock()
	e, p := w.watched[number], w.shims[number]
	w.mu.Unlock()
	switch {
	case which == onQuit:
		var b [8]byte
		_, _ = unix.Read(w.quit, b[:])
	case which == onShim && p != nil:
		w.mu.Lock()
		delete(w.shims, number)
		w.mu.Unlock()
		_ = w.m.reap(p)
	case e == nil:
	case which == onAdopted || w.pipeClosed(e):
		w.mu.Lock()
		delete(w.watched, number)
		w.mu.Unlock()
		w.m.over(e)
	}
}

// pipeClosed reads the pipe: a start is told, and the end of the pipe is the attempt's.
func (w *watcher) pipeClosed(e *entry) bool {
	for {
		var b [8]byte
		n, err := unix.Read(e.notify, b[:])
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return false
		case n > 0 && b[0] == handoff.NotifyStarted:
			w.m.started(e)
		case n <= 0:
			_ = unix.Close(e.notify)
			e.notify = -1
			return true
		}
	}
}

// poll looks at the attempts that have no descriptor to wait for.
func (w *watcher) poll() {
	w.mu.Lock()
	polled := w.polled
	w.polled = nil
	w.mu.Unlock()
	var keep []*entry
	for _, e := range polled {
		if e.notify >= 0 {
			if w.pipeClosed(e) {
				w.m.over(e)
			} else {
				keep = append(keep, e)
			}
			continue
		}
		if e.adopted == nil && w.m.findPid(e) {
			w.add(e)
			continue
		}
		lock, err := openLocked(w.m.path(e.key), os.O_RDWR)
		if err != nil {
			if !errors.Is(err, errLocked) {
				w.m.logEntry(e, "cannot look at an attempt's lock", err)
			}
			keep = append(keep, e)
			continue
		}
		_ = lock.Close()
		w.m.over(e)
	}
	w.mu.Lock()
	w.polled = append(w.polled, keep...)
	w.mu.Unlock()
}

// started tells that the first process runs.
func (m *Manager) started(e *entry) {
	m.launched(e)
	m.emit(nodemachine.ShimStarted{Key: e.key})
	m.follow(e)
}

// over has the end of an attempt worked out.
func (m *Manager) over(e *entry) {
	m.launched(e)
	m.enqueue(func() { m.finish(e) })
}
