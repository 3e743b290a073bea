package api

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// ListJobs asks for jobs and calls page with each piece of the answer as it comes, the header with the first. When a
// controller is lost on the way, another one goes on after the last job seen. An error of page ends the listing and is
// returned as it is.
func (c *Client) ListJobs(ctx context.Context, req *fettlev1.ListJobsRequest, page func(h *fettlev1.Header, jobs []*fettlev1.Job) error) error {
	req = proto.Clone(req).(*fettlev1.ListJobsRequest)
	total, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	var header *fettlev1.Header
	var stop error
	left := req.GetLimit()
	err := c.rotate(ctx, total, Read, func(s fettlev1.ControllerServiceClient) error {
		g := newGuard(total, c.cfg.TryTimeout)
		defer g.end()
		stream, err := s.ListJobs(g.ctx, req)
		if err != nil {
			return g.cause(err)
		}
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return g.cause(err)
			}
			g.alive()
			if header == nil {
				header = m.GetHeader()
			}
			if err := page(header, m.GetJobs()); err != nil {
				stop = err
				return nil
			}
			if n := len(m.GetJobs()); n > 0 {
				req.AfterId = m.GetJobs()[n-1].GetId()
				if left > 0 {
					if uint32(n) >= left {
						return nil
					}
					left -= uint32(n)
					req.Limit = left
				}
			}
		}
	})
	if stop != nil {
		return stop
	}
	return err
}

// guard ends a stream whose controller has gone quiet.
type guard struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	limit  time.Duration
	timer  *time.Timer
}

func newGuard(ctx context.Context, limit time.Duration) *guard {
	g := &guard{limit: limit}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	g.timer = time.AfterFunc(limit, func() { g.cancel(context.DeadlineExceeded) })
	return g
}

// alive starts the wait anew; quiet leaves the stream alone from now on.
func (g *guard) alive() { g.timer.Reset(g.limit) }
func (g *guard) quiet() { g.timer.Stop() }

func (g *guard) end() {
	g.timer.Stop()
	g.cancel(nil)
}

// cause returns the reason why the guard ended the stream, else err.
func (g *guard) cause(err error) error {
	if errors.Is(context.Cause(g.ctx), context.DeadlineExceeded) {
		return context.DeadlineExceeded
	}
	return err
}

// outage says once that no controller answers, and once that one does again.
type outage struct {
	notice func(string)
	since  bool
}

func (o *outage) down(err error) {
	if !o.since && o.notice != nil {
		o.notice(FromStatus(err).Problem + "; waiting")
	}
	o.since = true
}

func (o *outage) over() {
	if o.since && o.notice != nil {
		o.notice("connected again")
	}
	o.since = false
}
