package nodemachine

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func sampleRecords() []*Record {
	k := Key{Job: 12, Attempt: 3, Fence: 1 << 40}
	return []*Record{
		{Kind: RecordIdentity, Cluster: "c1", Node: "n1"},
		{Kind: RecordBoot, BootID: "b"},
		{Kind: RecordSession, Term: 7, Session: 1 << 50},
		{Kind: RecordIntent, Key: k},
		{Kind: RecordIntent, Key: k, Prepare: &fettlev1.Prepare{User: "ada", TimeLimitS: 5}},
		{Kind: RecordIntent, Key: k, Prepare: &fettlev1.Prepare{}},
		{Kind: RecordEnd, Key: k, Exit: &fettlev1.Exit{Code: -1, NeverStarted: true, Detail: "x"}},
		{Kind: RecordTombstone, Key: k},
		{Kind: RecordForget, Key: k},
		{Kind: RecordLimit, Key: k, Seconds: -4},
	}
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	for _, r := range sampleRecords() {
		b, err := r.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseRecord(b)
		if err != nil {
			t.Fatalf("kind %d: %v", r.Kind, err)
		}
		if (r.Prepare == nil) != (back.Prepare == nil) || !proto.Equal(r.Prepare, back.Prepare) || !proto.Equal(r.Exit, back.Exit) {
			t.Errorf("kind %d: %v became %v", r.Kind, r, back)
		}
		x, y := *r, *back
		x.Prepare, x.Exit, y.Prepare, y.Exit = nil, nil, nil, nil
		if x != y {
			t.Errorf("%+v became %+v", x, y)
		}
		for i := range b {
			if _, err := ParseRecord(b[:i]); err == nil {
				t.Errorf("kind %d cut to %d of %d bytes was taken", r.Kind, i, len(b))
			}
		}
	}
}

func TestOwner(t *testing.T) {
	t.Parallel()
	m := New(Config{Node: "n1"})
	m.Step(1, Boot{BootID: "b"})
	if cluster, node := Owner(m.Snapshot()); cluster != "" || node != "n1" {
		t.Errorf("%q, %q", cluster, node)
	}
	if cluster, node := Owner(nil); cluster != "" || node != "" {
		t.Errorf("a new journal: %q, %q", cluster, node)
	}
}

func TestRecordsOfALaterVersionAreRefused(t *testing.T) {
	t.Parallel()
	for _, b := range [][]byte{{recordFormat + 1, 1, 0}, {recordFormat, 200, 0}} {
		if _, err := ParseRecord(b); !errors.Is(err, ErrRecordFormat) {
			t.Errorf("%v: %v", b, err)
		}
	}
	if _, err := (&Record{Kind: 99}).AppendBinary(nil); !errors.Is(err, ErrRecordFormat) {
		t.Errorf("encode: %v", err)
	}
}

func FuzzParseRecord(f *testing.F) {
	for _, r := range sampleRecords() {
		b, err := r.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecord(b)
		if err != nil {
			return
		}
		again, err := r.AppendBinary(nil)
		if err != nil {
			t.Fatalf("decoded %+v does not encode: %v", r, err)
		}
		back, err := ParseRecord(again)
		if err != nil {
			t.Fatalf("re-encoded %+v does not decode: %v", r, err)
		}
		// Encodings need not be unique on the way in, but are on the way out.
		third, err := back.AppendBinary(nil)
		if err != nil || !bytes.Equal(again, third) {
			t.Fatalf("%x became %x (%v)", again, third, err)
		}
	})
}

func TestKeyText(t *testing.T) {
	t.Parallel()
	k := Key{Job: 18446744073709551615, Attempt: 4294967295, Fence: 0}
	if got, ok := ParseKey(k.String()); !ok || got != k {
		t.Errorf("%v became %v, %v", k, got, ok)
	}
	for _, s := range []string{"", "1", "1.2", "1.2.", "1.2.3.4", "01.2.3", "-1.2.3", "+1.2.3", "1.2.x", "1..3", "0.1.1",
		"1.4294967296.1", "1.2.18446744073709551616", "../1.2", "1.2.3/"} {
		if k, ok := ParseKey(s); ok {
			t.Errorf("%q was taken as %v", s, k)
		}
	}
}
