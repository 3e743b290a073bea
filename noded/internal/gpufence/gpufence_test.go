package gpufence

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/cgroup"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// host makes device files whose numbers differ from the GPUs' indexes, as on real machines.
func host(t *testing.T, minors ...int) Config {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("making device files needs root")
	}
	cfg := Config{Dev: t.TempDir(), Proc: t.TempDir()}
	for i, m := range minors {
		if err := unix.Mknod(filepath.Join(cfg.Dev, fmt.Sprint("nvidia", m)), unix.S_IFCHR|0o666, int(unix.Mkdev(195, uint32(m)))); err != nil {
			t.Skipf("mknod: %v", err)
		}
		dir := filepath.Join(cfg.Proc, fmt.Sprintf("0000:%02x:00.0", 0x17+i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("Model: \t\t NVIDIA H100\nDevice Minor: \t %d\n", m)
		if err := os.WriteFile(filepath.Join(dir, "information"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, other := range []string{"nvidiactl", "nvidia-uvm", "null"} {
		if err := os.WriteFile(filepath.Join(cfg.Dev, other), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return cfg
}

func gpu(i int, bus string) *fettlev1.GPU {
	return &fettlev1.GPU{Index: uint32(i), Uuid: fmt.Sprint("GPU-", i), PciBusId: bus}
}

func TestOnlyGrantedGPUsAreLeft(t *testing.T) {
	t.Parallel()
	cfg := host(t, 1, 0, 2)
	f, missing := Detect(cfg, []*fettlev1.GPU{gpu(0, "00000000:17:00.0"), gpu(1, "00000000:18:00.0"), gpu(2, "0000:19:00.0")})
	if len(missing) != 0 {
		t.Fatal(missing)
	}
	paths, devs := f.Hidden([]string{"GPU-0"})
	if want := []string{filepath.Join(cfg.Dev, "nvidia0"), filepath.Join(cfg.Dev, "nvidia2")}; !slices.Equal(paths, want) {
		t.Errorf("hidden %q, want %q", paths, want)
	}
	if want := []cgroup.Device{{Major: 195, Minor: 0}, {Major: 195, Minor: 2}}; !slices.Equal(devs, want) {
		t.Errorf("denied %v, want %v", devs, want)
	}
	if paths, _ := f.Hidden(nil); len(paths) != 3 {
		t.Errorf("a job without GPUs: hidden %q", paths)
	}
}

func TestUnknownDeviceFilesAreNamed(t *testing.T) {
	t.Parallel()
	cfg := host(t, 0)
	for name, g := range map[string]*fettlev1.GPU{
		"no page":  gpu(0, "0000:99:00.0"),
		"declared": {Uuid: "x", Declared: true},
		"path":     gpu(0, "../17:00.0"),
	} {
		f, missing := Detect(cfg, []*fettlev1.GPU{g})
		if paths, _ := f.Hidden(nil); len(missing) != 1 || len(paths) != 0 {
			t.Errorf("%s: %q, hidden %q", name, missing, paths)
		}
	}
	if f, missing := Detect(cfg, nil); len(missing) != 0 {
		t.Errorf("GPUs that nobody offers: %q", missing)
	} else if paths, _ := f.Hidden(nil); len(paths) != 1 {
		t.Errorf("GPUs that nobody offers are open: %q", paths)
	}
}

// All instances of a card are reached through the card's file: a job that holds any of them must find it.
func TestInstancesKeepTheirCard(t *testing.T) {
	t.Parallel()
	cfg := host(t, 0, 1)
	instance := func(uuid string) *fettlev1.GPU {
		return &fettlev1.GPU{Uuid: uuid, PciBusId: "0000:17:00.0", MigParent: "GPU-0"}
	}
	f, missing := Detect(cfg, []*fettlev1.GPU{gpu(0, "0000:17:00.0"), gpu(1, "0000:18:00.0"), instance("MIG-a"), instance("MIG-b")})
	if len(missing) != 1 || !strings.Contains(missing[0], "MIG") {
		t.Errorf("missing %q", missing)
	}
	for _, granted := range []string{"MIG-a", "MIG-b"} {
		if paths, _ := f.Hidden([]string{granted}); !slices.Equal(paths, []string{filepath.Join(cfg.Dev, "nvidia1")}) {
			t.Errorf("a job with %s: hidden %q", granted, paths)
		}
	}
	if paths, _ := f.Hidden([]string{"GPU-1"}); !slices.Equal(paths, []string{filepath.Join(cfg.Dev, "nvidia0")}) {
		t.Errorf("a job with the other card: hidden %q", paths)
	}
}
