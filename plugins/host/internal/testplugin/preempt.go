package main

import (
	"context"
	"errors"
	"os"

	"github.com/fettle-hpc/fettle/plugins/preempt"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// preemption answers as the built-in policy does, in its own words, unless its mode says otherwise.
type preemption struct{ settings }

func (p *preemption) Configure(_ context.Context, given map[string]string) error {
	p.settings = given
	return p.check()
}

func (p *preemption) SelectVictims(ctx context.Context, req *pluginv1.SelectVictimsRequest) (*pluginv1.SelectVictimsResponse, error) {
	resp := preempt.AnswerToProto(preempt.Select(preempt.FromProto(req)))
	first := resp.GetSelections()[0]
	first.Reason = "so says\x1b[2J the test"
	switch p.mode() {
	case "exit":
		os.Exit(3)
	case "panic":
		panic("nobody left")
	case "hang":
		return nil, hang(ctx)
	case "error":
		return nil, errors.New("cannot choose")
	case "protected":
		// The last candidate may be stopped for nobody in the tests' requests.
		first.Victims = append(first.Victims, req.GetCandidates()[len(req.GetCandidates())-1].GetJobId())
	case "for nothing":
		for _, c := range req.GetJobs()[0].GetCandidates() {
			if id := req.GetCandidates()[c].GetJobId(); len(first.Victims) == 0 || id != first.Victims[0] {
				first.Victims = append(first.Victims, id)
				break
			}
		}
	case "half":
		first.Victims = nil
	case "twice":
		resp.Selections = append(resp.Selections, first)
	case "unknown job":
		first.JobId = 1 << 40
	case "unknown need":
		first.Need = 1 << 31
	case "unknown node":
		first.Nodes[0] = 1<<32 - 1
	case "oversize":
		first.Victims = make([]uint64, 32<<20)
	case "silent":
		resp.Selections = nil
	}
	return resp, nil
}
