//go:build cgo

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fettle-hpc/fettle/noded/internal/gres"
	"github.com/fettle-hpc/fettle/noded/internal/gres/report"
)

// library builds testdata/oldlib.c.
func library(t *testing.T, flags ...string) string {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler: ", err)
	}
	path := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	out, err := exec.Command(cc, append(flags, "-shared", "-fPIC", "-o", path, "testdata/oldlib.c")...).CombinedOutput()
	if err != nil {
		t.Fatalf("cc: %v: %s", err, out)
	}
	return path
}

func command(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestWithoutLibrary(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"inventory", "watch"} {
		out, errs, code := command(t, verb, "--library", filepath.Join(t.TempDir(), "nowhere.so"))
		var buf bytes.Buffer
		if err := json.Compact(&buf, []byte(out)); err != nil {
			t.Fatalf("%v in %q", err, out)
		}
		m, err := report.Decode(buf.Bytes())
		if code != 0 || errs != "" || err != nil || len(m.Inventory.GPUs) != 0 || m.Inventory.Note != "no NVIDIA driver library is installed" {
			t.Errorf("%s: %q, %q, exit code %d, %v; no driver is no error", verb, out, errs, code, err)
		}
	}
}

// The real way into a library, through the dynamic linker, with all but six functions missing from it.
func TestOldLibrary(t *testing.T) {
	t.Parallel()
	lib := library(t)
	out, errs, code := command(t, "watch", "--count", "2", "--interval", "100ms", "--library", lib)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != 0 || errs != "" || len(lines) != 3 {
		t.Fatalf("%q, %q, exit code %d", out, errs, code)
	}
	m, err := report.Decode([]byte(lines[0]))
	if err != nil || len(m.Inventory.GPUs) != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	want := report.GPU{UUID: "GPU-0a1b2c3d-0000-1111-2222-333344445555", Model: "Tesla P100-PCIE-16GB", Type: "p100", MemoryMiB: 16 << 10, NUMANode: -1}
	if g := m.Inventory.GPUs[0]; g.UUID != want.UUID || g.Model != want.Model || g.Type != want.Type || g.MemoryMiB != want.MemoryMiB || g.NUMANode != -1 || g.Fault != "" {
		t.Errorf("gpu %+v, want %+v", g, want)
	}
	r, err := report.Decode([]byte(lines[2]))
	if err != nil || len(r.Readings.GPUs) != 1 || *r.Readings.GPUs[0].MemoryUsedMiB != 1024 || r.Readings.GPUs[0].TemperatureC != nil {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestLibraryInTrouble(t *testing.T) {
	t.Parallel()
	t.Run("mismatch", func(t *testing.T) {
		t.Parallel()
		out, errs, code := command(t, "inventory", "--library", library(t, "-DINIT=18"))
		const want = "fettle-nvml: initialise the NVIDIA driver: the NVIDIA library and the kernel's driver differ in version: reboot after a driver upgrade\n"
		if out != "" || errs != want || code != exitFailed {
			t.Errorf("%q, %q, exit code %d", out, errs, code)
		}
	})
	t.Run("refusal", func(t *testing.T) {
		t.Parallel()
		_, errs, code := command(t, "watch", "--library", library(t, "-DINIT=4"))
		const want = "fettle-nvml: initialise the NVIDIA driver: the NVIDIA driver answers: insufficient permissions\n"
		if errs != want || code != exitFailed {
			t.Errorf("%q, exit code %d", errs, code)
		}
	})
	t.Run("crash", func(t *testing.T) {
		t.Parallel()
		out, errs, code := command(t, "inventory", "--library", library(t, "-DCRASH"))
		if out != "" || errs == "" || code == 0 {
			t.Errorf("%q, %q, exit code %d", out, errs, code)
		}
	})
}

// The whole way: a library, fettle-nvml, and the node daemon's side of it.
func TestFromLibraryToNode(t *testing.T) {
	t.Parallel()
	t.Run("well", func(t *testing.T) {
		t.Parallel()
		src, err := gres.NewNVML(gres.Config{Helper: program(t), Library: library(t), Deadline: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		gpus, err := src.Inventory(t.Context())
		if err != nil || len(gpus) != 1 || gpus[0].GetType() != "p100" || gpus[0].GetUnhealthy() || gpus[0].GetDeclared() {
			t.Errorf("%v, %v", gpus, err)
		}
		readings, err := src.Readings(t.Context())
		if err != nil || len(readings.GPUs) != 1 || readings.GPUs[0].GetMemoryUsedMib() != 1024 || readings.GPUs[0].PowerW != nil {
			t.Errorf("%v, %v", readings, err)
		}
	})
	t.Run("hanging", func(t *testing.T) {
		t.Parallel()
		src, err := gres.NewNVML(gres.Config{Helper: program(t), Library: library(t, "-DHANG"), Deadline: 500 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		gpus, err := src.Inventory(t.Context())
		if err == nil || !strings.Contains(err.Error(), "the NVIDIA driver does not answer within 500ms") {
			t.Errorf("%v, %v", gpus, err)
		}
	})
	t.Run("crashing", func(t *testing.T) {
		t.Parallel()
		src, err := gres.NewNVML(gres.Config{Helper: program(t), Library: library(t, "-DCRASH"), Deadline: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		gpus, err := src.Inventory(t.Context())
		if err == nil || !strings.Contains(err.Error(), "fettle-nvml: ") {
			t.Errorf("%v, %v", gpus, err)
		}
	})
}

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == gres.HelperName {
		main()
	}
	os.Exit(m.Run())
}

// program is this test under the name of the command.
func program(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), gres.HelperName)
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}
