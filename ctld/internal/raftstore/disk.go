package raftstore

import (
	"context"
	"time"

	"github.com/fettle-hpc/fettle/ctld/internal/raftstore/datadir"
)

// Levels of free space: low below a tenth of the file system but never above
// 1 GiB, critical at half of that. On a large disk the absolute part decides, so
// that a laptop which is 95 % full works.
const (
	diskInterval = 10 * time.Second
	lowShare     = 10
	lowBytes     = 1 << 30
)

func gradeDisk(sp datadir.Space) Disk {
	low := min(sp.Total/lowShare, lowBytes)
	d := Disk{FreeBytes: sp.Free, TotalBytes: sp.Total}
	switch {
	case sp.Free < low/2:
		d.Level = DiskCritical
	case sp.Free < low:
		d.Level = DiskLow
	}
	return d
}

// Disk returns the state of the data directory's file system, at most 10 s old.
func (s *Store) Disk() Disk { return *s.space.Load() }

func (s *Store) readDisk() error {
	sp, err := s.dir.Space()
	if err != nil {
		return err
	}
	d := gradeDisk(sp)
	s.space.Store(&d)
	return nil
}

// watchDisk looks at the free space until ctx ends. A leader that runs low hands
// over, once each time the level is reached: where all controllers share one disk
// nothing is gained by passing leadership around.
func (s *Store) watchDisk(ctx context.Context) {
	tick := time.NewTicker(diskInterval)
	defer tick.Stop()
	handed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.readDisk(); err != nil {
			s.log.Warn("free space of the data directory is unknown", "err", err)
			continue
		}
		d := s.Disk()
		if d.Level == DiskOK {
			handed = false
			continue
		}
		s.log.Warn("data directory runs out of space", "free_bytes", d.FreeBytes, "total_bytes", d.TotalBytes)
		if !handed && s.LeaderInfo().Ready {
			handed = true
			if err := s.Transfer(ctx); err != nil {
				s.log.Warn("leadership stays on a full disk", "err", err)
			}
		}
	}
}
