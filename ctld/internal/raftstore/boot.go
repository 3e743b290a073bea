package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/fettle-hpc/fettle/ctld/internal/raftstore/datadir"
	"github.com/fettle-hpc/fettle/ctld/internal/raftstore/guard"
	"github.com/fettle-hpc/fettle/ctld/internal/raftstore/hclogslog"
	"github.com/fettle-hpc/fettle/ctld/internal/raftstore/peernet"
)

const (
	// boltTimeout bounds the wait for bolt's own lock, which the directory's makes
	// superfluous; without it the open would wait for ever.
	boltTimeout  = 5 * time.Second
	logCacheSize = 512
	// joinPause is the first pause between attempts to join; it doubles up to
	// joinPauseMax.
	joinPause    = 100 * time.Millisecond
	joinPauseMax = 2 * time.Second
)

// disk is what Open and Recover open of the data directory.
type disk struct {
	dir   *datadir.Dir
	bolt  *raftboltdb.BoltStore
	guard *guard.Store
	logs  *raft.LogCache
	snaps *snapshots
	high  *highwater
}

// openDir locks and checks the data directory.
func openDir(cfg *Config) (*datadir.Dir, error) {
	return datadir.Open(cfg.DataDir, datadir.Options{
		AnyFilesystem: cfg.AllowAnyFilesystem,
		MinFree:       cfg.MinFreeBytes,
		ProbeLimit:    cfg.WriteLimit,
	})
}

// openDisk opens the log and the snapshots.
func openDisk(dir *datadir.Dir, cfg *Config, onSlow func(string), onError func(string, error)) (*disk, error) {
	d := &disk{dir: dir, high: newHighwater(dir)}
	err := contain(func() (err error) {
		if err := walk(filepath.Join(dir.Path(), datadir.LogFile)); err != nil {
			return err
		}
		d.bolt, err = raftboltdb.New(raftboltdb.Options{
			Path: filepath.Join(dir.Path(), datadir.LogFile),
			BoltOptions: &bbolt.Options{
				Timeout:        boltTimeout,
				NoFreelistSync: true,
				FreelistType:   bbolt.FreelistMapType,
			},
			MsgpackUseNewTimeFormat: true,
		})
		return err
	})
	if err != nil {
		return nil, boltError(dir, err)
	}
	d.guard = guard.New(d.bolt, guard.Config{
		Limit:          cfg.WriteLimit,
		OnSlow:         onSlow,
		OnError:        onError,
		OnFirstEntries: d.high.start,
		Before:         cfg.Hooks.BeforeWrite,
		After:          cfg.Hooks.AfterWrite,
	})
	d.high.stable = d.guard
	if d.logs, err = raft.NewLogCache(logCacheSize, d.guard); err == nil {
		err = d.openSnapshots(cfg)
	}
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *disk) openSnapshots(cfg *Config) error {
	if n, err := d.dir.SweepSnapshots(nil); err != nil {
		return fmt.Errorf("sweep unfinished snapshots: %w", err)
	} else if n > 0 {
		cfg.Logger.Info("unfinished snapshots removed", "count", n)
	}
	files, err := raft.NewFileSnapshotStoreWithLogger(d.dir.Path(), cfg.SnapshotRetain, hclogslog.New(cfg.Logger, "raft-snapshot"))
	if err != nil {
		return err
	}
	d.snaps = newSnapshots(files, d.dir, cfg.Logger)
	d.snaps.onSnapshot = d.high.kick
	return nil
}

// close closes the files, but not the directory's lock.
func (d *disk) close() {
	d.guard.Close()
	_ = d.bolt.Close()
}

// walk reads a bolt file from end to end. Without a stored free list bolt does the
// same when it opens a file for writing, but on a goroutine whose panic nobody can
// recover from.
func walk(path string) error {
	if st, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) || err == nil && st.Size() == 0 {
		return nil
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: boltTimeout, ReadOnly: true})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.View(func(tx *bbolt.Tx) error {
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		if st.Size() < tx.Size() {
			return fmt.Errorf("file is %d bytes, was %d", st.Size(), tx.Size())
		}
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			return b.ForEach(func([]byte, []byte) error { return nil })
		})
	})
}

// boltError sorts the reasons why bolt does not open its file.
func boltError(dir *datadir.Dir, err error) error {
	var no syscall.Errno
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%s: %w", dir.Path(), ErrLocked)
	case errors.As(err, &no):
		return fmt.Errorf("%s cannot be opened: %w", datadir.LogFile, err)
	}
	return lost(dir, fmt.Sprintf("%s cannot be opened: %v", datadir.LogFile, err))
}

// lost is the error for a directory that must not vote any more.
func lost(dir *datadir.Dir, what string) error {
	return fmt.Errorf("%w: %s: %s: discard it and start with --join ADDR", ErrDataLost, dir.Path(), what)
}

// verify compares what is on disk with the high-water mark. A server that lost
// entries it once acknowledged must never vote again: with its help a candidate
// could win that lacks them too.
func (d *disk) verify(origin string) error {
	mark, err := d.high.read(d.guard)
	if err != nil {
		return err
	}
	last, err := d.logs.LastIndex()
	if err != nil {
		return lost(d.dir, "the log cannot be read: "+err.Error())
	}
	first, err := d.logs.FirstIndex()
	if err != nil {
		return lost(d.dir, "the log cannot be read: "+err.Error())
	}
	snap, bad, err := d.snaps.newest()
	if err != nil {
		return lost(d.dir, err.Error())
	}
	var snapIndex, snapTerm uint64
	if snap != nil {
		snapIndex, snapTerm = snap.Index, snap.Term
	}
	term, err := d.guard.GetUint64([]byte("CurrentTerm"))
	if err != nil && err.Error() != raftboltdb.ErrKeyNotFound.Error() {
		return lost(d.dir, "the term cannot be read: "+err.Error())
	}
	reach := max(last, snapIndex)
	switch {
	case reach == 0 && (mark.Started || origin == datadir.OriginBootstrap):
		return lost(d.dir, "the log is empty but once was not")
	case reach < mark.Index:
		return lost(d.dir, fmt.Sprintf("the log ends at entry %d but once reached %d", reach, mark.Index))
	case term < max(mark.Term, snapTerm):
		return lost(d.dir, fmt.Sprintf("the log is at term %d but once was at %d", term, max(mark.Term, snapTerm)))
	case last > snapIndex && first > snapIndex+1:
		return lost(d.dir, fmt.Sprintf("the log begins at entry %d but the newest readable snapshot ends at %d (%d unreadable)", first, snapIndex, bad))
	}
	return nil
}

// contain runs fn on a goroutine of its own and turns a panic into an error, also
// one for reading beyond the end of a mapped file. An end of the goroutine is the
// guard's after a failed write.
func contain(fn func() error) error {
	ch := make(chan error, 1)
	go func() {
		debug.SetPanicOnFault(true)
		err := fmt.Errorf("%w: see the message above", ErrWrite)
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v", p)
			}
			ch <- err
		}()
		err = fn()
	}()
	return <-ch
}

// identify finds out who this server is. It makes an identity only when it was
// told to bootstrap or join. pending means that the cluster must be bootstrapped
// with it before it counts.
func identify(ctx context.Context, cfg *Config, dir *datadir.Dir) (id datadir.Identity, pending bool, err error) {
	id, ok, err := dir.Identity()
	if err != nil {
		return id, false, err
	}
	if ok {
		if id.Name != cfg.NodeName {
			return id, false, fmt.Errorf("%w: %s is %s's, this is %s: use its own directory, or the old name",
				ErrOtherName, dir.Path(), id.Name, cfg.NodeName)
		}
		return id, false, nil
	}
	has, err := dir.HasState()
	if err != nil {
		return id, false, err
	}
	id, pending, err = dir.PendingIdentity()
	switch {
	case err != nil:
		return id, false, err
	case pending && cfg.Bootstrap:
		return id, true, nil // go on where a crash interrupted the bootstrap
	case has:
		return id, false, lost(dir, "there is a log but no identity")
	case cfg.Bootstrap:
		id, err = bootstrapIdentity(ctx, cfg)
		if err != nil {
			return id, false, err
		}
		if err := dir.SetPendingIdentity(id); err != nil {
			return id, false, fmt.Errorf("%w: %w", ErrWrite, err)
		}
		return id, true, nil
	case len(cfg.Join) > 0:
		info, err := findCluster(ctx, cfg)
		if err != nil {
			return id, false, err
		}
		id = newIdentity(cfg.NodeName, datadir.OriginJoin, info)
		if err := dir.SetIdentity(id); err != nil {
			return id, false, fmt.Errorf("%w: %w", ErrWrite, err)
		}
		return id, false, nil
	}
	return id, false, fmt.Errorf("%w: %s is empty: use --bootstrap once per cluster or --join ADDR", ErrNoIdentity, dir.Path())
}

func newIdentity(name, origin string, info ClusterInfo) datadir.Identity {
	return datadir.Identity{
		ClusterID: info.ClusterID, Incarnation: info.Incarnation,
		ServerID: newServerID(name), Name: name, Origin: origin,
		Created: time.Now().UTC().Truncate(time.Second),
	}
}

// bootstrapIdentity makes the identity of a new cluster, unless another controller
// serves one: then this one was wiped and bootstrapping would split it off.
func bootstrapIdentity(ctx context.Context, cfg *Config) (datadir.Identity, error) {
	for _, address := range cfg.Join {
		probe, cancel := context.WithTimeout(ctx, 2*time.Second)
		info, err := cfg.Joiner.Cluster(probe, address)
		cancel()
		if err == nil && info.ClusterID != "" {
			return datadir.Identity{}, fmt.Errorf("%w: %s serves cluster %s: use --join %s instead of --bootstrap",
				ErrClusterExists, address, info.ClusterID, address)
		}
	}
	return newIdentity(cfg.NodeName, datadir.OriginBootstrap,
		ClusterInfo{ClusterID: uuid.NewString(), Incarnation: uuid.NewString()}), nil
}

// findCluster asks the join addresses in turn, until one knows its cluster or ctx
// ends.
func findCluster(ctx context.Context, cfg *Config) (info ClusterInfo, err error) {
	err = eachJoin(ctx, cfg, func(address string) error {
		info, err = cfg.Joiner.Cluster(ctx, address)
		if err == nil && (info.ClusterID == "" || info.Incarnation == "") {
			err = fmt.Errorf("%s is not a member of a cluster yet", address)
		}
		return err
	})
	return info, err
}

// eachJoin calls try with the join addresses in turn until one succeeds, refuses
// for good, or ctx ends.
func eachJoin(ctx context.Context, cfg *Config, try func(address string) error) error {
	pause := joinPause
	for {
		var last error
		for _, address := range cfg.Join {
			err := try(address)
			if err == nil || permanent(err) {
				return err
			}
			last = err
			if ctx.Err() != nil {
				break
			}
		}
		cfg.Logger.Info("cluster does not take this controller yet", "err", last)
		select {
		case <-time.After(pause):
			pause = min(2*pause, joinPauseMax)
		case <-ctx.Done():
			return fmt.Errorf("join: %w: last answer: %w", context.Cause(ctx), last)
		}
	}
}

func permanent(err error) bool {
	return errors.Is(err, ErrJoinRefused) || errors.Is(err, ErrRetired) || errors.Is(err, ErrNameInUse)
}

// listen opens the Raft port and checks that it may be used as configured.
func listen(cfg *Config) (net.Listener, string, error) {
	l := cfg.Listener
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", cfg.RaftAddr); err != nil {
			return nil, "", fmt.Errorf("RaftAddr: %w", err)
		}
	}
	advertise, err := peernet.CheckAddress(l, cfg.AdvertiseAddr, cfg.TLS != nil)
	if err != nil {
		_ = l.Close()
		return nil, "", fmt.Errorf("RaftAddr: %w", err)
	}
	return l, advertise, nil
}

// raftConfig holds the settings that were measured to survive sick disks and busy
// machines; see DESIGN.md.
func (c *Config) raftConfig(id string, notify chan<- bool) *raft.Config {
	rc := raft.DefaultConfig()
	rc.ProtocolVersion = 3
	rc.LocalID = raft.ServerID(id)
	rc.HeartbeatTimeout = c.scale(heartbeatTimeout)
	rc.ElectionTimeout = c.scale(heartbeatTimeout)
	rc.LeaderLeaseTimeout = c.scale(heartbeatTimeout / 2)
	rc.CommitTimeout = 50 * time.Millisecond
	rc.MaxAppendEntries = 64
	rc.BatchApplyCh = false
	rc.ShutdownOnRemove = true
	rc.SnapshotThreshold = c.SnapshotThreshold
	rc.SnapshotInterval = c.SnapshotInterval
	rc.TrailingLogs = c.TrailingLogs
	rc.NotifyCh = notify
	rc.Logger = hclogslog.New(c.Logger, "raft")
	rc.NoLegacyTelemetry = true
	return rc
}

// quarantines reports whether a write error means that the disk cannot be trusted
// any more. Lack of space is not such an error.
func quarantines(err error) bool {
	var no syscall.Errno
	return errors.As(err, &no) && no != syscall.ENOSPC && no != syscall.EDQUOT
}
