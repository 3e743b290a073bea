package command

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// wait waits for a job's end and returns its exit status as an error.
func (c *call) wait(ctx context.Context, cl *api.Client, id, index uint64) error {
	c.stay()
	news := &waitNews{c: c}
	job, err := cl.WatchJob(ctx, api.Watch{Job: api.JobRef{ID: id}, MinIndex: index, Patient: true, Notice: c.note}, func(j *fettlev1.Job) bool {
		news.tell(j)
		return model.Terminal(j.GetState())
	})
	return c.ended(job, id, err)
}

// follow shows a job's output until it ends and returns its exit status as an error.
func (c *call) follow(ctx context.Context, cl *api.Client, id uint64) error {
	c.stay()
	out := c.newLogPrinter()
	job, err := cl.ReadLog(ctx, api.LogReader{Job: api.JobRef{ID: id}, Attempt: 1, Follow: true, Notice: c.note, Waiting: out.waiting}, out.chunk)
	if e := out.close(); err == nil {
		err = e
	}
	return c.ended(job, id, err)
}

// ended reports a job's end.
func (c *call) ended(job *fettlev1.Job, id uint64, err error) error {
	if err != nil {
		if errors.Is(err, context.Canceled) {
			c.note("job " + strconv.FormatUint(id, 10) + " goes on; fcancel " + strconv.FormatUint(id, 10) + " ends it")
			return &silent{exitInterrupted}
		}
		return err
	}
	if c.on("json") {
		if err := c.jobLine(job); err != nil {
			return err
		}
	} else {
		c.note(jobSummary(job))
	}
	if code := waitStatus(job); code != 0 {
		return &silent{code}
	}
	return nil
}

// waitStatus is the exit status for waiting for a job: its own, and never 0 for a job that did not complete.
func waitStatus(j *fettlev1.Job) int {
	code := int(j.GetExitCode())
	switch {
	case j.GetState() == model.Completed:
		return code & 0xff
	case code <= 0 || code > 255:
		return exitFailed
	}
	return code
}

// jobSummary says in one line how a job ended, or how it stands.
func jobSummary(j *fettlev1.Job) string {
	var b strings.Builder
	b.WriteString("job " + api.NameOf(j))
	if n := j.GetSpec().GetName(); n != "" {
		b.WriteString(" (" + n + ")")
	}
	code := strconv.Itoa(int(j.GetExitCode()))
	switch j.GetState() {
	case model.Completed:
		b.WriteString(" completed")
	case model.Failed:
		switch {
		case j.GetArrayCounts() != nil:
			b.WriteString(" failed")
		case model.HasExitStatus(j):
			b.WriteString(" failed with exit status " + code)
		case neverRan(j):
			b.WriteString(" failed before it started")
		default:
			b.WriteString(" failed")
		}
	case model.Cancelled:
		b.WriteString(" was cancelled")
	case model.Timeout:
		b.WriteString(" ran into its time limit")
	case model.OutOfMemory:
		b.WriteString(" ran out of memory")
	case model.NodeFail:
		b.WriteString(" was lost with its node")
	case model.Preempted:
		b.WriteString(" was preempted")
	default:
		b.WriteString(" is " + strings.ToLower(model.StateName(j.GetState())))
		if j.GetReason() != fettlev1.Reason_REASON_UNSPECIFIED {
			b.WriteString(" (" + model.ReasonText(j.GetReason()) + ")")
		}
		return b.String()
	}
	if c := j.GetArrayCounts(); c != nil {
		b.WriteString(": " + arrayEnds(c))
		return b.String()
	}
	if j.GetStartMs() > 0 && j.GetEndMs() >= j.GetStartMs() {
		b.WriteString(" after " + ranFor(j.GetEndMs()-j.GetStartMs()))
	}
	if j.GetAttempt() > 1 {
		b.WriteString(", attempt " + strconv.FormatUint(uint64(j.GetAttempt()), 10))
	}
	if d := j.GetDetail(); j.GetState() != model.Completed && d != "" && d != "exit status "+code {
		b.WriteString(": " + d)
	}
	return b.String()
}

// arrayEnds says how an array's elements ended.
func arrayEnds(c *fettlev1.ArrayCounts) string {
	var parts []string
	for _, p := range []struct {
		n    uint32
		what string
	}{{c.GetCompleted(), "completed"}, {c.GetFailed(), "failed"}, {c.GetCancelled(), "cancelled"}} {
		if p.n > 0 {
			parts = append(parts, strconv.FormatUint(uint64(p.n), 10)+" "+p.what)
		}
	}
	if len(parts) == 0 {
		return "no element ran"
	}
	return "elements " + strings.Join(parts, ", ")
}

// ranFor prints milliseconds: tenths of a second below a minute, else as Span.
func ranFor(ms int64) string {
	if ms < 60_000 {
		return strconv.FormatFloat(float64(ms)/1000, 'f', 1, 64) + " s"
	}
	return render.Span(ms / 1000)
}

// logPrinter writes a job's output to stdout.
type logPrinter struct {
	c      *call
	w      io.Writer
	filter *render.LogFilter
	// attempt is the one whose output is being shown.
	attempt uint32
	// newline is set when the output so far ends a line.
	newline bool
	said    string
	news    waitNews
}

func (c *call) newLogPrinter() *logPrinter {
	p := &logPrinter{c: c, w: c.env.Stdout, newline: true, news: waitNews{c: c}}
	if c.env.Out.TTY && !c.on("raw") {
		p.filter = render.NewLogFilter(c.env.Stdout)
		p.w = p.filter
	}
	return p
}

// waiting tells a person why nothing is to be seen yet. What will not change by waiting goes into a file too.
func (p *logPrinter) waiting(j *fettlev1.Job) {
	p.news.tell(j)
	if !p.c.env.Err.TTY || j.GetHeld() {
		return
	}
	if msg := jobSummary(j); msg != p.said {
		p.c.note(msg)
		p.said = msg
	}
}

func (p *logPrinter) chunk(ch api.LogChunk) error {
	if p.c.on("json") {
		b := strconv.AppendUint([]byte(`{"attempt":`), uint64(ch.Attempt), 10)
		b = strconv.AppendInt(append(b, `,"offset":`...), ch.Offset, 10)
		b = render.AppendBinary(append(b, `,"data":`...), ch.Data)
		_, err := p.c.env.Stdout.Write(append(b, '}', '\n'))
		return err
	}
	if p.attempt != 0 && ch.Attempt != p.attempt {
		if !p.newline && p.c.env.Out.TTY {
			if _, err := io.WriteString(p.w, "\n"); err != nil {
				return err
			}
		}
		p.c.note("attempt " + strconv.FormatUint(uint64(ch.Attempt), 10) + " of the job starts here")
	}
	p.attempt = ch.Attempt
	p.newline = len(ch.Data) > 0 && ch.Data[len(ch.Data)-1] == '\n'
	_, err := p.w.Write(ch.Data)
	return err
}

// close writes what is held back and ends an unfinished line on a terminal.
func (p *logPrinter) close() error {
	if p.filter != nil {
		if err := p.filter.Close(); err != nil {
			return err
		}
	}
	if !p.newline && p.c.env.Out.TTY && !p.c.on("json") {
		_, err := io.WriteString(p.c.env.Stdout, "\n")
		return err
	}
	return nil
}
