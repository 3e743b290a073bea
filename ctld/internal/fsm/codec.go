package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"

	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// FormatV1 is the first byte of every entry: protobuf follows, then the CRC32C of all before it, little endian.
const FormatV1 byte = 1

const crcLen = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Why an entry cannot be encoded or decoded.
var (
	// ErrTooLarge: the entry is above model.MaxEntryBytes; split it.
	ErrTooLarge = errors.New("log entry too large")
	// ErrCorrupt: the bytes are not those that were written.
	ErrCorrupt = errors.New("log entry corrupt")
	// ErrNewer: written by a newer fettle.
	ErrNewer = errors.New("log entry of a newer version")
	// ErrNoOp: the entry holds no operation.
	ErrNoOp = errors.New("log entry without an operation")
)

// Encode returns an entry as it goes into the log. Equal entries give equal bytes.
func Encode(e *raftlogv1.Entry) ([]byte, error) {
	if e.GetOp() == nil {
		return nil, ErrNoOp
	}
	size := 1 + proto.Size(e) + crcLen
	if size > model.MaxEntryBytes {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, size, model.MaxEntryBytes)
	}
	b := append(make([]byte, 0, size), FormatV1)
	b, err := proto.MarshalOptions{Deterministic: true, UseCachedSize: true}.MarshalAppend(b, e)
	if err != nil {
		return nil, fmt.Errorf("marshal log entry: %w", err)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// Decode reads what Encode wrote.
func Decode(b []byte) (*raftlogv1.Entry, error) {
	if len(b) > model.MaxEntryBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(b))
	}
	if len(b) < 1+crcLen {
		return nil, fmt.Errorf("%w: %d bytes", ErrCorrupt, len(b))
	}
	body, want := b[:len(b)-crcLen], binary.LittleEndian.Uint32(b[len(b)-crcLen:])
	if got := crc32.Checksum(body, castagnoli); got != want {
		return nil, fmt.Errorf("%w: checksum %08x, written with %08x", ErrCorrupt, got, want)
	}
	if body[0] != FormatV1 {
		return nil, fmt.Errorf("%w: format %d, this one reads %d", ErrNewer, body[0], FormatV1)
	}
	e := new(raftlogv1.Entry)
	if err := proto.Unmarshal(body[1:], e); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	if len(e.ProtoReflect().GetUnknown()) > 0 {
		return nil, fmt.Errorf("%w: it has fields that are not known here", ErrNewer)
	}
	if e.GetOp() == nil {
		return nil, ErrNoOp
	}
	return e, nil
}
