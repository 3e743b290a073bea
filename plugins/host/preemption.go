package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fettle-hpc/fettle/plugins/preempt"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// selectTimeout is how long the choice of victims may take by default.
const selectTimeout = time.Second

// Selector chooses who is stopped for whom.
type Selector interface {
	// Select answers at most one selection for each blocked job. An error is ctx being cancelled.
	Select(ctx context.Context, req *preempt.Request) ([]preempt.Selection, Source, error)
}

// PreemptionConfig is a preemption policy.
type PreemptionConfig struct {
	// Plugin is the policy; with an empty Path the built-in one decides always. Kind is set here.
	Plugin Config
}

// Preemption asks a preemption policy plugin, and answers from the built-in policy when that is missing, late or wrong. Nothing is
// kept from one call to the next. Its methods may be called from any goroutine.
type Preemption struct {
	plugin *Plugin
}

// NewPreemption starts the policy's plugin and supervises it until Close or the end of ctx.
func NewPreemption(ctx context.Context, cfg PreemptionConfig) (*Preemption, error) {
	if cfg.Plugin.Path == "" {
		return &Preemption{}, nil
	}
	cfg.Plugin.Kind = pluginv1.PluginKind_PLUGIN_KIND_PREEMPTION
	p, err := Start(ctx, cfg.Plugin)
	if err != nil {
		return nil, fmt.Errorf("preemption plugin: %w", err)
	}
	return &Preemption{plugin: p}, nil
}

// Close ends the plugin. Later answers come from the built-in policy.
func (p *Preemption) Close() {
	if p.plugin != nil {
		p.plugin.Close()
	}
}

// Plugin is the supervised process, nil when there is none.
func (p *Preemption) Plugin() *Plugin { return p.plugin }

// Status is the plugin's status, or that of the built-in policy when there is no plugin.
func (p *Preemption) Status() *fettlev1.PluginStatus {
	if p.plugin != nil {
		return p.plugin.Status()
	}
	return &fettlev1.PluginStatus{Name: preempt.Name + " (built in)", Kind: kindName(pluginv1.PluginKind_PLUGIN_KIND_PREEMPTION), State: string(StateRunning)}
}

// Configure changes the plugin's settings. When it refuses them nothing changes. The built-in policy has none.
func (p *Preemption) Configure(ctx context.Context, settings map[string]string) error {
	if p.plugin == nil {
		return nil
	}
	return p.plugin.Configure(ctx, settings)
}

var _ Selector = (*Preemption)(nil)

// Select implements Selector. The plugin gets one call, of at most CallTimeout and not past ctx's deadline; the built-in policy
// answers when it does not. Every answer has passed preempt.Check: it stops nobody who may not be stopped, nobody for
// nothing, and nobody unless the whole job then fits. The numbers in the request have to fit its lists.
func (p *Preemption) Select(ctx context.Context, req *preempt.Request) ([]preempt.Selection, Source, error) {
	source := Source{Name: preempt.Name, Builtin: true, Reason: "no preemption plugin is configured"}
	if len(req.Jobs) == 0 {
		source.Reason = "nobody is blocked"
		return nil, source, nil
	}
	if p.plugin != nil {
		answer, by, err := p.ask(ctx, req)
		if err == nil {
			return answer, by, nil
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, Source{}, context.Cause(ctx)
		}
		source.Reason = err.Error()
	}
	return preempt.Select(req), source, nil
}

// ask gets the plugin's answer. An error says why it cannot be used.
func (p *Preemption) ask(ctx context.Context, req *preempt.Request) (answer []preempt.Selection, source Source, err error) {
	timeout := p.plugin.cfg.CallTimeout
	if timeout == 0 {
		timeout = selectTimeout
	}
	wire := req.ToProto()
	if err := p.plugin.checkSize(wire); err != nil {
		return nil, Source{}, p.plugin.fault(ErrTooLarge, detailOf(err))
	}
	owed := p.plugin.probation()
	err = p.plugin.call(ctx, callOptions{timeout: timeout, strict: true}, func(ctx context.Context, inst *instance) error {
		resp, err := pluginv1.NewPreemptionPolicyServiceClient(inst.conn).SelectVictims(ctx, wire)
		if err != nil {
			return err
		}
		answer = preempt.AnswerFromProto(resp)
		source = Source{Name: inst.info.GetName(), Version: inst.info.GetVersion()}
		return checkSelections(req, answer)
	})
	if err == nil && owed > 0 {
		err = errProbation{left: owed}
	}
	return answer, source, err
}

// checkSelections also puts victims and nodes into order and makes the words printable.
func checkSelections(req *preempt.Request, answer []preempt.Selection) error {
	for i := range answer {
		s := &answer[i]
		s.Reason = printable(s.Reason, maxUserText)
		slices.Sort(s.Victims)
		slices.Sort(s.Nodes)
	}
	if err := preempt.Check(req, answer); err != nil {
		return invalid("%v", err)
	}
	return nil
}
