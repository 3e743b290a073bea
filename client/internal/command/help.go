package command

import (
	"context"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/fettle-hpc/fettle/proto/version"
)

// completionFlag is what the completion scripts add to the words typed so far.
const completionFlag = "--generate-bash-completion"

// newApp builds the frame for one run: the tree of commands with their help and completion. action is what cmd does, and
// flags are those that each command has. The frame's own help and version flags are variables of its package, shared by
// all runs; they are hidden, and ours of the same names take their place.
func newApp(root, cmd *command, env *Env, flags func(*command) []*option, action cli.ActionFunc) *cli.App {
	return &cli.App{
		Name: root.name, HelpName: root.name, Usage: root.brief, Version: version.Version,
		HideHelp: true, HideHelpCommand: true, HideVersion: true, EnableBashCompletion: true, DisableSliceFlagSeparator: true,
		Writer: env.Stdout, ErrWriter: env.Stderr,
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   usageProblem,
		Flags:          cliFlags(flags(root)), Commands: cliCommands(root, cmd, flags, action), Action: action,
	}
}

func cliCommands(parent, chosen *command, flags func(*command) []*option, action cli.ActionFunc) []*cli.Command {
	var out []*cli.Command
	for _, s := range parent.subs {
		c := &cli.Command{
			Name: s.name, Usage: s.brief, HideHelp: true, HideHelpCommand: true, OnUsageError: usageProblem,
			Subcommands: cliCommands(s, chosen, flags, action), Flags: cliFlags(flags(s)),
		}
		if s == chosen {
			c.Action = action
		}
		out = append(out, c)
	}
	return out
}

func usageProblem(_ *cli.Context, err error, _ bool) error { return &usageError{msg: err.Error()} }

func cliFlags(flags []*option) []cli.Flag {
	var out []cli.Flag
	for _, f := range flags {
		var aliases []string
		if f.short != "" {
			aliases = []string{f.short}
		}
		switch {
		case f.arg == "":
			out = append(out, &cli.BoolFlag{Name: f.name, Aliases: aliases, Usage: f.help})
		case f.repeat:
			out = append(out, &cli.StringSliceFlag{Name: f.name, Aliases: aliases, Usage: f.help})
		default:
			out = append(out, &cli.StringFlag{Name: f.name, Aliases: aliases, Usage: f.help})
		}
	}
	return out
}

// runApp lets the frame run cmd with a parsed command line, written in its plainest form. It is told only of the flags
// that were given: making all of them takes longer than everything else before the first byte is sent.
func runApp(ctx context.Context, root, cmd *command, c *call, action cli.ActionFunc) error {
	words := strings.Split(cmd.path, " ")
	var flags []*option
	for _, g := range c.flags {
		if !slices.Contains(flags, g.flag) {
			flags = append(flags, g.flag)
		}
		if g.flag.arg == "" {
			words = append(words, "--"+g.flag.name)
		} else {
			words = append(words, "--"+g.flag.name+"="+g.value)
		}
	}
	words = append(append(words, "--"), c.args...)
	return newApp(root, cmd, c.env, func(of *command) []*option {
		if of == cmd {
			return flags
		}
		return nil
	}, action).RunContext(ctx, words)
}

// completing reports whether the shell asks for completions.
func completing(args []string) bool {
	return len(args) > 0 && args[len(args)-1] == completionFlag
}

// complete prints what may come next on the command line.
func complete(ctx context.Context, root *command, args []string, env *Env) error {
	return newApp(root, nil, env, (*command).allFlags, nil).RunContext(ctx, append([]string{root.name}, args...))
}

// helpText is a command's help, laid out like a manual page.
func helpText(cmd *command) string {
	var b strings.Builder
	path := cmd.path
	if path == "" {
		path = cmd.name
	}
	b.WriteString("NAME\n   " + path + " - " + cmd.brief + "\n\nSYNOPSIS\n")
	indent(&b, cmd.synopsis)
	if cmd.text != "" {
		desc, rest, _ := strings.Cut(cmd.text, "\n\n\n")
		b.WriteString("\nDESCRIPTION\n")
		indent(&b, desc)
		cmdList(&b, cmd)
		optionList(&b, cmd)
		for rest != "" {
			var section string
			section, rest, _ = strings.Cut(rest, "\n\n\n")
			title, body, _ := strings.Cut(strings.TrimLeft(section, "\n"), "\n")
			b.WriteString("\n" + title + "\n")
			indent(&b, body)
		}
	} else {
		cmdList(&b, cmd)
		optionList(&b, cmd)
	}
	return b.String()
}

func indent(b *strings.Builder, text string) {
	for line := range strings.SplitSeq(strings.Trim(text, "\n"), "\n") {
		if line != "" {
			b.WriteString("   ")
		}
		b.WriteString(line + "\n")
	}
}

func cmdList(b *strings.Builder, cmd *command) {
	if len(cmd.subs) == 0 {
		return
	}
	b.WriteString("\nCOMMANDS\n")
	width := 0
	for _, s := range cmd.subs {
		width = max(width, len(s.name))
	}
	for _, s := range cmd.subs {
		b.WriteString("   " + s.name + strings.Repeat(" ", width-len(s.name)+2) + s.brief + "\n")
	}
}

// helpColumn is where the explanations of the options start; helpWidth where they are wrapped.
const (
	helpColumn = 34
	helpWidth  = 96
)

func optionList(b *strings.Builder, cmd *command) {
	flags := cmd.allFlags()
	var groups []string
	for _, f := range flags {
		if !slices.Contains(groups, f.group) {
			groups = append(groups, f.group)
		}
	}
	for _, g := range groups {
		title := "OPTIONS"
		if g != "" {
			title = strings.ToUpper(g) + " OPTIONS"
		}
		b.WriteString("\n" + title + "\n")
		for _, f := range flags {
			if f.group == g {
				optionHelp(b, f)
			}
		}
	}
}

func optionHelp(b *strings.Builder, f *option) {
	left := "       --" + f.name
	if f.short != "" {
		left = "   -" + f.short + ", --" + f.name
	}
	if f.arg != "" {
		left += " " + f.arg
	}
	b.WriteString(left)
	col := len(left)
	if col > helpColumn-2 {
		b.WriteString("\n")
		col = 0
	}
	b.WriteString(strings.Repeat(" ", helpColumn-col))
	col = helpColumn
	for i, w := range strings.Fields(f.help) {
		if i > 0 && col+1+len(w) > helpWidth {
			b.WriteString("\n" + strings.Repeat(" ", helpColumn))
			col = helpColumn
		} else if i > 0 {
			b.WriteString(" ")
			col++
		}
		b.WriteString(w)
		col += len(w)
	}
	b.WriteString("\n")
}
