// Command fettle-nvml tells what the NVIDIA driver knows of this machine's GPUs, as JSON. The node daemon runs it, so that a
// driver that hangs or crashes takes this process along and not the daemon. It can be run by hand.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/fettle-hpc/fettle/noded/internal/gres/report"
	"github.com/fettle-hpc/fettle/noded/internal/nvml"
	"github.com/fettle-hpc/fettle/proto/version"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
	exitPanic  = 70
)

const usage = `usage:
  fettle-nvml inventory [--library PATH]
      print the machine's GPUs as one JSON document; without a driver there are none
  fettle-nvml watch [--interval 5s] [--count N] [--library PATH]
      print the inventory, then readings every interval and events as they happen, one JSON message a line;
      ends after N rounds of readings (0: never), or at once where there is no GPU
  fettle-nvml --version
`

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is the command. It returns the exit code, whatever happens in the driver's library short of a signal.
func run(args []string, stdout, stderr io.Writer) (code int) {
	complain := func(code int, format string, a ...any) int {
		fmt.Fprintln(stderr, "fettle-nvml: "+report.Text(fmt.Sprintf(format, a...)))
		return code
	}
	defer func() {
		if p := recover(); p != nil {
			code = complain(exitPanic, "panic: %v", p)
		}
	}()
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	verb, args := args[0], args[1:]
	switch verb {
	case "-h", "--help", "help":
		fmt.Fprint(stdout, usage)
		return 0
	case "--version", "version":
		fmt.Fprintln(stdout, "fettle-nvml", version.Version)
		return 0
	case "inventory", "watch":
	default:
		return complain(exitUsage, "unknown command %q: use inventory or watch", verb)
	}
	flags := flag.NewFlagSet(verb, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	library := flags.String("library", "", "")
	interval, count := 5*time.Second, 0
	if verb == "watch" {
		flags.DurationVar(&interval, "interval", interval, "")
		flags.IntVar(&count, "count", count, "")
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return 0
	case err != nil:
		return complain(exitUsage, "%s: %v", verb, err)
	case flags.NArg() > 0:
		return complain(exitUsage, "%s: unknown argument %q", verb, flags.Arg(0))
	case interval < 100*time.Millisecond:
		return complain(exitUsage, "watch: --interval %v is below 100ms", interval)
	case count < 0:
		return complain(exitUsage, "watch: --count %d is below 0", count)
	}
	// The first ^C ends the watch between two messages and closes the library; a second one ends a driver that hangs.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	if err := ask(ctx, nvml.Library(*library), verb, interval, count, stdout); err != nil && ctx.Err() == nil {
		return complain(exitFailed, "%v", err)
	}
	return 0
}

func ask(ctx context.Context, drv nvml.Driver, verb string, interval time.Duration, count int, stdout io.Writer) (err error) {
	m, err := nvml.Open(drv, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if verb == "inventory" {
		inv, err := m.Inventory()
		if err != nil {
			return err
		}
		b, err := json.MarshalIndent(report.Message{Version: report.Version, Inventory: inv}, "", "  ")
		if err != nil {
			return err
		}
		_, err = stdout.Write(append(b, '\n'))
		return err
	}
	w := bufio.NewWriter(stdout)
	return m.Watch(ctx, nvml.WatchConfig{Interval: interval, Count: count, Emit: func(msg report.Message) error {
		b, err := report.Encode(msg)
		if err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		return w.Flush()
	}})
}
