package session

import (
	"sync"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

const (
	// maxFinished is of how many finished jobs the last progress is kept.
	maxFinished = 4096
	// maxGPUProcesses bounds the processes in one GPU's reading.
	maxGPUProcesses = 256
)

// telemetry is what nodes say that is not worth a log entry: the newest only, in the leader's memory. It holds no more
// than the job and node tables name, and of finished jobs the newest.
type telemetry struct {
	mu       sync.RWMutex
	jobs     map[uint64]progress
	finished []uint64
	readings map[string]*fettlev1.NodeReadings
	// busy are the GPUs that something else than jobs uses, of nodes that have any.
	busy map[string][]BusyGPU
}

type progress struct {
	newest   *fettlev1.Progress
	finished bool
}

func newTelemetry() *telemetry {
	return &telemetry{jobs: map[uint64]progress{}, readings: map[string]*fettlev1.NodeReadings{}, busy: map[string][]BusyGPU{}}
}

func (t *telemetry) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.jobs)
	clear(t.readings)
	clear(t.busy)
	t.finished = nil
}

// setProgress takes what a node says of the attempts that it has; of others it knows nothing.
func (t *telemetry) setProgress(node string, p *fettlev1.NodeProgress, snap *state.Snapshot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, item := range p.GetItems() {
		key := item.GetKey()
		j := snap.Job(key.GetJobId())
		if j == nil || item.GetProgress() == nil {
			continue
		}
		at := j.Current()
		if at.GetNumber() != key.GetAttempt() || at.GetFence() != key.GetFence() || rankOf(at, node) < 0 {
			continue
		}
		newest := item.GetProgress()
		newest.Attempt = at.GetNumber()
		t.jobs[j.ID] = progress{newest: newest, finished: t.jobs[j.ID].finished}
		t.settle(j.ID, j)
	}
}

// settle forgets the progress of a job that is gone, and that of the finished jobs above the limit.
func (t *telemetry) settle(id uint64, j *state.Job) {
	p, ok := t.jobs[id]
	switch {
	case !ok:
	case j == nil:
		delete(t.jobs, id)
	case model.Terminal(j.State) && !p.finished:
		p.finished = true
		t.jobs[id] = p
		t.finished = append(t.finished, id)
		for len(t.finished) > maxFinished {
			delete(t.jobs, t.finished[0])
			t.finished = t.finished[1:]
		}
	}
}

// changed follows the job table; with all set, every job may have changed.
func (t *telemetry) changed(jobs []uint64, all bool, snap *state.Snapshot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if all {
		for id := range t.jobs {
			t.settle(id, snap.Job(id))
		}
		return
	}
	for _, id := range jobs {
		if _, ok := t.jobs[id]; ok {
			t.settle(id, snap.Job(id))
		}
	}
}

// setReadings takes a node's readings, cut to what a node can have. It reports whether other GPUs are busy outside than
// before.
func (t *telemetry) setReadings(node string, r *fettlev1.NodeReadings) (busyChanged bool) {
	r.Gpus = r.GetGpus()[:min(len(r.GetGpus()), model.MaxGPUsPerNode)]
	for _, g := range r.GetGpus() {
		g.Processes = g.GetProcesses()[:min(len(g.GetProcesses()), maxGPUProcesses)]
		boundForeign(g)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.readings[node] = r
	return t.setBusy(node, r.GetGpus())
}

// keepNodes forgets the readings of nodes that are not registered.
func (t *telemetry) keepNodes(snap *state.Snapshot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name := range t.readings {
		if snap.Node(name) == nil {
			delete(t.readings, name)
			delete(t.busy, name)
		}
	}
}

// Progress returns the newest progress of a job's newest attempt, nil when there is none. Callers must not change it.
func (s *Server) Progress(job uint64) *fettlev1.Progress {
	s.telemetry.mu.RLock()
	defer s.telemetry.mu.RUnlock()
	return s.telemetry.jobs[job].newest
}

// Readings returns a node's newest GPU readings.
func (s *Server) Readings(node string) []*fettlev1.GPUReading {
	s.telemetry.mu.RLock()
	defer s.telemetry.mu.RUnlock()
	return s.telemetry.readings[node].GetGpus()
}
