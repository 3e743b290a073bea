package model

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func good() *fettlev1.JobSpec {
	return &fettlev1.JobSpec{
		Name: "train", Priority: 1, Nodes: 2, GpusPerNode: &fettlev1.GPURequest{Type: "h100", Count: 2}, CpusPerNode: 4, MemMibPerNode: 1024,
		Nodelist: []string{"n1", "n2", "n3"}, Exclude: []string{"n3"}, DeviceIndexes: []uint32{0, 1}, TimeLimitS: 60, BeginMs: 5, Retries: proto.Uint32(0),
		WorkDir: "/w", StdoutPath: "o-%j", Env: []*fettlev1.KeyValue{{Key: "A", Value: "b=c"}}, Script: []byte("#!/bin/sh"), Args: []string{"a b"},
	}
}

func names(n int) []string {
	var s []string
	for i := range n {
		s = append(s, fmt.Sprintf("n%d", i))
	}
	return s
}

func TestValidateSpec(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 5000)
	for line, change := range map[string]func(s *fettlev1.JobSpec){
		"": func(*fettlev1.JobSpec) {},
		"name: is longer than 128 bytes; shorten it":                                                                                     func(s *fettlev1.JobSpec) { s.Name = long },
		"name: holds a control character; use plain text on one line":                                                                    func(s *fettlev1.JobSpec) { s.Name = "a\nb" },
		"name: is not valid UTF-8; use plain text":                                                                                       func(s *fettlev1.JobSpec) { s.Name = "\xff" },
		"comment: is longer than 1024 bytes; shorten it":                                                                                 func(s *fettlev1.JobSpec) { s.Comment = long },
		`partition: "a b" is not a name; use letters, digits, dots, dashes and underscores, starting with a letter or digit`:             func(s *fettlev1.JobSpec) { s.Partition = "a b" },
		`project: "-x" is not a name; use letters, digits, dots, dashes and underscores, starting with a letter or digit`:                func(s *fettlev1.JobSpec) { s.Project = "-x" },
		`method: "../sh" is not a name; use letters, digits, dots, dashes and underscores, starting with a letter or digit`:              func(s *fettlev1.JobSpec) { s.Method = "../sh" },
		"method: is longer than 64 bytes; shorten it":                                                                                    func(s *fettlev1.JobSpec) { s.Method = long },
		"priority: 11 is out of range; use 1 (most urgent) to 10":                                                                        func(s *fettlev1.JobSpec) { s.Priority = 11 },
		"retries: is above 100; use 0 to 100":                                                                                            func(s *fettlev1.JobSpec) { s.Retries = proto.Uint32(101) },
		"nodes: is above 1024; ask for fewer nodes":                                                                                      func(s *fettlev1.JobSpec) { s.Nodes = 1025 },
		"cpus: is above 4096 per node; ask for fewer CPUs":                                                                               func(s *fettlev1.JobSpec) { s.CpusPerNode = 4097 },
		"mem: is negative; use a size such as 16G":                                                                                       func(s *fettlev1.JobSpec) { s.MemMibPerNode = -1 },
		"mem: is above 64 TiB per node; ask for less memory":                                                                             func(s *fettlev1.JobSpec) { s.MemMibPerNode = MaxMemMiBPerNode + 1 },
		"gpus: is above 64 per node; spread the job over more nodes":                                                                     func(s *fettlev1.JobSpec) { s.GpusPerNode.Count = 65 },
		`gpus: names the type "h100" but no number; write h100:1, or leave the type out`:                                                 func(s *fettlev1.JobSpec) { s.GpusPerNode.Count = 0 },
		"nodelist: leaves 1 of the 2 nodes asked for; name more nodes or ask for fewer":                                                  func(s *fettlev1.JobSpec) { s.Nodelist = []string{"n1", "n3"} },
		`nodelist: names "n1" twice; name each node once`:                                                                                func(s *fettlev1.JobSpec) { s.Nodelist = []string{"n1", "n1", "n2"} },
		`nodelist: "N1" is not in its plain form; write n1`:                                                                              func(s *fettlev1.JobSpec) { s.Nodelist = []string{"N1", "n2"} },
		`exclude: "a_b" may not hold "_"; use letters, digits and dashes, starting and ending with a letter or digit, for example gpu01`: func(s *fettlev1.JobSpec) { s.Exclude = []string{"a_b"} },
		"exclude: names more than 4096 nodes; name fewer, or use a partition":                                                            func(s *fettlev1.JobSpec) { s.Exclude = names(4097) },
		"device: mixes indexes and UUIDs; pin by one or the other":                                                                       func(s *fettlev1.JobSpec) { s.DeviceUuids = []string{"GPU-1"} },
		"device: pins more GPUs than are asked for; raise gpus or pin fewer":                                                             func(s *fettlev1.JobSpec) { s.DeviceIndexes = []uint32{0, 1, 2} },
		"device: pins cuda:1 twice; pin each GPU once":                                                                                   func(s *fettlev1.JobSpec) { s.DeviceIndexes = []uint32{1, 1} },
		"device: the index 64 is above 63; use cuda:0 and up":                                                                            func(s *fettlev1.JobSpec) { s.DeviceIndexes = []uint32{64} },
		`device: "a,b" is not a GPU's UUID; use one that finfo shows`:                                                                    func(s *fettlev1.JobSpec) { s.DeviceIndexes, s.DeviceUuids = nil, []string{"a,b"} },
		`device: pins "GPU-1" twice; pin each GPU once`:                                                                                  func(s *fettlev1.JobSpec) { s.DeviceIndexes, s.DeviceUuids = nil, []string{"GPU-1", "GPU-1"} },
		"time: is negative; use a limit such as 2:00:00":                                                                                 func(s *fettlev1.JobSpec) { s.TimeLimitS = -1 },
		"time: is above 30 days; use a shorter limit":                                                                                    func(s *fettlev1.JobSpec) { s.TimeLimitS = MaxTimeLimitS + 1 },
		"begin: is out of range; use a time such as now+2hours":                                                                          func(s *fettlev1.JobSpec) { s.BeginMs = MaxBeginMS + 1 },
		"kill-grace: is out of range; use 1 to 3600 seconds":                                                                             func(s *fettlev1.JobSpec) { s.KillGraceS = 3601 },
		`chdir: "w" is not an absolute path; start it with /`:                                                                            func(s *fettlev1.JobSpec) { s.WorkDir = "w" },
		`config: "c.yaml" is not an absolute path; start it with /`:                                                                      func(s *fettlev1.JobSpec) { s.ConfigPath = "c.yaml" },
		"output: is longer than 4096 bytes; shorten it":                                                                                  func(s *fettlev1.JobSpec) { s.StdoutPath = long },
		"error: holds a control character; use plain text on one line":                                                                   func(s *fettlev1.JobSpec) { s.StderrPath = "a\x00" },
		`export: "A=B" is not a variable's name; use NAME=VALUE`:                                                                         func(s *fettlev1.JobSpec) { s.Env[0].Key = "A=B" },
		`export: the value of "A" holds a NUL byte; remove it`:                                                                           func(s *fettlev1.JobSpec) { s.Env[0].Value = "\x00" },
		"export: has more than 512 variables; export fewer":                                                                              func(s *fettlev1.JobSpec) { s.Env = make([]*fettlev1.KeyValue, 513) },
		"export: is longer than 65536 bytes; export fewer variables":                                                                     func(s *fettlev1.JobSpec) { s.Env[0].Value = strings.Repeat("x", 65536) },
		"args: has more than 4096 arguments; pass a file instead":                                                                        func(s *fettlev1.JobSpec) { s.Args = make([]string, 4097) },
		"args: is longer than 131072 bytes; pass a file instead":                                                                         func(s *fettlev1.JobSpec) { s.Args = []string{strings.Repeat("x", 131072)} },
		"args: holds a NUL byte; remove it":                                                                                              func(s *fettlev1.JobSpec) { s.Args = []string{"\x00"} },
		"set: has more than 256 keys; write them into the config":                                                                        func(s *fettlev1.JobSpec) { s.Set = make([]*fettlev1.KeyValue, 257) },
		"set: has an empty key; use KEY=VALUE":                                                                                           func(s *fettlev1.JobSpec) { s.Set = []*fettlev1.KeyValue{{Value: "1"}} },
		"set: is longer than 65536 bytes; write the values into the config":                                                              func(s *fettlev1.JobSpec) { s.Set = []*fettlev1.KeyValue{{Key: "a", Value: strings.Repeat("x", 65536)}} },
		"script: is larger than 262144 bytes; keep the bulk in a file that the script reads":                                             func(s *fettlev1.JobSpec) { s.Script = make([]byte, 262145) },
		"script: is empty; give a script, or a training config with a method":                                                            func(s *fettlev1.JobSpec) { s.Script = nil },
		"script: does not start with #!; add a first line such as #!/bin/bash":                                                           func(s *fettlev1.JobSpec) { s.Script = []byte("echo") },
		"config: a script takes no training config; choose a training method, or drop the config":                                        func(s *fettlev1.JobSpec) { s.Config = []byte("a: b") },
		"config: is larger than 262144 bytes; keep data in files that the config names":                                                  func(s *fettlev1.JobSpec) { s.Config = make([]byte, 262145) },
		"config: is empty; give the training config of method lora":                                                                      func(s *fettlev1.JobSpec) { s.Method = "LoRA" },
		"script: method lora takes a training config, not a script; use method script, or drop the script":                               func(s *fettlev1.JobSpec) { s.Method, s.Config = "lora", []byte("a: b") },
	} {
		s := good()
		change(s)
		err := ValidateSpec(s)
		if line == "" {
			if err != nil {
				t.Errorf("refused: %v", err)
			}
			continue
		}
		if err == nil || err.Error() != line || err.Kind != Invalid {
			t.Errorf("got %v\nwant %s", err, line)
		}
	}
	if err := ValidateSpec(nil); err == nil || err.Error() != "spec: is missing; send a job specification" {
		t.Errorf("nil: %v", err)
	}
}

func TestValidateSpecBoundsTheWhole(t *testing.T) {
	t.Parallel()
	s := good()
	s.Method, s.Script, s.Config = "lora", nil, make([]byte, MaxConfig)
	s.Env[0].Value = strings.Repeat("x", MaxEnvBytes-100)
	s.Args = []string{strings.Repeat("x", MaxArgsBytes-100)}
	s.Set = []*fettlev1.KeyValue{{Key: "k", Value: strings.Repeat("x", MaxSetBytes-100)}}
	if err := ValidateSpec(s); err == nil || err.Error() != "spec: is larger than 458752 bytes in all; shrink the script, config or environment" {
		t.Errorf("got %v", err)
	}
}

// What is normalised is valid when it was valid before, and stays as it is.
func TestNormalizeSpec(t *testing.T) {
	t.Parallel()
	for _, s := range []*fettlev1.JobSpec{good(), {Script: []byte("#!")}, {Method: "QLoRA", Config: []byte("a"), GpusPerNode: &fettlev1.GPURequest{Type: "H100", Count: 1}}, {Script: []byte("#!"), GpusPerNode: &fettlev1.GPURequest{}}} {
		if err := ValidateSpec(s); err != nil {
			t.Fatal(err)
		}
		NormalizeSpec(s)
		once := proto.Clone(s)
		NormalizeSpec(s)
		if !proto.Equal(once, s) {
			t.Errorf("normalised again: %v, then %v", once, s)
		}
		if err := ValidateSpec(s); err != nil {
			t.Errorf("normalised and refused: %v", err)
		}
		if s.GetName() == "" || s.GetMethod() == "" || s.GetMethod() != strings.ToLower(s.GetMethod()) || s.Retries == nil || s.GetNodes() == 0 || s.GetCpusPerNode() == 0 || s.GetPriority() == 0 || s.GetKillGraceS() == 0 {
			t.Errorf("defaults are missing: %v", s)
		}
		if g := s.GetGpusPerNode(); g != nil && (g.GetCount() == 0 || g.GetType() != strings.ToLower(g.GetType())) {
			t.Errorf("gpus = %v", g)
		}
	}
	NormalizeSpec(nil)
	if good().Retries == nil || Retries(&fettlev1.JobSpec{}) != DefaultRetries || Retries(good()) != 0 {
		t.Error("retries")
	}
}

func TestValidatePolicy(t *testing.T) {
	t.Parallel()
	part := func(p ...*fettlev1.Partition) *fettlev1.ClusterPolicy {
		return &fettlev1.ClusterPolicy{Partitions: p}
	}
	kv := func(k, v string) *fettlev1.ClusterPolicy {
		return &fettlev1.ClusterPolicy{Scheduling: []*fettlev1.KeyValue{{Key: k, Value: v}}}
	}
	for line, p := range map[string]*fettlev1.ClusterPolicy{
		"policy: is missing; send a policy":                                       nil,
		"partition.name: is empty; name every partition":                          part(&fettlev1.Partition{}),
		`partition "a": is defined twice; keep one`:                               part(&fettlev1.Partition{Name: "a"}, &fettlev1.Partition{Name: "a"}),
		`partition "b": is default, and so is "a"; mark one partition as default`: part(&fettlev1.Partition{Name: "a", IsDefault: true}, &fettlev1.Partition{Name: "b", IsDefault: true}),
		`partition "a".max_time: is out of range; use 0 to 30 days`:               part(&fettlev1.Partition{Name: "a", MaxTimeS: -1}),
		`partition "a".default_time: is above max_time; lower it`:                 part(&fettlev1.Partition{Name: "a", MaxTimeS: 5, DefaultTimeS: 6}),
		"partitions: more than 256; define fewer":                                 part(make([]*fettlev1.Partition, 257)...),
		"scheduling: has a setting without a name; name it":                       kv("", "1"),
		"scheduling.a: holds a control character; use plain text on one line":     kv("a", "\n"),
		"scheduling.a: is set twice; keep one":                                    {Scheduling: []*fettlev1.KeyValue{{Key: "a"}, {Key: "a"}}},
	} {
		if err := ValidatePolicy(p); err == nil || err.Error() != line {
			t.Errorf("got %v\nwant %s", err, line)
		}
	}
	if err := ValidatePolicy(part(&fettlev1.Partition{Name: "a", Nodes: "n[1"})); err == nil || err.Field != `partition "a".nodes` {
		t.Errorf("nodes: %v", err)
	}
	ok := part(&fettlev1.Partition{Name: "gpu.h100", Nodes: "n[1-4],x", IsDefault: true, MaxTimeS: 60, DefaultTimeS: 60}, &fettlev1.Partition{Name: "b"})
	ok.Scheduling = []*fettlev1.KeyValue{{Key: "multifactor.age_weight", Value: "10"}}
	if err := ValidatePolicy(ok); err != nil {
		t.Error(err)
	}
	if err := ValidatePolicy(&fettlev1.ClusterPolicy{}); err != nil {
		t.Error(err)
	}
}

func TestValidateInventory(t *testing.T) {
	t.Parallel()
	gpu := func(i uint32, u string) *fettlev1.GPU { return &fettlev1.GPU{Index: i, Uuid: u, Type: "h100"} }
	inv := func(g ...*fettlev1.GPU) *fettlev1.Inventory { return &fettlev1.Inventory{Cpus: 1, Gpus: g} }
	for line, i := range map[string]*fettlev1.Inventory{
		"inventory: is missing; send one":                                      nil,
		"inventory.cpus: is out of range; use 1 to 4096":                       {},
		"inventory.memory: is out of range; use at most 64 TiB":                {Cpus: 1, MemoryMib: -1},
		"inventory.gpus: more than 64; declare fewer":                          inv(make([]*fettlev1.GPU, 65)...),
		`inventory.gpus: "" is not a GPU's UUID; use one that finfo shows`:     inv(gpu(0, "")),
		`inventory.gpus: "a" is listed twice; list each GPU once`:              inv(gpu(0, "a"), gpu(1, "a")),
		"inventory.gpus: index 0 is listed twice; give each GPU its own index": inv(gpu(0, "a"), gpu(0, "b")),
		"inventory: is larger than 65536 bytes; shorten its texts":             {Cpus: 1, Os: strings.Repeat("x", 70000)},
	} {
		if err := ValidateInventory(i); err == nil || err.Error() != line {
			t.Errorf("got %v\nwant %s", err, line)
		}
	}
	if err := ValidateNode("gpu01.site", "boot", inv(gpu(0, "GPU-1"), gpu(1, "GPU-2"))); err != nil {
		t.Error(err)
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	for id, ok := range map[string]bool{"": false, "a": true, "0192f0c1-7e5a": true, "a b": false, "ä": false, "a\n": false, strings.Repeat("x", 128): true, strings.Repeat("x", 129): false} {
		if err := CheckRequestID(id); (err == nil) != ok {
			t.Errorf("CheckRequestID(%q) = %v", id, err)
		}
	}
}

func FuzzValidateSpec(f *testing.F) {
	b, err := proto.Marshal(good())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var s fettlev1.JobSpec
		if proto.Unmarshal(b, &s) != nil {
			return
		}
		first := ValidateSpec(&s)
		NormalizeSpec(&s)
		second := ValidateSpec(&s)
		if (first == nil) != (second == nil) {
			t.Fatalf("before normalising %v, after it %v", first, second)
		}
		for _, err := range []*FieldError{first, second} {
			if err != nil && (err.Field == "" || err.Problem == "" || strings.ContainsAny(err.Error(), "\n\r\x1b\x00")) {
				t.Fatalf("odd refusal %q", err.Error())
			}
		}
	})
}
