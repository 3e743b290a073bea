package session

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// ErrLogRead is a read that the node could not do.
var ErrLogRead = errors.New("read log")

const (
	// readWait bounds the wait for a node's first answer to a read that does not follow.
	readWait = 10 * time.Second
	// maxChunk bounds one piece of output.
	maxChunk = 1 << 20
)

var errNobodyReads = status.Error(codes.Canceled, "nobody reads this any more")

// logReads are the reads of job output that were asked of nodes: the node opens a stream of its own for each, so that
// output never delays orders, and a slow reader slows only its own stream. Their numbers are not to be guessed.
type logReads struct {
	mu   sync.Mutex
	open map[uint64]*logRead
}

func newLogReads() logReads { return logReads{open: map[uint64]*logRead{}} }

type logRead struct {
	chunks chan *fettlev1.PushLogRequest
	// done is closed when the reader has left, broken when the node's stream has ended.
	done, broken chan struct{}
	claimed      bool
	// complete is set before the last chunk is handed over.
	complete atomic.Bool
}

// begin registers a read under a new number.
func (r *logReads) begin() (uint64, *logRead) {
	read := &logRead{chunks: make(chan *fettlev1.PushLogRequest, 4), done: make(chan struct{}), broken: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails: it ends the process instead
		if id := binary.NativeEndian.Uint64(b[:]); id != 0 && r.open[id] == nil {
			r.open[id] = read
			return id, read
		}
	}
}

func (r *logReads) end(id uint64, read *logRead) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, id)
	close(read.done)
}

// claim gives a read to the one stream that may answer it, nil when there is no such read, or it has one.
func (r *logReads) claim(id uint64) *logRead {
	r.mu.Lock()
	defer r.mu.Unlock()
	read := r.open[id]
	if read == nil || read.claimed {
		return nil
	}
	read.claimed = true
	return read
}

// ReadLog asks a node for output and hands each chunk to yield until the node says it is at the end, yield returns an
// error or ctx ends. It sets the request's read id. The error Is ErrNotConnected when contact with the node was lost, and
// ErrLogRead when the node cannot read what is asked.
func (s *Server) ReadLog(ctx context.Context, node string, req *fettlev1.ReadNodeLog, yield func(*fettlev1.PushLogRequest) error) error {
	l := s.cur.Load()
	if l == nil {
		return s.cfg.LeaderHint()
	}
	id, read := s.reads.begin()
	defer s.reads.end(id, read)
	req.ReadId = id
	var to *sender
	if !l.do(func() {
		to = l.sendTo(node, &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_ReadLog{ReadLog: req}})
	}) {
		return s.cfg.LeaderHint()
	}
	if to == nil {
		return fmt.Errorf("%w: %s", ErrNotConnected, node)
	}
	err, over := s.follow(ctx, l, node, req.GetFollow(), read, to, yield)
	if !over {
		l.post(func() {
			l.sendTo(node, &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_ReadLog{ReadLog: &fettlev1.ReadNodeLog{ReadId: id, Stop: true}}})
		})
	}
	return err
}

// follow hands on chunks; over says that the node knows that the read has ended.
func (s *Server) follow(ctx context.Context, l *loop, node string, patient bool, read *logRead, to *sender, yield func(*fettlev1.PushLogRequest) error) (err error, over bool) {
	late := time.NewTimer(readWait)
	defer late.Stop()
	if patient {
		late.Stop()
	}
	for {
		var c *fettlev1.PushLogRequest
		select {
		case c = <-read.chunks:
			late.Stop()
		case <-ctx.Done():
			return ctx.Err(), false
		case <-l.ctx.Done():
			return s.cfg.LeaderHint(), false
		case <-to.gone:
			return fmt.Errorf("%w: %s", ErrNotConnected, node), true
		case <-late.C:
			return fmt.Errorf("%w: %s did not answer in time", ErrNotConnected, node), false
		case <-read.broken:
			// Everything that the node sent is in the queue by now.
			select {
			case c = <-read.chunks:
			default:
				return fmt.Errorf("%w: %s broke off", ErrNotConnected, node), true
			}
		}
		if c.GetError() != "" {
			return fmt.Errorf("%w: %s", ErrLogRead, c.GetError()), true
		}
		if err := yield(c); err != nil {
			return err, c.GetEof()
		}
		if c.GetEof() {
			return nil, true
		}
	}
}

// PushLog takes the chunks of one read.
func (s *Server) PushLog(stream fettlev1.NodeService_PushLogServer) error {
	if err := s.authorize(stream.Context(), ""); err != nil {
		return err
	}
	first, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return stream.SendAndClose(&fettlev1.PushLogResponse{})
	}
	if err != nil {
		return err
	}
	read := s.reads.claim(first.GetReadId())
	if read == nil {
		return errNobodyReads
	}
	defer close(read.broken)
	ended := make(chan error, 1)
	s.streams.Go(func() { ended <- push(stream, first, read) })
	select {
	case err = <-ended:
	case <-read.done:
		if !read.complete.Load() {
			return errNobodyReads
		}
		err = <-ended
	}
	if err != nil {
		return err
	}
	return stream.SendAndClose(&fettlev1.PushLogResponse{})
}

// push hands chunks to the reader, up to the last one.
func push(stream fettlev1.NodeService_PushLogServer, c *fettlev1.PushLogRequest, read *logRead) error {
	id := c.GetReadId()
	for {
		switch {
		case c.GetReadId() != id:
			return status.Error(codes.InvalidArgument, "a stream carries one read")
		case len(c.GetData()) > maxChunk:
			return status.Errorf(codes.InvalidArgument, "a chunk of %d bytes, the limit is %d", len(c.GetData()), maxChunk)
		}
		last := c.GetEof() || c.GetError() != ""
		if last {
			read.complete.Store(true)
		}
		select {
		case read.chunks <- c:
		case <-read.done:
			return errNobodyReads
		}
		if last {
			return nil
		}
		next, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		c = next
	}
}
