package attempt

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// watcher waits for all shims on one thread: their pidfds become readable when they end, their pipes when they have
// started the job. A shim without a pidfd is watched by its lock.
type watcher struct {
	m    *Manager
	ep   int
	quit int // eventfd

	mu      sync.Mutex
	next    int32
	watched map[int32]*entry
	polled  []*entry
}

// pollMS is how often shims without a pidfd are looked at.
const pollMS = 50

// Epoll data: the entry's number in Fd, which of its descriptors in Pad.
const (
	onQuit   = 0
	onEnd    = 1
	onNotify = 2
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
	w := &watcher{m: m, ep: ep, quit: quit, watched: map[int32]*entry{}}
	if err := w.register(quit, 0, onQuit); err != nil {
		_, _ = unix.Close(ep), unix.Close(quit)
		return nil, err
	}
	return w, nil
}

func (w *watcher) register(fd int, number, which int32) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: number, Pad: which}
	if which == onEnd {
		// A pidfd stays readable until it is closed, which comes later and elsewhere.
		ev.Events |= unix.EPOLLONESHOT
	}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(w.ep, unix.EPOLL_CTL_ADD, fd, &ev))
}

// stop makes run return.
func (w *watcher) stop() { w.interrupt() }

func (w *watcher) interrupt() {
	_, _ = unix.Write(w.quit, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

func (w *watcher) close() {
	for _, e := range w.watched {
		if e.notify >= 0 {
			_ = unix.Close(e.notify)
		}
		if e.pidfd >= 0 {
			_ = unix.Close(e.pidfd)
		}
	}
	_, _ = unix.Close(w.ep), unix.Close(w.quit)
}

// add watches a shim.
func (w *watcher) add(e *entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	n := w.next
	w.watched[n] = e
	if e.notify >= 0 {
		if err := w.register(e.notify, n, onNotify); err != nil {
			w.m.logEntry(e, "cannot watch a shim's pipe", err)
		}
	}
	if e.pidfd >= 0 {
		err := w.register(e.pidfd, n, onEnd)
		if err == nil {
			return
		}
		w.m.logEntry(e, "cannot watch a shim's end, its lock is polled", err)
	}
	delete(w.watched, n)
	w.polled = append(w.polled, e)
	w.interrupt()
}

func (w *watcher) run() {
	events := make([]unix.EpollEvent, 256)
	for {
		timeout := -1
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
	}
}

func (w *watcher) handle(number, which int32) {
	if which == onQuit {
		var b [8]byte
		_, _ = unix.Read(w.quit, b[:])
		return
	}
	w.mu.Lock()
	e := w.watched[number]
	w.mu.Unlock()
	if e == nil {
		return
	}
	w.drainNotify(e)
	if which == onEnd {
		w.mu.Lock()
		delete(w.watched, number)
		w.mu.Unlock()
		w.ended(e)
	}
}

// drainNotify tells of the start before anything tells of the end.
func (w *watcher) drainNotify(e *entry) {
	if e.notify < 0 {
		return
	}
	var b [8]byte
	n, err := unix.Read(e.notify, b[:])
	if n > 0 && b[0] == handoff.NotifyStarted {
		w.m.started(e)
		return
	}
	if n == 0 || (err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)) {
		_ = unix.Close(e.notify)
		e.notify = -1
	}
}

func (w *watcher) ended(e *entry) {
	if e.notify >= 0 {
		_ = unix.Close(e.notify)
		e.notify = -1
	}
	if e.child {
		reap(e)
	}
	w.m.enqueue(func() { w.m.finish(e) })
}

// reap takes the shim's zombie away.
func reap(e *entry) {
	for {
		_, err := unix.Wait4(e.pid, nil, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// poll looks at the shims that have no pidfd.
func (w *watcher) poll() {
	w.mu.Lock()
	polled := w.polled
	w.polled = nil
	w.mu.Unlock()
	var keep []*entry
	for _, e := range polled {
		w.drainNotify(e)
		if e.pidfd < 0 && !e.child && w.m.findPid(e) {
			w.add(e)
			continue
		}
		lock, err := openLocked(w.m.path(e.key), os.O_RDWR)
		if errors.Is(err, errLocked) {
			keep = append(keep, e)
			continue
		}
		if err != nil {
			w.m.logEntry(e, "cannot look at a shim's lock", err)
			keep = append(keep, e)
			continue
		}
		_ = lock.Close()
		w.ended(e)
	}
	w.mu.Lock()
	w.polled = append(w.polled, keep...)
	w.mu.Unlock()
}

// started tells that the first process runs.
func (m *Manager) started(e *entry) {
	m.emit(nodemachine.ShimStarted{Key: e.key})
	m.follow(e)
}
