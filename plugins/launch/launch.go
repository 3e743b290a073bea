// Package launch runs fine-tuning jobs with LLaMA-Factory, or any engine that takes its config: it checks the user's
// YAML at submit, writes the final one for an attempt, follows the training and judges how it ended.
//
// One Launcher serves one method. The subpackages know one thing each; this one puts them together behind the launcher ABI.
//
// Where things are looked for and go:
//   - Relative paths in the YAML resolve against the YAML's directory; where an input is not found there, the job's working
//     directory is tried. Relative paths given by --set resolve against the working directory.
//   - Without output_dir a job writes to fettle-job-<id> in its working directory, or beside the YAML when it has none.
//   - Files of the attempt (final.yaml, dataset_info.json, launch.json) go to the attempt's directory.
package launch

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"github.com/fettle-hpc/fettle/plugins/launch/config"
	"github.com/fettle-hpc/fettle/plugins/launch/progress"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
	"github.com/fettle-hpc/fettle/proto/trainconfig"
)

// Methods are the methods that New serves.
var Methods = []string{trainconfig.MethodLoRA, trainconfig.MethodQLoRA, trainconfig.MethodFull}

// Config is what a Launcher is made with.
type Config struct {
	// Method is one of Methods.
	Method string
	// Accelerator answers whether this host has a device that PyTorch could train on. Nil looks for the drivers' device files.
	Accelerator func() bool
}

// Validate answers what is wrong with the config.
func (c Config) Validate() error {
	if !slices.Contains(Methods, c.Method) {
		return fmt.Errorf("launcher: no method %q", c.Method)
	}
	return nil
}

// Launcher implements the launcher ABI for one method. It holds no state but its settings; all methods may be called at once.
type Launcher struct {
	method      string
	accelerator func() bool
	settings    atomic.Pointer[settings]
}

// New makes the launcher of a method.
func New(c Config) (*Launcher, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	l := &Launcher{method: c.Method, accelerator: c.Accelerator}
	if l.accelerator == nil {
		l.accelerator = hasAccelerator
	}
	l.settings.Store(&settings{checkFiles: checkAuto})
	return l, nil
}

// Method is the method that the launcher runs.
func (l *Launcher) Method() string { return l.method }

// deviceFiles exist where a driver for training is loaded: NVIDIA's, AMD's, Windows' through WSL, Ascend's, Intel's.
var deviceFiles = []string{"/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/davinci_manager", "/dev/accel"}

func hasAccelerator() bool {
	return slices.ContainsFunc(deviceFiles, func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	})
}

// Configure takes the site's settings; see settings.go.
func (l *Launcher) Configure(_ context.Context, given map[string]string) error {
	s, err := parseSettings(given)
	if err != nil {
		return err
	}
	l.settings.Store(s)
	return nil
}

// Validate checks a config at submit. Files are looked at only where this host sees the submit host's: see checkFiles.
func (l *Launcher) Validate(_ context.Context, req *pluginv1.ValidateRequest) (*pluginv1.ValidateResponse, error) {
	r := l.prepare(req.GetConfig(), request{see: l.sees(req.GetConfig())})
	resp := &pluginv1.ValidateResponse{Problems: r.sorted(), Warnings: r.allWarnings()}
	if len(resp.Problems) > 0 || r.cfg == nil {
		return resp, nil
	}
	rendered, err := r.cfg.Render("What fettle will hand to the trainer, as far as it is known at submit.")
	if err != nil {
		return nil, err
	}
	resp.Rendered = rendered
	return resp, nil
}

// Progress reads what the trainer logged since the last call.
func (l *Launcher) Progress(_ context.Context, req *pluginv1.ProgressRequest) (*pluginv1.ProgressResponse, error) {
	p, cursor := progress.Read(req.GetData(), req.GetCursor(), req.GetAttempt(), req.GetNowMs(), req.GetAttemptStartMs())
	return &pluginv1.ProgressResponse{Progress: p, Cursor: cursor}, nil
}

func (r *run) sorted() []*pluginv1.Problem { return config.Sort(r.problems) }

func (r *run) allWarnings() []string {
	if r.cfg == nil {
		return nil
	}
	return append(r.cfg.Warnings(), r.warnings...)
}
