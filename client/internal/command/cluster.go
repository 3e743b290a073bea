package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fettle-hpc/fettle/client/internal/local"
	"github.com/fettle-hpc/fettle/client/render"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

func fettleCommand() *command {
	dir := &option{name: "dir", arg: "DIR", help: "where the cluster lives (default: see FILES)"}
	return &command{
		name:     "fettle",
		brief:    "a scheduler for fine-tuning: run a whole cluster on this machine, or any of its commands",
		synopsis: "fettle up|down|status [flags]\nfettle fsubmit|fqueue|fcancel|finfo|flog|fctl ...",
		text:     fettleText,
		subs: []*command{
			{name: "up", brief: "start a cluster on this machine, or what is missing of it", synopsis: "fettle up [flags]", text: upText, run: runUp, flags: []*option{
				dir,
				{name: "controllers", arg: "N", help: "controllers: 1, 3, 5 or 7 (default 3)"},
				{name: "nodes", arg: "N", help: "node daemons (default 1)"},
				{name: "gpus", arg: "N", help: "declare N GPUs on each node, 0 for none (default: the first node detects those of the machine)"},
				{name: "gpu-type", arg: "TYPE", help: "type of the declared GPUs, for example h100"},
				{name: "cpus", arg: "N", help: "CPU cores that each node offers (default: those of the machine)"},
				{name: "mem", arg: "SIZE", help: "memory that each node offers, for example 64G (default: that of the machine)"},
				{name: "engine", arg: "COMMAND", help: "the trainer, for example /opt/venv/bin/llamafactory-cli"},
				{name: "scheduler", arg: "NAME|PATH", help: "the scheduling policy: built-in, a fettle-sched-NAME beside the daemons, or the path of one"},
				{name: "bin-dir", arg: "DIR", help: "where fettle-ctld and fettle-noded are (default: beside fettle)"},
				{name: "timeout", arg: "TIME", help: "give up waiting after this long (default 1m)"},
			}},
			{name: "down", brief: "end the cluster on this machine", synopsis: "fettle down [flags]", text: downText, run: runDown, flags: []*option{
				dir,
				{name: "force", short: "f", help: "cancel running jobs without asking, and end the daemons even when jobs cannot be cancelled"},
				{name: "keep-jobs", help: "leave running jobs alone: they go on, and the next fettle up finds them"},
				{name: "grace", arg: "TIME", help: "kill daemons that have not ended after this long (default 10s)"},
				{name: "wipe", help: "remove the queue, the logs and everything else of the cluster afterwards"},
			}},
			{name: "status", brief: "show the daemons on this machine", synopsis: "fettle status [flags]", text: statusText, run: runStatus, flags: []*option{
				dir,
				{name: "pid", arg: "NAME", help: "print the process id of this daemon and nothing else"},
			}},
			{name: "completion", brief: "print completions for a shell", synopsis: "fettle completion bash|zsh|fish", text: completionText, run: runCompletion},
		},
	}
}

const fettleText = `fettle up makes a cluster of real daemons on this machine; the commands then find it by themselves.
fsubmit, fqueue, fcancel, finfo, flog and fctl are links to this program, each with its own --help.


FILES
$FETTLE_STATE_DIR, else $XDG_STATE_HOME/fettle, else ~/.local/state/fettle
                   the cluster: for each daemon a directory with its config, log, pid and data


EXAMPLES
fettle up --gpus 8 --gpu-type h100
fsubmit --gpus 1 --wrap 'echo $CUDA_VISIBLE_DEVICES' --follow
fettle status
fettle down
`

const upText = `Starts controllers and node daemons in sessions of their own, on free ports of the loopback
interface, and waits until a leader is elected and all nodes are up. When the cluster is there
already it starts only what is missing: run it again after killing a daemon. Node daemons whose
settings change are started again; running jobs do not notice.

Declared GPUs exist on paper only: jobs get their numbers in CUDA_VISIBLE_DEVICES, and finfo marks
them as declared. More than one node without --gpus: only the first one gets the machine's GPUs.
`

const downText = `Ends the daemons that fettle up has started, node daemons first. When jobs are running it asks, and
then cancels them; without a terminal it refuses unless --force or --keep-jobs is given. The queue
stays on disk for the next fettle up, unless --wipe is given.
`

const statusText = `Shows each daemon with its role, process id, port and log. The exit status is 0 when all run, a
controller leads and all nodes are up, else 1.
`

// dir is the directory of the local cluster.
func (c *call) dir() (string, error) {
	if g, ok := c.get("dir"); ok {
		if strings.TrimSpace(g.value) == "" {
			return "", g.bad("is empty", "name a directory")
		}
		if filepath.IsAbs(g.value) {
			return filepath.Clean(g.value), nil
		}
		cwd, err := c.env.Getwd()
		if err != nil {
			return "", err
		}
		return filepath.Join(cwd, g.value), nil
	}
	return local.DefaultDir(c.env.Getenv)
}

// number reads a flag's whole number from lo to hi; nil when it was not given.
func (c *call) number(name string, lo, hi int) (*int, error) {
	g, ok := c.get(name)
	if !ok {
		return nil, nil
	}
	n, err := strconv.Atoi(strings.TrimSpace(g.value))
	if err != nil || n < lo || n > hi {
		return nil, g.bad("is not a number from "+strconv.Itoa(lo)+" to "+strconv.Itoa(hi), "")
	}
	return &n, nil
}

func (c *call) upOptions() (o local.Options, err error) {
	if o.Dir, err = c.dir(); err != nil {
		return o, err
	}
	for _, f := range []struct {
		name   string
		hi     int
		target *int
	}{{"controllers", local.MaxControllers, &o.Controllers}, {"nodes", local.MaxNodes, &o.Nodes}} {
		n, err := c.number(f.name, 1, f.hi)
		if err != nil {
			return o, err
		}
		if n != nil {
			*f.target = *n
		}
	}
	if o.Controllers > 0 && o.Controllers%2 == 0 {
		g, _ := c.get("controllers")
		return o, g.bad("is an even number, and with that no more may fail than with one fewer", "use 1, 3, 5 or 7")
	}
	if o.GPUs, err = c.number("gpus", 0, model.MaxGPUsPerNode); err != nil {
		return o, err
	}
	if o.CPUs, err = c.number("cpus", 1, model.MaxCPUsPerNode); err != nil {
		return o, err
	}
	if g, ok := c.get("gpu-type"); ok {
		t, err := gres.ParseType(g.value)
		if err != nil {
			return o, g.wrap(err)
		}
		o.GPUType = &t
	}
	if g, ok := c.get("mem"); ok {
		mib, err := gres.ParseSize(g.value)
		if err != nil {
			return o, g.wrap(err)
		}
		if mib == 0 || mib > model.MaxMemMiBPerNode {
			return o, g.bad("is not between 1M and 64T", "")
		}
		o.MemoryMiB = &mib
	}
	if g, ok := c.get("engine"); ok {
		if strings.TrimSpace(g.value) == "" || strings.ContainsAny(g.value, "\n\x00") {
			return o, g.bad("is not a command", "use for example /opt/venv/bin/llamafactory-cli")
		}
		o.Engine = &g.value
	}
	if g, ok := c.get("scheduler"); ok {
		name, err := c.scheduler(g)
		if err != nil {
			return o, err
		}
		o.Scheduler = &name
	}
	if g, ok := c.get("timeout"); ok {
		d, err := time.ParseDuration(g.value)
		if err != nil || d < time.Second || d > time.Hour {
			return o, g.bad("is not a time from 1s to 1h", "use for example 30s")
		}
		o.Timeout = d
	}
	if g, ok := c.get("bin-dir"); ok {
		o.BinDir = g.value
		if !filepath.IsAbs(o.BinDir) {
			cwd, err := c.env.Getwd()
			if err != nil {
				return o, err
			}
			o.BinDir = filepath.Join(cwd, o.BinDir)
		}
	} else {
		exe, err := c.env.Executable()
		if err != nil {
			return o, err
		}
		if resolved, err := filepath.EvalSymlinks(exe); err == nil {
			exe = resolved
		}
		o.BinDir = filepath.Dir(exe)
	}
	o.Environ = c.env.Environ()
	return o, nil
}

// scheduler reads the name of a policy, or makes the path of one absolute.
func (c *call) scheduler(g given) (string, error) {
	v := g.value
	switch {
	case strings.TrimSpace(v) == "" || strings.ContainsAny(v, "\n\x00"):
		return "", g.bad("is not a name", "use built-in, the NAME of a fettle-sched-NAME, or its path")
	case !strings.Contains(v, "/"), filepath.IsAbs(v):
		return v, nil
	}
	cwd, err := c.env.Getwd()
	return filepath.Join(cwd, v), err
}

func runUp(ctx context.Context, c *call) error {
	if err := c.noArgs(); err != nil {
		return err
	}
	o, err := c.upOptions()
	if err != nil {
		return err
	}
	o.Say = func(msg string) {
		if !c.on("json") {
			_, _ = io.WriteString(c.env.Stderr, "  "+render.Line(msg)+"\n")
		}
	}
	began := c.env.Now()
	n, err := local.Up(ctx, o)
	if err != nil {
		return err
	}
	st, err := local.Look(ctx, o.Dir)
	if err != nil {
		return err
	}
	if c.on("json") {
		return c.statusJSON(st)
	}
	w := bufio.NewWriter(c.env.Stdout)
	if n == 0 {
		fmt.Fprintln(w, "The cluster is up already.")
	} else {
		fmt.Fprintf(w, "The cluster is up after %.1f s.\n", c.env.Now().Sub(began).Seconds())
	}
	if err := c.writeStatus(w, st); err != nil {
		return err
	}
	return w.Flush()
}

func runStatus(ctx context.Context, c *call) error {
	if err := c.noArgs(); err != nil {
		return err
	}
	dir, err := c.dir()
	if err != nil {
		return err
	}
	st, err := local.Look(ctx, dir)
	if err != nil {
		return err
	}
	if g, ok := c.get("pid"); ok {
		return c.printPID(st, g)
	}
	if c.on("json") {
		err = c.statusJSON(st)
	} else {
		w := bufio.NewWriter(c.env.Stdout)
		if err = c.writeStatus(w, st); err == nil {
			err = w.Flush()
		}
	}
	if err == nil && !st.Healthy() {
		return &silent{exitFailed}
	}
	return err
}

func (c *call) printPID(st local.Status, g given) error {
	for _, d := range append(st.Controllers, st.Nodes...) {
		if d.Name != g.value {
			continue
		}
		if !d.Alive {
			return errors.New(d.Name + " does not run; start it with fettle up")
		}
		_, err := fmt.Fprintln(c.env.Stdout, d.PID)
		return err
	}
	return g.bad("there is no such daemon", "see fettle status for their names")
}

// writeStatus prints the daemons and what to try.
func (c *call) writeStatus(w *bufio.Writer, st local.Status) error {
	t := render.NewTable(render.Column{Title: "DAEMON"}, render.Column{Title: "ROLE"}, render.Column{Title: "PID", Right: true},
		render.Column{Title: "PORT", Right: true}, render.Column{Title: "LOG", Shrink: 20})
	for _, d := range append(st.Controllers, st.Nodes...) {
		t.Text(d.Name)
		t.Styled(roleStyle(d), d.Role)
		pid, port := "-", "-"
		if d.Alive {
			pid = strconv.Itoa(d.PID)
		}
		if len(d.Ports) > 0 {
			port = strconv.Itoa(d.Ports[0])
		}
		t.Text(pid)
		t.Text(port)
		t.Text(d.Log)
	}
	if err := t.Write(w, c.env.Out); err != nil {
		return err
	}
	if st.Known {
		fmt.Fprintf(w, "Jobs: %s waiting, %s active.\n", render.Count(st.Waiting), render.Count(st.Active))
	}
	if addrs := c.unusual(st); addrs != "" {
		fmt.Fprintf(w, "To use it: export %s\n", addrs)
	}
	var tries [][2]string
	leader, nodeUp, ended := 0, 0, false
	for _, d := range st.Controllers {
		ended = ended || !d.Alive
		if d.Role == "leader" {
			leader = d.PID
		}
	}
	for _, d := range st.Nodes {
		ended = ended || !d.Alive
		if d.Alive {
			nodeUp = d.PID
		}
	}
	up := "fettle up"
	if g, ok := c.get("dir"); ok {
		up += " --dir " + render.Line(g.value)
	}
	if ended {
		tries = append(tries, [2]string{up, "start again what has ended"})
	}
	if leader > 0 {
		tries = append(tries, [2]string{"fsubmit --wrap 'sleep 60; echo done' --follow", "a job, with its output"})
		if len(st.Controllers) > 1 {
			tries = append(tries, [2]string{fmt.Sprintf("kill -9 %d; fqueue", leader), "kill the leader: another takes over in seconds, jobs run on"})
		}
	}
	if nodeUp > 0 {
		tries = append(tries, [2]string{fmt.Sprintf("kill -9 %d; %s", nodeUp, up), "kill a node daemon and start it again: its jobs do not notice"})
	}
	if len(tries) == 0 {
		return nil
	}
	fmt.Fprintln(w, "Try:")
	width := 0
	for _, l := range tries {
		width = max(width, len(l[0]))
	}
	for _, l := range tries {
		fmt.Fprintf(w, "  %-*s  %s\n", width, l[0], c.env.Out.Paint(render.Dim, l[1]))
	}
	return nil
}

// unusual is the setting that other commands need to find a cluster that is not in the default place.
func (c *call) unusual(st local.Status) string {
	if def, err := local.DefaultDir(c.env.Getenv); err == nil && def == st.Dir {
		return ""
	}
	return "FETTLE_STATE_DIR=" + render.Line(st.Dir)
}

func roleStyle(d local.Daemon) render.Style {
	switch d.Role {
	case "leader", "up":
		return render.Green
	case "follower":
		return render.Plain
	case "joining", "not registered":
		return render.Yellow
	}
	return render.Red
}

func (c *call) statusJSON(st local.Status) error {
	b := render.AppendString([]byte(`{"dir":`), st.Dir)
	for _, list := range []struct {
		name    string
		daemons []local.Daemon
	}{{"controllers", st.Controllers}, {"nodes", st.Nodes}} {
		b = append(b, `,"`+list.name+`":[`...)
		for i, d := range list.daemons {
			if i > 0 {
				b = append(b, ',')
			}
			b = render.AppendString(append(b, `{"name":`...), d.Name)
			b = strconv.AppendInt(append(b, `,"pid":`...), int64(d.PID), 10)
			b = strconv.AppendBool(append(b, `,"alive":`...), d.Alive)
			b = append(b, `,"ports":[`...)
			for k, p := range d.Ports {
				if k > 0 {
					b = append(b, ',')
				}
				b = strconv.AppendInt(b, int64(p), 10)
			}
			b = render.AppendString(append(b, `],"role":`...), d.Role)
			b = render.AppendString(append(b, `,"log":`...), d.Log)
			b = append(b, '}')
		}
		b = append(b, ']')
	}
	_, err := c.env.Stdout.Write(append(b, "}\n"...))
	return err
}

func runDown(ctx context.Context, c *call) error {
	if err := c.noArgs(); err != nil {
		return err
	}
	if c.on("keep-jobs") && c.on("wipe") {
		return usagef("--wipe: contradicts --keep-jobs", "give one of them")
	}
	grace := local.DefaultGrace
	if g, ok := c.get("grace"); ok {
		var err error
		if grace, err = time.ParseDuration(g.value); err != nil || grace < 0 || grace > time.Hour {
			return g.bad("is not a time up to 1h", "use for example 30s")
		}
	}
	dir, err := c.dir()
	if err != nil {
		return err
	}
	cl, err := local.Open(ctx, dir)
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := c.settleJobs(ctx, cl); err != nil {
		return err
	}
	ended, err := cl.Down(grace, func(msg string) {
		if !c.on("json") {
			_, _ = io.WriteString(c.env.Stderr, "  "+render.Line(msg)+"\n")
		}
	})
	if err != nil {
		return err
	}
	if c.on("wipe") {
		if err := cl.Wipe(); err != nil {
			return err
		}
	}
	if c.on("json") {
		b := appendStrings(append(render.AppendString([]byte(`{"dir":`), dir), `,"ended":`...), ended)
		_, err := c.env.Stdout.Write(append(b, "}\n"...))
		return err
	}
	msg := "The cluster is down."
	switch {
	case c.on("wipe"):
		msg = "The cluster is down, and its state is removed."
	case len(ended) == 0:
		msg = "The cluster was down already."
	}
	_, err = fmt.Fprintln(c.env.Stdout, msg)
	return err
}

// settleJobs sees to it that no running job is left behind unasked.
func (c *call) settleJobs(ctx context.Context, cl *local.Cluster) error {
	if c.on("keep-jobs") {
		return nil
	}
	jobs, known := cl.Running(ctx)
	ids := jobs.IDs
	switch {
	case !known || len(ids) == 0:
		return nil
	case c.on("force"):
	case c.env.In.TTY:
		verb := " are"
		if len(ids) == 1 {
			verb = " is"
		}
		if err := c.ask(ctx, render.Plural(uint64(len(ids)), "job")+verb+" running. Cancel and go on?"); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%s running: %s; use --force to cancel, --keep-jobs to leave running", render.Plural(uint64(len(ids)), "job"), gres.FormatJobIDs(ids))
	}
	_, _ = fmt.Fprintf(c.env.Stderr, "  cancelling %s, with up to %s to end\n", render.Plural(uint64(len(ids)), "job"), jobs.Grace)
	err := cl.CancelJobs(ctx, jobs)
	if err != nil && c.on("force") && ctx.Err() == nil {
		c.note("warning: " + err.Error() + "; going on all the same")
		return nil
	}
	return err
}
