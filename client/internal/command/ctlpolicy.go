package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/internal/policyfile"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func policyApply(path string) *command {
	return &command{
		name: "apply", brief: "set the policy from a file, after showing what changes", synopsis: path + " -f cluster.toml [flags]",
		text: policyText, run: runPolicyApply,
		flags: []*option{
			{name: "file", short: "f", arg: "FILE", help: "the policy; - for stdin"},
			{name: "dry-run", help: "show what would change and change nothing"},
			{name: "yes", short: "y", help: "do not ask"},
		},
	}
}

const policyText = `Replaces the cluster's policy (partitions, projects, limits, scheduling settings) by that of the
file. It is checked, the differences are shown and you are asked, and it is stored only if nobody
else has changed the policy in between. Without a terminal to ask at, or with the policy on stdin,
nothing is stored unless -y is given.


FILE FORMAT
[[partition]]
name = "h100"
nodes = "gpu[01-08]"      # leave it out for all nodes
default = true
default_time = "4:00:00"
max_time = "2-00:00:00"   # leave it out for no limit
state = "up"              # or "down": no job is started there
preempt = "checkpoint"    # or "requeue", "cancel", "off" (the default): what becomes of its jobs
                          # when one that asks to preempt goes before them
min_run = "10m"           # what a job has run before that may happen to it
preempt_budget = 3        # how often that may happen to a job
priority_gap = 1          # by how many steps of priority the other one has to be more urgent
allow_no_preemptible = true

[[project]]
name = "nlp"
parent = "lab"            # what counts for it counts for its parent too
weight = 3                # its share among its siblings
members = ["alice", "*"]  # "*" is everyone
guarantee = 16            # GPUs that it can count on
max_gpus = 32             # limits, for partitions and users too: max_jobs_running, max_time,
                          # max_jobs_queued, max_gpus_per_job, max_nodes_per_job, gpu_hours,
                          # gpu_hours_window

[[user]]
name = "*"                # every user without an entry
max_gpus = 8

[usage]
half_life = "7d"          # after so long, use counts half in fair share

[scheduling]              # settings of the scheduling policy, see its documentation
priority_step = "2h"      # what a step of priority is worth
partition.h100 = "1h"     # a head start for the jobs of a partition, or of a project
`

func (c *call) policy(ctx context.Context, cl *api.Client) (*fettlev1.GetPolicyResponse, error) {
	return api.Do(ctx, cl, api.Read, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.GetPolicyResponse, error) {
		return s.GetPolicy(ctx, &fettlev1.GetPolicyRequest{Read: &fettlev1.ReadOptions{Level: fettlev1.ReadLevel_READ_LEVEL_LINEARIZABLE}})
	})
}

func runPolicyShow(ctx context.Context, c *call) error {
	if err := c.noArgs(); err != nil {
		return err
	}
	cl, err := c.api()
	if err != nil {
		return err
	}
	r, err := c.policy(ctx, cl)
	if err != nil {
		return err
	}
	if c.on("json") {
		b := render.AppendMessage([]byte(`{"header":`), r.GetHeader())
		b = render.AppendMessage(append(b, `,"policy":`...), r.GetPolicy())
		_, err := c.env.Stdout.Write(append(b, '}', '\n'))
		return err
	}
	text := strings.TrimRight(policyfile.Format(r.GetPolicy()), "\n")
	if text == "" {
		text = "# No partitions are defined: there is one, \"main\", with all nodes and no limits."
	}
	_, err = fmt.Fprintf(c.env.Stdout, "# Version %d\n%s\n", r.GetPolicy().GetVersion(), render.Lines(text))
	return err
}

func runPolicyApply(ctx context.Context, c *call) error {
	if err := c.noArgs(); err != nil {
		return err
	}
	g, ok := c.get("file")
	if !ok {
		return usagef("--file: is missing", "name the policy with -f cluster.toml")
	}
	want, err := c.readPolicy(g.value)
	if err != nil {
		return err
	}
	cl, err := c.api()
	if err != nil {
		return err
	}
	have, err := c.policy(ctx, cl)
	if err != nil {
		return err
	}
	if v := want.GetVersion(); v != 0 && v != have.GetPolicy().GetVersion() {
		return fmt.Errorf("%s: is made for version %d of the policy, but %d is stored; start again from fctl policy show", show(g.value), v, have.GetPolicy().GetVersion())
	}
	diff := policyfile.Diff(have.GetPolicy(), want)
	if !c.on("json") {
		if err := c.showDiff(diff); err != nil {
			return err
		}
	}
	header, stored := have.GetHeader(), have.GetPolicy()
	applied := false
	if len(diff) > 0 && !c.on("dry-run") {
		switch {
		case c.on("yes"):
		case !c.env.In.TTY || g.value == "-":
			return errors.New("the policy was not changed: there is no terminal to ask at; repeat it with -y")
		default:
			if err := c.ask(ctx, "Apply?"); err != nil {
				return err
			}
		}
		want.Version = 0
		req := &fettlev1.SetPolicyRequest{RequestId: api.NewRequestID(), Policy: want, ExpectVersion: have.GetPolicy().GetVersion()}
		r, err := api.Do(ctx, cl, api.Write, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.SetPolicyResponse, error) {
			return s.SetPolicy(ctx, req)
		})
		if err != nil {
			return err
		}
		header, stored, applied = r.GetHeader(), r.GetPolicy(), true
	}
	if c.on("json") {
		b := render.AppendMessage([]byte(`{"header":`), header)
		b = render.AppendMessage(append(b, `,"policy":`...), stored)
		b = appendStrings(append(b, `,"changes":`...), diff)
		b = append(b, `,"applied":`...)
		b = append(b, fmt.Sprintf("%t}\n", applied)...)
		_, err := c.env.Stdout.Write(b)
		return err
	}
	if applied {
		_, err = fmt.Fprintf(c.env.Stdout, "Policy version %d is in force\n", stored.GetVersion())
	}
	return err
}

func (c *call) showDiff(diff []string) error {
	if len(diff) == 0 {
		_, err := fmt.Fprintln(c.env.Stdout, "Nothing changes")
		return err
	}
	for _, line := range diff {
		style := render.Plain
		switch line[0] {
		case '-':
			style = render.Red
		case '+':
			style = render.Green
		}
		if _, err := fmt.Fprintln(c.env.Stdout, c.env.Out.Paint(style, render.Line(line))); err != nil {
			return err
		}
	}
	return nil
}

func (c *call) readPolicy(name string) (*fettlev1.ClusterPolicy, error) {
	var data []byte
	var err error
	if name == "-" {
		name = "stdin"
		data, err = io.ReadAll(io.LimitReader(c.env.Stdin, policyfile.MaxSize+1))
	} else {
		data, err = readFile(name, policyfile.MaxSize+1)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s", show(name), fileProblem(err))
	}
	p, err := policyfile.Parse(data)
	var pe *policyfile.Error
	if errors.As(err, &pe) && pe.Line > 0 {
		line := pe.Line
		pe.Line = 0
		return nil, fmt.Errorf("%s:%d: %w", show(name), line, pe)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", show(name), err)
	}
	return p, nil
}
