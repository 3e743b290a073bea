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

// plugins are this controller's plugin processes: one scheduling policy and the launchers that check configs.
type plugins struct {
	*host.Scheduling
	registry *host.Registry
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
	sc := host.SchedulingConfig{Builtin: policy.Defaults()}
	if cfg.Scheduler != "built-in" {
		sc.Plugin = defaults
		sc.Plugin.Path = filepath.Join(dir, cfg.Scheduler)
	}
	scheduling, err := host.NewScheduling(ctx, sc)
	if err != nil {
		// The queue is ordered by the built-in twin until the plugin is there.
		log.Error("scheduling plugin not started, the built-in policy orders the queue", "err", err)
		if scheduling, err = host.NewScheduling(ctx, host.SchedulingConfig{Builtin: policy.Defaults()}); err != nil {
			return nil, errors.Join(err, closeAll(registry))
		}
	}
	return &plugins{Scheduling: scheduling, registry: registry}, nil
}

func closeAll(r *host.Registry) error { r.Close(); return nil }

func (p *plugins) close() {
	p.Scheduling.Close()
	p.registry.Close()
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
	return append([]*fettlev1.PluginStatus{p.Scheduling.Status()}, p.registry.Status()...)
}
