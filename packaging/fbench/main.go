// Command fbench measures a real cluster on this machine and prints each figure beside the one that the design asks for.
//
// Three controllers with fsync on, the nodes and the clients share the machine. Figures of one run belong together:
// compare them with each other, not with those of another machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/fettle-hpc/fettle/packaging/e2e"
)

// bench is one run.
type bench struct {
	ctx     context.Context
	bin     string
	dir     string
	quick   bool
	cluster *e2e.Cluster
	only    string
}

func main() {
	bin := flag.String("bin", "bin", "directory of the built binaries")
	quick := flag.Bool("quick", false, "smaller sizes: shows that everything runs, not how fast")
	only := flag.String("only", "", "only the measurement whose name contains this")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *bin, *only, *quick); err != nil {
		fmt.Fprintln(os.Stderr, "fbench: error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin, only string, quick bool) error {
	abs, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "fbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Printf("fbench: %d CPUs, three controllers, fsync on, everything on this machine; state in %s\n", runtime.NumCPU(), dir)
	fmt.Printf("%-72s %18s   %s\n", "figure", "measured", "asked for")
	b := &bench{ctx: ctx, bin: abs, dir: dir, quick: quick, only: only}
	steps := []struct {
		name string
		f    func() error
	}{
		{"submits", b.submits}, {"latency", b.latency}, {"throughput", b.throughput}, {"scheduling", b.scheduling}, {"queue", b.queue},
		{"failover", b.failover},
	}
	for _, s := range steps {
		if !strings.Contains(s.name, only) {
			continue
		}
		if err := s.f(); err != nil {
			if b.cluster != nil {
				fmt.Fprintln(os.Stderr, b.cluster.Logs())
			}
			b.down()
			return fmt.Errorf("%s: %w", s.name, err)
		}
		b.down()
	}
	return nil
}

// up starts a fresh cluster for a group of measurements.
func (b *bench) up(opt e2e.Options) error {
	dir, err := os.MkdirTemp(b.dir, "c")
	if err != nil {
		return err
	}
	opt.Bin, opt.Dir = b.bin, dir
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	b.cluster, err = e2e.Up(ctx, opt)
	return err
}

func (b *bench) down() {
	if b.cluster != nil {
		b.cluster.Down()
		b.cluster = nil
	}
}

// line prints one figure.
func line(name, measured, goal string) {
	fmt.Printf("%-72s %18s   %s\n", name, measured, goal)
}

func (b *bench) size(full, quick int) int {
	if b.quick {
		return quick
	}
	return full
}
