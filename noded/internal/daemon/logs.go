package daemon

import (
	"context"
	"log/slog"
	"sync"

	"google.golang.org/grpc"

	"github.com/fettle-hpc/fettle/noded/internal/attempt"
	"github.com/fettle-hpc/fettle/noded/internal/logread"
	"github.com/fettle-hpc/fettle/noded/internal/userread"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
)

// maxReads bounds the reads of job output that go on at once.
const maxReads = 256

// logReads answers the leader's orders to read output, each on a stream of its own.
type logReads struct {
	attempts *attempt.Manager
	reader   userread.Reader
	log      *slog.Logger
	ctx      context.Context
	cancel   context.CancelFunc
	group    sync.WaitGroup

	mu   sync.Mutex
	open map[uint64]context.CancelFunc
}

func newLogReads(m *attempt.Manager, r userread.Reader, log *slog.Logger) *logReads {
	ctx, cancel := context.WithCancel(context.Background())
	return &logReads{attempts: m, reader: r, log: log, ctx: ctx, cancel: cancel, open: map[uint64]context.CancelFunc{}}
}

// close ends all reads and waits for them.
func (l *logReads) close() {
	l.cancel()
	l.group.Wait()
}

// start begins a read, or stops one.
func (l *logReads) start(o *fettlev1.ReadNodeLog, to fettlev1.NodeServiceClient) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o.GetStop() {
		if cancel := l.open[o.GetReadId()]; cancel != nil {
			cancel()
		}
		return
	}
	if to == nil || l.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(l.ctx)
	full := len(l.open) >= maxReads
	l.open[o.GetReadId()] = cancel
	l.group.Go(func() {
		defer func() {
			l.mu.Lock()
			delete(l.open, o.GetReadId())
			l.mu.Unlock()
			cancel()
		}()
		l.serve(ctx, o, to, full)
	})
}

func (l *logReads) serve(ctx context.Context, o *fettlev1.ReadNodeLog, to fettlev1.NodeServiceClient, full bool) {
	stream, err := to.PushLog(ctx)
	if err != nil {
		l.log.Debug("log not sent", "err", err)
		return
	}
	last := &fettlev1.PushLogRequest{ReadId: o.GetReadId(), Eof: true}
	if full {
		last.Error = "too many logs are being read from this node; try again in a moment"
	} else if err := l.read(ctx, o, stream); err != nil {
		if ctx.Err() != nil || stream.Context().Err() != nil {
			return
		}
		last.Error = err.Error()
	}
	if err := stream.Send(last); err != nil {
		return
	}
	_, _ = stream.CloseAndRecv()
}

// read sends the file in pieces. gRPC's flow control slows it to the reader's pace.
func (l *logReads) read(ctx context.Context, o *fettlev1.ReadNodeLog, stream grpc.ClientStreamingClient[fettlev1.PushLogRequest, fettlev1.PushLogResponse]) error {
	path, who, ended, ok := l.attempts.Output(nodemachine.KeyOf(o.GetKey()), o.GetStderr())
	if !ok {
		// The node has forgotten the attempt: it is over, and the leader says where its output is.
		gone := make(chan struct{})
		close(gone)
		path, who, ended = o.GetPath(), userread.Identity{UID: o.GetUid(), GID: o.GetGid()}, gone
	}
	req := logread.Request{Path: path, Offset: o.GetOffset(), Tail: o.GetTailBytes(), Follow: o.GetFollow()}
	return l.reader.Read(ctx, who, req, ended, func(offset int64, b []byte) error {
		return stream.Send(&fettlev1.PushLogRequest{ReadId: o.GetReadId(), Data: append([]byte(nil), b...), Offset: offset})
	})
}
