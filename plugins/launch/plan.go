package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// Names of the files of an attempt, in its directory.
const (
	finalName  = "final.yaml"
	factsName  = "launch.json"
	logName    = "trainer_log.jsonl"
	stateName  = "trainer_state.json"
	engineName = "llamafactory-cli"
)

// facts are what Classify needs of the plan; they are kept in the attempt's directory.
type facts struct {
	Method string `json:"method"`
	Rank   uint32 `json:"rank"`
	// Resumed is the step of the checkpoint that the attempt starts from.
	Resumed      int64 `json:"resumed_step"`
	MayStopEarly bool  `json:"may_stop_early"`
}

// Plan turns a config into the processes and files of one node of an attempt. It reads what the config names and writes nothing.
func (l *Launcher) Plan(_ context.Context, req *pluginv1.PlanRequest) (*pluginv1.PlanResponse, error) {
	env := make(map[string]string, len(req.GetEnv()))
	for _, kv := range req.GetEnv() {
		env[kv.GetKey()] = kv.GetValue()
	}
	r := l.prepare(req.GetConfig(), request{see: true, planning: true, home: env["HOME"], jobID: req.GetJobId(), dataDir: req.GetAttemptDir()})
	if r.cfg == nil {
		return &pluginv1.PlanResponse{Problems: r.sorted()}, nil
	}
	start := r.settleStart(req.GetAttempt())
	engine := r.settleEngine(req, env)
	if len(r.problems) > 0 {
		return &pluginv1.PlanResponse{Problems: r.sorted()}, nil
	}
	final, err := r.cfg.Render(
		fmt.Sprintf("Written by fettle for job %d, attempt %d, node %d of %d.", req.GetJobId(), req.GetAttempt(), req.GetRank()+1, max(1, r.tc.GetNodes())),
		"Made from "+orUnknown(r.tc.GetPath())+"; change that, not this.",
	)
	if err != nil {
		return nil, err
	}
	known, err := json.Marshal(facts{Method: l.method, Rank: req.GetRank(), Resumed: start.step, MayStopEarly: r.cfg.Has("early_stopping_steps")})
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", factsName, err)
	}
	resp := &pluginv1.PlanResponse{
		Argv:       append(engine, "train", filepath.Join(req.GetAttemptDir(), finalName)),
		Env:        r.environment(req, env, engine[0]),
		ResumeFrom: start.path,
		OutputDir:  r.outputDir,
		Notes:      append(r.cfg.Notes(), r.allWarnings()...),
		Files: []*pluginv1.PlannedFile{
			{Path: finalName, Content: final, Mode: 0o644},
			{Path: factsName, Content: append(known, '\n'), Mode: 0o644},
		},
	}
	if r.dataInfo != nil {
		resp.Files = append(resp.Files, &pluginv1.PlannedFile{Path: "dataset_info.json", Content: r.dataInfo, Mode: 0o644})
	}
	if req.GetRank() == 0 {
		resp.ProgressFile = filepath.Join(r.outputDir, logName)
		if info, err := os.Stat(resp.ProgressFile); err == nil && info.Mode().IsRegular() {
			resp.ProgressOffset = info.Size()
		}
	}
	return resp, nil
}

func orUnknown(path string) string {
	if path == "" {
		return "the config of the submission"
	}
	return path
}

// settleEngine answers the command of the trainer, as absolute as it can be told.
func (r *run) settleEngine(req *pluginv1.PlanRequest, env map[string]string) []string {
	const key = "engine"
	refuse := func(problem, remedy string) []string {
		r.problems = append(r.problems, &pluginv1.Problem{Field: key, Problem: problem, Remedy: remedy})
		return []string{engineName}
	}
	text := req.GetEngine()
	if text == "" {
		text = engineName
	}
	argv, ok := splitCommand(text)
	if !ok || len(argv) == 0 {
		return refuse(fmt.Sprintf("%q is not a command", text), "close its quotes")
	}
	if r.distributed() && strings.ContainsAny(req.GetAttemptDir(), " \t\"'") {
		return refuse("torchrun cannot take the path "+req.GetAttemptDir(), "give the node a state directory without spaces")
	}
	if strings.Contains(argv[0], "/") {
		if _, err := os.Stat(argv[0]); errors.Is(err, os.ErrNotExist) {
			return refuse(argv[0]+" does not exist on this node", "install LLaMA-Factory there, or name another engine")
		}
		return argv
	}
	path, found := env["PATH"]
	if !found {
		return argv
	}
	file, sure := lookPath(argv[0], path)
	switch {
	case file != "":
		argv[0] = file
	case sure:
		return refuse(fmt.Sprintf("%s is not in the job's PATH on this node (%s)", argv[0], path), "install LLaMA-Factory, put its environment's bin on PATH, or name the engine by its path")
	}
	return argv
}

// lookPath finds an executable in a PATH that is not our own. sure says that its absence is certain: every directory
// could be looked into.
func lookPath(name, path string) (file string, sure bool) {
	sure = true
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			sure = false
			continue
		}
		file := filepath.Join(dir, name)
		if _, err := exec.LookPath(file); err == nil {
			return file, true
		} else if errors.Is(err, os.ErrPermission) {
			sure = false
		}
	}
	return "", sure
}

// splitCommand splits at spaces outside quotes.
func splitCommand(text string) ([]string, bool) {
	var argv []string
	var word strings.Builder
	var quote rune
	started := false
	for _, c := range text {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '"' || c == '\'':
			quote, started = c, true
		case c == ' ' || c == '\t':
			if started {
				argv = append(argv, word.String())
				word.Reset()
				started = false
			}
		default:
			word.WriteRune(c)
			started = true
		}
	}
	if started {
		argv = append(argv, word.String())
	}
	return argv, quote == 0 && !slices.Contains(argv, "")
}

// environment answers the variables of the attempt. The rendezvous is ours; what only tunes the trainer yields to the job's own.
func (r *run) environment(req *pluginv1.PlanRequest, given map[string]string, engine string) []*fettlev1.KeyValue {
	env := map[string]string{}
	tune := func(key, value string) {
		if _, has := given[key]; !has {
			env[key] = value
		}
	}
	tune("PYTHONUNBUFFERED", "1")
	if !r.cpu {
		tune("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
		tune("RECORD_VRAM", "1")
	}
	if r.localModel && !r.hubData && !r.cfg.Bool("push_to_hub", false) {
		tune("HF_HUB_OFFLINE", "1")
	}
	if cpus := int64(req.GetCpus()); cpus > 0 {
		tune("OMP_NUM_THREADS", strconv.FormatInt(max(1, cpus/r.processes()), 10))
		// Threads that spin at barriers take a busy machine's time from each other.
		tune("OMP_WAIT_POLICY", "PASSIVE")
	}
	if r.distributed() {
		env["FORCE_TORCHRUN"] = "1"
		env["NNODES"] = strconv.FormatUint(uint64(max(1, r.tc.GetNodes())), 10)
		env["NODE_RANK"] = strconv.FormatUint(uint64(req.GetRank()), 10)
		env["NPROC_PER_NODE"] = strconv.FormatInt(r.processes(), 10)
		env["MASTER_ADDR"] = req.GetMasterAddr()
		if env["MASTER_ADDR"] == "" {
			env["MASTER_ADDR"] = "127.0.0.1"
		}
		if req.GetMasterPort() > 0 {
			env["MASTER_PORT"] = strconv.FormatUint(uint64(req.GetMasterPort()), 10)
		}
	}
	if dir := filepath.Dir(engine); filepath.IsAbs(engine) && !slices.Contains(filepath.SplitList(given["PATH"]), dir) {
		// The trainer calls torchrun by name, which lies beside it.
		env["PATH"] = strings.TrimSuffix(dir+":"+given["PATH"], ":")
	}
	list := make([]*fettlev1.KeyValue, 0, len(env))
	for key, value := range env {
		list = append(list, &fettlev1.KeyValue{Key: key, Value: value})
	}
	slices.SortFunc(list, func(a, b *fettlev1.KeyValue) int { return strings.Compare(a.GetKey(), b.GetKey()) })
	return list
}
