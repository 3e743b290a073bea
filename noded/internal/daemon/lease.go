package daemon

import (
	"errors"
	"io"
	"os"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// leaseFile is the node's lease where all its shims read it. It is replaced in place and not synced: a machine that loses
// it has lost its shims as well.
type leaseFile struct {
	path   string
	bootID string
	f      *os.File
	// found is the lease of the daemon before this one, in this boot.
	found nodemachine.Lease
}

func openLease(path, bootID string) (*leaseFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	l := &leaseFile{path: path, bootID: bootID, f: f}
	b := make([]byte, handoff.LeaseSize)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		_ = f.Close()
		return nil, err
	}
	// A lease that cannot be read, or of another boot, is none.
	if old, err := handoff.ParseLease(b); err == nil && old.BootID == bootID {
		l.found = nodemachine.Lease{EpochMS: old.EpochMS, DeadlineMS: old.DeadlineMS}
	}
	return l, nil
}

func (l *leaseFile) set(lease nodemachine.Lease) error {
	rec := handoff.Lease{BootID: l.bootID, EpochMS: lease.EpochMS, DeadlineMS: lease.DeadlineMS}
	_, err := l.f.WriteAt(rec.Marshal(), 0)
	return err
}
