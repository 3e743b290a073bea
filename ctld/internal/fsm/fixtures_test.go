package fsm

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// update writes fixtures that are missing. It never changes one that is there: what was once written to a log must be
// read, and must mean the same, for ever.
var update = flag.Bool("update", false, "write missing fixtures")

const opsDir = "testdata/ops"

// step is one frozen entry, in the order in which they are replayed.
type step struct {
	name  string
	entry *raftlogv1.Entry
}

// scenario is a small cluster's life in which every operation occurs. New steps go to the end.
func scenario() []step {
	const t0 = 1_760_000_000_000
	full := &fettlev1.JobSpec{
		Name: "lora-run", Method: "lora", Priority: 1, Partition: "gpu", Project: "nlp", Comment: "nightly",
		Nodes: 2, GpusPerNode: &fettlev1.GPURequest{Type: "h100", Count: 2}, CpusPerNode: 2, MemMibPerNode: 1024,
		Nodelist: []string{"n1", "n2"}, Exclude: []string{"n3"}, DeviceIndexes: []uint32{0},
		TimeLimitS: 3600, Retries: proto.Uint32(1), KillGraceS: 10,
		WorkDir: "/home/alice", StdoutPath: "out-%j.log", StderrPath: "err-%j.log", TruncateOutput: true,
		Env: []*fettlev1.KeyValue{{Key: "HF_HOME", Value: "/data/hf"}}, Config: []byte("model_name_or_path: m\n"), ConfigPath: "/home/alice/train.yaml",
		Set: []*fettlev1.KeyValue{{Key: "learning_rate", Value: "1e-4"}},
	}
	submit := func(rid string, s *fettlev1.JobSpec) *raftlogv1.Entry {
		return &raftlogv1.Entry{Actor: alice, Op: submitOp(rid, s)}
	}
	hello := func(name, boot string) *raftlogv1.Entry {
		return &raftlogv1.Entry{Actor: system, Op: helloOp(name, boot, inventory(name, 8, 4))}
	}
	plan := func(ps ...*raftlogv1.Placement) *raftlogv1.Entry {
		return &raftlogv1.Entry{Actor: system, Op: &raftlogv1.Entry_Plan{Plan: &raftlogv1.ApplyPlan{Term: 3, Placements: ps}}}
	}
	reports := func(rs ...*fettlev1.AttemptReport) *raftlogv1.Entry {
		return &raftlogv1.Entry{Actor: system, Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: rs}}}
	}
	key := func(job uint64, attempt uint32, fence uint64) *fettlev1.AttemptKey {
		return &fettlev1.AttemptKey{JobId: job, Attempt: attempt, Fence: fence}
	}
	named := func(e *raftlogv1.Entry, rid string) *raftlogv1.Entry {
		e.RequestId = rid
		return e
	}
	small := script(1, 1, 1)
	small.Partition = "gpu"
	steps := []step{
		{"new_term", &raftlogv1.Entry{Actor: system, Op: &raftlogv1.Entry_NewTerm{NewTerm: &raftlogv1.NewTerm{Term: 3, LeaderId: "id-1", LeaderName: "c1", LeaderClientAddr: "127.0.0.1:7100"}}}},
		{"server_change", &raftlogv1.Entry{Actor: system, Op: &raftlogv1.Entry_ServerChange{ServerChange: &raftlogv1.ServerChange{ServerId: "id-1", Name: "c1", ClientAddr: "127.0.0.1:7100", RaftAddr: "127.0.0.1:7101"}}}},
		{"set_policy", policyOp(&fettlev1.ClusterPolicy{Partitions: []*fettlev1.Partition{{Name: "gpu", Nodes: "n[1-4]", IsDefault: true, DefaultTimeS: 7200, MaxTimeS: 86400}}, Scheduling: []*fettlev1.KeyValue{{Key: "age_weight", Value: "10"}}})},
		{"node_hello", hello("n1", "boot-1")},
		{"node_hello", hello("n2", "boot-1")},
		{"submit", submit("req-1", full)},
		{"submit", submit("req-2", clone(small))},
		{"submit_repeat", submit("req-2", clone(small))},
		{"hold", named(holdOp(2), "h-1")},
		{"release", releaseOp(2)},
		{"update_job", updateJobOp(&fettlev1.UpdateJobRequest{RequestId: "u-1", JobId: 2, Priority: proto.Uint32(2), TimeLimitS: proto.Int64(60), Comment: proto.String("soon")})},
		{"plan", plan(
			&raftlogv1.Placement{JobId: 1, Attempt: 1, Nodes: []*fettlev1.NodeAllocation{part(full, "n1", 0, 1), part(full, "n2", 0, 1)}},
			&raftlogv1.Placement{JobId: 2, Attempt: 1, Nodes: []*fettlev1.NodeAllocation{part(small, "n1", 1)}})},
		{"plan", plan(&raftlogv1.Placement{JobId: 2, Attempt: 1, Nodes: []*fettlev1.NodeAllocation{part(small, "n1", 2)}})},
		{"reports_prepared", reports(
			&fettlev1.AttemptReport{Key: key(1, 1, 12), Node: "n1", Kind: fettlev1.ReportKind_REPORT_KIND_PREPARED},
			&fettlev1.AttemptReport{Key: key(1, 1, 12), Node: "n2", Kind: fettlev1.ReportKind_REPORT_KIND_PREPARED})},
		{"reports_started", reports(
			&fettlev1.AttemptReport{Key: key(1, 1, 12), Node: "n1", Kind: fettlev1.ReportKind_REPORT_KIND_STARTED},
			&fettlev1.AttemptReport{Key: key(2, 1, 13), Node: "n1", Kind: fettlev1.ReportKind_REPORT_KIND_STARTED})},
		{"reports_ended", reports(
			&fettlev1.AttemptReport{Key: key(1, 1, 12), Node: "n2", Kind: fettlev1.ReportKind_REPORT_KIND_ENDED, Exit: &fettlev1.Exit{Code: 1, Class: classTransient, Detail: "NCCL error", StartMs: t0, EndMs: t0 + 1}},
			&fettlev1.AttemptReport{Key: key(1, 1, 11), Node: "n1", Kind: fettlev1.ReportKind_REPORT_KIND_ENDED, Exit: &fettlev1.Exit{}})},
		{"reports_ended", reports(&fettlev1.AttemptReport{Key: key(1, 1, 12), Node: "n1", Kind: fettlev1.ReportKind_REPORT_KIND_ENDED, Exit: &fettlev1.Exit{Code: -1, Signal: 15}})},
		{"requeue", named(requeueOp(2), "q-1")},
		{"reports_ended", reports(&fettlev1.AttemptReport{Key: key(2, 1, 13), Node: "n1", Kind: fettlev1.ReportKind_REPORT_KIND_ENDED, Exit: &fettlev1.Exit{Code: -1, Signal: 15}})},
		{"plan", plan(&raftlogv1.Placement{JobId: 2, Attempt: 2, Nodes: []*fettlev1.NodeAllocation{part(small, "n1", 0)}})},
		{"node_state", nodeStateOp("n1", state.NodeUnreachable, 4)},
		{"fence_node", fenceOp("n1", 4)},
		{"cancel", named(cancelOp(1, 2, 77), "c-1")},
		{"node_hello_reboot", hello("n1", "boot-2")},
		{"node_inventory", &raftlogv1.Entry{Actor: system, Op: &raftlogv1.Entry_NodeInventory{NodeInventory: &raftlogv1.NodeInventory{Node: "n1", Session: 24, Inventory: inventory("n1", 8, 2)}}}},
		{"update_node", nodeAction("n2", drainAction, "new fan")},
		{"update_node", nodeAction("n2", deadAction, "")},
		{"hash_checkpoint", checkpoint(1_000_000, []byte("an index that no replica has reached"))},
		{"purge", purgeOp(2)},
		{"submit_of_purged", submit("req-2", clone(small))},
		{"submit_refused", submit("req-3", &fettlev1.JobSpec{Priority: 42})},
		{"update_node", nodeAction("n2", removeAction, "")},
	}
	steps = append(steps, linkSteps(t0+int64(len(steps))*1000)...)
	for i := range steps {
		steps[i].entry.NowMs = t0 + int64(i)*1000
	}
	return steps
}

// outcome is what a frozen entry leads to.
type outcome struct {
	Index  uint64
	Hash   string
	Result *Result
	// Rows that the entry changed, as they are in snapshots; null for removed ones.
	Rows map[string]json.RawMessage
}

// replay applies one frozen entry and says what came of it.
func replay(t *testing.T, f *FSM, index uint64, data []byte) []byte {
	t.Helper()
	sub := f.Store().Subscribe(1)
	defer sub.Close()
	res := f.Apply(&raft.Log{Index: index, Type: raft.LogCommand, Data: data}).(*Result)
	s := f.Store().Snapshot()
	h := s.Hash()
	o := outcome{Index: index, Hash: hex.EncodeToString(h[:]), Result: res, Rows: make(map[string]json.RawMessage)}
	select {
	case c := <-sub.C():
		for _, id := range c.Jobs {
			o.Rows[fmt.Sprintf("job %d", id)] = json.RawMessage("null")
		}
		for _, n := range c.Nodes {
			o.Rows["node "+n] = json.RawMessage("null")
		}
		s.Records(func(r *raftlogv1.SnapshotRecord) bool {
			switch rec := r.GetRecord().(type) {
			case *raftlogv1.SnapshotRecord_Job:
				keepRow(t, o.Rows, fmt.Sprintf("job %d", rec.Job.GetJob().GetId()), rec.Job)
			case *raftlogv1.SnapshotRecord_Node:
				keepRow(t, o.Rows, "node "+rec.Node.GetNode().GetName(), rec.Node)
			}
			return true
		})
	default:
	}
	// What people read may be worded anew; what it is about may not change.
	for i := range res.Submit {
		reword(res.Submit[i].Err)
	}
	for i := range res.Actions {
		reword(res.Actions[i].Err)
	}
	for i := range res.Placements {
		reword(res.Placements[i].Err)
	}
	for i := range res.Preemptions {
		reword(res.Preemptions[i].Err)
	}
	reword(res.Err)
	b, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

func reword(err *model.FieldError) {
	if err != nil {
		err.Problem, err.Remedy = "", ""
	}
}

// rewordRow clears the lines for people in a copy of a row's record.
func rewordRow(m proto.Message) proto.Message {
	m = proto.Clone(m)
	switch rec := m.(type) {
	case *raftlogv1.JobRecord:
		rec.Job.Detail = ""
		for _, a := range rec.Job.Attempts {
			a.Detail = ""
			for _, n := range a.Nodes {
				if n.Exit != nil {
					n.Exit.Detail = ""
				}
			}
		}
	case *raftlogv1.NodeRecord:
		rec.Node.DrainReason = ""
	}
	return m
}

func keepRow(t *testing.T, rows map[string]json.RawMessage, name string, m proto.Message) {
	t.Helper()
	if _, changed := rows[name]; !changed {
		return
	}
	b, err := protojson.Marshal(rewordRow(m))
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, b); err != nil {
		t.Fatal(err)
	}
	rows[name] = compact.Bytes()
}

// writeMissing writes a fixture with -update, unless there is one.
func writeMissing(t *testing.T, path string, b []byte) {
	t.Helper()
	if _, err := os.Stat(path); err == nil || !*update {
		return
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("wrote %s", path)
}

func frozenOps(t *testing.T) []string {
	t.Helper()
	return frozenIn(t, opsDir)
}

func frozenIn(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.bin"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	return files
}

// frozenLog replays the frozen entries of a folder from an empty state, after writing those of steps that are missing, and
// marks the operations that occur.
func frozenLog(t *testing.T, dir string, steps []step, covered map[uint32]bool) *FSM {
	t.Helper()
	for i, s := range steps {
		b, err := Encode(s.entry)
		if err != nil {
			t.Fatal(err)
		}
		writeMissing(t, filepath.Join(dir, fmt.Sprintf("%03d-%s.bin", i+1, s.name)), b)
	}
	f := New(state.New(testCluster), Config{Fatal: func(_ int, msg string) { t.Fatal(msg) }})
	for i, path := range frozenIn(t, dir) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		e, err := Decode(data)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		covered[opNumber(e)] = true
		got := replay(t, f, uint64(i+1), data)
		wantPath := strings.TrimSuffix(path, ".bin") + ".json"
		writeMissing(t, wantPath, got)
		want, err := os.ReadFile(wantPath)
		if err != nil {
			t.Fatalf("%v; run go test ./ctld/internal/fsm -update to write it", err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s means something else now:\n%s\nit was frozen as\n%s", path, got, want)
		}
		if err := f.Store().Snapshot().Verify(); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return f
}

// Frozen entries of every operation are read as ever and lead to the same state, hash and answers.
func TestFrozenOps(t *testing.T) {
	covered := make(map[uint32]bool)
	f := frozenLog(t, opsDir, scenario(), covered)
	frozenLog(t, tenancyDir, tenancySteps(), covered)
	ops := (&raftlogv1.Entry{}).ProtoReflect().Descriptor().Oneofs().ByName("op").Fields()
	for i := range ops.Len() {
		if op := ops.Get(i); !covered[uint32(op.Number())] {
			t.Errorf("operation %s has no frozen entry: add a step to the scenario and run go test ./ctld/internal/fsm -update", op.Name())
		}
	}
	var buf bytes.Buffer
	if err := WriteSnapshot(&buf, f.Store().Snapshot()); err != nil {
		t.Fatal(err)
	}
	writeMissing(t, frozenSnapshot, buf.Bytes())
}

const frozenSnapshot = "testdata/snapshots/v1.snap"

// A snapshot written by the first version is read for ever, and is the state after its frozen entries.
func TestFrozenSnapshot(t *testing.T) {
	data, err := os.ReadFile(frozenSnapshot)
	if err != nil {
		t.Fatalf("%v; run go test ./ctld/internal/fsm -update to write it", err)
	}
	b, err := ReadSnapshot(bytes.NewReader(data), testCluster)
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	f := New(state.New(testCluster), Config{})
	for i, path := range frozenOps(t)[:s.Index()] {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f.Apply(&raft.Log{Index: uint64(i + 1), Type: raft.LogCommand, Data: data})
	}
	if got := f.Store().Snapshot(); got.Hash() != s.Hash() {
		t.Error("the snapshot and the log before it differ")
	}
}
