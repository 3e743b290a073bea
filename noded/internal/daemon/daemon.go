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
	"slices"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/account"
	"github.com/fettle-hpc/fettle/noded/internal/attempt"
	"github.com/fettle-hpc/fettle/noded/internal/cgroup"
	"github.com/fettle-hpc/fettle/noded/internal/config"
	"github.com/fettle-hpc/fettle/noded/internal/gpufence"
	"github.com/fettle-hpc/fettle/noded/internal/gpuwatch"
	"github.com/fettle-hpc/fettle/noded/internal/gres"
	"github.com/fettle-hpc/fettle/noded/internal/journal"
	"github.com/fettle-hpc/fettle/noded/internal/session"
	"github.com/fettle-hpc/fettle/noded/internal/userread"
	"github.com/fettle-hpc/fettle/plugins/host"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
	"github.com/fettle-hpc/fettle/proto/version"
)

// Run runs the daemon until ctx ends. Jobs go on without it. The error is one line for the operator.
func Run(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	d := &daemon{cfg: cfg, log: log, failed: make(chan error, 1), synced: make(chan uint64, 256), over: make(chan struct{})}
	defer d.close()
	if err := d.open(ctx); err != nil {
		return err
	}
	return d.loop(ctx)
}

type daemon struct {
	cfg *config.Config
	log *slog.Logger

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
	// over is closed when nobody takes what the journal says any more.
	over chan struct{}
	// lastSeq is the newest record given to the journal; compactAt is the size at which it is looked at next.
	lastSeq     uint64
	compactAt   int64
	watch       *gpuwatch.Watch
	readingsDue bool
	// busy are the GPUs that something else uses, as logged.
	busy map[string]bool
	// stream is the newest one that was opened.
	stream uint64

	// closers undo open, last first.
	closers []func()
}

// later registers what close does; what was opened last is closed first.
func (d *daemon) later(f func()) { d.closers = append(d.closers, f) }

func (d *daemon) close() {
	close(d.over)
	for _, f := range slices.Backward(d.closers) {
		f()
	}
}

// open brings up every part in the order in which they need each other, up to the machine's boot.
func (d *daemon) open(ctx context.Context) (err error) {
	// Directories are made with the modes that the code names; jobs get a mask of their own.
	unix.Umask(0o022)
	if err := os.MkdirAll(d.cfg.StateDir, 0o711); err != nil {
		return fmt.Errorf("state_dir: %w", err)
	}
	lock, err := lockDir(d.cfg.StateDir)
	if err != nil {
		return err
	}
	d.later(func() { _ = lock.Close() })
	if d.bootID, err = readBootID(); err != nil {
		return err
	}
	records, err := d.openJournal()
	if err != nil {
		return err
	}
	if err := d.openGPUs(ctx); err != nil {
		return err
	}
	d.openWatch()
	if err := d.openLaunchers(); err != nil {
		return err
	}
	groups, missing := cgroup.Probe(cgroup.Config{Node: groupName(d.cfg), Disabled: os.Geteuid() != 0})
	d.isolation = isolation(groups.Version(), append(missing, closedPath(d.cfg.StateDir)...))
	d.refreshInventory(ctx)
	if iso := d.inventory.Load().GetIsolation(); d.cfg.Isolation == config.Required && iso.GetLevel() != "full" {
		return fmt.Errorf("isolation is required, but this host cannot enforce: %s", firstOf(iso.GetMissing()))
	}
	if d.lease, err = openLease(filepath.Join(d.cfg.StateDir, "lease"), d.bootID); err != nil {
		return fmt.Errorf("lease: %w", err)
	}
	d.later(func() { _ = d.lease.f.Close() })
	if err := d.openAttempts(groups); err != nil {
		return err
	}
	d.link = session.New(session.Config{Controllers: d.cfg.Controllers, Log: d.log})
	return d.boot(records)
}

// openJournal replays the journal, and refuses one of another node.
func (d *daemon) openJournal() ([]*nodemachine.Record, error) {
	j, raw, torn, err := journal.Open(journal.Config{
		Path: filepath.Join(d.cfg.StateDir, "journal"),
		Synced: func(upto uint64) {
			select {
			case d.synced <- upto:
			case <-d.over:
			}
		},
		Failed: d.fail,
	})
	if err != nil {
		return nil, err
	}
	d.journal = j
	d.later(func() {
		if err := j.Close(); err != nil {
			d.log.Error("journal not closed cleanly", "err", err)
		}
	})
	if torn > 0 {
		d.log.Warn("the end of the journal was not written whole and is dropped", "bytes", torn)
	}
	records := make([]*nodemachine.Record, len(raw))
	for i, b := range raw {
		if records[i], err = nodemachine.ParseRecord(b); err != nil {
			return nil, fmt.Errorf("journal record %d: %w", i, err)
		}
	}
	if _, node := nodemachine.Owner(records); node != "" && node != d.cfg.Name {
		return nil, fmt.Errorf("state_dir %s belongs to node %s, not to %s; give each node a directory of its own", d.cfg.StateDir, node, d.cfg.Name)
	}
	return records, nil
}

func (d *daemon) openGPUs(ctx context.Context) (err error) {
	if d.gpus, err = gres.New(gres.Config{Node: d.cfg.Name, GRES: d.cfg.GRES, MemoryMiB: d.cfg.GPUMemoryMiB, Helper: d.cfg.NVML,
		Interval: d.cfg.ReadingsEvery(), Logger: d.log}); err != nil {
		return err
	}
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() {
		if err := d.gpus.Run(own); err != nil && own.Err() == nil {
			d.log.Error("GPUs are no longer watched", "err", err)
		}
	})
	d.later(func() {
		cancel()
		running.Wait()
	})
	return nil
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
	d.later(d.registry.Close)
	return nil
}

func (d *daemon) openAttempts(groups *cgroup.Groups) (err error) {
	shim := d.cfg.Shim
	if shim == "" {
		if shim, err = beside("fettle-shim"); err != nil {
			return err
		}
	}
	users := account.New(account.Config{})
	d.attempts, err = attempt.New(attempt.Config{
		Dir: d.cfg.StateDir, LeasePath: d.lease.path, ShimPath: shim, Users: users, Groups: groups,
		Fence: d.fence.Load, Inventory: d.inventory.Load, Launcher: d.launcher, Engine: d.cfg.Engine,
		UID: uint32(os.Geteuid()), NoRoot: d.cfg.RootJobs != nil && !*d.cfg.RootJobs, Log: d.log,
	})
	if err != nil {
		return fmt.Errorf("attempts: %w", err)
	}
	d.later(d.attempts.Close)
	d.reads = newLogReads(d.attempts, users, userread.Reader{ShimPath: shim}, d.log)
	d.later(d.reads.close)
	return nil
}

func (d *daemon) launcher(method string) (attempt.Launcher, error) {
	l, err := d.registry.Launcher(method)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// boot finds the shims of the daemon before this one and starts the machine.
func (d *daemon) boot(records []*nodemachine.Record) error {
	found, err := d.attempts.Scan()
	if err != nil {
		return fmt.Errorf("find attempts: %w", err)
	}
	d.machine = nodemachine.New(nodemachine.Config{Node: d.cfg.Name})
	d.log.Info("node daemon is up", "version", version.Version, "gpus", len(d.inventory.Load().GetGpus()),
		"isolation", d.isolation.GetLevel(), "records", len(records), "attempts", len(found))
	d.step(nodemachine.Boot{
		BootID: d.bootID, DaemonID: uuid.NewString(), Inventory: d.inventory.Load(), Records: records, Found: found, Lease: d.lease.found,
	})
	return nil
}

// fail ends the loop; the first reason counts.
func (d *daemon) fail(err error) {
	select {
	case d.failed <- err:
	default:
	}
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
