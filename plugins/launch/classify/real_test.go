package classify

import (
	"os"
	"path/filepath"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// TestRealLogs judges logs of real runs.
func TestRealLogs(t *testing.T) {
	t.Parallel()
	tests := []struct {
		file  string
		class fettlev1.ExitClass
		kind  string
		want  string
	}{
		{"cut_checkpoint.log", transient, "checkpoint", "bad checkpoint: FileNotFoundError: [Errno 2] No such file or directory: 'output/cut_checkpoint/checkpoint-5/trainer_state.json'"},
		{"host_memory.log", oom, "host-oom", "out of host memory: RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 2703360 bytes. Error code 12 (Cannot allocate memory)"},
		{"hub_offline.log", transient, "hub", "hub or network: OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the cached files."},
		{"missing_dataset_file.log", permanent, "config", "bad config or data: ValueError: File d2/gone.json not found."},
		{"missing_model.log", permanent, "config", "bad config or data: OSError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/models/none'. Use `repo_type` argument if needed."},
		{"undefined_dataset.log", permanent, "config", "bad config or data: ValueError: Undefined dataset nosuch in dataset_info.json."},
		{"unknown_key.log", permanent, "config", "bad config or data: ValueError: Some keys are not used by the HfArgumentParser: ['lora_rnk']"},
		// Whole runs hold nothing that looks like a failure: what they are judged by is that there was one.
		{"lora.log", permanent, "unknown", "exit code 1, before its first step"},
		{"full.log", permanent, "unknown", "exit code 1, before its first step"},
		{"resumed.log", permanent, "unknown", "exit code 1, before its first step"},
	}
	for _, tt := range tests {
		log, err := os.ReadFile(filepath.Join("..", "testdata", "real", tt.file))
		if err != nil {
			t.Fatal(err)
		}
		got := Of(Input{Exit: &fettlev1.Exit{Code: 1}, Log: log, Attempt: 1})
		if got.Class != tt.class || got.Kind != tt.kind || got.Detail != tt.want {
			t.Errorf("%s\ngot  %v %s %q\nwant %v %s %q", tt.file, got.Class, got.Kind, got.Detail, tt.class, tt.kind, tt.want)
		}
	}
}
