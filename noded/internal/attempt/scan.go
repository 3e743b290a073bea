package attempt

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// Scan finds the attempts of earlier daemons and takes them up. It is called once, before anything is started.
func (m *Manager) Scan() ([]nodemachine.Found, error) {
	entries, err := os.ReadDir(m.cfg.Dir)
	if err != nil {
		return nil, err
	}
	var found []nodemachine.Found
	for _, d := range entries {
		k, ok := nodemachine.ParseKey(d.Name())
		if !ok || !d.IsDir() {
			continue
		}
		e := &entry{key: k, pidfd: -1, notify: -1, ended: make(chan struct{})}
		m.mu.Lock()
		m.entries[k] = e
		m.mu.Unlock()
		if f := m.adopt(e); f != nil {
			found = append(found, *f)
		}
	}
	err = m.cfg.Groups.Sweep(func(name string) bool { return exists(filepath.Join(m.cfg.Dir, name)) })
	if err != nil {
		m.cfg.Log.Warn("a cgroup of a forgotten attempt stays", "err", err)
	}
	return found, nil
}

// adopt takes up an attempt that has a directory. It returns nil for a directory that the daemon before this one had no
// time to fill: nothing was forked from it, and it is removed.
func (m *Manager) adopt(e *entry) *nodemachine.Found {
	dir := m.dir(e.key)
	i, err := readInfo(dir)
	m.mu.Lock()
	e.info = i
	m.mu.Unlock()
	running := &nodemachine.Found{Key: e.key, State: nodemachine.FoundRunning}
	lock, lerr := takeLock(dir, 0)
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
		return running
	}
	if lock != nil {
		defer lock.Close()
	}
	launched := exists(filepath.Join(dir, handoff.LaunchFile))
	exit, xerr := readExit(dir)
	switch {
	case exit == nil && !launched && (errors.Is(lerr, os.ErrNotExist) || errors.Is(err, os.ErrNotExist)):
		// No lock or no order: the fork comes after both.
		m.mu.Lock()
		delete(m.entries, e.key)
		m.mu.Unlock()
		m.removeDir(e.key)
		return nil
	case exit == nil && xerr == nil && !launched:
		m.setOver(e)
		return &nodemachine.Found{Key: e.key, State: nodemachine.FoundEnded,
			Exit: &fettlev1.Exit{Code: -1, NeverStarted: true, Detail: "the node daemon ended before the shim was started"}}
	case exit != nil && (exit.NeverStarted || i == nil || isScript(i.Method)):
		m.setOver(e)
		return &nodemachine.Found{Key: e.key, State: nodemachine.FoundEnded, Exit: exitProto(exit)}
	}
	// To be judged, or to be cleared up: the end follows as an event.
	m.enqueue(func() { m.finish(e) })
	return running
}
