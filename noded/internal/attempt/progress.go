package attempt

import (
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// LastProgress returns what Progress has not returned yet of one attempt, nil when there is nothing. An attempt's end is told
// after the last of its progress was read: asked then, it is the whole of it, and there will be no other time to ask.
func (m *Manager) LastProgress(k nodemachine.Key) *fettlev1.AttemptProgress {
	m.mu.Lock()
	e := m.entries[k]
	m.mu.Unlock()
	if e == nil {
		return nil
	}
	e.progress.mu.Lock()
	defer e.progress.mu.Unlock()
	if !e.progress.fresh {
		return nil
	}
	e.progress.fresh = false
	return &fettlev1.AttemptProgress{Key: k.Proto(), Progress: e.progress.newest}
}
