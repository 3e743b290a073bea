package attempt

import (
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// OutputStart is where in its file the output of an attempt begins that Output knows: before it is what the file held when
// the attempt opened it. It is 0 for one that was forgotten, whose exit says it.
func (m *Manager) OutputStart(k nodemachine.Key, stderr bool) int64 {
	m.mu.Lock()
	e := m.entries[k]
	from := 0
	if e != nil {
		from = e.records
	}
	m.mu.Unlock()
	if e == nil {
		return 0
	}
	_, recs, err := m.read(k, from)
	if err != nil {
		return 0
	}
	if stderr {
		return recs.Outputs.StderrStart
	}
	return recs.Outputs.StdoutStart
}
