package checkpoint

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// whole makes a checkpoint as the trainer leaves it.
func whole(t *testing.T, out string, step int, more ...string) string {
	t.Helper()
	dir := filepath.Join(out, fmt.Sprintf("checkpoint-%d", step))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "adapter_model.safetensors", safetensors(64))
	for _, f := range append([]string{"optimizer.pt", "scheduler.pt", "rng_state.pth"}, more...) {
		put(t, dir, f, archive())
	}
	put(t, dir, "trainer_state.json", fmt.Sprintf(`{"global_step": %d, "max_steps": 100, "log_history": [{"loss": 1.5}]}`, step))
	return dir
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func safetensors(n int) string {
	header := fmt.Sprintf(`{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,%d]},"b":{"dtype":"F32","shape":[4],"data_offsets":[%d,%d]}}`, n/2, n/2, n)
	return string(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))) + header + strings.Repeat("x", n)
}

func archive() string {
	return "PK\x03\x04data" + strings.Repeat("y", 100) + "PK\x05\x06" + strings.Repeat("\x00", 18)
}

func TestCheck(t *testing.T) {
	t.Parallel()
	remove := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	replace := func(name, text string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { put(t, dir, name, text) }
	}
	both := func(fs ...func(*testing.T, string)) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			for _, f := range fs {
				f(t, dir)
			}
		}
	}
	mkdir := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	full := both(remove("adapter_model.safetensors"), replace("model.safetensors.index.json", `{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}`), replace("model-1.safetensors", safetensors(8)), replace("model-2.safetensors", safetensors(16)))
	tests := []struct {
		name  string
		spoil func(*testing.T, string)
		want  string
	}{
		{"whole", func(*testing.T, string) {}, ""},
		{"whole, sharded model", full, ""},
		{"whole, old formats", both(remove("adapter_model.safetensors"), replace("adapter_model.bin", "\x80\x02old"), replace("optimizer.pt", "\x80\x02old")), ""},
		{"whole, two ranks", both(remove("rng_state.pth"), replace("rng_state_0.pth", archive()), replace("rng_state_1.pth", archive())), ""},
		{"whole, deepspeed", both(remove("adapter_model.safetensors"), remove("optimizer.pt"), remove("scheduler.pt"), mkdir("global_step20")), ""},
		{"whole, fsdp", both(remove("adapter_model.safetensors"), remove("optimizer.pt"), mkdir("pytorch_model_fsdp_0"), mkdir("optimizer_0")), ""},
		{"whole, with a loss that is no number", replace("trainer_state.json", `{"global_step": 20, "max_steps": 100, "log_history": [{"loss": NaN, "grad_norm": -Infinity}]}`), ""},
		{"stopped while writing", replace("checkpoint-is-incomplete.txt", ""), "the trainer was stopped while it wrote it (checkpoint-is-incomplete.txt)"},
		{"no state", remove("trainer_state.json"), "trainer_state.json, which is written last, is missing"},
		{"torn state", replace("trainer_state.json", `{"global_step": 2`), "trainer_state.json: not valid JSON: unexpected end of JSON input"},
		{"state without a step", replace("trainer_state.json", `{}`), "trainer_state.json: has no global_step"},
		{"state of another step", replace("trainer_state.json", `{"global_step": 19}`), "trainer_state.json is at step 19, not 20"},
		{"no weights", remove("adapter_model.safetensors"), "the weights are missing"},
		{"cut weights", replace("adapter_model.safetensors", cut(safetensors(64), 10)), "adapter_model.safetensors has 203 bytes of 213"},
		{"cut header", replace("adapter_model.safetensors", safetensors(64)[:20]), "adapter_model.safetensors is cut short"},
		{"empty weights", replace("adapter_model.safetensors", ""), "adapter_model.safetensors is cut short"},
		{"broken header", replace("adapter_model.safetensors", "\x02\x00\x00\x00\x00\x00\x00\x00[]"), "adapter_model.safetensors has a broken header"},
		{"absurd header", replace("adapter_model.safetensors", "\xff\xff\xff\xff\xff\xff\xff\xff{}"), "adapter_model.safetensors is cut short"},
		{"shard missing", both(full, remove("model-2.safetensors")), `"model-2.safetensors" of model.safetensors.index.json is missing`},
		{"shard cut", both(full, replace("model-1.safetensors", cut(safetensors(8), 2))), "model-1.safetensors has 152 bytes of 154"},
		{"no optimizer", remove("optimizer.pt"), "the optimizer's state is missing"},
		{"cut optimizer", replace("optimizer.pt", archive()[:60]), "optimizer.pt is cut short"},
		{"empty optimizer", replace("optimizer.pt", ""), "optimizer.pt is empty"},
		{"no scheduler", remove("scheduler.pt"), "scheduler.pt is missing"},
		{"no random state", remove("rng_state.pth"), "rng_state.pth is missing"},
		{"only rank 1", both(remove("rng_state.pth"), replace("rng_state_1.pth", archive())), "rng_state_0.pth is missing, though there is one of rank 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := whole(t, t.TempDir(), 20)
			tt.spoil(t, dir)
			got := ""
			if err := Check(dir, 20); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestLatestSkipsTorn(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	if latest, torn, err := Latest(filepath.Join(out, "none")); latest != nil || torn != nil || err != nil {
		t.Errorf("no directory: %v %v %v", latest, torn, err)
	}
	for _, step := range []int{5, 10, 100, 95} {
		whole(t, out, step)
	}
	for _, other := range []string{"checkpoint-abc", "checkpoint-007", "checkpoint-", "torn-checkpoint-200", "runs"} {
		if err := os.Mkdir(filepath.Join(out, other), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	put(t, out, "checkpoint-300", "a file")
	if err := os.Remove(filepath.Join(out, "checkpoint-100", "optimizer.pt")); err != nil {
		t.Fatal(err)
	}
	latest, torn, err := Latest(out)
	if err != nil || latest == nil || latest.Step != 95 || latest.Path != filepath.Join(out, "checkpoint-95") {
		t.Fatalf("Latest = %+v, %v; want step 95", latest, err)
	}
	if len(torn) != 2 || torn[0].Step != 300 || torn[1].Step != 100 {
		t.Errorf("torn %+v, want 300 and 100", torn)
	}
	all, err := List(out)
	if err != nil || len(all) != 5 || all[4].Step != 5 {
		t.Errorf("List = %+v, %v; want 5 checkpoints down to step 5", all, err)
	}
}

func cut(s string, n int) string { return s[:len(s)-n] }
