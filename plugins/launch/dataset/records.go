package dataset

import (
	"bytes"
	"encoding/binary"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a record; JSON decoders recurse.
const maxDepth = 64

// firstRecord answers the first object of a JSON array or of lines of JSON. cut says that head is not the whole file.
func firstRecord(head []byte, cut bool) (map[string]json.RawMessage, error) {
	text := bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n")
	if !utf8.Valid(text[:validPrefix(text)]) || bytes.IndexByte(text[:min(len(text), 4096)], 0) >= 0 {
		return nil, &Refusal{"is not UTF-8 text", "save it as UTF-8"}
	}
	inArray := len(text) > 0 && text[0] == '['
	if inArray {
		text = bytes.TrimLeft(text[1:], " \t\r\n")
		if len(text) > 0 && text[0] == ']' {
			return nil, &Refusal{"is an empty list", "put records into it"}
		}
	}
	if len(text) == 0 || text[0] != '{' {
		return nil, &Refusal{"does not start with a record", "write a list of objects, or one object per line"}
	}
	if depth(text) > maxDepth {
		return nil, &Refusal{"holds a record nested too deep", "flatten it"}
	}
	var record map[string]json.RawMessage
	err := json.NewDecoder(bytes.NewReader(text)).Decode(&record)
	switch {
	case err == nil:
		return record, nil
	case (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)) && cut:
		return nil, &Refusal{"starts with a record longer than 4 MiB", "split it"}
	}
	return nil, &Refusal{"is not valid JSON at its first record", "check its quotes, commas and brackets"}
}

// validPrefix leaves out what a cut may have torn from the last character.
func validPrefix(text []byte) int {
	n := len(text)
	for i := 0; i < utf8.UTFMax && n > 0 && !utf8.RuneStart(text[n-1]); i++ {
		n--
	}
	return max(n-1, 0)
}

// depth answers the deepest nesting of the first value.
func depth(text []byte) int {
	level, deepest := 0, 0
	quoted, escaped := false, false
	for _, b := range text {
		switch {
		case escaped:
			escaped = false
		case quoted:
			escaped = b == '\\'
			quoted = b != '"'
		case b == '"':
			quoted = true
		case b == '{' || b == '[':
			level++
			deepest = max(deepest, level)
			if deepest > maxDepth {
				return deepest
			}
		case b == '}' || b == ']':
			if level--; level == 0 {
				return deepest
			}
		}
	}
	return deepest
}

func columnsOf(record map[string]json.RawMessage) []string {
	columns := make([]string, 0, len(record))
	for name := range record {
		columns = append(columns, name)
	}
	slices.Sort(columns)
	return columns
}

func csvColumns(head []byte) ([]string, error) {
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf"))))
	r.LazyQuotes, r.FieldsPerRecord = true, -1
	columns, err := r.Read()
	if err != nil {
		return nil, &Refusal{"has no header line", "name the columns on its first line"}
	}
	for i := range columns {
		columns[i] = strings.TrimSpace(columns[i])
	}
	slices.Sort(columns)
	return columns, nil
}

// columnarNames finds the column names that matter in the schema of a parquet or arrow file. Both formats keep a name as
// its length and its bytes; the rest of their structure is not needed for that.
func columnarNames(part []byte) []string {
	found := []string{}
	for _, name := range names {
		for at := 0; ; {
			i := bytes.Index(part[at:], []byte(name))
			if i < 0 {
				break
			}
			at += i
			short := at >= 1 && part[at-1] == byte(len(name))
			long := at >= 4 && binary.LittleEndian.Uint32(part[at-4:]) == uint32(len(name))
			if short || long {
				found = append(found, name)
				break
			}
			at += len(name)
		}
	}
	slices.Sort(found)
	return found
}
