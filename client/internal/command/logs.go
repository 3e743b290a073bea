package command

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

func logCommand() *command {
	return &command{
		name:     "flog",
		brief:    "show a job's output, or how its training goes",
		synopsis: "flog [flags] ID[_INDEX][.ATTEMPT]\nflog -f [--progress] ID\nflog --stats ID",
		text:     logText,
		flags: []*option{
			{name: "follow", short: "f", help: "go on as more is written, over all attempts, until the job ends"},
			{name: "stats", help: "show progress, loss and the training curve instead of the output"},
			{name: "progress", help: "show one line with a progress bar instead of the output; with -f until the job ends"},
			{name: "tail", short: "n", arg: "LINES", help: "start with the last LINES lines"},
			{name: "stderr", short: "e", help: "stderr, for a job that keeps it apart (fsubmit --error)"},
			{name: "node", short: "w", arg: "NAME", help: "the output of this node of a job on several"},
			{name: "raw", help: "pass every byte to the terminal; only for output that you trust"},
		},
		run: runLog,
	}
}

const logText = `Prints what the newest attempt of a job has written so far, or the attempt that is named:
1042.2 is the second one of job 1042, 1070_3 the element 3 of array 1070. With -f it waits for
a job that has not started, goes on with the next attempt when one is retried, survives the
loss of a controller, and ends when the job does, with a line on stderr that says how it ended.

On a terminal, escape sequences other than colours and simple progress bars are shown instead of
obeyed. A pipe or file gets every byte as it was written.

--stats reads the trainer's log lines ({'loss': ...}) from the output and draws the loss over the
epochs; with --json it gives the points.


EXIT STATUS
0 when the output was shown, whatever became of the job; 1 when it could not be, or when the job was
over before it started. A job that waits has no output yet: a line on stderr says why, and the exit
status is 0.


EXAMPLES
flog -f 1042
flog --tail 50 1042.1
flog --stats 1042
`

// tailPerLine is how many bytes are fetched for each line that --tail asks for.
const (
	tailPerLine = 1024
	maxTail     = 1 << 20
)

func runLog(ctx context.Context, c *call) error {
	if len(c.args) != 1 {
		if len(c.args) == 0 {
			return usagef("no job named", "give a job number such as 123, or 123.2 for its second attempt")
		}
		return usagef("more than one job named", "give one job number")
	}
	ref, attempt, err := jobAttempt(c.args[0])
	if err != nil {
		return err
	}
	r := api.LogReader{Job: ref, Attempt: attempt, Follow: c.on("follow"), Stderr: c.on("stderr"), Notice: c.note}
	if g, ok := c.get("node"); ok {
		if r.Node, err = gres.NodeName(g.value); err != nil {
			return g.wrap(err)
		}
	}
	lines := -1
	if g, ok := c.get("tail"); ok {
		n, err := strconv.Atoi(g.value)
		if err != nil || n < 0 {
			return g.bad("is not a number of lines", "use a whole number from 0")
		}
		lines = n
		r.TailBytes = min(max(int64(n), 1)*tailPerLine, maxTail)
	}
	if err := c.exclusive(); err != nil {
		return err
	}
	cl, err := c.api()
	if err != nil {
		return err
	}
	switch {
	case c.on("stats"):
		return c.stats(ctx, cl, r)
	case c.on("progress"):
		return c.progress(ctx, cl, ref, r.Follow)
	}
	return c.showLog(ctx, cl, r, lines)
}

// jobAttempt reads "12", "12.2", "12_3" or "12_3.2".
func jobAttempt(s string) (api.JobRef, uint32, error) {
	array, rest, isElement := strings.Cut(s, "_")
	if !isElement {
		ja, err := gres.ParseJobAttempt(s)
		if err != nil {
			return api.JobRef{}, 0, &usageError{msg: err.Error()}
		}
		return api.JobRef{ID: ja.Job}, ja.Attempt, nil
	}
	index, attempt, dotted := strings.Cut(rest, ".")
	id, i, ok := gres.ParseElement(array + "_" + index)
	if !ok {
		return api.JobRef{}, 0, usagef("job "+render.Quote(show(s))+": is not an element of an array", "write for example 12_3, or 12_3.2 for its second attempt")
	}
	ref := api.JobRef{ID: id, Index: &i}
	if !dotted {
		return ref, 0, nil
	}
	ja, err := gres.ParseJobAttempt(array + "." + attempt)
	if err != nil {
		return api.JobRef{}, 0, &usageError{msg: err.Error()}
	}
	return ref, ja.Attempt, nil
}

// exclusive refuses flags that do not go together.
func (c *call) exclusive() error {
	for _, mode := range []string{"stats", "progress"} {
		if !c.on(mode) {
			continue
		}
		for _, other := range []string{"tail", "raw", "follow", "stats"} {
			if g, ok := c.get(other); ok && other != mode && !(mode == "progress" && other == "follow") {
				return usagef(g.written+": does not go with --"+mode, "leave one of them out")
			}
		}
	}
	return nil
}

func (c *call) showLog(ctx context.Context, cl *api.Client, r api.LogReader, lines int) error {
	c.stay()
	p := c.newLogPrinter()
	r.Waiting = p.waiting
	job, err := c.readLog(ctx, cl, r, lines, p)
	if e := p.close(); err == nil {
		err = e
	}
	switch {
	case err != nil && errors.Is(err, context.Canceled) && r.Follow:
		return &silent{exitInterrupted}
	case err != nil:
		return err
	case c.on("json"):
		err = c.jobLine(job)
	case r.Follow:
		c.note(jobSummary(job))
	case neverRan(job):
		c.note(notStarted(job))
	}
	if err == nil && !r.Follow && neverRan(job) && model.Terminal(job.GetState()) {
		return &silent{exitFailed}
	}
	return err
}

// notStarted says that a job has no output, and why.
func notStarted(j *fettlev1.Job) string {
	switch {
	case j.GetState() == model.Failed:
		return jobSummary(j)
	case model.Terminal(j.GetState()):
		return jobSummary(j) + "; it never started"
	}
	return jobSummary(j) + "; it has not started yet"
}

// readLog reads a job's output to p: all of it, or from its last lines on.
func (c *call) readLog(ctx context.Context, cl *api.Client, r api.LogReader, lines int, p *logPrinter) (*fettlev1.Job, error) {
	if lines < 0 {
		return cl.ReadLog(ctx, r, p.chunk)
	}
	tail := &tailer{lines: lines}
	first := r
	first.Follow = false
	job, err := cl.ReadLog(ctx, first, tail.hold)
	if err == nil {
		err = tail.flush(p.chunk)
	}
	if err != nil || !r.Follow {
		return job, err
	}
	// Go on where the tail ended.
	r.TailBytes = 0
	if tail.attempt > 0 {
		r.Attempt, r.Offset = tail.attempt, tail.end
	}
	return cl.ReadLog(ctx, r, p.chunk)
}

// jobLine writes {"job": ...}.
func (c *call) jobLine(job *fettlev1.Job) error {
	b := render.AppendMessage([]byte(`{"job":`), job)
	_, err := c.env.Stdout.Write(append(b, '}', '\n'))
	return err
}

// tailer keeps the last lines of what a log reader hands over.
type tailer struct {
	lines int
	held  []api.LogChunk
	// attempt and end are where the reading ended.
	attempt uint32
	end     int64
}

// hold keeps a chunk until flush.
func (t *tailer) hold(ch api.LogChunk) error {
	ch.Data = append([]byte(nil), ch.Data...)
	t.held = append(t.held, ch)
	t.attempt, t.end = ch.Attempt, ch.Offset+int64(len(ch.Data))
	return nil
}

// flush hands the last lines of what was held to next.
func (t *tailer) flush(next func(api.LogChunk) error) error {
	// A line ends at a line break; one after the last break counts as a line too.
	from, cut, left := len(t.held), 0, t.lines
	for last := true; from > 0; last = false {
		data := t.held[from-1].Data
		end := len(data)
		if last && end > 0 && data[end-1] == '\n' {
			end--
		}
		if left == 0 {
			break
		}
		i := end - 1
		for ; i >= 0; i-- {
			if data[i] == '\n' {
				if left--; left == 0 {
					break
				}
			}
		}
		from--
		if cut = i + 1; cut > 0 {
			break
		}
	}
	for i, ch := range t.held[from:] {
		if i == 0 {
			ch.Data, ch.Offset = ch.Data[cut:], ch.Offset+int64(cut)
		}
		if len(ch.Data) == 0 {
			continue
		}
		if err := next(ch); err != nil {
			return err
		}
	}
	t.held = nil
	return nil
}
