// Package peernet is the network under Raft: TCP or TLS connections on which each
// side first says which cluster and which server it means, so that a controller
// that came back empty at an old address is never taken for the one it replaced.
package peernet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Limits.
const (
	handshakeTimeout = 5 * time.Second
	maxHandshakes    = 64
	maxField         = 255
)

// ErrNotLoopback means that plain TCP was asked for beyond this machine.
var ErrNotLoopback = errors.New("plain TCP is for loopback addresses only, configure TLS")

// Config describes one end.
type Config struct {
	// Listener accepts the other controllers. The Layer closes it.
	Listener net.Listener
	// Advertise is the host:port the others dial; empty means the listener's.
	Advertise string
	// TLS is used in both directions; nil means plain TCP on loopback only.
	TLS *tls.Config
	// ClusterID and ServerID are this end's; set before the first Accept or Dial.
	ClusterID, ServerID string
	// Authorize, when set, may refuse an inbound peer by the ID it claims.
	Authorize func(serverID string, state *tls.ConnectionState) error
	// Dial opens outbound connections; nil means a net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// OnRetired, when set, is called when another server says that this one's ID is
	// retired.
	OnRetired func()
	// Logger is required.
	Logger *slog.Logger
}

// Layer is a raft.StreamLayer.
type Layer struct {
	cfg       Config
	advertise addr
	conns     chan net.Conn
	closed    chan struct{}
	wg        sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]struct{} // both directions, until closed
	shut bool
}

type addr string

func (a addr) Network() string { return "tcp" }
func (a addr) String() string  { return string(a) }

// CheckAddress reports whether the listener can be used with or without TLS and
// returns the address to advertise.
func CheckAddress(l net.Listener, advertise string, secure bool) (string, error) {
	tcp, ok := l.Addr().(*net.TCPAddr)
	if advertise == "" {
		if ok && tcp.IP.IsUnspecified() {
			return "", fmt.Errorf("listening on %s, which the others cannot dial: give an address to advertise", l.Addr())
		}
		advertise = l.Addr().String()
	}
	host, _, err := net.SplitHostPort(advertise)
	if err != nil {
		return "", fmt.Errorf("address to advertise: %w", err)
	}
	if host == "" {
		return "", fmt.Errorf("address to advertise: %q has no host", advertise)
	}
	if secure {
		return advertise, nil
	}
	if ok && !tcp.IP.IsLoopback() {
		return "", fmt.Errorf("listening on %s: %w", l.Addr(), ErrNotLoopback)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", fmt.Errorf("advertising %s: %w", advertise, ErrNotLoopback)
	}
	return advertise, nil
}

// New starts to accept connections.
func New(cfg Config) (*Layer, error) {
	advertise, err := CheckAddress(cfg.Listener, cfg.Advertise, cfg.TLS != nil)
	if err != nil {
		return nil, err
	}
	if cfg.TLS != nil {
		cfg.TLS = cfg.TLS.Clone()
		cfg.TLS.MinVersion = tls.VersionTLS13
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	l := &Layer{
		cfg:       cfg,
		advertise: addr(advertise),
		conns:     make(chan net.Conn),
		closed:    make(chan struct{}),
		open:      make(map[net.Conn]struct{}),
	}
	l.wg.Go(l.accept)
	return l, nil
}

// Target is the address to hand to Dial for a server.
func Target(serverID, address string) raft.ServerAddress {
	return raft.ServerAddress(serverID + "|" + address)
}

// Addr returns the advertised address.
func (l *Layer) Addr() net.Addr { return l.advertise }

// Accept returns the next inbound connection that passed its handshake.
func (l *Layer) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close closes the listener and every connection, and waits for the goroutines
// that greet new ones.
func (l *Layer) Close() error {
	l.mu.Lock()
	if l.shut {
		l.mu.Unlock()
		return nil
	}
	l.shut = true
	close(l.closed)
	open := slices.Collect(maps.Keys(l.open))
	l.mu.Unlock()
	err := l.cfg.Listener.Close()
	for _, c := range open {
		_ = c.Close()
	}
	l.wg.Wait()
	return err
}

func (l *Layer) accept() {
	slots := make(chan struct{}, maxHandshakes)
	for {
		c, err := l.cfg.Listener.Accept()
		if err != nil {
			select {
			case <-l.closed:
				return
			case <-time.After(100 * time.Millisecond): // out of file descriptors, most likely
				l.cfg.Logger.Warn("raft port cannot accept", "err", err)
				continue
			}
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		tracked := &conn{Conn: c, layer: l}
		if !l.track(tracked) {
			_ = c.Close()
			return
		}
		l.wg.Go(func() {
			ready, err := l.greet(tracked)
			<-slots
			if err != nil {
				_ = tracked.Close()
				l.cfg.Logger.Warn("raft connection refused", "remote", c.RemoteAddr().String(), "err", err)
				return
			}
			select {
			case l.conns <- ready:
			case <-l.closed:
				_ = tracked.Close()
			}
		})
	}
}

func (l *Layer) track(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut {
		return false
	}
	l.open[c] = struct{}{}
	return true
}

// conn forgets itself in its layer when closed.
type conn struct {
	net.Conn
	layer *Layer
}

func (c *conn) Close() error {
	c.layer.mu.Lock()
	delete(c.layer.open, c)
	c.layer.mu.Unlock()
	return c.Conn.Close()
}

// greet runs the accepting side of the handshake.
func (l *Layer) greet(raw net.Conn) (net.Conn, error) {
	if err := raw.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	c, state, err := l.serverTLS(raw)
	if err != nil {
		return nil, err
	}
	h, err := readHello(c)
	if err != nil {
		return nil, err
	}
	verdict, err := l.judge(h, state)
	if _, werr := c.Write([]byte{verdict}); werr != nil && err == nil {
		err = werr
	}
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Time{})
}

func (l *Layer) serverTLS(raw net.Conn) (net.Conn, *tls.ConnectionState, error) {
	if l.cfg.TLS == nil {
		return raw, nil, nil
	}
	c := tls.Server(raw, l.cfg.TLS)
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, nil, fmt.Errorf("tls: %w", err)
	}
	state := c.ConnectionState()
	return c, &state, nil
}

func (l *Layer) judge(h hello, state *tls.ConnectionState) (byte, error) {
	switch {
	case h.cluster != l.cfg.ClusterID:
		return otherCluster, fmt.Errorf("%s is of cluster %s, not of %s", h.from, h.cluster, l.cfg.ClusterID)
	case h.to != l.cfg.ServerID:
		return otherServer, fmt.Errorf("%s looks for %s, this is %s", h.from, h.to, l.cfg.ServerID)
	case h.from == l.cfg.ServerID:
		return forbidden, fmt.Errorf("%s is this server's own ID: the same data directory runs twice", h.from)
	}
	if l.cfg.Authorize != nil {
		switch err := l.cfg.Authorize(h.from, state); {
		case errors.Is(err, ErrRetired):
			return retired, fmt.Errorf("%s: %w", h.from, err)
		case err != nil:
			return forbidden, fmt.Errorf("%s is not authorized: %w", h.from, err)
		}
	}
	return welcome, nil
}

// Dial connects to a Target and checks that the right server answers.
func (l *Layer) Dial(target raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, address, ok := strings.Cut(string(target), "|")
	if !ok {
		return nil, fmt.Errorf("dial %q: not a target of this network", target)
	}
	if timeout <= 0 || timeout > handshakeTimeout {
		timeout = handshakeTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	tcp, err := l.cfg.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	raw := &conn{Conn: tcp, layer: l}
	if !l.track(raw) {
		_ = tcp.Close()
		return nil, net.ErrClosed
	}
	c, err := l.introduce(ctx, raw, id, address)
	if err != nil {
		_ = raw.Close()
		if errors.Is(err, ErrRetired) && l.cfg.OnRetired != nil {
			l.cfg.OnRetired()
		}
		return nil, fmt.Errorf("dial %s at %s: %w", id, address, err)
	}
	return c, nil
}

// introduce runs the dialing side of the handshake.
func (l *Layer) introduce(ctx context.Context, raw net.Conn, id, address string) (net.Conn, error) {
	deadline, _ := ctx.Deadline()
	if err := raw.SetDeadline(deadline); err != nil {
		return nil, err
	}
	c := raw
	if l.cfg.TLS != nil {
		cfg := l.cfg.TLS.Clone()
		if cfg.ServerName == "" {
			cfg.ServerName, _, _ = net.SplitHostPort(address)
		}
		tc := tls.Client(raw, cfg)
		if err := tc.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		c = tc
	} else if tcp, ok := raw.RemoteAddr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		return nil, ErrNotLoopback
	}
	if err := writeHello(c, hello{cluster: l.cfg.ClusterID, from: l.cfg.ServerID, to: id}); err != nil {
		return nil, err
	}
	if err := readVerdict(c); err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Time{})
}
