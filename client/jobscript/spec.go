package jobscript

import "slices"

// Canonical option names, each with what its value holds.
const (
	OptJobName   = "job-name"   // 1 to 128 bytes
	OptMethod    = "method"     // "script" or a launcher's name
	OptPriority  = "priority"   // 1 to 10
	OptPartition = "partition"  // one name
	OptProject   = "project"    // one name
	OptComment   = "comment"    // up to 1 KiB
	OptNodes     = "nodes"      // 1 to 1,024, or AnyNodes
	OptGPUs      = "gpus"       // gres.ParseGPUs: GPUs of the whole job
	OptGRES      = "gres"       // gres.ParseGRESList: GPUs on each node, alternatives in order
	OptCPUs      = "cpus"       // CPU cores on each node, 1 to 4,096
	OptMem       = "mem"        // gres.ParseSize: host memory on each node
	OptNodelist  = "nodelist"   // gres.ExpandHosts
	OptExclude   = "exclude"    // gres.ExpandHosts
	OptDevice    = "device"     // gres.ParseDevices
	OptTime      = "time"       // gres.ParseTimeLimit
	OptBegin     = "begin"      // gres.ParseBegin; not checked here, for want of a clock
	OptHold      = "hold"       // "true"
	OptRequeue   = "requeue"    // "true" or "false" (--no-requeue)
	OptRetries   = "retries"    // 0 to 100
	OptKillGrace = "kill-grace" // gres.ParseDuration, up to an hour
	OptChdir     = "chdir"      // a path
	OptOutput    = "output"     // a path, may hold %j %a %A %I %x %N %u %%
	OptError     = "error"      // the same
	OptOpenMode  = "open-mode"  // "append" or "truncate"
	OptExport    = "export"     // ParseExport
	OptSet       = "set"        // KEY=VALUE; may be given many times

	OptVRAM          = "vram"           // gres.ParseSize: memory on each GPU
	OptExclusive     = "exclusive"      // "true"
	OptConstraint    = "constraint"     // gres.ParseConstraint
	OptArray         = "array"          // gres.ParseArray
	OptDependency    = "dependency"     // gres.ParseDependencies
	OptDeadline      = "deadline"       // gres.ParseBegin; not checked here, for want of a clock
	OptPreempt       = "preempt"        // "true"
	OptNoPreemptible = "no-preemptible" // "true"
	OptReservation   = "reservation"    // one name
)

// AnyNodes is the value of OptNodes that leaves the number of nodes to the scheduler.
const AnyNodes = "any"

// Spec describes an option for help texts and for building a command's flags.
type Spec struct {
	// Name is the long form as people type it, without dashes. It may be another spelling of a canonical option.
	Name string
	// Short is the one-letter form, or empty.
	Short string
	// Arg names the value in help texts; empty for switches.
	Arg string
	// Repeat says that the option may be given many times and all values count.
	Repeat bool
	// Help is one line.
	Help string
}

// arity says whether an option takes a value.
type arity int

const (
	argNone arity = iota
	argRequired
	// argOptional takes a value only when it is joined with "=".
	argOptional
)

// spec is an option that fettle has.
type spec struct {
	Spec
	// canon is the canonical name when it is not Name.
	canon string
	// check validates a value and may rewrite it; nil for switches.
	check func(string) (string, *fault)
	// value is what a switch stands for.
	value string
}

// fault is what is wrong with a value.
type fault struct{ problem, remedy string }

func (s *spec) name() string {
	if s.canon != "" {
		return s.canon
	}
	return s.Name
}

func (s *spec) arity() arity {
	if s.Arg == "" {
		return argNone
	}
	return argRequired
}

// specs are fettle's own options in the order of the help text.
var specs = []spec{
	{Spec: Spec{Name: OptJobName, Short: "J", Arg: "NAME", Help: "name of the job"}, check: checkJobName},
	{Spec: Spec{Name: "name", Arg: "NAME", Help: "same as --job-name"}, canon: OptJobName, check: checkJobName},
	{Spec: Spec{Name: OptMethod, Arg: "METHOD", Help: "how to run it: script, lora, qlora, full (default: from the file)"}, check: checkMethod},
	{Spec: Spec{Name: OptPriority, Arg: "N", Help: "1 (most urgent) to 10, default 5"}, check: checkInt(1, 10, "use 1 (most urgent) to 10")},
	{Spec: Spec{Name: OptPartition, Short: "p", Arg: "NAME", Help: "partition to run in"}, check: checkPartition},
	{Spec: Spec{Name: OptProject, Short: "A", Arg: "NAME", Help: "project to charge"}, check: checkName("project")},
	{Spec: Spec{Name: "account", Arg: "NAME", Help: "same as --project"}, canon: OptProject, check: checkName("project")},
	{Spec: Spec{Name: OptComment, Arg: "TEXT", Help: "a note kept with the job"}, check: checkComment},
	{Spec: Spec{Name: OptNodes, Short: "N", Arg: "N", Help: "number of nodes, all or none (default 1); any: as many as the GPUs of --gpus are found on"}, check: checkNodes},
	{Spec: Spec{Name: OptGPUs, Short: "G", Arg: "[TYPE:]N", Help: "GPUs of the whole job, shared evenly over its nodes"}, check: checkGPUs},
	{Spec: Spec{Name: OptGRES, Arg: "gpu[:TYPE]:N", Help: "GPUs on each node; with alternatives, the preferred first: gpu:h200:1|gpu:h100:2"}, check: checkGRES},
	{Spec: Spec{Name: "gpus-per-node", Arg: "[TYPE:]N", Help: "GPUs on each node"}, canon: OptGRES, check: checkGPUsPerNode},
	{Spec: Spec{Name: OptVRAM, Arg: "SIZE", Help: "share GPUs with others: so much memory on each GPU, for example 20G (one GPU when none are asked for)"}, check: checkMem},
	{Spec: Spec{Name: OptExclusive, Help: "no other job on its nodes"}, value: "true"},
	{Spec: Spec{Name: OptCPUs, Short: "c", Arg: "N", Help: "CPU cores on each node (default 1)"}, check: checkInt(1, maxCPUs, "use a whole number of CPU cores")},
	{Spec: Spec{Name: "cpus-per-task", Arg: "N", Help: "same as --cpus"}, canon: OptCPUs, check: checkInt(1, maxCPUs, "use a whole number of CPU cores")},
	{Spec: Spec{Name: OptMem, Arg: "SIZE", Help: "host memory on each node, for example 64G"}, check: checkMem},
	{Spec: Spec{Name: OptTime, Short: "t", Arg: "TIME", Help: "time limit: minutes, HH:MM:SS, D-HH:MM:SS or 90m"}, check: checkTime},
	{Spec: Spec{Name: OptNodelist, Short: "w", Arg: "LIST", Help: "use only these nodes, for example gpu[01-04]"}, check: checkHosts},
	{Spec: Spec{Name: OptExclude, Short: "x", Arg: "LIST", Help: "use none of these nodes"}, check: checkHosts},
	{Spec: Spec{Name: OptConstraint, Short: "C", Arg: "EXPR", Help: "only nodes with these features, for example \"ib&(rack1|rack2)&!test\""}, check: checkConstraint},
	{Spec: Spec{Name: OptReservation, Arg: "NAME", Help: "run in this reservation"}, check: checkName("reservation")},
	{Spec: Spec{Name: OptDevice, Arg: "LIST", Help: "pin to GPUs: cuda:0,1 or UUIDs"}, check: checkDevice},
	{Spec: Spec{Name: OptBegin, Short: "b", Arg: "TIME", Help: "not before: now+2h, 16:00, 2006-01-31T16:00"}, check: checkText(maxBegin)},
	{Spec: Spec{Name: OptDeadline, Arg: "TIME", Help: "to be over by then, or not to start at all: now+8h, 16:00"}, check: checkText(maxBegin)},
	{Spec: Spec{Name: OptDependency, Short: "d", Arg: "LIST", Help: "start after other jobs: afterok:12:13,afterany:20 (all) or afterok:12?afterok:13 (any one); also afternotok, after and singleton"}, check: checkDependency},
	{Spec: Spec{Name: OptArray, Short: "a", Arg: "LIST", Help: "make an array of jobs that differ in FETTLE_ARRAY_INDEX: 0-99, 1,3,5-9:2; 0-99%4 runs four at a time"}, check: checkArray},
	{Spec: Spec{Name: OptPreempt, Help: "may have running jobs of lesser rank ended to make room, where the partition allows it"}, value: "true"},
	{Spec: Spec{Name: OptNoPreemptible, Help: "may not be ended to make room for others, where the partition allows that wish"}, value: "true"},
	{Spec: Spec{Name: OptHold, Short: "H", Help: "submit held; fctl release lets it go"}, value: "true"},
	{Spec: Spec{Name: OptRequeue, Help: "may be started again after a fault (the default)"}, value: "true"},
	{Spec: Spec{Name: "no-requeue", Help: "never start it a second time"}, canon: OptRequeue, value: "false"},
	{Spec: Spec{Name: OptRetries, Arg: "N", Help: "retries after transient failures (default 2)"}, check: checkInt(0, 100, "use 0 to 100")},
	{Spec: Spec{Name: OptKillGrace, Arg: "TIME", Help: "between TERM and KILL: 45s, 2m or 1m30s (default 30s); a number alone is minutes, as with --time"}, check: checkKillGrace},
	{Spec: Spec{Name: OptChdir, Short: "D", Arg: "DIR", Help: "directory to run in"}, check: checkPath},
	{Spec: Spec{Name: OptOutput, Short: "o", Arg: "PATH", Help: "file for stdout, may hold %j %a %A %I %x %N %u"}, check: checkPattern},
	{Spec: Spec{Name: OptError, Short: "e", Arg: "PATH", Help: "file for stderr (default: with stdout)"}, check: checkPattern},
	{Spec: Spec{Name: OptOpenMode, Arg: "MODE", Help: "append (default) or truncate"}, check: checkOpenMode},
	{Spec: Spec{Name: OptExport, Arg: "LIST", Help: "environment: ALL, NONE, NAME, NAME=VALUE, ..."}, check: checkExport},
	{Spec: Spec{Name: OptSet, Arg: "KEY=VALUE", Repeat: true, Help: "override a training key; may be repeated"}, check: checkSet},
}

// byName and byShort find a spec by its long and its one-letter name.
var byName, byShort = indexSpecs()

func indexSpecs() (long, short map[string]*spec) {
	long, short = make(map[string]*spec), make(map[string]*spec)
	for i := range specs {
		long[specs[i].Name] = &specs[i]
		if specs[i].Short != "" {
			short[specs[i].Short] = &specs[i]
		}
	}
	return long, short
}

// Specs lists every option in the order of the help text, other spellings included.
func Specs() []Spec {
	out := make([]Spec, len(specs))
	for i := range specs {
		out[i] = specs[i].Spec
	}
	return out
}

// isSwitch reports whether the canonical option takes no value.
func isSwitch(canon string) bool {
	return slices.Contains([]string{OptHold, OptRequeue, OptExclusive, OptPreempt, OptNoPreemptible}, canon)
}
