package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// logReads are the reads of job output that were asked of nodes: the node opens a stream of its own for each, so that
// output never delays orders, and a slow reader slows only its own stream.
type logReads struct {
	mu   sync.Mutex
	next uint64
	open map[uint64]*logRead
}

type logRead struct {
	chunks chan *fettlev1.PushLogRequest
	done   chan struct{}
}

// ErrLogRead is a read that the node could not do.
var ErrLogRead = errors.New("read log")

// ReadLog asks a node for output and hands each chunk to yield until the node says it is at the end, yield returns an
// error or ctx ends.
func (s *Server) ReadLog(ctx context.Context, node string, req *fettlev1.ReadNodeLog, yield func(*fettlev1.PushLogRequest) error) error {
	l := s.cur.Load()
	if l == nil {
		return s.cfg.LeaderHint()
	}
	r := &logRead{chunks: make(chan *fettlev1.PushLogRequest, 4), done: make(chan struct{})}
	s.reads.mu.Lock()
	s.reads.next++
	req.ReadId = s.reads.next
	s.reads.open[req.ReadId] = r
	s.reads.mu.Unlock()
	defer func() {
		s.reads.mu.Lock()
		delete(s.reads.open, req.GetReadId())
		s.reads.mu.Unlock()
		close(r.done)
	}()

	var sent bool
	if !l.do(func() {
		sent = l.sendTo(node, &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_ReadLog{ReadLog: req}})
	}) {
		return s.cfg.LeaderHint()
	}
	if !sent {
		return fmt.Errorf("%w: %s", ErrNotConnected, node)
	}
	for {
		select {
		case <-ctx.Done():
			l.post(func() {
				l.sendTo(node, &fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_ReadLog{ReadLog: &fettlev1.ReadNodeLog{ReadId: req.GetReadId(), Stop: true}}})
			})
			return ctx.Err()
		case <-l.ctx.Done():
			return s.cfg.LeaderHint()
		case c := <-r.chunks:
			if c.GetError() != "" {
				return fmt.Errorf("%w: %s", ErrLogRead, c.GetError())
			}
			if err := yield(c); err != nil {
				return err
			}
			if c.GetEof() {
				return nil
			}
		}
	}
}

// sendTo sends on a node's open session; false when it has none.
func (l *loop) sendTo(node string, msg *fettlev1.ControllerMessage) bool {
	contact := l.machine.nodes[node]
	if contact == nil {
		return false
	}
	c := l.machine.conns[contact.conn]
	if c == nil || c.session == 0 {
		return false
	}
	l.apply([]Output{l.machine.send(c, msg)})
	return true
}

// PushLog takes the chunks of one read.
func (s *Server) PushLog(stream fettlev1.NodeService_PushLogServer) error {
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&fettlev1.PushLogResponse{})
		}
		if err != nil {
			return err
		}
		s.reads.mu.Lock()
		r := s.reads.open[chunk.GetReadId()]
		s.reads.mu.Unlock()
		if r == nil {
			return status.Error(codes.Canceled, "nobody reads this any more")
		}
		select {
		case r.chunks <- chunk:
		case <-r.done:
			return status.Error(codes.Canceled, "nobody reads this any more")
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
