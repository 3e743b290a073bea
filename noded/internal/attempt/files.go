package attempt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
	"github.com/fettle-hpc/fettle/noded/internal/shim"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

func (m *Manager) dir(k nodemachine.Key) string { return filepath.Join(m.cfg.Dir, k.String()) }

// makeDir makes an attempt's directory and takes its lock. Others may pass through it to files/, and see nothing else.
func (m *Manager) makeDir(k nodemachine.Key, pl *plan) (lock *os.File, err error) {
	dir := m.dir(k)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return nil, err
	}
	lock, err = takeLock(dir, os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = lock.Close()
		}
	}()
	files := filepath.Join(dir, handoff.FilesDir)
	if err := os.Mkdir(files, 0o700); err != nil {
		return nil, err
	}
	if pl.order.SwitchUser && (pl.order.UID != 0 || pl.order.GID != 0) {
		// The parent is the daemon's own, and nobody else can put anything else in its place.
		if err := os.Lchown(files, int(pl.order.UID), int(pl.order.GID)); err != nil {
			return nil, err
		}
	}
	return lock, os.WriteFile(filepath.Join(dir, handoff.OrderFile), pl.order.Marshal(), 0o600)
}

// errLocked: a shim holds the lock.
var errLocked = errors.New("a shim owns the attempt")

func takeLock(dir string, flags int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, handoff.LockFile), os.O_RDWR|flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, os.NewSyscallError("flock", err)
	}
	return f, nil
}

// denyPath is what hidden devices are covered with.
func (m *Manager) denyPath() string { return filepath.Join(m.cfg.Dir, "denied") }

func makeDenyFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// readInfo reads what an earlier daemon wrote into the order.
func readInfo(dir string) (*info, error) {
	b, err := os.ReadFile(filepath.Join(dir, handoff.OrderFile))
	if err != nil {
		return nil, err
	}
	o, err := handoff.ParseOrder(b)
	if err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	i := &info{}
	if err := json.Unmarshal(o.Daemon, i); err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	return i, nil
}

// readExit returns nil without an error when there is no exit record.
func readExit(dir string) (*handoff.Exit, error) {
	b, err := os.ReadFile(filepath.Join(dir, handoff.ExitFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	e, err := handoff.ParseExit(b)
	if err != nil {
		return nil, fmt.Errorf("exit record: %w", err)
	}
	return e, nil
}

func writeExit(dir string, e *handoff.Exit) error { return shim.WriteExit(dir, e) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func exitProto(e *handoff.Exit) *fettlev1.Exit {
	return &fettlev1.Exit{
		Code: e.Code, Signal: e.Signal, NeverStarted: e.NeverStarted, UserError: e.UserError, OomKilled: e.OOMKilled,
		TimedOut: e.TimedOut, LeaseExpired: e.LeaseExpired, ShimLost: e.ShimLost, Detail: oneLine(e.Detail),
		StartMs: e.StartMS, EndMs: e.EndMS,
	}
}
