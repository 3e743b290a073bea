package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	cgroups "github.com/containerd/cgroups/v3"
	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
	"github.com/fettle-hpc/fettle/noded/internal/killtree"
)

// Config of Probe. Node is needed.
type Config struct {
	// Node names the daemon's subtree; letters, digits, ".", "_" and "-".
	Node string
	// Root of the hierarchies, /sys/fs/cgroup by default.
	Root string
	// Disabled gives no groups, as for a daemon without privileges.
	Disabled bool
}

// Versions of the kernel's interface.
const (
	V2   = "v2"
	V1   = "v1"
	None = "none"
)

// Limits of an attempt. Zero values mean no limit.
type Limits struct {
	CPUs   uint32
	MemMiB int64
	// Deny are character devices that must not be opened.
	Deny []Device
}

// Device is a character device.
type Device struct{ Major, Minor uint32 }

const (
	pidsBase   = 8_192
	pidsPerCPU = 1_024
	// The kernel's bounds on weights.
	maxV2Weight = 10_000
	maxV1Shares = 262_144
	subtree     = "fettle"
	groupPrefix = "g"
	onceSuffix  = "-once"
	// maxFree bounds the groups kept for use again.
	maxFree = 256
)

var controllersV1 = []string{"freezer", "memory", "cpu", "pids", "devices"}

// Groups makes and removes groups. Its methods may be called from any goroutine.
type Groups struct {
	version string
	// v2 is the parent of the attempts' groups.
	v2 string
	// v1 maps a controller to the parent in its hierarchy; "freezer" is always there.
	v1 map[string]string
	// has says which limits can be set: "memory", "cpu", "pids", "devices".
	has map[string]bool

	mu   sync.Mutex
	last uint64
	// free are groups without processes, by the hierarchies that they are in.
	free map[string][]handoff.Cgroup
}

func newGroups() *Groups {
	return &Groups{version: None, has: map[string]bool{}, free: map[string][]handoff.Cgroup{}}
}

// Probe finds out what the host allows. missing has a line for each thing that cannot be enforced.
func Probe(cfg Config) (g *Groups, missing []string) {
	if cfg.Root == "" {
		cfg.Root = "/sys/fs/cgroup"
	}
	g = newGroups()
	if cfg.Disabled {
		return g, []string{"cgroups: the node daemon does not run as root; memory, CPU and process limits are not enforced"}
	}
	var err error
	switch cgroups.Mode() {
	case cgroups.Unified:
		err = g.probeV2(cfg)
	case cgroups.Legacy, cgroups.Hybrid:
		err = g.probeV1(cfg)
	default:
		err = fmt.Errorf("%s is not a cgroup file system", cfg.Root)
	}
	if err != nil {
		return newGroups(),
			[]string{fmt.Sprintf("cgroups: %v; memory, CPU and process limits are not enforced", err)}
	}
	for _, m := range []struct{ controller, line string }{
		{"memory", "memory: the controller is not available; a job may use more than it asked for"},
		{"cpu", "CPU: the controller is not available; CPU time is not shared by what jobs asked for"},
		{"pids", "processes: the pids controller is not available; their number is not limited"},
		{"devices", "devices: the controller is not available; GPUs are fenced by the mount namespace only"},
	} {
		if !g.has[m.controller] {
			missing = append(missing, m.line)
		}
	}
	return g, missing
}

// Version is V2, V1 or None.
func (g *Groups) Version() string { return g.version }

func (g *Groups) probeV2(cfg Config) error {
	g.v2 = filepath.Join(cfg.Root, subtree, cfg.Node)
	if err := os.MkdirAll(g.v2, 0o755); err != nil {
		return err
	}
	for _, c := range []string{"memory", "cpu", "pids"} {
		// Each level must hand the controller down; one that cannot leaves it out of the list of the last.
		for _, dir := range []string{cfg.Root, filepath.Join(cfg.Root, subtree), g.v2} {
			_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0)
		}
	}
	b, err := os.ReadFile(filepath.Join(g.v2, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	for c := range strings.FieldsSeq(string(b)) {
		g.has[c] = true
	}
	g.has["devices"] = g.tryDeviceFilter()
	g.version = V2
	return nil
}

// tryDeviceFilter looks whether the kernel takes a device program, with one that denies nothing.
func (g *Groups) tryDeviceFilter() bool {
	dir := filepath.Join(g.v2, "probe")
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return false
	}
	err := attachDeviceFilter(dir, nil)
	return errors.Join(err, remove(dir)) == nil
}

func (g *Groups) probeV1(cfg Config) error {
	g.v1 = map[string]string{}
	for _, c := range controllersV1 {
		dir := filepath.Join(cfg.Root, c, subtree, cfg.Node)
		if _, err := os.Stat(filepath.Join(cfg.Root, c, "tasks")); err != nil {
			if c == "freezer" {
				return fmt.Errorf("no freezer: %w", err)
			}
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			if c == "freezer" {
				return err
			}
			continue
		}
		g.v1[c], g.has[c] = dir, true
	}
	g.version = V1
	return nil
}

// Create gives an attempt a group of its own with its limits set. A limit that the host cannot set was named by Probe.
func (g *Groups) Create(l Limits) (handoff.Cgroup, error) {
	if g.version == None {
		return handoff.Cgroup{}, nil
	}
	// Memory stays charged to a group after its processes are gone, and device rules stay with it: such groups serve once.
	once := l.MemMiB > 0 || len(l.Deny) > 0
	cg, used, err := g.take(g.controllers(l), once)
	if err != nil {
		return handoff.Cgroup{}, fmt.Errorf("cgroup: %w", err)
	}
	if err := g.limit(cg, l); err != nil {
		err = errors.Join(fmt.Errorf("cgroup: %w", err), g.destroy(cg))
		if used {
			// Somebody has tidied up: the next one is looked at, and in the end a new one made.
			return g.Create(l)
		}
		return handoff.Cgroup{}, err
	}
	if cg.OOMBase, err = killtree.OOMKills(cg.OOMFile); err != nil {
		return handoff.Cgroup{}, errors.Join(fmt.Errorf("cgroup: %w", err), g.destroy(cg))
	}
	return cg, nil
}

// controllers says which v1 hierarchies the limits need. Each costs every job a move between groups.
func (g *Groups) controllers(l Limits) string {
	if g.version == V2 {
		return ""
	}
	use := []string{"freezer"}
	for _, c := range []struct {
		name   string
		needed bool
	}{{"memory", l.MemMiB > 0}, {"cpu", l.CPUs > 0}, {"pids", true}, {"devices", len(l.Deny) > 0}} {
		if c.needed && g.has[c.name] {
			use = append(use, c.name)
		}
	}
	return strings.Join(use, ",")
}

// take gives an unused group, an old one where there is one: making and removing groups is slow work for the kernel.
func (g *Groups) take(use string, once bool) (cg handoff.Cgroup, used bool, err error) {
	g.mu.Lock()
	if free := g.free[use]; len(free) > 0 && !once {
		cg = free[len(free)-1]
		g.free[use] = free[:len(free)-1]
		g.mu.Unlock()
		return cg, true, nil
	}
	g.last++
	name := groupPrefix + strconv.FormatUint(g.last, 10)
	if once {
		name += onceSuffix
	}
	g.mu.Unlock()
	var dirs []string
	if g.version == V2 {
		cg.V2Dir = filepath.Join(g.v2, name)
		dirs = []string{cg.V2Dir}
		if g.has["memory"] {
			cg.OOMFile = filepath.Join(cg.V2Dir, "memory.events")
		}
	} else {
		for c := range strings.SplitSeq(use, ",") {
			dirs = append(dirs, filepath.Join(g.v1[c], name))
			if c == "memory" {
				cg.OOMFile = filepath.Join(g.v1[c], name, "memory.oom_control")
			}
		}
		cg.V1Dirs, cg.FreezerDir = dirs, dirs[0]
	}
	for _, d := range dirs {
		if err := os.Mkdir(d, 0o755); err != nil {
			return handoff.Cgroup{}, false, errors.Join(err, g.destroy(cg))
		}
	}
	return cg, false, nil
}

// limit sets what the attempt may use; a group that was used before has other weights.
func (g *Groups) limit(cg handoff.Cgroup, l Limits) error {
	s := setter{}
	if g.version == V2 {
		dir := cg.V2Dir
		if g.has["memory"] && l.MemMiB > 0 {
			s.set(dir, "memory.max", strconv.FormatInt(l.MemMiB<<20, 10))
			s.try(dir, "memory.swap.max", "0")
		}
		if g.has["cpu"] && l.CPUs > 0 {
			s.set(dir, "cpu.weight", strconv.FormatUint(min(100*uint64(l.CPUs), maxV2Weight), 10))
		}
		if g.has["pids"] {
			s.set(dir, "pids.max", pidsMax(l))
		}
		if g.has["devices"] && len(l.Deny) > 0 {
			s.add(attachDeviceFilter(dir, l.Deny))
		}
		return s.err
	}
	for _, dir := range cg.V1Dirs {
		switch dir {
		case filepath.Join(g.v1["memory"], filepath.Base(dir)):
			limit := strconv.FormatInt(l.MemMiB<<20, 10)
			s.set(dir, "memory.limit_in_bytes", limit)
			s.try(dir, "memory.memsw.limit_in_bytes", limit)
		case filepath.Join(g.v1["cpu"], filepath.Base(dir)):
			s.set(dir, "cpu.shares", strconv.FormatUint(min(1024*uint64(l.CPUs), maxV1Shares), 10))
		case filepath.Join(g.v1["pids"], filepath.Base(dir)):
			s.set(dir, "pids.max", pidsMax(l))
		case filepath.Join(g.v1["devices"], filepath.Base(dir)):
			for _, d := range l.Deny {
				s.set(dir, "devices.deny", fmt.Sprintf("c %d:%d rwm", d.Major, d.Minor))
			}
		}
	}
	return s.err
}

// Release takes a group back. It must have no processes. One that a job has made groups in is not used again. Releasing a
// group that is gone is no error.
func (g *Groups) Release(cg handoff.Cgroup) error {
	if cg.V2Dir == "" && cg.FreezerDir == "" {
		return nil
	}
	use, plain := g.useOf(cg)
	if plain {
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(g.free[use]) < maxFree {
			cg.OOMBase = 0
			g.free[use] = append(g.free[use], cg)
			return nil
		}
	}
	return g.destroy(cg)
}

// useOf says which pool a group belongs to, and whether it is fit for it.
func (g *Groups) useOf(cg handoff.Cgroup) (use string, plain bool) {
	dir := cg.V2Dir
	if g.version == V1 {
		dir = cg.FreezerDir
		var names []string
		for _, c := range controllersV1 {
			for _, d := range cg.V1Dirs {
				if parent, ok := g.v1[c]; ok && filepath.Dir(d) == parent {
					names = append(names, c)
				}
			}
		}
		if use = strings.Join(names, ","); len(names) != len(cg.V1Dirs) {
			return use, false
		}
	}
	if strings.HasSuffix(dir, onceSuffix) {
		return use, false
	}
	var st unix.Stat_t
	return use, unix.Stat(dir, &st) == nil && st.Nlink == 2
}

func (g *Groups) destroy(cg handoff.Cgroup) error {
	var errs []error
	for _, d := range append([]string{cg.V2Dir}, cg.V1Dirs...) {
		if d != "" {
			errs = append(errs, remove(d))
		}
	}
	return errors.Join(errs...)
}

func pidsMax(l Limits) string {
	return strconv.FormatUint(pidsBase+pidsPerCPU*uint64(l.CPUs), 10)
}

// setter keeps the first error of a row of settings.
type setter struct{ err error }

func (s *setter) add(err error) {
	if s.err == nil {
		s.err = err
	}
}

func (s *setter) set(dir, file, value string) {
	if s.err == nil {
		s.err = os.WriteFile(filepath.Join(dir, file), []byte(value), 0)
	}
}

// try is for settings that kernels are built without: swap accounting.
func (s *setter) try(dir, file, value string) {
	err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.ENOTSUP) {
		s.add(err)
	}
}

// remove takes a group away with the groups that a job may have made in it.
func remove(dir string) error {
	err := unix.Rmdir(dir)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY) {
		entries, rerr := os.ReadDir(dir)
		if rerr != nil {
			return rerr
		}
		for _, e := range entries {
			if e.IsDir() {
				if err := remove(filepath.Join(dir, e.Name())); err != nil {
					return err
				}
			}
		}
		err = unix.Rmdir(dir)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// Sweep removes the groups of earlier daemons, but for those in use. One that has processes stays, and is never given out.
func (g *Groups) Sweep(inUse []handoff.Cgroup) error {
	keep := map[string]bool{}
	for _, cg := range inUse {
		keep[cg.V2Dir] = true
		for _, d := range cg.V1Dirs {
			keep[d] = true
		}
	}
	parents := []string{g.v2}
	for _, p := range g.v1 {
		parents = append(parents, p)
	}
	var errs []error
	for _, p := range parents {
		if p == "" {
			continue
		}
		entries, err := os.ReadDir(p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, e := range entries {
			dir := filepath.Join(p, e.Name())
			if !e.IsDir() || keep[dir] {
				g.skip(e.Name())
				continue
			}
			if err := remove(dir); err != nil {
				g.skip(e.Name())
				if !errors.Is(err, unix.EBUSY) {
					errs = append(errs, err)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// skip keeps new groups from taking a name that is in use.
func (g *Groups) skip(name string) {
	digits, ok := strings.CutPrefix(strings.TrimSuffix(name, onceSuffix), groupPrefix)
	if n, err := strconv.ParseUint(digits, 10, 64); ok && err == nil {
		g.mu.Lock()
		g.last = max(g.last, n)
		g.mu.Unlock()
	}
}
