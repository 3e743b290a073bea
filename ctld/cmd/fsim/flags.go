package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/reference"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/report"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/trace"
)

const description = `Reads a log of jobs and a list of nodes (CSV, described in docs/scheduling.md), runs the jobs through a
scheduler in simulated time and prints completion and waiting times, utilisation, fragmentation, preemptions and fairness.

  fsim --trace philly.csv --repeat 5 --srsf
  fsim --trace philly.csv --policy multifactor --set size_weight=168h --html report.html
  fsim --trace philly.csv --model reference --policy easy-limit --schedule starts.csv`

const compareDescription = `Every --policy is one column of the table. Settings of a policy follow its name after a colon:

  fsim compare --trace philly.csv --policy fifo --policy multifactor:size_weight=168h --policy ./my-plugin --repeat 5`

// Models.
const (
	modelFettle    = "fettle"
	modelReference = "reference"
)

func simulateFlags(compare bool) []cli.Flag {
	flags := []cli.Flag{
		&cli.StringFlag{Name: "trace", Usage: "log of jobs, `FILE`"},
		&cli.StringFlag{Name: "cluster", Usage: "list of nodes, `FILE`; by default the trace's name with .cluster.csv for .csv"},
		&cli.StringSliceFlag{Name: "policy", Usage: "policy by `NAME` (see fsim policies) or the path of a plugin"},
		&cli.StringSliceFlag{Name: "set", Usage: "setting of the policy, `KEY=VALUE`; may be repeated"},
		&cli.StringFlag{Name: "model", Value: modelReference, Usage: "`MODEL` of the scheduler: " + modelReference},
		&cli.StringFlag{Name: "limits", Value: string(trace.LimitsFilled), Usage: "time limits: the log's own with synthetic ones where it has none (synthetic), its own only (own), or none, `SOURCE`"},
		&cli.IntFlag{Name: "repeat", Usage: "simulate `N` slightly perturbed copies and give mean ± standard deviation"},
		&cli.IntFlag{Name: "parallel", Value: runtime.GOMAXPROCS(0), Usage: "run `N` simulations at once"},
		&cli.BoolFlag{Name: "srsf", Usage: "add the yardstick: least remaining service first, durations known, stopping and moving free"},
		&cli.BoolFlag{Name: "json", Usage: "write JSON"},
		&cli.StringFlag{Name: "html", Usage: "write a page with plots to `FILE` too"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress bar"},
	}
	if !compare {
		flags = append(flags, &cli.StringFlag{Name: "schedule", Usage: "write each job's start and end (of the first copy) as CSV to `FILE` too"})
	}
	return flags
}

func listPolicies(c *cli.Context) error {
	_, err := fmt.Fprintf(c.App.Writer, "--model %s\n  %s\n", modelReference, strings.Join(reference.Policies, "\n  "))
	return err
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
	if c.Int("parallel") < 1 {
		return usagef("--parallel %d: use at least 1", c.Int("parallel"))
	}
	w, err := workload(c)
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

func workload(c *cli.Context) (fsim.Workload, error) {
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
	jobs, err := trace.Jobs(path)
	if err != nil {
		return fsim.Workload{}, err
	}
	nodes, err := trace.Nodes(cluster)
	if err != nil {
		return fsim.Workload{}, err
	}
	return fsim.Workload{Name: strings.TrimSuffix(filepath.Base(path), ".csv"), Jobs: jobs, Nodes: nodes}, nil
}

// contenders are the policies that the flags name.
func contenders(c *cli.Context, compare bool) ([]fsim.Contender, error) {
	model := c.String("model")
	if model != modelReference {
		return nil, usagef("--model %q: unknown; use %s", model, modelReference)
	}
	limits, err := trace.ParseLimits(c.String("limits"))
	if err != nil {
		return nil, usagef("--limits %w", err)
	}
	shared, err := settings(c.StringSlice("set"))
	if err != nil {
		return nil, usagef("--set %w", err)
	}
	specs := c.StringSlice("policy")
	switch {
	case len(specs) == 0 && compare:
		return nil, usagef("--policy: missing; name at least two")
	case len(specs) == 0:
		specs = []string{"easy-limit"}
	case len(specs) > 1 && !compare:
		return nil, usagef("--policy: given %d times; fsim compare takes several", len(specs))
	}
	var out []fsim.Contender
	for _, spec := range specs {
		name, own, _ := strings.Cut(spec, ":")
		set := maps.Clone(shared)
		if own != "" {
			more, err := settings(strings.Split(own, ","))
			if err != nil {
				return nil, usagef("--policy %s: %w", spec, err)
			}
			maps.Copy(set, more)
		}
		p, err := reference.ParsePolicy(name)
		if err != nil {
			return nil, usagef("--policy %w", err)
		}
		for key := range set {
			return nil, usagef("--set %s: the reference model's policies have no settings", key)
		}
		out = append(out, fsim.Contender{Name: spec, Limits: limits, Model: fsim.Reference(p)})
	}
	return out, nil
}

func settings(pairs []string) (map[string]string, error) {
	out := map[string]string{}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("%q: write it as KEY=VALUE", pair)
		}
		out[key] = value
	}
	return out, nil
}
