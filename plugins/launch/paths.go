package launch

import (
	"path/filepath"
	"regexp"
	"strings"

	"github.com/fettle-hpc/fettle/plugins/launch/config"
	"github.com/fettle-hpc/fettle/plugins/launch/dataset"
)

// Keys whose values are paths, beside those that have checks of their own.
var (
	// inputPaths must exist.
	inputPaths = []string{"new_special_tokens_config", "hyper_parallel_args", "accelerator_config", "fsdp_config", "kt_weight_path", "kt_non_expert_weight_path", "kt_expert_checkpoint_path"}
	// otherPaths are written, or read when they are there.
	otherPaths = []string{"cache_dir", "logging_dir", "media_dir", "offload_folder", "profiler_output_dir", "swanlab_logdir", "tokenized_path", "export_dir"}
)

// hubName is the shape of a model's name on a hub: owner/name or name.
var hubName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)?$`)

// explicit answers whether a text can only be a path.
func explicit(path string) bool {
	return strings.HasPrefix(path, "/") || strings.HasPrefix(path, "./") || strings.HasPrefix(path, "../") || path == "~" || strings.HasPrefix(path, "~/")
}

// bases are the directories against which a value's relative path is tried, the right one first.
func (r *run) bases(v config.Value) []string {
	var bases []string
	if filepath.IsAbs(r.tc.GetPath()) {
		bases = append(bases, filepath.Dir(r.tc.GetPath()))
	}
	if filepath.IsAbs(r.tc.GetWorkDir()) {
		bases = append(bases, r.tc.GetWorkDir())
	}
	if v.Set && len(bases) == 2 {
		bases[0], bases[1] = bases[1], bases[0]
	}
	return bases
}

// output makes a path absolute that the trainer writes to.
func (r *run) output(v config.Value, path string) string {
	if p, done := r.absolute(path); done {
		return p
	}
	if bases := r.bases(v); len(bases) > 0 {
		return filepath.Join(bases[0], path)
	}
	return path
}

// input makes a path absolute that the trainer reads from: where it is found, or else where it belongs.
func (r *run) input(key string, v config.Value, path string) string {
	if p, done := r.absolute(path); done {
		return p
	}
	bases := r.bases(v)
	if len(bases) == 0 {
		return path
	}
	if r.see {
		for i, base := range bases {
			p := filepath.Join(base, path)
			if dataset.Exists(p) == nil {
				if i > 0 {
					r.cfg.Note("found %s: %s in the working directory", key, p)
				}
				return p
			}
		}
	}
	return filepath.Join(bases[0], path)
}

func (r *run) absolute(path string) (string, bool) {
	if filepath.IsAbs(path) {
		return filepath.Clean(path), true
	}
	if path == "~" || strings.HasPrefix(path, "~/") {
		if r.home == "" {
			return path, true
		}
		return filepath.Join(r.home, path[1:]), true
	}
	return "", false
}

// resolvePaths makes the plain path keys absolute.
func (r *run) resolvePaths() {
	for _, key := range inputPaths {
		if text := r.cfg.Str(key); text != "" {
			p := r.input(key, r.cfg.Get(key), text)
			r.mustExist(key, p)
			r.cfg.Resolve(key, config.String(p))
		}
	}
	for _, key := range otherPaths {
		if text := r.cfg.Str(key); text != "" {
			r.cfg.Resolve(key, config.String(r.output(r.cfg.Get(key), text)))
		}
	}
}
