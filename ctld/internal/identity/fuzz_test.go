package identity

import (
	"bufio"
	"bytes"
	"net/netip"
	"strings"
	"testing"
)

// FuzzParseDiag feeds the kernel's answer, or what might pass for it, to the parser.
func FuzzParseDiag(f *testing.F) {
	f.Add(make([]byte, diagMessageLen))
	local, remote := netip.MustParseAddrPort("127.0.0.1:54321"), netip.MustParseAddrPort("127.0.0.1:7100")
	good := make([]byte, diagMessageLen)
	copy(good, []byte{2, tcpEstablished, 0, 0, 0xd4, 0x31, 0x1b, 0xbc, 127, 0, 0, 1})
	copy(good[24:], []byte{127, 0, 0, 1})
	good[68] = 7
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := parseDiag(b)
		if err != nil || !o.holds(local, remote) {
			return
		}
		if b[1] != tcpEstablished || !bytes.Equal(b[4:8], []byte{0xd4, 0x31, 0x1b, 0xbc}) || o.inode == 0 {
			t.Errorf("%x is taken for the socket of %s to %s", b, local, remote)
		}
	})
}

// FuzzFindOwner feeds tables to the other parser: a line names an owner only if it is about the very connection.
func FuzzFindOwner(f *testing.F) {
	f.Add(procTable)
	local, remote := netip.MustParseAddrPort("127.0.0.1:54321"), netip.MustParseAddrPort("127.0.0.1:7100")
	f.Fuzz(func(t *testing.T, table string) {
		uid, ok := findOwner(bufio.NewScanner(strings.NewReader(table)), local, remote)
		if !ok {
			if uid != 0 {
				t.Errorf("no owner, but uid %d", uid)
			}
			return
		}
		upper := strings.ToUpper(table)
		if !strings.Contains(upper, "D431") || !strings.Contains(upper, "1BBC") {
			t.Errorf("an owner of a connection that is not in the table: %q", table)
		}
	})
}
