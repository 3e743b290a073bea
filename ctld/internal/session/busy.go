package session

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

const (
	// maxForeign bounds the processes kept for one GPU, maxNamed those in its text.
	maxForeign = 16
	maxNamed   = 3
	// maxProgram bounds a program's name in bytes.
	maxProgram = 64
)

// BusyGPU is a GPU on which something runs that is no job's.
type BusyGPU struct {
	UUID string
	// Pids are the processes as far as they are known; MemoryMiB is what is known of the memory in use.
	Pids      []uint32
	MemoryMiB int64
	// Text is one line for people: "pid 4242 (python3) with 12000 MiB".
	Text string
}

// BusyOutside returns the GPUs that something else than jobs uses, by node, each node's by UUID. Nodes without any are left
// out. The nodes have decided: a GPU comes after two readings in a row and goes with one. What is returned is the caller's;
// the lists in it must not be changed.
func (s *Server) BusyOutside() map[string][]BusyGPU {
	s.telemetry.mu.RLock()
	defer s.telemetry.mu.RUnlock()
	return maps.Clone(s.telemetry.busy)
}

// NodeBusyOutside is BusyOutside of one node.
func (s *Server) NodeBusyOutside(node string) []BusyGPU {
	s.telemetry.mu.RLock()
	defer s.telemetry.mu.RUnlock()
	return s.telemetry.busy[node]
}

// OnBusyOutside sets what is called, on the goroutine of a node's stream, whenever a GPU of the node has become busy or free.
// It may call BusyOutside and NodeBusyOutside, and must not block. A new term begins with none busy, of which nothing is
// called. Set it before Lead.
func (s *Server) OnBusyOutside(f func(node string)) { s.busyChanged = f }

// setBusy takes what readings say and reports whether other GPUs are busy than before. The caller holds mu.
func (t *telemetry) setBusy(node string, readings []*fettlev1.GPUReading) bool {
	var list []BusyGPU
	for _, r := range readings {
		if len(r.GetForeign()) > 0 || r.GetForeignMemoryMib() > 0 {
			list = append(list, busyGPU(r))
		}
	}
	slices.SortFunc(list, func(a, b BusyGPU) int { return strings.Compare(a.UUID, b.UUID) })
	list = slices.CompactFunc(list, func(a, b BusyGPU) bool { return a.UUID == b.UUID })
	changed := !slices.EqualFunc(t.busy[node], list, func(a, b BusyGPU) bool { return a.UUID == b.UUID })
	if len(list) == 0 {
		delete(t.busy, node)
	} else {
		t.busy[node] = list
	}
	return changed
}

func busyGPU(r *fettlev1.GPUReading) BusyGPU {
	g := BusyGPU{UUID: r.GetUuid(), MemoryMiB: max(0, r.GetForeignMemoryMib())}
	var words []string
	for _, p := range r.GetForeign() {
		g.Pids = append(g.Pids, p.GetPid())
		g.MemoryMiB += max(0, p.GetMemoryMib())
		if len(words) == maxNamed {
			continue
		}
		text := fmt.Sprintf("pid %d", p.GetPid())
		if p.GetName() != "" {
			text += " (" + p.GetName() + ")"
		}
		if p.GetMemoryMib() > 0 {
			text += fmt.Sprintf(" with %d MiB", p.GetMemoryMib())
		}
		words = append(words, text)
	}
	if more := len(r.GetForeign()) - maxNamed; more > 0 {
		words = append(words, fmt.Sprintf("%d more", more))
	}
	if m := r.GetForeignMemoryMib(); m > 0 {
		words = append(words, fmt.Sprintf("%d MiB that no process accounts for", m))
	}
	g.Text = strings.Join(words, ", ")
	return g
}

// boundForeign cuts what a node says of strangers to what is worth keeping.
func boundForeign(r *fettlev1.GPUReading) {
	r.Foreign = r.GetForeign()[:min(len(r.GetForeign()), maxForeign)]
	for _, p := range r.GetForeign() {
		p.Name = model.OneLine(p.GetName(), maxProgram)
	}
}
