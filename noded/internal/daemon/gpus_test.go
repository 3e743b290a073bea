package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/fettle-hpc/fettle/noded/internal/gres/report"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// driver is a stand-in for fettle-nvml: two cards, and whatever readings a test sets.
type driver struct {
	t   *testing.T
	dir string
}

func newDriver(t *testing.T) *driver {
	t.Helper()
	d := &driver{t, t.TempDir()}
	inv := &report.Inventory{Driver: "570.1"}
	for i, uuid := range []string{"GPU-0", "GPU-1"} {
		inv.GPUs = append(inv.GPUs, report.GPU{Index: uint32(i), UUID: uuid, Model: "NVIDIA H100 80GB HBM3", Type: "h100", MemoryMiB: 81559, NUMANode: -1})
	}
	d.put("inventory", report.Message{Inventory: inv})
	d.reads()
	script := fmt.Sprintf("#!/bin/sh\ncat %[1]s/inventory\nwhile cat %[1]s/readings && sleep 0.05; do :; done\n", d.dir)
	if err := os.WriteFile(d.path(), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *driver) path() string { return filepath.Join(d.dir, "fettle-nvml") }

// put replaces a file whole.
func (d *driver) put(name string, m report.Message) {
	d.t.Helper()
	b, err := report.Encode(m)
	if err != nil {
		d.t.Fatal(err)
	}
	file := filepath.Join(d.dir, name)
	if err := os.WriteFile(file+".new", b, 0o644); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		d.t.Fatal(err)
	}
}

type onCard struct{ card, pid, mib int }

// reads sets what the driver tells from now on.
func (d *driver) reads(procs ...onCard) {
	d.t.Helper()
	r := &report.Readings{}
	for i := range 2 {
		g := report.Reading{UUID: fmt.Sprint("GPU-", i)}
		used := int64(0)
		for _, p := range procs {
			if p.card == i {
				used += int64(p.mib)
				g.Processes = append(g.Processes, report.Process{PID: uint32(p.pid), MemoryMiB: int64(p.mib)})
			}
		}
		g.MemoryUsedMiB = &used
		r.GPUs = append(r.GPUs, g)
	}
	d.put("readings", report.Message{Readings: r})
}

// pidOf waits for a job to have written its pid down.
func (n *node) pidOf(name string) int {
	n.t.Helper()
	pid := 0
	eventually(n.t, "a pid in "+name, func() bool {
		b, err := os.ReadFile(n.file(name))
		if err != nil || !strings.HasSuffix(string(b), "\n") {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil
	})
	return pid
}

// From a job that takes more of a card than it was given, through the real helper process, daemon and shim, to its end; the
// one beside it on the card goes on.
func TestTheJobThatExceedsItsShareIsEnded(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	n := newNode(t, fmt.Sprintf("nvml = %q", d.path()), `gpu_readings = "100ms"`, `vram_tolerance = "1G"`)
	n.leader.hello()
	for id := range uint64(2) {
		p := n.job(id+1, "trap 'echo $$ >saved; exit 0' TERM; echo $$ >pid"+fmt.Sprint(id+1)+"; while :; do sleep 0.01; done")
		p.Allocation.GpuUuids, p.Allocation.VramMib = []string{"GPU-0"}, 8<<10
		n.leader.prepare(p)
		n.leader.started(id + 1)
	}
	greedy, modest := n.pidOf("pid1"), n.pidOf("pid2")
	d.reads(onCard{0, greedy, 9 << 10}, onCard{0, modest, 8 << 10})
	seen := func(pid int, mib int64) bool {
		for _, p := range n.leader.reading("GPU-0").GetProcesses() {
			if int(p.GetPid()) == pid && p.GetMemoryMib() == mib {
				return true
			}
		}
		return false
	}
	eventually(t, "the readings are told", func() bool { return seen(greedy, 9<<10) })
	if f := n.leader.reading("GPU-0").GetForeign(); len(f) != 0 {
		t.Errorf("jobs of this node pass for strangers: %v", f)
	}
	d.reads(onCard{0, greedy, 9<<10 + 1}, onCard{0, modest, 8 << 10})
	e := n.leader.ended(1)
	const want = "used 9217 MiB of the memory of GPU-0, above its share of 8192 MiB and the 1024 MiB that are tolerated beyond it"
	if e.GetClass() != fettlev1.ExitClass_EXIT_CLASS_VRAM_EXCEEDED || e.GetDetail() != want || !exists(n.file("saved")) {
		t.Errorf("%v", e)
	}
	d.reads(onCard{0, modest, 8 << 10})
	eventually(t, "the other goes on", func() bool { return !seen(greedy, 9<<10+1) && seen(modest, 8<<10) })
	n.leader.kill(key(2), 10_000)
	if e := n.leader.ended(2); e.GetClass() != fettlev1.ExitClass_EXIT_CLASS_UNSPECIFIED {
		t.Errorf("%v", e)
	}
}

func TestWhatRunsOnACardBesideJobsIsTold(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	n := newNode(t, fmt.Sprintf("nvml = %q", d.path()), `gpu_readings = "100ms"`)
	n.leader.hello()
	p := n.job(1, "echo $$ >pid; while ! [ -e go ]; do sleep 0.01; done")
	p.Allocation.GpuUuids = []string{"GPU-0"}
	n.leader.prepare(p)
	n.leader.started(1)
	// This test is no job.
	d.reads(onCard{0, n.pidOf("pid"), 500}, onCard{1, os.Getpid(), 700})
	eventually(t, "the card is in use", func() bool { return len(n.leader.reading("GPU-1").GetForeign()) == 1 })
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	if f := n.leader.reading("GPU-1").GetForeign()[0]; int(f.GetPid()) != os.Getpid() || f.GetMemoryMib() != 700 || f.GetName() != strings.TrimSpace(string(name)) {
		t.Errorf("%v", f)
	}
	if f := n.leader.reading("GPU-0").GetForeign(); len(f) != 0 {
		t.Errorf("the job's card: %v", f)
	}
	// The daemon is started anew: the job is still known as one.
	n.kill()
	n.start()
	n.leader.hello()
	d.reads(onCard{0, n.pidOf("pid"), 501}, onCard{1, os.Getpid(), 701})
	eventually(t, "it is told again", func() bool {
		r := n.leader.reading("GPU-1").GetForeign()
		return len(r) == 1 && r[0].GetMemoryMib() == 701 && n.leader.reading("GPU-0").GetMemoryUsedMib() == 501
	})
	if f := n.leader.reading("GPU-0").GetForeign(); len(f) != 0 {
		t.Errorf("the job's card after a restart: %v", f)
	}
	d.reads()
	eventually(t, "the card is free", func() bool {
		r := n.leader.reading("GPU-1")
		return r != nil && len(r.GetForeign()) == 0 && r.GetForeignMemoryMib() == 0
	})
	n.touch("go")
	n.leader.ended(1)
}
