package launch

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fettle-hpc/fettle/plugins/launch/config"
	"github.com/fettle-hpc/fettle/plugins/launch/dataset"
	"github.com/fettle-hpc/fettle/plugins/launch/memory"
	"github.com/fettle-hpc/fettle/plugins/launch/model"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// request is what prepare has to know beside the config.
type request struct {
	// see allows looking at the files that the config names.
	see bool
	// planning means that this is the node of the attempt: what cannot be read is a problem, not a doubt.
	planning bool
	home     string
	jobID    uint64
	// dataDir is where dataset_info.json will be.
	dataDir string
}

// run is one config on its way to the trainer.
type run struct {
	request
	l        *Launcher
	tc       *pluginv1.TrainingConfig
	cfg      *config.Config
	problems []*pluginv1.Problem
	warnings []string

	shape      model.Shape
	localModel bool
	dataInfo   []byte
	hubData    bool
	sharding   memory.Sharding
	offload    bool
	cpu        bool
	outputDir  string
}

// prepare reads a config, looks at what it names and fills in what is missing. A config that cannot be read at all leaves
// cfg nil; any problem refuses the job.
func (l *Launcher) prepare(tc *pluginv1.TrainingConfig, req request) *run {
	s := l.settings.Load()
	if req.dataDir == "" {
		req.dataDir = "$FETTLE_ATTEMPT_DIR"
	}
	r := &run{request: req, l: l, tc: tc, cpu: tc.GetGpusPerNode() == 0 || (req.planning && !l.accelerator())}
	r.cfg, r.problems = config.Load(tc, l.method, config.Options{ExtraKeys: s.extraKeys})
	if r.cfg == nil {
		return r
	}
	r.checkPathTexts()
	r.resolvePaths()
	r.resolveModel()
	r.resolveDeepSpeed()
	r.resolveData()
	r.resolveTemplate(s.extraTemplates)
	r.resolveOutput()
	r.checkWanted()
	r.fill()
	r.fitToDevice()
	return r
}

// refuse adds a problem unless its key has one already.
func (r *run) refuse(key, problem, remedy string) {
	if slices.ContainsFunc(r.problems, func(p *pluginv1.Problem) bool { return p.GetField() == key }) {
		return
	}
	r.problems = append(r.problems, r.cfg.Problem(key, problem, remedy))
}

// judge turns what was found out about a path into a problem or a doubt.
func (r *run) judge(key, path string, err error) bool {
	var refusal *dataset.Refusal
	switch {
	case err == nil:
		return true
	case errors.As(err, &refusal):
		r.refuse(key, path+" "+refusal.Problem, refusal.Remedy)
	case r.planning:
		r.refuse(key, path+" cannot be read: "+cause(err), "check its permissions on the node")
	default:
		r.warnings = append(r.warnings, fmt.Sprintf("%s: %s was not checked: %s", key, path, cause(err)))
	}
	return false
}

// cause is the innermost error, without the path that the message has already.
func cause(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			if many, ok := err.(interface{ Unwrap() []error }); ok && len(many.Unwrap()) > 0 {
				next = many.Unwrap()[len(many.Unwrap())-1]
			}
		}
		if next == nil {
			return err.Error()
		}
		err = next
	}
}

func (r *run) mustExist(key, path string) {
	if !r.see || strings.HasPrefix(path, "~") {
		return
	}
	err := dataset.Exists(path)
	var refusal *dataset.Refusal
	if errors.As(err, &refusal) {
		err = &dataset.Refusal{Problem: refusal.Problem, Remedy: "give a path relative to the config, or absolute"}
	}
	r.judge(key, path, err)
}

// maxPath bounds a path that the user gives; the kernel takes 4096 bytes once it is absolute.
const maxPath = 2048

// checkPathTexts refuses what no path is.
func (r *run) checkPathTexts() {
	keys := append(append([]string{"model_name_or_path", "output_dir", "data_path", "dataset_dir", "deepspeed", "resume_from_checkpoint", "adapter_name_or_path", "ref_model", "reward_model"}, inputPaths...), otherPaths...)
	for _, key := range keys {
		text := r.cfg.Str(key)
		if r.cfg.Has(key) && strings.ContainsAny(text, "\n\t") {
			r.refuse(key, "holds a line break or a tab", "write a plain path")
		}
		if len(text) > maxPath {
			r.refuse(key, fmt.Sprintf("is longer than %d bytes", maxPath), "give a shorter path")
		}
		if v := r.cfg.Get(key); v.Text() == "" && r.cfg.Has(key) {
			r.refuse(key, "is empty", "give a path, or leave it out")
		}
	}
}

// resolveModel finds the base model and what hangs on it.
func (r *run) resolveModel() {
	const key = "model_name_or_path"
	if text := r.cfg.Str(key); text != "" {
		r.localModel = r.resolveOneModel(key, text)
	}
	for _, key := range []string{"ref_model", "reward_model"} {
		if text := r.cfg.Str(key); text != "" && !(key == "reward_model" && r.cfg.Str("reward_model_type") == "api") {
			r.localModel = r.resolveAdapterOrModel(key, text) && r.localModel
		}
	}
	for _, key := range []string{"adapter_name_or_path", "ref_model_adapters", "reward_model_adapters"} {
		items := r.cfg.List(key)
		for i, text := range items {
			v := r.cfg.Get(key)
			if p, local := r.locate(key, v, text); local {
				r.mustExist(key, p)
				items[i] = p
			} else {
				r.localModel = false
			}
		}
		if len(items) > 0 {
			r.cfg.Resolve(key, config.String(strings.Join(items, ",")))
		}
	}
	if r.shape.Quantised != "" && r.cfg.Has("quantization_bit") {
		r.refuse("quantization_bit", "the model is stored quantised already ("+r.shape.Quantised+")", "remove it")
	}
}

// locate answers the absolute path of what may be a path or a name on a hub, and whether it is a path.
func (r *run) locate(key string, v config.Value, text string) (string, bool) {
	if explicit(text) {
		return r.input(key, v, text), true
	}
	if r.see {
		if p := r.input(key, v, text); dataset.Exists(p) == nil {
			return p, true
		}
	}
	if !hubName.MatchString(text) {
		return r.input(key, v, text), true
	}
	return text, false
}

func (r *run) resolveOneModel(key, text string) bool {
	p, local := r.locate(key, r.cfg.Get(key), text)
	if !local {
		r.shape, _ = model.Known(text)
		return false
	}
	r.cfg.Resolve(key, config.String(p))
	if !r.see || strings.HasPrefix(p, "~") {
		return true
	}
	if err := dataset.Exists(p); err != nil {
		var refusal *dataset.Refusal
		if errors.As(err, &refusal) {
			err = &dataset.Refusal{Problem: refusal.Problem, Remedy: "give a model's directory, or its name on the hub"}
		}
		r.judge(key, p, err)
		return true
	}
	shape, err := model.Read(p)
	switch {
	case errors.Is(err, model.ErrNoConfig):
		remedy := "give a directory with config.json, weights and tokenizer"
		if dataset.Exists(filepath.Join(p, "adapter_config.json")) == nil {
			remedy = "it is an adapter: give its base model here, and the adapter as adapter_name_or_path"
		}
		r.judge(key, p, &dataset.Refusal{Problem: "holds no config.json", Remedy: remedy})
	case err != nil && !r.planning && !isSyntax(err):
		r.judge(key, p, err)
	case err != nil:
		r.judge(key, p, &dataset.Refusal{Problem: "holds a config.json that cannot be read", Remedy: "copy the model again"})
	default:
		r.shape = shape
	}
	return true
}

func isSyntax(err error) bool { return strings.HasPrefix(err.Error(), model.ConfigName+":") }

func (r *run) resolveAdapterOrModel(key, text string) bool {
	p, local := r.locate(key, r.cfg.Get(key), text)
	if local {
		r.mustExist(key, p)
		r.cfg.Resolve(key, config.String(p))
	}
	return local
}

// resolveTemplate settles the prompt template.
func (r *run) resolveTemplate(extra []string) {
	const key = "template"
	if !r.cfg.Has(key) {
		r.cfg.Fill(key, config.String(model.Template(r.cfg.Str("model_name_or_path"), r.shape)))
		return
	}
	name := r.cfg.Str(key)
	if model.KnownTemplate(name) || slices.Contains(extra, name) {
		return
	}
	remedy := "write " + model.Template(r.cfg.Str("model_name_or_path"), r.shape)
	if near := config.Nearest(name, append(slices.Clone(model.Templates()), extra...)); near != "" {
		remedy = "did you mean " + near + "?"
	}
	r.refuse(key, fmt.Sprintf("the trainer has no template %q", name), remedy)
}

// resolveOutput settles where results go.
func (r *run) resolveOutput() {
	const key = "output_dir"
	if text := r.cfg.Str(key); text != "" {
		r.outputDir = r.output(r.cfg.Get(key), text)
		r.cfg.Resolve(key, config.String(r.outputDir))
		if !filepath.IsAbs(r.outputDir) && r.planning {
			r.refuse(key, text+" is relative, and neither the config's directory nor the working directory is known", "give an absolute path")
		}
		return
	}
	id := "ID"
	if r.jobID > 0 {
		id = fmt.Sprint(r.jobID)
	}
	base := r.tc.GetWorkDir()
	if !filepath.IsAbs(base) {
		base = filepath.Dir(r.tc.GetPath())
	}
	r.outputDir = filepath.Join(base, "fettle-job-"+id)
	if !filepath.IsAbs(r.outputDir) && r.planning {
		r.refuse(key, "is missing, and the working directory is not known", "give an absolute path")
	}
	r.cfg.Fill(key, config.String(r.outputDir))
}
