package handoff

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

func sampleOrder() *Order {
	return &Order{
		Key: "7.2.99", FilesDir: "/f", Argv: []string{"prog", "", "a b\nc"}, Script: []byte("#!/bin/sh\n"),
		Files: []File{{Path: "x/y.yaml", Mode: 0o600, Content: []byte{0, 1}}, {Path: "z", Content: []byte{}}},
		Env:   []string{"A=1", "B="}, Dir: "/w", Stdout: "/w/o", Stderr: "/w/e", Truncate: true, Preamble: "note\n",
		UID: 4294967295, GID: 5, Groups: []uint32{0, 5, 4294967294}, SwitchUser: true,
		TimeLimitS: 60, GraceMS: 30_000, LeasePath: "/l", LeaseEpochMS: 77,
		Cgroup:      Cgroup{V2Dir: "/c", V1Dirs: []string{"/a", "/b"}, FreezerDir: "/b", OOMFile: "/o", OOMBase: 2},
		HideDevices: []string{"/dev/nvidia1"}, DenyPath: "/deny", Daemon: []byte("d"),
	}
}

var sampleExit = Exit{Code: -1, Signal: 9, NeverStarted: true, UserError: true, OOMKilled: true, TimedOut: true, VRAMExceeded: true,
	LeaseExpired: true, ShimLost: true, Detail: "x", StartMS: 1, EndMS: 2, Outputs: Outputs{StdoutStart: 3, StderrStart: 4}}

func TestOrderComesBack(t *testing.T) {
	t.Parallel()
	for _, o := range []*Order{sampleOrder(), {}} {
		b := o.Marshal()
		back, size, err := ParseOrder(append(bytes.Clone(b), 1, 2, 3))
		if err != nil || size != len(b) {
			t.Fatalf("%d of %d bytes, %v", size, len(b), err)
		}
		if !reflect.DeepEqual(o, back) {
			t.Errorf("%+v became %+v", o, back)
		}
	}
}

func TestDamagedOrderIsRefused(t *testing.T) {
	t.Parallel()
	whole := sampleOrder().Marshal()
	for i := range whole {
		if _, _, err := ParseOrder(whole[:i]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
		b := bytes.Clone(whole)
		b[i] ^= 0x10
		if _, _, err := ParseOrder(b); err == nil {
			t.Fatalf("byte %d changed: taken", i)
		}
	}
	if _, _, err := ParseOrder(sampleExit.Marshal()); !errors.Is(err, ErrDamaged) {
		t.Errorf("an exit was taken for an order: %v", err)
	}
	if _, _, err := ParseOrder(sealVersion(kindOrder, 9, nil)); !errors.Is(err, ErrVersion) {
		t.Errorf("an order of version 9: %v", err)
	}
}

func records() (b []byte, want Records) {
	controls := []Control{{Stop: true, GraceMS: 5}, {Signal: 10}, {Limit: true}, {Stop: true, VRAMExceeded: true, Detail: "much"}}
	b = (&Shim{PID: 1 << 30}).Marshal()
	b = append(b, controls[0].Marshal()...)
	b = append(b, Launch{}.Marshal()...)
	b = append(b, Outputs{StdoutStart: 1 << 40, StderrStart: 5}.Marshal()...)
	b = append(b, controls[1].Marshal()...)
	b = append(b, controls[2].Marshal()...)
	b = append(b, controls[3].Marshal()...)
	b = append(b, sampleExit.Marshal()...)
	e := sampleExit
	return b, Records{Shim: &Shim{PID: 1 << 30}, Launched: true, Controls: controls, Outputs: Outputs{StdoutStart: 1 << 40, StderrStart: 5}, Exit: &e}
}

func merge(a, b Records) Records {
	a.Controls = append(a.Controls, b.Controls...)
	a.Launched = a.Launched || b.Launched
	if b.Shim != nil {
		a.Shim = b.Shim
	}
	if b.Exit != nil {
		a.Exit = b.Exit
	}
	if b.Outputs != (Outputs{}) {
		a.Outputs = b.Outputs
	}
	a.Damaged += b.Damaged
	return a
}

func TestRecordsAreReadAsTheyCome(t *testing.T) {
	t.Parallel()
	b, want := records()
	for cut := range b {
		first, taken := ParseRecords(b[:cut])
		second, more := ParseRecords(b[taken:])
		if got := merge(first, second); !reflect.DeepEqual(got, want) || taken+more != len(b) {
			t.Fatalf("cut at %d: %+v", cut, got)
		}
	}
}

func TestDamageHidesNothingAfterIt(t *testing.T) {
	t.Parallel()
	b, want := records()
	// A full disk cuts a record short, and later ones follow.
	torn := append(bytes.Clone((&Control{Stop: true}).Marshal()[:9]), b...)
	got, taken := ParseRecords(torn)
	want.Damaged = 1
	if !reflect.DeepEqual(got, want) || taken != len(torn) {
		t.Errorf("%+v", got)
	}
	// A record and a field of a later version are passed over.
	var f fields
	f.num(exitCode, 3)
	f.text(200, "from the future")
	later := append(sealVersion(77, 2, []byte("?")), seal(78, nil)...)
	later = append(later, seal(kindExit, f)...)
	if got, taken := ParseRecords(later); got.Exit == nil || got.Exit.Code != 3 || taken != len(later) {
		t.Errorf("%+v", got)
	}
}

func TestLeaseComesBack(t *testing.T) {
	t.Parallel()
	l := &Lease{BootID: "82d765d8-d05d-4220-9aaf-9b2d0e5afa9b", EpochMS: 1 << 60, DeadlineMS: 1 << 61}
	b := l.Marshal()
	if back, err := ParseLease(b); err != nil || *back != *l || len(b) != LeaseSize {
		t.Errorf("%+v, %v, %d bytes", back, err, len(b))
	}
	b[20] ^= 1
	if _, err := ParseLease(b); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	b, _ := records()
	f.Add(append(sampleOrder().Marshal(), b...))
	f.Add(b)
	f.Add((&Lease{BootID: "b", EpochMS: 1}).Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, _, err := ParseOrder(b); err == nil {
			again, _, err := ParseOrder(o.Marshal())
			if err != nil || !reflect.DeepEqual(o, again) {
				t.Errorf("order %+v became %+v, %v", o, again, err)
			}
		}
		r, taken := ParseRecords(b)
		if taken > len(b) {
			t.Errorf("took %d of %d bytes", taken, len(b))
		}
		if r.Exit != nil {
			if back, _ := ParseRecords(r.Exit.Marshal()); *back.Exit != *r.Exit {
				t.Errorf("exit %+v became %+v", r.Exit, back.Exit)
			}
		}
		_, _ = ParseLease(b)
	})
}
