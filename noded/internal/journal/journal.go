package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Config of a Journal. Path, Synced and Failed are needed.
type Config struct {
	Path string
	// Synced is called from the journal's goroutine when every record up to a sequence number is on disk.
	Synced func(upto uint64)
	// Failed is called once, from the journal's goroutine, when a write or sync failed. Nothing is synced after it.
	Failed func(error)
	// LazyDelay is how long lazy records wait for company; 0 means a second.
	LazyDelay time.Duration
	// Reserve is how much space is reserved ahead; 0 means 4 MiB.
	Reserve int64
}

const (
	defaultLazyDelay = time.Second
	defaultReserve   = 4 << 20
	// groupBytes splits what would be one frame.
	groupBytes = 8 << 20
)

type item struct {
	seq     uint64
	payload []byte
}

type rewrite struct {
	upto uint64
	live [][]byte
}

// Journal appends records. Append and Rewrite may be called from one goroutine at a time.
type Journal struct {
	cfg Config

	mu      sync.Mutex
	pending []item
	urgent  bool
	again   *rewrite
	size    int64
	closing bool
	kick    chan struct{}
	done    chan struct{}

	// Of the writing goroutine.
	f        *os.File
	salt     uint64
	off      int64
	reserved int64
	err      error
}

// Open recovers the journal at cfg.Path, making a new one when there is none, and starts its goroutine. torn is how many
// bytes of an unfinished last write were dropped.
func Open(cfg Config) (j *Journal, records [][]byte, torn int, err error) {
	if cfg.LazyDelay == 0 {
		cfg.LazyDelay = defaultLazyDelay
	}
	if cfg.Reserve == 0 {
		cfg.Reserve = defaultReserve
	}
	b, err := os.ReadFile(cfg.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, nil, 0, fmt.Errorf("read journal: %w", err)
	default:
		if records, torn, err = parse(b); err != nil {
			return nil, nil, 0, fmt.Errorf("%s: %w", cfg.Path, err)
		}
	}
	j = &Journal{cfg: cfg, kick: make(chan struct{}, 1), done: make(chan struct{})}
	// Starting on a fresh file leaves nothing of a torn tail behind.
	if err := j.replace(records); err != nil {
		return nil, nil, 0, fmt.Errorf("write journal %s: %w", cfg.Path, err)
	}
	j.size = j.off
	go j.run()
	return j, records, torn, nil
}

// Append queues a record. Sequence numbers must rise. A lazy record waits for the next one that is not, or LazyDelay.
func (j *Journal) Append(seq uint64, payload []byte, lazy bool) {
	j.mu.Lock()
	j.pending = append(j.pending, item{seq, payload})
	first := len(j.pending) == 1
	wake := !lazy && !j.urgent
	j.urgent = j.urgent || !lazy
	j.mu.Unlock()
	if wake || first {
		j.wake()
	}
}

// Rewrite replaces the file by live records, which stand for everything up to a sequence number.
func (j *Journal) Rewrite(upto uint64, live [][]byte) {
	j.mu.Lock()
	j.again = &rewrite{upto, live}
	j.urgent = true
	j.mu.Unlock()
	j.wake()
}

// Size is the file's used length as of the last sync, in bytes.
func (j *Journal) Size() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.size
}

// Close syncs what is queued and ends the goroutine.
func (j *Journal) Close() error {
	j.mu.Lock()
	j.closing = true
	j.mu.Unlock()
	j.wake()
	<-j.done
	return errors.Join(j.err, j.f.Close())
}

func (j *Journal) wake() {
	select {
	case j.kick <- struct{}{}:
	default:
	}
}

// run writes groups until Close.
func (j *Journal) run() {
	defer close(j.done)
	timer := time.NewTimer(j.cfg.LazyDelay)
	timer.Stop()
	defer timer.Stop()
	lapsed := false
	for {
		j.mu.Lock()
		ready := j.urgent || j.closing || (lapsed && len(j.pending) > 0)
		var batch []item
		var again *rewrite
		if ready {
			batch, j.pending, j.urgent = j.pending, nil, false
			again, j.again = j.again, nil
		}
		waiting, closing := len(j.pending) > 0, j.closing
		j.mu.Unlock()
		if ready {
			lapsed = false
			timer.Stop()
			if !j.commit(batch, again) || closing {
				return
			}
			continue
		}
		if waiting {
			timer.Reset(j.cfg.LazyDelay)
		}
		select {
		case <-j.kick:
		case <-timer.C:
			lapsed = true
		}
	}
}

func (j *Journal) commit(batch []item, again *rewrite) bool {
	upto := uint64(0)
	var records [][]byte
	if again != nil {
		upto, records = again.upto, again.live
	}
	for _, it := range batch {
		if again == nil || it.seq > again.upto {
			records = append(records, it.payload)
		}
		upto = max(upto, it.seq)
	}
	var err error
	switch {
	case again != nil:
		err = j.replace(records)
	case len(records) > 0:
		err = j.write(records)
	default:
		return true
	}
	if err != nil {
		j.err = fmt.Errorf("write journal %s: %w", j.cfg.Path, err)
		j.cfg.Failed(j.err)
		return false
	}
	j.mu.Lock()
	j.size = j.off
	j.mu.Unlock()
	j.cfg.Synced(upto)
	return true
}

// write appends frames and syncs each before the next.
func (j *Journal) write(records [][]byte) error {
	for len(records) > 0 {
		n := groupOf(records)
		frame := appendFrame(nil, j.salt, records[:n])
		var err error
		if j.reserved, err = j.reserve(j.f, j.reserved, j.off+int64(len(frame))); err != nil {
			return err
		}
		if _, err := j.f.WriteAt(frame, j.off); err != nil {
			return err
		}
		if err := unix.Fdatasync(int(j.f.Fd())); err != nil {
			return os.NewSyscallError("fdatasync", err)
		}
		j.off += int64(len(frame))
		records = records[n:]
	}
	return nil
}

// groupOf says how many of the records go into one frame.
func groupOf(records [][]byte) int {
	size := 0
	for i, r := range records {
		size += len(r)
		if size > groupBytes && i > 0 {
			return i
		}
	}
	return len(records)
}

// reserve makes sure that need bytes of f have their place on the disk and says how many have now. Zeros are written, not
// only allocated: a sync into written blocks has no metadata to bring along, and takes a fifth of the time.
func (j *Journal) reserve(f *os.File, reserved, need int64) (int64, error) {
	if need <= reserved {
		return reserved, nil
	}
	to := need + j.cfg.Reserve
	if _, err := f.WriteAt(make([]byte, to-reserved), reserved); err != nil {
		return reserved, err
	}
	return to, nil
}

// replace writes a new file with the records and puts it in the old one's place.
func (j *Journal) replace(records [][]byte) (err error) {
	tmp := j.cfg.Path + ".new"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	var salt [8]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return err
	}
	newSalt := binary.LittleEndian.Uint64(salt[:])
	b := appendHeader(nil, newSalt)
	for len(records) > 0 {
		n := groupOf(records)
		b = appendFrame(b, newSalt, records[:n])
		records = records[n:]
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	reserved, err := j.reserve(f, int64(len(b)), int64(len(b))+1)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(tmp, j.cfg.Path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(j.cfg.Path)); err != nil {
		return err
	}
	if j.f != nil {
		_ = j.f.Close() // replaced; what it held is in the new file
	}
	j.f, j.salt, j.off, j.reserved = f, newSalt, int64(len(b)), reserved
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
