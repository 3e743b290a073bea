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
	if err := m.makeDir(m.filesOf(k), &pl.order); err != nil {
		return nil, 0, err
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

// owner is whose directories can take the place of each other.
type owner struct{ uid, gid uint32 }

// makeDir makes an attempt's own directory. A script's is a spare one of the same user where there is one.
func (m *Manager) makeDir(dir string, o *handoff.Order) error {
	if o.Script != nil && m.reuseDir(dir, owner{o.UID, o.GID}) {
		return nil
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("the attempt's own directory: %v", err)
	}
	if o.SwitchUser && (o.UID != 0 || o.GID != 0) {
		// The parent is the daemon's own, and nobody else can put anything else in its place.
		return os.Lchown(dir, int(o.UID), int(o.GID))
	}
	return nil
}

func (m *Manager) reuseDir(dir string, who owner) bool {
	m.mu.Lock()
	spare := ""
	if l := m.spareDirs[who]; len(l) > 0 {
		spare, m.spareDirs[who] = l[len(l)-1], l[:len(l)-1]
		m.spareDirCount--
	}
	m.mu.Unlock()
	if spare == "" {
		return false
	}
	if err := unix.Renameat2(unix.AT_FDCWD, spare, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE); err != nil {
		_ = os.RemoveAll(spare)
		return false
	}
	return true
}

// retireDir keeps the directory of a script that left nothing but its script there for another one of the same user, who
// may read and change it anyway; every other directory is removed. The script's next owner writes it anew.
func (m *Manager) retireDir(dir string, i *info) error {
	if i == nil || !isScript(i.Method) || !onlyScript(dir) {
		// RemoveAll walks by open directories and follows no links; the attempt has no process left that could race it.
		return os.RemoveAll(dir)
	}
	m.mu.Lock()
	keep := m.spareDirCount < maxSpares
	if keep {
		m.spareDirCount++
	}
	m.spareSeq++
	spare := filepath.Join(m.cfg.Dir, filesDir, sparePrefix+strconv.FormatUint(m.spareSeq, 10))
	m.mu.Unlock()
	if !keep {
		return os.RemoveAll(dir)
	}
	// The name is in a directory of the daemon's own: no user can have put another file there.
	err := os.Chmod(dir, 0o700)
	if err == nil {
		err = os.Rename(dir, spare)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.spareDirCount--
		return errors.Join(err, os.RemoveAll(dir))
	}
	who := owner{i.UID, i.GID}
	m.spareDirs[who] = append(m.spareDirs[who], spare)
	return nil
}

// onlyScript reports whether a directory holds a plain file under the script's name and nothing else.
func onlyScript(dir string) bool {
	d, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer d.Close()
	entries, err := d.ReadDir(2)
	if err != nil || len(entries) != 1 || entries[0].Name() != handoff.ScriptFile {
		return false
	}
	var st unix.Stat_t
	err = unix.Fstatat(int(d.Fd()), handoff.ScriptFile, &st, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1
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
func (m *Manager) remove(k nodemachine.Key, i *info) {
	if err := errors.Join(m.retireDir(m.filesOf(k), i), m.retire(m.path(k))); err != nil {
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
	x := &fettlev1.Exit{
		Code: e.Code, Signal: e.Signal, NeverStarted: e.NeverStarted, UserError: e.UserError, OomKilled: e.OOMKilled,
		TimedOut: e.TimedOut, LeaseExpired: e.LeaseExpired, ShimLost: e.ShimLost, Detail: oneLine(e.Detail),
		StartMs: e.StartMS, EndMs: e.EndMS, StdoutStart: e.Outputs.StdoutStart, StderrStart: e.Outputs.StderrStart,
	}
	if e.VRAMExceeded {
		x.Class = fettlev1.ExitClass_EXIT_CLASS_VRAM_EXCEEDED
	}
	return x
}
