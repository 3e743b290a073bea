// Command fettle-noded is the daemon on every node: it takes attempts from the leading controller and runs them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/fettle-hpc/fettle/noded/internal/config"
	"github.com/fettle-hpc/fettle/noded/internal/daemon"
	"github.com/fettle-hpc/fettle/proto/version"
)

const usage = `fettle-noded is fettle's node daemon. Stopping it leaves the node's jobs running.

  fettle-noded --config FILE

Options:
  --config FILE   TOML configuration (default /etc/fettle/noded.toml)
  --version       print the version

Exit codes: 1 failed; 2 usage or configuration.
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("fettle-noded", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	path := fs.String("config", "/etc/fettle/noded.toml", "")
	showVersion := fs.Bool("version", false, "")
	fail := func(code int, err error) int {
		fmt.Fprintf(stderr, "fettle-noded: error: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return code
	}
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return 0
	} else if err != nil {
		return fail(2, fmt.Errorf("%w; see fettle-noded --help", err))
	}
	if fs.NArg() > 0 {
		return fail(2, fmt.Errorf("unexpected argument %q; see fettle-noded --help", fs.Arg(0)))
	}
	if *showVersion {
		fmt.Fprintln(stdout, "fettle-noded", version.Version)
		return 0
	}
	cfg, err := config.Load(*path)
	if err != nil {
		return fail(2, err)
	}
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.LogLevel))
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})).With("node", cfg.Name)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := daemon.Run(ctx, cfg, log); err != nil {
		return fail(1, err)
	}
	return 0
}
