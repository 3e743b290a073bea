// Package classify says how a training attempt ended, from its exit, the end of its output and what it left behind.
//
// Exit 0 alone is no success: the trainer also exits 0 when there was nothing to do. A failure is judged by the exceptions
// of the last traceback of each rank, not by the whole log, whose harmless lines quote alarming words.
package classify

import (
	"fmt"
	"regexp"
	"strings"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Input is what is known of an attempt that ended.
type Input struct {
	Exit *fettlev1.Exit
	// Log is the end of the output.
	Log []byte
	// Attempt counts from 1.
	Attempt uint32
	// Rank of this node in the gang; only rank 0 leaves trainer_state.json.
	Rank uint32
	// Step and MaxSteps are from trainer_state.json; HasState says that there was one.
	HasState       bool
	Step, MaxSteps int64
	// Resumed is the step that the attempt went on from, 0 from the beginning, -1 when it is not known.
	Resumed int64
	// Progress of this attempt; nil before its first line.
	Progress *fettlev1.Progress
	// MayStopEarly says that the config lets training end before the last step.
	MayStopEarly bool
	// StatePath names trainer_state.json in messages.
	StatePath string
}

// Verdict is the class with its evidence, one line for people. Kind names what was recognised, e.g. "gpu-oom"; it is
// "unknown" when nothing was.
type Verdict struct {
	Class  fettlev1.ExitClass
	Kind   string
	Detail string
}

// Short names of the classes.
const (
	done      = fettlev1.ExitClass_EXIT_CLASS_DONE
	oom       = fettlev1.ExitClass_EXIT_CLASS_OUT_OF_MEMORY
	transient = fettlev1.ExitClass_EXIT_CLASS_TRANSIENT
	permanent = fettlev1.ExitClass_EXIT_CLASS_PERMANENT
)

// rule is one row of the table. The order matters: a rank that runs out of memory makes the others print network errors.
type rule struct {
	kind    string
	class   fettlev1.ExitClass
	says    string
	pattern *regexp.Regexp
}

var rules = []rule{
	{"gpu-hardware", transient, "GPU hardware fault", regexp.MustCompile(`uncorrectable (ECC|NVLink) error|fallen off the bus|GPU is lost|Unable to determine the device handle|no CUDA-capable device is detected`)},
	{"host-oom", oom, "out of host memory", regexp.MustCompile(`DefaultCPUAllocator: (can't allocate|not enough) memory|DataLoader worker \(pid.*\) is killed by signal: (Killed|Bus error)|out of shared memory|^MemoryError\b`)},
	{"gpu-oom", oom, "out of GPU memory", regexp.MustCompile(`torch\.(cuda\.)?OutOfMemoryError|(CUDA|HIP|XPU|NPU) out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|Cuda failure 2 'out of memory'`)},
	{"disk", permanent, "no disk space", regexp.MustCompile(`No space left on device|Disk quota exceeded|\[Errno 28\]`)},
	{"data-assert", permanent, "bad data", regexp.MustCompile(`device-side assert triggered`)},
	{"config", permanent, "bad config or data", regexp.MustCompile(`Some keys are not used by the HfArgumentParser|Some specified arguments are not used|Please specify|Please provide|Undefined dataset|Cannot open .*dataset_info\.json|File .* not found\.|Allowed file types|File types should be identical|Template .* does not exist|is only (compatible|valid) (with|for)|is incompatible with|To fix: run .pip install|No package metadata was found|ModuleNotFoundError|ImportError|requires tensorboard|Output directory already exists|does not appear to have a file named|GatedRepoError|RepositoryNotFoundError`)},
	{"checkpoint", transient, "bad checkpoint", regexp.MustCompile(`Can't find a valid checkpoint at|trainer_state\.json'|PytorchStreamReader|invalid header or archive is corrupted`)},
	{"rendezvous", transient, "ranks did not meet", regexp.MustCompile(`(?i:EADDRINUSE|address already in use|Rendezvous(Timeout|Connection)Error|DistNetworkError|DistStoreError|client socket has timed out)`)},
	{"nccl", transient, "network between GPUs", regexp.MustCompile(`NCCL (error|watchdog|communicator was aborted)|nccl(System|Remote|Internal|UnhandledCuda)Error|Watchdog caught collective operation timeout|DistBackendError|Connection (reset|closed) by peer`)},
	{"cuda-fault", transient, "CUDA fault", regexp.MustCompile(`illegal memory access|unspecified launch failure|CUBLAS_STATUS_EXECUTION_FAILED|CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)|AcceleratorError`)},
	{"hub", transient, "hub or network", regexp.MustCompile(`couldn't connect to 'https://huggingface|LocalEntryNotFoundError|429 Client Error|Read timed out`)},
	// The trainer says "Failed to load tokenizer" after whatever kept the model from being read, a hub out of reach too.
	{"config", permanent, "bad config or data", regexp.MustCompile(`Repo id must be in the form|Incorrect path_or_model_id`)},
	{"config", permanent, "bad config or data", regexp.MustCompile(`Failed to load tokenizer`)},
}

// Of answers the verdict. Ends that are not the trainer's own doing (never started, out of time, lease run out, shim lost)
// get no class: the caller knows better.
func Of(in Input) Verdict {
	e := in.Exit
	if e.GetNeverStarted() || e.GetTimedOut() || e.GetLeaseExpired() || e.GetShimLost() {
		return Verdict{}
	}
	if e.GetOomKilled() {
		return Verdict{oom, "host-oom", "out of host memory: the kernel ended a process of the attempt"}
	}
	if e.GetCode() == 0 && e.GetSignal() == 0 {
		return in.success()
	}
	return in.failure()
}

func (in Input) success() Verdict {
	if in.Rank > 0 {
		return Verdict{done, "done", "this node's ranks ended without an error"}
	}
	if !in.HasState {
		if p := in.Progress; p.GetTotalSteps() > 0 && p.GetStep() >= p.GetTotalSteps() {
			return Verdict{done, "done", fmt.Sprintf("trained %d of %d steps", p.GetStep(), p.GetTotalSteps())}
		}
		return Verdict{permanent, "not-trained", fmt.Sprintf("the trainer exited 0 but left no %s: nothing was trained", in.statePath())}
	}
	// Started from a finished run the trainer trains no step, or one too many.
	trained := (in.Step > in.Resumed && in.Resumed < in.MaxSteps) || in.Attempt > 1
	if in.Resumed < 0 {
		trained = in.Attempt > 1 || in.Progress == nil || in.Progress.Loss != nil
	}
	switch {
	case in.MaxSteps <= 0:
		return Verdict{permanent, "not-trained", fmt.Sprintf("the trainer exited 0 but %s says that there were no steps to train", in.statePath())}
	case in.Step < in.MaxSteps && in.MayStopEarly && in.Step > 0:
		return Verdict{done, "done", fmt.Sprintf("stopped early at step %d of %d", in.Step, in.MaxSteps)}
	case in.Step < in.MaxSteps:
		return Verdict{transient, "stopped", fmt.Sprintf("the trainer exited 0 at step %d of %d", in.Step, in.MaxSteps)}
	case !trained:
		return Verdict{permanent, "not-trained", fmt.Sprintf("nothing was trained: the output directory already held a run of %d steps; choose another output_dir, raise num_train_epochs, or set overwrite_output_dir: true", in.MaxSteps)}
	}
	return Verdict{done, "done", fmt.Sprintf("trained %d of %d steps", in.Step, in.MaxSteps)}
}

func (in Input) statePath() string {
	if in.StatePath == "" {
		return "trainer_state.json"
	}
	return in.StatePath
}

func (in Input) failure() Verdict {
	code, signal := in.Exit.GetCode(), in.Exit.GetSignal()
	if code > 128 && code <= 128+64 {
		signal = code - 128
	}
	log := parse(in.Log)
	for _, text := range log.candidates(signal != 0) {
		if v, ok := match(text); ok {
			return v
		}
	}
	ending, last := exitText(in.Exit), log.lastException()
	// The exception first, then how the process ended and when.
	tell := func(more string) string {
		if last != "" {
			return fmt.Sprintf("%s (%s%s)", last, ending, more)
		}
		return ending + more
	}
	switch {
	case (code == 126 || code == 127) && last == "":
		return Verdict{permanent, "engine", ending + ": the trainer could not be started"}
	case signal == 9 || signal == 15 || signal == 2 || signal == 1:
		return Verdict{transient, "signalled", tell("")}
	case in.progressed():
		return Verdict{transient, "unknown", tell(", after it had trained")}
	}
	return Verdict{permanent, "unknown", tell(", before its first step")}
}

func (in Input) progressed() bool {
	return in.Progress.GetStep() > max(in.Resumed, 0)
}

// match finds the first rule that a text proves. The proof is its last line that does: of a chain of exceptions the later
// ones are meant for people.
func match(text string) (Verdict, bool) {
	for _, r := range rules {
		proof := ""
		for line := range strings.Lines(text) {
			line = strings.TrimRight(line, "\n")
			if r.pattern.MatchString(line) && (proof == "" || !strings.HasPrefix(line, "terminate called")) {
				proof = line
			}
		}
		switch {
		case proof == "":
		case r.kind == "gpu-oom":
			return memoryVerdict(proof), true
		default:
			return Verdict{r.class, r.kind, r.says + ": " + clean(proof)}, true
		}
	}
	return Verdict{}, false
}

var (
	foreign  = regexp.MustCompile(`Process (\d+) has ([0-9.]+ [KMGT]iB) memory in use`)
	asked    = regexp.MustCompile(`Tried to allocate ([0-9.]+ [KMGT]iB)`)
	capacity = regexp.MustCompile(`total capacity of ([0-9.]+ [KMGT]iB) of which ([0-9.]+ [KMGT]iB|0 bytes) is free`)
)

// memoryVerdict reads PyTorch's account. Memory held by another process on our GPU is not the job's fault.
func memoryVerdict(line string) Verdict {
	detail := "out of GPU memory"
	if m := asked.FindStringSubmatch(line); m != nil {
		detail += ": asked for " + m[1]
		if c := capacity.FindStringSubmatch(line); c != nil {
			detail += " with " + c[2] + " free of " + c[1]
		}
	} else {
		detail += ": " + clean(line)
	}
	if m := foreign.FindStringSubmatch(line); m != nil {
		return Verdict{transient, "gpu-busy", fmt.Sprintf("%s; process %s of somebody else holds %s on the GPU", detail, m[1], m[2])}
	}
	return Verdict{oom, "gpu-oom", detail}
}

func exitText(e *fettlev1.Exit) string {
	if e.GetSignal() != 0 {
		return fmt.Sprintf("ended by signal %d", e.GetSignal())
	}
	return fmt.Sprintf("exit code %d", e.GetCode())
}

// clean makes one bounded line for people.
func clean(line string) string {
	line = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == '\uFFFD' || r == 0x2028 || r == 0x2029 || (r >= 0x202a && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069) {
			return ' '
		}
		return r
	}, line))
	const most = 300
	if len(line) <= most {
		return line
	}
	cut := most
	for cut > 0 && line[cut]&0xc0 == 0x80 {
		cut--
	}
	return line[:cut] + "…"
}
