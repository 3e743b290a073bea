package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

const (
	fileMagic   = "fettlejr"
	fileVersion = 1
	// The header is magic, version, salt, CRC32C of these; little endian.
	headerSize = 8 + 4 + 8 + 4

	frameMagic = 0xf3771e01
	// A frame's head is magic, payload length, salted CRC32C of length and payload; frames begin at multiples of frameAlign.
	frameHead  = 12
	frameAlign = 8
	// maxFrame bounds what is read back; a group is split before it grows that far.
	maxFrame = 64 << 20
)

// Errors of recovery.
var (
	// ErrDamaged: a record that was on disk is not as it was written.
	ErrDamaged = errors.New("journal is damaged")
	// ErrVersion: written by a later version.
	ErrVersion = errors.New("journal was written by a later version")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendHeader(b []byte, salt uint64) []byte {
	start := len(b)
	b = append(b, fileMagic...)
	b = binary.LittleEndian.AppendUint32(b, fileVersion)
	b = binary.LittleEndian.AppendUint64(b, salt)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
	return pad(b)
}

func pad(b []byte) []byte {
	for len(b)%frameAlign != 0 {
		b = append(b, 0)
	}
	return b
}

// appendFrame adds one frame with the records to b, whose length must be a multiple of frameAlign.
func appendFrame(b []byte, salt uint64, records [][]byte) []byte {
	start := len(b)
	b = append(b, make([]byte, frameHead)...)
	for _, r := range records {
		b = binary.AppendUvarint(b, uint64(len(r)))
		b = append(b, r...)
	}
	head, payload := b[start:start+frameHead], b[start+frameHead:]
	binary.LittleEndian.PutUint32(head, frameMagic)
	binary.LittleEndian.PutUint32(head[4:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(head[8:], frameSum(salt, head[4:8], payload))
	return pad(b)
}

func frameSum(salt uint64, length, payload []byte) uint32 {
	var s [8]byte
	binary.LittleEndian.PutUint64(s[:], salt)
	return crc32.Update(crc32.Update(crc32.Checksum(s[:], castagnoli), castagnoli, length), castagnoli, payload)
}

// parse reads a whole file and returns its records in order. A torn tail is dropped; torn says how long it was.
func parse(b []byte) (records [][]byte, torn int, err error) {
	if len(b) < headerSize || string(b[:8]) != fileMagic {
		return nil, 0, fmt.Errorf("%w: it has no header", ErrDamaged)
	}
	if crc32.Checksum(b[:20], castagnoli) != binary.LittleEndian.Uint32(b[20:]) {
		return nil, 0, fmt.Errorf("%w: its header", ErrDamaged)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != fileVersion {
		return nil, 0, fmt.Errorf("%w: format %d", ErrVersion, v)
	}
	salt := binary.LittleEndian.Uint64(b[12:])
	off := len(pad(b[:headerSize:headerSize]))
	for off < len(b) {
		recs, size, ok := frameAt(b[off:], salt)
		if !ok {
			break
		}
		records = append(records, recs...)
		off += size
	}
	off = min(off, len(b))
	rest := bytes.TrimRight(b[off:], "\x00")
	for i := frameAlign; i < len(rest); i += frameAlign {
		if _, _, ok := frameAt(b[off+i:], salt); ok {
			return nil, 0, fmt.Errorf("%w at byte %d, before whole records at byte %d", ErrDamaged, off, off+i)
		}
	}
	return records, len(rest), nil
}

// frameAt reads the frame at the start of b and says how many bytes it takes with its padding.
func frameAt(b []byte, salt uint64) (records [][]byte, size int, ok bool) {
	if len(b) < frameHead || binary.LittleEndian.Uint32(b) != frameMagic {
		return nil, 0, false
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if n > maxFrame || uint64(n) > uint64(len(b)-frameHead) {
		return nil, 0, false
	}
	payload := b[frameHead : frameHead+int(n)]
	if frameSum(salt, b[4:8], payload) != binary.LittleEndian.Uint32(b[8:]) {
		return nil, 0, false
	}
	for len(payload) > 0 {
		l, k := binary.Uvarint(payload)
		if k <= 0 || l > uint64(len(payload)-k) {
			return nil, 0, false
		}
		records = append(records, payload[k:k+int(l)])
		payload = payload[k+int(l):]
	}
	size = frameHead + int(n)
	return records, (size + frameAlign - 1) / frameAlign * frameAlign, true
}
