package fsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

const (
	// snapshotVersion is the only one that is written and read.
	snapshotVersion = 1
	// maxRecord bounds one record of a snapshot, in bytes.
	maxRecord = 64 << 20
)

// Why a snapshot is refused. None of them changes the state in use.
var (
	// ErrTorn: the file ends too early.
	ErrTorn = errors.New("snapshot is cut off")
	// ErrDamaged: the file is not what was written.
	ErrDamaged = errors.New("snapshot is damaged")
	// ErrVersion: written by a fettle that this one does not know.
	ErrVersion = errors.New("snapshot of an unknown version")
	// ErrCluster: the snapshot is of another cluster.
	ErrCluster = errors.New("snapshot of another cluster")
)

// Snapshot captures the state for raft in constant time.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	if f.dead {
		return nil, errors.New("this controller has stopped")
	}
	return &snapshot{s: f.store.Snapshot()}, nil
}

type snapshot struct{ s *state.Snapshot }

// Persist streams the captured state.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if err := WriteSnapshot(sink, s.s); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release is called when raft is done with the snapshot; there is nothing to release.
func (s *snapshot) Release() {}

// WriteSnapshot writes s as length-delimited records: a header, the state's records, and a trailer with their number, the
// state's hash and the SHA-256 of all bytes before the trailer.
func WriteSnapshot(w io.Writer, s *state.Snapshot) error {
	buf := bufio.NewWriterSize(w, 256<<10)
	rw := &recordWriter{w: buf, h: sha256.New()}
	rw.write(&raftlogv1.SnapshotRecord{Record: &raftlogv1.SnapshotRecord_Header{Header: &raftlogv1.SnapshotHeader{
		Version: snapshotVersion, Index: s.Index(), Term: s.Term(), ClusterId: s.ClusterID(),
	}}})
	records := uint64(0)
	s.Records(func(r *raftlogv1.SnapshotRecord) bool {
		records++
		rw.write(r)
		return rw.err == nil
	})
	stateHash := s.Hash()
	rw.write(&raftlogv1.SnapshotRecord{Record: &raftlogv1.SnapshotRecord_Trailer{Trailer: &raftlogv1.SnapshotTrailer{
		Records: records, StateHash: stateHash[:], FileHash: rw.h.Sum(nil),
	}}})
	if rw.err == nil {
		rw.err = buf.Flush()
	}
	if rw.err != nil {
		return fmt.Errorf("write snapshot: %w", rw.err)
	}
	return nil
}

type recordWriter struct {
	w   io.Writer
	h   hash.Hash
	buf []byte
	err error
}

func (w *recordWriter) write(r *raftlogv1.SnapshotRecord) {
	if w.err != nil {
		return
	}
	size := proto.Size(r)
	if size > maxRecord {
		w.err = fmt.Errorf("a record has %d bytes, the limit is %d", size, maxRecord)
		return
	}
	w.buf = binary.AppendUvarint(w.buf[:0], uint64(size))
	if w.buf, w.err = (proto.MarshalOptions{Deterministic: true, UseCachedSize: true}).MarshalAppend(w.buf, r); w.err != nil {
		return
	}
	w.h.Write(w.buf)
	_, w.err = w.w.Write(w.buf)
}

// Restore replaces the state with a snapshot's. The new state is built and checked beside the old one, which stays in use
// when anything is wrong.
func (f *FSM) Restore(rc io.ReadCloser) error {
	b, err := ReadSnapshot(rc, f.store.Snapshot().ClusterID())
	if cerr := rc.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close snapshot: %w", cerr)
	}
	if err != nil {
		return err
	}
	f.store.Replace(b)
	f.ring.reset()
	s := f.store.Snapshot()
	f.ring.add(s.Index(), s.Hash())
	return nil
}

// ReadSnapshot reads what WriteSnapshot wrote and checks all of it. clusterID names the cluster it must be of.
func ReadSnapshot(r io.Reader, clusterID string) (*state.Builder, error) {
	rr := &recordReader{r: bufio.NewReaderSize(r, 256<<10), h: sha256.New()}
	first, err := rr.next()
	if err != nil {
		return nil, err
	}
	head := first.GetHeader()
	switch {
	case head == nil:
		return nil, fmt.Errorf("%w: it does not begin with a header", ErrDamaged)
	case head.GetVersion() != snapshotVersion:
		return nil, fmt.Errorf("%w: %d, this one reads %d", ErrVersion, head.GetVersion(), snapshotVersion)
	case head.GetClusterId() != clusterID:
		return nil, fmt.Errorf("%w: %.64q, this one is %.64q", ErrCluster, head.GetClusterId(), clusterID)
	}
	b := state.NewBuilder(clusterID)
	for records := uint64(0); ; records++ {
		sum := rr.h.Sum(nil)
		rec, err := rr.next()
		if err != nil {
			return nil, err
		}
		if t := rec.GetTrailer(); t != nil {
			if err := rr.finish(b, head, t, records, sum); err != nil {
				return nil, err
			}
			return b, nil
		}
		if err := b.Add(rec); err != nil {
			return nil, fmt.Errorf("%w: record %d: %w", ErrDamaged, records+1, err)
		}
	}
}

// finish compares everything that the trailer promises.
func (r *recordReader) finish(b *state.Builder, head *raftlogv1.SnapshotHeader, t *raftlogv1.SnapshotTrailer, records uint64, sum []byte) error {
	if _, err := r.r.ReadByte(); err != io.EOF {
		return fmt.Errorf("%w: there is more after the trailer", ErrDamaged)
	}
	if !bytes.Equal(t.GetFileHash(), sum) {
		return fmt.Errorf("%w: its bytes do not have the hash in its trailer", ErrDamaged)
	}
	if t.GetRecords() != records {
		return fmt.Errorf("%w: %d records, the trailer says %d", ErrDamaged, records, t.GetRecords())
	}
	s, err := b.Finish()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if h := s.Hash(); !bytes.Equal(t.GetStateHash(), h[:]) {
		return fmt.Errorf("%w: the state in it has hash %x, the trailer says %x", ErrDamaged, h[:8], t.GetStateHash())
	}
	if s.Index() != head.GetIndex() || s.Term() != head.GetTerm() {
		return fmt.Errorf("%w: header and state differ in index or term", ErrDamaged)
	}
	return nil
}

type recordReader struct {
	r   *bufio.Reader
	h   hash.Hash
	buf bytes.Buffer
}

// next reads one record. Memory is taken as bytes arrive, not as the length claims.
func (r *recordReader) next() (*raftlogv1.SnapshotRecord, error) {
	size, err := binary.ReadUvarint(r.r)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("%w: a record is missing", ErrTorn)
	case err != nil:
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	case size > maxRecord:
		return nil, fmt.Errorf("%w: a record claims %d bytes", ErrDamaged, size)
	}
	r.buf.Reset()
	if n, err := io.CopyN(&r.buf, r.r, int64(size)); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: a record has %d of %d bytes", ErrTorn, n, size)
		}
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	var head [binary.MaxVarintLen64]byte
	r.h.Write(head[:binary.PutUvarint(head[:], size)])
	r.h.Write(r.buf.Bytes())
	rec := new(raftlogv1.SnapshotRecord)
	if err := proto.Unmarshal(r.buf.Bytes(), rec); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	return rec, nil
}
