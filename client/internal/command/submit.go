package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/jobscript"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

func submitCommand() *command {
	cmd := &command{
		name:     "fsubmit",
		brief:    "submit a training config or a batch script",
		synopsis: "fsubmit [flags] CONFIG.yaml [flags]\nfsubmit [flags] SCRIPT [args...]\nfsubmit [flags] --wrap COMMAND\nfsubmit [flags] - < FILE",
		text:     submitText,
		stop: func(args []string) bool {
			// A script's arguments are its own; a config has none, so flags may follow it.
			name := strings.ToLower(args[0])
			return !strings.HasSuffix(name, ".yaml") && !strings.HasSuffix(name, ".yml")
		},
		unknown: unknownOption,
		run:     runSubmit,
	}
	for _, s := range jobscript.Specs() {
		cmd.flags = append(cmd.flags, &option{name: s.Name, short: s.Short, arg: s.Arg, repeat: s.Repeat, help: s.Help, group: "Job"})
	}
	cmd.flags = append(cmd.flags,
		&option{name: "wrap", arg: "COMMAND", help: "run this shell command instead of a script", group: "Submit"},
		&option{name: "parsable", help: "print the job's number and nothing else", group: "Submit"},
		&option{name: "wait", short: "W", help: "end when the job ends, with its exit status", group: "Submit"},
		&option{name: "follow", short: "f", help: "as --wait, and show the job's output meanwhile", group: "Submit"},
		&option{name: "dry-run", help: "check everything, show what would be submitted, submit nothing", group: "Submit"},
		&option{name: "request-id", arg: "KEY", help: "submit at most once under this key: a repeat prints the first one's job number", group: "Submit"},
	)
	return cmd
}

const submitText = `Puts a job into the queue and prints its number. A CONFIG is a LLaMA-Factory YAML, taken as it
is: its method (lora, qlora, full) is read from it or from --method. A SCRIPT is any batch script
that starts with a #! line; it gets the args. "-" reads either from stdin.

What stands after a SCRIPT is the script's, also when it looks like a flag of fsubmit; fsubmit warns
of that. "--" before the SCRIPT or its args says that it is meant.

Options may also stand in the file, in comments at its top:

   #FETTLE --priority 2 --gpus 4
   #SBATCH --time=4:00:00 --job-name=tune

A flag beats #FETTLE, #FETTLE beats #SBATCH, #SBATCH beats the [submit] table of the config file.
An #SBATCH option that fettle lacks is refused by name.

A submit is answered only when a majority of the controllers has it on disk. If the answer is lost
on the way, fsubmit asks again with the same key, so that one command never makes two jobs.


EXIT STATUS
0  submitted; with --wait or --follow: the job completed
1  refused or failed
2  the command line makes no sense
N  with --wait or --follow: the job's own exit status, 128+signal when a signal ended it, 1 when it
   ended otherwise than by completing


ENVIRONMENT
FETTLE_CONTROLLERS  HOST:PORT,... of the controllers
NO_COLOR            switches colours off


FILES
~/.config/fettle/config.toml  controllers = [...], timeout = "20s", and a table [submit] with
                              defaults for options, for example project = "nlp"
/etc/fettle/fettle.toml       the same for all users


EXAMPLES
fsubmit train_lora.yaml --priority 1
fsubmit --gpus h100:4 --time 8:00:00 train_full.yaml --set learning_rate=1e-5
fsubmit --nodes 2 --gpus-per-node 8 --mem 500G train.sh --epochs 3
fsubmit --wrap 'nvidia-smi' --gpus 1 --follow
id=$(fsubmit --parsable prep.sh)


SEE ALSO
fqueue, fcancel, flog, fctl update
`

// unknownOption refuses an option by what package jobscript knows of it.
func unknownOption(written, name, value string, hasValue bool) error {
	_, _, err := jobscript.NewOption(jobscript.OriginFlag, name, value)
	var e *jobscript.Error
	if errors.As(err, &e) && e.Problem == "is not an option of fsubmit" {
		return nil
	}
	return err
}

func runSubmit(ctx context.Context, c *call) error {
	req, warnings, err := c.submission()
	if err != nil {
		return err
	}
	for _, w := range warnings {
		c.note("warning: " + w)
	}
	if req.GetSpec().GetArray() != nil && c.on("follow") {
		return usagef("--follow: shows the output of one job, and this is an array", "use --wait, and flog -f ID_INDEX for one element")
	}
	if c.on("dry-run") {
		return c.dryRun(ctx, req)
	}
	cl, err := c.api()
	if err != nil {
		return err
	}
	r, res, err := submitOne(ctx, cl, &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{req}})
	if err != nil {
		var e *api.Error
		if errors.As(err, &e) && e.Unknown {
			e.Unknown = false
			e.Remedy = "the job may have been submitted all the same: look with fqueue, or repeat with --request-id " + req.GetRequestId()
		}
		return err
	}
	for _, w := range res.GetWarnings() {
		c.note("warning: " + w)
	}
	if err := c.printSubmitted(r, res, req.GetRequestId()); err != nil {
		return err
	}
	switch {
	case c.on("follow"):
		return c.follow(ctx, cl, res.GetJobId())
	case c.on("wait"):
		return c.wait(ctx, cl, res.GetJobId(), r.GetHeader().GetIndex())
	}
	return nil
}

// submitOne sends a request with one job and takes its one result out of the answer.
func submitOne(ctx context.Context, cl *api.Client, req *fettlev1.SubmitJobsRequest) (*fettlev1.SubmitJobsResponse, *fettlev1.SubmitResult, error) {
	r, err := api.Do(ctx, cl, api.Write, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.SubmitJobsResponse, error) {
		return s.SubmitJobs(ctx, req)
	})
	if err != nil {
		return nil, nil, placed(err, req.GetJobs())
	}
	if len(r.GetResults()) != 1 {
		return nil, nil, fmt.Errorf("the controller answered %d results for one job", len(r.GetResults()))
	}
	res := r.GetResults()[0]
	if e := api.FromDetail(res.GetError()); e != nil {
		return nil, nil, placed(e, req.GetJobs())
	}
	return r, res, nil
}

// ofLine is how a controller says which line of a config is wrong.
var ofLine = regexp.MustCompile(`^line (\d+): `)

// placed writes the line of a config that a controller refuses as those that are refused here: FILE:LINE: FIELD: PROBLEM.
func placed(err error, jobs []*fettlev1.JobSubmission) error {
	var e *api.Error
	if !errors.As(err, &e) || len(jobs) != 1 || len(jobs[0].GetSpec().GetConfig()) == 0 {
		return err
	}
	m := ofLine.FindStringSubmatch(e.Problem)
	if m == nil {
		return err
	}
	at := *e
	at.Problem = e.Problem[len(m[0]):]
	name := "stdin"
	if path := jobs[0].GetSpec().GetConfigPath(); path != "" {
		name = filepath.Base(path)
	}
	return fmt.Errorf("%s:%s: %w", show(name), m[1], &at)
}

func (c *call) printSubmitted(r *fettlev1.SubmitJobsResponse, res *fettlev1.SubmitResult, key string) error {
	id := strconv.FormatUint(res.GetJobId(), 10)
	var line string
	switch {
	case c.on("json"):
		b := append([]byte(`{"job_id":`), id...)
		b = render.AppendString(append(b, `,"request_id":`...), key)
		b = strconv.AppendBool(append(b, `,"duplicate":`...), res.GetDuplicate())
		b = strconv.AppendUint(append(b, `,"index":`...), r.GetHeader().GetIndex(), 10)
		b = appendStrings(append(b, `,"warnings":`...), res.GetWarnings())
		line = string(append(b, '}'))
	case c.on("parsable"):
		line = id
	case res.GetDuplicate():
		line = "Submitted job " + id + " (earlier, with this request id)"
	default:
		line = "Submitted job " + id
	}
	_, err := io.WriteString(c.env.Stdout, line+"\n")
	return err
}

func appendStrings(dst []byte, list []string) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = render.AppendString(dst, s)
	}
	return append(dst, ']')
}

// submission makes the job of the command line.
func (c *call) submission() (*fettlev1.JobSubmission, []string, error) {
	file, args, err := c.source()
	if err != nil {
		return nil, nil, err
	}
	var flags []jobscript.Option
	for _, g := range c.flags {
		if g.flag.group != "Job" {
			continue
		}
		o, ok, err := flagOption(g)
		if err != nil {
			return nil, nil, err
		}
		if ok {
			flags = append(flags, o)
		}
	}
	defaults, err := c.defaults()
	if err != nil {
		return nil, nil, err
	}
	options, err := jobscript.Merge(defaults, file.Options, flags)
	if err != nil {
		return nil, nil, err
	}
	b := specBuilder{env: c.env, file: file, options: options, args: args}
	spec, err := b.build()
	if err != nil {
		return nil, nil, err
	}
	warnings := append(append([]string(nil), file.Warnings...), b.warnings...)
	if w := c.strayFlag(args); w != "" {
		warnings = append(warnings, w)
	}
	key := api.NewRequestID()
	if g, ok := c.get("request-id"); ok {
		if err := checkRequestID(g); err != nil {
			return nil, nil, err
		}
		key = g.value
	}
	return &fettlev1.JobSubmission{RequestId: key, Spec: spec}, warnings, nil
}

// strayFlag warns of a script's argument that was probably meant for fsubmit; empty when there is none, or when a "--"
// says that all is meant as it stands.
func (c *call) strayFlag(args []string) string {
	if c.dashdash >= 0 {
		return ""
	}
	s := scanner{flags: c.cmd.allFlags()}
	for _, a := range args {
		if a == "--" {
			break
		}
		var f *option
		if name, ok := strings.CutPrefix(a, "--"); ok {
			name, _, _ = strings.Cut(name, "=")
			a, f = "--"+name, s.long(name)
		} else if name, ok := strings.CutPrefix(a, "-"); ok && name != "" {
			f = s.short(name)
		}
		if f != nil {
			return show(a) + " goes to the script; put it before " + show(c.args[0]) + " if it is meant for fsubmit"
		}
	}
	return ""
}

// flagOption checks one flag that is an option of jobs.
func flagOption(g given) (jobscript.Option, bool, error) {
	o, ok, err := jobscript.NewOption(jobscript.OriginFlag, strings.TrimLeft(g.written, "-"), g.value)
	o.Written = g.written
	var e *jobscript.Error
	if errors.As(err, &e) {
		e.Option = g.written
	}
	return o, ok, err
}

func checkRequestID(g given) error {
	const remedy = "use 1 to 128 letters, digits, dots, dashes and underscores"
	if g.value == "" || len(g.value) > model.MaxRequestID {
		return g.bad("has a wrong length", remedy)
	}
	for i := 0; i < len(g.value); i++ {
		if ch := g.value[i]; !(ch >= 'a' && ch <= 'z' || ch >= 'A' && ch <= 'Z' || ch >= '0' && ch <= '9' || ch == '.' || ch == '-' || ch == '_' || ch == ':') {
			return g.bad("has a character that is not allowed", remedy)
		}
	}
	return nil
}

// defaults are the options of the config file's [submit] table.
func (c *call) defaults() ([]jobscript.Option, error) {
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	var out []jobscript.Option
	for _, d := range cfg.Submit {
		if d.Value == "false" {
			continue
		}
		o, ok, err := jobscript.NewOption(jobscript.OriginDefault, d.Option, d.Value)
		if err != nil {
			var e *jobscript.Error
			if errors.As(err, &e) {
				e.Option = "submit." + d.Option
			}
			return nil, fmt.Errorf("config file: %w", err)
		}
		if ok {
			out = append(out, o)
		}
	}
	return out, nil
}

// source reads what is to be submitted; args are the script's arguments.
func (c *call) source() (*jobscript.File, []string, error) {
	if g, ok := c.get("wrap"); ok {
		if len(c.args) > 0 {
			return nil, nil, usagef("--wrap takes no file, but "+render.Quote(show(c.args[0]))+" was given", "quote the whole command")
		}
		f, err := jobscript.Wrap(g.value)
		return f, nil, err
	}
	if len(c.args) == 0 {
		return nil, nil, usagef("no file given", "name a CONFIG.yaml or a SCRIPT, - for stdin, or use --wrap COMMAND")
	}
	name, args := c.args[0], c.args[1:]
	var data []byte
	var err error
	if name == "-" {
		if c.env.In.TTY {
			c.note("reading the script or config from the terminal; end it with Ctrl-D")
		}
		name = "stdin"
		data, err = io.ReadAll(io.LimitReader(c.env.Stdin, jobscript.MaxFile+1))
	} else {
		data, err = readFile(name, jobscript.MaxFile+1)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %s", show(name), fileProblem(err))
	}
	f, err := jobscript.Parse(name, data)
	if err != nil {
		return nil, nil, err
	}
	if f.Kind == jobscript.KindYAML && len(args) > 0 {
		return nil, nil, usagef("unexpected argument "+render.Quote(show(args[0])), "a training config takes no arguments; override its keys with --set KEY=VALUE")
	}
	for _, a := range args {
		if !utf8.ValidString(a) {
			return nil, nil, usagef("argument "+render.Quote(show(a))+": is not valid UTF-8", "write it in UTF-8")
		}
	}
	return f, args, nil
}

// readFile reads at most limit bytes of a regular file, pipe or the like.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// fileProblem says what is wrong with a file, and what to do.
func fileProblem(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "there is no such file; check the path"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied; make the file readable"
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		if strings.Contains(p.Err.Error(), "is a directory") {
			return "is a directory; name a CONFIG.yaml or a SCRIPT"
		}
		return p.Err.Error()
	}
	return err.Error()
}

// dryRun asks the controller what would come of the job.
func (c *call) dryRun(ctx context.Context, job *fettlev1.JobSubmission) error {
	cl, err := c.api()
	if err != nil {
		return err
	}
	_, res, err := submitOne(ctx, cl, &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{job}, DryRun: true})
	if err != nil {
		return err
	}
	spec := res.GetSpec()
	if spec == nil {
		spec = job.GetSpec()
	}
	if c.on("json") {
		b := appendStrings([]byte(`{"dry_run":true,"warnings":`), res.GetWarnings())
		b = render.AppendMessage(append(b, `,"spec":`...), spec)
		b = render.AppendString(append(b, `,"rendered_config":`...), string(res.GetRenderedConfig()))
		b = append(b, `,"estimate":`...)
		if res.GetEstimate() == nil {
			b = append(b, "null"...)
		} else {
			b = render.AppendMessage(b, res.GetEstimate())
		}
		b = render.AppendMessage(append(b, `,"start":`...), res.GetStart())
		_, err := c.env.Stdout.Write(append(b, '}', '\n'))
		return err
	}
	for _, w := range res.GetWarnings() {
		c.note("warning: " + w)
	}
	w := bufio.NewWriter(c.env.Stdout)
	fmt.Fprintln(w, "Dry run: nothing was submitted.")
	writeFields(w, specFields(spec))
	writeFields(w, []field{{"Expected start", c.startText(res.GetStart())}})
	if e := res.GetEstimate(); e.GetNeedMib() > 0 {
		fmt.Fprintf(w, "Memory per GPU: %s", render.Size(e.GetNeedMib()))
		for i, t := range e.GetTerms() {
			sep := " + "
			if i == 0 {
				sep = " = "
			}
			fmt.Fprintf(w, "%s%s %s", sep, render.Line(t.GetName()), render.Size(t.GetMib()))
		}
		fmt.Fprintln(w)
	}
	if cfg := res.GetRenderedConfig(); len(cfg) > 0 {
		fmt.Fprintln(w, "Config as the trainer would get it:")
		for line := range strings.SplitSeq(strings.TrimRight(string(cfg), "\n"), "\n") {
			fmt.Fprintln(w, "  "+render.Lines(line))
		}
	}
	return w.Flush()
}
