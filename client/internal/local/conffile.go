package local

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// confHeader begins every config file that is written here.
const confHeader = "# Written by fettle up, which keeps what else you write here.\n"

// anyHeader is how it begins in files of every version.
const anyHeader = "# Written by fettle up"

// setting is a key of a daemon's config file that is settled here; value is TOML, on one line.
type setting struct{ key, value string }

func text(key, value string) setting { return setting{key, quote(value)} }

// config writes a daemon's config file and reports whether what it says changed. Keys that are not among the settings,
// and comments, stay as they are.
func (c *Cluster) config(name string, settings []setting) (changed bool, err error) {
	home := filepath.Join(c.dir, name)
	if err := os.MkdirAll(home, dirMode()); err != nil {
		return false, err
	}
	path := filepath.Join(home, "config.toml")
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	want, changed, err := mergeConfig(string(old), settings)
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	if want == string(old) {
		return false, nil
	}
	return changed, writeFile(path, []byte(want))
}

// mergeConfig puts settings into a config file's text, in place of what it says of them. changed is false when the file
// said the same before.
func mergeConfig(old string, settings []setting) (merged string, changed bool, err error) {
	before := make(map[string]any)
	if err := toml.Unmarshal([]byte(old), &before); err != nil {
		var de *toml.DecodeError
		if errors.As(err, &de) {
			row, _ := de.Position()
			return "", false, fmt.Errorf("line %d: %s; mend the line, or remove the file", row, strings.TrimPrefix(de.Error(), "toml: "))
		}
		return "", false, err
	}
	var b strings.Builder
	b.WriteString(confHeader)
	ours := make(map[string]bool)
	for _, s := range settings {
		ours[s.key] = true
		b.WriteString(s.key + " = " + s.value + "\n")
	}
	b.WriteString(without(old, ours))
	merged = b.String()

	// What was kept has to say what it said.
	after, own := make(map[string]any), make(map[string]any)
	if err = toml.Unmarshal([]byte(merged), &after); err == nil {
		err = toml.Unmarshal([]byte(merged[:ownEnd(merged, settings)]), &own)
	}
	want := maps.Clone(before)
	maps.Copy(want, own)
	if err != nil || !reflect.DeepEqual(after, want) {
		return "", false, errors.New("cannot be changed safely; write each key on one line, tables last, or remove the file")
	}
	return merged, !reflect.DeepEqual(before, after), nil
}

// ownEnd is where the settings that were written end.
func ownEnd(merged string, settings []setting) int {
	end := len(confHeader)
	for range settings {
		end += strings.IndexByte(merged[end:], '\n') + 1
	}
	return end
}

// topKey finds a plain key at the start of a line.
var topKey = regexp.MustCompile(`^[ \t]*"?([A-Za-z0-9_-]+)"?[ \t]*=(.*)$`)

// without is a config file's text without the header and some keys of the top table.
func without(old string, keys map[string]bool) string {
	var b strings.Builder
	inTable, open := false, false
	lines := bufio.NewScanner(strings.NewReader(old))
	lines.Buffer(nil, len(old)+1)
	for lines.Scan() {
		line := lines.Text()
		switch m := topKey.FindStringSubmatch(line); {
		case open:
			// The rest of a list over several lines.
			open = !strings.Contains(line, "]")
			continue
		case strings.HasPrefix(line, anyHeader):
			continue
		case strings.HasPrefix(strings.TrimLeft(line, " \t"), "["):
			inTable = true
		case !inTable && m != nil && keys[m[1]]:
			value := strings.TrimSpace(m[2])
			open = strings.HasPrefix(value, "[") && !strings.Contains(value, "]")
			continue
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// configured reads one text key of a daemon's config file; empty when it is not there.
func (c *Cluster) configured(name, key string) string {
	data, err := os.ReadFile(filepath.Join(c.dir, name, "config.toml"))
	if err != nil {
		return ""
	}
	values := make(map[string]any)
	if toml.Unmarshal(data, &values) != nil {
		return ""
	}
	v, _ := values[key].(string)
	return v
}

// quote writes a TOML string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
