package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// launch does what the config says, literally: its YAML is a command.
type launch struct {
	settings
	keep [][]byte
}

func (l *launch) Configure(_ context.Context, given map[string]string) error {
	l.settings = given
	return l.check()
}

func (l *launch) Validate(ctx context.Context, req *pluginv1.ValidateRequest) (*pluginv1.ValidateResponse, error) {
	resp := &pluginv1.ValidateResponse{}
	command := string(req.GetConfig().GetYaml())
	switch command {
	case "environment":
		resp.Warnings = os.Environ()
	case "arguments":
		exe, err := os.Executable()
		resp.Warnings = append([]string{exe, fmt.Sprint(err)}, os.Args...)
	case "status":
		b, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return nil, err
		}
		resp.Warnings = strings.Split(string(b), "\n")
	case "settings":
		for k, v := range l.settings {
			resp.Warnings = append(resp.Warnings, k+"="+v)
		}
	case "child":
		cmd := exec.Command("/bin/sleep", "600")
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		resp.Warnings = []string{fmt.Sprint(cmd.Process.Pid)}
	case "eat":
		for {
			b := make([]byte, 64<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			l.keep = append(l.keep, b)
		}
	case "exit":
		os.Exit(4)
	case "panic":
		panic("bad yaml")
	case "hang":
		return nil, hang(ctx)
	case "spin":
		// Deaf to its deadline.
		for {
			runtime.Gosched()
			time.Sleep(time.Millisecond)
		}
	case "error":
		return nil, errors.New("cannot")
	case "huge":
		resp.Rendered = make([]byte, 32<<20)
	case "wordy":
		resp.Problems = []*pluginv1.Problem{{Field: "a\nb", Problem: "\x1b[31mred\u202e", Remedy: strings.Repeat("x", 1<<16)}}
	default:
		resp.Warnings = []string{fmt.Sprintf("%d bytes", len(command))}
	}
	return resp, nil
}

func (l *launch) Estimate(context.Context, *pluginv1.EstimateRequest) (*pluginv1.EstimateResponse, error) {
	return &pluginv1.EstimateResponse{}, nil
}

func (l *launch) Plan(_ context.Context, req *pluginv1.PlanRequest) (*pluginv1.PlanResponse, error) {
	resp := &pluginv1.PlanResponse{Argv: []string{req.GetEngine(), "train"}}
	if string(req.GetConfig().GetYaml()) == "escape" {
		resp.Files = []*pluginv1.PlannedFile{{Path: "../../etc/passwd"}}
	}
	return resp, nil
}

func (l *launch) Progress(_ context.Context, req *pluginv1.ProgressRequest) (*pluginv1.ProgressResponse, error) {
	return &pluginv1.ProgressResponse{Cursor: req.GetCursor()}, nil
}

func (l *launch) Classify(context.Context, *pluginv1.ClassifyRequest) (*pluginv1.ClassifyResponse, error) {
	return &pluginv1.ClassifyResponse{Class: 99}, nil
}

func (l *launch) Adapt(context.Context, *pluginv1.AdaptRequest) (*pluginv1.AdaptResponse, error) {
	return &pluginv1.AdaptResponse{}, nil
}

func (l *launch) Checkpoint(_ context.Context, req *pluginv1.CheckpointRequest) (*pluginv1.CheckpointResponse, error) {
	return &pluginv1.CheckpointResponse{Checkpoints: []*pluginv1.CheckpointInfo{{Path: req.GetOutputDir() + "/checkpoint-5", Step: 5}}}, nil
}
