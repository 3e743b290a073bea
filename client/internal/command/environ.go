package command

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/fettle-hpc/fettle/client/jobscript"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// ofOuterJob are variables that fettle sets for a job; a job submitted from within a job must not inherit them.
var ofOuterJob = []string{"CUDA_VISIBLE_DEVICES", "MASTER_ADDR", "MASTER_PORT", "NNODES", "NODE_RANK", "NPROC_PER_NODE",
	"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "TORCHELASTIC_RUN_ID"}

// ofShell are variables that describe the submitting shell and mean nothing to a job.
var ofShell = []string{"_", "SHLVL", "OLDPWD", "PWD", "PS1", "PS2", "PROMPT_COMMAND"}

// environment is what the job gets of the submitter's variables, in alphabetical order.
func (b *specBuilder) environment(export jobscript.Export) []*fettlev1.KeyValue {
	mine := make(map[string]string)
	for _, kv := range b.env.Environ() {
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" {
			mine[k] = v
		}
	}
	out := make(map[string]string)
	if export.All {
		_, inJob := mine["FETTLE_JOB_ID"]
		for k, v := range mine {
			switch {
			case strings.HasPrefix(k, "FETTLE_") && k != "FETTLE_CONTROLLERS" || slices.Contains(ofShell, k):
			case inJob && slices.Contains(ofOuterJob, k):
			case !utf8.ValidString(k) || !utf8.ValidString(v):
				b.warnings = append(b.warnings, "variable "+render.Line(k)+" is not valid UTF-8 and was left out")
			default:
				out[k] = v
			}
		}
	}
	for _, v := range export.Vars {
		switch value, ok := mine[v.Name]; {
		case v.Set:
			out[v.Name] = v.Value
		case ok && utf8.ValidString(value):
			out[v.Name] = value
		case ok:
			b.warnings = append(b.warnings, "variable "+v.Name+" is not valid UTF-8 and was left out")
		default:
			b.warnings = append(b.warnings, "--export: variable "+v.Name+" is not set and was left out")
		}
	}
	slices.Sort(b.warnings)
	names := make([]string, 0, len(out))
	for k := range out {
		names = append(names, k)
	}
	slices.Sort(names)
	kvs := make([]*fettlev1.KeyValue, len(names))
	for i, k := range names {
		kvs[i] = &fettlev1.KeyValue{Key: k, Value: out[k]}
	}
	return kvs
}
