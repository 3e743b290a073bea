package api

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"

	"google.golang.org/grpc"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// peer is one controller's connection. It remembers how its dials went, because gRPC tells "never sent" and "connection
// lost on the way" apart by text only.
type peer struct {
	cc     *grpc.ClientConn
	dialer func(ctx context.Context, addr string) (net.Conn, error)

	mu      sync.Mutex
	opened  uint64
	up      bool
	lastErr error
}

func (p *peer) service() fettlev1.ControllerServiceClient {
	return fettlev1.NewControllerServiceClient(p.cc)
}

// dialState is how the dials stood at one moment.
type dialState struct {
	opened uint64
	up     bool
}

func (p *peer) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := p.dialer(ctx, addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up, p.lastErr = err == nil, err
	if err == nil {
		p.opened++
	}
	return conn, err
}

func (p *peer) dials() dialState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return dialState{p.opened, p.up}
}

// neverUp reports whether no connection has been there since before was taken, so that nothing can have been sent; err is
// why, nil when the dial is still going on.
func (p *peer) neverUp(before dialState) (never bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if before.up || p.opened != before.opened {
		return false, nil
	}
	return true, p.lastErr
}

// reachText says in few words why a dial failed, or with nil that it took too long.
func reachText(err error) string {
	var errno syscall.Errno
	var dns *net.DNSError
	switch {
	case err == nil, errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "no connection in time"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &dns):
		return "no such host"
	}
	return "no connection"
}
