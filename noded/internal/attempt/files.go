package attempt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
	"github.com/fettle-hpc/fettle/noded/internal/shim"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

const (
	attemptsDir = "attempts"
	filesDir    = "files"
	deniedFile  = "denied"
	sparePrefix = "spare-"
	// maxSpares bounds the attempt files that are kept for use again.
	maxSpares = 256
)

// makeLayout makes what is missing of the state directory.
func (m *Manager) makeLayout() error {
	if err := os.MkdirAll(filepath.Join(m.cfg.Dir, attemptsDir), 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(m.cfg.Dir, filesDir), 0o711); err != nil {
		return err
	}
	if m.cfg.UID != 0 {
		return nil
	}
	// What hidden devices are covered with.
	f, err := os.OpenFile(m.denyPath(), os.O_WRONLY|os.O_CREATE, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func (m *Manager) denyPath() string { return filepath.Join(m.cfg.Dir, deniedFile) }

// path is the attempt's file.
func (m *Manager) path(k nodemachine.Key) string {
	return filepath.Join(m.cfg.Dir, attemptsDir, k.String())
}

// filesOf is the attempt's own directory.
func (m *Manager) filesOf(k nodemachine.Key) string {
	return filepath.Join(m.cfg.Dir, filesDir, k.String())
}

// makeFiles makes the attempt's file, locked and with the order in it, and its directory. An attempt that has a file
// already is os.ErrExist.
func (m *Manager) makeFiles(k nodemachine.Key, pl *plan) (f *os.File, size int, err error) {
	if f, err = m.newFile(m.path(k)); err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	dir := m.filesOf(k)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, 0, fmt.Errorf("the attempt's own directory: %v", err)
	}
	if pl.order.SwitchUser && (pl.order.UID != 0 || pl.order.GID != 0) {
		// The parent is the daemon's own, and nobody else can put anything else in its place.
		if err := os.Lchown(dir, int(pl.order.UID), int(pl.order.GID)); err != nil {
			return nil, 0, err
		}
	}
	b := pl.order.Marshal()
	_, err = f.Write(b)
	select {
	case m.newNames <- struct{}{}:
	default:
	}
	return f, len(b), err
}

// newFile makes a locked, empty file for appending. It takes a spare one where it can: on file systems that avoid inodes
// just freed, a new inode for each job costs more than all else.
func (m *Manager) newFile(path string) (*os.File, error) {
	flags := os.O_RDWR | os.O_APPEND
	m.mu.Lock()
	spare := ""
	if n := len(m.spares); n > 0 {
		spare, m.spares = m.spares[n-1], m.spares[:n-1]
	}
	m.mu.Unlock()
	if spare != "" {
		err := unix.Renameat2(unix.AT_FDCWD, spare, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
		if err != nil {
			_ = os.Remove(spare)
			if errors.Is(err, unix.EEXIST) {
				return nil, os.ErrExist
			}
			flags |= os.O_CREATE | os.O_EXCL
		}
	} else {
		flags |= os.O_CREATE | os.O_EXCL
	}
	return openLocked(path, flags)
}

// dirSyncPause bounds how often the attempts' directory is synced.
const dirSyncPause = 100 * time.Millisecond

// syncNames makes the names of new attempt files durable, many at a time and not on any job's path: a name that is lost
// in a power cut is that of an attempt which the power cut has ended.
func (m *Manager) syncNames() {
	pause := time.NewTicker(dirSyncPause)
	defer pause.Stop()
	for {
		select {
		case <-m.newNames:
		case <-m.ctx.Done():
			return
		}
		d, err := os.Open(filepath.Join(m.cfg.Dir, attemptsDir))
		if err == nil {
			err = errors.Join(d.Sync(), d.Close())
		}
		if err != nil {
			m.cfg.Log.Error("cannot sync the attempts' directory", "err", err)
		}
		select {
		case <-pause.C:
		case <-m.ctx.Done():
			return
		}
	}
}

// errLocked: a shim holds the lock.
var errLocked = errors.New("a shim owns the attempt")

func openLocked(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags, 0o600)
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

// remove takes away what there is of an attempt.
func (m *Manager) remove(k nodemachine.Key) {
	// RemoveAll walks by open directories and follows no links; the attempt has no process left that could race it.
	if err := errors.Join(os.RemoveAll(m.filesOf(k)), m.retire(m.path(k))); err != nil {
		m.cfg.Log.Warn("an attempt left something behind", "job", k.Job, "attempt", k.Attempt, "err", err)
	}
}

// retire empties an attempt's file and keeps it for another, or removes it.
func (m *Manager) retire(path string) error {
	m.mu.Lock()
	keep := len(m.spares) < maxSpares
	m.spareSeq++
	spare := filepath.Join(m.cfg.Dir, attemptsDir, sparePrefix+strconv.FormatUint(m.spareSeq, 10))
	m.mu.Unlock()
	if keep {
		if err := os.Truncate(path, 0); err == nil {
			if err := os.Rename(path, spare); err == nil {
				m.mu.Lock()
				m.spares = append(m.spares, spare)
				m.mu.Unlock()
				return nil
			}
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// sweepSpares removes spare files of an earlier daemon.
func (m *Manager) sweepSpares(entries []os.DirEntry) {
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), sparePrefix) {
			_ = os.Remove(filepath.Join(m.cfg.Dir, attemptsDir, e.Name()))
		}
	}
}

// read returns the order and records of an attempt's file. from, when it is not 0, is where the records begin.
func (m *Manager) read(k nodemachine.Key, from int) (*handoff.Order, handoff.Records, error) {
	f, err := os.Open(m.path(k))
	if err != nil {
		return nil, handoff.Records{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, int64(from), handoff.MaxPayload))
	if err != nil {
		return nil, handoff.Records{}, err
	}
	var o *handoff.Order
	if from == 0 {
		var size int
		if o, size, err = handoff.ParseOrder(b); err != nil {
			return nil, handoff.Records{}, fmt.Errorf("order: %w", err)
		}
		b = b[size:]
	}
	recs, _ := handoff.ParseRecords(b)
	return o, recs, nil
}

func (m *Manager) append(k nodemachine.Key, record []byte) error {
	f, err := os.OpenFile(m.path(k), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(record)
	return errors.Join(err, f.Close())
}

func (m *Manager) writeExit(k nodemachine.Key, e *handoff.Exit) error {
	f, err := os.OpenFile(m.path(k), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	return errors.Join(shim.WriteExit(f, e), f.Close())
}

// infoOf reads what an earlier daemon wrote into the order for itself.
func infoOf(o *handoff.Order) (*info, error) {
	i := &info{}
	if err := json.Unmarshal(o.Daemon, i); err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	return i, nil
}

func exitProto(e *handoff.Exit) *fettlev1.Exit {
	return &fettlev1.Exit{
		Code: e.Code, Signal: e.Signal, NeverStarted: e.NeverStarted, UserError: e.UserError, OomKilled: e.OOMKilled,
		TimedOut: e.TimedOut, LeaseExpired: e.LeaseExpired, ShimLost: e.ShimLost, Detail: oneLine(e.Detail),
		StartMs: e.StartMS, EndMs: e.EndMS, StdoutStart: e.Outputs.StdoutStart, StderrStart: e.Outputs.StderrStart,
	}
}
