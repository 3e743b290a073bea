package datadir

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Space is the room on a file system, in bytes, as an unprivileged user sees it.
type Space struct{ Free, Total uint64 }

// Space returns the room where the directory is.
func (d *Dir) Space() (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.path, &st); err != nil {
		return Space{}, fmt.Errorf("statfs %s: %w", d.path, err)
	}
	bs := uint64(st.Bsize)
	return Space{Free: uint64(st.Bavail) * bs, Total: uint64(st.Blocks) * bs}, nil
}

// lastSnapshotSize is the size of the largest snapshot on disk.
func (d *Dir) lastSnapshotSize() int64 {
	var size int64
	list, _ := os.ReadDir(d.file(SnapshotsDir))
	for _, e := range list {
		if strings.HasSuffix(e.Name(), tmpSuffix) {
			continue
		}
		if st, err := os.Stat(filepath.Join(d.file(SnapshotsDir), e.Name(), "state.bin")); err == nil {
			size = max(size, st.Size())
		}
	}
	return size
}

// RoomForSnapshot reports an error when the free space is less than twice the
// last snapshot.
func (d *Dir) RoomForSnapshot() error {
	space, err := d.Space()
	if err != nil {
		return err
	}
	if need := uint64(2 * d.lastSnapshotSize()); space.Free < need {
		return fmt.Errorf("%d MiB free, but a snapshot may need %d MiB", space.Free>>20, need>>20)
	}
	return nil
}
