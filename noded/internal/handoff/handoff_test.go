package handoff

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

func sampleOrder() *Order {
	return &Order{
		Key: "7.2.99", Argv: []string{"prog", "", "a b\nc"}, Script: []byte("#!/bin/sh\n"),
		Files: []File{{Path: "x/y.yaml", Mode: 0o600, Content: []byte{0, 1}}, {Path: "z", Content: []byte{}}},
		Env:   []string{"A=1", "B="}, Dir: "/w", Stdout: "/w/o", Stderr: "/w/e", Truncate: true, Preamble: "note\n",
		UID: 4294967295, GID: 5, Groups: []uint32{0, 5, 4294967294}, SwitchUser: true,
		TimeLimitS: 60, GraceMS: 30_000, LeasePath: "/l", LeaseEpochMS: 77,
		Cgroup:      Cgroup{V2Dir: "/c", V1Dirs: []string{"/a", "/b"}, FreezerDir: "/b", OOMFile: "/o"},
		HideDevices: []string{"/dev/nvidia1"}, DenyPath: "/deny", Daemon: []byte("d"),
	}
}

func TestOrderComesBack(t *testing.T) {
	t.Parallel()
	for _, o := range []*Order{sampleOrder(), {}} {
		back, err := ParseOrder(o.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(o, back) {
			t.Errorf("%+v became %+v", o, back)
		}
	}
}

func TestRecordsComeBack(t *testing.T) {
	t.Parallel()
	e := &Exit{Code: -1, Signal: 9, NeverStarted: true, UserError: true, OOMKilled: true, TimedOut: true, LeaseExpired: true,
		ShimLost: true, Detail: "x", StartMS: 1, EndMS: 2}
	if back, err := ParseExit(e.Marshal()); err != nil || *back != *e {
		t.Errorf("exit: %+v, %v", back, err)
	}
	s := &Shim{PID: 1 << 30}
	if back, err := ParseShim(s.Marshal()); err != nil || *back != *s {
		t.Errorf("shim: %+v, %v", back, err)
	}
	l := &Lease{BootID: "82d765d8-d05d-4220-9aaf-9b2d0e5afa9b", EpochMS: 1 << 60, DeadlineMS: 1 << 61}
	b := l.Marshal()
	if back, err := ParseLease(b); err != nil || *back != *l || len(b) != LeaseSize {
		t.Errorf("lease: %+v, %v, %d bytes", back, err, len(b))
	}
}

func TestDamageIsSeen(t *testing.T) {
	t.Parallel()
	whole := sampleOrder().Marshal()
	for i := range whole {
		if _, err := ParseOrder(whole[:i]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
		b := bytes.Clone(whole)
		b[i] ^= 0x10
		if _, err := ParseOrder(b); err == nil {
			t.Fatalf("byte %d changed: taken", i)
		}
	}
	if _, err := ParseExit(whole); !errors.Is(err, ErrDamaged) {
		t.Errorf("an order was taken for an exit: %v", err)
	}
}

func TestLaterFieldsAreSkipped(t *testing.T) {
	t.Parallel()
	var f fields
	f.num(exitCode, 3)
	f.text(200, "from the future")
	if e, err := ParseExit(seal(kindExit, f)); err != nil || e.Code != 3 {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestLaterVersionIsNamed(t *testing.T) {
	t.Parallel()
	b := seal(kindExit, nil)
	// A later version has a later checksum too: build it by hand.
	c := sealVersion(kindExit, 9, nil)
	if _, err := ParseExit(c); !errors.Is(err, ErrVersion) {
		t.Errorf("version 9: %v", err)
	}
	if _, err := ParseExit(b); err != nil {
		t.Error(err)
	}
}

func TestControlsAreReadOneAfterAnother(t *testing.T) {
	t.Parallel()
	a, b, c := Control{Stop: true, GraceMS: 5}, Control{Signal: 10}, Control{Limit: true, LimitS: 0}
	whole := append(append(a.Marshal(), b.Marshal()...), c.Marshal()...)
	for cut := range whole {
		cs, taken := ParseControls(whole[:cut])
		more, _ := ParseControls(whole[taken:])
		if got := append(cs, more...); !reflect.DeepEqual(got, []Control{a, b, c}) {
			t.Fatalf("cut at %d: %+v", cut, got)
		}
	}
	// A record that a full disk cut short does not hide the ones after it.
	broken := append(append(bytes.Clone(a.Marshal()[:9]), b.Marshal()...), c.Marshal()...)
	if cs, taken := ParseControls(broken); !reflect.DeepEqual(cs, []Control{b, c}) || taken != len(broken) {
		t.Errorf("after a torn record: %+v, %d of %d", cs, taken, len(broken))
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sampleOrder().Marshal())
	f.Add((&Exit{Code: 1, Detail: "x"}).Marshal())
	f.Add((&Shim{PID: 4}).Marshal())
	f.Add((&Lease{BootID: "b", EpochMS: 1}).Marshal())
	f.Add(append((&Control{Stop: true}).Marshal(), (&Control{Signal: 2}).Marshal()...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := ParseOrder(b); err == nil {
			again, err := ParseOrder(o.Marshal())
			if err != nil || !reflect.DeepEqual(o, again) {
				t.Errorf("order %+v became %+v, %v", o, again, err)
			}
		}
		if e, err := ParseExit(b); err == nil {
			if again, err := ParseExit(e.Marshal()); err != nil || *again != *e {
				t.Errorf("exit %+v became %+v, %v", e, again, err)
			}
		}
		if _, taken := ParseControls(b); taken > len(b) {
			t.Errorf("took %d of %d bytes", taken, len(b))
		}
		_, _ = ParseLease(b)
		_, _ = ParseShim(b)
	})
}
