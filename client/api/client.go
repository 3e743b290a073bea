package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	mathrand "math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/fettle-hpc/fettle/client/config"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// Defaults of Config.
const (
	DefaultTimeout        = 20 * time.Second
	DefaultTryTimeout     = 6 * time.Second
	DefaultConnectTimeout = 2 * time.Second
	DefaultDownTimeout    = 2 * time.Second
	DefaultBackoff        = 50 * time.Millisecond
	maxBackoff            = time.Second
	maxMessage            = 64 << 20
)

// Config says where the controllers are and how long to try.
type Config struct {
	// Controllers are the client addresses, host:port; at least one.
	Controllers []string
	// Timeout bounds one call with all of its retries; 0 means DefaultTimeout.
	Timeout time.Duration
	// TryTimeout bounds one try at one controller, and the wait for a stream's first message; 0 means DefaultTryTimeout.
	TryTimeout time.Duration
	// ConnectTimeout bounds the making of one connection; 0 means DefaultConnectTimeout.
	ConnectTimeout time.Duration
	// DownTimeout bounds a call while no controller takes a connection at all, as when the cluster is not running; 0 means
	// DefaultDownTimeout. It is never more than Timeout.
	DownTimeout time.Duration
	// Backoff is the first pause after all controllers were tried in vain; it doubles up to one second. 0 means
	// DefaultBackoff.
	Backoff time.Duration
	// UserAgent is sent with each request, for example "fsubmit/1.2.0".
	UserAgent string
	// Dial replaces the making of connections in tests.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Client talks to the controllers. It is safe for use by several goroutines. It holds no connection until the first
// call.
type Client struct {
	cfg   Config
	mu    sync.Mutex
	peers map[string]*peer
	// prefer is the address to try first.
	prefer string
}

// New checks cfg and returns a Client. Close it after use.
func New(cfg Config) (*Client, error) {
	if len(cfg.Controllers) == 0 {
		return nil, errors.New("no controllers given")
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&cfg.Timeout, DefaultTimeout}, {&cfg.TryTimeout, DefaultTryTimeout}, {&cfg.ConnectTimeout, DefaultConnectTimeout}, {&cfg.DownTimeout, DefaultDownTimeout}, {&cfg.Backoff, DefaultBackoff}} {
		if *d.v < 0 {
			return nil, errors.New("negative time in the client's configuration")
		}
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if cfg.Dial == nil {
		cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	return &Client{cfg: cfg, peers: make(map[string]*peer)}, nil
}

// Close ends all connections.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, p := range c.peers {
		errs = append(errs, p.cc.Close())
	}
	c.peers = make(map[string]*peer)
	return errors.Join(errs...)
}

// Controllers returns the addresses in the order of the configuration.
func (c *Client) Controllers() []string { return slices.Clone(c.cfg.Controllers) }

// NewRequestID returns a new idempotency key of 32 hexadecimal digits.
func NewRequestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the process instead
	return hex.EncodeToString(b[:])
}

// Kind says what may be done again when a call's outcome is unknown.
type Kind int

const (
	// Read may be asked of any controller any number of times.
	Read Kind = iota
	// Write carries a request id, so a repeat is answered with the first outcome.
	Write
	// Once must not be sent again when a controller may have acted on it.
	Once
)

// Do calls f with a controller until one answers: in turn from the one that answered last, with a pause after each
// round, until Config.Timeout has passed. It stops at once at a refusal, and at an unknown outcome when kind is Once.
// f is given the time for one try. The error is an *Error.
func Do[T any](ctx context.Context, c *Client, kind Kind, f func(ctx context.Context, s fettlev1.ControllerServiceClient) (T, error)) (T, error) {
	var out T
	err := c.run(ctx, kind, func(ctx context.Context, s fettlev1.ControllerServiceClient) error {
		var err error
		out, err = f(ctx, s)
		return err
	})
	if err != nil {
		var zero T
		return zero, err
	}
	return out, nil
}

// run is Do without a result. The context of a try ends when f returns.
func (c *Client) run(ctx context.Context, kind Kind, f func(context.Context, fettlev1.ControllerServiceClient) error) error {
	total, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	return c.rotate(ctx, total, kind, func(p *peer) error {
		tctx, tcancel := context.WithTimeout(total, c.cfg.TryTimeout)
		defer tcancel()
		return f(tctx, p.service())
	})
}

// rotate calls try with one controller after another until it succeeds, is refused, or total is over. ctx is the
// caller's own.
func (c *Client) rotate(ctx, total context.Context, kind Kind, try func(*peer) error) error {
	var last *Error
	unknown := false
	pause := c.cfg.Backoff
	began := time.Now()
	for {
		order := c.order()
		reached := false
		for i := 0; i < len(order); i++ {
			addr := order[i]
			v := c.tryOne(addr, try)
			switch v.action {
			case done:
				c.setPrefer(addr)
				return nil
			case refused:
				c.setPrefer(addr)
				return v.err
			case elsewhere:
				// A leader that is not in the list is tried too.
				if config.Local(v.leader) && v.leader != addr && !slices.Contains(order[i+1:], v.leader) && len(order) < 2*len(c.cfg.Controllers)+4 {
					order = slices.Insert(order, i+1, v.leader)
				}
			case unclear:
				unknown = kind != Read
				if kind == Once {
					v.err.Unknown = true
					return v.err
				}
			}
			last = v.err
			reached = reached || !v.down
			if total.Err() != nil {
				return c.gaveUp(ctx, last, unknown)
			}
		}
		if !reached && time.Since(began) > c.cfg.DownTimeout {
			return c.gaveUp(ctx, last, unknown)
		}
		t := time.NewTimer(jitter(pause))
		select {
		case <-total.Done():
			t.Stop()
			return c.gaveUp(ctx, last, unknown)
		case <-t.C:
		}
		pause = min(2*pause, maxBackoff)
	}
}

// tryOne makes one try at one controller and judges how it went.
func (c *Client) tryOne(addr string, try func(*peer) error) verdict {
	p, err := c.peer(addr)
	if err != nil {
		return verdict{action: elsewhere, err: FromStatus(err)}
	}
	dials := p.dials()
	if err = try(p); err == nil {
		return verdict{action: done}
	}
	v := judge(err)
	if v.action == unclear {
		if never, dialErr := p.neverUp(dials); never {
			v.action, v.down, v.err.reach = elsewhere, true, reachText(dialErr)
		}
	}
	return v
}

// PreferLeader finds out who leads, so that the next calls go there first: only the leader knows why jobs wait, how far
// training is and what GPUs are doing. It takes one short round trip and does nothing when no controller can tell.
func (c *Client) PreferLeader(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.ConnectTimeout)
	defer cancel()
	var h *fettlev1.Header
	for _, addr := range c.order() {
		v := c.tryOne(addr, func(p *peer) error {
			tctx, tcancel := context.WithTimeout(ctx, c.cfg.ConnectTimeout/2)
			defer tcancel()
			r, err := p.service().GetPolicy(tctx, &fettlev1.GetPolicyRequest{})
			h = r.GetHeader()
			return err
		})
		if v.action != done {
			continue
		}
		c.setPrefer(addr)
		if !h.GetIsLeader() && config.Local(h.GetLeaderAddr()) {
			c.setPrefer(h.GetLeaderAddr())
		}
		return
	}
}

// order lists the addresses, the preferred one first.
func (c *Client) order() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	order := make([]string, 0, len(c.cfg.Controllers)+1)
	if c.prefer != "" {
		order = append(order, c.prefer)
	}
	for _, a := range c.cfg.Controllers {
		if a != c.prefer {
			order = append(order, a)
		}
	}
	return order
}

func (c *Client) setPrefer(addr string) {
	c.mu.Lock()
	c.prefer = addr
	c.mu.Unlock()
}

// peer returns the connection to addr, made on first use.
func (c *Client) peer(addr string) (*peer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.peers[addr]; p != nil {
		return p, nil
	}
	p := &peer{dialer: c.cfg.Dial}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(p.dial),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: c.cfg.ConnectTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithInitialWindowSize(1 << 20),
		grpc.WithInitialConnWindowSize(4 << 20),
	}
	if c.cfg.UserAgent != "" {
		opts = append(opts, grpc.WithUserAgent(c.cfg.UserAgent))
	}
	cc, err := grpc.NewClient("passthrough:///"+addr, opts...)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	p.cc = cc
	c.peers[addr] = p
	return p, nil
}

// gaveUp is the error after all tries.
func (c *Client) gaveUp(ctx context.Context, last *Error, unknown bool) *Error {
	e := &Error{Code: codes.Unavailable, Unknown: unknown, Cause: last}
	if ctx.Err() != nil {
		e.Code, e.Problem, e.Cause = codes.Canceled, "interrupted", ctx.Err()
		return e
	}
	switch {
	case last != nil && last.said:
		e.Field, e.Problem, e.Remedy = last.Field, last.Problem, last.Remedy
		return e
	case len(c.cfg.Controllers) == 1:
		e.Problem = "controller " + c.cfg.Controllers[0] + " does not answer"
	default:
		e.Problem = "none of the controllers " + strings.Join(c.cfg.Controllers, ", ") + " answers"
	}
	if last != nil && last.reach != "" {
		e.Problem += " (" + last.reach + ")"
	}
	e.Remedy = "start the cluster, or name other controllers with -M or FETTLE_CONTROLLERS"
	return e
}

// jitter returns d lengthened or shortened by up to a quarter, so that many clients do not come back together.
func jitter(d time.Duration) time.Duration {
	return d - d/4 + mathrand.N(d/2+1)
}
