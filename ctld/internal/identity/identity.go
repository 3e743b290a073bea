// Package identity tells who is at the other end of a connection, from what the kernel knows, never from what the peer says.
//
// On a loopback TCP connection the kernel owns both sockets, so it can name the user id that owns the client's one.
// Nothing but loopback is accepted in plain text.
package identity

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// ErrNotLoopback refuses a plain-text connection from another machine.
var ErrNotLoopback = errors.New("plain text is accepted on loopback only")

// ErrUnknownPeer means that the kernel could not name the owner of the client's socket.
var ErrUnknownPeer = errors.New("the kernel does not know the owner of this connection")

// User is a verified caller.
type User struct {
	UID, GID uint32
	Name     string
}

// loopbackCreds is a gRPC transport without TLS that notes the peer's user at the handshake.
type loopbackCreds struct{ resolver *resolver }

// NewLoopbackCredentials returns server credentials that accept loopback connections only and know their user.
func NewLoopbackCredentials() credentials.TransportCredentials {
	return &loopbackCreds{resolver: &resolver{names: map[uint32]known{}}}
}

type authInfo struct {
	credentials.CommonAuthInfo
	user User
}

// AuthType names the method for logs and audit.
func (authInfo) AuthType() string { return "loopback-socket-owner" }

// FromContext returns the verified user of a server call, or false outside one.
func FromContext(ctx context.Context) (User, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return User{}, false
	}
	info, ok := p.AuthInfo.(authInfo)
	return info.user, ok
}

func (c *loopbackCreds) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	u, err := c.resolver.peerUser(conn)
	if err != nil {
		return nil, nil, err
	}
	return conn, authInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}, user: u}, nil
}

func (c *loopbackCreds) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("identity: server credentials used by a client")
}

func (c *loopbackCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "loopback"}
}

func (c *loopbackCreds) Clone() credentials.TransportCredentials { return c }

func (c *loopbackCreds) OverrideServerName(string) error { return nil }

// namesKept is how long the name of a user id is believed.
const namesKept = time.Minute

// noGroup is the group of users that this host does not know: never one that stands for something here.
const noGroup = 65534

// resolver remembers the names of user ids, since looking them up may read files or ask a directory service.
type resolver struct {
	mu    sync.Mutex
	names map[uint32]known
}

type known struct {
	user  User
	until time.Time
}

func (r *resolver) peerUser(conn net.Conn) (User, error) {
	local, ok1 := conn.LocalAddr().(*net.TCPAddr)
	remote, ok2 := conn.RemoteAddr().(*net.TCPAddr)
	if !ok1 || !ok2 || !remote.IP.IsLoopback() || !local.IP.IsLoopback() {
		return User{}, fmt.Errorf("%w: refused %s", ErrNotLoopback, conn.RemoteAddr())
	}
	uid, err := socketOwner(remote.AddrPort(), local.AddrPort())
	if err != nil {
		return User{}, err
	}
	return r.lookup(uid, time.Now()), nil
}

func (r *resolver) lookup(uid uint32, now time.Time) User {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k, ok := r.names[uid]; ok && now.Before(k.until) {
		return k.user
	}
	u := User{UID: uid, GID: noGroup, Name: strconv.FormatUint(uint64(uid), 10)}
	if found, err := user.LookupId(u.Name); err == nil {
		u.Name = found.Username
		if gid, err := strconv.ParseUint(found.Gid, 10, 32); err == nil {
			u.GID = uint32(gid)
		}
	}
	if len(r.names) > 10_000 {
		clear(r.names)
	}
	r.names[uid] = known{user: u, until: now.Add(namesKept)}
	return u
}

// socketOwner asks the kernel for the owner of the open socket with this local and remote address: over netlink, or from
// /proc/net where that is not available. A socket that is closed already has no owner any more, so that a client cannot
// send a request and leave before it is asked who it is.
func socketOwner(local, remote netip.AddrPort) (uint32, error) {
	o, err := diagnose(local, remote)
	if err == nil {
		if !o.holds(local, remote) {
			return 0, fmt.Errorf("%w: %s", ErrUnknownPeer, local)
		}
		return o.uid, nil
	}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		uid, ok := findOwner(bufio.NewScanner(f), local, remote)
		_ = f.Close()
		if ok {
			return uid, nil
		}
	}
	return 0, fmt.Errorf("%w: %s", ErrUnknownPeer, local)
}

// findOwner reads a table in the format of proc_net_tcp(5): sl, local, remote, state, queues, timers, retransmits, uid,
// timeout, inode.
func findOwner(lines *bufio.Scanner, local, remote netip.AddrPort) (uint32, bool) {
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 {
			continue
		}
		l, ok1 := parseProcAddr(f[1])
		r, ok2 := parseProcAddr(f[2])
		state, err1 := strconv.ParseUint(f[3], 16, 8)
		uid, err2 := strconv.ParseUint(f[7], 10, 32)
		inode, err3 := strconv.ParseUint(f[9], 10, 64)
		if !ok1 || !ok2 || err1 != nil || err2 != nil || err3 != nil {
			continue
		}
		o := owner{local: l, remote: r, state: uint8(state), uid: uint32(uid), inode: uint32(min(inode, 1))}
		if o.holds(local, remote) {
			return o.uid, true
		}
	}
	return 0, false
}

func same(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && a.Addr().Unmap() == b.Addr().Unmap()
}

// parseProcAddr reads "0100007F:1BBC": the address in host-order 32-bit words, then the port.
func parseProcAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	if !ok {
		return netip.AddrPort{}, false
	}
	raw, err := hex.DecodeString(host)
	if err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		raw[i], raw[i+1], raw[i+2], raw[i+3] = raw[i+3], raw[i+2], raw[i+1], raw[i]
	}
	addr, ok := netip.AddrFromSlice(raw)
	p, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(addr, uint16(p)), ok && err == nil
}
