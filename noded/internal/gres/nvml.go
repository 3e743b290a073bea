package gres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fettle-hpc/fettle/noded/internal/gres/report"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Defaults and fixed times.
const (
	DefaultInterval = 5 * time.Second
	DefaultDeadline = 30 * time.Second
	// patience is added to three intervals: so long may a watching fettle-nvml be silent.
	patience = 10 * time.Second
	// killWait is how long a killed process is waited for.
	killWait = 2 * time.Second
	// recheck is how often a machine without GPUs is looked at again.
	recheck = time.Minute
	// steady is how long fettle-nvml must have run for its end not to count as one failure more in a row.
	steady = time.Minute
	// tolerated is the number of failures in a row from which on the cards are not given to jobs. Silence is not tolerated
	// at all: a driver that hangs takes jobs down with it.
	tolerated = 3
	// maxBackoff bounds the time between two attempts.
	maxBackoff = time.Minute
	// maxAnswer bounds the messages of one answer.
	maxAnswer = 16
)

// Config says where a node's GPUs come from.
type Config struct {
	// Node is the node's name, for the UUIDs of declared GPUs.
	Node string
	// GRES is what the node declares; empty or "auto" looks for GPUs.
	GRES string
	// MemoryMiB is the memory of each declared GPU; 0 takes that of its type, where it is known.
	MemoryMiB int64
	// Helper is the path of fettle-nvml; empty looks beside the running program.
	Helper string
	// Library is the path of libnvidia-ml.so.1; empty means the usual places.
	Library string
	// Interval is the time between two readings; zero means DefaultInterval. At least 100 ms.
	Interval time.Duration
	// Deadline bounds every answer of fettle-nvml; zero means DefaultDeadline. Without NVIDIA's persistence daemon the
	// driver may take two seconds a card to wake up.
	Deadline time.Duration
	// Logger is told about errors of the cards and of fettle-nvml; nil means slog.Default().
	Logger *slog.Logger

	// Test hooks; zero means the real ones.
	now      func() time.Time
	kill     func(*child)
	killWait time.Duration
	silence  time.Duration
	backoff  func(failures int) time.Duration
	recheck  time.Duration
}

// Validate checks the parts that NewNVML uses.
func (c Config) Validate() error {
	switch {
	case c.Helper == "":
		return errors.New("the path of fettle-nvml is missing")
	case !filepath.IsAbs(c.Helper):
		return fmt.Errorf("the path of fettle-nvml, %q, does not start with /", c.Helper)
	case c.Interval != 0 && c.Interval < 100*time.Millisecond:
		return fmt.Errorf("interval %v is below 100ms", c.Interval)
	case c.Deadline < 0:
		return fmt.Errorf("deadline %v is below 0", c.Deadline)
	}
	return nil
}

func (c Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.Default()
	}
	return c.Logger
}

// NVML is the Source of what fettle-nvml finds.
type NVML struct {
	cfg     Config
	log     *slog.Logger
	changed chan struct{}
	// first is closed when Run has had its first answer or failure.
	first chan struct{}
	// asking holds one value while fettle-nvml is run, for a single question or by Run: never two at a time.
	asking chan struct{}

	mu      sync.Mutex
	running bool
	book    book
	// known is set by the first inventory; err is why there is none yet.
	known bool
	err   error
	// shown is what Inventory answered when Changed last had a value.
	shown    []*fettlev1.GPU
	problems []string
	failures int
	// rounds counts readings since the driver was given up, to be believed again from the second on.
	rounds int
	// taken counts all rounds of readings.
	taken uint64
	// stuck is a child that could not be killed.
	stuck *child
}

// NewNVML does not run anything yet.
func NewNVML(cfg Config) (*NVML, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Deadline == 0 {
		cfg.Deadline = DefaultDeadline
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	if cfg.kill == nil {
		cfg.kill = (*child).kill
	}
	if cfg.killWait == 0 {
		cfg.killWait = killWait
	}
	if cfg.silence == 0 {
		cfg.silence = 3*cfg.Interval + patience
	}
	if cfg.backoff == nil {
		cfg.backoff = backoff
	}
	if cfg.recheck == 0 {
		cfg.recheck = recheck
	}
	return &NVML{cfg: cfg, log: cfg.logger(), changed: make(chan struct{}, 1), first: make(chan struct{}), asking: make(chan struct{}, 1)}, nil
}

// backoff doubles from a second.
func backoff(failures int) time.Duration {
	return min(time.Second<<min(max(failures-1, 0), 10), maxBackoff)
}

// Changed has a value when Inventory would answer something new.
func (n *NVML) Changed() <-chan struct{} { return n.changed }

// Inventory lists every card that was seen, the lost ones too. See Source.
func (n *NVML) Inventory(ctx context.Context) ([]*fettlev1.GPU, error) {
	if err := n.fresh(ctx); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.known {
		return nil, n.err
	}
	return n.book.gpus(), nil
}

// Readings are the newest round. See Source.
func (n *NVML) Readings(ctx context.Context) (Round, error) {
	if err := n.fresh(ctx); err != nil {
		return Round{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.known {
		return Round{}, n.err
	}
	r := Round{GPUs: n.book.used()}
	if n.book.readings != nil {
		r.Number = n.taken
	}
	return r, nil
}

// fresh waits for Run's first answer, or asks when Run does not run. Its only error is the context's.
func (n *NVML) fresh(ctx context.Context) error {
	n.mu.Lock()
	running := n.running
	n.mu.Unlock()
	if running {
		select {
		case <-n.first:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	select {
	case n.asking <- struct{}{}:
		defer func() { <-n.asking }()
	case <-n.first: // Run has begun meanwhile, and knows
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	err := n.ask(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		n.failed(err, false)
	}
	return nil
}

// ask runs fettle-nvml for one inventory and one round of readings.
func (n *NVML) ask(ctx context.Context) error {
	end := time.Now().Add(n.cfg.Deadline)
	c, err := n.start("--count", "1")
	if err != nil {
		return err
	}
	defer n.stop(c)
	var answer []report.Message
	for {
		m, err := c.next(ctx, end, n.cfg.Deadline)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return n.because(c, err)
		}
		if answer = append(answer, m); len(answer) > maxAnswer {
			return errors.New("fettle-nvml makes no sense: it does not stop talking")
		}
	}
	if err := n.ended(ctx, c, time.Until(end)); err != nil {
		return err
	}
	if len(answer) == 0 || answer[0].Inventory == nil {
		return errors.New("fettle-nvml makes no sense: no inventory")
	}
	for _, m := range answer {
		n.take(m)
	}
	n.settled()
	return nil
}

// Run watches until the context ends. See Source.
func (n *NVML) Run(ctx context.Context) error {
	n.mu.Lock()
	n.running = true
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.running = false
		n.mu.Unlock()
	}()
	first := sync.OnceFunc(func() { close(n.first) })
	defer first()
	select {
	case n.asking <- struct{}{}:
		defer func() { <-n.asking }()
	case <-ctx.Done():
		return nil
	}
	for {
		begun := n.cfg.now()
		err := n.watch(ctx, first)
		if ctx.Err() != nil {
			return nil
		}
		wait := n.cfg.recheck
		if err != nil {
			wait = n.cfg.backoff(n.failed(err, n.cfg.now().Sub(begun) >= steady))
		}
		first()
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// watch runs one fettle-nvml until it ends. Nil means that there is nothing to watch.
func (n *NVML) watch(ctx context.Context, first func()) error {
	c, err := n.start("--interval", n.cfg.Interval.String())
	if err != nil {
		return err
	}
	defer n.stop(c)
	m, err := c.next(ctx, time.Now().Add(n.cfg.Deadline), n.cfg.Deadline)
	if err != nil {
		return n.because(c, err)
	}
	if m.Inventory == nil {
		return errors.New("fettle-nvml makes no sense: the inventory does not come first")
	}
	for {
		empty := m.Inventory != nil && len(m.Inventory.GPUs) == 0
		n.take(m)
		first()
		m, err = c.next(ctx, time.Now().Add(n.cfg.silence), n.cfg.silence)
		switch {
		case err == nil:
		case empty && errors.Is(err, io.EOF):
			if err := n.ended(ctx, c, n.cfg.silence); err != nil {
				return err
			}
			n.settled()
			return nil
		default:
			return n.because(c, err)
		}
	}
}

// start runs fettle-nvml, unless an earlier one still hangs in the driver: a second one would only hang beside it.
func (n *NVML) start(args ...string) (*child, error) {
	n.mu.Lock()
	if n.stuck != nil {
		select {
		case <-n.stuck.ended:
			n.stuck = nil
		default:
			pid := n.stuck.pid
			n.mu.Unlock()
			return nil, fmt.Errorf("%w: process %d hangs in it and cannot be ended", errLate, pid)
		}
	}
	n.mu.Unlock()
	args = append([]string{"watch"}, args...)
	if n.cfg.Library != "" {
		args = append(args, "--library", n.cfg.Library)
	}
	return startChild(n.cfg.Helper, args)
}

func (n *NVML) stop(c *child) {
	if c.stop(n.cfg.kill, n.cfg.killWait) {
		return
	}
	n.log.Error("fettle-nvml cannot be ended: it hangs in the driver", slog.Int("pid", c.pid))
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stuck = c
}

// ended waits for a child that has closed its output, and tells how it ended.
func (n *NVML) ended(ctx context.Context, c *child, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-c.ended:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return fmt.Errorf("%w: fettle-nvml does not end", errLate)
	}
	if c.result == nil {
		return nil
	}
	c.stderr.close(timer.C)
	if text := c.stderr.text(); text != "" {
		return fmt.Errorf("fettle-nvml: %w: %s", c.result, text)
	}
	return fmt.Errorf("fettle-nvml: %w", c.result)
}

// because finds the better reason when a child's output ended before it should have: how the child ended.
func (n *NVML) because(c *child, err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if ended := n.ended(context.Background(), c, n.cfg.killWait); ended != nil {
		return ended
	}
	return errors.New("fettle-nvml ended by itself")
}

// take enters a message into the book.
func (n *NVML) take(m report.Message) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case m.Inventory != nil:
		n.book.inventory(m.Inventory)
		n.known, n.err = true, nil
		if !slices.Equal(n.problems, m.Inventory.Problems) {
			n.problems = m.Inventory.Problems
			for _, p := range n.problems {
				n.log.Warn("gpu cannot be used", slog.String("problem", p))
			}
		}
	case m.Readings != nil:
		n.book.round(m.Readings)
		n.taken++
		if n.rounds++; n.rounds > 1 {
			n.book.down = ""
		}
	case m.Event != nil:
		n.heard(m.Event)
		n.book.event(m.Event, n.cfg.now())
	}
	n.tell()
}

// settled says that the driver answered in full.
func (n *NVML) settled() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failures = 0
	n.book.down = ""
	n.tell()
}

// failed enters a failure into the book and answers how many there were in a row. restarted says that the failed attempt
// had run well for a while before.
func (n *NVML) failed(err error, restarted bool) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if restarted {
		n.failures = 0
	}
	n.failures++
	n.rounds = 0
	n.book.readings = nil
	if !n.known {
		n.err = fmt.Errorf("ask the NVIDIA driver for GPUs: %w", err)
	}
	n.log.Warn("fettle-nvml failed", slog.Any("err", err), slog.Int("failures", n.failures))
	switch {
	case errors.Is(err, errLate):
		n.book.down = report.Text(err.Error())
	case n.failures >= tolerated:
		n.book.down = report.Text("the card cannot be watched: " + err.Error())
	}
	n.tell()
	return n.failures
}

// heard logs an event.
func (n *NVML) heard(ev *report.Event) {
	level := slog.LevelInfo
	if ev.Kind != report.EventXID {
		level = slog.LevelWarn
	}
	switch ClassifyXID(ev.XID) {
	case XIDIgnore, XIDJob:
	default:
		level = slog.LevelWarn
	}
	n.log.Log(context.Background(), level, "gpu event", slog.String("gpu", ev.UUID), slog.String("kind", ev.Kind),
		slog.Uint64("xid", uint64(ev.XID)), slog.String("text", XIDText(ev.XID)))
}

// tell puts a value into Changed when Inventory would answer something new. The caller holds mu.
func (n *NVML) tell() {
	now := n.book.gpus()
	if !n.known || equal(now, n.shown) {
		return
	}
	n.shown = now
	select {
	case n.changed <- struct{}{}:
	default:
	}
}
