package raftstore

import (
	"context"
	"net"
	"sync"
)

// valve stands between one node and the network. While a direction is shut, what
// flows in it is held, and delivered when it is opened: silence, not loss.
type valve struct {
	mu      sync.Mutex
	cond    *sync.Cond
	in, out bool // shut
	held    int  // reads that hold data back
}

func newValve() *valve {
	v := &valve{}
	v.cond = sync.NewCond(&v.mu)
	return v
}

func (v *valve) set(in, out bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.in, v.out = in, out
	v.cond.Broadcast()
}

func (v *valve) holding() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.held
}

// fit puts the valve in front of a node.
func (v *valve) fit(cfg *Config) {
	l, err := net.Listen("tcp", cfg.RaftAddr)
	if err != nil {
		panic(err)
	}
	cfg.Listener = valveListener{l, v}
	cfg.Hooks.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &valveConn{Conn: c, v: v}, nil
	}
}

type valveListener struct {
	net.Listener
	v *valve
}

func (l valveListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &valveConn{Conn: c, v: l.v}, nil
}

type valveConn struct {
	net.Conn
	v      *valve
	closed bool
}

func (c *valveConn) pass(shut *bool, reading bool) {
	v := c.v
	v.mu.Lock()
	defer v.mu.Unlock()
	if reading && *shut {
		v.held++
		defer func() { v.held-- }()
	}
	for *shut && !c.closed {
		v.cond.Wait()
	}
}

func (c *valveConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.pass(&c.v.in, n > 0)
	return n, err
}

func (c *valveConn) Write(b []byte) (int, error) {
	c.pass(&c.v.out, false)
	return c.Conn.Write(b)
}

func (c *valveConn) Close() error {
	c.v.mu.Lock()
	c.closed = true
	c.v.cond.Broadcast()
	c.v.mu.Unlock()
	return c.Conn.Close()
}
