package identity

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// tcpEstablished is the only state in which a socket still belongs to the process that made the connection: the kernel
// names uid 0 for one that its process has closed, on many of its versions.
const tcpEstablished = 1

// owner is what the kernel says of one socket.
type owner struct {
	local, remote netip.AddrPort
	state         uint8
	uid, inode    uint32
}

// holds reports whether o is the open socket of the connection between local and remote.
func (o owner) holds(local, remote netip.AddrPort) bool {
	return o.state == tcpEstablished && o.inode != 0 && same(o.local, local) && same(o.remote, remote)
}

// diagRequest is struct inet_diag_req_v2 for exactly one TCP connection.
type diagRequest struct{ local, remote netip.AddrPort }

const (
	diagRequestLen = 56
	diagMessageLen = 72
	diagIDOffset   = 4
)

// Len implements nl.NetlinkRequestData.
func (diagRequest) Len() int { return diagRequestLen }

// Serialize implements nl.NetlinkRequestData.
func (r diagRequest) Serialize() []byte {
	b := make([]byte, diagRequestLen)
	b[0], b[1] = unix.AF_INET6, unix.IPPROTO_TCP
	if r.local.Addr().Unmap().Is4() {
		b[0] = unix.AF_INET
	}
	binary.NativeEndian.PutUint32(b[4:], 0xffffffff)
	binary.BigEndian.PutUint16(b[8:], r.local.Port())
	binary.BigEndian.PutUint16(b[10:], r.remote.Port())
	copy(b[12:28], r.local.Addr().Unmap().AsSlice())
	copy(b[28:44], r.remote.Addr().Unmap().AsSlice())
	for i := 48; i < diagRequestLen; i++ {
		b[i] = 0xff // no cookie
	}
	return b
}

// diagnose asks the kernel for the socket with this local and remote address. Unlike a dump, the question is for one
// connection: another one that differs in an address only is not an answer.
func diagnose(local, remote netip.AddrPort) (owner, error) {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0)
	req.AddData(diagRequest{local: local, remote: remote})
	msgs, err := req.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	if err != nil {
		return owner{}, fmt.Errorf("socket diagnosis: %w", err)
	}
	if len(msgs) != 1 {
		return owner{}, fmt.Errorf("socket diagnosis: %d answers for one connection", len(msgs))
	}
	return parseDiag(msgs[0])
}

// parseDiag reads struct inet_diag_msg.
func parseDiag(b []byte) (owner, error) {
	if len(b) < diagMessageLen {
		return owner{}, fmt.Errorf("socket diagnosis: an answer of %d bytes", len(b))
	}
	size := 16
	switch b[0] {
	case unix.AF_INET:
		size = 4
	case unix.AF_INET6:
	default:
		return owner{}, fmt.Errorf("socket diagnosis: address family %d", b[0])
	}
	id := b[diagIDOffset:]
	src, _ := netip.AddrFromSlice(id[4 : 4+size])
	dst, _ := netip.AddrFromSlice(id[20 : 20+size])
	return owner{
		local:  netip.AddrPortFrom(src, binary.BigEndian.Uint16(id[0:])),
		remote: netip.AddrPortFrom(dst, binary.BigEndian.Uint16(id[2:])),
		state:  b[1],
		uid:    binary.NativeEndian.Uint32(b[64:]),
		inode:  binary.NativeEndian.Uint32(b[68:]),
	}, nil
}
