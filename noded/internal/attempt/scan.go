package attempt

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// Scan finds the attempts of earlier daemons and takes them up. It is called once, before anything is started.
func (m *Manager) Scan() ([]nodemachine.Found, error) {
	entries, err := os.ReadDir(filepath.Join(m.cfg.Dir, attemptsDir))
	if err != nil {
		return nil, err
	}
	m.sweepSpares(entries)
	var found []nodemachine.Found
	for _, d := range entries {
		k, ok := nodemachine.ParseKey(d.Name())
		if !ok || !d.Type().IsRegular() {
			continue
		}
		e := &entry{key: k, notify: -1, ended: make(chan struct{})}
		m.mu.Lock()
		m.entries[k] = e
		m.mu.Unlock()
		if f := m.adopt(e); f != nil {
			found = append(found, *f)
		}
	}
	return found, m.sweep()
}

// sweep removes directories and groups of attempts that have no file any more, and an earlier daemon's spare directories.
func (m *Manager) sweep() error {
	known := func(name string) bool {
		k, ok := nodemachine.ParseKey(name)
		m.mu.Lock()
		defer m.mu.Unlock()
		return !ok || m.entries[k] != nil
	}
	dir := filepath.Join(m.cfg.Dir, filesDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, d := range entries {
		if !known(d.Name()) || strings.HasPrefix(d.Name(), sparePrefix) {
			if err := os.RemoveAll(filepath.Join(dir, d.Name())); err != nil {
				m.cfg.Log.Warn("the directory of a forgotten attempt stays", "err", err)
			}
		}
	}
	var inUse []handoff.Cgroup
	m.mu.Lock()
	for _, e := range m.entries {
		if e.info != nil {
			inUse = append(inUse, e.info.Cgroup)
		}
	}
	m.mu.Unlock()
	if err := m.cfg.Groups.Sweep(inUse); err != nil {
		m.cfg.Log.Warn("a cgroup of a forgotten attempt stays", "err", err)
	}
	return nil
}

// adopt takes up an attempt that has a file. It returns nil for a file that the daemon before this one had no time to
// fill: nothing was forked from it, and it is removed.
func (m *Manager) adopt(e *entry) *nodemachine.Found {
	lock, lerr := openLocked(m.path(e.key), os.O_RDWR)
	order, recs, err := m.read(e.key, 0)
	var i *info
	if err == nil {
		i, err = infoOf(order)
	}
	if i != nil && recs.Exit != nil {
		// Its group was given back once the exit was recorded, and may be another's by now.
		i.Cgroup = handoff.Cgroup{}
	}
	m.mu.Lock()
	e.info = i
	m.mu.Unlock()
	if errors.Is(lerr, errLocked) {
		if err != nil {
			m.logEntry(e, "a running attempt's order cannot be read", err)
		}
		m.mu.Lock()
		e.phase = alive
		m.mu.Unlock()
		m.findPid(e)
		m.watch.add(e)
		m.follow(e)
		return &nodemachine.Found{Key: e.key, State: nodemachine.FoundRunning}
	}
	if lock != nil {
		defer lock.Close()
	}
	ended := func(x *fettlev1.Exit) *nodemachine.Found {
		m.setOver(e)
		return &nodemachine.Found{Key: e.key, State: nodemachine.FoundEnded, Exit: x}
	}
	switch {
	case errors.Is(err, handoff.ErrDamaged):
		// The fork comes after the whole order.
		m.mu.Lock()
		delete(m.entries, e.key)
		m.mu.Unlock()
		m.remove(e.key, nil)
		return nil
	case recs.Exit != nil && (recs.Exit.NeverStarted || i == nil || isScript(i.Method)):
		return ended(exitProto(recs.Exit))
	case err == nil && recs.Exit == nil && !recs.Launched:
		return ended(&fettlev1.Exit{Code: -1, NeverStarted: true, Detail: "the node daemon ended before the shim had started the job"})
	}
	// To be judged, or to be cleared up: the end follows as an event.
	m.enqueue(func() { m.finish(e) })
	return &nodemachine.Found{Key: e.key, State: nodemachine.FoundRunning}
}
