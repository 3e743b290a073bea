package nvml

import (
	"cmp"
	"slices"

	"github.com/fettle-hpc/fettle/noded/internal/gres/report"
)

// Readings reads every device of the last inventory. What cannot be read is left out.
func (m *Machine) Readings() *report.Readings {
	r := &report.Readings{GPUs: []report.Reading{}}
	for _, d := range m.devices {
		r.GPUs = append(r.GPUs, reading(d))
	}
	return r
}

func reading(d listed) report.Reading {
	r := report.Reading{UUID: d.uuid}
	if _, used, err := d.dev.Memory(); err == nil {
		v := mib(used)
		r.MemoryUsedMiB = &v
	}
	if v, err := d.dev.Utilisation(); err == nil && v <= 100 {
		r.UtilisationPct = &v
	}
	r.Processes = processes(d.dev)
	if !d.whole {
		// Temperature, power and memory errors are the whole card's.
		return r
	}
	if v, err := d.dev.Temperature(); err == nil && v <= 1000 {
		c := int32(v)
		r.TemperatureC = &c
	}
	if v, err := d.dev.Power(); err == nil && v < 100_000_000 {
		w := (v + 500) / 1000
		r.PowerW = &w
	}
	if v, err := d.dev.ECCUncorrected(); err == nil {
		r.ECCUncorrected = &v
	}
	return r
}

// processes lists each process once, by pid. Of very many, those with the most memory are listed.
func processes(dev Device) []report.Process {
	found, err := dev.Processes()
	if err != nil {
		return nil
	}
	most := make(map[uint32]uint64, len(found))
	computes := make(map[uint32]bool, len(found))
	for _, p := range found {
		most[p.PID] = max(most[p.PID], p.Bytes)
		computes[p.PID] = computes[p.PID] || !p.Graphics
	}
	list := make([]report.Process, 0, len(most))
	for pid, bytes := range most {
		list = append(list, report.Process{PID: pid, MemoryMiB: mib(bytes), Graphics: !computes[pid]})
	}
	byPID := func(a, b report.Process) int { return cmp.Compare(a.PID, b.PID) }
	slices.SortFunc(list, byPID)
	if len(list) > report.MaxProcesses {
		slices.SortStableFunc(list, func(a, b report.Process) int { return cmp.Compare(b.MemoryMiB, a.MemoryMiB) })
		list = list[:report.MaxProcesses]
		slices.SortFunc(list, byPID)
	}
	if len(list) == 0 {
		return nil
	}
	return list
}
