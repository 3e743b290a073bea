package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-hpc/fettle/ctld/internal/fsim"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/reference"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/replay"
	"github.com/fettle-hpc/fettle/ctld/internal/fsim/trace"
	"github.com/fettle-hpc/fettle/plugins/policy"
)

// Models.
const (
	modelFettle    = "fettle"
	modelReference = "reference"
)

// Policies in this process; others are plugins by their path.
const (
	policyMultifactor = policy.Name
	policyFIFO        = "fifo"
)

// simPrefix tells settings of the simulation from those of the policy.
const simPrefix = "sim."

// simulation is how one policy is simulated.
type simulation struct {
	limits trace.Limits
	replay replay.Config
	// preemptible is the share of the jobs that may be stopped, below 0 when nothing is.
	preemptible float64
	preemption  replay.Preemption
}

// simOption is an option of the simulation: a flag for all policies, or a setting of one.
type simOption struct {
	name, standard, usage string
	// flag says that it is on or off.
	flag bool
	set  func(s *simulation, value string) error
}

var simOptions = []simOption{
	{
		name: "limits", standard: string(trace.LimitsFilled),
		usage: "time limits: the log's own with synthetic ones where it has none (synthetic), its own only (own), or none, `SOURCE`",
		set: func(s *simulation, value string) (err error) {
			s.limits, err = trace.ParseLimits(value)
			return err
		},
	},
	{
		name: "kill", flag: true,
		usage: "end jobs at their limit, as a cluster does; otherwise those that ran past theirs in the log run on",
		set:   onOff(func(s *simulation, on bool) { s.replay.Kill = on }),
	},
	{
		name: "depth", standard: "1",
		usage: "give the first `N` blocked jobs of each class of GPUs a reservation",
		set: func(s *simulation, value string) error {
			n, err := whole(value, 1, 1000)
			s.replay.Depth = n
			return err
		},
	},
	{
		name: "strict", flag: true,
		usage: "nothing starts ahead of a blocked job of its class of GPUs, whether or not it could delay it",
		set:   onOff(func(s *simulation, on bool) { s.replay.Strict = on }),
	},
	{
		name: "progress", standard: "off",
		usage: "running jobs tell when they end, wrong by up to `SHARE` of their run time (10% for instance, or off)",
		set: func(s *simulation, value string) (err error) {
			s.replay.Progress, err = share(value, -1)
			return err
		},
	},
	{
		name: "history", flag: true,
		usage: "jobs without a limit get an estimate from what the same user and project ran before",
		set:   onOff(func(s *simulation, on bool) { s.replay.History = on }),
	},
	{
		name: "no-fair-share", flag: true,
		usage: "the policy is not told what projects used",
		set:   onOff(func(s *simulation, on bool) { s.replay.FairShare = !on }),
	},
	{
		name: "shares", flag: true,
		usage: "jobs that ask for a part of a card share it",
		set:   onOff(func(s *simulation, on bool) { s.replay.Shares = on }),
	},
	{
		name: "preemptible", standard: "off",
		usage: "every job may have others stopped for it, and this `SHARE` of the jobs may be stopped (25% for instance, or off)",
		set: func(s *simulation, value string) (err error) {
			s.preemptible, err = share(value, -1)
			return err
		},
	},
	{
		name: "checkpoint", standard: "request",
		usage: "jobs save what they did when they are asked to (request), or every `TIME` (30m for instance)",
		set: func(s *simulation, value string) (err error) {
			if value == "request" {
				s.preemption.CheckpointS = 0
				return nil
			}
			s.preemption.CheckpointS, err = seconds(value, 1)
			return err
		},
	},
	{
		name: "restart", standard: "2m",
		usage: "coming back after a stop costs `TIME`",
		set: func(s *simulation, value string) (err error) {
			s.preemption.RestartS, err = seconds(value, 1)
			return err
		},
	},
	{
		name: "min-run", standard: "10m",
		usage: "nothing is stopped in the first `TIME` of a run",
		set: func(s *simulation, value string) (err error) {
			s.preemption.MinRunS, err = seconds(value, 0)
			return err
		},
	},
	{
		name: "max-loss", standard: "10%",
		usage: "nothing is stopped that would lose more than this `SHARE` of its run",
		set: func(s *simulation, value string) (err error) {
			s.preemption.MaxLoss, err = share(value, 1)
			return err
		},
	},
	{
		name: "preempt-budget", standard: "0",
		usage: "a job is stopped at most `N` times; 0: as often as it comes",
		set: func(s *simulation, value string) error {
			n, err := whole(value, 0, 1000)
			s.preemption.Budget = uint32(n)
			return err
		},
	},
	{
		name: "priority-gap", standard: "0",
		usage: "jobs are stopped only for others that are `N` steps of priority more urgent; 0: the order of the queue alone decides",
		set: func(s *simulation, value string) error {
			n, err := whole(value, 0, 9)
			s.preemption.PriorityGap = uint32(n)
			return err
		},
	},
	{
		name:  "preempt-policy",
		usage: "`PATH` of a plugin that picks whom to stop; by default fettle's own choice of the least lost work, in this process",
		set: func(s *simulation, value string) error {
			if value != "" {
				if _, err := os.Stat(value); err != nil {
					return err
				}
			}
			s.preemption.Plugin = value
			return nil
		},
	},
}

// seconds reads a time span of at least so many seconds.
func seconds(text string, least int64) (int64, error) {
	d, err := time.ParseDuration(text)
	if s := int64(d / time.Second); err == nil && s >= least && s <= 365*24*3600 {
		return s, nil
	}
	return 0, fmt.Errorf("%q is not a time from %ds to a year: write it like 90s or 2h", text, least)
}

func whole(text string, least, most int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%q is not a whole number from %d to %d", text, least, most)
	}
	return n, nil
}

func onOff(set func(s *simulation, on bool)) func(*simulation, string) error {
	return func(s *simulation, value string) error {
		on, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("%q: use true or false", value)
		}
		set(s, on)
		return nil
	}
}

// share reads a part of a whole: 25%, 0.25, or off.
func share(text string, off float64) (float64, error) {
	if text == "off" {
		return off, nil
	}
	number, percent := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(number, 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v >= 0 && v <= 1) {
		return 0, fmt.Errorf("%q is not a share: write it like 25%%, or off", text)
	}
	return v, nil
}

func listPolicies(c *cli.Context) error {
	_, err := fmt.Fprintf(c.App.Writer, `--model %s
  %-12s priority, size, fair share and age, the default (settings %s, %s, %s, ...); as it
               is, no job is ordered behind one that was submitted more than %d h later
  %-12s by time of submission
  PATH         a plugin: a process of its own that is asked as the controller would ask it
--model %s
  %s
`, modelFettle, policyMultifactor, policy.PrioritySetting, policy.SizeSetting, policy.FairShareSetting,
		policy.Defaults().BoundMS()/3_600_000, policyFIFO, modelReference, strings.Join(reference.Policies, "\n  "))
	return err
}

// contenders are the policies that the flags name.
func contenders(c *cli.Context, compare bool) ([]fsim.Contender, error) {
	model := c.String("model")
	if model != modelFettle && model != modelReference {
		return nil, usagef("--model %q: unknown; use %s or %s", model, modelFettle, modelReference)
	}
	shared, err := settings(c.StringSlice("set"))
	if err != nil {
		return nil, usagef("--set %w", err)
	}
	specs := c.StringSlice("policy")
	switch {
	case len(specs) == 0 && compare:
		return nil, usagef("--policy: missing; name at least two")
	case len(specs) == 0 && model == modelReference:
		specs = []string{"easy-limit"}
	case len(specs) == 0:
		specs = []string{policyMultifactor}
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
		made, err := contender(c, model, name, set)
		if err != nil {
			return nil, err
		}
		if made.Name = spec; strings.Contains(name, "/") {
			made.Name = filepath.Base(name) + strings.TrimPrefix(spec, name)
		}
		out = append(out, made)
	}
	return out, nil
}

// contender is one policy with its settings.
func contender(c *cli.Context, model, name string, set map[string]string) (fsim.Contender, error) {
	sim, err := simulationOf(c, set)
	if err != nil {
		return fsim.Contender{}, err
	}
	if model == modelReference {
		p, err := reference.ParsePolicy(name)
		if err != nil {
			return fsim.Contender{}, usagef("--policy %w", err)
		}
		if err := noSettings(set, "the reference model's policies have"); err != nil {
			return fsim.Contender{}, err
		}
		return fsim.Contender{Limits: sim.limits, Model: fsim.Reference(p)}, nil
	}
	switch {
	case name == policyMultifactor:
		p, err := policy.ParseSettings(set)
		if err != nil {
			return fsim.Contender{}, usagef("--set %w", err)
		}
		sim.replay.Scorer = replay.Builtin(p)
	case name == policyFIFO:
		if err := noSettings(set, policyFIFO+" has"); err != nil {
			return fsim.Contender{}, err
		}
		sim.replay.Scorer = replay.Builtin(policy.Params{})
	case strings.Contains(name, "/"):
		if _, err := os.Stat(name); err != nil {
			return fsim.Contender{}, usagef("--policy %w", err)
		}
		sim.replay.Scorer = replay.Plugin(name, set)
	default:
		return fsim.Contender{}, usagef("--policy %q: unknown; use %s, %s or the path of a plugin, such as ./%s", name, policyMultifactor, policyFIFO, name)
	}
	return fsim.Contender{Limits: sim.limits, Model: fsim.Fettle(sim.replay)}, nil
}

// noSettings refuses settings for a policy that has none.
func noSettings(set map[string]string, who string) error {
	for _, key := range slices.Sorted(maps.Keys(set)) {
		return usagef("--set %s: %s no settings", key, who)
	}
	return nil
}

// simulationOf takes the options of the simulation from the flags and, before those, out of the settings.
func simulationOf(c *cli.Context, set map[string]string) (*simulation, error) {
	sim := &simulation{}
	for _, o := range simOptions {
		value, from := c.String(o.name), "--"+o.name
		if o.flag {
			value = strconv.FormatBool(c.Bool(o.name))
		}
		if own, ok := set[simPrefix+o.name]; ok {
			value, from = own, "--set "+simPrefix+o.name
			delete(set, simPrefix+o.name)
		}
		if err := o.set(sim, value); err != nil {
			return nil, usagef("%s: %w", from, err)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(set)) {
		if strings.HasPrefix(key, simPrefix) {
			return nil, usagef("--set %s: unknown; there are %s", key, simNames())
		}
	}
	if sim.preemptible >= 0 {
		sim.preemption.Share = sim.preemptible
		sim.replay.Preemption = &sim.preemption
	}
	return sim, nil
}

func simNames() string {
	var names []string
	for _, o := range simOptions {
		names = append(names, simPrefix+o.name)
	}
	return strings.Join(names, ", ")
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
