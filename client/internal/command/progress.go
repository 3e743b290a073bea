package command

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// progressEvery is how often a job's progress is asked for.
const progressEvery = 500 * time.Millisecond

// progress shows a job's progress as one line; with follow it goes on until the job ends.
func (c *call) progress(ctx context.Context, cl *api.Client, job api.JobRef, follow bool) error {
	c.stay()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	bar := &progressBar{c: c}
	for {
		cl.PreferLeader(ctx)
		r, err := api.Do(ctx, cl, api.Read, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.GetJobResponse, error) {
			return s.GetJob(ctx, &fettlev1.GetJobRequest{JobId: job.ID, ArrayIndex: job.Index})
		})
		switch {
		case err == nil:
			if err := bar.show(r.GetJob()); err != nil {
				return err
			}
		case ctx.Err() != nil:
		case follow && bar.drawn && api.IsCode(err, unavailable):
			// The cluster is between two leaders: the line stays as it is.
		default:
			return err
		}
		over := err == nil && model.Terminal(r.GetJob().GetState())
		if !follow || over {
			if err := bar.end(); err != nil {
				return err
			}
			if follow && !c.on("json") {
				c.note(jobSummary(r.GetJob()))
			}
			return nil
		}
		select {
		case <-ctx.Done():
			_ = bar.end()
			return &silent{exitInterrupted}
		case <-tick.C:
		}
	}
}

// progressBar draws over its own line on a terminal, and writes a line now and then elsewhere.
type progressBar struct {
	c       *call
	drawn   bool
	last    string
	percent int
	state   fettlev1.JobState
}

func (b *progressBar) show(j *fettlev1.Job) error {
	if b.c.on("json") {
		return b.c.jobLine(j)
	}
	term := b.c.env.Out
	p := j.GetProgress()
	percent := 0
	if p.GetTotalSteps() > 0 {
		percent = int(min(100*p.GetStep()/p.GetTotalSteps(), 100))
	}
	if !term.TTY {
		if b.drawn && b.state == j.GetState() && percent/10 == b.percent/10 {
			return nil
		}
		b.drawn, b.state, b.percent = true, j.GetState(), percent
		_, err := io.WriteString(b.c.env.Stdout, progressLine(j, render.Terminal{UTF8: term.UTF8})+"\n")
		return err
	}
	line := progressLine(j, term)
	if line == b.last {
		return nil
	}
	b.drawn, b.last = true, line
	_, err := io.WriteString(b.c.env.Stdout, "\r\x1b[K"+render.Truncate(line, max(term.Width-1, 10), term.Ellipsis()))
	return err
}

// end leaves the line on the screen.
func (b *progressBar) end() error {
	if !b.drawn || !b.c.env.Out.TTY || b.c.on("json") {
		return nil
	}
	_, err := io.WriteString(b.c.env.Stdout, "\n")
	return err
}

// progressLine is a job's progress in one line.
func progressLine(j *fettlev1.Job, term render.Terminal) string {
	state := strings.ToLower(model.StateName(j.GetState()))
	if j.GetState() == model.Pending && j.GetReason() != fettlev1.Reason_REASON_UNSPECIFIED {
		state += " (" + model.ReasonText(j.GetReason()) + ")"
	}
	line := fmt.Sprintf("job %s %s", api.NameOf(j), state)
	p := j.GetProgress()
	if p.GetTotalSteps() <= 0 {
		return line
	}
	share := float64(p.GetStep()) / float64(p.GetTotalSteps())
	line += fmt.Sprintf("  %s %3d%%  step %d of %d", render.Bar(share, 24, term.UTF8), int(min(share, 1)*100), p.GetStep(), p.GetTotalSteps())
	if p.Loss != nil {
		line += "  loss " + render.Number(p.GetLoss())
	}
	if p.GetRemainingS() >= 0 && !model.Terminal(j.GetState()) {
		line += "  " + render.Span(p.GetRemainingS()) + " left"
	}
	return line
}
