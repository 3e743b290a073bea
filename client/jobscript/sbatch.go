package jobscript

import (
	"slices"
	"strings"
)

// foreign is an option that Slurm's sbatch knows and fettle treats in a way of its own.
type foreign struct {
	name, short string
	arg         arity
	// remedy is what to use instead.
	remedy string
	// neutral are values that ask for what happens anyway; an option with one of them is dropped.
	neutral []string
}

const (
	viaGPUs     = "ask for GPUs on each node with --gpus-per-node or --gres gpu:TYPE:N"
	viaTasks    = "a job runs once on each node: use --nodes, --gpus-per-node and --cpus-per-task, and start the ranks in the script, for example with torchrun"
	viaSite     = "ask an admin for a partition that has it, and use --partition"
	viaBinding  = "GPUs and CPU cores are bound by the node daemon; leave it out"
	viaMem      = "use --mem, the host memory on each node"
	viaLine     = "give it on the command line"
	viaNothing  = "leave it out"
	viaMail     = "follow the job with fsubmit --wait or fqueue --watch"
	viaPriority = "use #FETTLE --priority 1 (most urgent) to 10"
	viaOutside  = "start a container in the script"
)

// foreigns is every sbatch option that is not in specs under the same name, up to Slurm 26.05. Together with specs it
// is the complete list, so that a typing error can be told from an option that fettle lacks.
var foreigns = []foreign{
	{name: "acctg-freq", arg: argRequired, remedy: viaNothing},
	{name: "autocomplete", arg: argRequired, remedy: viaLine},
	{name: "batch", arg: argRequired, remedy: "use --constraint"},
	{name: "bb", arg: argRequired, remedy: "copy the data in the script"},
	{name: "bbf", arg: argRequired, remedy: "copy the data in the script"},
	{name: "cluster-constraint", arg: argRequired, remedy: "name the cluster's controllers with fsubmit --controllers"},
	{name: "cluster", arg: argRequired, remedy: "name the cluster's controllers with fsubmit --controllers"},
	{name: "clusters", short: "M", arg: argRequired, remedy: "name the cluster's controllers with fsubmit --controllers"},
	{name: "consolidate-segments", remedy: viaNothing},
	{name: "container", arg: argRequired, remedy: viaOutside},
	{name: "container-id", arg: argRequired, remedy: viaOutside},
	{name: "context", arg: argRequired, remedy: viaNothing},
	{name: "contiguous", remedy: "name the nodes with --nodelist"},
	{name: "core-spec", short: "S", arg: argRequired, remedy: viaBinding},
	{name: "cores-per-socket", arg: argRequired, remedy: "use --cpus-per-task"},
	{name: "cpu-freq", arg: argRequired, remedy: viaNothing},
	{name: "cpus-per-gpu", arg: argRequired, remedy: "use --cpus-per-task, the CPU cores on each node"},
	{name: "delay-boot", arg: argRequired, remedy: viaNothing},
	{name: "distribution", short: "m", arg: argRequired, remedy: viaTasks},
	{name: "export-file", arg: argRequired, remedy: "read the file in the script, or use --export NAME=VALUE"},
	{name: "external", remedy: viaNothing},
	{name: "extra", arg: argRequired, remedy: "use --comment"},
	{name: "extra-node-info", short: "B", arg: argRequired, remedy: "use --cpus-per-task"},
	{name: "get-user-env", arg: argOptional, remedy: "start the script with #!/bin/bash -l"},
	{name: "gid", arg: argRequired, remedy: "a job runs as the user who submits it"},
	{name: "gpu-bind", arg: argRequired, remedy: viaBinding},
	{name: "gpu-freq", arg: argRequired, remedy: viaNothing},
	{name: "gpus-per-socket", arg: argRequired, remedy: viaGPUs},
	{name: "gpus-per-task", arg: argRequired, remedy: viaGPUs},
	{name: "gres-flags", arg: argRequired, remedy: viaBinding},
	{name: "help", short: "h", remedy: viaLine},
	{name: "hint", arg: argRequired, remedy: viaBinding},
	{name: "ignore-pbs", remedy: "#PBS lines are never read; leave it out"},
	{name: "input", short: "i", arg: argRequired, remedy: "redirect stdin in the script"},
	{name: "kill-on-invalid-dep", arg: argRequired, remedy: "a job whose dependency can never be met is cancelled; leave it out", neutral: []string{"yes"}},
	{name: "licenses", short: "L", arg: argRequired, remedy: viaSite},
	{name: "mail-type", arg: argRequired, remedy: viaMail, neutral: []string{"none"}},
	{name: "mail-user", arg: argRequired, remedy: viaMail},
	{name: "mcs-label", arg: argRequired, remedy: viaNothing},
	{name: "mem-bind", arg: argRequired, remedy: viaBinding},
	{name: "mem-per-cpu", arg: argRequired, remedy: viaMem},
	{name: "mem-per-gpu", arg: argRequired, remedy: viaMem},
	{name: "mem-update", arg: argRequired, remedy: viaMem},
	{name: "mincpus", arg: argRequired, remedy: "use --cpus-per-task, the CPU cores on each node"},
	{name: "network", arg: argRequired, remedy: viaNothing},
	{name: "nice", arg: argOptional, remedy: viaPriority},
	{name: "no-kill", short: "k", arg: argOptional, remedy: "a job that loses a node is started again from its last checkpoint; leave it out"},
	{name: "nodefile", short: "F", arg: argRequired, remedy: "use --nodelist"},
	{name: "ntasks", short: "n", arg: argRequired, remedy: viaTasks, neutral: []string{"1"}},
	{name: "ntasks-per-core", arg: argRequired, remedy: viaTasks},
	{name: "ntasks-per-gpu", arg: argRequired, remedy: viaTasks},
	{name: "ntasks-per-node", arg: argRequired, remedy: viaTasks, neutral: []string{"1"}},
	{name: "ntasks-per-socket", arg: argRequired, remedy: viaTasks},
	{name: "ntasks-per-tres", arg: argRequired, remedy: viaTasks},
	{name: "oom-kill-step", arg: argOptional, remedy: viaNothing},
	{name: "overcommit", short: "O", remedy: "use --cpus-per-task"},
	{name: "oversubscribe", short: "s", remedy: "CPU cores are never shared between jobs; share GPUs by memory with #FETTLE --vram"},
	{name: "parsable", arg: argOptional, remedy: viaLine},
	{name: "power", arg: argRequired, remedy: viaNothing},
	{name: "prefer", arg: argRequired, remedy: "name GPUs in order of preference with --gres gpu:TYPE:N|gpu:TYPE:N, or use --constraint"},
	{name: "profile", arg: argRequired, remedy: "read the training curve with flog --stats"},
	{name: "propagate", arg: argOptional, remedy: "set limits in the script with ulimit"},
	{name: "qos", short: "q", arg: argRequired, remedy: "use --priority and --partition"},
	{name: "quiet", short: "Q", remedy: viaNothing},
	{name: "reboot", remedy: viaSite},
	{name: "resources", arg: argRequired, remedy: viaSite},
	{name: "resv-ports", arg: argOptional, remedy: "use MASTER_PORT, which every job is given"},
	{name: "runtime", arg: argRequired, remedy: viaOutside},
	{name: "segment", arg: argRequired, remedy: "name the nodes with --nodelist"},
	{name: "share", remedy: "CPU cores are never shared between jobs; share GPUs by memory with #FETTLE --vram"},
	{name: "signal", arg: argRequired, remedy: "trap TERM in the script and set the time before KILL with #FETTLE --kill-grace"},
	{name: "sockets-per-node", arg: argRequired, remedy: "use --cpus-per-task"},
	{name: "spread-job", remedy: viaNothing},
	{name: "spread-segments", remedy: viaNothing},
	{name: "stepmgr", remedy: viaNothing},
	{name: "switches", arg: argRequired, remedy: "name the nodes with --nodelist"},
	{name: "tasks-per-node", arg: argRequired, remedy: viaTasks, neutral: []string{"1"}},
	{name: "test-only", remedy: "use fsubmit --dry-run"},
	{name: "thread-spec", arg: argRequired, remedy: viaBinding},
	{name: "threads-per-core", arg: argRequired, remedy: "use --cpus-per-task"},
	{name: "time-min", arg: argRequired, remedy: "use --time"},
	{name: "tmp", arg: argRequired, remedy: "name nodes with enough disk with --nodelist"},
	{name: "tres-bind", arg: argRequired, remedy: viaBinding},
	{name: "tres-per-task", arg: argRequired, remedy: viaGPUs},
	{name: "uid", arg: argRequired, remedy: "a job runs as the user who submits it"},
	{name: "usage", remedy: viaLine},
	{name: "use-min-nodes", remedy: "say one number with --nodes"},
	{name: "verbose", short: "v", remedy: viaNothing},
	{name: "version", short: "V", remedy: viaLine},
	{name: "wait", short: "W", remedy: viaLine},
	{name: "wait-all-nodes", arg: argRequired, remedy: "a job starts on all of its nodes at once or not at all; leave it out"},
	{name: "wckey", arg: argRequired, remedy: "use --comment"},
	{name: "workdir", arg: argRequired, remedy: "use --chdir"},
	{name: "wrap", arg: argRequired, remedy: viaLine},
}

// sbatchPriority is how #SBATCH --priority is answered: Slurm's numbers grow with urgency and have no upper end.
var sbatchPriority = foreign{name: OptPriority, arg: argRequired,
	remedy: "Slurm's numbers mean something else; " + viaPriority}

// ours are options of fsubmit that make sense on the command line only, or belong to a later version.
var ours = []foreign{
	{name: "controllers", arg: argRequired, remedy: viaLine},
	{name: "dry-run", remedy: viaLine},
	{name: "follow", remedy: viaLine},
	{name: "json", remedy: viaLine},
	{name: "secret", arg: argRequired, remedy: "let the job read secrets from a file that only you may read"},
}

// slurmLacks are names in specs that sbatch does not have.
var slurmLacks = []string{"name", OptMethod, OptProject, OptCPUs, OptDevice, OptRetries, OptKillGrace, OptSet,
	OptVRAM, OptPreempt, OptNoPreemptible}

var foreignByName, foreignByShort = indexForeigns()

func indexForeigns() (long, short map[string]*foreign) {
	long, short = make(map[string]*foreign), make(map[string]*foreign)
	for _, list := range [][]foreign{ours, foreigns} {
		for i := range list {
			long[list[i].name] = &list[i]
			if list[i].short != "" {
				short[list[i].short] = &list[i]
			}
		}
	}
	return long, short
}

// found is what a name stands for: one of fettle's options, one that is refused or dropped, or neither.
type found struct {
	spec    *spec
	foreign *foreign
}

func (f found) arity() arity {
	if f.spec != nil {
		return f.spec.arity()
	}
	return f.foreign.arg
}

// lookup finds an option by its long or one-letter name, as the origin has it.
func lookup(origin Origin, name string) (found, bool) {
	specs, foreigns := byName, foreignByName
	if len(name) == 1 {
		specs, foreigns = byShort, foreignByShort
	}
	if s, ok := specs[name]; ok {
		switch {
		case origin == OriginSBATCH && s.Name == OptPriority:
			return found{foreign: &sbatchPriority}, true
		case origin == OriginSBATCH && len(name) > 1 && slices.Contains(slurmLacks, name):
			return found{foreign: &foreign{name: name, arg: s.arity(), remedy: "it is fettle's own: write #FETTLE --" + name}}, true
		}
		return found{spec: s}, true
	}
	if f, ok := foreigns[name]; ok {
		return found{foreign: f}, true
	}
	return found{}, false
}

// drops reports whether value asks for what happens anyway.
func (f *foreign) drops(value string) bool {
	return slices.Contains(f.neutral, strings.ToLower(strings.TrimSpace(value)))
}

// slurmPattern rewrites the patterns of an output path from Slurm's meaning to fettle's: %a is the index in an array there,
// the attempt here.
func slurmPattern(v string) string {
	var b strings.Builder
	for i := 0; i < len(v); i++ {
		b.WriteByte(v[i])
		if v[i] != '%' || i+1 == len(v) {
			continue
		}
		i++
		if v[i] == 'a' {
			b.WriteByte('I')
			continue
		}
		b.WriteByte(v[i])
	}
	return b.String()
}
