package sdk

import (
	"context"
	"errors"
	"fmt"
	"strings"

	goplugin "github.com/hashicorp/go-plugin"

	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// ABIVersion is the version of the plugin protocol that this package speaks.
const ABIVersion = 1

// MaxMessageBytes is the largest request or answer. 100,000 waiting jobs take about 3 MiB.
const MaxMessageBytes = 64 << 20

// LogLevelSetting is the setting that this package takes for itself.
const LogLevelSetting = "log_level"

// Handshake is what host and plugin show each other first. It is no secret: it only tells a person who runs a plugin by
// hand that this is not how it is meant.
var Handshake = goplugin.HandshakeConfig{
	MagicCookieKey:   "FETTLE_PLUGIN",
	MagicCookieValue: "d3a1c6f0-7d0b-4d55-9c1e-5fe77e000001",
}

// Info says who a plugin is.
type Info struct {
	// Name is lower case, e.g. "sched-multifactor".
	Name string
	// Version is the plugin's own, e.g. "1.2.0".
	Version string
	// Method is the training method that a launcher runs, e.g. "lora". Policies leave it empty.
	Method string
}

func (i Info) check(kind pluginv1.PluginKind) error {
	launcher := kind == pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER
	switch {
	case i.Name == "":
		return errors.New("plugin info: name is empty")
	case strings.ContainsAny(i.Name, " \t\n/"):
		return fmt.Errorf("plugin info: name %q holds a space or a slash", i.Name)
	case i.Version == "":
		return errors.New("plugin info: version is empty")
	case launcher && i.Method == "":
		return errors.New("plugin info: a launcher needs a method")
	case !launcher && i.Method != "":
		return fmt.Errorf("plugin info: method %q is for launchers only", i.Method)
	}
	return nil
}

// SchedulingPolicy orders the queue.
type SchedulingPolicy interface {
	// Configure is called once after start and again when the settings change. Unknown keys should be refused.
	Configure(ctx context.Context, settings map[string]string) error
	// Score answers one score for each job of the request, in its order: a virtual submit time in milliseconds, lower is
	// earlier. When BaseGeneration is not 0 the request names only what changed since that generation; a policy that does
	// not hold it answers NeedFull and is asked again with everything. The columns have been checked for equal length, calls
	// come one at a time, and an answer's generation is filled in when it is left 0.
	Score(ctx context.Context, req *pluginv1.ScoreRequest) (*pluginv1.ScoreResponse, error)
}

// Explainer is what a scheduling policy may serve besides: its scores taken apart, for people.
type Explainer interface {
	// Explain answers for each job of the request, in its order, the terms that its score is the sum of. The jobs are scored
	// by themselves, with all their columns, and not remembered.
	Explain(ctx context.Context, req *pluginv1.ExplainRequest) (*pluginv1.ExplainResponse, error)
}

// PreemptionPolicy says who is stopped for whom.
type PreemptionPolicy interface {
	// Configure is called once after start and again when the settings change. Unknown keys should be refused.
	Configure(ctx context.Context, settings map[string]string) error
	// SelectVictims answers for each blocked job that it can help which candidates to stop and on which nodes the job then
	// fits, as preemption.proto says. The numbers in the request have been checked, and calls come one at a time.
	SelectVictims(ctx context.Context, req *pluginv1.SelectVictimsRequest) (*pluginv1.SelectVictimsResponse, error)
}

// Launcher knows one training method. Its methods are called concurrently, for different jobs; what each request means
// is said in launcher.proto. An error is a fault of the launcher; what is wrong with a user's config is a Problem in the answer.
type Launcher interface {
	// Configure is called once after start and again when the settings change. Unknown keys should be refused.
	Configure(ctx context.Context, settings map[string]string) error
	Validate(ctx context.Context, req *pluginv1.ValidateRequest) (*pluginv1.ValidateResponse, error)
	Estimate(ctx context.Context, req *pluginv1.EstimateRequest) (*pluginv1.EstimateResponse, error)
	Plan(ctx context.Context, req *pluginv1.PlanRequest) (*pluginv1.PlanResponse, error)
	Progress(ctx context.Context, req *pluginv1.ProgressRequest) (*pluginv1.ProgressResponse, error)
	Classify(ctx context.Context, req *pluginv1.ClassifyRequest) (*pluginv1.ClassifyResponse, error)
	Adapt(ctx context.Context, req *pluginv1.AdaptRequest) (*pluginv1.AdaptResponse, error)
	Checkpoint(ctx context.Context, req *pluginv1.CheckpointRequest) (*pluginv1.CheckpointResponse, error)
}

// ServeScheduling serves a scheduling policy until the host closes it or dies, and its explanations when it is an Explainer
// too. It does not return.
func ServeScheduling(info Info, p SchedulingPolicy) {
	serve(info, &service{info: info, kind: pluginv1.PluginKind_PLUGIN_KIND_SCHEDULING, configure: p.Configure, scheduling: p})
}

// ServePreemption serves a preemption policy until the host closes it or dies. It does not return.
func ServePreemption(info Info, p PreemptionPolicy) {
	serve(info, &service{info: info, kind: pluginv1.PluginKind_PLUGIN_KIND_PREEMPTION, configure: p.Configure, preemption: p})
}

// ServeLauncher serves a launcher until the host closes it or dies. It does not return.
func ServeLauncher(info Info, l Launcher) {
	serve(info, &service{info: info, kind: pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER, configure: l.Configure, launcher: l})
}
