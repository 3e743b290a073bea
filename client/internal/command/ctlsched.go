package command

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
)

const priorityText = `Shows what a waiting job's place in the order is made of. The policy moves each job's submit time by
terms: minus is sooner. The job with the lowest sum is the first. The bound is how much later another
job must have been submitted to be behind this one for certain, whatever its terms.`

const statsText = `Compares the starts that were predicted at submit with the real ones: half of the jobs started
within MEDIAN of what was said, nine of ten within P90. BIAS is above zero when jobs start
later than said, and WITHIN is the share that started in the range given.`

// runPriority shows the terms of jobs' order.
func runPriority(ctx context.Context, c *call) error {
	list, err := c.neededJobs()
	if err != nil {
		return err
	}
	cl, err := c.api()
	if err != nil {
		return err
	}
	return c.eachExplained(ctx, cl, list, &fettlev1.ExplainJobRequest{Order: true}, c.writeOrder)
}

func (c *call) writeOrder(w io.Writer, r *fettlev1.ExplainJobResponse) error {
	j, o := r.GetJob(), r.GetOrder()
	if o == nil {
		_, err := fmt.Fprintln(w, c.env.Out.Paint(render.Bold, render.Line(jobSummary(j))))
		return err
	}
	title := "Job " + api.NameOf(j)
	if n := j.GetSpec().GetName(); n != "" {
		title += " (" + n + ")"
	}
	if o.GetPosition() > 0 {
		title += ", number " + strconv.FormatUint(uint64(o.GetPosition()), 10) + " of those that wait"
	}
	fmt.Fprintln(w, c.env.Out.Paint(render.Bold, render.Line(title)))
	t := render.NewTable(render.Column{Title: "TERM"}, render.Column{Title: "SHIFT", Right: true}, render.Column{Title: "FROM", Shrink: 16})
	for _, term := range o.GetTerms() {
		t.Text(term.GetName())
		t.Text(shift(term.GetMs()))
		t.Text(term.GetInputs())
	}
	t.Text("sum")
	t.Text(shift(o.GetScore()))
	by := ""
	if o.GetPolicy() != "" {
		by = "by " + o.GetPolicy()
	}
	t.Text(by)
	if err := t.Write(w, c.env.Out); err != nil {
		return err
	}
	bound := "Bound: none is promised"
	if o.GetBoundMs() > 0 {
		bound = "Bound: jobs submitted more than " + gres.FormatDuration(time.Duration(o.GetBoundMs())*time.Millisecond) + " later are behind it"
	}
	_, err := fmt.Fprintln(w, bound)
	return err
}

// shift prints milliseconds as a signed time: "-2:00:00". What is longer than ten years is a moment, not a shift.
func shift(ms int64) string {
	const longest = 10 * 365 * 86400 * 1000
	switch {
	case ms > longest || ms < -longest:
		return render.Time(ms)
	case ms < 0:
		return "-" + render.Span(-ms/1000)
	case ms == 0:
		return "0"
	}
	return "+" + render.Span(ms/1000)
}

// runSchedStats shows how good predicted starts were.
func runSchedStats(ctx context.Context, c *call) error {
	if err := c.noArgs(); err != nil {
		return err
	}
	cl, err := c.api()
	if err != nil {
		return err
	}
	cl.PreferLeader(ctx)
	r, err := api.Do(ctx, cl, api.Read, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.GetPredictionStatsResponse, error) {
		return s.GetPredictionStats(ctx, &fettlev1.GetPredictionStatsRequest{})
	})
	if err != nil {
		return err
	}
	if c.on("json") {
		_, err := c.env.Stdout.Write(append(render.AppendMessage(nil, r), '\n'))
		return err
	}
	w := bufio.NewWriter(c.env.Stdout)
	t := render.NewTable(render.Column{Title: "PARTITION", Shrink: 8}, render.Column{Title: "STARTS", Right: true}, render.Column{Title: "MEDIAN", Right: true},
		render.Column{Title: "P90", Right: true}, render.Column{Title: "BIAS", Right: true}, render.Column{Title: "WITHIN", Right: true}, render.Column{Title: "SINCE", Drop: 1})
	for _, s := range r.GetStats() {
		if s.GetJobs() == 0 {
			continue
		}
		name := s.GetPartition()
		if name == "" {
			name = "(all)"
		}
		t.Text(name)
		num(t, s.GetJobs())
		t.Text(render.Span(s.GetMedianErrorS()))
		t.Text(render.Span(s.GetP90ErrorS()))
		t.Text(shift(s.GetBiasS() * 1000))
		t.Text(strconv.FormatUint(100*s.GetWithin()/s.GetJobs(), 10) + "%")
		t.Text(render.Time(s.GetSinceMs()))
	}
	if t.Rows() == 0 {
		fmt.Fprintln(w, "No job with a predicted start has started yet.")
	} else if err := t.Write(w, c.env.Out); err != nil {
		return err
	}
	return w.Flush()
}

const quotaText = `Shows what partitions, projects and users hold and use, against their limits: used/limit, "-"
for none. GPU_HOURS counts a window (30 days if the policy says nothing else): what was used,
and in parentheses what running jobs may still use. GUARANTEE is what a project can count on;
more than that is borrowed. SHARE is the part of all usage that counts for fair share, which
fades with its half life.`

// scopeUsage fetches what limits and usage there are.
func (c *call) scopeUsage(ctx context.Context) (*fettlev1.GetUsageResponse, error) {
	cl, err := c.api()
	if err != nil {
		return nil, err
	}
	cl.PreferLeader(ctx)
	return api.Do(ctx, cl, api.Read, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.GetUsageResponse, error) {
		return s.GetUsage(ctx, &fettlev1.GetUsageRequest{})
	})
}

// showQuota returns what shows the scopes of the kinds, all of them or those named.
func showQuota(kinds ...fettlev1.ScopeKind) func(context.Context, *call) error {
	return func(ctx context.Context, c *call) error {
		r, err := c.scopeUsage(ctx)
		if err != nil {
			return err
		}
		found := make(map[string]bool)
		var scopes []*fettlev1.ScopeUsage
		for _, s := range r.GetScopes() {
			if slices.Contains(kinds, s.GetKind()) && (len(c.args) == 0 || slices.Contains(c.args, s.GetName())) {
				scopes, found[s.GetName()] = append(scopes, s), true
			}
		}
		r.Scopes = scopes
		if c.on("json") {
			if _, err := c.env.Stdout.Write(append(render.AppendMessage(nil, r), '\n')); err != nil {
				return err
			}
		} else if err := c.writeScopes(r, len(kinds) == 1); err != nil {
			return err
		}
		var failed several
		for _, name := range c.args {
			if !found[name] {
				failed = append(failed, fmt.Errorf("%s: has neither limits nor jobs nor usage; fctl policy show lists what is defined", show(name)))
			}
		}
		if len(failed) > 0 {
			return failed
		}
		return nil
	}
}

func (c *call) writeScopes(r *fettlev1.GetUsageResponse, projects bool) error {
	w := bufio.NewWriter(c.env.Stdout)
	cols := []render.Column{{Title: "SCOPE", OmitEmpty: projects}, {Title: "NAME", Shrink: 8}}
	if projects {
		cols = []render.Column{{Title: "PROJECT", Shrink: 8}, {Title: "PARENT", Shrink: 6, Drop: 2, OmitEmpty: true}, {Title: "WEIGHT", Right: true, Drop: 3},
			{Title: "GUARANTEE", Right: true, Drop: 4}, {Title: "SHARE", Right: true, Drop: 5}}
	}
	cols = append(cols, render.Column{Title: "GPUS", Right: true}, render.Column{Title: "RUNNING", Right: true}, render.Column{Title: "JOBS", Right: true},
		render.Column{Title: "GPU_HOURS", Right: true}, render.Column{Title: "PER_JOB", Shrink: 8, Drop: 1, OmitEmpty: true})
	t := render.NewTable(cols...)
	used, all := projectUsage(r.GetAccounts())
	for _, s := range r.GetScopes() {
		l := s.GetLimits()
		if projects {
			t.Text(s.GetName())
			t.Text(s.GetParent())
			num(t, uint64(max(s.GetWeight(), 1)))
			num(t, uint64(s.GetGuaranteeGpus()))
			share := "-"
			if all > 0 {
				share = strconv.FormatInt(100*used[s.GetName()]/all, 10) + "%"
			}
			t.Text(share)
		} else {
			t.Text(scopeWords[s.GetKind()])
			t.Text(s.GetName())
		}
		t.Text(milliText(s.GetGpuMilli()) + "/" + orNone(int64(l.GetMaxGpus())))
		t.Text(strconv.FormatInt(s.GetJobsRunning(), 10) + "/" + orNone(int64(l.GetMaxJobsRunning())))
		t.Text(strconv.FormatInt(s.GetJobsQueued(), 10) + "/" + orNone(int64(l.GetMaxJobsQueued())))
		hours := "-"
		if l.GetGpuHours() > 0 {
			hours = hoursText(s.GetWindowGpuS()) + " (+" + hoursText(s.GetCommittedGpuS()) + ")/" + strconv.FormatInt(l.GetGpuHours(), 10)
		}
		t.Text(hours)
		t.Text(perJob(l))
	}
	if t.Rows() == 0 {
		fmt.Fprintln(w, "Nothing is limited, and nothing was used.")
	} else if err := t.Write(w, c.env.Out); err != nil {
		return err
	}
	return w.Flush()
}

// projectUsage adds up usage by project.
func projectUsage(accounts []*fettlev1.AccountUsage) (by map[string]int64, all int64) {
	by = make(map[string]int64)
	for _, a := range accounts {
		by[a.GetProject()] += a.GetGpuS()
		all += a.GetGpuS()
	}
	return by, all
}

func orNone(n int64) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatInt(n, 10)
}

// milliText prints thousandths without zeros at the end: "6", "5.5".
func milliText(n int64) string { return strconv.FormatFloat(float64(n)/1000, 'f', -1, 64) }

func hoursText(s int64) string { return strconv.FormatFloat(float64(s)/3600, 'f', 1, 64) }

// perJob is what one job may have.
func perJob(l *fettlev1.Limits) string {
	var parts []string
	if n := l.GetMaxGpusPerJob(); n > 0 {
		parts = append(parts, render.Plural(uint64(n), "GPU"))
	}
	if n := l.GetMaxNodesPerJob(); n > 0 {
		parts = append(parts, render.Plural(uint64(n), "node"))
	}
	if s := l.GetMaxTimeS(); s > 0 {
		parts = append(parts, render.Span(s))
	}
	return strings.Join(parts, ", ")
}
