package fsm

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/hashicorp/raft"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// typicalYAML is a training config of the usual size, different for each job.
func typicalYAML(n int) []byte {
	return fmt.Appendf(nil, `model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
stage: sft
do_train: true
finetuning_type: lora
lora_rank: %d
lora_target: all
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 2048
output_dir: saves/llama3-8b/lora/run-%d
logging_steps: 10
save_steps: 500
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
`, 8+n%8, n)
}

func typicalSpec(n int) *fettlev1.JobSpec {
	return &fettlev1.JobSpec{
		Name: fmt.Sprintf("llama3-sft-%d", n), Method: "lora", Priority: uint32(1 + n%10), Project: fmt.Sprintf("project-%d", n%10),
		GpusPerNode: &fettlev1.GPURequest{Type: "h100", Count: 2}, CpusPerNode: 8, MemMibPerNode: 65536, TimeLimitS: 4 * 3600,
		WorkDir: fmt.Sprintf("/home/user%d/experiments", n%50), StdoutPath: "fettle-%j.out",
		Env: []*fettlev1.KeyValue{
			{Key: "PATH", Value: fmt.Sprintf("/home/user%d/venv/bin:/usr/local/bin:/usr/bin:/bin", n%50)}, {Key: "HF_HOME", Value: "/data/hf"},
			{Key: "LANG", Value: "C.UTF-8"}, {Key: "HOME", Value: fmt.Sprintf("/home/user%d", n%50)},
		},
		Config: typicalYAML(n), ConfigPath: fmt.Sprintf("/home/user%d/experiments/train-%d.yaml", n%50, n),
	}
}

func typicalSubmit(n int) []byte {
	b, err := Encode(&raftlogv1.Entry{
		NowMs: int64(1_760_000_000_000 + n), Actor: &raftlogv1.Actor{User: fmt.Sprintf("user%d", n%50), Uid: uint32(1000 + n%50), Gid: 100},
		Op: submitOp(fmt.Sprintf("0192f0c1-7e5a-7b3c-9d2e-%012d", n), typicalSpec(n)),
	})
	if err != nil {
		panic(err)
	}
	return b
}

// fill submits jobs n0 to n1-1, in batches of 64 as raft would hand them over.
func fill(f *FSM, n0, n1 int) {
	var logs []*raft.Log
	for n := n0; n < n1; n++ {
		logs = append(logs, &raft.Log{Index: uint64(n + 1), Type: raft.LogCommand, Data: typicalSubmit(n)})
		if len(logs) == 64 || n == n1-1 {
			f.ApplyBatch(logs)
			logs = nil
		}
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// bytesPerJob is what a controller's memory grows by for each pending job, everything counted: the row, its YAML and
// environment, indexes, idempotency keys and remembered events.
func bytesPerJob(jobs int) (perJob float64, f *FSM) {
	before := heap()
	f = New(state.New(testCluster), Config{})
	fill(f, 0, jobs)
	return (float64(heap()) - float64(before)) / float64(jobs), f
}

// DESIGN §12: at most 2 KiB per pending job.
func TestBytesPerPendingJob(t *testing.T) {
	if raceOn {
		t.Skip("the race detector's own memory is in the way")
	}
	const jobs = 100_000
	perJob, f := bytesPerJob(jobs)
	if got := f.Store().Snapshot().Counts().Pending(); got != jobs {
		t.Fatalf("%d of %d jobs are pending", got, jobs)
	}
	t.Logf("%d pending jobs with %d bytes of YAML each: %.0f bytes per job", jobs, len(typicalYAML(0)), perJob)
	if perJob > 2048 {
		t.Errorf("%.0f bytes per pending job, the budget is 2048", perJob)
	}
}

func BenchmarkBytesPerPendingJob(b *testing.B) {
	var perJob float64
	for b.Loop() {
		var f *FSM
		perJob, f = bytesPerJob(100_000)
		runtime.KeepAlive(f)
	}
	b.ReportMetric(perJob, "B/job")
}

// BenchmarkApplySubmit is one submit per entry; batch is how many entries raft hands over at once.
func BenchmarkApplySubmit(b *testing.B) {
	for _, batch := range []int{1, 64} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			f := New(state.New(testCluster), Config{})
			fill(f, 0, 10_000)
			n := 10_000
			logs := make([]*raft.Log, batch)
			b.ReportAllocs()
			for i := 0; i < b.N; i += batch {
				b.StopTimer()
				for k := range logs {
					// Below the limit on unfinished jobs of one user.
					logs[k] = &raft.Log{Index: uint64(n + 1), Type: raft.LogCommand, Data: typicalSubmit(n)}
					n++
				}
				b.StartTimer()
				f.ApplyBatch(logs)
			}
		})
	}
}

// BenchmarkApplyMany is one entry with 100 submits, as the leader's batching makes them.
func BenchmarkApplyMany(b *testing.B) {
	f := New(state.New(testCluster), Config{})
	n := 0
	b.ReportAllocs()
	for i := 0; i < b.N; i += 100 {
		b.StopTimer()
		e := &raftlogv1.Entry{NowMs: 1, Actor: alice, Op: &raftlogv1.Entry_Submit{Submit: &raftlogv1.SubmitJobs{}}}
		for range 100 {
			e.GetSubmit().Jobs = append(e.GetSubmit().Jobs, &fettlev1.JobSubmission{RequestId: fmt.Sprintf("r%d", n), Spec: typicalSpec(n)})
			n++
		}
		data, err := Encode(e)
		if err != nil {
			b.Fatal(err)
		}
		if n > 100_000 {
			f, n = New(state.New(testCluster), Config{}), 0
		}
		b.StartTimer()
		if r := f.Apply(&raft.Log{Index: uint64(i + 1), Type: raft.LogCommand, Data: data}).(*Result); r.Err != nil {
			b.Fatal(r.Err)
		}
	}
}

// BenchmarkJobLife is a job's dispatch, start and end, one entry each, beside 50,000 pending ones.
func BenchmarkJobLife(b *testing.B) {
	f := New(state.New(testCluster), Config{})
	fill(f, 0, 50_000)
	index := uint64(50_000)
	apply := func(e *raftlogv1.Entry) *Result {
		data, err := Encode(e)
		if err != nil {
			b.Fatal(err)
		}
		index++
		r := f.Apply(&raft.Log{Index: index, Type: raft.LogCommand, Data: data}).(*Result)
		if r.Err != nil {
			b.Fatal(r.Err)
		}
		return r
	}
	apply(&raftlogv1.Entry{Op: &raftlogv1.Entry_NewTerm{NewTerm: &raftlogv1.NewTerm{Term: 1, LeaderId: "x"}}})
	apply(&raftlogv1.Entry{Op: helloOp("n1", "b", inventory("n1", 512, 8))})
	s := script(1, 1, 1)
	n := 0
	for b.Loop() {
		n++
		id := apply(&raftlogv1.Entry{Actor: alice, Op: submitOp(fmt.Sprintf("life-%d", n), script(1, 1, 1))}).Submit[0].JobID
		r := apply(&raftlogv1.Entry{Op: &raftlogv1.Entry_Plan{Plan: &raftlogv1.ApplyPlan{Term: 1, Placements: []*raftlogv1.Placement{{JobId: id, Attempt: 1, Nodes: []*fettlev1.NodeAllocation{part(s, "n1", 3)}}}}}})
		if r.Placements[0].Err != nil {
			b.Fatal(r.Placements[0].Err)
		}
		key := &fettlev1.AttemptKey{JobId: id, Attempt: 1, Fence: r.Index}
		for _, rep := range []*fettlev1.AttemptReport{{Key: key, Node: "n1", Kind: 2}, {Key: key, Node: "n1", Kind: 3, Exit: &fettlev1.Exit{}}} {
			apply(&raftlogv1.Entry{Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: []*fettlev1.AttemptReport{rep}}}})
		}
	}
}

// BenchmarkReads are a queue listing of everything, and of one user's jobs, at 50,000 pending.
func BenchmarkReads(b *testing.B) {
	f := New(state.New(testCluster), Config{})
	fill(f, 0, 50_000)
	s := f.Store().Snapshot()
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			n := 0
			s.Pending(func(j *state.Job) bool { n += len(j.Proto(false).GetUser()); return true })
		}
	})
	b.Run("user", func(b *testing.B) {
		for b.Loop() {
			n := 0
			s.JobsOfUser(1007, func(j *state.Job) bool { n += len(j.Proto(false).GetUser()); return true })
		}
	})
	b.Run("persist", func(b *testing.B) {
		for b.Loop() {
			if err := WriteSnapshot(io.Discard, s); err != nil {
				b.Fatal(err)
			}
		}
	})
	var buf bytes.Buffer
	if err := WriteSnapshot(&buf, s); err != nil {
		b.Fatal(err)
	}
	b.Run("restore", func(b *testing.B) {
		b.ReportMetric(float64(buf.Len())/50_000, "B/job-on-disk")
		for b.Loop() {
			if _, err := ReadSnapshot(bytes.NewReader(buf.Bytes()), testCluster); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("capture", func(b *testing.B) {
		for b.Loop() {
			if _, err := f.Snapshot(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
