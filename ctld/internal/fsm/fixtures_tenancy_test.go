package fsm

import (
	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

const tenancyDir = "testdata/tenancy"

// tenancySteps is the life of a cluster with projects, limits, a ledger, reservations and preemption. New steps go to the end.
func tenancySteps() []step {
	const t0 = 1_770_000_000_000
	const hour = 3_600_000
	var steps []step
	now := int64(t0)
	add := func(name string, a *raftlogv1.Actor, e *raftlogv1.Entry) {
		e.Actor, e.NowMs = a, now
		steps = append(steps, step{name, e})
		now += 1000
	}
	submit := func(name string, a *raftlogv1.Actor, rid string, s *fettlev1.JobSpec) {
		add(name, a, &raftlogv1.Entry{Op: submitOp(rid, s)})
	}
	plan := func(name string, p *raftlogv1.ApplyPlan) {
		p.Term, p.Ledger = 1, true
		add(name, system, &raftlogv1.Entry{Op: &raftlogv1.Entry_Plan{Plan: p}})
	}
	place := func(job uint64, attempt uint32, nodes ...*fettlev1.NodeAllocation) *raftlogv1.Placement {
		return &raftlogv1.Placement{JobId: job, Attempt: attempt, Nodes: nodes}
	}
	report := func(job uint64, attempt uint32, fence uint64, kind fettlev1.ReportKind, exit *fettlev1.Exit) {
		add("reports", system, &raftlogv1.Entry{Op: &raftlogv1.Entry_Reports{Reports: &raftlogv1.AttemptReports{Reports: []*fettlev1.AttemptReport{
			{Key: &fettlev1.AttemptKey{JobId: job, Attempt: attempt, Fence: fence}, Node: "n1", Kind: kind, Exit: exit},
		}}}})
	}
	const started, ended = fettlev1.ReportKind_REPORT_KIND_STARTED, fettlev1.ReportKind_REPORT_KIND_ENDED
	two, four := script(1, 1, 2), script(1, 1, 4)
	share := script(1, 1, 1)
	share.VramMib = 20480
	low, high := ranked(clone(two), 9), urgent(4)
	// The partition's last part is set once the first jobs run.
	policy := func(mode fettlev1.PreemptMode) *fettlev1.ClusterPolicy {
		return &fettlev1.ClusterPolicy{
			Partitions: []*fettlev1.Partition{
				{Name: "gpu", IsDefault: true, Preempt: mode, PreemptGraceS: 60, MinRunS: proto.Int64(300), PreemptBudget: proto.Uint32(2),
					PriorityGap: proto.Uint32(2), AllowNoPreemptible: true, Limits: &fettlev1.Limits{MaxJobsRunning: 10, MaxGpusPerJob: 4}},
				{Name: "cpu", Nodes: "n2", Limits: &fettlev1.Limits{MaxNodesPerJob: 1}},
			},
			Projects: []*fettlev1.Project{
				{Name: "lab", Weight: 2, GuaranteeGpus: 4, Limits: &fettlev1.Limits{MaxGpus: 6, GpuHours: 100, GpuHoursWindowS: 86_400}},
				{Name: "nlp", Parent: "lab", Members: []string{"alice"}, Limits: &fettlev1.Limits{MaxTimeS: 7200, MaxJobsQueued: 5}},
				{Name: "open", Members: []string{"*"}},
			},
			Users:          []*fettlev1.UserLimits{{User: "bob", Limits: &fettlev1.Limits{MaxGpus: 4}}, {User: "*", Limits: &fettlev1.Limits{MaxGpus: 6}}},
			UsageHalfLifeS: 3600,
		}
	}
	add("new_term", system, &raftlogv1.Entry{Op: &raftlogv1.Entry_NewTerm{NewTerm: &raftlogv1.NewTerm{Term: 1, LeaderId: "id-1", LeaderName: "c1"}}})
	add("set_policy", admin, policyOp(policy(modeRequeue)))
	add("node_hello", system, &raftlogv1.Entry{Op: helloOp("n1", "boot-1", inventory("n1", 8, 4))})
	add("node_hello", system, &raftlogv1.Entry{Op: helloOp("n2", "boot-1", inventory("n2", 8, 4))})
	// Jobs 1 to 5.
	submit("submit_home", alice, "t-1", clone(low))
	submit("submit_other", bob, "t-2", inProject(ranked(clone(two), 8), "open"))
	submit("submit_refused", bob, "t-3", inProject(clone(two), "nlp"))
	submit("submit_urgent", alice, "t-4", clone(high))
	submit("submit_share", alice, "t-5", clone(share))
	submit("submit_large", alice, "t-6", clone(four))
	sharePart := part(share, "n2", 0)
	sharePart.VramMib = share.VramMib
	// Entry 11: jobs 1, 2 and 4 start, 5 is over the lab's limit.
	plan("plan_limits", &raftlogv1.ApplyPlan{Placements: []*raftlogv1.Placement{
		place(1, 1, part(two, "n1", 0, 1)), place(2, 1, part(two, "n1", 2, 3)), place(4, 1, sharePart), place(5, 1, part(four, "n2", 0, 1, 2, 3)),
	}})
	report(1, 1, 11, started, nil)
	report(2, 1, 11, started, nil)
	now += hour
	// Entry 14: one is refused for its victim, then room is made for job 3.
	plan("plan_preempt", &raftlogv1.ApplyPlan{Preemptions: []*raftlogv1.Preemption{
		{Beneficiary: 3, Nodes: allocs(part(four, "n1", 0, 1, 2, 3)), Victims: []*raftlogv1.Victim{{JobId: 4, Attempt: 1, Mode: modeRequeue}}},
		{Beneficiary: 3, Nodes: allocs(part(four, "n1", 0, 1, 2, 3)), Reason: "least lost work", Victims: []*raftlogv1.Victim{
			{JobId: 1, Attempt: 1, Mode: modeRequeue, LostGpuS: 120}, {JobId: 2, Attempt: 1, Mode: modeRequeue, LostGpuS: 1 << 40},
		}},
	}})
	report(1, 1, 11, ended, &fettlev1.Exit{Code: -1, Signal: 15})
	// Nobody else gets what is kept.
	plan("plan_claimed", &raftlogv1.ApplyPlan{Placements: []*raftlogv1.Placement{place(1, 2, part(two, "n1", 0, 1))}})
	report(2, 1, 11, ended, &fettlev1.Exit{})
	plan("plan_claim_used", &raftlogv1.ApplyPlan{Placements: []*raftlogv1.Placement{place(3, 1, part(four, "n1", 0, 1, 2, 3))}})
	report(3, 1, 18, started, nil)
	add("set_reservation", admin, &raftlogv1.Entry{Op: &raftlogv1.Entry_SetReservation{SetReservation: &fettlev1.SetReservationRequest{
		RequestId: "v-1", Reservation: &fettlev1.Reservation{Name: "fans", Nodes: "n[2-3]", StartMs: t0 + 3*hour, EndMs: t0 + 4*hour, Comment: "new fans"},
	}}})
	add("set_reservation_gpus", admin, &raftlogv1.Entry{Op: &raftlogv1.Entry_SetReservation{SetReservation: &fettlev1.SetReservationRequest{
		Reservation: &fettlev1.Reservation{Name: "course", Gpus: 2, GpuType: "h100", Partition: "gpu", StartMs: t0 + 4*hour, Users: []string{"bob"}, Projects: []string{"lab"}},
	}}})
	add("set_reservation_refused", admin, &raftlogv1.Entry{Op: &raftlogv1.Entry_SetReservation{SetReservation: &fettlev1.SetReservationRequest{
		Reservation: &fettlev1.Reservation{Name: "late", Nodes: "n3", StartMs: t0 + 3*hour},
	}}})
	// Entry 23: job 2 has no time limit.
	plan("plan_reserved", &raftlogv1.ApplyPlan{Placements: []*raftlogv1.Placement{place(2, 2, part(two, "n2", 2, 3))}})
	add("remove_reservation", admin, &raftlogv1.Entry{RequestId: "v-2", Op: &raftlogv1.Entry_RemoveReservation{RemoveReservation: &fettlev1.RemoveReservationRequest{Name: "fans"}}})
	plan("plan", &raftlogv1.ApplyPlan{Placements: []*raftlogv1.Placement{place(2, 2, part(two, "n2", 2, 3))}})
	report(3, 1, 18, ended, &fettlev1.Exit{})
	add("set_policy_cancel", admin, policyOp(policy(modeCancel)))
	plan("plan", &raftlogv1.ApplyPlan{Placements: []*raftlogv1.Placement{place(1, 2, part(two, "n1", 0, 1))}})
	report(1, 2, 28, started, nil)
	submit("submit_urgent", bob, "t-7", inProject(timed(urgent(2), 600), "open"))
	now += hour
	// Entry 31: job 1 is to be ended for good for job 6, which then gives its claim up.
	plan("plan_preempt_cancel", &raftlogv1.ApplyPlan{Preemptions: []*raftlogv1.Preemption{
		{Beneficiary: 6, Nodes: allocs(part(two, "n1", 0, 1)), Victims: []*raftlogv1.Victim{{JobId: 1, Attempt: 2, Mode: modeCancel, LostGpuS: 5}}},
	}})
	plan("plan_drop_claim", &raftlogv1.ApplyPlan{DropClaims: []uint64{6}})
	report(1, 2, 28, ended, &fettlev1.Exit{Code: 143})
	add("set_policy_without", admin, policyOp(&fettlev1.ClusterPolicy{Partitions: []*fettlev1.Partition{{Name: "gpu", IsDefault: true}}}))
	submit("submit_word", bob, "t-8", inProject(clone(two), "word"))
	return steps
}
