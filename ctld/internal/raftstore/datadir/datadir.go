// Package datadir looks after the directory of one Raft server: its lock, its
// identity, the high-water mark that betrays lost data, and whether the file
// system underneath can be trusted with a log.
package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Names inside the directory.
const (
	LogFile       = "raft.db"
	SnapshotsDir  = "snapshots"
	identityFile  = "identity.json"
	pendingSuffix = ".pending"
	markFile      = "highwater.json"
	lockFile      = "LOCK"
	quarantine    = "QUARANTINE"
	removed       = "REMOVED"
	discardPrefix = "discarded-"
	tmpSuffix     = ".tmp"
)

// Errors of this package.
var (
	// ErrLocked means that another process holds the directory.
	ErrLocked = errors.New("data directory is in use by another process")
	// ErrSlow means that the disk did not answer a small write in time.
	ErrSlow = errors.New("data directory does not answer in time")
	// ErrWrite means that the disk refused a small write.
	ErrWrite = errors.New("data directory cannot be written")
	// ErrQuarantined means that an earlier run met an I/O error here.
	ErrQuarantined = errors.New("data directory is quarantined")
	// ErrRemoved means that the server of this directory left its cluster.
	ErrRemoved = errors.New("server was removed from the cluster")
	// ErrDamaged means that a file is missing or unreadable.
	ErrDamaged = errors.New("data directory is damaged")
)

// Options of Open.
type Options struct {
	// AnyFilesystem permits network file systems.
	AnyFilesystem bool
	// MinFree is the free space in bytes below which Open refuses; 0 or less
	// switches the check off.
	MinFree int64
	// ProbeLimit is how long a small synced write may take.
	ProbeLimit time.Duration
}

// Dir is a data directory that this process holds.
type Dir struct {
	path     string
	lock     *os.File
	warnings []string
}

// Open makes the directory if it is missing, takes its lock and checks that it
// can hold a log. It returns ErrSlow instead of hanging on a disk that hangs.
func Open(path string, opts Options) (*Dir, error) {
	type result struct {
		dir *Dir
		err error
	}
	ch := make(chan result)
	tooLate := make(chan struct{})
	go func() {
		d, err := open(path, opts)
		select {
		case ch <- result{d, err}:
		case <-tooLate:
			if err == nil {
				_ = d.Close()
			}
		}
	}()
	limit := time.NewTimer(3 * opts.ProbeLimit)
	defer limit.Stop()
	select {
	case r := <-ch:
		return r.dir, r.err
	case <-limit.C:
		close(tooLate)
		return nil, fmt.Errorf("%s: %w: a small write took longer than %v", path, ErrSlow, 3*opts.ProbeLimit)
	}
}

func open(path string, opts Options) (*Dir, error) {
	if err := makeDir(path); err != nil {
		return nil, err
	}
	if err := checkOwner(path); err != nil {
		return nil, err
	}
	d := &Dir{path: path}
	var err error
	if d.lock, err = lock(filepath.Join(path, lockFile)); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := d.check(opts); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Dir) check(opts Options) error {
	for _, n := range []struct {
		file     string
		sentinel error
	}{{quarantine, ErrQuarantined}, {removed, ErrRemoved}} {
		note, err := os.ReadFile(d.file(n.file))
		if err == nil {
			return fmt.Errorf("%s: %w: %s", d.path, n.sentinel, strings.TrimSpace(string(note)))
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	warning, err := checkFilesystem(d.path, opts.AnyFilesystem)
	if err != nil {
		return err
	}
	if warning != "" {
		d.warnings = append(d.warnings, warning)
	}
	space, err := d.Space()
	if err != nil {
		return err
	}
	need := opts.MinFree
	if opts.MinFree > 0 {
		need = max(need, 2*d.lastSnapshotSize())
	}
	if need > 0 && space.Free < uint64(need) {
		return fmt.Errorf("%s: %d MiB free, but the raft log needs %d MiB: free some space", d.path, space.Free>>20, need>>20)
	}
	return d.probe(opts.ProbeLimit)
}

// probe writes and syncs a small file, up to three times until it is fast enough.
func (d *Dir) probe(limit time.Duration) error {
	var took time.Duration
	for range 3 {
		start := time.Now()
		if err := d.write("probe", []byte("probe\n")); err != nil {
			return fmt.Errorf("%w: %w", ErrWrite, err)
		}
		if took = time.Since(start); took < limit {
			return os.Remove(d.file("probe"))
		}
	}
	return fmt.Errorf("%s: %w: a small write took %v", d.path, ErrSlow, took.Round(time.Millisecond))
}

func makeDir(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// checkOwner insists on a directory that only this user can write, and takes
// away reading from others.
func checkOwner(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fmt.Errorf("data directory %s: %w", path, err)
	}
	mode := uint32(st.Mode)
	switch {
	case mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("data directory %s: not a directory", path)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("data directory %s: owned by uid %d, not by this process's uid %d: run chown", path, st.Uid, os.Geteuid())
	case mode&0o022 != 0:
		return fmt.Errorf("data directory %s: mode %04o lets others write: run chmod 0700 %s", path, mode&0o7777, path)
	case mode&0o055 != 0:
		if err := os.Chmod(path, 0o700); err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
	}
	return nil
}

// lock takes the directory for as long as the returned file is open. The holder's
// process id is in the file for the message that the second process prints.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("flock: %w", err)
		}
		buf := make([]byte, 16)
		n, _ := f.ReadAt(buf, 0)
		if pid := strings.TrimSpace(string(buf[:n])); pid != "" {
			return nil, fmt.Errorf("%w (pid %s)", ErrLocked, pid)
		}
		return nil, ErrLocked
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	return f, nil
}

// Close gives the directory up.
func (d *Dir) Close() error { return d.lock.Close() }

// Path returns the directory's path.
func (d *Dir) Path() string { return d.path }

// Warnings lists what is odd but tolerable about the directory, one line each.
func (d *Dir) Warnings() []string { return d.warnings }

func (d *Dir) file(name string) string { return filepath.Join(d.path, name) }

// Quarantine makes every later Open of the directory at path fail with
// ErrQuarantined and the reason. The directory need not be held.
func Quarantine(path, reason string) error {
	return (&Dir{path: path}).write(quarantine, []byte(reason+"\n"))
}

// MarkRemoved makes every later Open fail with ErrRemoved and the reason.
func (d *Dir) MarkRemoved(reason string) error { return d.write(removed, []byte(reason+"\n")) }

// HasState reports whether a log or snapshots are there.
func (d *Dir) HasState() (bool, error) {
	if _, err := os.Stat(d.file(LogFile)); err == nil {
		return true, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	list, err := os.ReadDir(d.file(SnapshotsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return len(list) > 0, err
}

// SweepSnapshots removes what unfinished snapshots left behind, except those whose
// ID keep is true for, and returns how many there were.
func (d *Dir) SweepSnapshots(keep func(id string) bool) (int, error) {
	list, err := os.ReadDir(d.file(SnapshotsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n := 0
	for _, e := range list {
		id, unfinished := strings.CutSuffix(e.Name(), tmpSuffix)
		if !unfinished || keep != nil && keep(id) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(d.file(SnapshotsDir), e.Name())); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// Discard moves everything in the directory at path into a subdirectory, so that
// the next start finds it empty, and returns that subdirectory.
func Discard(path string, now time.Time) (string, error) {
	if err := checkOwner(path); err != nil {
		return "", err
	}
	held, err := lock(filepath.Join(path, lockFile))
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	defer held.Close()
	list, err := os.ReadDir(path)
	if err != nil {
		return "", err
	}
	target := filepath.Join(path, discardPrefix+now.UTC().Format("20060102T150405.000000000Z"))
	if err := os.Mkdir(target, 0o700); err != nil {
		return "", err
	}
	// The identity goes first: a crash half-way leaves a directory that is refused
	// for lack of one, never one that looks whole.
	names := []string{identityFile}
	for _, e := range list {
		if n := e.Name(); n != identityFile && n != lockFile && !strings.HasPrefix(n, discardPrefix) {
			names = append(names, n)
		}
	}
	for _, n := range names {
		err := os.Rename(filepath.Join(path, n), filepath.Join(target, n))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if err := syncDir(path); err != nil {
			return "", err
		}
	}
	return target, syncDir(target)
}

// write replaces a file whole and durably.
func (d *Dir) write(name string, data []byte) error {
	tmp := d.file(name + tmpSuffix)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, d.file(name))
	}
	if err != nil {
		return err
	}
	return syncDir(d.path)
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
