package attempt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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
