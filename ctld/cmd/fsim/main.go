// Command fsim simulates scheduling policies over logs of jobs: it says how long jobs would have waited on a cluster, policy by
// policy, with fettle's own planner or with a small reference model.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/fettle-hpc/fettle/proto/version"
)

// Exit statuses.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func init() {
	cli.VersionPrinter = func(c *cli.Context) { fmt.Fprintln(c.App.Writer, "fsim", version.Version) }
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// usageError is a mistake in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run is the whole command; it answers the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := newApp(stdout, stderr).RunContext(ctx, args)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "fsim: interrupted")
		return exitInterrupted
	}
	fmt.Fprintf(stderr, "fsim: error: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	if usage := (usageError{}); errors.As(err, &usage) {
		fmt.Fprintln(stderr, "see fsim --help")
		return exitUsage
	}
	return exitFailed
}

func newApp(stdout, stderr io.Writer) *cli.App {
	badUsage := func(_ *cli.Context, err error, _ bool) error { return usageError{err} }
	simulate := func(compare bool) cli.ActionFunc {
		return func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("unexpected argument %q", c.Args().First())
			}
			return simulate(c, compare, stderr)
		}
	}
	return &cli.App{
		Name: "fsim", HelpName: "fsim", Version: version.Version,
		Usage:       "simulate scheduling policies over a log of jobs",
		UsageText:   "fsim --trace FILE [--cluster FILE] [--policy NAME|PATH] [--set KEY=VALUE] [options]\nfsim compare --trace FILE --policy A --policy B ... [options]",
		Description: description,
		Flags:       simulateFlags(false), Action: simulate(false), OnUsageError: badUsage,
		Commands: []*cli.Command{
			{
				Name: "compare", Usage: "several policies side by side on one workload", Flags: simulateFlags(true), Action: simulate(true), OnUsageError: badUsage,
				UsageText: "fsim compare --trace FILE --policy A --policy B ... [options]", Description: compareDescription,
			},
			{Name: "policies", Usage: "list the policies", Action: listPolicies, OnUsageError: badUsage},
		},
		Writer: stdout, ErrWriter: stderr, HideHelpCommand: true, DisableSliceFlagSeparator: true,
		// Errors are printed once, by run.
		ExitErrHandler: func(*cli.Context, error) {},
	}
}
