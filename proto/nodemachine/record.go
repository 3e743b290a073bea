package nodemachine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// RecordKind says what a journal record means. Numbers never change.
type RecordKind uint8

// Kinds of records.
const (
	// RecordIdentity pins the journal to a node and, once it has had a session, to a cluster.
	RecordIdentity RecordKind = 1
	// RecordBoot carries the boot id under which the records after it were made.
	RecordBoot RecordKind = 2
	// RecordSession is the highest session and term obeyed.
	RecordSession RecordKind = 3
	// RecordIntent: the attempt may be started from now on. Prepare is unset once it was.
	RecordIntent RecordKind = 4
	// RecordEnd: the attempt never started on this node, and never will, or is known to be over without an exit record.
	RecordEnd RecordKind = 5
	// RecordTombstone: an attempt that was ended before it was known.
	RecordTombstone RecordKind = 6
	// RecordForget: the end was acknowledged.
	RecordForget RecordKind = 7
	// RecordLimit replaces the time limit of an attempt that waits to be started.
	RecordLimit RecordKind = 8
)

// Record is one line of the node's durable memory. Which fields count depends on the kind.
type Record struct {
	Kind    RecordKind
	Key     Key
	Cluster string
	Node    string
	BootID  string
	Term    uint64
	Session uint64
	Seconds int64
	Prepare *fettlev1.Prepare
	Exit    *fettlev1.Exit
}

const recordFormat = 1

// Owner says which node of which cluster a journal belongs to; empty strings for a new one.
func Owner(records []*Record) (cluster, node string) {
	for _, r := range records {
		if r.Kind == RecordIdentity {
			cluster, node = r.Cluster, r.Node
		}
	}
	return cluster, node
}

// ErrRecordFormat is returned for a record of a later format or kind.
var ErrRecordFormat = errors.New("journal record of an unknown format: it was written by a later version")

var errRecordShort = errors.New("journal record is cut short or has bytes to spare")

// AppendBinary appends the record's encoding.
func (r *Record) AppendBinary(b []byte) ([]byte, error) {
	b = append(b, recordFormat, byte(r.Kind))
	switch r.Kind {
	case RecordIdentity:
		b = appendBytes(b, []byte(r.Cluster))
		b = appendBytes(b, []byte(r.Node))
	case RecordBoot:
		b = appendBytes(b, []byte(r.BootID))
	case RecordSession:
		b = binary.AppendUvarint(b, r.Term)
		b = binary.AppendUvarint(b, r.Session)
	case RecordIntent:
		b = appendKey(b, r.Key)
		return appendMessage(b, r.Prepare, r.Prepare == nil)
	case RecordEnd:
		b = appendKey(b, r.Key)
		return appendMessage(b, r.Exit, r.Exit == nil)
	case RecordTombstone, RecordForget:
		b = appendKey(b, r.Key)
	case RecordLimit:
		b = appendKey(b, r.Key)
		b = binary.AppendVarint(b, r.Seconds)
	default:
		return nil, fmt.Errorf("record kind %d: %w", r.Kind, ErrRecordFormat)
	}
	return b, nil
}

// ParseRecord reads one record; all of b must belong to it.
func ParseRecord(b []byte) (*Record, error) {
	if len(b) < 2 {
		return nil, errRecordShort
	}
	if b[0] != recordFormat {
		return nil, fmt.Errorf("record format %d: %w", b[0], ErrRecordFormat)
	}
	r := &Record{Kind: RecordKind(b[1])}
	d := decoder{b: b[2:]}
	switch r.Kind {
	case RecordIdentity:
		r.Cluster, r.Node = string(d.bytes()), string(d.bytes())
	case RecordBoot:
		r.BootID = string(d.bytes())
	case RecordSession:
		r.Term, r.Session = d.uvarint(), d.uvarint()
	case RecordIntent:
		r.Key = d.key()
		if p := d.message(); p != nil {
			r.Prepare = &fettlev1.Prepare{}
			d.unmarshal(p, r.Prepare)
		}
	case RecordEnd:
		r.Key = d.key()
		r.Exit = &fettlev1.Exit{}
		d.unmarshal(d.message(), r.Exit)
	case RecordTombstone, RecordForget:
		r.Key = d.key()
	case RecordLimit:
		r.Key = d.key()
		r.Seconds = d.varint()
	default:
		return nil, fmt.Errorf("record kind %d: %w", r.Kind, ErrRecordFormat)
	}
	if d.err == nil && len(d.b) != 0 {
		d.err = errRecordShort
	}
	if d.err != nil {
		return nil, fmt.Errorf("record kind %d: %w", r.Kind, d.err)
	}
	return r, nil
}

func appendKey(b []byte, k Key) []byte {
	b = binary.AppendUvarint(b, k.Job)
	b = binary.AppendUvarint(b, uint64(k.Attempt))
	return binary.AppendUvarint(b, k.Fence)
}

func appendBytes(b, v []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// appendMessage writes a presence byte and the message's bytes.
func appendMessage(b []byte, m proto.Message, absent bool) ([]byte, error) {
	if absent {
		return append(b, 0), nil
	}
	v, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("journal record: %w", err)
	}
	return appendBytes(append(b, 1), v), nil
}

type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() { d.b, d.err = nil, errRecordShort }

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

// message returns nil when the message is absent.
func (d *decoder) message() []byte {
	switch d.uvarint() {
	case 0:
		return nil
	case 1:
		v := d.bytes()
		if v == nil && d.err == nil {
			v = []byte{}
		}
		return v
	}
	d.fail()
	return nil
}

func (d *decoder) unmarshal(b []byte, m proto.Message) {
	if d.err != nil {
		return
	}
	if err := proto.Unmarshal(b, m); err != nil {
		d.err = err
	}
}

func (d *decoder) key() Key {
	k := Key{Job: d.uvarint()}
	a := d.uvarint()
	if a > math.MaxUint32 {
		d.fail()
	}
	k.Attempt, k.Fence = uint32(a), d.uvarint()
	return k
}
