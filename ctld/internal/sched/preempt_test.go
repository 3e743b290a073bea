package sched

import (
	"slices"
	"testing"

	"github.com/fettle-hpc/fettle/plugins/preempt"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// hour is a time at which everything that started at the beginning has run for an hour.
const hour = 3_600_000 + 1000

func urgent(j *Job) { j.Preempt, j.Priority, j.Score = true, 1, -1 }

func week(r *Running) { r.Priority, r.Score, r.OnSignal = 8, 1000, true }

func preemptible(edit ...func(*Partition)) *world {
	p := Partition{Name: "main", Preempt: PreemptCheckpoint, MinRunMS: 600_000, Budget: 3, PriorityGap: 1}
	for _, e := range edit {
		e(&p)
	}
	w := newWorld(Options{}, p)
	w.SetNode(node("n1", "h100", 4))
	w.SetNode(node("n2", "h100", 4))
	return w
}

func (w *world) preempt(t *testing.T, at int64) []Preemption {
	t.Helper()
	p := w.Plan(at)
	if p.Ask == nil {
		return nil
	}
	list, err := w.Preempt(&p, preempt.Select(p.Ask))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestPreemptsWhoeverLosesLeast(t *testing.T) {
	t.Parallel()
	w := preemptible()
	w.runs("n1", []int{0, 1}, week)
	w.runs("n1", []int{2, 3}, week, func(r *Running) { r.OnSignal, r.CheckpointMS = false, hour-200_000 })
	w.runs("n2", []int{0, 1, 2}, week)
	job := w.job(gpus(3), urgent)
	other := w.job(gpus(1), func(j *Job) { j.Score = 5 })
	p := w.Plan(hour)
	// One card is free where the first in line would not start first.
	wantStarted(t, p, other)
	list := w.preempt(t, hour)
	if len(list) != 1 || list[0].Job != job || len(list[0].Allocs) != 1 {
		t.Fatalf("preemptions %+v", list)
	}
	// On n2 one victim has three cards; on n1 two with two each would have to go, one of which loses work.
	if v := list[0].Victims; len(v) != 1 || v[0].Mode != PreemptCheckpoint || list[0].Allocs[0].GetNode() != "n2" {
		t.Errorf("victims %+v on %v", v, list[0].Allocs)
	}
}

func TestNobodyIsPreemptedWithoutBothPermissions(t *testing.T) {
	t.Parallel()
	full := func(w *world, edit ...func(*Running)) {
		for _, n := range []string{"n1", "n2"} {
			w.runs(n, []int{0, 1, 2, 3}, append([]func(*Running){week}, edit...)...)
		}
	}
	cases := map[string]struct {
		part func(*Partition)
		run  func(*Running)
		job  func(*Job)
		at   int64
	}{
		"the partition does not allow it":    {part: func(p *Partition) { p.Preempt = PreemptOff }},
		"the job does not ask":               {job: func(j *Job) { j.Preempt = false }},
		"it asked not to be":                 {part: func(p *Partition) { p.AllowNoPreemptible = true }, run: func(r *Running) { r.NoPreemptible = true }},
		"it has only begun":                  {at: 300_000},
		"it was preempted often enough":      {run: func(r *Running) { r.Preempted = 3 }},
		"it is as urgent":                    {run: func(r *Running) { r.Priority = 1 }},
		"it would lose too much":             {run: func(r *Running) { r.OnSignal, r.CheckpointMS = false, hour-600_000 }},
		"it goes before it in the queue":     {run: func(r *Running) { r.Score = -2 }},
		"it is being ended already":          {run: func(r *Running) { r.Ending = true }},
		"it could not be started once more":  {run: func(r *Running) { r.Fixed = true }},
		"stopping all would not free enough": {job: func(j *Job) { n := gang(3, 4); n.Partition, n.Request.CPUs = "main", 1; j.Needs = &n }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			edit := func(p *Partition) {
				if c.part != nil {
					c.part(p)
				}
			}
			w := preemptible(edit)
			run := c.run
			if run == nil {
				run = func(*Running) {}
			}
			full(w, run)
			job := c.job
			if job == nil {
				job = func(*Job) {}
			}
			w.job(gpus(4), urgent, job)
			at := c.at
			if at == 0 {
				at = hour
			}
			if list := w.preempt(t, at); len(list) != 0 {
				t.Errorf("preempted %+v", list)
			}
		})
	}
	w := preemptible()
	full(w)
	w.job(gpus(4), urgent)
	if list := w.preempt(t, hour); len(list) != 1 {
		t.Errorf("with both permissions: %+v", list)
	}
}

func TestBeneficiaryKeepsItsClaim(t *testing.T) {
	t.Parallel()
	w := preemptible()
	for _, n := range []string{"n1", "n2"} {
		w.runs(n, []int{0, 1, 2, 3}, week)
	}
	job := w.job(gpus(2), urgent)
	list := w.preempt(t, hour)
	if len(list) != 1 || len(list[0].Victims) != 1 {
		t.Fatalf("preemptions %+v", list)
	}
	victim := list[0].Victims[0].Job
	r := w.running[victim].Running
	r.Ending = true
	w.SetRunning(r)
	j, _ := w.Job(job)
	j.Claim = list[0].Allocs
	w.SetJob(j)
	p := w.Plan(hour)
	wantReason(t, p, job, fettlev1.Reason_REASON_PREEMPTING)
	if p.Ask != nil {
		t.Errorf("it asks again: %+v", p.Ask.Jobs)
	}
	w.Remove(victim)
	third := w.job(gpus(4), func(j *Job) { j.Score, j.LimitS = -5, 1 })
	pair := w.job(gpus(2), limit(1))
	p = w.Plan(hour)
	if got := started(p); !slices.Contains(got, job) || slices.Contains(got, third) {
		t.Errorf("started %v, want the beneficiary and not job %d, which came between", got, third)
	}
	_ = pair
}

func TestGangPreemptsAcrossNodes(t *testing.T) {
	t.Parallel()
	w := preemptible()
	wide := w.runs("n1", []int{0, 1}, week, func(r *Running) {
		r.Allocs = append(r.Allocs, &fettlev1.NodeAllocation{Node: "n2", GpuUuids: []string{"n2-0", "n2-1"}, Cpus: 1})
	})
	job := w.job(gang(2, 4), urgent)
	list := w.preempt(t, hour)
	if len(list) != 1 || list[0].Job != job || len(list[0].Victims) != 1 || list[0].Victims[0].Job != wide || len(list[0].Allocs) != 2 {
		t.Errorf("preemptions %+v", list)
	}
}

func TestReclaimOfAGuarantee(t *testing.T) {
	t.Parallel()
	w := preemptible(func(p *Partition) { p.PriorityGap = 0 })
	w.SetPolicy(Policy{
		Partitions: []Partition{{Name: "main", Preempt: PreemptRequeue, Budget: 3}},
		Projects:   []Project{{Name: "own", Guarantee: 4}, {Name: "borrower", Guarantee: 4}},
	})
	for _, n := range []string{"n1", "n2"} {
		w.runs(n, []int{0, 1, 2, 3}, week, func(r *Running) { r.Project, r.Score = "borrower", -1000 })
	}
	w.job(gpus(4), func(j *Job) { j.Project, j.Preempt = "own", true })
	if list := w.preempt(t, hour); len(list) != 1 {
		t.Errorf("nothing was given back: %+v", list)
	}
	w.job(gpus(4), func(j *Job) { j.Project, j.Preempt = "other", true })
	w.Remove(3)
	if list := w.preempt(t, hour); len(list) != 0 {
		t.Errorf("a project that can count on nothing got %+v", list)
	}
}
