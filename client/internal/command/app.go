package command

import (
	"context"
	"errors"
	"io"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/config"
	"github.com/fettle-hpc/fettle/client/internal/local"
	"github.com/fettle-hpc/fettle/client/jobscript"
	"github.com/fettle-hpc/fettle/client/render"
	"github.com/fettle-hpc/fettle/proto/version"
)

// Exit statuses.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// command is one command or, with subs, a family of them.
type command struct {
	// name is one word; path is the whole name, such as "fctl show job".
	name, path string
	// brief is one line, synopsis one or more lines of usage, text the long description.
	brief    string
	synopsis string
	text     string
	flags    []*option
	subs     []*command
	// stop and unknown are handed to scan.
	stop    func(args []string) bool
	unknown func(written, name, value string, hasValue bool) error
	run     func(ctx context.Context, c *call) error
}

// names of the commands that are programs of their own.
var programs = []struct {
	name  string
	build func() *command
}{
	{"fsubmit", submitCommand},
	{"fqueue", queueCommand},
	{"fcancel", cancelCommand},
	{"finfo", infoCommand},
	{"flog", logCommand},
	{"fctl", ctlCommand},
}

// Main runs the command that args[0] names and returns its exit status. args[0] may be a path; `fettle NAME` is NAME.
func Main(ctx context.Context, args []string, env *Env) int {
	name := "fettle"
	if len(args) > 0 {
		name = filepath.Base(args[0])
		args = args[1:]
	}
	root := program(name)
	if root == nil {
		name = "fettle"
		if len(args) > 0 {
			if p := program(args[0]); p != nil {
				root, name, args = p, args[0], args[1:]
			}
		}
	}
	if root == nil {
		root = fettleCommand()
	}
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	return report(env, name, dispatch(ctx, root, args, env))
}

func program(name string) *command {
	for _, p := range programs {
		if p.name == name {
			return p.build()
		}
	}
	return nil
}

// dispatch finds the sub-command, parses its flags and runs it.
func dispatch(ctx context.Context, root *command, args []string, env *Env) error {
	root.setPaths("")
	if completing(args) {
		return complete(ctx, root, args, env)
	}
	cmd := root
	// Flags of the whole family may stand before the sub-command's name.
	var before []string
	for len(cmd.subs) > 0 {
		i, next := nextWord(args, allFlags(root))
		if next == "" {
			break
		}
		sub := cmd.sub(next)
		if sub == nil {
			return withHint(cmd.unknownSub(next), cmd)
		}
		before = append(before, args[:i]...)
		args = args[i+1:]
		cmd = sub
	}
	p, err := scan(append(before, args...), cmd.allFlags(), cmd.stop, cmd.unknown)
	if err != nil {
		return withHint(err, cmd)
	}
	c := &call{env: env, cmd: cmd, flags: p.flags, args: p.args, dashdash: p.dashdash}
	defer c.close()
	switch {
	case c.on("help"):
		_, err := io.WriteString(env.Stdout, helpText(cmd))
		return err
	case c.on("version"):
		_, err := io.WriteString(env.Stdout, root.name+" "+version.Version+"\n")
		return err
	}
	return withHint(runApp(ctx, root, cmd, c, func(cc *cli.Context) error {
		if cmd.run != nil {
			return cmd.run(cc.Context, c)
		}
		if len(c.flags) == 0 && len(c.args) == 0 {
			_, _ = io.WriteString(env.Stderr, helpText(cmd))
			return &silent{exitUsage}
		}
		return usagef("needs a command", "one of "+strings.Join(cmd.subNames(), ", "))
	}), cmd)
}

// setPaths gives the command and all below it their whole names.
func (cmd *command) setPaths(parent string) {
	cmd.path = strings.TrimPrefix(parent+" "+cmd.name, " ")
	for _, s := range cmd.subs {
		s.setPaths(cmd.path)
	}
}

// nextWord finds the first argument that is neither a flag nor a flag's value.
func nextWord(args []string, flags []*option) (int, string) {
	s := scanner{flags: flags}
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			return 0, ""
		}
		if len(a) < 2 || a[0] != '-' {
			return i, a
		}
		var f *option
		if strings.HasPrefix(a, "--") {
			if strings.Contains(a, "=") {
				continue
			}
			f = s.long(a[2:])
		} else if len(a) == 2 {
			f = s.short(a[1:])
		}
		if f != nil && f.arg != "" {
			i++
		}
	}
	return 0, ""
}

func (cmd *command) sub(name string) *command {
	for _, s := range cmd.subs {
		if s.name == name {
			return s
		}
	}
	return nil
}

func (cmd *command) subNames() []string {
	names := make([]string, len(cmd.subs))
	for i, s := range cmd.subs {
		names[i] = s.name
	}
	return names
}

func (cmd *command) unknownSub(name string) error {
	names := cmd.subNames()
	if cmd.name == "fettle" {
		for _, p := range programs {
			names = append(names, p.name)
		}
	}
	remedy := "one of " + strings.Join(names, ", ")
	if near := nearest(name, names); near != "" {
		remedy = "did you mean " + near + "?"
	}
	return usagef("unknown command "+render.Quote(show(name)), remedy)
}

// allFlags is a command's own flags and those that every command has; its own win.
func (cmd *command) allFlags() []*option {
	out := slices.Clone(cmd.flags)
	for _, f := range commonFlags {
		if !slices.ContainsFunc(cmd.flags, func(own *option) bool { return own.name == f.name }) {
			out = append(out, f)
		}
	}
	return out
}

// allFlags is the flags of a whole family.
func allFlags(cmd *command) []*option {
	out := cmd.allFlags()
	for _, s := range cmd.subs {
		out = append(out, allFlags(s)...)
	}
	return out
}

var commonFlags = []*option{
	{name: "controllers", short: "M", arg: "HOST:PORT,...", help: "controllers to ask (default: see FILES)", group: "General"},
	{name: "json", help: "write JSON", group: "General"},
	{name: "help", short: "h", help: "show this text", group: "General"},
	{name: "version", short: "V", help: "show the version", group: "General"},
}

// call is one run of a command.
type call struct {
	env      *Env
	cmd      *command
	flags    []given
	args     []string
	dashdash int

	cfg    *config.Config
	client *api.Client
}

// on reports whether a flag was given.
func (c *call) on(name string) bool {
	_, ok := c.get(name)
	return ok
}

// get returns the last value of a flag and how it was written.
func (c *call) get(name string) (given, bool) {
	for i := len(c.flags) - 1; i >= 0; i-- {
		if c.flags[i].flag.name == name {
			return c.flags[i], true
		}
	}
	return given{}, false
}

// all returns every value of a flag.
func (c *call) all(name string) []given {
	var out []given
	for _, g := range c.flags {
		if g.flag.name == name {
			out = append(out, g)
		}
	}
	return out
}

// bad refuses a flag's value.
func (g given) bad(problem, remedy string) error {
	return usagef(g.written+" "+render.Quote(g.value)+": "+problem, remedy)
}

// noArgs refuses arguments.
func (c *call) noArgs() error {
	if len(c.args) > 0 {
		return usagef("unexpected argument "+render.Quote(show(c.args[0])), "")
	}
	return nil
}

// config reads where the controllers are.
func (c *call) config() (*config.Config, error) {
	if c.cfg != nil {
		return c.cfg, nil
	}
	g, set := c.get("controllers")
	cfg, err := config.Load(config.Sources{
		Flag: g.value, FlagSet: set,
		Env:        c.env.Getenv("FETTLE_CONTROLLERS"),
		UserFile:   config.UserFile(c.env.Getenv),
		SystemFile: c.env.SystemConfig,
		Local: func() []string {
			dir, err := local.DefaultDir(c.env.Getenv)
			if err != nil {
				return nil
			}
			return local.Controllers(dir)
		},
	})
	if err != nil {
		var ce *config.Error
		if errors.As(err, &ce) && ce.Where == "--controllers" {
			return nil, &usageError{msg: err.Error()}
		}
		return nil, err
	}
	c.cfg = &cfg
	return c.cfg, nil
}

// api returns the connection to the controllers.
func (c *call) api() (*api.Client, error) {
	if c.client != nil {
		return c.client, nil
	}
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	if len(cfg.Controllers) == 0 {
		return nil, errors.New("no controllers are known; start a cluster here with fettle up, or name its controllers with -M, FETTLE_CONTROLLERS or in ~/.config/fettle/config.toml")
	}
	c.client, err = api.New(api.Config{Controllers: cfg.Controllers, Timeout: cfg.Timeout,
		UserAgent: "fettle/" + version.Version})
	return c.client, err
}

func (c *call) close() {
	if c.client != nil {
		_ = c.client.Close()
	}
}

// stay says that the command may run for long.
func (c *call) stay() {
	if c.env.Stay != nil {
		c.env.Stay()
	}
}

// note writes one line to stderr.
func (c *call) note(msg string) {
	_, _ = io.WriteString(c.env.Stderr, c.cmd.root()+": "+render.Line(msg)+"\n")
}

// root is the program's name.
func (cmd *command) root() string {
	name, _, _ := strings.Cut(cmd.path, " ")
	return name
}

// silent ends the command with a status and says no more.
type silent struct{ code int }

func (e *silent) Error() string { return "exit status" }

// several is more than one error, one line each.
type several []error

func (e several) Error() string { return e[0].Error() }

// withHint adds where to read more to the errors of a command line.
func withHint(err error, cmd *command) error {
	var u *usageError
	if errors.As(err, &u) && u.hint {
		return &usageError{msg: u.msg + "; see " + cmd.path + " --help"}
	}
	return err
}

// report prints err and returns the exit status.
func report(env *Env, name string, err error) int {
	if err == nil {
		return exitDone
	}
	var quiet *silent
	if errors.As(err, &quiet) {
		return quiet.code
	}
	if errors.Is(err, errClosedPipe) || errors.Is(err, syscall.EPIPE) {
		return exitDone
	}
	line := func(err error) {
		_, _ = io.WriteString(env.Stderr, name+": error: "+render.Line(explain(err))+"\n")
	}
	var many several
	var script jobscript.Errors
	switch {
	case errors.As(err, &many):
		for _, e := range many {
			line(e)
		}
	case errors.As(err, &script):
		for _, e := range script {
			line(e)
		}
	default:
		line(err)
	}
	return exitStatus(err)
}

var errClosedPipe = io.ErrClosedPipe

// explain is an error's text, with what is known of its outcome.
func explain(err error) string {
	var e *api.Error
	if errors.As(err, &e) && e.Unknown {
		return err.Error() + " (it is not known whether it was done)"
	}
	return err.Error()
}

func exitStatus(err error) int {
	var u *usageError
	var script *jobscript.Error
	switch {
	case errors.As(err, &u):
		return exitUsage
	case errors.As(err, &script) && script.File == "" && script.Origin == jobscript.OriginFlag:
		return exitUsage
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return exitFailed
}
