package api

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// ListJobs asks for jobs and calls page with each piece of the answer as it comes, the header with the first. When a
// controller is lost on the way, another one goes on after the last job seen. An error of page ends the listing and is
// returned as it is.
func (c *Client) ListJobs(ctx context.Context, req *fettlev1.ListJobsRequest, page func(h *fettlev1.Header, jobs []*fettlev1.Job) error) error {
	var header *fettlev1.Header
	return c.list(ctx, req, func(ctx context.Context, cc grpc.ClientConnInterface, req *fettlev1.ListJobsRequest) (func() (int, uint64, error, error), error) {
		stream, err := fettlev1.NewControllerServiceClient(cc).ListJobs(ctx, req)
		if err != nil {
			return nil, err
		}
		return func() (n int, last uint64, stop, err error) {
			m, err := stream.Recv()
			if err != nil {
				return 0, 0, nil, err
			}
			if header == nil {
				header = m.GetHeader()
			}
			if n = len(m.GetJobs()); n > 0 {
				last = m.GetJobs()[n-1].GetId()
			}
			return n, last, page(header, m.GetJobs()), nil
		}, nil
	})
}

// list runs a listing over as many controllers as it takes. open starts a stream and returns what reads its next piece:
// how many jobs were in it, the last one's number, and whether the caller wants to stop.
func (c *Client) list(ctx context.Context, req *fettlev1.ListJobsRequest,
	open func(context.Context, grpc.ClientConnInterface, *fettlev1.ListJobsRequest) (func() (n int, last uint64, stop, err error), error)) error {
	req = proto.Clone(req).(*fettlev1.ListJobsRequest)
	total, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	var stop error
	left := req.GetLimit()
	err := c.rotate(ctx, total, Read, func(p *peer) error {
		g := newGuard(total, c.cfg.TryTimeout)
		defer g.end()
		next, err := open(g.ctx, p.cc, req)
		if err != nil {
			return g.cause(err)
		}
		for {
			n, last, halt, err := next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return g.cause(err)
			}
			g.alive()
			if stop = halt; stop != nil {
				return nil
			}
			if n > 0 {
				req.AfterId = last
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
