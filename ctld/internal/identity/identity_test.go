package identity

import (
	"bufio"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestLoopbackPeerIsTheProcessOwner(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Logf("no %s here: %v", addr, err)
			continue
		}
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_, info, err := NewLoopbackCredentials().ServerHandshake(server)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.(authInfo).user.UID; got != uint32(os.Getuid()) {
			t.Errorf("%s: peer uid %d, want %d", addr, got, os.Getuid())
		}
		for _, c := range []interface{ Close() error }{client, server, ln} {
			_ = c.Close()
		}
	}
}

type fakeConn struct {
	net.Conn
	remote net.Addr
}

func (c fakeConn) RemoteAddr() net.Addr { return c.remote }
func (c fakeConn) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 7100} }

func TestOtherMachinesAreRefused(t *testing.T) {
	t.Parallel()
	c := fakeConn{remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 4000}}
	if _, _, err := NewLoopbackCredentials().ServerHandshake(c); err == nil {
		t.Error("a plain connection from another machine was accepted")
	}
}

func TestFindOwner(t *testing.T) {
	t.Parallel()
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1BBC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0100007F:D431 0100007F:1BBC 01 00000000:00000000 00:00000000 00000000  1234        0 2
   2: 0100007F:1BBC 0100007F:D431 01 00000000:00000000 00:00000000 00000000     7        0 3
`
	uid, ok := findOwner(bufio.NewScanner(strings.NewReader(table)), netip.MustParseAddrPort("127.0.0.1:54321"), netip.MustParseAddrPort("127.0.0.1:7100"))
	if !ok || uid != 1234 {
		t.Errorf("owner %d, %v; want 1234: the client's socket, not the server's", uid, ok)
	}
	if _, ok := findOwner(bufio.NewScanner(strings.NewReader(table)), netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:7100")); ok {
		t.Error("found an owner for a connection that is not there")
	}
}
