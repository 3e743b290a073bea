// Command fettle-sched-multifactor is the shipped scheduling policy: plugins/policy behind the plugin protocol.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/fettle-hpc/fettle/plugins/policy"
	"github.com/fettle-hpc/fettle/plugins/sdk"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
	"github.com/fettle-hpc/fettle/proto/version"
)

func main() {
	sdk.ServeScheduling(sdk.Info{Name: "sched-" + policy.Name, Version: strings.TrimPrefix(version.Version, "v")}, newMultifactor())
}

// multifactor scores each job by itself, so of the jobs that it was shown it has to keep only how far it has seen.
type multifactor struct {
	params     policy.Params
	generation uint64
}

func newMultifactor() *multifactor { return &multifactor{params: policy.Defaults()} }

// Configure takes the weights. The host sends everything again afterwards, as all scores may have moved.
func (m *multifactor) Configure(_ context.Context, settings map[string]string) error {
	params, err := policy.ParseSettings(settings)
	if err != nil {
		return err
	}
	m.params, m.generation = params, 0
	slog.Info("configured", policy.PrioritySetting+"_ms", params.PriorityMS, policy.SizeSetting+"_ms", params.SizeMS,
		policy.FairShareSetting+"_ms", params.FairShareMS, policy.HysteresisSetting+"_ms", params.HysteresisMS,
		"overtaking_bound_ms", params.BoundMS())
	return nil
}

// Score answers a snapshot, or a delta to the generation that it answered last.
func (m *multifactor) Score(_ context.Context, req *pluginv1.ScoreRequest) (*pluginv1.ScoreResponse, error) {
	jobs, err := columns(req)
	if err != nil {
		return nil, err
	}
	if base := req.GetBaseGeneration(); base != 0 && base != m.generation {
		return &pluginv1.ScoreResponse{Generation: req.GetGeneration(), NeedFull: true}, nil
	}
	m.generation = req.GetGeneration()
	return &pluginv1.ScoreResponse{Generation: req.GetGeneration(), Score: m.params.ScoreColumns(make([]int64, 0, jobs.Len()), jobs)}, nil
}

// Explain takes scores apart.
func (m *multifactor) Explain(_ context.Context, req *pluginv1.ExplainRequest) (*pluginv1.ExplainResponse, error) {
	jobs, err := columns(req.GetJobs())
	if err != nil {
		return nil, err
	}
	resp := &pluginv1.ExplainResponse{BoundMs: m.params.BoundMS()}
	for i := range jobs.ID {
		j := jobs.At(i)
		e := &pluginv1.Explanation{JobId: j.ID, Score: m.params.ScoreJob(j)}
		for _, t := range m.params.Terms(j) {
			e.Terms = append(e.Terms, &pluginv1.ScoreTerm{Name: t.Name, Ms: t.MS, Inputs: t.Inputs})
		}
		resp.Jobs = append(resp.Jobs, e)
	}
	return resp, nil
}

// columns reads a request's jobs. The sdk has checked that lengths and numbers fit.
func columns(req *pluginv1.ScoreRequest) (*policy.Columns, error) {
	n := len(req.GetJobId())
	if len(req.GetPriority()) != n || len(req.GetEligibleMs()) != n || len(req.GetSize()) != n || len(req.GetTimeLimitS()) != n {
		return nil, fmt.Errorf("priority, eligible_ms, size and time_limit_s are needed for all %d jobs", n)
	}
	accounts := make([]*policy.Account, len(req.GetAccounts()))
	for i, a := range req.GetAccounts() {
		accounts[i] = &policy.Account{}
		for _, l := range a.GetLevels() {
			accounts[i].Levels = append(accounts[i].Levels, policy.Level{Name: l.GetName(), Usage: l.GetUsage(), Share: l.GetShare()})
		}
	}
	return &policy.Columns{
		ID: req.GetJobId(), Priority: req.GetPriority(), EligibleMS: req.GetEligibleMs(), Size: req.GetSize(), TimeLimitS: req.GetTimeLimitS(),
		User: named(n, req.GetUser(), req.GetUsers()), Project: named(n, req.GetProject(), req.GetProjects()),
		Partition: named(n, req.GetPartition(), req.GetPartitions()), Account: named(n, req.GetAccount(), accounts),
		EstimateS: filled(n, req.GetEstimateS()), RemainingS: filled(n, req.GetRemainingS()), RunS: filled(n, req.GetRunS()),
		Running: filled(n, req.GetRunning()),
	}, nil
}

// filled is a column that may have been left out.
func filled[T any](n int, column []T) []T {
	if len(column) == 0 {
		return make([]T, n)
	}
	return column
}

// named answers what the numbers of a column stand for.
func named[T any](n int, index []uint32, list []T) []T {
	out := make([]T, n)
	for i, at := range index {
		out[i] = list[at]
	}
	return out
}
