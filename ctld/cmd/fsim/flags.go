package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/report"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/trace"
)

const description = `Reads a log of jobs and a list of nodes (CSV, described in docs/scheduling.md), runs the jobs through a
scheduler in simulated time and prints completion and waiting times, utilisation, fragmentation, preemptions and fairness.

  fsim --trace philly.csv --repeat 5 --srsf
  fsim --trace philly.csv --policy multifactor --set size_weight=168h --html report.html
  fsim --trace philly.csv --model reference --policy easy-limit --schedule starts.csv`

const compareDescription = `Every --policy is one column of the table. Settings follow the name after a colon; those of the simulation itself are
the options --depth, --limits and so on with "sim." before their names:

  fsim compare --trace philly.csv --policy fifo --policy multifactor:size_weight=48h --policy ./my-plugin --repeat 5
  fsim compare --trace philly.csv --policy multifactor --policy multifactor:sim.progress=10%,sim.limits=none`

func simulateFlags(compare bool) []cli.Flag {
	flags := []cli.Flag{
		&cli.StringFlag{Name: "trace", Usage: "log of jobs, `FILE`: CSV, or JSON as fqueue --all --json writes it"},
		&cli.StringFlag{Name: "cluster", Usage: "list of nodes, `FILE`: CSV, or JSON as finfo --json writes it; by default the trace's name with .cluster.csv for .csv"},
		&cli.StringSliceFlag{Name: "policy", Usage: "policy by `NAME` (see fsim policies) or the path of a plugin"},
		&cli.StringSliceFlag{Name: "set", Usage: "setting of the policy, `KEY=VALUE`; may be repeated"},
		&cli.StringFlag{Name: "model", Value: modelFettle, Usage: "`MODEL`: fettle's own planner (fettle) or the small reference model (reference)"},
		&cli.IntFlag{Name: "repeat", Usage: "simulate `N` slightly perturbed copies and give mean ± standard deviation"},
		&cli.IntFlag{Name: "scale", Value: 1, Usage: "simulate `N` copies of the workload, spread over a day, on as many copies of the cluster"},
		&cli.IntFlag{Name: "parallel", Value: runtime.GOMAXPROCS(0), Usage: "run `N` simulations at once"},
		&cli.BoolFlag{Name: "srsf", Usage: "add the yardstick: least remaining service first, durations known, stopping and moving free"},
		&cli.BoolFlag{Name: "json", Usage: "write JSON"},
		&cli.StringFlag{Name: "html", Usage: "write a page with plots to `FILE` too"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress bar"},
	}
	for _, o := range simOptions {
		if o.flag {
			flags = append(flags, &cli.BoolFlag{Name: o.name, Usage: o.usage})
		} else {
			flags = append(flags, &cli.StringFlag{Name: o.name, Value: o.standard, Usage: o.usage})
		}
	}
	if !compare {
		flags = append(flags, &cli.StringFlag{Name: "schedule", Usage: "write each job's start and end (of the first copy) as CSV to `FILE` too"})
	}
	return flags
}

// simulate reads what the flags name, runs the simulations and writes what they found.
func simulate(c *cli.Context, compare bool, stderr io.Writer) error {
	contenders, err := contenders(c, compare)
	if err != nil {
		return err
	}
	if c.Int("repeat") < 0 || c.Int("repeat") > 1000 {
		return usagef("--repeat %d: use 0 to 1000", c.Int("repeat"))
	}
	if c.Int("scale") < 1 || c.Int("scale") > 64 {
		return usagef("--scale %d: use 1 to 64", c.Int("scale"))
	}
	if c.Int("parallel") < 1 {
		return usagef("--parallel %d: use at least 1", c.Int("parallel"))
	}
	w, err := workload(c, stderr)
	if err != nil {
		return err
	}
	bar := newBar(stderr, c.Bool("quiet"))
	rep, err := fsim.Simulate(c.Context, w, contenders, fsim.Options{
		Copies: c.Int("repeat"), Parallel: c.Int("parallel"), Yardstick: c.Bool("srsf"), Keep: c.String("schedule") != "", Progress: bar.show,
	})
	bar.end()
	if err != nil {
		return err
	}
	if path := c.String("html"); path != "" {
		if err := writeFile(path, func(w io.Writer) error { return report.HTML(w, rep) }); err != nil {
			return err
		}
	}
	if path := c.String("schedule"); path != "" {
		if err := writeFile(path, func(w io.Writer) error { return report.Schedule(w, rep.Results[0].Schedule) }); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		return report.JSON(c.App.Writer, rep)
	}
	return report.Text(c.App.Writer, rep)
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		f.Close()
		return fmt.Errorf("%s: %w", path, err)
	}
	return f.Close()
}

func workload(c *cli.Context, stderr io.Writer) (fsim.Workload, error) {
	path := c.String("trace")
	if path == "" {
		return fsim.Workload{}, usagef("--trace: missing; name a log of jobs")
	}
	cluster := c.String("cluster")
	if cluster == "" {
		cluster = strings.TrimSuffix(path, ".csv") + ".cluster.csv"
		if _, err := os.Stat(cluster); err != nil {
			return fsim.Workload{}, usagef("--cluster: missing, and there is no %s; name a list of nodes", cluster)
		}
	}
	jobs, err := readJobs(path, stderr)
	if err != nil {
		return fsim.Workload{}, err
	}
	read := trace.Nodes
	if isExport(cluster) {
		read = trace.Inventory
	}
	nodes, err := read(cluster)
	if err != nil {
		return fsim.Workload{}, err
	}
	name := filepath.Base(path)
	jobs, nodes = trace.Scale(jobs, nodes, c.Int("scale"))
	return fsim.Workload{Name: strings.TrimSuffix(name, filepath.Ext(name)), Jobs: jobs, Nodes: nodes}, nil
}

// isExport tells what fettle's commands wrote from CSV.
func isExport(path string) bool { return filepath.Ext(path) == ".json" }

func readJobs(path string, stderr io.Writer) ([]trace.Job, error) {
	if !isExport(path) {
		return trace.Jobs(path)
	}
	e, err := trace.History(path)
	if err != nil {
		return nil, err
	}
	if e.LeftOut > 0 {
		fmt.Fprintf(stderr, "fsim: %d jobs of the history are left out: they have not ended, never ran, or had no GPU\n", e.LeftOut)
	}
	return e.Jobs, nil
}
