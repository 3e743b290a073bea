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
		"overtaking_bound_ms", params.BoundMS())
	return nil
}

// Score answers a snapshot, or a delta to the generation that it answered last.
func (m *multifactor) Score(_ context.Context, req *pluginv1.ScoreRequest) (*pluginv1.ScoreResponse, error) {
	n := len(req.GetJobId())
	if len(req.GetPriority()) != n || len(req.GetEligibleMs()) != n || len(req.GetSize()) != n || len(req.GetTimeLimitS()) != n {
		return nil, fmt.Errorf("priority, eligible_ms, size and time_limit_s are needed for all %d jobs", n)
	}
	if base := req.GetBaseGeneration(); base != 0 && base != m.generation {
		return &pluginv1.ScoreResponse{Generation: req.GetGeneration(), NeedFull: true}, nil
	}
	scores := make([]int64, n)
	for i := range scores {
		scores[i] = m.params.Score(req.Priority[i], req.EligibleMs[i], req.Size[i], req.TimeLimitS[i])
	}
	m.generation = req.GetGeneration()
	return &pluginv1.ScoreResponse{Generation: req.GetGeneration(), Score: scores}, nil
}
