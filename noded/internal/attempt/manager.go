package attempt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
	"github.com/fettle-hpc/fettle/noded/internal/userread"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// phase of an attempt in this daemon's memory.
type phase uint8

const (
	// queued: to be started; nothing is on the disk yet.
	queued phase = iota
	// alive: a shim owns it.
	alive
	// over: the shim is gone; its end is being worked out, or was told.
	over
)

type entry struct {
	key   nodemachine.Key
	start nodemachine.StartShim

	// Under Manager.mu.
	phase     phase
	launching bool
	info      *info
	// records is where the records of the attempt's file begin; 0 when it is not known.
	records int
	// shim is the one that this daemon gave the attempt to, adopted that of an earlier daemon.
	shim, adopted *shimProc
	// stop, when set, is the grace that a stop before the shim was there asked for; limit likewise.
	stop  *int64
	limit *int64

	// notify is the reading end of the pipe that the shim closes when the attempt is over; -1 once it is closed here. It is
	// the watcher's.
	notify int

	// ended is closed when no process is left that could write: what follows the attempt's files reads to the end.
	ended chan struct{}
	// followed is closed when the last of the progress was read; nil when nobody reads it.
	followed chan struct{}
	progress progressState
}

// close ends what follows the attempt's files. The caller holds Manager.mu.
func (e *entry) close() {
	select {
	case <-e.ended:
	default:
		close(e.ended)
	}
}

// Manager runs attempts. Its methods do not block on anything slow; what happens is told through Events.
type Manager struct {
	cfg    Config
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once
	events chan nodemachine.Input
	reader userread.Reader

	mu      sync.Mutex
	wake    sync.Cond
	entries map[nodemachine.Key]*entry
	// work is what the workers take first: ends and removals. starts wait until few enough are launching.
	work      []func()
	starts    []*entry
	launching int
	closed    bool
	// forgotten are the outputs of the last attempts that were forgotten, for those who read to the end.
	forgotten     map[nodemachine.Key]*info
	forgottenRing []nodemachine.Key
	// spares are empty attempt files.
	spares   []string
	spareSeq uint64
	// spareDirs are directories of scripts, by whose they are.
	spareDirs     map[owner][]string
	spareDirCount int
	// idle are shims without an attempt, longest idle first.
	idle []*shimProc

	planners chan struct{}
	newNames chan struct{}
	shimLog  *os.File
	devNull  *os.File
	watch    *watcher
}

// New prepares a manager on cfg.Dir, which it makes when it is missing. Scan comes next.
func New(cfg Config) (*Manager, error) {
	if err := cfg.withDefaults(); err != nil {
		return nil, err
	}
	m := &Manager{
		cfg: cfg, events: make(chan nodemachine.Input, 64), entries: map[nodemachine.Key]*entry{}, forgotten: map[nodemachine.Key]*info{}, spareDirs: map[owner][]string{},
		planners: make(chan struct{}, cfg.Planners), newNames: make(chan struct{}, 1), reader: userread.Reader{ShimPath: cfg.ShimPath},
	}
	m.wake.L = &m.mu
	if err := m.makeLayout(); err != nil {
		return nil, err
	}
	var err error
	if m.shimLog, err = os.OpenFile(cfg.ShimLog, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if m.devNull, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		_ = m.shimLog.Close()
		return nil, err
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	if m.watch, err = newWatcher(m); err != nil {
		m.cancel()
		_, _ = m.shimLog.Close(), m.devNull.Close()
		return nil, err
	}
	m.wg.Go(m.watch.run)
	m.wg.Go(m.syncNames)
	for range cfg.Workers {
		m.wg.Go(m.worker)
	}
	return m, nil
}

// Close ends the manager's goroutines. Shims and jobs go on. A second call does nothing.
func (m *Manager) Close() { m.once.Do(m.close) }

func (m *Manager) close() {
	m.cancel()
	m.mu.Lock()
	m.closed = true
	m.wake.Broadcast()
	m.mu.Unlock()
	m.watch.interrupt()
	m.wg.Wait()
	m.watch.close()
	// Shims whose socket is closed end with what they have in hand.
	m.dismissIdle(m.cfg.Now().Add(idleFor))
	for _, e := range m.entries {
		if e.shim != nil {
			m.dismiss(e.shim)
		}
	}
	_ = m.shimLog.Close()
	_ = m.devNull.Close()
}

// Events carries ShimStarted, ShimFailed and ShimEnded, for one attempt in this order. It must be read.
func (m *Manager) Events() <-chan nodemachine.Input { return m.events }

func (m *Manager) emit(in nodemachine.Input) {
	select {
	case m.events <- in:
	case <-m.ctx.Done():
	}
}

func (m *Manager) enqueue(f func()) {
	m.mu.Lock()
	m.work = append(m.work, f)
	m.wake.Signal()
	m.mu.Unlock()
}

func (m *Manager) worker() {
	for {
		m.mu.Lock()
		startable := func() bool { return len(m.starts) > 0 && m.launching < m.cfg.Launching }
		for len(m.work) == 0 && !startable() && !m.closed {
			m.wake.Wait()
		}
		var f func()
		switch {
		case m.closed:
			m.mu.Unlock()
			return
		case len(m.work) > 0:
			f = m.work[0]
			m.work[0] = nil
			m.work = m.work[1:]
		default:
			e := m.starts[0]
			m.starts[0] = nil
			m.starts = m.starts[1:]
			m.launching++
			e.launching = true
			f = func() { m.begin(e) }
		}
		m.mu.Unlock()
		f()
	}
}

// launchPatience is how long an attempt may keep others from being started: a user's directory may hang for ever.
const launchPatience = 250 * time.Millisecond

// launched lets another attempt be started.
func (m *Manager) launched(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !e.launching {
		return
	}
	e.launching = false
	m.launching--
	m.wake.Signal()
}

// Start starts an attempt.
func (m *Manager) Start(s nodemachine.StartShim) {
	e := &entry{key: s.Key, start: s, notify: -1, ended: make(chan struct{})}
	m.mu.Lock()
	if m.entries[s.Key] != nil {
		m.mu.Unlock()
		m.cfg.Log.Error("an attempt was to be started twice", "job", s.Key.Job, "attempt", s.Key.Attempt)
		return
	}
	m.entries[s.Key] = e
	m.mu.Unlock()
	if isScript(s.Prepare.GetSpec().GetMethod()) {
		m.mu.Lock()
		m.starts = append(m.starts, e)
		m.wake.Signal()
		m.mu.Unlock()
		return
	}
	// A launcher may take its time; scripts do not wait behind it.
	m.wg.Go(func() {
		select {
		case m.planners <- struct{}{}:
			defer func() { <-m.planners }()
			m.begin(e)
		case <-m.ctx.Done():
		}
	})
}

// Stop ends an attempt, or keeps it from being started.
func (m *Manager) Stop(k nodemachine.Key, graceMS int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[k]
	if e == nil {
		return
	}
	if e.phase == queued {
		if e.stop == nil || graceMS < *e.stop {
			e.stop = &graceMS
		}
		return
	}
	m.tell(e, &handoff.Control{Stop: true, GraceMS: graceMS})
}

// Signal delivers a signal to a running attempt.
func (m *Manager) Signal(k nodemachine.Key, sig int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[k]; e != nil && sig > 0 && sig < 65 {
		m.tell(e, &handoff.Control{Signal: sig})
	}
}

// SetLimit replaces an attempt's time limit.
func (m *Manager) SetLimit(k nodemachine.Key, seconds int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[k]
	if e == nil {
		return
	}
	if e.phase == queued {
		e.limit = &seconds
		return
	}
	m.tell(e, &handoff.Control{Limit: true, LimitS: seconds})
}

// tell appends to a living shim's control file and wakes it. The caller holds mu.
func (m *Manager) tell(e *entry, c *handoff.Control) {
	if e.phase != alive {
		return
	}
	if err := m.append(e.key, c.Marshal()); err != nil {
		m.cfg.Log.Error("cannot tell a shim", "job", e.key.Job, "attempt", e.key.Attempt, "err", err)
		return
	}
	m.poke(e)
}

// Forget removes an attempt whose end was acknowledged.
func (m *Manager) Forget(k nodemachine.Key) {
	m.enqueue(func() {
		m.mu.Lock()
		e := m.entries[k]
		if e != nil && e.phase != over {
			m.mu.Unlock()
			m.cfg.Log.Error("an attempt that is not over was to be forgotten", "job", k.Job, "attempt", k.Attempt)
			return
		}
		delete(m.entries, k)
		var i *info
		if e != nil && e.info != nil {
			i = e.info
			m.rememberLocked(k, i)
		}
		m.mu.Unlock()
		m.remove(k, i)
	})
}

// maxForgotten bounds the outputs that are remembered.
const maxForgotten = 4_096

func (m *Manager) rememberLocked(k nodemachine.Key, i *info) {
	if len(m.forgottenRing) == maxForgotten {
		delete(m.forgotten, m.forgottenRing[0])
		m.forgottenRing = m.forgottenRing[1:]
	}
	m.forgottenRing = append(m.forgottenRing, k)
	m.forgotten[k] = i
}

// Output says where an attempt's output is and whom to read it as. ended is closed when the attempt is over. It also knows
// the last attempts that were forgotten.
func (m *Manager) Output(k nodemachine.Key, stderr bool) (path string, who userread.Identity, ended <-chan struct{}, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.forgotten[k]
	ended = closedChan
	if e := m.entries[k]; e != nil {
		i, ended = e.info, e.ended
	}
	if i == nil {
		return "", userread.Identity{}, nil, false
	}
	path = i.Stdout
	if stderr && i.Stderr != "" {
		path = i.Stderr
	}
	return path, i.identity(), ended, true
}

// closedChan is the end of what is over.
var closedChan = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// begin makes the attempt's files and hands them to a shim.
func (m *Manager) begin(e *entry) {
	err := m.launch(e)
	if err == nil {
		time.AfterFunc(launchPatience, func() { m.launched(e) })
		return
	}
	m.launched(e)
	if errors.Is(err, errAdopted) {
		m.cfg.Log.Error("an attempt that was to be started has a file already", "job", e.key.Job, "attempt", e.key.Attempt)
		return
	}
	m.setOver(e)
	m.emit(nodemachine.ShimFailed{Key: e.key, Exit: neverStarted(err)})
}

// EndedUnstarted is the detail of an attempt that was ordered to end before it was started. No launch has failed then.
const EndedUnstarted = "ended before it was started"

var errAdopted = errors.New("adopted")

func (m *Manager) launch(e *entry) error {
	pl, err := m.makePlan(m.ctx, e.start)
	if err != nil {
		return err
	}
	m.mu.Lock()
	if e.limit != nil {
		pl.order.TimeLimitS, e.limit = *e.limit, nil
	}
	stopped := e.stop != nil
	e.info = &pl.info
	m.mu.Unlock()
	if stopped {
		return nodeFault("%s", EndedUnstarted)
	}
	cg, err := m.cfg.Groups.Create(pl.limits)
	if err != nil {
		return nodeFault("%v", err)
	}
	if err := pl.seal(cg); err != nil {
		return nodeFault("order: %v", err)
	}
	file, size, err := m.makeFiles(e.key, pl)
	if errors.Is(err, os.ErrExist) {
		// Nothing starts an attempt twice: whatever is there decides.
		m.release(e, cg)
		if f := m.adopt(e); f != nil && f.State == nodemachine.FoundEnded {
			m.emit(nodemachine.ShimEnded{Key: e.key, Exit: f.Exit})
		}
		return errAdopted
	}
	if err != nil {
		m.release(e, cg)
		m.remove(e.key, nil)
		return nodeFault("%v", err)
	}
	m.mu.Lock()
	e.records = size
	m.mu.Unlock()
	err = m.hand(e, file)
	_ = file.Close() // the shim has its own hold
	if err != nil {
		m.release(e, cg)
		m.remove(e.key, nil)
		return nodeFault("start the shim: %v", err)
	}
	return nil
}

// setOver marks an attempt as over and lets its followers end.
func (m *Manager) setOver(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.phase = over
	e.start = nodemachine.StartShim{Key: e.key}
	if e.adopted != nil && e.adopted.pidfd >= 0 {
		_ = unix.Close(e.adopted.pidfd)
		e.adopted.pidfd = -1
	}
	e.close()
}

// finished tells an end.
func (m *Manager) finished(e *entry, exit *fettlev1.Exit) {
	m.setOver(e)
	if exit.GetNeverStarted() {
		m.emit(nodemachine.ShimFailed{Key: e.key, Exit: exit})
		return
	}
	m.emit(nodemachine.ShimEnded{Key: e.key, Exit: exit})
}

func (m *Manager) logEntry(e *entry, msg string, err error) {
	m.cfg.Log.Error(msg, "job", e.key.Job, "attempt", e.key.Attempt, "err", fmt.Sprint(err))
}
