package state

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func TestEqualTextsShareMemory(t *testing.T) {
	t.Parallel()
	in := newInterner()
	spec := func(name string) *fettlev1.JobSpec {
		return &fettlev1.JobSpec{
			Name: name, Partition: strings.Clone("gpu"), WorkDir: strings.Clone("/home/a"), Script: []byte("#!/bin/sh\n"), Args: []string{strings.Clone("-v")},
			GpusPerNode: &fettlev1.GPURequest{Type: strings.Clone("h100"), Count: 2},
			Env:         []*fettlev1.KeyValue{{Key: strings.Clone("A"), Value: strings.Clone("1")}},
		}
	}
	a, b := spec("a"), spec("b")
	in.share(a)
	in.share(b)
	if unsafe.StringData(a.Partition) != unsafe.StringData(b.Partition) || unsafe.StringData(a.WorkDir) != unsafe.StringData(b.WorkDir) ||
		&a.Script[0] != &b.Script[0] || &a.Env[0] != &b.Env[0] || a.GpusPerNode != b.GpusPerNode || unsafe.StringData(a.Args[0]) != unsafe.StringData(b.Args[0]) {
		t.Error("equal texts are kept twice")
	}
	if a.Name != "a" || b.Name != "b" {
		t.Error("different texts were mixed up")
	}
	k := specKey{submit: [32]byte{1}}
	if in.spec(k, a) != a || in.spec(k, spec("a")) != a || in.spec(specKey{submit: [32]byte{2}}, b) != b {
		t.Error("equal specifications are kept twice, or different ones mixed up")
	}
}

// Lists whose parts run together differently are different.
func TestInternedListsAreNotMixedUp(t *testing.T) {
	t.Parallel()
	in := newInterner()
	a := []*fettlev1.KeyValue{{Key: "ab", Value: "c"}}
	b := []*fettlev1.KeyValue{{Key: "a", Value: "bc"}}
	in.keyValues(&a)
	in.keyValues(&b)
	if b[0].Key != "a" || b[0].Value != "bc" {
		t.Errorf("b = %v", b)
	}
}

func TestInternerIsBounded(t *testing.T) {
	t.Parallel()
	in := newInterner()
	for i := range 100_000 {
		s := fmt.Sprintf("%0200d", i)
		in.str(&s)
	}
	if in.held > maxInterned || len(in.strings) > maxInterned/200 {
		t.Errorf("%d bytes in %d strings are held", in.held, len(in.strings))
	}
}
