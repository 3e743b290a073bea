package gres

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

var (
	_ Source = (*Declared)(nil)
	_ Source = (*NVML)(nil)
)

func TestDeclared(t *testing.T) {
	t.Parallel()
	d, err := NewDeclared("gpu1", "gpu:H100:2", 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []*fettlev1.GPU{
		{Index: 0, Uuid: "GPU-declared-gpu1-0", Type: "h100", MemoryMib: 81559, NumaNode: -1, Declared: true},
		{Index: 1, Uuid: "GPU-declared-gpu1-1", Type: "h100", MemoryMib: 81559, NumaNode: -1, Declared: true},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	got[0].Unhealthy = true
	if again, _ := d.Inventory(t.Context()); again[0].GetUnhealthy() {
		t.Error("one caller's change is seen by another")
	}
	if r, err := d.Readings(t.Context()); err != nil || len(r.GPUs) != 0 {
		t.Errorf("readings %v, %v of GPUs that are only declared", r, err)
	}
	select {
	case <-d.Changed():
		t.Error("declared GPUs changed")
	default:
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestMemoryOfDeclaredGPUs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		gres  string
		given int64
		want  int64
	}{{"gpu:h200:1", 0, 143771}, {"gpu:h200:1", 10240, 10240}, {"gpu:a100:1", 0, 40960}, {"gpu:mystery:1", 0, 0}, {"gpu:mystery:1", 1024, 1024}, {"gpu:1", 0, 0}} {
		d, err := New(Config{Node: "n1", GRES: tc.gres, MemoryMiB: tc.given})
		if err != nil {
			t.Fatal(err)
		}
		if gpus, _ := d.Inventory(t.Context()); gpus[0].GetMemoryMib() != tc.want {
			t.Errorf("%s with %d MiB given: %d, want %d", tc.gres, tc.given, gpus[0].GetMemoryMib(), tc.want)
		}
	}
}

func TestDeclaredOnAnyNode(t *testing.T) {
	t.Parallel()
	seen := make(map[string]string)
	for _, node := range []string{"n", "gpu-1", "gpu.1", "gpu_1", "gpu-1.example.org", strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("a", 65), strings.Repeat("x.", 100)} {
		d, err := NewDeclared(node, "gpu:64", 0)
		if err != nil {
			t.Fatal(err)
		}
		gpus, _ := d.Inventory(t.Context())
		if len(gpus) != 64 {
			t.Fatalf("%d GPUs", len(gpus))
		}
		if err := model.ValidateInventory(&fettlev1.Inventory{Cpus: 1, Gpus: gpus}); err != nil {
			t.Errorf("node %s: %v", node, err)
		}
		for _, g := range gpus {
			if devices, err := gres.ParseDevices(g.GetUuid()); err != nil || len(devices.UUIDs) != 1 {
				t.Errorf("a job cannot pin %s: %v", g.GetUuid(), err)
			}
			if other := seen[g.GetUuid()]; other != "" {
				t.Errorf("%s is on %s and on %s", g.GetUuid(), other, node)
			}
			seen[g.GetUuid()] = node
		}
	}
}

func TestDeclaredBadly(t *testing.T) {
	t.Parallel()
	if _, err := NewDeclared("", "gpu:1", 0); err == nil {
		t.Error("no name is accepted")
	}
	if _, err := NewDeclared("n", "tpu:4", 0); err == nil || !strings.HasPrefix(err.Error(), `node gres "tpu:4": unknown resource "tpu"; `) {
		t.Error(err)
	}
	if d, err := NewDeclared("n", "none", 0); err != nil {
		t.Error(err)
	} else if gpus, err := d.Inventory(t.Context()); err != nil || len(gpus) != 0 {
		t.Errorf("%v, %v", gpus, err)
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Node: "n", GRES: "gpu:h100:8", Helper: "/x/fettle-nvml"}, "declared 8"},
		{Config{Node: "n", GRES: " None "}, "declared 0"},
		{Config{Node: "n", Helper: "/x/fettle-nvml"}, "nvml"},
		{Config{Node: "n", GRES: "AUTO", Helper: "/x/fettle-nvml"}, "nvml"},
		{Config{Node: "n", Logger: quiet()}, "declared 0"}, // there is none beside a test
		{Config{Node: "n", GRES: "gpu:-1"}, "error"},
		{Config{Node: "n", Helper: "fettle-nvml"}, "error"},
	} {
		src, err := New(c.cfg)
		got := "error"
		switch s := src.(type) {
		case *Declared:
			if err == nil {
				got = "declared " + string(rune('0'+len(s.gpus)))
			}
		case *NVML:
			if err == nil {
				got = "nvml"
			}
		}
		if got != c.want {
			t.Errorf("%+v: %s, %v, want %s", c.cfg, got, err, c.want)
		}
	}
}

func TestFindHelper(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if got := findHelper(filepath.Join(dir, "bin", "fettle-noded")); got != "" {
		t.Errorf("found %q in an empty directory", got)
	}
	put := func(path string, mode os.FileMode) string {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	daemon := put("bin/fettle-noded", 0o755)
	put("bin/fettle-nvml", 0o644) // cannot be run
	lib := put("lib/fettle/fettle-nvml", 0o755)
	if got := findHelper(daemon); got != lib {
		t.Errorf("found %q, want %q", got, lib)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(daemon, link); err != nil {
		t.Fatal(err)
	}
	beside := put("bin2/fettle-nvml", 0o755)
	if got := findHelper(put("bin2/fettle-noded", 0o755)); got != beside {
		t.Errorf("found %q, want %q", got, beside)
	}
	if got := findHelper(link); got != lib {
		t.Errorf("through a link found %q, want %q", got, lib)
	}
}
