package launch

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/fettle-hpc/fettle/plugins/launch/bounded"
	"github.com/fettle-hpc/fettle/plugins/launch/checkpoint"
	"github.com/fettle-hpc/fettle/plugins/launch/classify"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// maxFacts bounds launch.json.
const maxFacts = 64 << 10

// Classify says how an attempt ended.
func (l *Launcher) Classify(_ context.Context, req *pluginv1.ClassifyRequest) (*pluginv1.ClassifyResponse, error) {
	in := classify.Input{
		Exit: req.GetExit(), Log: req.GetLogTail(), Attempt: req.GetAttempt(), Resumed: -1,
		Progress: req.GetProgress(), StatePath: filepath.Join(req.GetOutputDir(), stateName),
	}
	if p := in.Progress; p != nil && p.GetAttempt() != 0 && p.GetAttempt() != req.GetAttempt() {
		in.Progress = nil
	}
	if data, err := bounded.ReadFile(filepath.Join(req.GetAttemptDir(), factsName), maxFacts); err == nil {
		var f facts
		if json.Unmarshal(data, &f) == nil {
			in.Rank, in.Resumed, in.MayStopEarly = f.Rank, f.Resumed, f.MayStopEarly
		}
	}
	state, err := checkpoint.ParseState(req.GetTrainerState())
	if len(req.GetTrainerState()) == 0 && req.GetOutputDir() != "" {
		state, err = checkpoint.ReadState(in.StatePath)
	}
	if err == nil {
		in.HasState, in.Step, in.MaxSteps = true, state.Step, state.MaxSteps
	}
	v := classify.Of(in)
	return &pluginv1.ClassifyResponse{Class: v.Class, Detail: v.Detail}, nil
}

// Checkpoint lists the checkpoints of an output directory, newest first.
func (l *Launcher) Checkpoint(_ context.Context, req *pluginv1.CheckpointRequest) (*pluginv1.CheckpointResponse, error) {
	if !filepath.IsAbs(req.GetOutputDir()) {
		return nil, fmt.Errorf("output directory %q is not absolute", req.GetOutputDir())
	}
	all, err := checkpoint.List(req.GetOutputDir())
	if err != nil {
		return nil, err
	}
	resp := &pluginv1.CheckpointResponse{}
	for _, c := range all {
		resp.Checkpoints = append(resp.Checkpoints, &pluginv1.CheckpointInfo{Path: c.Path, Step: c.Step, Complete: c.Complete(), Problem: c.Problem})
	}
	return resp, nil
}
