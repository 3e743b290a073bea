package command

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

const unavailable = codes.Unavailable

// askAbove is how many jobs named by number are cancelled without asking on a terminal.
const askAbove = 20

func cancelCommand() *command {
	return &command{
		name:     "fcancel",
		brief:    "cancel jobs, or send them a signal",
		synopsis: "fcancel [flags] ID[,ID...]...\nfcancel [flags] -u USER | -t STATE | -n NAME | ...",
		text:     cancelText,
		flags: append(selectFlags(),
			&option{name: "signal", short: "s", arg: "SIGNAL", help: "only send this signal (a name or a number) to running jobs, which go on"},
			&option{name: "yes", short: "y", help: "do not ask"},
		),
		run: runCancel,
	}
}

const cancelText = `Cancels the jobs named by number (12, 15-20, or a list of both) or picked by the selection flags. An
array's number stands for all of its elements, 12_3 for one and 12_[3-7] for some of them.
With numbers and flags, the numbers that the flags fit. A waiting job leaves the queue at once; a
running one gets TERM, and KILL after its grace time, and so does every process that it has started.

On a terminal fcancel asks before it cancels by flags, or more than 20 numbers. In a pipe or
script it does not ask.


EXIT STATUS
0 when all jobs that were picked were cancelled (or signalled), 1 when one could not be, 2 for a
command line that makes no sense.


EXAMPLES
fcancel 1042
fcancel 1042-1050,1060
fcancel 1070_3 1070_[10-19]
fcancel --me -t PD
fcancel --signal USR1 1042
`

func runCancel(ctx context.Context, c *call) error {
	sel, any, err := c.selector()
	if err != nil {
		return err
	}
	list, err := jobs(c.args)
	if err != nil {
		return err
	}
	pick(sel, list)
	if !any && !named(sel) {
		return usagef("no jobs named", "give job numbers, or pick jobs with -u, -t, -n, -p, -A or -w")
	}
	sig, err := c.signal()
	if err != nil {
		return err
	}
	cl, err := c.api()
	if err != nil {
		return err
	}
	if err := c.confirmCancel(ctx, cl, sel, any, sig); err != nil {
		return err
	}
	req := &fettlev1.CancelJobsRequest{RequestId: api.NewRequestID(), Select: sel, Signal: int32(sig)}
	r, err := api.Do(ctx, cl, api.Write, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.JobActionResponse, error) {
		return s.CancelJobs(ctx, req)
	})
	if err != nil {
		return err
	}
	done := "Cancelled"
	if sig != 0 {
		done = "Signalled"
	}
	return c.printActions(r, done)
}

// printActions prints what became of each job of a request.
func (c *call) printActions(r *fettlev1.JobActionResponse, done string) error {
	var failed several
	var ok []string
	for _, res := range r.GetResults() {
		name := api.JobRef{ID: res.GetJobId(), Index: res.ArrayIndex}.String()
		if e := api.FromDetail(res.GetError()); e != nil {
			failed = append(failed, aboutJob(name, e))
		} else {
			ok = append(ok, name)
		}
	}
	w := c.env.Stdout
	var err error
	switch {
	case c.on("json"):
		b := render.AppendMessage(nil, r)
		_, err = w.Write(append(b, '\n'))
	case len(ok) == 1:
		_, err = fmt.Fprintf(w, "%s job %s\n", done, ok[0])
	case len(ok) > 1:
		_, err = fmt.Fprintf(w, "%s %s jobs\n", done, render.Count(uint64(len(ok))))
	case len(failed) == 0:
		_, err = fmt.Fprintln(w, "No such jobs")
	}
	switch {
	case err != nil:
		return err
	case len(failed) > maxErrors:
		more := len(failed) - maxErrors
		failed = append(failed[:maxErrors:maxErrors], fmt.Errorf("and %s more jobs could not be done", render.Count(uint64(more))))
		return failed
	case len(failed) > 0:
		return failed
	}
	return nil
}

// aboutJob is an error that names the job, once.
func aboutJob(n string, err error) error {
	if slices.Contains(strings.FieldsFunc(err.Error(), func(r rune) bool { return strings.ContainsRune(" ;:,", r) }), n) {
		return err
	}
	return fmt.Errorf("job %s: %w", n, err)
}

// maxErrors is how many jobs' errors are printed.
const maxErrors = 20

// signal reads --signal; 0 when it was not given.
func (c *call) signal() (int, error) {
	g, ok := c.get("signal")
	if !ok {
		return 0, nil
	}
	const remedy = "use a name such as USR1 or a number from 1 to 64"
	v := strings.ToUpper(strings.TrimSpace(g.value))
	if n, err := strconv.Atoi(v); err == nil {
		if n < 1 || n > 64 {
			return 0, g.bad("is not a signal", remedy)
		}
		return n, nil
	}
	n := unix.SignalNum("SIG" + strings.TrimPrefix(v, "SIG"))
	if n == 0 {
		return 0, g.bad("is not a signal", remedy)
	}
	return int(n), nil
}

// confirmCancel asks a person before many jobs are cancelled.
func (c *call) confirmCancel(ctx context.Context, cl *api.Client, sel *fettlev1.JobSelector, any bool, sig int) error {
	if c.on("yes") || !c.env.In.TTY || !any && namedCount(sel) <= askAbove {
		return nil
	}
	var n uint64
	only := ""
	if err := cl.ListJobs(ctx, &fettlev1.ListJobsRequest{Select: sel}, func(_ *fettlev1.Header, jobs []*fettlev1.Job) error {
		n += uint64(len(jobs))
		if len(jobs) > 0 {
			only = api.NameOf(jobs[0])
		}
		return nil
	}); err != nil {
		return err
	}
	if n == 0 {
		_, _ = fmt.Fprintln(c.env.Stdout, "No such jobs")
		return &silent{exitDone}
	}
	what := render.Plural(n, "job")
	if n == 1 {
		what = "job " + only
	}
	verb := "Cancel "
	if sig != 0 {
		verb = "Send " + signalName(sig) + " to "
	}
	return c.ask(ctx, verb+what+"?")
}

// namedCount is how many jobs and elements a selector names.
func namedCount(sel *fettlev1.JobSelector) int {
	n := len(sel.GetIds())
	for _, e := range sel.GetElements() {
		n += model.ArrayLen(e.GetRanges())
	}
	return n
}

func signalName(sig int) string {
	if s := unix.SignalName(unix.Signal(sig)); s != "" {
		return s
	}
	return "signal " + strconv.Itoa(sig)
}
