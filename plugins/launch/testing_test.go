package launch

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fettle-hpc/fettle/plugins/launch/config"
	"github.com/fettle-hpc/fettle/plugins/sdk"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

var _ sdk.Launcher = (*Launcher)(nil)

// tinyModel is the shape of the model that the quickstart makes.
const tinyModel = `{"model_type":"qwen3","hidden_size":64,"intermediate_size":192,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":16,"vocab_size":1024,"tie_word_embeddings":true}`

// site is a directory tree as a user has it.
type site struct {
	t    testing.TB
	root string
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t, root: t.TempDir()}
	s.write("models/tiny/config.json", tinyModel)
	s.write("models/gptq/config.json", strings.Replace(tinyModel, "{", `{"quantization_config":{"quant_method":"gptq"},`, 1))
	s.write("models/adapter/adapter_config.json", "{}")
	s.write("models/broken/config.json", "{")
	s.write("configs/data.json", `[{"instruction":"a","input":"","output":"b"}]`)
	s.write("configs/pairs.json", `[{"instruction":"a","chosen":"b","rejected":"c"}]`)
	s.write("configs/text.txt", "once upon a time\n")
	s.write("configs/strange.jsonl", `{"foo":1}`)
	s.write("configs/data/dataset_info.json", `{"identity":{"file_name":"identity.json"},"hub":{"hf_hub_url":"a/b"},"gone":{"file_name":"gone.json"}}`)
	s.write("configs/data/identity.json", `[{"instruction":"a","output":"b"}]`)
	s.write("configs/z2.json", `{"zero_optimization":{"stage":2}}`)
	s.write("configs/z3.json", `{"zero_optimization":{"stage":3,"offload_optimizer":{"device":"cpu"}}}`)
	s.write("work/extra.json", `[{"instruction":"a","output":"b"}]`)
	s.write("bin/llamafactory-cli", "#!/bin/sh\n")
	if err := os.Chmod(filepath.Join(s.root, "bin/llamafactory-cli"), 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) write(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// config submits a YAML that lies in configs/; ROOT in it stands for the site's directory.
func (s *site) config(yaml string, set ...string) *pluginv1.TrainingConfig {
	s.t.Helper()
	yaml = strings.ReplaceAll(yaml, "ROOT", s.root)
	tc := &pluginv1.TrainingConfig{Yaml: []byte(yaml), Path: s.write("configs/train.yaml", yaml), WorkDir: filepath.Join(s.root, "work"), Nodes: 1, GpusPerNode: 1}
	for _, kv := range set {
		k, v, _ := strings.Cut(kv, "=")
		tc.Set = append(tc.Set, &fettlev1.KeyValue{Key: k, Value: strings.ReplaceAll(v, "ROOT", s.root)})
	}
	return tc
}

// plan asks for attempt 1 of job 42 on a node with the site's trainer.
func (s *site) plan(tc *pluginv1.TrainingConfig, attempt uint32) *pluginv1.PlanRequest {
	return &pluginv1.PlanRequest{
		Config: tc, JobId: 42, Attempt: attempt, Fence: 7, AttemptDir: filepath.Join(s.root, "attempts/42.1"), MasterAddr: "node1", MasterPort: 29555, Cpus: 8,
		Env: []*fettlev1.KeyValue{{Key: "PATH", Value: filepath.Join(s.root, "bin") + ":/usr/bin"}, {Key: "HOME", Value: filepath.Join(s.root, "home")}},
	}
}

// checkpoint leaves a complete checkpoint of a step.
func (s *site) checkpoint(dir string, step int) {
	s.t.Helper()
	header := `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`
	d := filepath.Join(dir, fmt.Sprintf("checkpoint-%d", step))
	s.write(filepath.Join(d, "adapter_model.safetensors"), string(binary.LittleEndian.AppendUint64(nil, uint64(len(header))))+header+"1234")
	for _, f := range []string{"optimizer.pt", "scheduler.pt", "rng_state.pth"} {
		s.write(filepath.Join(d, f), "old format")
	}
	s.write(filepath.Join(d, "trainer_state.json"), fmt.Sprintf(`{"global_step":%d,"max_steps":100,"num_train_epochs":3}`, step))
}

func launcher(t testing.TB, method string, settings ...string) *Launcher {
	t.Helper()
	l, err := New(Config{Method: method, Accelerator: func() bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	given := map[string]string{}
	for _, s := range settings {
		k, v, _ := strings.Cut(s, "=")
		given[k] = v
	}
	if err := l.Configure(context.Background(), given); err != nil {
		t.Fatal(err)
	}
	return l
}

func texts(problems []*pluginv1.Problem, root string) string {
	var lines []string
	for _, p := range problems {
		lines = append(lines, strings.ReplaceAll(config.Text(p), root, "ROOT"))
	}
	return strings.Join(lines, "\n")
}
