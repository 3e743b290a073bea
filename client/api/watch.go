package api

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// recheck is how often a job that is being watched is looked at even when no event came.
const recheck = 30 * time.Second

// Watch says what to watch and how.
type Watch struct {
	Job JobRef
	// MinIndex is the index of an own write that must be visible; 0 for none.
	MinIndex uint64
	// Patient waits without end for the first answer too, not only for later ones.
	Patient bool
	// Notice is told in one line when no controller answers and when one does again; may be nil.
	Notice func(string)
}

// WatchJob calls f with the job as it is, and again after each change, until f returns true. A cluster that does not
// answer is waited for without end; a refusal (no such job) ends the watch. The last job given to f is returned.
func (c *Client) WatchJob(ctx context.Context, w Watch, f func(*fettlev1.Job) (stop bool)) (*fettlev1.Job, error) {
	out := outage{notice: w.Notice}
	index := w.MinIndex
	var modified uint64
	first := true
	for {
		r, err := Do(ctx, c, Read, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.GetJobResponse, error) {
			return s.GetJob(ctx, &fettlev1.GetJobRequest{Read: &fettlev1.ReadOptions{MinIndex: index}, JobId: w.Job.ID, ArrayIndex: w.Job.Index})
		})
		switch {
		case err == nil:
			out.over()
		case ctx.Err() == nil && IsCode(err, codes.Unavailable) && (w.Patient || !first):
			out.down(err)
			continue
		default:
			return nil, err
		}
		index = max(index, r.GetHeader().GetIndex())
		if job := r.GetJob(); first || job.GetModifiedIndex() != modified || job.GetModifiedIndex() == 0 {
			modified = job.GetModifiedIndex()
			if f(job) {
				return job, nil
			}
		}
		first = false
		if err := c.nextEvent(ctx, w.Job, &index); err != nil {
			return nil, err
		}
	}
}

// nextEvent returns when something may have happened to a job after *index, and moves *index on. Trouble with a
// controller counts as something, after a pause; only refusals and the end of ctx are errors.
func (c *Client) nextEvent(ctx context.Context, job JobRef, index *uint64) error {
	wctx, cancel := context.WithTimeout(ctx, recheck)
	defer cancel()
	var broken error
	err := c.rotate(wctx, wctx, Read, func(p *peer) error {
		stream, err := p.service().WatchEvents(wctx, &fettlev1.WatchEventsRequest{AfterIndex: *index, Select: &fettlev1.JobSelector{Ids: []uint64{job.ID}}})
		if err != nil {
			return err
		}
		for {
			m, err := stream.Recv()
			if err != nil {
				if judge(err).action == refused {
					return err
				}
				broken = err
				return nil
			}
			if m.GetResync() {
				return nil
			}
			for _, e := range m.GetEvents() {
				if about(e, job) {
					*index = max(*index, e.GetIndex())
					return nil
				}
			}
		}
	})
	if broken != nil && wctx.Err() == nil {
		t := time.NewTimer(jitter(4 * c.cfg.Backoff))
		defer t.Stop()
		select {
		case <-ctx.Done():
		case <-t.C:
		}
	}
	if ctx.Err() != nil {
		return &Error{Code: codes.Canceled, Problem: "interrupted", Cause: ctx.Err()}
	}
	var e *Error
	if errors.As(err, &e) && e.Code != codes.Unavailable && e.Code != codes.Canceled {
		return e
	}
	return nil
}

// about reports whether an event tells of the job. An element that has not started is part of its array's row.
func about(e *fettlev1.Event, job JobRef) bool {
	return e.GetJobId() == job.ID || job.Index != nil && e.GetArrayJobId() == job.ID && e.GetArrayIndex() == *job.Index
}
