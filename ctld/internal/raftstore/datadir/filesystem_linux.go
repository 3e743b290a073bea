package datadir

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Magic numbers that x/sys does not name.
const (
	lustreMagic = 0x0bd00bd0
	gpfsMagic   = 0x47504653
	beegfsMagic = 0x19830326
)

// network file systems: a lock, a sync or an mmap means something else there, and
// a hang of the server is a hang of the controller.
var network = map[int64]string{
	unix.NFS_SUPER_MAGIC:  "NFS",
	unix.SMB_SUPER_MAGIC:  "SMB",
	unix.SMB2_SUPER_MAGIC: "SMB",
	unix.CIFS_SUPER_MAGIC: "CIFS",
	unix.CEPH_SUPER_MAGIC: "CephFS",
	unix.AFS_SUPER_MAGIC:  "AFS",
	unix.CODA_SUPER_MAGIC: "Coda",
	lustreMagic:           "Lustre",
	gpfsMagic:             "GPFS",
	beegfsMagic:           "BeeGFS",
}

// doubtful file systems work, but a container's layer, a virtual machine's shared
// folder or memory is not where a production log belongs.
var doubtful = map[int64]string{
	unix.FUSE_SUPER_MAGIC:      "FUSE",
	unix.V9FS_MAGIC:            "9p",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay",
	unix.TMPFS_MAGIC:           "tmpfs",
	unix.RAMFS_MAGIC:           "ramfs",
}

func checkFilesystem(path string, force bool) (warning string, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return "", fmt.Errorf("statfs %s: %w", path, err)
	}
	magic := int64(uint32(st.Type))
	if name, ok := network[magic]; ok {
		if !force {
			return "", fmt.Errorf("data directory %s is on %s: put it on a local disk, or force it", path, name)
		}
		return fmt.Sprintf("data directory %s is on %s, which was forced: a sync there may not be durable", path, name), nil
	}
	if name, ok := doubtful[magic]; ok {
		return fmt.Sprintf("data directory %s is on %s: fine for a trial, use a local disk in production", path, name), nil
	}
	return "", nil
}
