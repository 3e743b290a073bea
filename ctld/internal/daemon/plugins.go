package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/api"
	"github.com/fettle-hpc/fettle/ctld/internal/config"
	"github.com/fettle-hpc/fettle/plugins/host"
	"github.com/fettle-hpc/fettle/plugins/policy"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
	"github.com/fettle-hpc/fettle/proto/trainconfig"
)

// plugins are this controller's plugin processes: a scheduling and a preemption policy, and the launchers that check configs.
type plugins struct {
	*host.Scheduling
	// foreign says that a site's own policy orders the queue.
	foreign    bool
	preemption *host.Preemption
	registry   *host.Registry
}

// launcherBudget bounds what a submit waits for a launcher's two answers.
const launcherBudget = 8 * time.Second

func startPlugins(ctx context.Context, cfg *config.Config, log *slog.Logger) (*plugins, error) {
	dir, err := pluginDir(cfg.PluginDir)
	if err != nil {
		return nil, err
	}
	defaults := host.Config{SocketDir: socketDir(cfg.DataDir), Logger: log}
	registry, err := host.NewRegistry(host.RegistryConfig{Dir: dir, Defaults: defaults, Eager: false})
	if err != nil {
		return nil, err
	}
	p := &plugins{registry: registry, foreign: cfg.Scheduler != config.BuiltIn && filepath.Base(cfg.Scheduler) != config.DefaultScheduler}
	plugin := func(name string) host.Config {
		c := defaults
		if c.Path = name; !filepath.IsAbs(name) {
			c.Path = filepath.Join(dir, name)
		}
		return c
	}
	// The built-in twins decide until the plugins are there.
	sc := host.SchedulingConfig{Builtin: policy.Defaults()}
	if cfg.Scheduler != config.BuiltIn {
		sc.Plugin = plugin(cfg.Scheduler)
	}
	if p.Scheduling, err = host.NewScheduling(ctx, sc); err != nil {
		log.Error("scheduling plugin not started, the built-in policy orders the queue", "err", err)
		sc.Plugin = host.Config{}
		if p.Scheduling, err = host.NewScheduling(ctx, sc); err != nil {
			registry.Close()
			return nil, err
		}
	}
	var pc host.PreemptionConfig
	if cfg.Preemption != config.BuiltIn {
		pc.Plugin = plugin(cfg.Preemption)
	}
	if p.preemption, err = host.NewPreemption(ctx, pc); err != nil {
		log.Error("preemption plugin not started, the built-in policy chooses victims", "err", err)
		if p.preemption, err = host.NewPreemption(ctx, host.PreemptionConfig{}); err != nil {
			p.Scheduling.Close()
			registry.Close()
			return nil, err
		}
	}
	return p, nil
}

func (p *plugins) close() {
	p.Scheduling.Close()
	p.preemption.Close()
	p.registry.Close()
}

// ConfigureScheduling gives the settings of the cluster's policy to whoever orders the queue.
func (p *plugins) ConfigureScheduling(ctx context.Context, scheduling []*fettlev1.KeyValue) error {
	settings, params, err := p.scheduling(scheduling)
	if err != nil {
		return err
	}
	return p.Configure(ctx, settings, params)
}

// CheckScheduling implements api.Launchers.
func (p *plugins) CheckScheduling(scheduling []*fettlev1.KeyValue) error {
	_, _, err := p.scheduling(scheduling)
	return err
}

// scheduling reads settings as the shipped policy takes them. Keys that it does not know may be those of a site's own
// policy, which gets all of them; where the shipped one orders the queue they are refused.
func (p *plugins) scheduling(list []*fettlev1.KeyValue) (settings map[string]string, own policy.Params, err error) {
	settings, known := make(map[string]string, len(list)), map[string]string{}
	for _, kv := range list {
		settings[kv.GetKey()] = kv.GetValue()
		if !p.foreign || policy.Knows(kv.GetKey()) {
			known[kv.GetKey()] = kv.GetValue()
		}
	}
	own, err = policy.ParseSettings(known)
	return settings, own, err
}

// Check implements api.Launchers.
func (p *plugins) Check(ctx context.Context, spec *fettlev1.JobSpec) (api.Checked, error) {
	ctx, cancel := context.WithTimeout(ctx, launcherBudget)
	defer cancel()
	out := api.Checked{Method: spec.GetMethod()}
	if out.Method == "" {
		method, err := trainconfig.Method(spec.GetConfig(), spec.GetSet())
		var te *trainconfig.Error
		if errors.As(err, &te) {
			out.Problems = append(out.Problems, problemDetail(te.Field, uint32(te.Line), te.Problem, te.Remedy))
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out.Method = method
	}
	launcher, err := p.registry.Launcher(out.Method)
	if err != nil {
		return out, err
	}
	cfg := &pluginv1.TrainingConfig{
		Yaml: spec.GetConfig(), Path: spec.GetConfigPath(), Set: spec.GetSet(), Nodes: max(spec.GetNodes(), 1),
		GpusPerNode: spec.GetGpusPerNode().GetCount(), WorkDir: spec.GetWorkDir(),
	}
	valid, err := launcher.Validate(ctx, &pluginv1.ValidateRequest{Config: cfg})
	if err != nil {
		return out, fmt.Errorf("the %s launcher did not check the config: %w", out.Method, err)
	}
	for _, pr := range valid.GetProblems() {
		out.Problems = append(out.Problems, problemDetail(pr.GetField(), pr.GetLine(), pr.GetProblem(), pr.GetRemedy()))
	}
	out.Warnings, out.Rendered = valid.GetWarnings(), valid.GetRendered()
	if len(out.Problems) > 0 {
		return out, nil
	}
	if est, err := launcher.Estimate(ctx, &pluginv1.EstimateRequest{Config: cfg}); err == nil {
		out.Estimate = est.GetMemory()
	}
	return out, nil
}

func problemDetail(field string, line uint32, problem, remedy string) *fettlev1.ErrorDetail {
	if line > 0 {
		problem = fmt.Sprintf("line %d: %s", line, problem)
	}
	return &fettlev1.ErrorDetail{Field: field, Problem: problem, Remedy: remedy}
}

// Statuses implements api.Launchers.
func (p *plugins) Statuses() []*fettlev1.PluginStatus {
	return append([]*fettlev1.PluginStatus{p.Scheduling.Status(), p.preemption.Status()}, p.registry.Status()...)
}
