package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"strings"

	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// sched scores a job by its eligible time plus an hour, and checks the delta protocol as a policy that keeps its base would.
type sched struct {
	settings
	generation uint64
	jobs       map[uint64]bool
}

func (s *sched) Configure(ctx context.Context, given map[string]string) error {
	if given["mode"] == "hang in configure" {
		return hang(ctx)
	}
	s.settings, s.generation = given, 0
	return s.check()
}

func (s *sched) Score(ctx context.Context, req *pluginv1.ScoreRequest) (*pluginv1.ScoreResponse, error) {
	full := req.GetBaseGeneration() == 0
	if !full && req.GetBaseGeneration() != s.generation {
		return &pluginv1.ScoreResponse{NeedFull: true}, nil
	}
	if err := s.keep(req, full); err != nil {
		return nil, err
	}
	resp := &pluginv1.ScoreResponse{Generation: req.GetGeneration(), Score: make([]int64, len(req.GetJobId()))}
	for i := range resp.Score {
		resp.Score[i] = req.EligibleMs[i] + hourMS
	}
	s.generation = req.GetGeneration()
	return resp, s.misbehave(ctx, req, resp)
}

// keep follows the waiting jobs and complains when a delta does not fit them.
func (s *sched) keep(req *pluginv1.ScoreRequest, full bool) error {
	if full {
		s.jobs = map[uint64]bool{}
	}
	for _, id := range req.GetRemovedJobId() {
		if !s.jobs[id] {
			return fmt.Errorf("job %d is removed but was not there", id)
		}
		delete(s.jobs, id)
	}
	for i, id := range req.GetJobId() {
		s.jobs[id] = true
		if user := req.Users[req.User[i]]; user == "" {
			return fmt.Errorf("job %d is nobody's", id)
		}
	}
	return nil
}

func (s *sched) misbehave(ctx context.Context, req *pluginv1.ScoreRequest, resp *pluginv1.ScoreResponse) error {
	switch s.mode() {
	case "exit":
		os.Exit(3)
	case "crash":
		go func() { panic("scores went missing") }()
		<-ctx.Done()
	case "panic":
		panic("out of range")
	case "hang":
		return hang(ctx)
	case "error":
		return errors.New("no idea\x1b[2J what to do")
	case "other generation":
		resp.Generation = req.GetGeneration() + 1
	case "short":
		resp.Score = resp.Score[1:]
	case "long":
		resp.Score = append(resp.Score, 1)
	case "oversize":
		resp.Score = append(resp.Score, make([]int64, 1<<20)...)
	case "infinite":
		resp.Score[0] = math.MaxInt64
	case "insatiable":
		resp.Score, resp.NeedFull = nil, true
	case "flood":
		go func() {
			for i := 0; ; i++ {
				slog.Error("too much to say", "line", i)
				fmt.Println("and on standard output")
			}
		}()
	case "hostile log":
		for _, line := range []string{
			`{"@message":5,"@level":["error"],"@timestamp":{}}`, `{"@message"`, `{}`, `null`, "\x1b]0;owned\x07 text",
			strings.Repeat("long ", 1<<16),
			`{"@level":"error","@message":"line one\nforged=line two","key\n":"value\u001b[2J"}`,
		} {
			fmt.Fprintln(stderr, line)
		}
		fmt.Fprint(os.Stderr, "printed through go-plugin\n")
	}
	return nil
}

// Explain gives two terms for each job.
func (s *sched) Explain(ctx context.Context, req *pluginv1.ExplainRequest) (*pluginv1.ExplainResponse, error) {
	resp := &pluginv1.ExplainResponse{BoundMs: 5}
	for i, id := range req.GetJobs().GetJobId() {
		at := req.GetJobs().GetEligibleMs()[i]
		resp.Jobs = append(resp.Jobs, &pluginv1.Explanation{JobId: id, Score: at + hourMS, Terms: []*pluginv1.ScoreTerm{
			{Name: "eligible", Ms: at, Inputs: "of " + req.GetJobs().GetUsers()[req.GetJobs().GetUser()[i]]},
			{Name: "an\x1b[2Jhour", Ms: hourMS, Inputs: strings.Repeat("long ", 1000)},
		}})
	}
	switch first := resp.GetJobs()[0]; s.settings["explain"] {
	case "hang":
		return nil, hang(ctx)
	case "error":
		return nil, errors.New("no idea why")
	case "sum":
		first.Score++
	case "around":
		first.Terms[1].Ms = math.MaxInt64
	case "other":
		first.JobId++
	case "short":
		resp.Jobs = resp.Jobs[1:]
	case "wordless":
		first.Terms[0].Name = ""
	case "nothing":
		first.Terms = nil
	case "many":
		first.Terms = append(first.Terms, make([]*pluginv1.ScoreTerm, 31)...)
	case "bound":
		resp.BoundMs = -1
	}
	return resp, nil
}

// stderr is descriptor 2 itself, which go-plugin replaces in os.Stderr.
var stderr = os.Stderr
