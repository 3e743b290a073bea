// Package daemon puts the node daemon together. One goroutine feeds the node machine with what happens (orders, ends of
// shims, journal syncs, time) and carries out what it answers; everything slow happens elsewhere.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/fettle-hpc/fettle/noded/internal/account"
	"github.com/fettle-hpc/fettle/noded/internal/attempt"
	"github.com/fettle-hpc/fettle/noded/internal/cgroup"
	"github.com/fettle-hpc/fettle/noded/internal/config"
	"github.com/fettle-hpc/fettle/noded/internal/gpufence"
	"github.com/fettle-hpc/fettle/noded/internal/gres"
	"github.com/fettle-hpc/fettle/noded/internal/journal"
	"github.com/fettle-hpc/fettle/noded/internal/session"
	"github.com/fettle-hpc/fettle/noded/internal/userread"
	"github.com/fettle-hpc/fettle/plugins/host"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
	"github.com/fettle-hpc/fettle/proto/version"
)

const (
	// tickEvery is below the shortest heartbeat that a controller may ask for.
	tickEvery = 250 * time.Millisecond
	// progressEvery and readingsEvery are how often what changes all the time is sent.
	progressEvery = time.Second
	readingsEvery = 5 * time.Second
	// compactAbove is the journal's size from which it is rewritten when most of it is dead.
	compactAbove = 8 << 20
)

// Run runs the daemon until ctx ends. Jobs go on without it. The error is one line for the operator.
func Run(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	d := &daemon{cfg: cfg, log: log, failed: make(chan error, 1), synced: make(chan uint64, 1024)}
	if err := d.open(ctx); err != nil {
		return err
	}
	defer d.close()
	return d.loop(ctx)
}

type daemon struct {
	cfg *config.Config
	log *slog.Logger

	lock      *os.File
	bootID    string
	isolation *fettlev1.Isolation
	inventory atomic.Pointer[fettlev1.Inventory]
	fence     atomic.Pointer[gpufence.Fence]

	gpus     gres.Source
	registry *host.Registry
	attempts *attempt.Manager
	journal  *journal.Journal
	link     *session.Link
	lease    *leaseFile
	reads    *logReads
	machine  *nodemachine.Machine

	synced chan uint64
	failed chan error
	// lastSeq is the newest record given to the journal; compacting is set while it is rewritten.
	lastSeq uint64
	// stream is the newest one that was opened.
	stream uint64

	workers sync.WaitGroup
	stop    context.CancelFunc
}

// open brings up every part in the order in which they need each other, up to the machine's boot.
func (d *daemon) open(ctx context.Context) (err error) {
	if err := os.MkdirAll(d.cfg.StateDir, 0o711); err != nil {
		return fmt.Errorf("state_dir: %w", err)
	}
	if d.lock, err = lockDir(d.cfg.StateDir); err != nil {
		return err
	}
	if d.bootID, err = readBootID(); err != nil {
		return err
	}
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d.stop = cancel
	if d.gpus, err = gres.New(gres.Config{Node: d.cfg.Name, GRES: d.cfg.GRES, Helper: d.cfg.NVML, Logger: d.log}); err != nil {
		return err
	}
	d.workers.Go(func() {
		if err := d.gpus.Run(own); err != nil && own.Err() == nil {
			d.log.Error("GPUs are no longer watched", "err", err)
		}
	})
	if err := d.openLaunchers(); err != nil {
		return err
	}
	groups, missing := cgroup.Probe(cgroup.Config{Node: d.cfg.Name, Disabled: os.Geteuid() != 0})
	d.isolation = isolation(groups.Version(), missing)
	d.refreshInventory(ctx)
	if d.cfg.Isolation == config.Required && d.isolation.GetLevel() != "full" {
		return fmt.Errorf("isolation is required, but this host cannot enforce: %s", firstOf(d.isolation.GetMissing()))
	}
	if d.lease, err = openLease(filepath.Join(d.cfg.StateDir, "lease"), d.bootID); err != nil {
		return fmt.Errorf("lease: %w", err)
	}
	shim := d.cfg.Shim
	if shim == "" {
		if shim, err = beside("fettle-shim"); err != nil {
			return err
		}
	}
	d.attempts, err = attempt.New(attempt.Config{
		Dir: filepath.Join(d.cfg.StateDir, "attempts"), LeasePath: d.lease.path, ShimPath: shim, Users: account.New(account.Config{}),
		Groups: groups, Fence: d.fence.Load, Inventory: d.inventory.Load, Launcher: d.launcher, Engine: d.cfg.Engine,
		UID: uint32(os.Geteuid()), NoRoot: d.cfg.RootJobs != nil && !*d.cfg.RootJobs, Log: d.log,
	})
	if err != nil {
		return fmt.Errorf("attempts: %w", err)
	}
	d.reads = newLogReads(d.attempts, userread.Reader{ShimPath: shim}, d.log)
	d.link = session.New(d.cfg.Controllers, d.log)
	return d.boot()
}

func (d *daemon) openLaunchers() (err error) {
	dir := d.cfg.PluginDir
	if dir == "" {
		if dir, err = pluginDir(); err != nil {
			return err
		}
	}
	d.registry, err = host.NewRegistry(host.RegistryConfig{Dir: dir, Defaults: host.Config{SocketDir: socketDir(d.cfg.StateDir), Logger: d.log}})
	if err != nil {
		return fmt.Errorf("launchers: %w", err)
	}
	return nil
}

func (d *daemon) launcher(method string) (attempt.Launcher, error) {
	return d.registry.Launcher(method)
}

// boot replays the journal, finds the shims of the daemon before this one and starts the machine.
func (d *daemon) boot() error {
	j, raw, torn, err := journal.Open(journal.Config{
		Path:   filepath.Join(d.cfg.StateDir, "journal"),
		Synced: func(upto uint64) { d.synced <- upto },
		Failed: func(err error) {
			select {
			case d.failed <- fmt.Errorf("journal: %w", err):
			default:
			}
		},
	})
	if err != nil {
		return err
	}
	d.journal = j
	if torn > 0 {
		d.log.Warn("the end of the journal was not written whole and is dropped", "bytes", torn)
	}
	records := make([]*nodemachine.Record, len(raw))
	for i, b := range raw {
		if records[i], err = nodemachine.ParseRecord(b); err != nil {
			return fmt.Errorf("journal record %d: %w", i, err)
		}
	}
	found, err := d.attempts.Scan()
	if err != nil {
		return fmt.Errorf("find attempts: %w", err)
	}
	d.machine = nodemachine.New(nodemachine.Config{Node: d.cfg.Name})
	d.log.Info("node daemon is up", "node", d.cfg.Name, "version", version.Version, "gpus", len(d.inventory.Load().GetGpus()),
		"isolation", d.isolation.GetLevel(), "records", len(records), "attempts", len(found))
	d.step(nodemachine.Boot{
		BootID: d.bootID, DaemonID: uuid.NewString(), Inventory: d.inventory.Load(), Records: records, Found: found, Lease: d.lease.found,
	})
	return nil
}

// loop is the daemon's one goroutine.
func (d *daemon) loop(ctx context.Context) error {
	linked := make(chan struct{})
	go func() { d.link.Run(ctx); close(linked) }()
	tick, progress, readings := time.NewTicker(tickEvery), time.NewTicker(progressEvery), time.NewTicker(readingsEvery)
	defer tick.Stop()
	defer progress.Stop()
	defer readings.Stop()
	for {
		select {
		case <-linked:
			d.reads.close()
			return nil
		case err := <-d.failed:
			return fmt.Errorf("%w; jobs go on, start the daemon again when the disk is well", err)
		case e := <-d.link.Events():
			d.onLink(e)
		case in := <-d.attempts.Events():
			d.step(in)
		case upto := <-d.synced:
			d.step(nodemachine.JournalSynced{Upto: upto})
			d.compact()
		case <-d.gpus.Changed():
			d.refreshInventory(ctx)
			d.step(nodemachine.InventoryChanged{Inventory: d.inventory.Load()})
		case <-tick.C:
			d.step(nodemachine.Tick{})
		case <-progress.C:
			d.sendProgress()
		case <-readings.C:
			d.sendReadings(ctx)
		}
	}
}

func (d *daemon) onLink(e session.Event) {
	switch {
	case e.Opened:
		d.stream = e.Stream
		d.step(nodemachine.Connected{})
	case e.Stream != d.stream:
	case e.Closed:
		d.step(nodemachine.SessionLost{})
	default:
		d.step(nodemachine.Received{Msg: e.Msg})
	}
}

func (d *daemon) step(in nodemachine.Input) {
	for _, out := range d.machine.Step(boottimeMS(), in) {
		d.carryOut(out)
	}
}

func (d *daemon) carryOut(out nodemachine.Output) {
	switch o := out.(type) {
	case nodemachine.Append:
		payload, err := o.Record.AppendBinary(nil)
		if err != nil {
			d.fail(fmt.Errorf("journal record: %w", err))
			return
		}
		d.lastSeq = o.Seq
		d.journal.Append(o.Seq, payload, o.Lazy)
	case nodemachine.StartShim:
		d.attempts.Start(o)
	case nodemachine.StopShim:
		d.attempts.Stop(o.Key, o.GraceMS)
	case nodemachine.SignalShim:
		d.attempts.Signal(o.Key, o.Signal)
	case nodemachine.LimitShim:
		d.attempts.SetLimit(o.Key, o.Seconds)
	case nodemachine.SetLease:
		if err := d.lease.set(o.Lease); err != nil {
			// Without it the shims end their jobs when the old lease runs out: safe, and to be told.
			d.log.Error("lease not written", "err", err)
		}
	case nodemachine.Send:
		d.link.Send(o.Msg)
	case nodemachine.CloseSession:
		if o.Refused {
			d.log.Error("controller refused", "reason", o.Reason)
		} else {
			d.log.Info("session closed", "reason", o.Reason)
		}
		d.link.Close(o.Reason)
	case nodemachine.ReadLog:
		d.reads.start(o.Order, d.link.Service())
	case nodemachine.Forget:
		d.attempts.Forget(o.Key)
	}
}

func (d *daemon) fail(err error) {
	select {
	case d.failed <- err:
	default:
	}
}

// compact rewrites a journal that is mostly dead.
func (d *daemon) compact() {
	if d.journal.Size() < compactAbove {
		return
	}
	var live [][]byte
	size := 0
	for _, r := range d.machine.Snapshot() {
		b, err := r.AppendBinary(nil)
		if err != nil {
			d.fail(fmt.Errorf("journal record: %w", err))
			return
		}
		live = append(live, b)
		size += len(b)
	}
	if int64(size)*4 < d.journal.Size() {
		d.journal.Rewrite(d.lastSeq, live)
	}
}

func (d *daemon) sendProgress() {
	if items := d.attempts.Progress(); len(items) > 0 && d.machine.Session() != 0 {
		d.link.Send(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Progress{Progress: &fettlev1.NodeProgress{Items: items}}})
	}
}

func (d *daemon) sendReadings(ctx context.Context) {
	if d.machine.Session() == 0 {
		return
	}
	r, err := d.gpus.Readings(ctx)
	if err != nil || len(r) == 0 {
		return
	}
	d.link.Send(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Readings{Readings: &fettlev1.NodeReadings{Gpus: r}}})
}

// refreshInventory looks at what the node offers now.
func (d *daemon) refreshInventory(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	gpus, err := d.gpus.Inventory(ctx)
	if err != nil {
		d.log.Warn("GPUs are not known", "err", err)
	}
	fence, gaps := gpufence.Detect(gpufence.Config{}, gpus)
	d.fence.Store(fence)
	iso := proto.CloneOf(d.isolation)
	iso.Missing = append(slices.Clone(iso.GetMissing()), gaps...)
	if len(gaps) > 0 && iso.GetLevel() == "full" {
		iso.Level = "partial"
	}
	inv := &fettlev1.Inventory{
		Cpus: d.cfg.CPUs, MemoryMib: d.cfg.MemoryMiB, Gpus: gpus, Isolation: iso, Version: version.Version, Os: osName(),
		Methods: d.registry.Methods(), Address: d.cfg.Address,
	}
	if inv.Cpus == 0 {
		inv.Cpus = uint32(runtime.NumCPU())
	}
	if inv.MemoryMib == 0 {
		inv.MemoryMib = machineMemoryMiB()
	}
	d.inventory.Store(inv)
}

func (d *daemon) close() {
	d.stop()
	d.attempts.Close()
	if err := d.journal.Close(); err != nil {
		d.log.Error("journal not closed cleanly", "err", err)
	}
	d.registry.Close()
	d.workers.Wait()
	_ = d.lease.f.Close()
	_ = d.lock.Close()
}

// lockDir keeps a second daemon off the same state directory.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state_dir: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("state_dir %s: another node daemon runs on it; stop that one or name another directory", dir)
		}
		return nil, fmt.Errorf("state_dir %s: %w", dir, err)
	}
	return f, nil
}
