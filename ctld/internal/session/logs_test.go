package session

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// reading is a ReadLog under way.
type reading struct {
	chunks chan *fettlev1.PushLogRequest
	done   chan error
	cancel context.CancelFunc
}

// read starts a ReadLog of n1; with chunks unbuffered the reader is as slow as the test.
func (sv *service) read(req *fettlev1.ReadNodeLog, yieldErr error) *reading {
	ctx, cancel := context.WithCancel(sv.ctx)
	r := &reading{chunks: make(chan *fettlev1.PushLogRequest), done: make(chan error, 1), cancel: cancel}
	sv.t.Cleanup(cancel)
	go func() {
		r.done <- sv.srv.ReadLog(ctx, "n1", req, func(c *fettlev1.PushLogRequest) error {
			select {
			case r.chunks <- c:
			case <-ctx.Done():
			}
			return yieldErr
		})
	}()
	return r
}

// push opens the node's stream for a read that was ordered.
func (n *fakeNode) push() (fettlev1.NodeService_PushLogClient, uint64) {
	n.sv.t.Helper()
	id := n.want("read log").GetReadLog().GetReadId()
	s, err := n.sv.client.PushLog(n.sv.ctx)
	if err != nil {
		n.sv.t.Fatal(err)
	}
	return s, id
}

func mustSend(t *testing.T, s fettlev1.NodeService_PushLogClient, c *fettlev1.PushLogRequest) {
	t.Helper()
	if err := s.Send(c); err != nil {
		t.Fatal(err)
	}
}

func (r *reading) wantDone(t *testing.T, target error, text string) {
	t.Helper()
	err := <-r.done
	switch {
	case target == nil && err != nil:
		t.Errorf("the read ended with %v", err)
	case target != nil && !errors.Is(err, target):
		t.Errorf("the read ended with %v, want %v", err, target)
	case err != nil && !strings.Contains(err.Error(), text):
		t.Errorf("the read ended with %q, want %q in it", err, text)
	}
}

func TestReadLog(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(t *testing.T, sv *service, n *fakeNode){
		"to the end": func(t *testing.T, sv *service, n *fakeNode) {
			r := sv.read(&fettlev1.ReadNodeLog{Path: "/out", Offset: 3, User: "ada", Uid: 7}, nil)
			m := n.want("read log").GetReadLog()
			if m.GetPath() != "/out" || m.GetOffset() != 3 || m.GetUid() != 7 || m.GetStop() || m.GetReadId() == 0 {
				t.Errorf("order %v", m)
			}
			s, err := sv.client.PushLog(sv.ctx)
			if err != nil {
				t.Fatal(err)
			}
			mustSend(t, s, &fettlev1.PushLogRequest{ReadId: m.GetReadId(), Data: []byte("abc"), Offset: 3})
			mustSend(t, s, &fettlev1.PushLogRequest{ReadId: m.GetReadId(), Eof: true})
			if c := <-r.chunks; string(c.GetData()) != "abc" || c.GetOffset() != 3 {
				t.Errorf("chunk %v", c)
			}
			if c := <-r.chunks; !c.GetEof() {
				t.Errorf("chunk %v", c)
			}
			r.wantDone(t, nil, "")
			if _, err := s.CloseAndRecv(); err != nil {
				t.Errorf("the node's stream ended with %v", err)
			}
			// No order to stop follows: the next read is the next order.
			r = sv.read(&fettlev1.ReadNodeLog{}, nil)
			if n.want("read log").GetReadLog().GetStop() {
				t.Error("a read that was complete was stopped")
			}
			r.cancel()
		},
		"that the node cannot do": func(t *testing.T, sv *service, n *fakeNode) {
			r := sv.read(&fettlev1.ReadNodeLog{}, nil)
			s, id := n.push()
			mustSend(t, s, &fettlev1.PushLogRequest{ReadId: id, Error: "/out: no such file or directory"})
			r.wantDone(t, ErrLogRead, "read log: /out: no such file or directory")
			if _, err := s.CloseAndRecv(); err != nil {
				t.Errorf("the node's stream ended with %v", err)
			}
		},
		"by a slow reader": func(t *testing.T, sv *service, n *fakeNode) {
			r := sv.read(&fettlev1.ReadNodeLog{}, nil)
			s, id := n.push()
			const pieces, size = 200, 60 << 10
			sent := make(chan error, 1)
			go func() {
				for i := range pieces {
					if err := s.Send(&fettlev1.PushLogRequest{ReadId: id, Data: bytes.Repeat([]byte{byte(i)}, size), Offset: int64(i * size)}); err != nil {
						sent <- err
						return
					}
				}
				sent <- s.Send(&fettlev1.PushLogRequest{ReadId: id, Eof: true})
			}()
			// While it is not read, the node's orders flow.
			sv.dispatched(nil, "n1")
			n.want("prepare 1.1")
			select {
			case <-sent:
				t.Errorf("%d MiB fitted into buffers", pieces*size>>20)
			default:
			}
			for i := range pieces {
				if c := <-r.chunks; c.GetOffset() != int64(i*size) || len(c.GetData()) != size || c.GetData()[0] != byte(i) {
					t.Fatalf("piece %d begins at %d", i, c.GetOffset())
				}
			}
			<-r.chunks
			r.wantDone(t, nil, "")
			if err := <-sent; err != nil {
				t.Error(err)
			}
		},
		"that the reader leaves": func(t *testing.T, sv *service, n *fakeNode) {
			r := sv.read(&fettlev1.ReadNodeLog{Follow: true}, nil)
			s, id := n.push()
			mustSend(t, s, &fettlev1.PushLogRequest{ReadId: id, Data: []byte("x")})
			<-r.chunks
			r.cancel()
			r.wantDone(t, context.Canceled, "")
			if stop := n.want("read log").GetReadLog(); !stop.GetStop() || stop.GetReadId() != id {
				t.Errorf("order %v, want read %d stopped", stop, id)
			}
			// The node's stream ends although the node waits for more output.
			if err := s.RecvMsg(&fettlev1.PushLogResponse{}); status.Code(err) != codes.Canceled {
				t.Errorf("the node's stream ended with %v", err)
			}
		},
		"whose reader fails": func(t *testing.T, sv *service, n *fakeNode) {
			gone := errors.New("the client is gone")
			r := sv.read(&fettlev1.ReadNodeLog{Follow: true}, gone)
			s, id := n.push()
			mustSend(t, s, &fettlev1.PushLogRequest{ReadId: id, Data: []byte("x")})
			<-r.chunks
			r.wantDone(t, gone, "")
			if stop := n.want("read log").GetReadLog(); !stop.GetStop() {
				t.Errorf("order %v, want a stop", stop)
			}
		},
		"that breaks off": func(t *testing.T, sv *service, n *fakeNode) {
			r := sv.read(&fettlev1.ReadNodeLog{Follow: true}, nil)
			s, id := n.push()
			for range 3 {
				mustSend(t, s, &fettlev1.PushLogRequest{ReadId: id, Data: []byte("x")})
			}
			if err := s.CloseSend(); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				<-r.chunks
			}
			r.wantDone(t, ErrNotConnected, "n1 broke off")
		},
		"whose node goes away before it answers": func(t *testing.T, sv *service, n *fakeNode) {
			r := sv.read(&fettlev1.ReadNodeLog{Follow: true}, nil)
			n.want("read log")
			n.cancel()
			r.wantDone(t, ErrNotConnected, "n1")
		},
		"of a node that is not there": func(t *testing.T, sv *service, _ *fakeNode) {
			err := sv.srv.ReadLog(sv.ctx, "n7", &fettlev1.ReadNodeLog{}, nil)
			if !errors.Is(err, ErrNotConnected) || err.Error() != "node is not connected: n7" {
				t.Errorf("answer %v", err)
			}
		},
		"pushed under a number that nobody gave": func(t *testing.T, sv *service, n *fakeNode) {
			r := sv.read(&fettlev1.ReadNodeLog{}, nil)
			_, id := n.push()
			for _, wrong := range []uint64{0, 1, id + 1} {
				s, err := sv.client.PushLog(sv.ctx)
				if err != nil {
					t.Fatal(err)
				}
				mustSend(t, s, &fettlev1.PushLogRequest{ReadId: wrong, Data: []byte("forged")})
				if _, err := s.CloseAndRecv(); status.Code(err) != codes.Canceled {
					t.Errorf("read %d: %v", wrong, err)
				}
			}
			r.cancel()
			r.wantDone(t, context.Canceled, "")
		},
		"pushed by two streams": func(t *testing.T, sv *service, n *fakeNode) {
			r := sv.read(&fettlev1.ReadNodeLog{}, nil)
			s, id := n.push()
			mustSend(t, s, &fettlev1.PushLogRequest{ReadId: id, Data: []byte("x")})
			<-r.chunks
			second, err := sv.client.PushLog(sv.ctx)
			if err != nil {
				t.Fatal(err)
			}
			mustSend(t, second, &fettlev1.PushLogRequest{ReadId: id, Data: []byte("forged")})
			if _, err := second.CloseAndRecv(); status.Code(err) != codes.Canceled {
				t.Errorf("the second stream: %v", err)
			}
			mustSend(t, s, &fettlev1.PushLogRequest{ReadId: id + 1, Data: []byte("x")})
			if _, err := s.CloseAndRecv(); status.Code(err) != codes.InvalidArgument {
				t.Errorf("a stream that changes its read: %v", err)
			}
			r.wantDone(t, ErrNotConnected, "")
		},
		"pushed by somebody who is no node": func(t *testing.T, sv *service, n *fakeNode) {
			r := sv.read(&fettlev1.ReadNodeLog{}, nil)
			denied := errors.New("only admins run nodes")
			sv.denied.Store(&denied)
			s, id := n.push()
			_ = s.Send(&fettlev1.PushLogRequest{ReadId: id, Data: []byte("forged")})
			if _, err := s.CloseAndRecv(); status.Code(err) != codes.PermissionDenied {
				t.Errorf("answer %v", err)
			}
			r.cancel()
			r.wantDone(t, context.Canceled, "")
		},
		"pushed in pieces that are too large": func(t *testing.T, sv *service, n *fakeNode) {
			r := sv.read(&fettlev1.ReadNodeLog{}, nil)
			s, id := n.push()
			mustSend(t, s, &fettlev1.PushLogRequest{ReadId: id, Data: make([]byte, maxChunk+1)})
			if _, err := s.CloseAndRecv(); status.Code(err) != codes.InvalidArgument {
				t.Errorf("answer %v", err)
			}
			r.wantDone(t, ErrNotConnected, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sv := newService(t, nil)
			sv.leads(1)
			run(t, sv, sv.join("n1"))
			sv.until("no read is left", func() bool {
				sv.srv.reads.mu.Lock()
				defer sv.srv.reads.mu.Unlock()
				return len(sv.srv.reads.open) == 0
			})
		})
	}
}

func TestReadLogEndsWithTheTerm(t *testing.T) {
	t.Parallel()
	sv := newService(t, nil)
	stop := sv.leads(1)
	n := sv.join("n1")
	r := sv.read(&fettlev1.ReadNodeLog{Follow: true}, nil)
	s, id := n.push()
	mustSend(t, s, &fettlev1.PushLogRequest{ReadId: id, Data: []byte("x")})
	<-r.chunks
	stop()
	r.wantDone(t, errHint, "")
	if err := s.RecvMsg(&fettlev1.PushLogResponse{}); status.Code(err) != codes.Canceled {
		t.Errorf("the node's stream ended with %v", err)
	}
}
