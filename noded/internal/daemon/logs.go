package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"google.golang.org/grpc"

	"github.com/fettle-hpc/fettle/noded/internal/account"
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
	users    *account.Users
	reader   userread.Reader
	log      *slog.Logger
	ctx      context.Context
	cancel   context.CancelFunc
	group    sync.WaitGroup

	mu   sync.Mutex
	open map[uint64]context.CancelFunc
}

func newLogReads(m *attempt.Manager, users *account.Users, r userread.Reader, log *slog.Logger) *logReads {
	ctx, cancel := context.WithCancel(context.Background())
	return &logReads{attempts: m, users: users, reader: r, log: log, ctx: ctx, cancel: cancel, open: map[uint64]context.CancelFunc{}}
}

// close ends all reads and waits for them.
func (l *logReads) close() {
	l.cancel()
	l.group.Wait()
}

// start begins a read, or stops one. A read that is asked for twice goes on once.
func (l *logReads) start(o *fettlev1.ReadNodeLog, to fettlev1.NodeServiceClient) {
	l.mu.Lock()
	defer l.mu.Unlock()
	running := l.open[o.GetReadId()]
	if o.GetStop() {
		if running != nil {
			running()
		}
		return
	}
	if to == nil || running != nil || l.ctx.Err() != nil {
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
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := to.PushLog(ctx)
	if err != nil {
		l.log.Debug("log not sent", "err", err)
		return
	}
	// The controller's only answer comes at the end, its own or the read's: a reader that has gone away is noticed also
	// while there is nothing to send.
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_ = stream.RecvMsg(&fettlev1.PushLogResponse{})
		cancel()
	}()
	defer func() { <-answered }()
	last := &fettlev1.PushLogRequest{ReadId: o.GetReadId(), Eof: true}
	if full {
		last.Error = "too many logs are being read from this node; try again in a moment"
	} else if err := l.read(ctx, o, stream); err != nil {
		if ctx.Err() != nil {
			return
		}
		last.Error = err.Error()
	}
	if err := stream.Send(last); err != nil {
		cancel()
		return
	}
	if err := stream.CloseSend(); err != nil {
		cancel()
	}
}

// read sends the file in pieces. gRPC's flow control slows it to the reader's pace.
func (l *logReads) read(ctx context.Context, o *fettlev1.ReadNodeLog, stream grpc.ClientStreamingClient[fettlev1.PushLogRequest, fettlev1.PushLogResponse]) error {
	// The leader knows it of attempts that have ended, and of no others.
	start := max(o.GetStart(), l.attempts.OutputStart(nodemachine.KeyOf(o.GetKey()), o.GetStderr()))
	path, who, ended, ok := l.attempts.Output(nodemachine.KeyOf(o.GetKey()), o.GetStderr())
	if !ok {
		var err error
		if path, who, err = l.forgotten(ctx, o); err != nil {
			return err
		}
		ended = closedChan
	}
	req := logread.Request{Path: path, Offset: o.GetOffset(), Tail: o.GetTailBytes(), Follow: o.GetFollow(), Start: start}
	return l.reader.Read(ctx, who, req, ended, func(offset int64, b []byte) error {
		return stream.Send(&fettlev1.PushLogRequest{ReadId: o.GetReadId(), Data: append([]byte(nil), b...), Offset: offset})
	})
}

// forgotten trusts the leader about where the output of an attempt is that the node does not know any more. It is read
// with that user's rights, whatever the path.
func (l *logReads) forgotten(ctx context.Context, o *fettlev1.ReadNodeLog) (string, userread.Identity, error) {
	if !filepath.IsAbs(o.GetPath()) {
		return "", userread.Identity{}, fmt.Errorf("the node has forgotten this attempt, and %q says not where its output is", o.GetPath())
	}
	who := userread.Identity{UID: o.GetUid(), GID: o.GetGid()}
	if acc, err := l.users.Lookup(ctx, o.GetUid(), o.GetUser()); err == nil {
		who.GID, who.Groups = acc.GID, acc.Groups
	}
	return o.GetPath(), who, nil
}

// closedChan is the end of what is over.
var closedChan = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()
