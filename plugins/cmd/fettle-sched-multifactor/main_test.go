package main

import (
	"slices"
	"testing"

	"github.com/fettle-hpc/fettle/plugins/policy"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

func request(generation, base uint64, jobs ...policy.Job) *pluginv1.ScoreRequest {
	req := &pluginv1.ScoreRequest{Generation: generation, BaseGeneration: base}
	for _, j := range jobs {
		req.JobId = append(req.JobId, j.ID)
		req.Priority = append(req.Priority, j.Priority)
		req.EligibleMs = append(req.EligibleMs, j.EligibleMS)
		req.Size = append(req.Size, j.Size)
		req.TimeLimitS = append(req.TimeLimitS, j.TimeLimitS)
	}
	return req
}

func TestScoreFollowsThePolicy(t *testing.T) {
	t.Parallel()
	m := newMultifactor()
	if err := m.Configure(t.Context(), map[string]string{policy.SizeSetting: "168h"}); err != nil {
		t.Fatal(err)
	}
	params, err := policy.ParseSettings(map[string]string{policy.SizeSetting: "168h"})
	if err != nil {
		t.Fatal(err)
	}
	jobs := []policy.Job{{ID: 1, Priority: 1, EligibleMS: 50, Size: 8}, {ID: 2, Priority: 9, EligibleMS: 10, Size: 1, TimeLimitS: 7200}}
	resp, err := m.Score(t.Context(), request(4, 0, jobs...))
	if err != nil {
		t.Fatal(err)
	}
	want := []int64{params.Score(1, 50, 8, 0), params.Score(9, 10, 1, 7200)}
	if !slices.Equal(resp.GetScore(), want) || resp.GetGeneration() != 4 || resp.GetNeedFull() {
		t.Errorf("answer %v, want scores %v of generation 4", resp, want)
	}
}

// TestColumns: what a request says in columns and numbers reaches the policy, and what it leaves out is nothing.
func TestColumns(t *testing.T) {
	t.Parallel()
	m := newMultifactor()
	if err := m.Configure(t.Context(), map[string]string{"partition.debug": "2h"}); err != nil {
		t.Fatal(err)
	}
	account := &policy.Account{Levels: []policy.Level{{Name: "lab", Usage: policy.One / 2, Share: policy.One / 4}}}
	jobs := []policy.Job{
		{ID: 1, Priority: 5, Size: 8, EstimateS: 9000, Partition: "debug", Project: "lab", User: "ann", Account: account},
		{ID: 2, Priority: 5, Size: 1, RemainingS: 60, Partition: "gpu", Project: "thesis", User: "bob", Running: true},
		{ID: 3, Priority: 5, Size: 1, RunS: 7200, Partition: "debug", Project: "lab", User: "bob", Account: &policy.Account{}},
	}
	req := request(1, 0, jobs...)
	req.Users, req.User = []string{"ann", "bob"}, []uint32{0, 1, 1}
	req.Projects, req.Project = []string{"lab", "thesis"}, []uint32{0, 1, 0}
	req.Partitions, req.Partition = []string{"debug", "gpu"}, []uint32{0, 1, 0}
	req.Accounts = []*pluginv1.Account{{}, {Levels: []*pluginv1.ShareLevel{{Name: "lab", Usage: policy.One / 2, Share: policy.One / 4}}}}
	req.Account = []uint32{1, 0, 0}
	req.EstimateS, req.RemainingS, req.RunS, req.Running = []int64{9000, 0, 0}, []int64{0, 60, 0}, []int64{0, 0, 7200}, []bool{false, true, false}
	params, err := policy.ParseSettings(map[string]string{"partition.debug": "2h"})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := m.Score(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	why, err := m.Explain(t.Context(), &pluginv1.ExplainRequest{Jobs: req})
	if err != nil || why.GetBoundMs() != params.BoundMS() {
		t.Fatalf("explained as %v, %v; want D = %d", why, err, params.BoundMS())
	}
	for i, j := range jobs {
		want, e := params.ScoreJob(j), why.GetJobs()[i]
		if resp.GetScore()[i] != want || e.GetScore() != want || e.GetJobId() != j.ID {
			t.Errorf("job %d scores %d, explained %v; want %d", j.ID, resp.GetScore()[i], e, want)
		}
		for k, term := range params.Terms(j) {
			if got := e.GetTerms()[k]; got.GetName() != term.Name || got.GetMs() != term.MS || got.GetInputs() != term.Inputs {
				t.Errorf("job %d: term %v, want %v", j.ID, got, term)
			}
		}
	}
}

func TestGenerations(t *testing.T) {
	t.Parallel()
	m := newMultifactor()
	job := policy.Job{ID: 1, Priority: 5, Size: 1}
	for _, step := range []struct {
		name             string
		generation, base uint64
		needFull         bool
	}{
		{"a delta to what it never saw", 7, 6, true},
		{"a snapshot", 8, 0, false},
		{"a delta to it", 9, 8, false},
		{"a delta to an older one", 10, 8, true},
		{"the host asks again", 11, 9, false},
	} {
		resp, err := m.Score(t.Context(), request(step.generation, step.base, job))
		if err != nil || resp.GetNeedFull() != step.needFull || resp.GetGeneration() != step.generation {
			t.Fatalf("%s: %v, %v; want need_full %v", step.name, resp, err, step.needFull)
		}
	}
	if err := m.Configure(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if resp, err := m.Score(t.Context(), request(12, 11, job)); err != nil || !resp.GetNeedFull() {
		t.Errorf("a delta after new settings: %v, %v; want need_full", resp, err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	m := newMultifactor()
	if err := m.Configure(t.Context(), map[string]string{"agee": "1"}); err == nil {
		t.Error("an unknown setting passes")
	}
	req := request(1, 0, policy.Job{ID: 1})
	req.Size = nil
	if _, err := m.Score(t.Context(), req); err == nil {
		t.Error("a request without sizes passes")
	}
	if _, err := m.Explain(t.Context(), &pluginv1.ExplainRequest{Jobs: req}); err == nil {
		t.Error("an explanation without sizes passes")
	}
}
