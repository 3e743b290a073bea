// Command fettle-ctld is the controller: one of the three (or one) that keep the job table and the queue.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/fettle-hpc/fettle/ctld/internal/config"
	"github.com/fettle-hpc/fettle/ctld/internal/daemon"
	"github.com/fettle-hpc/fettle/ctld/internal/raftstore"
	"github.com/fettle-hpc/fettle/proto/version"
)

const usage = `fettle-ctld is fettle's controller.

  fettle-ctld --config FILE --bootstrap        make a new cluster, once
  fettle-ctld --config FILE --join HOST:PORT   join a cluster through a controller that is in it
  fettle-ctld --config FILE                    start again

Options:
  --config FILE      TOML configuration (default /etc/fettle/ctld.toml)
  --bootstrap        make a new cluster if the data directory is empty; harmless when it is not
  --join HOST:PORT   client address of a controller to join through, several separated by commas
  --discard          set this controller's old data aside first, to join again with --join after data was lost
  --version          print the version

Exit codes: 2 usage or configuration; 64 no identity yet (use --bootstrap or --join); 65 data lost or removed from the
cluster (--discard --join); 66 state differs from the leader's; 67 log written by a newer version; 70 disk too slow;
71 disk error.
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("fettle-ctld", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	path := fs.String("config", "/etc/fettle/ctld.toml", "")
	bootstrap := fs.Bool("bootstrap", false, "")
	join := fs.String("join", "", "")
	discard := fs.Bool("discard", false, "")
	showVersion := fs.Bool("version", false, "")
	fail := func(code int, err error) int {
		fmt.Fprintf(stderr, "fettle-ctld: error: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return code
	}
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return 0
	} else if err != nil {
		return fail(2, fmt.Errorf("%w; see fettle-ctld --help", err))
	}
	if fs.NArg() > 0 {
		return fail(2, fmt.Errorf("unexpected argument %q; see fettle-ctld --help", fs.Arg(0)))
	}
	if *showVersion {
		fmt.Fprintln(stdout, "fettle-ctld", version.Version)
		return 0
	}
	cfg, err := config.Load(*path)
	if err != nil {
		return fail(2, err)
	}
	opt := daemon.Options{Bootstrap: *bootstrap}
	for _, addr := range strings.FieldsFunc(*join, func(r rune) bool { return r == ',' }) {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fail(2, fmt.Errorf("--join %q: not HOST:PORT", addr))
		}
		opt.Join = append(opt.Join, addr)
	}
	if opt.Bootstrap && len(opt.Join) > 0 {
		return fail(2, errors.New("--bootstrap and --join exclude each other: the first controller bootstraps, the others join it"))
	}
	if *discard {
		if len(opt.Join)+len(cfg.Join) == 0 {
			return fail(2, errors.New("--discard needs --join HOST:PORT: data is only given up when the cluster has it"))
		}
		moved, err := raftstore.Discard(cfg.DataDir)
		if err != nil {
			return fail(1, err)
		}
		if moved != "" {
			fmt.Fprintf(stderr, "fettle-ctld: old data set aside in %s\n", moved)
		}
	}
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.LogLevel))
	opt.Logger = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})).With("ctld", cfg.Name)
	opt.Fatal = func(code int, msg string) {
		fmt.Fprintf(stderr, "fettle-ctld: fatal: %s\n", msg)
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := daemon.Run(ctx, cfg, opt); err != nil {
		code := raftstore.ExitCode(err)
		if code == 0 {
			code = 1
		}
		return fail(code, err)
	}
	return 0
}
