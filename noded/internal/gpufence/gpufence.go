// Package gpufence says which GPU device files an attempt must not see. CUDA_VISIBLE_DEVICES is advice; these are closed
// by the kernel, in the job's mount namespace and by the device rules of its cgroup.
package gpufence

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/cgroup"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Fence knows the host's GPU device files. The zero value hides nothing.
type Fence struct {
	devices []device
}

type device struct {
	path  string
	minor int
	dev   cgroup.Device
	// uuids are the GPU's own and those of the instances that it is cut into: all are reached through one file.
	uuids []string
}

// Config of Detect; the zero value is this host.
type Config struct {
	// Dev holds the device files, /dev by default; Proc the driver's own tree, /proc/driver/nvidia/gpus by default.
	Dev, Proc string
}

// Detect matches GPUs with device files. missing has a line for each thing that keeps jobs from being fenced.
func Detect(cfg Config, gpus []*fettlev1.GPU) (f *Fence, missing []string) {
	if cfg.Dev == "" {
		cfg.Dev = "/dev"
	}
	if cfg.Proc == "" {
		cfg.Proc = "/proc/driver/nvidia/gpus"
	}
	f = &Fence{devices: list(cfg.Dev)}
	if len(f.devices) == 0 {
		return f, nil
	}
	cut := false
	for _, g := range gpus {
		cut = cut || g.GetMigParent() != ""
		if g.GetDeclared() {
			return &Fence{}, []string{"GPUs: declared ones cannot be matched with device files; every job can open every GPU"}
		}
		minor, err := minorOf(cfg.Proc, g.GetPciBusId())
		if err != nil {
			return &Fence{}, []string{fmt.Sprintf("GPUs: the device file of %s is not known (%v); every job can open every GPU", g.GetUuid(), err)}
		}
		for i := range f.devices {
			if f.devices[i].minor == minor {
				f.devices[i].uuids = append(f.devices[i].uuids, g.GetUuid())
			}
		}
	}
	if cut {
		return f, []string{"GPUs: MIG instances of one card share its device file; a job can open the instances beside its own"}
	}
	return f, nil
}

// list finds nvidia0, nvidia1, …
func list(dir string) []device {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var ds []device
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), "nvidia")
		minor, err := strconv.Atoi(digits)
		if !ok || err != nil {
			continue
		}
		path := filepath.Join(dir, e.Name())
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
			continue
		}
		ds = append(ds, device{path: path, minor: minor, dev: cgroup.Device{Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)}})
	}
	return ds
}

// minorOf reads "Device Minor: N" from the driver's page on a GPU.
func minorOf(proc, bus string) (int, error) {
	// NVML writes the PCI domain with eight digits, the kernel with four.
	bus = strings.ToLower(bus)
	if domain, rest, ok := strings.Cut(bus, ":"); ok && len(domain) > 4 {
		bus = domain[len(domain)-4:] + ":" + rest
	}
	if strings.Contains(bus, "/") || bus == "" {
		return 0, fmt.Errorf("PCI bus id %q", bus)
	}
	b, err := os.ReadFile(filepath.Join(proc, bus, "information"))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if v, ok := bytes.CutPrefix(line, []byte("Device Minor:")); ok {
			return strconv.Atoi(string(bytes.TrimSpace(v)))
		}
	}
	return 0, fmt.Errorf("%s names no device minor", bus)
}

// Hidden lists the device files, and their numbers, of all GPUs that were not granted, nor any instance of theirs.
func (f *Fence) Hidden(granted []string) (paths []string, devs []cgroup.Device) {
	for _, d := range f.devices {
		if !slices.ContainsFunc(d.uuids, func(u string) bool { return slices.Contains(granted, u) }) {
			paths = append(paths, d.path)
			devs = append(devs, d.dev)
		}
	}
	return paths, devs
}
