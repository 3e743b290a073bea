package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	cgroups "github.com/containerd/cgroups/v3"
)

func probed(t *testing.T) *Groups {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("cgroups of our own need root")
	}
	node := "test-" + strings.ToLower(t.Name())
	g, missing := Probe(Config{Node: node})
	if g.Version() == None {
		t.Skip(missing)
	}
	t.Cleanup(func() {
		if err := g.Sweep(func(string) bool { return false }); err != nil {
			t.Error(err)
		}
		for _, p := range append([]string{g.v2}, values(g.v1)...) {
			if p != "" {
				if err := remove(p); err != nil {
					t.Error(err)
				}
			}
		}
	})
	return g
}

func values(m map[string]string) []string {
	var vs []string
	for _, v := range m {
		vs = append(vs, v)
	}
	return vs
}

func TestGroupIsMadeLimitedAndRemoved(t *testing.T) {
	g := probed(t)
	cg, err := g.Create("7.1.99", Limits{CPUs: 3, MemMiB: 64})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{filepath.Join(cg.V2Dir, "memory.max"): "67108864", filepath.Join(cg.V2Dir, "cpu.weight"): "300",
		filepath.Join(cg.V2Dir, "pids.max"): "11264"}
	if g.Version() == V1 {
		want = map[string]string{
			filepath.Join(g.v1["memory"], "7.1.99", "memory.limit_in_bytes"): "67108864",
			filepath.Join(g.v1["cpu"], "7.1.99", "cpu.shares"):               "3072",
			filepath.Join(g.v1["pids"], "7.1.99", "pids.max"):                "11264"}
	}
	for file, v := range want {
		b, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(b)) != v {
			t.Errorf("%s: %q, %v, want %s", file, b, err, v)
		}
	}
	if _, err := g.Create("7.1.99", Limits{}); err == nil {
		t.Error("the same attempt got a second group")
	}
	if err := g.Remove("7.1.99"); err != nil {
		t.Error(err)
	}
	if err := g.Remove("7.1.99"); err != nil {
		t.Errorf("removing it again: %v", err)
	}
}

func TestSweepKeepsWhatIsKnownAndWhatLives(t *testing.T) {
	g := probed(t)
	for _, n := range []string{"1.1.1", "2.1.2"} {
		if _, err := g.Create(n, Limits{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Sweep(func(n string) bool { return n == "1.1.1" }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dirOf(g, "1.1.1")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dirOf(g, "2.1.2")); !os.IsNotExist(err) {
		t.Errorf("2.1.2: %v", err)
	}
}

func dirOf(g *Groups, name string) string {
	if cg := g.At(name); cg.V2Dir != "" {
		return cg.V2Dir
	}
	return g.At(name).FreezerDir
}

// TestDeviceFilterDenies puts a shell into a v2 group whose program denies /dev/zero; hybrid hosts have such groups too.
func TestDeviceFilterDenies(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	root := "/sys/fs/cgroup"
	switch cgroups.Mode() {
	case cgroups.Hybrid:
		root += "/unified"
	case cgroups.Unified:
	default:
		t.Skip("no v2 hierarchy")
	}
	dir := filepath.Join(root, "fettle-test-devices")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(dir); err != nil {
			t.Error(err)
		}
	})
	if err := attachDeviceFilter(dir, []Device{{195, 0}, {1, 5}, {195, 3}}); err != nil {
		t.Skipf("the kernel takes no device programs: %v", err)
	}
	fd, err := syscall.Open(dir, syscall.O_DIRECTORY|syscall.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	cmd := exec.Command("sh", "-c", "head -c1 /dev/urandom >/dev/null && echo urandom; head -c1 /dev/zero >/dev/null && echo zero; true")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
	out, err := cmd.Output()
	if err != nil || strings.TrimSpace(string(out)) != "urandom" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestWithoutRootEverythingIsNamedMissing(t *testing.T) {
	t.Parallel()
	g, missing := Probe(Config{Node: "n", Disabled: true})
	if g.Version() != None || len(missing) != 1 {
		t.Fatalf("%s, %q", g.Version(), missing)
	}
	cg, err := g.Create("1.1.1", Limits{MemMiB: 5})
	if err != nil || cg.V2Dir != "" || cg.FreezerDir != "" {
		t.Errorf("%+v, %v", cg, err)
	}
	if err := g.Remove("1.1.1"); err != nil {
		t.Error(err)
	}
}
