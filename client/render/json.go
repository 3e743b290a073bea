package render

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// binaryPrefix marks a bytes field that is not plain text.
const binaryPrefix = "base64:"

// AppendMessage appends m as one line of JSON, by the rules of json.md: every field is always there, under its protobuf
// name and in the order of the .proto file. m may be nil.
func AppendMessage(dst []byte, m proto.Message) []byte {
	if m == nil || !m.ProtoReflect().IsValid() {
		return append(dst, "null"...)
	}
	return appendMessage(dst, m.ProtoReflect())
}

func appendMessage(dst []byte, m protoreflect.Message) []byte {
	dst = append(dst, '{')
	for i, f := range layoutOf(m.Descriptor()) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, f.key...)
		switch {
		case f.list:
			dst = appendList(dst, f, m.Get(f.desc).List())
		case f.presence && !m.Has(f.desc):
			dst = append(dst, "null"...)
		default:
			dst = appendValue(dst, f, m.Get(f.desc))
		}
	}
	return append(dst, '}')
}

func appendList(dst []byte, f *field, l protoreflect.List) []byte {
	dst = append(dst, '[')
	for i := range l.Len() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendValue(dst, f, l.Get(i))
	}
	return append(dst, ']')
}

func appendValue(dst []byte, f *field, v protoreflect.Value) []byte {
	switch f.kind {
	case protoreflect.BoolKind:
		return strconv.AppendBool(dst, v.Bool())
	case protoreflect.StringKind:
		return AppendString(dst, v.String())
	case protoreflect.BytesKind:
		return AppendBinary(dst, v.Bytes())
	case protoreflect.EnumKind:
		return AppendString(dst, f.enum.name(v.Enum()))
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return appendMessage(dst, v.Message())
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return AppendFloat(dst, v.Float())
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		return strconv.AppendUint(dst, v.Uint(), 10)
	}
	return strconv.AppendInt(dst, v.Int(), 10)
}

// AppendBinary appends b as a JSON string: as it is when it is text, else as base64 with the mark of json.md.
func AppendBinary(dst, b []byte) []byte {
	s := string(b)
	if utf8.ValidString(s) && !strings.HasPrefix(s, binaryPrefix) {
		return AppendString(dst, s)
	}
	dst = append(dst, '"')
	dst = append(dst, binaryPrefix...)
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}

// AppendFloat appends a number as JSON has it; what JSON cannot write (infinities, not-a-number) becomes null.
func AppendFloat(dst []byte, v float64) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return append(dst, "null"...)
	}
	format := byte('f')
	if a := math.Abs(v); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, v, format, -1, 64)
}

// AppendString appends s as a JSON string. Besides what JSON demands it escapes everything that Line escapes, so that
// JSON shown on a terminal is safe; bytes that are not UTF-8 become U+FFFD.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		r, n := rune(c), 1
		if c >= utf8.RuneSelf {
			r, n = utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError && !unsafe(r) || r == utf8.RuneError && n > 1 {
				i += n
				continue
			}
		}
		dst = append(dst, s[start:i]...)
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		case r > 0xffff:
			hi, lo := 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff
			dst = appendHex(append(dst, '\\', 'u'), uint32(hi), 4)
			dst = appendHex(append(dst, '\\', 'u'), uint32(lo), 4)
		default:
			dst = appendHex(append(dst, '\\', 'u'), uint32(r), 4)
		}
		i += n
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// field is what is needed to write one field of a message.
type field struct {
	desc     protoreflect.FieldDescriptor
	key      []byte
	kind     protoreflect.Kind
	list     bool
	presence bool
	enum     *enumNames
}

// layouts caches the fields of each message type; the key is a protoreflect.MessageDescriptor.
var layouts sync.Map

func layoutOf(md protoreflect.MessageDescriptor) []*field {
	if l, ok := layouts.Load(md); ok {
		return l.([]*field)
	}
	fds := md.Fields()
	out := make([]*field, fds.Len())
	for i := range out {
		fd := fds.Get(i)
		f := &field{desc: fd, kind: fd.Kind(), list: fd.IsList(), presence: fd.HasPresence()}
		f.key = append(AppendString(nil, string(fd.Name())), ':')
		if fd.Enum() != nil {
			f.enum = newEnumNames(fd.Enum())
		}
		out[i] = f
	}
	l, _ := layouts.LoadOrStore(md, out)
	return l.([]*field)
}

// enumNames maps an enum's numbers to JSON names: lower case, without the type's prefix; the zero value is "".
type enumNames struct {
	names map[protoreflect.EnumNumber]string
}

func newEnumNames(ed protoreflect.EnumDescriptor) *enumNames {
	prefix := enumPrefix(string(ed.Name()))
	n := &enumNames{names: make(map[protoreflect.EnumNumber]string, ed.Values().Len())}
	for i := range ed.Values().Len() {
		v := ed.Values().Get(i)
		name := strings.ToLower(strings.TrimPrefix(string(v.Name()), prefix))
		if v.Number() == 0 {
			name = ""
		}
		n.names[v.Number()] = name
	}
	return n
}

func (e *enumNames) name(n protoreflect.EnumNumber) string {
	if s, ok := e.names[n]; ok {
		return s
	}
	return "unknown_" + strconv.Itoa(int(n))
}

// enumPrefix makes "JOB_STATE_" of "JobState".
func enumPrefix(name string) string {
	var b strings.Builder
	for i, r := range name {
		if i > 0 && r >= 'A' && r <= 'Z' && name[i-1] >= 'a' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToUpper(b.String()) + "_"
}
