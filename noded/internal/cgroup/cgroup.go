package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	cgroups "github.com/containerd/cgroups/v3"
	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
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
)

// Groups makes and removes groups. Its methods may be called from any goroutine.
type Groups struct {
	version string
	// v2 is the parent of the attempts' groups.
	v2 string
	// v1 maps a controller to the parent in its hierarchy; "freezer" is always there.
	v1 map[string]string
	// has says which limits can be set: "memory", "cpu", "pids", "devices".
	has map[string]bool
}

// Probe finds out what the host allows. missing has a line for each thing that cannot be enforced.
func Probe(cfg Config) (g *Groups, missing []string) {
	if cfg.Root == "" {
		cfg.Root = "/sys/fs/cgroup"
	}
	g = &Groups{version: None, has: map[string]bool{}}
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
		return &Groups{version: None, has: map[string]bool{}},
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
	for _, c := range []string{"freezer", "memory", "cpu", "pids", "devices"} {
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

// Create makes the group of an attempt and sets its limits. A limit that the host cannot set was named by Probe.
func (g *Groups) Create(name string, l Limits) (handoff.Cgroup, error) {
	cg := g.At(name)
	var err error
	switch g.version {
	case V2:
		err = g.createV2(cg.V2Dir, l)
	case V1:
		err = g.createV1(name, l)
	}
	if err != nil {
		return handoff.Cgroup{}, errors.Join(fmt.Errorf("cgroup of %s: %w", name, err), g.Remove(name))
	}
	return cg, nil
}

// At says where the group of an attempt is, whether it exists or not.
func (g *Groups) At(name string) handoff.Cgroup {
	var cg handoff.Cgroup
	switch g.version {
	case V2:
		cg.V2Dir = filepath.Join(g.v2, name)
		if g.has["memory"] {
			cg.OOMFile = filepath.Join(cg.V2Dir, "memory.events")
		}
	case V1:
		for _, c := range []string{"freezer", "memory", "cpu", "pids", "devices"} {
			if dir, ok := g.v1[c]; ok {
				cg.V1Dirs = append(cg.V1Dirs, filepath.Join(dir, name))
			}
		}
		cg.FreezerDir = filepath.Join(g.v1["freezer"], name)
		if g.has["memory"] {
			cg.OOMFile = filepath.Join(g.v1["memory"], name, "memory.oom_control")
		}
	}
	return cg
}

func (g *Groups) createV2(dir string, l Limits) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	s := setter{}
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

func (g *Groups) createV1(name string, l Limits) error {
	s := setter{}
	for _, parent := range g.v1 {
		s.add(os.Mkdir(filepath.Join(parent, name), 0o755))
	}
	if s.err != nil {
		return s.err
	}
	dir := func(c string) string { return filepath.Join(g.v1[c], name) }
	if g.has["memory"] && l.MemMiB > 0 {
		limit := strconv.FormatInt(l.MemMiB<<20, 10)
		s.set(dir("memory"), "memory.limit_in_bytes", limit)
		s.try(dir("memory"), "memory.memsw.limit_in_bytes", limit)
	}
	if g.has["cpu"] && l.CPUs > 0 {
		s.set(dir("cpu"), "cpu.shares", strconv.FormatUint(min(1024*uint64(l.CPUs), maxV1Shares), 10))
	}
	if g.has["pids"] {
		s.set(dir("pids"), "pids.max", pidsMax(l))
	}
	if g.has["devices"] {
		for _, d := range l.Deny {
			s.set(dir("devices"), "devices.deny", fmt.Sprintf("c %d:%d rwm", d.Major, d.Minor))
		}
	}
	return s.err
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

// Remove takes the group of an attempt away; it must have no processes. One that is not there is no error.
func (g *Groups) Remove(name string) error {
	var errs []error
	switch g.version {
	case V2:
		errs = append(errs, remove(filepath.Join(g.v2, name)))
	case V1:
		for _, parent := range g.v1 {
			errs = append(errs, remove(filepath.Join(parent, name)))
		}
	}
	return errors.Join(errs...)
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

// Sweep removes the groups of attempts that keep says no to. Those that have processes stay.
func (g *Groups) Sweep(keep func(name string) bool) error {
	parents := []string{g.v2}
	if g.version == V1 {
		parents = parents[:0]
		for _, p := range g.v1 {
			parents = append(parents, p)
		}
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
			if e.IsDir() && !keep(e.Name()) {
				if err := remove(filepath.Join(p, e.Name())); err != nil && !errors.Is(err, unix.EBUSY) {
					errs = append(errs, err)
				}
			}
		}
	}
	return errors.Join(errs...)
}
