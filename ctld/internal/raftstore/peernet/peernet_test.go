package peernet

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func listen(t *testing.T, on string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", on)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func layer(t *testing.T, id string, change func(*Config)) *Layer {
	t.Helper()
	cfg := Config{Listener: listen(t, "127.0.0.1:0"), ClusterID: "cluster", ServerID: id, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// echo answers on every accepted connection until the layer is closed.
func echo(l *Layer) {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

func exchange(t *testing.T, from, to *Layer, id string) error {
	t.Helper()
	c, err := from.Dial(Target(id, to.Addr().String()), 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4)
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "ping" {
		t.Fatalf("echo %q, %v", buf, err)
	}
	return nil
}

func TestGreeting(t *testing.T) {
	t.Parallel()
	refuse := errors.New("not today")
	tests := []struct {
		name   string
		dialer func(*Config)
		accept func(*Config)
		to     string
		want   error
	}{
		{"same cluster, right server", nil, nil, "b", nil},
		{"the server there has another identity", nil, nil, "old-b", ErrOtherServer},
		{"another cluster", func(c *Config) { c.ClusterID = "x" }, nil, "b", ErrOtherCluster},
		{"the same identity twice", func(c *Config) { c.ServerID = "b" }, nil, "b", ErrForbidden},
		{"not authorized", nil, func(c *Config) {
			c.Authorize = func(string, *tls.ConnectionState) error { return refuse }
		}, "b", ErrForbidden},
		{"retired", nil, func(c *Config) {
			c.Authorize = func(string, *tls.ConnectionState) error { return ErrRetired }
		}, "b", ErrRetired},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			told := false
			a, b := layer(t, "a", tt.dialer), layer(t, "b", tt.accept)
			a.cfg.OnRetired = func() { told = true }
			echo(b)
			if err := exchange(t, a, b, tt.to); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if told != errors.Is(tt.want, ErrRetired) {
				t.Errorf("told of its retirement: %v", told)
			}
		})
	}
}

func TestGarbageIsCutOff(t *testing.T) {
	t.Parallel()
	b := layer(t, "b", nil)
	for _, junk := range []string{"GET / HTTP/1.1\r\n\r\n", magic + "\xff", strings.Repeat("\xff", 4096)} {
		c, err := net.Dial("tcp", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(junk))
		_ = c.(*net.TCPConn).CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("junk %.10q was answered", junk)
		} else if errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		c.Close()
	}
}

func TestCloseEndsConnections(t *testing.T) {
	t.Parallel()
	a, b := layer(t, "a", nil), layer(t, "b", nil)
	echo(b)
	c, err := a.Dial(Target("b", b.Addr().String()), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b.Close()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the connection outlived its layer: %v", err)
	}
	if _, err := b.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestPlainOnlyOnLoopback(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, on, advertise string
		secure              bool
		want                string
	}{
		{"loopback", "127.0.0.1:0", "", false, ""},
		{"localhost", "127.0.0.1:0", "localhost:7", false, ""},
		{"wildcard without an address", "0.0.0.0:0", "", true, "give an address to advertise"},
		{"wildcard plain", "0.0.0.0:0", "127.0.0.1:7", false, "configure TLS"},
		{"advertise another machine plain", "127.0.0.1:0", "10.0.0.1:7", false, "configure TLS"},
		{"advertise another machine with TLS", "127.0.0.1:0", "10.0.0.1:7", true, ""},
		{"advertise nothing useful", "127.0.0.1:0", ":7", true, "no host"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := CheckAddress(listen(t, tt.on), tt.advertise, tt.secure)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	conf := selfSigned(t)
	secure := func(c *Config) { c.TLS = conf }
	var seen *tls.ConnectionState
	a := layer(t, "a", secure)
	b := layer(t, "b", func(c *Config) {
		c.TLS = conf
		c.Authorize = func(_ string, s *tls.ConnectionState) error { seen = s; return nil }
	})
	echo(b)
	if err := exchange(t, a, b, "b"); err != nil {
		t.Fatal(err)
	}
	if seen == nil || seen.Version != tls.VersionTLS13 || len(seen.PeerCertificates) != 1 {
		t.Errorf("the peer's certificate was not shown: %+v", seen)
	}
	plain := layer(t, "c", nil)
	if err := exchange(t, plain, b, "b"); err == nil {
		t.Error("a plain connection was served on a TLS port")
	}
}

func selfSigned(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}
}

func FuzzHello(f *testing.F) {
	var buf bytes.Buffer
	if err := writeHello(&buf, hello{"c", "a", "b"}); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := readHello(bytes.NewReader(data))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := writeHello(&out, h); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(data, out.Bytes()) {
			t.Errorf("read %+v from %q", h, data)
		}
	})
}
