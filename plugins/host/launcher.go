package host

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// How long the methods of a launcher get when CallTimeout is not set. Those that touch a job's directory allow for a slow
// file system.
const (
	validateTimeout   = 5 * time.Second
	estimateTimeout   = 5 * time.Second
	planTimeout       = 15 * time.Second
	progressTimeout   = 2 * time.Second
	classifyTimeout   = 10 * time.Second
	adaptTimeout      = 5 * time.Second
	checkpointTimeout = 60 * time.Second
)

// Launcher asks one launcher plugin. Its methods may be called from any goroutine; each waits up to StartTimeout for a
// plugin that is just starting, and then up to its own deadline for the answer. Answers have been checked, and their words are safe to print.
//
// Errors: ErrUnavailable, ErrDisabled, ErrClosed, ErrLate, ErrInvalid, ErrRefused, ErrTooLarge, or the context's. None says
// anything about the user's config: that is in the answers.
type Launcher struct {
	plugin *Plugin
	method string
}

// NewLauncher makes the typed face of a plugin that runs the given method.
func NewLauncher(p *Plugin, method string) *Launcher { return &Launcher{plugin: p, method: method} }

// Method is the training method, e.g. "lora".
func (l *Launcher) Method() string { return l.method }

// Plugin is the supervised process.
func (l *Launcher) Plugin() *Plugin { return l.plugin }

// Validate checks a config at submit.
func (l *Launcher) Validate(ctx context.Context, req *pluginv1.ValidateRequest) (*pluginv1.ValidateResponse, error) {
	return ask(ctx, l, validateTimeout, req, pluginv1.LauncherServiceClient.Validate, checkValidate)
}

// Estimate predicts GPU memory.
func (l *Launcher) Estimate(ctx context.Context, req *pluginv1.EstimateRequest) (*pluginv1.EstimateResponse, error) {
	return ask(ctx, l, estimateTimeout, req, pluginv1.LauncherServiceClient.Estimate, checkEstimate)
}

// Plan turns a config into a command and files.
func (l *Launcher) Plan(ctx context.Context, req *pluginv1.PlanRequest) (*pluginv1.PlanResponse, error) {
	return ask(ctx, l, planTimeout, req, pluginv1.LauncherServiceClient.Plan, checkPlan)
}

// Progress reads what the trainer wrote.
func (l *Launcher) Progress(ctx context.Context, req *pluginv1.ProgressRequest) (*pluginv1.ProgressResponse, error) {
	return ask(ctx, l, progressTimeout, req, pluginv1.LauncherServiceClient.Progress, checkProgress)
}

// Classify says how an attempt ended.
func (l *Launcher) Classify(ctx context.Context, req *pluginv1.ClassifyRequest) (*pluginv1.ClassifyResponse, error) {
	return ask(ctx, l, classifyTimeout, req, pluginv1.LauncherServiceClient.Classify, checkClassify)
}

// Adapt changes the config for a retry.
func (l *Launcher) Adapt(ctx context.Context, req *pluginv1.AdaptRequest) (*pluginv1.AdaptResponse, error) {
	return ask(ctx, l, adaptTimeout, req, pluginv1.LauncherServiceClient.Adapt, checkAdapt)
}

// Checkpoint lists and verifies checkpoints.
func (l *Launcher) Checkpoint(ctx context.Context, req *pluginv1.CheckpointRequest) (*pluginv1.CheckpointResponse, error) {
	return ask(ctx, l, checkpointTimeout, req, pluginv1.LauncherServiceClient.Checkpoint, checkCheckpoint)
}

// ask makes one call and checks its answer.
func ask[Req, Resp proto.Message](ctx context.Context, l *Launcher, timeout time.Duration, req Req,
	method func(pluginv1.LauncherServiceClient, context.Context, Req, ...grpc.CallOption) (Resp, error), check func(Req, Resp) error,
) (Resp, error) {
	var resp, none Resp
	if l.plugin.cfg.CallTimeout != 0 {
		timeout = l.plugin.cfg.CallTimeout
	}
	if err := l.plugin.checkSize(req); err != nil {
		return none, l.plugin.fault(ErrTooLarge, detailOf(err))
	}
	err := l.plugin.call(ctx, callOptions{timeout: timeout, wait: true}, func(ctx context.Context, inst *instance) error {
		var err error
		if resp, err = method(pluginv1.NewLauncherServiceClient(inst.conn), ctx, req); err != nil {
			return err
		}
		return check(req, resp)
	})
	if err != nil {
		return none, err
	}
	return resp, nil
}
