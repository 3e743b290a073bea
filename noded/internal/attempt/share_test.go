package attempt

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-hpc/fettle/noded/internal/gpuwatch"
	"github.com/fettle-hpc/fettle/noded/internal/killtree"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// environOf runs a job that writes its environment down.
func (r *rig) environOf(s nodemachine.StartShim) map[string]string {
	r.t.Helper()
	s.Prepare.Spec.Script = []byte(sh("env -0 >env0"))
	if e := r.run(s); e.GetCode() != 0 {
		r.t.Fatal(e)
	}
	env := map[string]string{}
	for kv := range strings.SplitSeq(strings.TrimSuffix(r.read("env0"), "\x00"), "\x00") {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	return env
}

func wantEnv(t *testing.T, env, want map[string]string) {
	t.Helper()
	for k, v := range want {
		if got, ok := env[k]; v == "-" && ok || v != "-" && got != v {
			t.Errorf("%s=%q, want %q", k, got, v)
		}
	}
}

func TestShareOfAGPU(t *testing.T) {
	t.Parallel()
	gpus := []*fettlev1.GPU{{Index: 0, Uuid: "u0", MemoryMib: 81920}, {Index: 1, Uuid: "u1", MemoryMib: 40960}, {Index: 2, Uuid: "u2"}}
	r := newRig(t, func(c *Config) {
		c.Inventory = func() *fettlev1.Inventory { return &fettlev1.Inventory{Gpus: gpus} }
	})
	shared := r.job(1, "")
	shared.Prepare.Allocation = &fettlev1.NodeAllocation{Node: "n1", GpuUuids: []string{"u0", "u1"}, VramMib: 10 << 10}
	shared.Prepare.Spec.Env = []*fettlev1.KeyValue{{Key: "TF_FORCE_GPU_ALLOW_GROWTH", Value: "false"}}
	wantEnv(t, r.environOf(shared), map[string]string{"FETTLE_VRAM_MIB": "10240", "FETTLE_VRAM_FRACTION": "0.2500", "FETTLE_GPUS": "2",
		"CUDA_VISIBLE_DEVICES": "u0,u1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "false"})
	unknown := r.job(2, "")
	unknown.Prepare.Allocation = &fettlev1.NodeAllocation{Node: "n1", GpuUuids: []string{"u0", "u2"}, VramMib: 10 << 10}
	wantEnv(t, r.environOf(unknown), map[string]string{"FETTLE_VRAM_MIB": "10240", "FETTLE_VRAM_FRACTION": "-"})
	// A job with whole GPUs that was submitted from a job with a share.
	whole := r.job(3, "")
	whole.Prepare.Allocation = &fettlev1.NodeAllocation{Node: "n1", GpuUuids: []string{"u0"}}
	whole.Prepare.Spec.Env = []*fettlev1.KeyValue{{Key: "FETTLE_VRAM_MIB", Value: "1"}, {Key: "FETTLE_ARRAY_INDEX", Value: "1"}}
	wantEnv(t, r.environOf(whole), map[string]string{"FETTLE_VRAM_MIB": "-", "FETTLE_VRAM_FRACTION": "-", "XLA_PYTHON_CLIENT_PREALLOCATE": "-",
		"FETTLE_ARRAY_INDEX": "-", "FETTLE_ARRAY_JOB_ID": "-"})
}

func TestSeveralAttemptsOnOneGPU(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) {
		c.Inventory = func() *fettlev1.Inventory {
			return &fettlev1.Inventory{Gpus: []*fettlev1.GPU{{Uuid: "u0", MemoryMib: 81920}}}
		}
	})
	for id := range uint64(3) {
		s := r.job(id+1, sh("echo $CUDA_VISIBLE_DEVICES; while ! [ -e go ]; do sleep 0.01; done"))
		s.Prepare.Spec.StdoutPath = "out-%j"
		s.Prepare.Allocation = &fettlev1.NodeAllocation{Node: "n1", GpuUuids: []string{"u0"}, VramMib: 20 << 10}
		r.m.Start(s)
		r.started(s.Key)
	}
	if err := os.WriteFile(filepath.Join(r.work, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if e, ok := r.next().(nodemachine.ShimEnded); !ok || e.Exit.GetCode() != 0 {
			t.Fatalf("%+v", e)
		}
	}
	if got := r.read("out-3"); got != "u0\n" {
		t.Errorf("the third of them was given %q", got)
	}
}

func TestElementOfAnArray(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.job(12, sh("echo $FETTLE_JOB_ID $FETTLE_ARRAY_JOB_ID $FETTLE_ARRAY_INDEX"))
	s.Prepare.ArrayJobId, s.Prepare.ArrayIndex, s.Prepare.Spec.StdoutPath = 7, 0, ""
	r.run(s)
	if got := r.read("fettle-7_0.out"); got != "12 7 0\n" {
		t.Errorf("%q", got)
	}
	s = r.job(13, sh("echo here; echo there >&2"))
	s.Prepare.ArrayJobId, s.Prepare.ArrayIndex, s.Prepare.Spec.StdoutPath, s.Prepare.Spec.StderrPath = 7, 3, "%A.%I.%j", "%A.%I.err"
	r.run(s)
	if out, err := r.read("7.3.13"), r.read("7.3.err"); out != "here\n" || err != "there\n" {
		t.Errorf("%q, %q", out, err)
	}
}

// sharing is a job with 10 GiB of u0.
func (r *rig) sharing(id uint64, script string) nodemachine.StartShim {
	s := r.job(id, sh(script))
	s.Prepare.Spec.StdoutPath = "out-%j"
	s.Prepare.Allocation = &fettlev1.NodeAllocation{Node: "n1", GpuUuids: []string{"u0"}, VramMib: 10 << 10}
	return s
}

func withGPU(c *Config) {
	c.Inventory = func() *fettlev1.Inventory {
		return &fettlev1.Inventory{Gpus: []*fettlev1.GPU{{Uuid: "u0", MemoryMib: 81920}}}
	}
}

// saves is a job that saves when it is asked to end, and then leaves as if all were well.
const saves = `trap 'echo saved; exit 0' TERM; echo $$ >pid$FETTLE_JOB_ID; while :; do sleep 0.01; done`

func TestEndOverShare(t *testing.T) {
	t.Parallel()
	eachIsolation(t, func(t *testing.T, opts ...option) {
		r := newRig(t, append(opts, withGPU)...)
		for id := range uint64(2) {
			s := r.sharing(id+1, saves)
			r.m.Start(s)
			r.started(s.Key)
			r.pidIn("pid" + string('1'+byte(id)))
		}
		first, second := r.sharing(1, "").Key, r.sharing(2, "").Key
		r.m.EndOverShare(first, "used much\nof it")
		e := r.ended(first)
		if e.GetClass() != fettlev1.ExitClass_EXIT_CLASS_VRAM_EXCEEDED || e.GetDetail() != "used much of it" || e.GetCode() != 0 || !strings.HasSuffix(r.read("out-1"), "saved\n") {
			t.Errorf("%v, %q", e, r.read("out-1"))
		}
		// The other goes on. One that is being ended keeps the reason that it has.
		r.m.Stop(second, 60_000)
		r.m.EndOverShare(second, "used much")
		if e := r.ended(second); e.GetClass() != fettlev1.ExitClass_EXIT_CLASS_UNSPECIFIED || e.GetDetail() != "" {
			t.Errorf("%v", e)
		}
		r.m.EndOverShare(first, "again")
		r.m.EndOverShare(nodemachine.Key{Job: 99}, "nobody")
	})
}

func TestEndOverShareAfterTheGrace(t *testing.T) {
	t.Parallel()
	r := newRig(t, withGPU)
	s := r.sharing(1, `trap '' TERM; echo $$ >pid1; while :; do sleep 0.01; done`)
	s.Prepare.Spec.KillGraceS = 1
	r.m.Start(s)
	r.started(s.Key)
	r.pidIn("pid1")
	r.m.EndOverShare(s.Key, "used much")
	if e := r.ended(s.Key); e.GetSignal() != 9 || e.GetClass() != fettlev1.ExitClass_EXIT_CLASS_VRAM_EXCEEDED {
		t.Errorf("%v", e)
	}
}

// What attempts hold, and whose a process is, is known also after the daemon was restarted.
func TestHolding(t *testing.T) {
	t.Parallel()
	eachIsolation(t, func(t *testing.T, opts ...option) {
		r := newRig(t, append(opts, withGPU)...)
		s := r.sharing(1, saves)
		none := r.job(2, sh("while ! [ -e stop ]; do sleep 0.01; done"))
		for _, s := range []nodemachine.StartShim{s, none} {
			r.m.Start(s)
			r.started(s.Key)
		}
		pid := r.pidIn("pid1")
		check := func(when string) {
			held := r.m.Holding()
			if len(held) == 0 || held[0].Key != s.Key || len(held[0].GPUs) != 1 || held[0].VRAMMiB != 10<<10 || held[0].Over {
				t.Fatalf("%s: %+v", when, held)
			}
			if parent, ok := killtree.Parent(pid); !ok || parent != held[0].Shim {
				t.Errorf("%s: the job is below %d, the shim is %d", when, parent, held[0].Shim)
			}
			if g := held[0].Group; g != nil {
				if pids, err := g.Pids(); err != nil || !slices.Contains(pids, pid) {
					t.Errorf("%s: group %v, %v", when, pids, err)
				}
			}
		}
		check("running")
		r.m.Close()
		r.open()
		eventually(t, "the shim is found", func() bool { h := r.m.Holding(); return len(h) > 0 && h[0].Shim != 0 })
		check("after a restart")
		r.m.EndOverShare(s.Key, "used much")
		if e := r.ended(s.Key); e.GetDetail() != "used much" || e.GetClass() != fettlev1.ExitClass_EXIT_CLASS_VRAM_EXCEEDED {
			t.Errorf("%v", e)
		}
		if h := r.m.Holding(); len(h) == 0 || h[0].Key != s.Key || !h[0].Over {
			t.Errorf("not acknowledged: %+v", h)
		}
		r.m.Forget(s.Key)
		eventually(t, "it is forgotten", func() bool {
			return !slices.ContainsFunc(r.m.Holding(), func(a gpuwatch.Attempt) bool { return a.Key == s.Key })
		})
		if err := os.WriteFile(filepath.Join(r.work, "stop"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		r.ended(none.Key)
	})
}
