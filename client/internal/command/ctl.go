package command

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/jobscript"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
)

func ctlCommand() *command {
	yes := func() *option { return &option{name: "yes", short: "y", help: "do not ask"} }
	return &command{
		name:     "fctl",
		brief:    "look after jobs, nodes and controllers",
		synopsis: "fctl COMMAND [flags] [arguments]",
		text:     ctlText,
		subs: []*command{
			{name: "show", brief: "show everything about jobs, nodes or the cluster", synopsis: "fctl show job ID...\nfctl show node [NODES...]\nfctl show cluster", subs: []*command{
				{name: "job", brief: "show jobs with their attempts", synopsis: "fctl show job [flags] ID...", run: runShowJob,
					text:  "Shows what was asked for, how the job stands, and every attempt with its nodes and its end.",
					flags: []*option{{name: "script", help: "print the script or config of one job as it was submitted, and nothing else"}}},
				{name: "node", brief: "show nodes as finfo -v does", synopsis: "fctl show node [flags] [NODES...]", run: runShowNode},
				{name: "cluster", brief: "show the controllers and how they are", synopsis: "fctl show cluster [flags]", run: runShowCluster},
			}},
			{name: "hold", brief: "keep waiting jobs from starting", synopsis: "fctl hold ID...", run: jobAction("Held", holdJobs)},
			{name: "release", brief: "let held jobs start", synopsis: "fctl release ID...", run: jobAction("Released", releaseJobs)},
			{name: "requeue", brief: "end running jobs and put them back into the queue", synopsis: "fctl requeue ID...", run: jobAction("Requeued", requeueJobs)},
			{name: "update", brief: "change jobs", synopsis: "fctl update ID... --priority N --time TIME ...", text: updateText, flags: updateFlags(), run: runUpdate},
			{name: "priority", brief: "show what jobs' places in the order are made of", synopsis: "fctl priority [flags] ID...", text: priorityText, run: runPriority},
			{name: "stats", brief: "show how good predicted starts were", synopsis: "fctl stats [flags]", text: statsText, run: runSchedStats},
			reservationCommand(),
			{name: "project", brief: "projects with their shares and limits", synopsis: "fctl project show [NAME...]", subs: []*command{
				{name: "show", brief: "show projects: limits against use", synopsis: "fctl project show [flags] [NAME...]", text: quotaText, run: showQuota(fettlev1.ScopeKind_SCOPE_KIND_PROJECT)},
			}},
			{name: "quota", brief: "limits of partitions, projects and users", synopsis: "fctl quota show [NAME...]", subs: []*command{
				{name: "show", brief: "show limits against use", synopsis: "fctl quota show [flags] [NAME...]", text: quotaText,
					run: showQuota(fettlev1.ScopeKind_SCOPE_KIND_PARTITION, fettlev1.ScopeKind_SCOPE_KIND_PROJECT, fettlev1.ScopeKind_SCOPE_KIND_USER)},
			}},
			{name: "drain", brief: "give nodes no new jobs", synopsis: "fctl drain NODES... --reason TEXT", text: "What runs there runs on.", run: runDrain,
				flags: []*option{{name: "reason", short: "r", arg: "TEXT", help: "why, for those who look at finfo"}}},
			{name: "resume", brief: "give drained nodes jobs again", synopsis: "fctl resume NODES...", run: nodeAction(fettlev1.NodeAction_NODE_ACTION_RESUME, "Resumed")},
			{name: "node", brief: "declare nodes dead, or forget them", synopsis: "fctl node declare-dead NODES...\nfctl node remove NODES...", subs: []*command{
				{name: "declare-dead", brief: "state that nothing runs on a node any more", synopsis: "fctl node declare-dead NODES...", text: deadText,
					flags: []*option{{name: "reason", short: "r", arg: "TEXT", help: "how you know"}, yes()}, run: runDeclareDead},
				{name: "remove", brief: "forget a node that holds nothing", synopsis: "fctl node remove NODES...", flags: []*option{yes()}, run: runRemoveNode},
			}},
			{name: "raft", brief: "the controllers' own group", synopsis: "fctl raft list\nfctl raft transfer [--to CONTROLLER]\nfctl raft remove CONTROLLER", subs: []*command{
				{name: "list", brief: "list the controllers", synopsis: "fctl raft list [flags]", run: runRaftList},
				{name: "transfer", brief: "hand leadership to another controller", synopsis: "fctl raft transfer [--to CONTROLLER]", run: runRaftTransfer,
					flags: []*option{{name: "to", arg: "CONTROLLER", help: "name or id of the new leader (default: the one that is furthest)"}}},
				{name: "remove", brief: "take a controller out of the group for good", synopsis: "fctl raft remove CONTROLLER", run: runRaftRemove, flags: []*option{yes()}},
			}},
			{name: "plugin", brief: "the controller's plugins", synopsis: "fctl plugin list", subs: []*command{
				{name: "list", brief: "list plugins with their calls and failures", synopsis: "fctl plugin list [flags]", run: runPluginList},
			}},
			{name: "policy", brief: "partitions and scheduling settings", synopsis: "fctl policy show\nfctl policy apply -f cluster.toml", subs: []*command{
				{name: "show", brief: "print the policy as a file for apply", synopsis: "fctl policy show [flags]", run: runPolicyShow},
				policyApply("fctl policy apply"),
			}},
			policyApply("fctl apply"),
		},
	}
}

const ctlText = `Each command has its own --help.


EXAMPLES
fctl show job 1042
fctl hold 1042-1050
fctl update 1042 --priority 1 --time 12:00:00
fctl priority 1042
fctl reservation create maint --nodes gpu[01-04] --start 16:00 --duration 4h
fctl quota show
fctl drain gpu07 --reason "XID 79, card to be replaced"
fctl policy show > cluster.toml; edit it; fctl policy apply -f cluster.toml
`

const updateText = `Changes what jobs, arrays (12) or elements (12_3) asked for. A waiting job can be changed in
all of these; of a running one only the time limit, name, comment, retries and whether it may
be requeued.`

const deadText = `Tells the controllers that a node will never report again and that none of the jobs it held runs any
more: it is switched off, or was installed anew. Its jobs are put back into the queue, or fail where
they must not be started twice. If the node is in fact alive, jobs may run twice: be certain.`

// change is one of the requests that name jobs.
type change func(ctx context.Context, s fettlev1.ControllerServiceClient, r *fettlev1.JobActionRequest) (*fettlev1.JobActionResponse, error)

func holdJobs(ctx context.Context, s fettlev1.ControllerServiceClient, r *fettlev1.JobActionRequest) (*fettlev1.JobActionResponse, error) {
	return s.HoldJobs(ctx, r)
}

func releaseJobs(ctx context.Context, s fettlev1.ControllerServiceClient, r *fettlev1.JobActionRequest) (*fettlev1.JobActionResponse, error) {
	return s.ReleaseJobs(ctx, r)
}

func requeueJobs(ctx context.Context, s fettlev1.ControllerServiceClient, r *fettlev1.JobActionRequest) (*fettlev1.JobActionResponse, error) {
	return s.RequeueJobs(ctx, r)
}

// neededJobs reads job numbers and elements of arrays from the arguments, at least one.
func (c *call) neededJobs() (gres.Jobs, error) {
	if len(c.args) == 0 {
		return gres.Jobs{}, usagef("no jobs named", "give job numbers such as 12,15-20 or 12_3")
	}
	return jobs(c.args)
}

func jobAction(done string, f change) func(context.Context, *call) error {
	return func(ctx context.Context, c *call) error {
		list, err := c.neededJobs()
		if err != nil {
			return err
		}
		cl, err := c.api()
		if err != nil {
			return err
		}
		req := &fettlev1.JobActionRequest{RequestId: api.NewRequestID(), Select: &fettlev1.JobSelector{}}
		pick(req.Select, list)
		r, err := api.Do(ctx, cl, api.Write, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.JobActionResponse, error) {
			return f(ctx, s, req)
		})
		if err != nil {
			return err
		}
		return c.printActions(r, done)
	}
}

func runShowJob(ctx context.Context, c *call) error {
	list, err := c.neededJobs()
	if err != nil {
		return err
	}
	named := refs(list)
	if c.on("script") && len(named) != 1 {
		return usagef("--script: several jobs are named", "name one")
	}
	cl, err := c.api()
	if err != nil {
		return err
	}
	cl.PreferLeader(ctx)
	var jobs []*fettlev1.Job
	var header *fettlev1.Header
	var failed several
	for _, ref := range named {
		r, err := api.Do(ctx, cl, api.Read, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.GetJobResponse, error) {
			return s.GetJob(ctx, &fettlev1.GetJobRequest{JobId: ref.ID, ArrayIndex: ref.Index})
		})
		switch {
		case api.IsCode(err, codes.NotFound):
			failed = append(failed, err)
			continue
		case err != nil:
			return err
		}
		header = r.GetHeader()
		jobs = append(jobs, r.GetJob())
	}
	switch {
	case c.on("script"):
		if len(jobs) == 1 {
			text := jobs[0].GetSpec().GetScript()
			if len(text) == 0 {
				text = jobs[0].GetSpec().GetConfig()
			}
			if c.env.Out.TTY {
				text = []byte(render.Lines(string(text)))
			}
			if _, err := c.env.Stdout.Write(text); err != nil {
				return err
			}
		}
	case c.on("json"):
		b := render.AppendMessage([]byte(`{"header":`), header)
		b = append(b, `,"jobs":[`...)
		for i, j := range jobs {
			if i > 0 {
				b = append(b, ',')
			}
			b = render.AppendMessage(append(b, '\n'), j)
		}
		if _, err := c.env.Stdout.Write(append(b, "\n]}\n"...)); err != nil {
			return err
		}
	default:
		w := bufio.NewWriter(c.env.Stdout)
		for i, j := range jobs {
			if i > 0 {
				fmt.Fprintln(w)
			}
			if err := c.writeJob(w, j, c.env.Now()); err != nil {
				return err
			}
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if s := staleNote(header); s != "" {
			c.note("note: " + s)
		}
	}
	if len(failed) > 0 {
		return failed
	}
	return nil
}

// updateOptions are the options of fsubmit that can be changed later.
var updateOptions = []string{jobscript.OptJobName, jobscript.OptPriority, jobscript.OptPartition, jobscript.OptComment,
	jobscript.OptTime, jobscript.OptNodelist, jobscript.OptBegin, jobscript.OptDeadline, jobscript.OptRequeue, "no-requeue", jobscript.OptRetries}

func updateFlags() []*option {
	var out []*option
	for _, s := range jobscript.Specs() {
		if slices.Contains(updateOptions, s.Name) {
			out = append(out, &option{name: s.Name, short: s.Short, arg: s.Arg, help: s.Help})
		}
	}
	return append(out, &option{name: "any-node", help: "remove the --nodelist of the job"},
		&option{name: "no-deadline", help: "remove the --deadline of the job"},
		&option{name: "array-limit", arg: "N", help: "run at most so many elements of an array at a time; 0 removes the limit"})
}

func runUpdate(ctx context.Context, c *call) error {
	list, err := c.neededJobs()
	if err != nil {
		return err
	}
	req := &fettlev1.UpdateJobRequest{}
	changes := 0
	for _, g := range c.flags {
		if g.flag.group != "" {
			continue
		}
		changes++
		if err := c.change(req, g); err != nil {
			return err
		}
	}
	if changes == 0 {
		return usagef("nothing to change", "give for example --priority 1")
	}
	if c.on("no-deadline") && c.on("deadline") {
		return usagef("--no-deadline: contradicts --deadline", "give one of them")
	}
	if req.ClearNodelist && len(req.Nodelist) > 0 {
		return usagef("--any-node: contradicts --nodelist", "give one of them")
	}
	cl, err := c.api()
	if err != nil {
		return err
	}
	var failed several
	var ok []string
	for _, ref := range refs(list) {
		req.JobId, req.ArrayIndex, req.RequestId = ref.ID, ref.Index, api.NewRequestID()
		r, err := api.Do(ctx, cl, api.Write, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.UpdateJobResponse, error) {
			return s.UpdateJob(ctx, req)
		})
		if err != nil {
			if api.IsCode(err, codes.Unavailable) || ctx.Err() != nil {
				return err
			}
			failed = append(failed, aboutJob(ref.String(), err))
			continue
		}
		ok = append(ok, ref.String())
		if c.on("json") {
			if _, err := c.env.Stdout.Write(append(render.AppendMessage(nil, r), '\n')); err != nil {
				return err
			}
		}
	}
	if len(ok) > 0 && !c.on("json") {
		if _, err := fmt.Fprintf(c.env.Stdout, "Updated %s\n", names(ok)); err != nil {
			return err
		}
	}
	if len(failed) > 0 {
		return failed
	}
	return nil
}

// change puts one flag of fctl update into the request.
func (c *call) change(req *fettlev1.UpdateJobRequest, g given) error {
	switch g.flag.name {
	case "any-node":
		req.ClearNodelist = true
		return nil
	case "no-deadline":
		req.DeadlineMs = new(int64)
		return nil
	case "array-limit":
		n, err := strconv.ParseUint(g.value, 10, 32)
		if err != nil || n > gres.MaxArrayElements {
			return g.bad("is not a number from 0 to "+strconv.Itoa(gres.MaxArrayElements), "use 0 for no limit")
		}
		v := uint32(n)
		req.ArrayMaxRunning = &v
		return nil
	}
	o, _, err := flagOption(g)
	if err != nil {
		return err
	}
	switch o.Name {
	case jobscript.OptJobName:
		req.Name = &o.Value
	case jobscript.OptPriority, jobscript.OptRetries:
		n, err := strconv.ParseUint(o.Value, 10, 32)
		if err != nil {
			return o.Wrap(err)
		}
		v := uint32(n)
		if o.Name == jobscript.OptPriority {
			req.Priority = &v
		} else {
			req.Retries = &v
		}
	case jobscript.OptPartition:
		req.Partition = &o.Value
	case jobscript.OptComment:
		req.Comment = &o.Value
	case jobscript.OptTime:
		d, err := gres.ParseTimeLimit(o.Value)
		if err != nil {
			return o.Wrap(err)
		}
		s := limitSeconds(d)
		req.TimeLimitS = &s
	case jobscript.OptNodelist:
		if req.Nodelist, err = gres.ExpandHosts(o.Value); err != nil {
			return o.Wrap(err)
		}
	case jobscript.OptBegin:
		at, err := gres.ParseBegin(o.Value, c.env.Now(), time.Local)
		if err != nil {
			return o.Wrap(err)
		}
		ms := at.UnixMilli()
		req.BeginMs = &ms
	case jobscript.OptDeadline:
		at, err := gres.ParseBegin(o.Value, c.env.Now(), time.Local)
		if err != nil {
			return o.Wrap(err)
		}
		ms := at.UnixMilli()
		req.DeadlineMs = &ms
	case jobscript.OptRequeue:
		no := o.Value == "false"
		req.NoRequeue = &no
	}
	return nil
}
