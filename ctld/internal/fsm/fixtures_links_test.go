package fsm

import (
	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// linkSteps carries the scenario on with arrays, dependencies, deadlines and shares of GPUs. The next job is 3, node n1 is
// up with two GPUs, and the first step is entry 33, at nowMS; each later one is a second later.
func linkSteps(nowMS int64) []step {
	submit := func(rid string, s *fettlev1.JobSpec) *raftlogv1.Entry {
		s.TimeLimitS = max(s.TimeLimitS, 60)
		return &raftlogv1.Entry{Actor: alice, Op: submitOp(rid, s)}
	}
	after := func(name string, anyOne bool, ds ...*fettlev1.Dependency) *fettlev1.JobSpec {
		s := script(1, 1, 0)
		s.Name, s.Dependencies, s.DependencyAny = name, ds, anyOne
		return s
	}
	array := script(1, 1, 0)
	array.Name, array.EstimatedRunS = "sweep", 600
	array.Array = &fettlev1.ArraySpec{Ranges: []*fettlev1.ArrayRange{{First: 0, Last: 8, Step: 2}, {First: 11, Last: 12}}, MaxRunning: 2}
	share := script(1, 1, 1)
	share.Name, share.VramMib, share.GpuAlternatives = "share", 20480, []*fettlev1.GPURequest{{Type: "h100", Count: 2}}
	late := script(1, 1, 0)
	late.Name, late.TimeLimitS, late.DeadlineMs = "late", 60, nowMS+74_000
	whole := script(0, 1, 0)
	whole.Name, whole.GpusTotal, whole.Constraint = "whole", &fettlev1.GPURequest{Type: "H100", Count: 2}, "!slow , (!old)"
	element := func(index uint32, parts ...*fettlev1.NodeAllocation) *raftlogv1.Placement {
		return &raftlogv1.Placement{JobId: 3, Attempt: 1, ArrayIndex: &index, Nodes: parts}
	}
	plan := func(ps ...*raftlogv1.Placement) *raftlogv1.Entry {
		return &raftlogv1.Entry{Actor: system, Op: &raftlogv1.Entry_Plan{Plan: &raftlogv1.ApplyPlan{Term: 3, Placements: ps}}}
	}
	ended := func(job, fence uint64, code int32) *fettlev1.AttemptReport {
		return &fettlev1.AttemptReport{Key: &fettlev1.AttemptKey{JobId: job, Attempt: 1, Fence: fence}, Node: "n1", Kind: fettlev1.ReportKind_REPORT_KIND_ENDED, Exit: &fettlev1.Exit{Code: code}}
	}
	reports := func(rs ...*fettlev1.AttemptReport) *raftlogv1.Entry {
		return &raftlogv1.Entry{Actor: system, Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: rs}}}
	}
	elements := func(indexes ...uint32) []*raftlogv1.ArrayElement {
		var out []*raftlogv1.ArrayElement
		for _, i := range indexes {
			out = append(out, &raftlogv1.ArrayElement{JobId: 3, Index: i})
		}
		return out
	}
	cpu := func(gpus ...int) *fettlev1.NodeAllocation { return part(script(1, 1, 0), "n1", gpus...) }
	shared := cpu(1)
	shared.VramMib = 20480
	return []step{
		// Jobs 3 to 9.
		{"submit_array", submit("l-1", array)},
		{"submit_after_array", submit("l-2", after("report", false, &fettlev1.Dependency{Kind: model.AfterOK, JobId: 3}))},
		{"submit_after_element", submit("l-3", after("look", true, &fettlev1.Dependency{Kind: model.AfterAny, JobId: 3, Index: proto.Uint32(2)}, &fettlev1.Dependency{Kind: model.After, JobId: 4}))},
		{"submit_singleton", submit("l-4", after("sweep", false, &fettlev1.Dependency{Kind: model.Singleton}))},
		{"submit_share", submit("l-5", share)},
		{"submit_deadline", submit("l-6", late)},
		{"submit_total", submit("l-7", whole)},
		// Element 12 becomes job 10, element 11 job 11.
		{"hold_element", &raftlogv1.Entry{Actor: alice, RequestId: "l-8", Op: &raftlogv1.Entry_Hold{Hold: &raftlogv1.HoldJobs{Elements: elements(12, 13)}}}},
		{"cancel_element", &raftlogv1.Entry{Actor: alice, RequestId: "l-9", Op: &raftlogv1.Entry_Cancel{Cancel: &raftlogv1.CancelJobs{Elements: elements(11)}}}},
		// Entry 42: elements 0 and 2 become jobs 12 and 13; there is no room for 4.
		{"plan_elements", plan(element(0, cpu()), element(2, cpu()), element(4, cpu()))},
		{"plan_shares", plan(&raftlogv1.Placement{JobId: 7, Attempt: 1, Nodes: []*fettlev1.NodeAllocation{shared}}, &raftlogv1.Placement{JobId: 9, Attempt: 1, Nodes: []*fettlev1.NodeAllocation{cpu(0, 1)}})},
		{"reports_element", reports(ended(12, 42, 0), ended(13, 42, 7))},
		{"expire", &raftlogv1.Entry{Actor: system, Op: &raftlogv1.Entry_Expire{Expire: &raftlogv1.ExpireJobs{Ids: []uint64{4, 8}}}}},
		{"update_array", updateJobOp(&fettlev1.UpdateJobRequest{RequestId: "l-10", JobId: 3, ArrayMaxRunning: proto.Uint32(1), DeadlineMs: proto.Int64(nowMS + 900_000)})},
		{"expire", &raftlogv1.Entry{Actor: system, Op: &raftlogv1.Entry_Expire{Expire: &raftlogv1.ExpireJobs{Ids: []uint64{8}}}}},
		{"expire", &raftlogv1.Entry{Actor: system, Op: &raftlogv1.Entry_Expire{Expire: &raftlogv1.ExpireJobs{Ids: []uint64{8}}}}},
		{"release_element", &raftlogv1.Entry{Actor: alice, Op: &raftlogv1.Entry_Release{Release: &raftlogv1.ReleaseJobs{Elements: elements(12, 6)}}}},
		{"requeue_array", &raftlogv1.Entry{Actor: alice, Op: &raftlogv1.Entry_Requeue{Requeue: &raftlogv1.RequeueJobs{Ids: []uint64{3}}}}},
		{"cancel_unstarted", &raftlogv1.Entry{Actor: alice, RequestId: "l-11", Op: &raftlogv1.Entry_Cancel{Cancel: &raftlogv1.CancelJobs{Unstarted: []uint64{3}}}}},
		{"cancel_array", &raftlogv1.Entry{Actor: alice, RequestId: "l-12", Op: &raftlogv1.Entry_Cancel{Cancel: &raftlogv1.CancelJobs{Ids: []uint64{3}}}}},
	}
}
