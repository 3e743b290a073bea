package fsm

import (
	"fmt"
	"testing"

	"github.com/hashicorp/raft"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// BenchmarkWideGang is the life of one job on 512 nodes with 8 GPUs each: dispatch, and all nodes' reports in one entry
// each or one by one.
func BenchmarkWideGang(b *testing.B) {
	const wide = 512
	for _, single := range []bool{false, true} {
		b.Run(fmt.Sprintf("single=%v", single), func(b *testing.B) {
			f := New(state.New(testCluster), Config{})
			index := uint64(0)
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
			s := script(wide, 1, 8)
			p := &raftlogv1.Placement{Attempt: 1}
			for i := range wide {
				node := fmt.Sprintf("n%d", i)
				apply(&raftlogv1.Entry{Op: helloOp(node, "b", inventory(node, 8, 8))})
				p.Nodes = append(p.Nodes, part(s, node, 0, 1, 2, 3, 4, 5, 6, 7))
			}
			n := 0
			for b.Loop() {
				n++
				p.JobId = apply(&raftlogv1.Entry{Actor: alice, Op: submitOp(fmt.Sprint(n), script(wide, 1, 8))}).Submit[0].JobID
				r := apply(&raftlogv1.Entry{Op: &raftlogv1.Entry_Plan{Plan: &raftlogv1.ApplyPlan{Term: 1, Placements: []*raftlogv1.Placement{p}}}})
				if r.Placements[0].Err != nil {
					b.Fatal(r.Placements[0].Err)
				}
				for _, kind := range []fettlev1.ReportKind{1, 2, 3} {
					all := &raftlogv1.AttemptReports{}
					for _, a := range p.GetNodes() {
						rep := &fettlev1.AttemptReport{Key: &fettlev1.AttemptKey{JobId: p.GetJobId(), Attempt: 1, Fence: r.Index}, Node: a.GetNode(), Kind: kind, Exit: &fettlev1.Exit{}}
						if all.Reports = append(all.Reports, rep); single {
							apply(&raftlogv1.Entry{Op: &raftlogv1.Entry_Reports{Reports: all}})
							all = &raftlogv1.AttemptReports{}
						}
					}
					if !single {
						apply(&raftlogv1.Entry{Op: &raftlogv1.Entry_Reports{Reports: all}})
					}
				}
				if j := f.Store().Snapshot().Job(p.GetJobId()); !j.Finished() {
					b.Fatalf("job = %+v", j)
				}
			}
		})
	}
}

// BenchmarkCancelMany cancels 10,000 pending jobs, 1,000 an entry.
func BenchmarkCancelMany(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		f := New(state.New(testCluster), Config{})
		fill(f, 0, 10_000)
		b.StartTimer()
		for k := range 10 {
			e := &raftlogv1.Entry{Actor: admin, RequestId: "all", Op: &raftlogv1.Entry_Cancel{Cancel: &raftlogv1.CancelJobs{}}}
			for i := range 1000 {
				e.GetCancel().Ids = append(e.GetCancel().Ids, uint64(k*1000+i+1))
			}
			data, err := Encode(e)
			if err != nil {
				b.Fatal(err)
			}
			f.Apply(&raft.Log{Index: uint64(20_000 + k), Type: raft.LogCommand, Data: data})
		}
		if n := f.Store().Snapshot().Counts().Pending(); n != 0 {
			b.Fatalf("%d are pending", n)
		}
	}
}
