package attempt

import (
	"slices"

	"github.com/fettle-hpc/fettle/noded/internal/gpuwatch"
	"github.com/fettle-hpc/fettle/noded/internal/handoff"
	"github.com/fettle-hpc/fettle/noded/internal/killtree"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// Holding lists the attempts that hold GPUs, in key order: those that are over too, until their end was acknowledged.
func (m *Manager) Holding() []gpuwatch.Attempt {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []gpuwatch.Attempt
	for _, e := range m.entries {
		a := gpuwatch.Attempt{Key: e.key, Over: e.phase == over}
		switch {
		case e.info != nil:
			a.GPUs, a.VRAMMiB = e.info.GPUs, e.info.VRAMMiB
			if !a.Over && e.info.Cgroup.V2Dir != "" {
				a.Group = killtree.V2{Dir: e.info.Cgroup.V2Dir}
			} else if !a.Over && e.info.Cgroup.FreezerDir != "" {
				a.Group = killtree.V1{Dir: e.info.Cgroup.FreezerDir}
			}
		case e.start.Prepare != nil:
			given := e.start.Prepare.GetAllocation()
			a.GPUs, a.VRAMMiB = given.GetGpuUuids(), given.GetVramMib()
		}
		switch {
		case e.shim != nil:
			a.Shim = e.shim.pid
		case e.adopted != nil && !a.Over:
			a.Shim = e.adopted.pid
		}
		if len(a.GPUs) > 0 || a.Shim != 0 {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, func(a, b gpuwatch.Attempt) int { return a.Key.Compare(b.Key) })
	return list
}

// EndOverShare ends a running attempt that uses more GPU memory than its share, with the job's own grace between TERM and
// KILL. detail is one line with the figures. An attempt that is being ended already keeps the reason that it has.
func (m *Manager) EndOverShare(k nodemachine.Key, detail string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[k]
	if e == nil || e.info == nil {
		return
	}
	m.tell(e, &handoff.Control{Stop: true, GraceMS: e.info.GraceMS, VRAMExceeded: true, Detail: oneLine(detail)})
}
