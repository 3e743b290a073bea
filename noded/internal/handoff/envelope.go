package handoff

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// An envelope is magic, kind, version, payload length, CRC32C of all before and of the payload; little endian.
const (
	envelopeMagic = 0x1ef7
	envelopeSize  = 2 + 1 + 1 + 4 + 4
	// MaxPayload bounds what is read back.
	MaxPayload = 16 << 20
)

// Kinds of envelopes.
const (
	kindOrder   = 1
	kindShim    = 2
	kindControl = 3
	kindExit    = 4
	kindLease   = 5
	kindLaunch  = 6
	kindOutputs = 7
)

const formatVersion = 1

// Errors of decoding.
var (
	// ErrDamaged: the bytes are cut short, or their checksum is wrong.
	ErrDamaged = errors.New("cut short or damaged")
	// ErrVersion: written by a version that this one does not read.
	ErrVersion = errors.New("written in a format of another version")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func seal(kind byte, payload []byte) []byte { return sealVersion(kind, formatVersion, payload) }

func sealVersion(kind, version byte, payload []byte) []byte {
	b := make([]byte, envelopeSize, envelopeSize+len(payload))
	binary.LittleEndian.PutUint16(b, envelopeMagic)
	b[2], b[3] = kind, version
	binary.LittleEndian.PutUint32(b[4:], uint32(len(payload)))
	sum := crc32.Update(crc32.Checksum(b[:8], castagnoli), castagnoli, payload)
	binary.LittleEndian.PutUint32(b[8:], sum)
	return append(b, payload...)
}

// open checks the first envelope in b and returns its payload and what follows it, also with ErrVersion.
func open(kind byte, b []byte) (payload, rest []byte, err error) {
	if len(b) < envelopeSize || binary.LittleEndian.Uint16(b) != envelopeMagic || b[2] != kind {
		return nil, nil, ErrDamaged
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if n > MaxPayload || uint64(len(b)-envelopeSize) < uint64(n) {
		return nil, nil, ErrDamaged
	}
	payload = b[envelopeSize : envelopeSize+int(n)]
	sum := crc32.Update(crc32.Checksum(b[:8], castagnoli), castagnoli, payload)
	if sum != binary.LittleEndian.Uint32(b[8:]) {
		return nil, nil, ErrDamaged
	}
	rest = b[envelopeSize+int(n):]
	if b[3] != formatVersion {
		return nil, rest, ErrVersion
	}
	return payload, rest, nil
}

// fields writes tagged values: tag, length, bytes. A reader skips tags that it does not know.
type fields []byte

func (f *fields) bytes(tag uint64, v []byte) {
	*f = binary.AppendUvarint(*f, tag)
	*f = binary.AppendUvarint(*f, uint64(len(v)))
	*f = append(*f, v...)
}

func (f *fields) text(tag uint64, v string) {
	if v != "" {
		f.bytes(tag, []byte(v))
	}
}

func (f *fields) texts(tag uint64, vs []string) {
	for _, v := range vs {
		f.bytes(tag, []byte(v))
	}
}

func (f *fields) num(tag uint64, v int64) {
	if v != 0 {
		f.bytes(tag, binary.AppendVarint(nil, v))
	}
}

func (f *fields) flag(tag uint64, v bool) {
	if v {
		f.num(tag, 1)
	}
}

// each calls fn for every field; it stops at the first damage.
func each(b []byte, fn func(tag uint64, v []byte)) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return ErrDamaged
		}
		b = b[n:]
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return ErrDamaged
		}
		fn(tag, b[n:n+int(size)])
		b = b[n+int(size):]
	}
	return nil
}

func num(v []byte) int64 {
	n, size := binary.Varint(v)
	if size != len(v) {
		return 0
	}
	return n
}
