package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

func TestCodecRoundTrip(t *testing.T) {
	t.Parallel()
	e := &raftlogv1.Entry{NowMs: 5, RequestId: "r", Actor: alice, Op: submitOp("k", script(2, 3, 4))}
	a, err := Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := Encode(clone(e))
	if !bytes.Equal(a, b) {
		t.Error("equal entries have different bytes")
	}
	got, err := Decode(a)
	if err != nil || !proto.Equal(got, e) {
		t.Errorf("decoded %v, %v", got, err)
	}
	for i := range a {
		for bit := range 8 {
			c := bytes.Clone(a)
			c[i] ^= 1 << bit
			if _, err := Decode(c); err == nil {
				t.Fatalf("bit %d of byte %d may be flipped unnoticed", bit, i)
			}
		}
		if _, err := Decode(a[:i]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut after %d bytes: %v", i, err)
		}
	}
}

// seal makes an entry of any bytes, with a right checksum.
func seal(body ...byte) []byte {
	sum := crcOf(body)
	return append(bytes.Clone(body), byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
}

func TestCodecRefusals(t *testing.T) {
	t.Parallel()
	big := &raftlogv1.Entry{Op: submitOp("k", &fettlev1.JobSpec{Script: make([]byte, model.MaxEntryBytes)})}
	if _, err := Encode(big); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if _, err := Encode(&raftlogv1.Entry{}); !errors.Is(err, ErrNoOp) {
		t.Errorf("no operation: %v", err)
	}
	unknownOp := []byte{FormatV1, 0xf2, 0x3f, 0} // field 1022, bytes, empty
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"empty":             {nil, ErrCorrupt},
		"too large":         {make([]byte, model.MaxEntryBytes+1), ErrTooLarge},
		"newer format":      {seal(2, 1, 2, 3), ErrNewer},
		"not protobuf":      {seal(FormatV1, 0xff, 0xff), ErrCorrupt},
		"no operation":      {seal(FormatV1), ErrNoOp},
		"unknown operation": {seal(unknownOp...), ErrNewer},
	} {
		if _, err := Decode(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// What cannot be read stops the process, with a line that says what to do, and changes nothing.
func TestUnreadableEntryIsFatal(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.submit(script(1, 1, 0))
	before := r.snap().Hash()
	r.raw(seal(2, 9))
	want := "67: entry 2 of the log cannot be read: log entry of a newer version: format 2, this one reads 1; " +
		"install the version that the other controllers run, or wipe this controller's data and start it with --join"
	if len(r.fatal) != 1 || r.fatal[0] != want {
		t.Errorf("fatal = %q", r.fatal)
	}
	if r.snap().Hash() != before {
		t.Error("the state changed")
	}
	f := New(state.New("x"), Config{})
	defer func() {
		if p := fmt.Sprint(recover()); !strings.HasPrefix(p, "exit 67: ") {
			t.Errorf("without a Fatal: %s", p)
		}
		// The lock must not be left behind.
		f.Store().Batch().Publish()
	}()
	f.Apply(&raft.Log{Index: 1, Type: raft.LogCommand})
}

// A panic refuses the entry, alike on every replica, drops all that the entry had changed, and the next entry is fine.
func TestPanicDropsTheEntry(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.submit(script(1, 1, 0))
	before := r.snap()
	b := r.f.Store().Batch()
	b.Advance(2, r.now)
	txn := b.Begin()
	txn.EditJob(1).State = model.Failed
	// Decode would never let an entry without an operation through.
	res := r.f.guarded(txn, &raftlogv1.Entry{Actor: alice})
	b.Begin()
	b.Publish()
	wantRefusal(t, res.Err, model.Internal, "the request hit a fault in fettle and was dropped; please report it")
	if r.snap().Hash() != before.Hash() || r.snap().Job(1) != before.Job(1) {
		t.Error("the dropped entry left something behind")
	}
	r.index = 2
	r.ok(cancelOp(1))
}

// Readers see a batch at once, and other kinds of log entries have no result.
func TestApplyBatch(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	sub := r.f.Store().Subscribe(4)
	defer sub.Close()
	var logs []*raft.Log
	for i := range 3 {
		b, err := Encode(&raftlogv1.Entry{NowMs: 1, Actor: alice, Op: submitOp(fmt.Sprint(i), script(1, 1, 0))})
		if err != nil {
			t.Fatal(err)
		}
		logs = append(logs, &raft.Log{Index: uint64(i + 1), Type: raft.LogCommand, Data: b})
	}
	logs = append(logs, &raft.Log{Index: 4, Type: raft.LogConfiguration})
	out := r.f.ApplyBatch(logs)
	if len(out) != 4 || out[3] != nil || out[2].(*Result).Submit[0].JobID != 3 {
		t.Errorf("results = %v", out)
	}
	if s := r.snap(); s.Index() != 4 || s.Counts().Pending() != 3 {
		t.Errorf("index %d, %d pending", s.Index(), s.Counts().Pending())
	}
	c := <-sub.C()
	if c.Index != 4 || len(c.Jobs) != 3 || len(c.Events) != 3 || c.Events[2].GetIndex() != 3 {
		t.Errorf("changes = %+v", c)
	}
	select {
	case c := <-sub.C():
		t.Errorf("a second change set: %+v", c)
	default:
	}
}
