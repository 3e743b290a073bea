package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	cgroups "github.com/containerd/cgroups/v3"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
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
		if err := g.Sweep(nil); err != nil {
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

// value reads a limit of a group, v2's name or v1's.
func value(t *testing.T, cg handoff.Cgroup, controller, v2, v1 string) string {
	t.Helper()
	file := filepath.Join(cg.V2Dir, v2)
	for _, d := range cg.V1Dirs {
		if strings.HasPrefix(d, "/sys/fs/cgroup/"+controller+"/") {
			file = filepath.Join(d, v1)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func create(t *testing.T, g *Groups, l Limits) handoff.Cgroup {
	t.Helper()
	cg, err := g.Create(l)
	if err != nil {
		t.Fatal(err)
	}
	return cg
}

func id(cg handoff.Cgroup) string { return cg.V2Dir + cg.FreezerDir }

func TestLimits(t *testing.T) {
	g := probed(t)
	var plain handoff.Cgroup
	for i, l := range []struct {
		Limits
		mem, cpu2, cpu1, pids string
	}{
		{Limits{CPUs: 3}, "", "300", "3072", "11264"},
		{Limits{CPUs: 1}, "", "100", "1024", "9216"},
		{Limits{CPUs: 1, MemMiB: 128}, "134217728", "100", "1024", "9216"},
		{Limits{CPUs: 2, MemMiB: 32}, "33554432", "200", "2048", "10240"},
	} {
		cg := create(t, g, l.Limits)
		if l.mem != "" {
			if got := value(t, cg, "memory", "memory.max", "memory.limit_in_bytes"); got != l.mem {
				t.Errorf("memory %s, want %s", got, l.mem)
			}
		}
		cpu := l.cpu2
		if g.Version() == V1 {
			cpu = l.cpu1
		}
		if got := value(t, cg, "cpu", "cpu.weight", "cpu.shares"); got != cpu {
			t.Errorf("cpu %s, want %s", got, cpu)
		}
		if got := value(t, cg, "pids", "pids.max", "pids.max"); got != l.pids {
			t.Errorf("pids %s, want %s", got, l.pids)
		}
		other := create(t, g, l.Limits)
		if id(other) == id(cg) {
			t.Error("one group for two attempts")
		}
		if err := g.destroy(other); err != nil {
			t.Error(err)
		}
		if err := g.Release(cg); err != nil {
			t.Error(err)
		}
		switch {
		case i == 0:
			plain = cg
		case (id(cg) == id(plain)) != (l.MemMiB == 0):
			t.Errorf("%+v: group %s, the first was %s", l.Limits, id(cg), id(plain))
		}
	}
}

func TestGroupsThatAreNotUsedAgain(t *testing.T) {
	g := probed(t)
	made := create(t, g, Limits{})
	if err := os.Mkdir(filepath.Join(id(made), "of-the-job"), 0o755); err != nil {
		t.Fatal(err)
	}
	ruled := create(t, g, Limits{Deny: []Device{{195, 0}}})
	charged := create(t, g, Limits{MemMiB: 64})
	for _, cg := range []handoff.Cgroup{made, ruled, charged} {
		if err := g.Release(cg); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(id(cg)); !os.IsNotExist(err) {
			t.Errorf("%s: %v", id(cg), err)
		}
		if err := g.Release(cg); err != nil {
			t.Errorf("releasing it again: %v", err)
		}
	}
}

func TestFreeGroupThatSomebodyRemovedIsReplaced(t *testing.T) {
	g := probed(t)
	a, b := create(t, g, Limits{CPUs: 1}), create(t, g, Limits{CPUs: 1})
	for _, cg := range []handoff.Cgroup{a, b} {
		if err := g.Release(cg); err != nil {
			t.Fatal(err)
		}
		if err := g.destroy(cg); err != nil {
			t.Fatal(err)
		}
	}
	cg := create(t, g, Limits{CPUs: 1})
	if _, err := os.Stat(id(cg)); err != nil {
		t.Error(err)
	}
}

func TestSweepKeepsWhatIsInUse(t *testing.T) {
	g := probed(t)
	keep, drop := create(t, g, Limits{}), create(t, g, Limits{})
	next, _ := Probe(Config{Node: "test-" + strings.ToLower(t.Name())})
	if err := next.Sweep([]handoff.Cgroup{keep}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(id(keep)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(id(drop)); !os.IsNotExist(err) {
		t.Errorf("%s: %v", id(drop), err)
	}
	for range 5 {
		if cg := create(t, next, Limits{}); id(cg) == id(keep) {
			t.Error("a group in use was given out")
		}
	}
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
	cg, err := g.Create(Limits{MemMiB: 5})
	if err != nil || id(cg) != "" {
		t.Errorf("%+v, %v", cg, err)
	}
	if err := g.Release(cg); err != nil {
		t.Error(err)
	}
}
