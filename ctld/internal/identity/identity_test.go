package identity

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/peer"
)

// otherUID is a user that is neither root nor known to the host.
const otherUID = 54321

// clientExe is this binary where another user may run it: nobody else may look where the go tool builds tests.
var clientExe string

// TestMain lets this binary be a client of another user: see asOther.
func TestMain(m *testing.M) {
	if to := os.Getenv("IDENTITY_TEST_DIAL"); to != "" {
		os.Exit(client(os.Getenv("IDENTITY_TEST_FROM"), to, os.Getenv("IDENTITY_TEST_LEAVE") != ""))
	}
	// Before any test forks: a file that a child still has open for writing cannot be run.
	remove, err := installClient()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	remove()
	os.Exit(code)
}

func installClient() (remove func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "identity")
	if err != nil {
		return nil, err
	}
	clientExe = filepath.Join(dir, "client")
	data, err := os.ReadFile(self)
	if err == nil {
		err = errors.Join(os.WriteFile(clientExe, data, 0o755), os.Chmod(dir, 0o755), os.Chmod(clientExe, 0o755))
	}
	return func() { _ = os.RemoveAll(dir) }, err
}

// client connects and says one line; then it leaves at once, or when its standard input ends.
func client(from, to string, leave bool) int {
	var d net.Dialer
	if from != "" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))
		d.Control = reuseAddr
	}
	c, err := d.Dial("tcp", to)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Fprintln(c, "a request")
	if !leave {
		fmt.Println("connected")
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
	_ = c.Close()
	return 0
}

func reuseAddr(_, _ string, rc syscall.RawConn) error {
	var serr error
	err := rc.Control(func(fd uintptr) { serr = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) })
	return errors.Join(err, serr)
}

// asOther runs client in a process of another user and returns when it has connected, or has left.
func asOther(t *testing.T, env ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can be another user")
	}
	cmd := exec.Command(clientExe)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUID, Gid: otherUID}}
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil && line != "connected\n" {
		t.Fatalf("client: %s", line)
	}
	if err != nil {
		_ = cmd.Wait() // it has left
		return
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("no %s here: %v", addr, err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

func accept(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func handshake(c net.Conn) (User, error) {
	_, info, err := NewLoopbackCredentials().ServerHandshake(c)
	if err != nil {
		return User{}, err
	}
	return info.(authInfo).user, nil
}

func TestLoopbackPeerIsTheProcessOwner(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(addr, func(t *testing.T) {
			t.Parallel()
			ln := listen(t, addr)
			client, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			got, err := handshake(accept(t, ln))
			if err != nil || got.UID != uint32(os.Getuid()) {
				t.Errorf("peer %+v, %v; want uid %d", got, err, os.Getuid())
			}
		})
	}
}

func TestAnotherUserIsSeen(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(addr, func(t *testing.T) {
			t.Parallel()
			ln := listen(t, addr)
			asOther(t, "IDENTITY_TEST_DIAL="+ln.Addr().String())
			got, err := handshake(accept(t, ln))
			if want := (User{UID: otherUID, GID: noGroup, Name: "54321"}); err != nil || got != want {
				t.Errorf("peer %+v, %v; want %+v", got, err, want)
			}
		})
	}
}

// The same source port on another loopback address is another connection: its owner must not be taken for root because
// root's has the same ports.
func TestEqualPortsOnAnotherAddress(t *testing.T) {
	t.Parallel()
	ln := listen(t, "127.0.0.1:0")
	d := net.Dialer{Control: reuseAddr}
	mine, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	first := accept(t, ln)
	port := mine.LocalAddr().(*net.TCPAddr).Port
	asOther(t, "IDENTITY_TEST_DIAL="+ln.Addr().String(), fmt.Sprintf("IDENTITY_TEST_FROM=127.0.0.2:%d", port))
	second := accept(t, ln)
	if got, err := handshake(second); err != nil || got.UID != otherUID {
		t.Errorf("127.0.0.2:%d is %+v, %v; want uid %d", port, got, err, otherUID)
	}
	if got, err := handshake(first); err != nil || got.UID != 0 {
		t.Errorf("127.0.0.1:%d is %+v, %v; want root", port, got, err)
	}
}

// A client that has sent its request and is gone has no identity any more; the kernel may call its socket root's.
func TestClosedSocketsHaveNoOwner(t *testing.T) {
	t.Parallel()
	ln := listen(t, "127.0.0.1:0")
	asOther(t, "IDENTITY_TEST_DIAL="+ln.Addr().String(), "IDENTITY_TEST_LEAVE=1")
	c := accept(t, ln)
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "a request\n" {
		t.Fatalf("read %q, %v", line, err)
	}
	if got, err := handshake(c); !errors.Is(err, ErrUnknownPeer) {
		t.Errorf("a closed connection belongs to %+v, %v", got, err)
	}
}

type fakeConn struct {
	net.Conn
	local, remote string
}

func (c fakeConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.remote))
}
func (c fakeConn) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.local))
}

func TestOtherMachinesAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []fakeConn{
		{local: "192.0.2.1:7100", remote: "192.0.2.9:4000"},
		{local: "192.0.2.1:7100", remote: "127.0.0.1:4000"},
		{local: "127.0.0.1:7100", remote: "192.0.2.9:4000"},
		{local: "[2001:db8::1]:7100", remote: "[2001:db8::2]:4000"},
	} {
		if _, err := handshake(c); !errors.Is(err, ErrNotLoopback) {
			t.Errorf("%+v: %v, want ErrNotLoopback", c, err)
		}
	}
	// Nothing has this address, so nobody owns it.
	if got, err := handshake(fakeConn{local: "127.0.0.1:1", remote: "127.0.0.1:2"}); !errors.Is(err, ErrUnknownPeer) {
		t.Errorf("a connection that is not there belongs to %+v, %v", got, err)
	}
}

// procTable has, beside the connection of uid 1234: the server's end, one that its process has closed, one in
// TIME_WAIT, and one from another address with the same ports.
const procTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1BBC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0200007F:D431 0100007F:1BBC 01 00000000:00000000 00:00000000 00000000     0        0 9
   2: 0100007F:D431 0100007F:1BBC 01 00000000:00000000 00:00000000 00000000  1234        0 2
   3: 0100007F:1BBC 0100007F:D431 01 00000000:00000000 00:00000000 00000000     7        0 3
   4: 0100007F:D432 0100007F:1BBC 05 00000000:00000000 00:00000000 00000000     0        0 0
   5: 0100007F:D433 0100007F:1BBC 06 00000000:00000000 00:00000000 00000000     0        0 0
   6: 0100007F:D434 0100007F:1BBC 01 00000000:00000000 00:00000000 00000000     0        0 0
   7: garbage
`

func TestFindOwner(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		local string
		uid   uint32
		ok    bool
	}{
		{"127.0.0.1:54321", 1234, true},
		{"[::ffff:127.0.0.1]:54321", 1234, true},
		{"127.0.0.1:54322", 0, false},
		{"127.0.0.1:54323", 0, false},
		{"127.0.0.1:54324", 0, false},
		{"127.0.0.1:1", 0, false},
	} {
		uid, ok := findOwner(bufio.NewScanner(strings.NewReader(procTable)), netip.MustParseAddrPort(tc.local), netip.MustParseAddrPort("127.0.0.1:7100"))
		if uid != tc.uid || ok != tc.ok {
			t.Errorf("%s: owner %d, %v; want %d, %v", tc.local, uid, ok, tc.uid, tc.ok)
		}
	}
}

func TestNamesAreForgotten(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := &resolver{names: map[uint32]known{otherUID: {user: User{UID: otherUID, Name: "old"}, until: now.Add(namesKept)}}}
	if got := r.lookup(otherUID, now).Name; got != "old" {
		t.Errorf("name %q at once, want the one remembered", got)
	}
	if got := r.lookup(otherUID, now.Add(namesKept)).Name; got != "54321" {
		t.Errorf("name %q after a while, want the host's", got)
	}
}

func TestFromContext(t *testing.T) {
	t.Parallel()
	if _, ok := FromContext(context.Background()); ok {
		t.Error("a call without a peer has a user")
	}
	ctx := peer.NewContext(context.Background(), &peer.Peer{})
	if _, ok := FromContext(ctx); ok {
		t.Error("a peer without an identity has a user")
	}
	ctx = peer.NewContext(context.Background(), &peer.Peer{AuthInfo: authInfo{user: User{UID: 7}}})
	if u, ok := FromContext(ctx); !ok || u.UID != 7 {
		t.Errorf("user %+v, %v", u, ok)
	}
}
