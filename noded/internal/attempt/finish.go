package attempt

import (
	"time"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
	"github.com/fettle-hpc/fettle/noded/internal/killtree"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// finish works out how an attempt whose shim is gone has ended. A worker calls it; what may take long goes to a goroutine
// of its own.
func (m *Manager) finish(e *entry) {
	_, recs, err := m.read(e.key, e.records)
	if err != nil {
		m.logEntry(e, "an attempt's file cannot be read", err)
	}
	m.mu.Lock()
	p := e.shim
	e.shim = nil
	m.mu.Unlock()
	switch {
	case p == nil:
	case recs.Exit != nil:
		m.releaseShim(p)
	default:
		m.dismiss(p)
	}
	switch {
	case recs.Exit != nil:
		m.settle(e, exitProto(recs.Exit))
	case err == nil && !recs.Launched:
		m.finished(e, &fettlev1.Exit{Code: -1, NeverStarted: true, EndMs: m.cfg.Now().UnixMilli(),
			Detail: "the shim ended before the start; see " + m.cfg.ShimLog})
	default:
		m.wg.Go(func() { m.lost(e) })
	}
}

// settle removes the cgroup, lets the launcher judge the end, and tells it.
func (m *Manager) settle(e *entry, exit *fettlev1.Exit) {
	m.mu.Lock()
	method, cg := "", handoff.Cgroup{}
	if e.info != nil {
		method, cg = e.info.Method, e.info.Cgroup
	}
	m.mu.Unlock()
	m.release(e, cg)
	if isScript(method) || exit.GetNeverStarted() {
		m.finished(e, exit)
		return
	}
	m.wg.Go(func() {
		m.classify(e, exit)
		m.finished(e, exit)
	})
}

func (m *Manager) release(e *entry, cg handoff.Cgroup) {
	if err := m.cfg.Groups.Release(cg); err != nil {
		m.cfg.Log.Warn("a cgroup stays", "job", e.key.Job, "attempt", e.key.Attempt, "err", err)
	}
}

const (
	lostPause    = 20 * time.Millisecond
	lostPauseMax = time.Second
)

// lost ends what a shim has left behind. The attempt is not over before nothing of it is left: its GPUs are in use.
func (m *Manager) lost(e *entry) {
	var tree killtree.Tree = killtree.Tagged{Entry: attemptDirVar + "=" + m.filesOf(e.key)}
	m.mu.Lock()
	if i := e.info; i != nil && i.Cgroup.V2Dir != "" {
		tree = killtree.V2{Dir: i.Cgroup.V2Dir}
	} else if i != nil && i.Cgroup.FreezerDir != "" {
		tree = killtree.V1{Dir: i.Cgroup.FreezerDir}
	}
	m.mu.Unlock()
	for pause := lostPause; ; pause = min(2*pause, lostPauseMax) {
		if err := tree.Kill(); err != nil {
			m.logEntry(e, "cannot end what a lost shim left", err)
		}
		if empty, err := tree.Empty(); err == nil && empty {
			break
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-m.ctx.Done():
			t.Stop()
			return
		}
	}
	_, recs, _ := m.read(e.key, e.records) // best effort: the end is told without it
	exit := &handoff.Exit{Code: -1, ShimLost: true, Outputs: recs.Outputs, EndMS: m.cfg.Now().UnixMilli(),
		Detail: "the shim was gone without an exit record; what was left of the attempt was ended"}
	if err := m.writeExit(e.key, exit); err != nil {
		m.logEntry(e, "cannot write an exit record", err)
	}
	m.settle(e, exitProto(exit))
}
