package host

import (
	"math"
	"path/filepath"
	"strings"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// Bounds of a launcher's answers.
const (
	maxProblems    = 100
	maxArgs        = 1024
	maxArgBytes    = 128 << 10 // the kernel's own bound of one argument or variable
	maxCommand     = 1 << 20   // all arguments and variables together
	maxEnv         = 512
	maxFiles       = 256
	maxCursor      = 64 << 10
	maxCheckpoints = 10_000
	maxPath        = 4096
)

// checkValidate also makes the words printable.
func checkValidate(_ *pluginv1.ValidateRequest, r *pluginv1.ValidateResponse) error {
	r.Warnings = cleanLines(r.Warnings)
	return cleanProblems(&r.Problems)
}

// cleanProblems cuts a long list, which is a user's and not the launcher's fault.
func cleanProblems(problems *[]*pluginv1.Problem) error {
	if len(*problems) > maxProblems {
		*problems = (*problems)[:maxProblems]
	}
	for _, p := range *problems {
		p.Field, p.Problem, p.Remedy = printable(p.Field, maxLogField), printable(p.Problem, maxUserText), printable(p.Remedy, maxUserText)
		if p.Field == "" && p.Problem == "" {
			return invalid("a problem without words")
		}
	}
	return nil
}

func cleanLines(lines []string) []string {
	if len(lines) > maxProblems {
		lines = lines[:maxProblems]
	}
	for i := range lines {
		lines[i] = printable(lines[i], maxUserText)
	}
	return lines
}

func checkEstimate(_ *pluginv1.EstimateRequest, r *pluginv1.EstimateResponse) error {
	m := r.GetMemory()
	if m.GetNeedMib() < 0 || len(m.GetTerms()) > maxProblems {
		return invalid("%d MiB in %d terms", m.GetNeedMib(), len(m.GetTerms()))
	}
	for _, t := range m.GetTerms() {
		t.Name = printable(t.Name, maxLogField)
	}
	return nil
}

// checkPlan says whether a plan can be carried out inside the attempt's own directory, and as nobody but the job.
func checkPlan(_ *pluginv1.PlanRequest, r *pluginv1.PlanResponse) error {
	if err := cleanProblems(&r.Problems); err != nil {
		return err
	}
	r.Notes = cleanLines(r.Notes)
	if len(r.GetProblems()) > 0 {
		return nil
	}
	if len(r.GetArgv()) == 0 || r.GetArgv()[0] == "" {
		return invalid("a plan without a command")
	}
	if len(r.GetArgv()) > maxArgs || len(r.GetEnv()) > maxEnv || len(r.GetFiles()) > maxFiles {
		return invalid("%d arguments, %d variables, %d files; at most %d, %d, %d",
			len(r.GetArgv()), len(r.GetEnv()), len(r.GetFiles()), maxArgs, maxEnv, maxFiles)
	}
	total := 0
	for _, arg := range r.GetArgv() {
		if len(arg) > maxArgBytes || strings.ContainsRune(arg, 0) {
			return invalid("an argument of %d bytes, or with a zero byte", len(arg))
		}
		total += len(arg) + 1
	}
	for _, kv := range r.GetEnv() {
		if err := checkVariable(kv); err != nil {
			return err
		}
		total += len(kv.GetKey()) + len(kv.GetValue()) + 2
	}
	if total > maxCommand {
		return invalid("%d bytes of arguments and variables, at most %d", total, maxCommand)
	}
	if err := checkFiles(r.GetFiles()); err != nil {
		return err
	}
	for _, p := range []struct{ name, path string }{
		{"progress_file", r.GetProgressFile()}, {"output_dir", r.GetOutputDir()}, {"resume_from", r.GetResumeFrom()},
	} {
		if p.path != "" && !isAbsolute(p.path) {
			return invalid("%s %q is not an absolute path", p.name, printable(p.path, maxLogField))
		}
	}
	return nil
}

// checkVariable keeps a launcher from saying what only the node may: which job and which GPUs these are.
func checkVariable(kv *fettlev1.KeyValue) error {
	key := kv.GetKey()
	switch {
	case key == "" || strings.ContainsAny(key, "=\x00") || len(key) > maxLogField:
		return invalid("variable name %q", printable(key, maxLogField))
	case strings.ContainsRune(kv.GetValue(), 0) || len(kv.GetValue()) > maxArgBytes:
		return invalid("variable %s has a value of %d bytes, or with a zero byte", key, len(kv.GetValue()))
	case strings.HasPrefix(key, "FETTLE_"), key == "CUDA_VISIBLE_DEVICES", key == "NVIDIA_VISIBLE_DEVICES":
		return invalid("variable %s, which is the node's to set", key)
	}
	return nil
}

func checkFiles(files []*pluginv1.PlannedFile) error {
	seen := make(map[string]struct{}, len(files))
	for _, f := range files {
		path := f.GetPath()
		name := printable(path, maxLogField)
		if !filepath.IsLocal(path) || filepath.Clean(path) != path || path == "." || len(path) > maxPath || strings.ContainsRune(path, 0) {
			return invalid("file %q does not lie in the attempt's directory", name)
		}
		if _, twice := seen[path]; twice {
			return invalid("file %q comes twice", name)
		}
		seen[path] = struct{}{}
		if f.GetMode()&^0o777 != 0 {
			return invalid("file %q has mode %o", name, f.GetMode())
		}
	}
	return nil
}

func isAbsolute(path string) bool {
	return filepath.IsAbs(path) && len(path) <= maxPath && !strings.ContainsAny(path, "\x00\n")
}

func checkProgress(_ *pluginv1.ProgressRequest, r *pluginv1.ProgressResponse) error {
	if n := len(r.GetCursor()); n > maxCursor {
		return invalid("a cursor of %d bytes, at most %d", n, maxCursor)
	}
	p := r.GetProgress()
	if p.GetStep() < 0 || p.GetTotalSteps() < 0 || p.GetRemainingS() < -1 {
		return invalid("step %d of %d, %d s left", p.GetStep(), p.GetTotalSteps(), p.GetRemainingS())
	}
	return nil
}

func checkClassify(_ *pluginv1.ClassifyRequest, r *pluginv1.ClassifyResponse) error {
	// Whether a job exceeded its share of a GPU is the node's to say.
	if _, known := fettlev1.ExitClass_name[int32(r.GetClass())]; !known || r.GetClass() == fettlev1.ExitClass_EXIT_CLASS_VRAM_EXCEEDED {
		return invalid("exit class %d", r.GetClass())
	}
	r.Detail = printable(r.Detail, maxUserText)
	return nil
}

func checkAdapt(_ *pluginv1.AdaptRequest, r *pluginv1.AdaptResponse) error {
	if len(r.GetSet()) > maxEnv {
		return invalid("%d keys changed, at most %d", len(r.GetSet()), maxEnv)
	}
	for _, kv := range r.GetSet() {
		if kv.GetKey() == "" || len(kv.GetKey()) > maxLogField || len(kv.GetValue()) > maxUserText ||
			printable(kv.GetKey(), math.MaxInt) != kv.GetKey() || printable(kv.GetValue(), math.MaxInt) != kv.GetValue() {
			return invalid("change of key %q to %q", printable(kv.GetKey(), maxLogField), printable(kv.GetValue(), maxLogField))
		}
	}
	r.Changes = cleanLines(r.Changes)
	return nil
}

func checkCheckpoint(req *pluginv1.CheckpointRequest, r *pluginv1.CheckpointResponse) error {
	if len(r.GetCheckpoints()) > maxCheckpoints {
		return invalid("%d checkpoints, at most %d", len(r.GetCheckpoints()), maxCheckpoints)
	}
	for _, c := range r.GetCheckpoints() {
		rel, err := filepath.Rel(req.GetOutputDir(), c.GetPath())
		if !isAbsolute(c.GetPath()) || err != nil || !filepath.IsLocal(rel) {
			return invalid("checkpoint %q does not lie in %q", printable(c.GetPath(), maxLogField), printable(req.GetOutputDir(), maxLogField))
		}
		if c.GetStep() < 0 {
			return invalid("checkpoint of step %d", c.GetStep())
		}
		c.Problem = printable(c.Problem, maxUserText)
	}
	return nil
}
