package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// State is what a plugin is doing, as PluginStatus spells it.
type State string

const (
	// StateIdle: lazy, and not called yet.
	StateIdle State = "idle"
	// StateStarting: between fork and configured.
	StateStarting State = "starting"
	StateRunning  State = "running"
	// StateFailed: between two starts, or left alone by its breaker.
	StateFailed State = "failed"
	// StateDisabled: until Enable.
	StateDisabled State = "disabled"
)

// Plugin is one supervised plugin. Its methods may be called from any goroutine.
type Plugin struct {
	cfg    Config
	log    *pluginLog
	calls  chan struct{}
	cancel context.CancelFunc
	done   chan struct{}
	// wake has the supervisor look again.
	wake chan struct{}

	mu       sync.Mutex
	settings map[string]string
	state    State
	// changed is closed and replaced whenever state changes.
	changed chan struct{}
	inst    *instance
	// cancelStart ends a start that is under way.
	cancelStart context.CancelCauseFunc
	wanted      bool
	disabled    error
	closed      bool
	retryAt     time.Time
	breaker     breaker
	restarts    restarts
	started     bool
	last        *pluginv1.InfoResponse
	abi         int
	checksum    string
	lastErr     error
	count       struct{ calls, failures, restarts uint64 }
	latency     latencies
}

// Start supervises a plugin until Close is called or ctx ends. It returns at once; Ready waits for the first start.
func Start(ctx context.Context, cfg Config) (*Plugin, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	logger := cfg.Logger.With("plugin", cfg.Name)
	ctx, cancel := context.WithCancel(ctx)
	p := &Plugin{
		cfg: cfg, log: &pluginLog{logger: logger, now: time.Now}, calls: make(chan struct{}, cfg.MaxCalls),
		cancel: cancel, done: make(chan struct{}), wake: make(chan struct{}, 1), changed: make(chan struct{}),
		settings: cfg.Settings, state: StateIdle, wanted: !cfg.Lazy,
		breaker: breaker{limits: cfg.Breaker}, restarts: restarts{limits: cfg.Restart},
	}
	if p.wanted {
		p.state = StateStarting
	}
	go p.supervise(ctx)
	return p, nil
}

// Name is the configured name.
func (p *Plugin) Name() string { return p.cfg.Name }

// supervise owns the process: it starts it, waits for its end and decides what then.
func (p *Plugin) supervise(ctx context.Context) {
	defer close(p.done)
	sweepSocketDirs(p.cfg.SocketDir)
	for {
		pause, run := p.next(ctx)
		if run {
			p.runOnce(ctx)
			continue
		}
		if pause == 0 {
			return
		}
		p.rest(ctx, pause)
	}
}

// rest waits for the pause to pass, or for something to have changed.
func (p *Plugin) rest(ctx context.Context, pause time.Duration) {
	var alarm <-chan time.Time
	if pause > 0 {
		t := time.NewTimer(pause)
		defer t.Stop()
		alarm = t.C
	}
	select {
	case <-alarm:
	case <-p.wake:
	case <-ctx.Done():
	}
}

// next decides: run now, or look again after a pause (negative: when woken), or, with 0, end.
func (p *Plugin) next(ctx context.Context) (pause time.Duration, run bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	switch {
	case ctx.Err() != nil:
		p.closed = true
		p.setState(StateDisabled)
		return 0, false
	case p.disabled != nil:
		p.setState(StateDisabled)
		return -1, false
	case !p.wanted:
		p.setState(StateIdle)
		return -1, false
	case p.breaker.open(now):
		p.setState(StateFailed)
		return p.breaker.until.Sub(now), false
	case now.Before(p.retryAt):
		p.setState(StateFailed)
		return p.retryAt.Sub(now), false
	}
	p.setState(StateStarting)
	return 0, true
}

// setState is called with the lock held.
func (p *Plugin) setState(s State) {
	p.state = s
	close(p.changed)
	p.changed = make(chan struct{})
}

// runOnce starts the plugin, waits for its end and notes why it came.
func (p *Plugin) runOnce(ctx context.Context) {
	startCtx, cancelStart := context.WithCancelCause(ctx)
	defer cancelStart(nil)
	p.mu.Lock()
	p.cancelStart = cancelStart
	settings := maps.Clone(p.settings)
	if p.started {
		p.count.restarts++
	}
	p.started = true
	p.mu.Unlock()

	inst, sum, err := launch(startCtx, &p.cfg, settings, p.log)

	p.mu.Lock()
	p.cancelStart = nil
	p.checksum = sum
	if err == nil {
		p.inst, p.last, p.abi = inst, inst.info, inst.abi
		p.setState(StateRunning)
		if p.disabled != nil || !maps.Equal(settings, p.settings) {
			// Disabled, or given other settings, while it was starting.
			p.endLocked(inst, errReload)
		}
	}
	p.mu.Unlock()
	if err == nil {
		p.log.logger.Info("plugin running", "name", inst.info.GetName(), "version", inst.info.GetVersion(),
			"pid", inst.proc.ID(), "checksum", sum)
		select {
		case <-inst.exited:
		case <-ctx.Done():
			inst.proc.kill()
			<-inst.exited
		}
	}
	p.ended(ctx, inst, err)
}

// errReload has the plugin start again at once.
var errReload = errors.New("reloaded")

// errBreaker has it wait for its breaker.
var errBreaker = errors.New("left alone after repeated failures")

// ended decides what follows the end of a run.
func (p *Plugin) ended(ctx context.Context, inst *instance, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inst = nil
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		if err = inst.cause; err == nil {
			err = fmt.Errorf("process ended: %s%s", exitText(inst.proc.waitErr), inst.proc.lastWords())
		}
	}
	if p.disabled != nil || errors.Is(err, errReload) || errors.Is(err, errBreaker) {
		return
	}
	p.lastErr = err
	now := time.Now()
	pause, ok := p.restarts.next(now)
	if !ok {
		p.disabled = fmt.Errorf("ended %d times within %v, the last time: %w; enable it when that is mended",
			p.cfg.Restart.Count+1, p.cfg.Restart.Window, err)
		p.log.logger.Error("plugin disabled", "error", p.disabled)
		return
	}
	p.retryAt = now.Add(pause)
	p.log.logger.Warn("plugin ended", "error", err, "restart_in", pause)
}

func exitText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// endLocked kills a run for a reason of ours.
func (p *Plugin) endLocked(inst *instance, cause error) {
	if inst.cause == nil {
		inst.cause = cause
	}
	p.dropLocked(inst)
}

// dropLocked kills a run and has nobody call it any more.
func (p *Plugin) dropLocked(inst *instance) {
	inst.proc.kill()
	if p.inst == inst {
		p.inst = nil
		p.setState(StateFailed)
	}
}

func (p *Plugin) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Close ends the plugin and waits until its process is gone.
func (p *Plugin) Close() {
	p.cancel()
	<-p.done
}

// Ready waits until the plugin runs; it starts a lazy one. It answers why not when it failed.
func (p *Plugin) Ready(ctx context.Context) error {
	_, err := p.acquire(ctx, true)
	return err
}

// Disable ends the plugin and keeps it from starting until Enable.
func (p *Plugin) Disable(why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.disabled == nil {
		p.disabled = errors.New(why)
	}
	p.interruptLocked(p.disabled)
}

// Enable lets a disabled plugin start again, with a clean record.
func (p *Plugin) Enable() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.disabled, p.lastErr, p.retryAt = nil, nil, time.Time{}
	p.breaker.reset()
	p.restarts.reset()
	p.setState(p.state)
	p.poke()
}

// Reload ends the plugin and starts the file that is there now.
func (p *Plugin) Reload() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retryAt = time.Time{}
	p.breaker.reset()
	p.interruptLocked(errReload)
}

func (p *Plugin) interruptLocked(cause error) {
	if p.inst != nil {
		p.endLocked(p.inst, cause)
	}
	if p.cancelStart != nil {
		p.cancelStart(cause)
	}
	p.poke()
}

// Configure changes the settings, for the running plugin and for later starts. When the plugin refuses them the old ones
// stay; when it does not answer it is started again with the old ones, as nobody knows which it has.
func (p *Plugin) Configure(ctx context.Context, settings map[string]string) error {
	p.mu.Lock()
	running := p.inst != nil && p.state == StateRunning
	if !running {
		p.settings = maps.Clone(settings)
	}
	p.mu.Unlock()
	if !running {
		return nil
	}
	err := p.call(ctx, callOptions{timeout: p.cfg.StartTimeout}, func(ctx context.Context, inst *instance) error {
		inst.settled.Add(1)
		_, err := pluginv1.NewPluginServiceClient(inst.conn).Configure(ctx, &pluginv1.ConfigureRequest{Settings: settings})
		return err
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		p.settings = maps.Clone(settings)
	case !errors.Is(err, ErrRefused) && p.inst != nil:
		p.endLocked(p.inst, errReload)
	}
	return err
}

// Status says how the plugin fares.
func (p *Plugin) Status() *fettlev1.PluginStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.latency.percentiles(50, 99)
	st := &fettlev1.PluginStatus{
		Name: p.cfg.Name, Kind: kindName(p.cfg.Kind), Version: p.last.GetVersion(), AbiVersion: uint32(p.abi),
		Path: p.cfg.Path, Checksum: p.checksum, State: string(p.state),
		Calls: p.count.calls, Failures: p.count.failures, Restarts: p.count.restarts, P50Us: q[0], P99Us: q[1],
	}
	switch {
	case p.disabled != nil:
		st.LastError = p.disabled.Error()
	case p.lastErr != nil:
		st.LastError = p.lastErr.Error()
	}
	return st
}

// checkSize refuses a message that is too large to send.
func (p *Plugin) checkSize(req proto.Message) error {
	if n := proto.Size(req); n > p.cfg.MaxRequestBytes {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, n, p.cfg.MaxRequestBytes)
	}
	return nil
}
