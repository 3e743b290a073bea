// Package gpuwatch compares what the driver sees on a node's GPUs with what the node's attempts hold. It finds attempts
// that use more of a GPU's memory than their share, and GPUs that something else uses.
//
// A Watch has no clock and no goroutine: it is shown one round of readings after the other. Both verdicts take two rounds
// in a row, so that neither a process that is just starting or ending nor a single wrong reading counts; one round without
// clears a GPU.
//
// Processes are known by their ancestry: an attempt's shim is a subreaper, so everything that belongs to the attempt is
// below it. A process that this host's process table does not show (the daemon may live in a container that does not see
// the driver's numbers) is taken for a stranger only on a GPU that no attempt holds.
package gpuwatch

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// inARow is how many rounds must agree.
const inARow = 2

// maxAncestry bounds the way from a process up to its shim.
const maxAncestry = 256

// maxForeign bounds the processes that are named for one GPU.
const maxForeign = 16

// Attempt is what an attempt holds, and how its processes are known.
type Attempt struct {
	Key nodemachine.Key
	// GPUs are UUIDs; VRAMMiB is the share of each one's memory, 0 for whole GPUs.
	GPUs    []string
	VRAMMiB int64
	// Over says that nothing of it is left but what the driver has still to clear up.
	Over bool
	// Shim is the process that all of its processes are below; 0 when it is not known.
	Shim int
	// Group lists its processes another way; nil when there is none.
	Group interface{ Pids() ([]int, error) }
}

// Processes is the host's process table.
type Processes interface {
	// Parent is false for a process that is not there.
	Parent(pid int) (parent int, ok bool)
	// Name is empty when it cannot be told.
	Name(pid int) string
}

// Config of a Watch.
type Config struct {
	// ToleranceMiB and TolerancePercent are how far an attempt may go above its share; the larger counts.
	ToleranceMiB     int64
	TolerancePercent int64
	// IdleMiB is how much memory may be in use on a GPU that no attempt holds without a process that accounts for it; 0 means
	// any amount.
	IdleMiB   int64
	Processes Processes
}

// Overuse is an attempt's use of a GPU's memory above its share.
type Overuse struct {
	Key                           nodemachine.Key
	UUID                          string
	UsedMiB, ShareMiB, AllowedMiB int64
}

// String is one line with the figures.
func (o Overuse) String() string {
	return fmt.Sprintf("used %d MiB of the memory of %s, above its share of %d MiB and the %d MiB that are tolerated beyond it",
		o.UsedMiB, o.UUID, o.ShareMiB, o.AllowedMiB-o.ShareMiB)
}

// Watch remembers the rounds before. It is used by one goroutine.
type Watch struct {
	cfg Config
	// last is the number of the newest round.
	last uint64
	// owners are the attempts of the processes of the last round.
	owners map[uint32]nodemachine.Key
	// held are the GPUs that an attempt held in the last round.
	held map[string]bool
	// strange and above count rounds in a row.
	strange map[string]int
	above   map[use]int
	// told are the attempts whose overuse was told.
	told map[nodemachine.Key]bool
	// foreign is what was found in the last round on the GPUs that count as in use.
	foreign map[string]*fettlev1.GPUReading
}

type use struct {
	key  nodemachine.Key
	uuid string
}

// New returns a Watch that has seen nothing yet.
func New(cfg Config) *Watch { return &Watch{cfg: cfg} }

// Round takes one round. number tells rounds apart: one that comes again, and 0, changes nothing. It returns the attempts
// that are to be ended, each once, and the readings with Foreign and ForeignMemoryMib filled in. gpus is the inventory.
func (w *Watch) Round(number uint64, readings []*fettlev1.GPUReading, gpus []*fettlev1.GPU, attempts []Attempt) ([]Overuse, []*fettlev1.GPUReading) {
	if number == 0 || number == w.last {
		return nil, w.mark(readings)
	}
	w.last = number
	owners := w.find(readings, attempts)
	held := map[string]bool{}
	for _, a := range attempts {
		for _, u := range a.GPUs {
			held[u] = true
		}
	}
	over := w.overuse(readings, attempts, owners)
	cut := map[string]bool{}
	for _, g := range gpus {
		cut[g.GetMigParent()] = true
	}
	strange, foreign := map[string]int{}, map[string]*fettlev1.GPUReading{}
	for _, r := range readings {
		if cut[r.GetUuid()] {
			continue // what is on a GPU that is cut up is on its instances
		}
		found := w.strangers(r, owners, held[r.GetUuid()] || w.held[r.GetUuid()])
		if found == nil {
			continue
		}
		strange[r.GetUuid()] = min(w.strange[r.GetUuid()]+1, inARow)
		if strange[r.GetUuid()] == inARow {
			foreign[r.GetUuid()] = found
		}
	}
	w.owners, w.held, w.strange, w.foreign = owners, held, strange, foreign
	return over, w.mark(readings)
}

// mark fills in what was found, also for GPUs without a reading of their own this time.
func (w *Watch) mark(readings []*fettlev1.GPUReading) []*fettlev1.GPUReading {
	left := len(w.foreign)
	for _, r := range readings {
		if f := w.foreign[r.GetUuid()]; f != nil {
			r.Foreign, r.ForeignMemoryMib = f.GetForeign(), f.GetForeignMemoryMib()
			left--
		}
	}
	if left == 0 {
		return readings
	}
	var rest []*fettlev1.GPUReading
	for uuid, f := range w.foreign {
		if !slices.ContainsFunc(readings, func(r *fettlev1.GPUReading) bool { return r.GetUuid() == uuid }) {
			rest = append(rest, proto.CloneOf(f))
		}
	}
	slices.SortFunc(rest, func(a, b *fettlev1.GPUReading) int { return strings.Compare(a.GetUuid(), b.GetUuid()) })
	return append(readings, rest...)
}

// find says whose the processes are.
func (w *Watch) find(readings []*fettlev1.GPUReading, attempts []Attempt) map[uint32]nodemachine.Key {
	shims, live := map[int]nodemachine.Key{}, map[nodemachine.Key]bool{}
	for _, a := range attempts {
		live[a.Key] = true
		if a.Shim > 0 {
			shims[a.Shim] = a.Key
		}
	}
	var groups map[int]nodemachine.Key
	inGroup := func(pid int) (nodemachine.Key, bool) {
		if groups == nil {
			groups = map[int]nodemachine.Key{}
			for _, a := range attempts {
				if a.Group == nil {
					continue
				}
				pids, err := a.Group.Pids()
				if err != nil {
					continue // the ancestry is all there is
				}
				for _, p := range pids {
					groups[p] = a.Key
				}
			}
		}
		k, ok := groups[pid]
		return k, ok
	}
	owners := map[uint32]nodemachine.Key{}
	for _, r := range readings {
		for _, p := range r.GetProcesses() {
			if _, known := owners[p.GetPid()]; known {
				continue
			}
			k, ok := w.below(int(p.GetPid()), shims)
			if !ok {
				k, ok = inGroup(int(p.GetPid()))
			}
			if !ok {
				// Its shim may have died.
				k, ok = w.owners[p.GetPid()]
				ok = ok && live[k]
			}
			if ok {
				owners[p.GetPid()] = k
			}
		}
	}
	return owners
}

// below walks up to a shim.
func (w *Watch) below(pid int, shims map[int]nodemachine.Key) (nodemachine.Key, bool) {
	for range maxAncestry {
		if k, ok := shims[pid]; ok {
			return k, true
		}
		parent, ok := w.cfg.Processes.Parent(pid)
		if !ok || parent <= 1 || parent == pid {
			return nodemachine.Key{}, false
		}
		pid = parent
	}
	return nodemachine.Key{}, false
}

// overuse finds the attempts that have been above their share for long enough.
func (w *Watch) overuse(readings []*fettlev1.GPUReading, attempts []Attempt, owners map[uint32]nodemachine.Key) []Overuse {
	used := map[use]int64{}
	for _, r := range readings {
		for _, p := range r.GetProcesses() {
			if k, ok := owners[p.GetPid()]; ok {
				used[use{k, r.GetUuid()}] += p.GetMemoryMib()
			}
		}
	}
	var over []Overuse
	above, told := map[use]int{}, map[nodemachine.Key]bool{}
	for _, a := range attempts {
		if a.VRAMMiB <= 0 || a.Over {
			continue
		}
		told[a.Key] = w.told[a.Key]
		allowed := a.VRAMMiB + max(w.cfg.ToleranceMiB, a.VRAMMiB*w.cfg.TolerancePercent/100)
		for _, uuid := range a.GPUs {
			u := use{a.Key, uuid}
			if used[u] <= allowed {
				continue
			}
			above[u] = min(w.above[u]+1, inARow)
			if above[u] == inARow && !told[a.Key] {
				told[a.Key] = true
				over = append(over, Overuse{Key: a.Key, UUID: uuid, UsedMiB: used[u], ShareMiB: a.VRAMMiB, AllowedMiB: allowed})
			}
		}
	}
	w.above, w.told = above, told
	return over
}

// strangers is what uses a GPU and is no attempt's; nil for nothing. lately says that an attempt holds it, or
// did in the round before: the driver may still be clearing up behind one that has ended.
func (w *Watch) strangers(r *fettlev1.GPUReading, owners map[uint32]nodemachine.Key, lately bool) *fettlev1.GPUReading {
	found := &fettlev1.GPUReading{Uuid: r.GetUuid()}
	accounted, complete := int64(0), true
	for _, p := range r.GetProcesses() {
		accounted += p.GetMemoryMib()
		complete = complete && p.GetMemoryMib() > 0
		if _, ours := owners[p.GetPid()]; ours || p.GetGraphics() {
			continue
		}
		if _, seen := w.cfg.Processes.Parent(int(p.GetPid())); !seen && lately {
			continue
		}
		if len(found.GetForeign()) < maxForeign {
			found.Foreign = append(found.Foreign, &fettlev1.GPUProcess{Pid: p.GetPid(), MemoryMib: p.GetMemoryMib(), Name: w.cfg.Processes.Name(int(p.GetPid()))})
		}
	}
	if rest := r.GetMemoryUsedMib() - accounted; w.cfg.IdleMiB > 0 && !lately && complete && rest > w.cfg.IdleMiB {
		found.ForeignMemoryMib = rest
	}
	if len(found.GetForeign()) == 0 && found.GetForeignMemoryMib() == 0 {
		return nil
	}
	return found
}
