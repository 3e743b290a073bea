package classify

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

const (
	frames = "Traceback (most recent call last):\n" +
		"  File \"/venv/bin/llamafactory-cli\", line 8, in <module>\n    sys.exit(main())\n             ^^^^^^\n" +
		"  File \"/venv/lib/python3.11/site-packages/llamafactory/train/tuner.py\", line 72, in _training_function\n    raise ImportError('not this one')\n"
	oomText = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.97 GiB. GPU 0 has a total capacity of 79.25 GiB of which 334.06 MiB is free. Including non-PyTorch memory, this process has 78.90 GiB memory in use. Of the allocated memory 77.10 GiB is allocated by PyTorch, and 24.73 MiB is reserved by PyTorch but unallocated."
	busy    = "Process 627536 has 40.50 GiB memory in use. "
	info    = "[INFO|2026-11-23 14:00:00] llamafactory.hparams.parser:143 >> Please specify nothing, ImportError is only a word here\n"
	torch   = "Traceback (most recent call last):\n  File \"/venv/bin/torchrun\", line 7, in <module>\n    sys.exit(main())\n" +
		"torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n============================================================\nlauncher.py FAILED\n------------------------------------------------------------\nFailures:\n[1]:\n  rank      : 0 (local_rank: 0)\n  exitcode  : -15 (pid: 12)\n" +
		"------------------------------------------------------------\nRoot Cause (first observed failure):\n[0]:\n  time      : 2026-11-23_14:00:00\n  rank      : %d (local_rank: 1)\n  exitcode  : 1 (pid: 13)\n  error_file: <N/A>\n============================================================\n" +
		"Traceback (most recent call last):\n  File \"/venv/bin/llamafactory-cli\", line 8, in <module>\n    sys.exit(main())\nsubprocess.CalledProcessError: Command '['torchrun', '--nnodes', '1']' returned non-zero exit status 1.\n"
)

func ranked(rank int, text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		fmt.Fprintf(&b, "[rank%d]: %s", rank, line)
	}
	return b.String()
}

func TestFailures(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		log   string
		code  int32
		sig   int32
		step  int64
		class fettlev1.ExitClass
		kind  string
		want  string
	}{
		{name: "GPU memory", log: info + frames + oomText + "\n", class: oom, kind: "gpu-oom", want: "out of GPU memory: asked for 1.97 GiB with 334.06 MiB free of 79.25 GiB"},
		{name: "GPU memory, older text", log: frames + "RuntimeError: CUDA out of memory. Tried to allocate 36.00 MiB (GPU 0; 7.93 GiB total capacity; 6.0 GiB already allocated)\n", class: oom, kind: "gpu-oom", want: "out of GPU memory: asked for 36.00 MiB"},
		{name: "GPU memory of cublas", log: frames + "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`\n", class: oom, kind: "gpu-oom", want: "out of GPU memory: RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"},
		{name: "somebody else's GPU memory", log: frames + strings.Replace(oomText, "Including", busy+"Including", 1) + "\n", class: transient, kind: "gpu-busy", want: "out of GPU memory: asked for 1.97 GiB with 334.06 MiB free of 79.25 GiB; process 627536 of somebody else holds 40.50 GiB on the GPU"},
		{name: "0 bytes of somebody else is nothing", log: frames + strings.Replace(oomText, "Including", "Process 1 has 0 bytes memory in use. Including", 1) + "\n", class: oom, kind: "gpu-oom", want: "out of GPU memory: asked for 1.97 GiB with 334.06 MiB free of 79.25 GiB"},
		{name: "ECC", log: frames + "RuntimeError: CUDA error: uncorrectable ECC error encountered\n", class: transient, kind: "gpu-hardware", want: "GPU hardware fault: RuntimeError: CUDA error: uncorrectable ECC error encountered"},
		{name: "no device", log: frames + "RuntimeError: No CUDA GPUs, no CUDA-capable device is detected\n", class: transient, kind: "gpu-hardware", want: "GPU hardware fault: RuntimeError: No CUDA GPUs, no CUDA-capable device is detected"},
		{name: "host memory", log: frames + "RuntimeError: [enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 68719476736 bytes.\n", class: oom, kind: "host-oom", want: "out of host memory: RuntimeError: [enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 68719476736 bytes."},
		{name: "worker killed", log: frames + "RuntimeError: DataLoader worker (pid 123) is killed by signal: Killed.\n", class: oom, kind: "host-oom", want: "out of host memory: RuntimeError: DataLoader worker (pid 123) is killed by signal: Killed."},
		{name: "disk", log: frames + "OSError: [Errno 28] No space left on device: '/out/checkpoint-5'\n", step: 5, class: permanent, kind: "disk", want: "no disk space: OSError: [Errno 28] No space left on device: '/out/checkpoint-5'"},
		{name: "assert", log: frames + "RuntimeError: CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported\n", class: permanent, kind: "data-assert", want: "bad data: RuntimeError: CUDA error: device-side assert triggered"},
		{name: "unknown key", log: frames + "ValueError: Some keys are not used by the HfArgumentParser: ['data_path']\n", class: permanent, kind: "config", want: "bad config or data: ValueError: Some keys are not used by the HfArgumentParser: ['data_path']"},
		{name: "dataset", log: frames + "ValueError: Undefined dataset nope in dataset_info.json.\n", class: permanent, kind: "config", want: "bad config or data: ValueError: Undefined dataset nope in dataset_info.json."},
		{name: "module", log: frames + "ModuleNotFoundError: No module named 'deepspeed'\n", class: permanent, kind: "config", want: "bad config or data: ModuleNotFoundError: No module named 'deepspeed'"},
		{name: "gated", log: frames + "huggingface_hub.errors.GatedRepoError: 403 Client Error.\n\nsomething\n", class: permanent, kind: "config", want: "bad config or data: huggingface_hub.errors.GatedRepoError: 403 Client Error."},
		{name: "checkpoint", log: frames + "ValueError: Can't find a valid checkpoint at /out/checkpoint-5\n", class: transient, kind: "checkpoint", want: "bad checkpoint: ValueError: Can't find a valid checkpoint at /out/checkpoint-5"},
		{name: "checkpoint state", log: frames + "FileNotFoundError: [Errno 2] No such file or directory: '/out/checkpoint-5/trainer_state.json'\n", class: transient, kind: "checkpoint", want: "bad checkpoint: FileNotFoundError: [Errno 2] No such file or directory: '/out/checkpoint-5/trainer_state.json'"},
		{name: "port", log: frames + "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. port: 29500, error: EADDRINUSE, address already in use\n", class: transient, kind: "rendezvous", want: "ranks did not meet: torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. port: 29500, error: EADDRINUSE, address already in use"},
		{name: "nccl", log: frames + "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1000, remote process exited\n", class: transient, kind: "nccl", want: "network between GPUs: torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1000, remote process exited"},
		{name: "watchdog without a traceback", sig: 6, log: "{'loss': '1.2'}\n[rank0]:[E1123 14:00:00 ProcessGroupNCCL.cpp:632] [Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, Timeout(ms)=600000) ran for 600060 milliseconds before timing out.\nterminate called after throwing an instance of 'c10::DistBackendError'\n", class: transient, kind: "nccl", want: "network between GPUs: [E1123 14:00:00 ProcessGroupNCCL.cpp:632] [Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, Timeout(ms)=600000) ran for 600060 milliseconds before timing out."},
		{name: "illegal access", log: frames + "RuntimeError: CUDA error: an illegal memory access was encountered\n", step: 10, class: transient, kind: "cuda-fault", want: "CUDA fault: RuntimeError: CUDA error: an illegal memory access was encountered"},
		{name: "hub", log: frames + "OSError: We couldn't connect to 'https://huggingface.co' to load the files\nCheck your internet connection.\n", class: transient, kind: "hub", want: "hub or network: OSError: We couldn't connect to 'https://huggingface.co' to load the files"},
		{name: "hub, told by the tokenizer", log: frames + "OSError: We couldn't connect to 'https://huggingface.co' to load the files\n\nThe above exception was the direct cause of the following exception:\n\n" + frames + "OSError: Failed to load tokenizer.\n", class: transient, kind: "hub", want: "hub or network: OSError: We couldn't connect to 'https://huggingface.co' to load the files"},
		{name: "tokenizer", log: frames + "OSError: Failed to load tokenizer.\n", class: permanent, kind: "config", want: "bad config or data: OSError: Failed to load tokenizer."},
		{name: "rate limit", log: frames + "requests.exceptions.HTTPError: 429 Client Error: Too Many Requests\n", class: transient, kind: "hub", want: "hub or network: requests.exceptions.HTTPError: 429 Client Error: Too Many Requests"},

		{name: "unknown before a step", log: info + frames + "KeyError: 'instruction'\n", class: permanent, kind: "unknown", want: "KeyError: 'instruction' (exit code 1, before its first step)"},
		{name: "unknown after steps", log: info + frames + "RuntimeError: something odd\nwith a second line\n", step: 7, class: transient, kind: "unknown", want: "RuntimeError: something odd (exit code 1, after it had trained)"},
		{name: "frames and logs do not count", log: info + frames + "ValueError: plain\n" + info + "W1123 14:00:00 torch/x.py:1] CUDA out of memory is a song\n", class: permanent, kind: "unknown", want: "ValueError: plain (exit code 1, before its first step)"},
		{name: "only the last traceback counts", log: frames + "ImportError: optional thing\n\nLet us go on\n{'loss': '1.0'}\n" + frames + "ValueError: plain\n", step: 3, class: transient, kind: "unknown", want: "ValueError: plain (exit code 1, after it had trained)"},
		{name: "a chain counts as one", log: frames + oomText + "\n\nDuring handling of the above exception, another exception occurred:\n\n" + frames + "RuntimeError: cleanup failed\n", class: oom, kind: "gpu-oom", want: "out of GPU memory: asked for 1.97 GiB with 334.06 MiB free of 79.25 GiB"},
		{name: "progress bars", log: "  1%|1| 1/69 [00:00<00:05]\r  2%|2| 2/69 [00:00<00:05]\r" + frames + "ValueError: plain\n", class: permanent, kind: "unknown", want: "ValueError: plain (exit code 1, before its first step)"},

		{name: "two ranks, memory on one, network on the other", log: ranked(0, frames+"torch.distributed.DistBackendError: NCCL communicator was aborted on rank 0.\n") + ranked(1, frames+oomText+"\n") + fmt.Sprintf(torch, 1), class: oom, kind: "gpu-oom", want: "out of GPU memory: asked for 1.97 GiB with 334.06 MiB free of 79.25 GiB"},
		{name: "the network rank was seen first", log: ranked(1, frames+oomText+"\n") + ranked(0, frames+"RuntimeError: Connection closed by peer\n") + fmt.Sprintf(torch, 0), class: oom, kind: "gpu-oom", want: "out of GPU memory: asked for 1.97 GiB with 334.06 MiB free of 79.25 GiB"},
		{name: "root cause is not known by name", log: ranked(0, frames+"RuntimeError: Connection closed by peer\n") + ranked(1, frames+"KeyError: 'messages'\n") + fmt.Sprintf(torch, 1), class: permanent, kind: "unknown", want: "KeyError: 'messages' (exit code 1, before its first step)"},
		{name: "interleaved ranks", log: interleave(ranked(0, frames+"ValueError: Please specify dataset for training.\n"), ranked(1, frames+"ValueError: Please specify dataset for training.\n")) + fmt.Sprintf(torch, 0), class: permanent, kind: "config", want: "bad config or data: ValueError: Please specify dataset for training."},
		{name: "a rank was killed", log: fmt.Sprintf(strings.Replace(torch, "exitcode  : 1 (pid: 13)", "exitcode  : -9 (pid: 13)\n  traceback : Signal 9 (SIGKILL) received by PID 13", 1), 1), step: 5, class: transient, kind: "unknown", want: "exit code 1, after it had trained"},

		{name: "killed", sig: 9, log: "{'loss': '1.0'}\n", class: transient, kind: "signalled", want: "ended by signal 9"},
		{name: "killed through a shell", code: 137, class: transient, kind: "signalled", want: "exit code 137"},
		{name: "terminated", sig: 15, class: transient, kind: "signalled", want: "ended by signal 15"},
		{name: "segfault at start", sig: 11, log: "loading\n", class: permanent, kind: "unknown", want: "ended by signal 11, before its first step"},
		{name: "segfault later", sig: 11, step: 3, class: transient, kind: "unknown", want: "ended by signal 11, after it had trained"},
		{name: "no such command", code: 127, log: "sh: llamafactory-cli: not found\n", class: permanent, kind: "engine", want: "exit code 127: the trainer could not be started"},
		{name: "nothing printed", class: permanent, kind: "unknown", want: "exit code 1, before its first step"},
		{name: "escape codes in the message", log: frames + "ValueError: \x1b[31mred\x1b[0m \u202etxet\n", class: permanent, kind: "unknown", want: "ValueError:  [31mred [0m  txet (exit code 1, before its first step)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := &fettlev1.Exit{Code: tt.code, Signal: tt.sig}
			if tt.code == 0 && tt.sig == 0 {
				e.Code = 1
			}
			if tt.sig != 0 {
				e.Code = -1
			}
			in := Input{Exit: e, Log: []byte(tt.log), Attempt: 1}
			if tt.step > 0 {
				in.Progress = &fettlev1.Progress{Step: tt.step, TotalSteps: 100, Attempt: 1}
			}
			got := Of(in)
			if got.Class != tt.class || got.Kind != tt.kind || got.Detail != tt.want {
				t.Errorf("got  %v %s %q\nwant %v %s %q", got.Class, got.Kind, got.Detail, tt.class, tt.kind, tt.want)
			}
		})
	}
}

func interleave(a, b string) string {
	as, bs := strings.SplitAfter(a, "\n"), strings.SplitAfter(b, "\n")
	var out strings.Builder
	for i := range max(len(as), len(bs)) {
		if i < len(as) {
			out.WriteString(as[i])
		}
		if i < len(bs) {
			out.WriteString(bs[i])
		}
	}
	return out.String()
}

func TestSuccess(t *testing.T) {
	t.Parallel()
	loss := &fettlev1.Progress{Step: 69, TotalSteps: 69, Loss: proto.Float64(6.5), Attempt: 1}
	summary := &fettlev1.Progress{Step: 69, TotalSteps: 69, Attempt: 1}
	tests := []struct {
		name  string
		in    Input
		class fettlev1.ExitClass
		want  string
	}{
		{"trained", Input{Attempt: 1, HasState: true, Step: 69, MaxSteps: 69, Progress: loss}, done, "trained 69 of 69 steps"},
		{"trained before the first line was logged", Input{Attempt: 1, HasState: true, Step: 5, MaxSteps: 5, Progress: summary}, done, "trained 5 of 5 steps"},
		{"resumed and trained on", Input{Attempt: 2, Resumed: 40, HasState: true, Step: 69, MaxSteps: 69, Progress: loss}, done, "trained 69 of 69 steps"},
		{"only the end was left to do", Input{Attempt: 2, Resumed: 69, HasState: true, Step: 69, MaxSteps: 69, Progress: summary}, done, "trained 69 of 69 steps"},
		{"an old run's directory", Input{Attempt: 1, Resumed: 69, HasState: true, Step: 69, MaxSteps: 69, Progress: summary}, permanent, "nothing was trained: the output directory already held a run of 69 steps; choose another output_dir, raise num_train_epochs, or set overwrite_output_dir: true"},
		{"an old run's directory, start not known", Input{Attempt: 1, Resumed: -1, HasState: true, Step: 69, MaxSteps: 69, Progress: summary}, permanent, "nothing was trained: the output directory already held a run of 69 steps; choose another output_dir, raise num_train_epochs, or set overwrite_output_dir: true"},
		{"an old run's directory, one step too many", Input{Attempt: 1, Resumed: 80, HasState: true, Step: 81, MaxSteps: 80, Progress: summary}, permanent, "nothing was trained: the output directory already held a run of 80 steps; choose another output_dir, raise num_train_epochs, or set overwrite_output_dir: true"},
		{"no state", Input{Attempt: 1, StatePath: "/out/trainer_state.json"}, permanent, "the trainer exited 0 but left no /out/trainer_state.json: nothing was trained"},
		{"another trainer without a state", Input{Attempt: 1, Progress: loss}, done, "trained 69 of 69 steps"},
		{"no steps", Input{Attempt: 1, HasState: true}, permanent, "the trainer exited 0 but trainer_state.json says that there were no steps to train"},
		{"stopped on the way", Input{Attempt: 1, HasState: true, Step: 7, MaxSteps: 4600, Progress: loss}, transient, "the trainer exited 0 at step 7 of 4600"},
		{"stopped early as asked", Input{Attempt: 1, HasState: true, Step: 700, MaxSteps: 4600, Progress: loss, MayStopEarly: true}, done, "stopped early at step 700 of 4600"},
		{"another node", Input{Attempt: 1, Rank: 1}, done, "this node's ranks ended without an error"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.in.Exit = &fettlev1.Exit{}
			if got := Of(tt.in); got.Class != tt.class || got.Detail != tt.want {
				t.Errorf("got  %v %q\nwant %v %q", got.Class, got.Detail, tt.class, tt.want)
			}
		})
	}
}

func TestEndsThatAreNotTheTrainers(t *testing.T) {
	t.Parallel()
	for _, e := range []*fettlev1.Exit{{NeverStarted: true, Code: -1}, {TimedOut: true, Signal: 15}, {LeaseExpired: true, Signal: 9}, {ShimLost: true}} {
		if got := Of(Input{Exit: e, Attempt: 1, Log: []byte(frames + oomText)}); got != (Verdict{}) {
			t.Errorf("%v: %+v, want no verdict", e, got)
		}
	}
	if got := Of(Input{Exit: &fettlev1.Exit{Signal: 9, OomKilled: true}, Attempt: 1}); got.Class != oom || got.Kind != "host-oom" {
		t.Errorf("ended by the kernel for memory: %+v", got)
	}
}

func FuzzOf(f *testing.F) {
	f.Add([]byte(info+frames+oomText+"\n"), int32(1), int32(0))
	f.Add([]byte(ranked(0, frames+"RuntimeError: Connection closed by peer\n")+fmt.Sprintf(torch, 0)), int32(1), int32(0))
	f.Add([]byte("Traceback (most recent call last):\nTraceback (most recent call last):\n[rank1]: x"), int32(-1), int32(9))
	f.Fuzz(func(t *testing.T, log []byte, code, signal int32) {
		got := Of(Input{Exit: &fettlev1.Exit{Code: code, Signal: signal}, Log: log, Attempt: 1})
		if got.Class == 0 || got.Kind == "" || got.Detail == "" {
			t.Fatalf("no verdict: %+v", got)
		}
		if strings.ContainsAny(got.Detail, "\n\r\x00\x1b") || len(got.Detail) > 600 {
			t.Fatalf("detail %q", got.Detail)
		}
	})
}
