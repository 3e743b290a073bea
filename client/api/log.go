package api

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

// LogChunk is a piece of a job's output.
type LogChunk struct {
	Attempt uint32
	// Offset is where in the attempt's output Data starts.
	Offset int64
	Data   []byte
}

// LogReader reads a job's output.
type LogReader struct {
	Job JobRef
	// Attempt is the attempt to read or, with Follow, to start from; 0 means the newest.
	Attempt uint32
	// Follow waits for more until the job is over, across attempts.
	Follow bool
	// Stderr reads stderr of jobs that keep it apart.
	Stderr bool
	// TailBytes reads only so many bytes of the first attempt's end; 0 means all.
	TailBytes int64
	// Offset is where in the first attempt to start; not together with TailBytes.
	Offset int64
	// Node picks a node of a gang; empty means the first.
	Node string
	// Waiting is called with the job while it has not started, each time that it changes; may be nil.
	Waiting func(*fettlev1.Job)
	// Notice is told in one line when no controller answers and when one does again; may be nil.
	Notice func(string)
}

// ReadLog calls f with each piece of output in order, none twice, and returns the job as it stood at the end: over, when
// r.Follow is set. A controller that is lost is replaced by another, which goes on at the same byte. An error of f ends
// the reading and is returned as it is.
func (c *Client) ReadLog(ctx context.Context, r LogReader, f func(LogChunk) error) (*fettlev1.Job, error) {
	cur := &cursor{attempt: r.Attempt, offset: r.Offset, tail: r.TailBytes}
	for patient := false; ; patient = true {
		job, err := c.WatchJob(ctx, Watch{Job: r.Job, Patient: patient, Notice: r.Notice}, func(j *fettlev1.Job) bool {
			ready := !r.Follow || IsArray(j) || model.Terminal(j.GetState()) || j.GetAttempt() > cur.over && started(j)
			if !ready && r.Waiting != nil {
				r.Waiting(j)
			}
			return ready
		})
		if err != nil {
			return nil, err
		}
		if IsArray(job) {
			return nil, &Error{Code: codes.InvalidArgument, Field: "job", Problem: NameOf(job) + " is an array, whose elements write each for itself",
				Remedy: "name one of them, such as " + gres.FormatElement(job.GetId(), firstOf(job.GetSpec().GetArray()))}
		}
		if job.GetAttempt() == 0 {
			if r.Attempt > 0 && !r.Follow {
				return nil, &Error{Code: codes.NotFound, Problem: "the job has not been started yet", Remedy: "leave the attempt out, or wait for it with -f"}
			}
			return job, nil
		}
		if cur.over >= job.GetAttempt() {
			return job, nil
		}
		if r.Attempt > job.GetAttempt() {
			return nil, &Error{Code: codes.NotFound, Problem: fmt.Sprintf("the job has no attempt %d", r.Attempt), Remedy: "leave it out for the newest"}
		}
		if cur.attempt == 0 {
			cur.attempt = job.GetAttempt()
		}
		last, err := c.readOnce(ctx, r, cur, f)
		if err != nil {
			return nil, err
		}
		if !r.Follow {
			return job, nil
		}
		if last != nil && model.Terminal(last.GetState()) {
			return last, nil
		}
		// The controller ended the stream though the job goes on: wait for what comes next.
		cur.next()
	}
}

func firstOf(a *fettlev1.ArraySpec) uint32 {
	if len(a.GetRanges()) == 0 {
		return 0
	}
	return a.GetRanges()[0].GetFirst()
}

// started reports whether the newest attempt may have output.
func started(j *fettlev1.Job) bool {
	switch j.GetState() {
	case model.Pending, model.Dispatching:
		return false
	}
	return true
}

// cursor is how far the reading has come.
type cursor struct {
	attempt uint32
	offset  int64
	tail    int64
	// over is the newest attempt that was read to its end.
	over uint32
}

// next moves on to the attempt after the current one.
func (cur *cursor) next() {
	cur.over = max(cur.over, cur.attempt)
	cur.attempt, cur.offset, cur.tail = cur.over+1, 0, 0
}

// readOnce reads until the controller says that there is no more, going on elsewhere when one is lost.
func (c *Client) readOnce(ctx context.Context, r LogReader, cur *cursor, f func(LogChunk) error) (*fettlev1.Job, error) {
	out := outage{notice: r.Notice}
	for {
		total, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
		var last *fettlev1.Job
		var stop error
		progress := false
		err := c.rotate(ctx, total, Read, func(p *peer) error {
			// A following stream lives longer than total; it has only to begin in time.
			g := newGuard(ctx, c.cfg.TryTimeout)
			defer g.end()
			req := &fettlev1.ReadLogRequest{JobId: r.Job.ID, ArrayIndex: r.Job.Index, Attempt: cur.attempt, Follow: r.Follow, Stderr: r.Stderr, Node: r.Node}
			if cur.tail > 0 && cur.offset == 0 {
				req.TailBytes = cur.tail
			} else {
				req.Offset = cur.offset
			}
			stream, err := p.service().ReadLog(g.ctx, req)
			if err != nil {
				return g.cause(err)
			}
			if r.Follow {
				g.quiet()
			}
			for {
				m, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return g.cause(err)
				}
				if !r.Follow {
					g.alive()
				}
				progress = true
				out.over()
				if stop = cur.take(m, f); stop != nil {
					return nil
				}
				if m.GetJob() != nil {
					last = m.GetJob()
				}
			}
		})
		cancel()
		switch {
		case stop != nil:
			return nil, stop
		case err == nil:
			return last, nil
		case ctx.Err() != nil || !IsCode(err, codes.Unavailable):
			return nil, err
		case !r.Follow && !progress:
			return nil, err
		}
		out.down(err)
	}
}

// take hands on what of a message is new.
func (cur *cursor) take(m *fettlev1.ReadLogResponse, f func(LogChunk) error) error {
	data, offset := m.GetData(), m.GetOffset()
	attempt := m.GetAttempt()
	if attempt == 0 {
		attempt = cur.attempt
	}
	switch {
	case attempt < cur.attempt:
		return nil
	case attempt > cur.attempt:
		cur.over = max(cur.over, cur.attempt)
		cur.attempt, cur.offset, cur.tail = attempt, 0, 0
	}
	if len(data) == 0 {
		return nil
	}
	if skip := cur.offset - offset; skip > 0 {
		if skip >= int64(len(data)) {
			return nil
		}
		data, offset = data[skip:], cur.offset
	}
	cur.offset = offset + int64(len(data))
	return f(LogChunk{Attempt: attempt, Offset: offset, Data: data})
}
