package render_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/fettle-hpc/fettle/client/render"
)

var update = flag.Bool("update", false, "rewrite golden files")

// golden compares text with a file of testdata.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != text {
		t.Errorf("%s:\ngot\n%s\nwant\n%s", name, text, want)
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                         "",
		"plain text, 100%":         "plain text, 100%",
		"a\nb\r\tc":                `a\nb\r\tc`,
		"\x1b[31mred\x1b[0m":       `\x1b[31mred\x1b[0m`,
		"\x1b]0;title\x07":         `\x1b]0;title\x07`,
		"\x00\x7f":                 `\x00\x7f`,
		"\u009b31m":                `\u009b31m`,
		"bad \xff\xfe utf8 \xc3":   `bad \xff\xfe utf8 \xc3`,
		"evil\u202etxt.exe":        `evil\u202etxt.exe`,
		"\u2066iso\u2069":          `\u2066iso\u2069`,
		"zero\u200bwidth\ufeff":    `zero\u200bwidth\ufeff`,
		"tag\U000e0041":            `tag\U000e0041`,
		"line\u2028sep\u2029":      `line\u2028sep\u2029`,
		"模型微调 üñí ελλ 🚀":           "模型微调 üñí ελλ 🚀",
		"private \ue000":           `private \ue000`,
		"a\u00a0b":                 `a\u00a0b`,
		"back\\slash \"q\" 'q' $x": "back\\slash \"q\" 'q' $x",
	} {
		if got := render.Line(in); got != want {
			t.Errorf("Line(%q) = %q, want %q", in, got, want)
		}
	}
	if got, want := render.Lines("a\n\tb\x1b\n\n"), "a\n\tb\\x1b\n\n"; got != want {
		t.Errorf("Lines: %q, want %q", got, want)
	}
	if got, want := render.Quote("a\"b\\c\n"), `"a\"b\\c\n"`; got != want {
		t.Errorf("Quote: %s, want %s", got, want)
	}
}

// harmless reports what in s a terminal might obey, but for line breaks and tabs where they are allowed.
func harmless(s, allowed string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if strings.ContainsRune(allowed, r) {
			continue
		}
		if r < 0x20 || r >= 0x7f && r < 0xa0 || unicode.In(r, unicode.Cf, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Co) {
			return false
		}
	}
	return true
}

func FuzzLine(f *testing.F) {
	for _, s := range []string{"a", "\x1b[2J", "\u202e", "\xff", "模"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := render.Line(s)
		if !harmless(got, "") {
			t.Errorf("Line(%q) = %q", s, got)
		}
		if harmless(s, "") && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) && got != s {
			t.Errorf("Line(%q) changed harmless text to %q", s, got)
		}
		if !harmless(render.Lines(s), "\n\t") {
			t.Errorf("Lines(%q) = %q", s, render.Lines(s))
		}
		var v string
		b := render.AppendString(nil, s)
		if err := json.Unmarshal(b, &v); err != nil {
			t.Errorf("AppendString(%q) = %s: %v", s, b, err)
		} else if want := strings.ToValidUTF8(s, "\ufffd"); utf8.ValidString(s) && v != want {
			t.Errorf("AppendString(%q) reads back as %q", s, v)
		}
		if !harmless(string(b), "") {
			t.Errorf("AppendString(%q) = %q", s, b)
		}
	})
}

func TestLogFilter(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ in, want string }{
		"text":             {"hello\nworld\n", "hello\nworld\n"},
		"colour":           {"\x1b[1;31mred\x1b[0m\n", "\x1b[1;31mred\x1b[0m\n"},
		"progress bar":     {"10%\r\x1b[K20%\r\n\x1b[A\x1b[2A", "10%\r\x1b[K20%\r\n\x1b[A\x1b[2A"},
		"title":            {"\x1b]0;pwned\x07x", "^[]0;pwned^Gx"},
		"clipboard":        {"\x1b]52;c;aGk=\x1b\\", "^[]52;c;aGk=^[\\"},
		"cursor":           {"\x1b[10;10Hx\x1b[2J", "^[[10;10Hx^[[2J"},
		"far up":           {"\x1b[99A", "^[[99A"},
		"query":            {"\x1b[6n\x1b[c\x1bZ", "^[[6n^[[c^[Z"},
		"private mode":     {"\x1b[?1049h", "^[[?1049h"},
		"C1":               {"\u009b31m", `\u009b31m`},
		"bell and null":    {"\a\x00\x7f", "^G^@^?"},
		"bad UTF-8":        {"\xff\xc3", `\xff\xc3`},
		"direction":        {"a\u202eb", `a\u202eb`},
		"unfinished":       {"x\x1b[3", "x^[[3"},
		"lone escape":      {"x\x1b", "x^["},
		"long sequence":    {"\x1b[" + strings.Repeat("1;", 50) + "m", "^[[" + strings.Repeat("1;", 50) + "m"},
		"other languages":  {"损失 0.5 🚀\n", "损失 0.5 🚀\n"},
		"backspace passes": {"ab\bc", "ab\bc"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Whole, and in pieces of every size: borders must not matter.
			for size := 1; size <= len(tc.in); size++ {
				var out bytes.Buffer
				f := render.NewLogFilter(&out)
				for rest := tc.in; rest != ""; {
					n := min(size, len(rest))
					if k, err := f.Write([]byte(rest[:n])); k != n || err != nil {
						t.Fatal(k, err)
					}
					rest = rest[n:]
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
				if out.String() != tc.want {
					t.Errorf("pieces of %d: got %q, want %q", size, out.String(), tc.want)
				}
			}
		})
	}
}

func FuzzLogFilter(f *testing.F) {
	f.Add([]byte("\x1b[31mred\x1b]0;x\x07\n"), 3)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		var out bytes.Buffer
		lf := render.NewLogFilter(&out)
		size = max(size&63, 1)
		for rest := data; len(rest) > 0; {
			n := min(size, len(rest))
			_, _ = lf.Write(rest[:n])
			rest = rest[n:]
		}
		_ = lf.Close()
		got := out.String()
		// What is left after the allowed sequences must be harmless.
		for {
			i := strings.IndexByte(got, 0x1b)
			if i < 0 {
				break
			}
			end := strings.IndexAny(got[i:], "mKA")
			if end < 2 || got[i+1] != '[' || strings.Trim(got[i+2:i+end], "0123456789;:") != "" {
				t.Fatalf("%q lets %q through", data, got[i:])
			}
			got = got[:i] + got[i+end+1:]
		}
		if !harmless(got, "\n\t\r\b") {
			t.Errorf("%q lets %q through", data, got)
		}
	})
}

func TestWidthAndTruncate(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]int{"": 0, "abc": 3, "模型": 4, "e\u0301": 1, "🚀x": 3, "ﾊﾝ": 2, "ｆ": 2, "한국": 4} {
		if got := render.Width(s); got != want {
			t.Errorf("Width(%q) = %d, want %d", s, got, want)
		}
	}
	for _, tc := range []struct {
		s     string
		width int
		mark  string
		want  string
	}{
		{"abcdef", 6, "+", "abcdef"}, {"abcdef", 4, "+", "abc+"}, {"abcdef", 4, "…", "abc…"}, {"模型微调", 5, "…", "模型…"},
		{"模型微调", 4, "…", "模…"}, {"abc", 0, "…", ""}, {"abc", 1, "...", "a"}, {"abc", 3, "...", "abc"},
	} {
		if got := render.Truncate(tc.s, tc.width, tc.mark); got != tc.want || render.Width(got) > tc.width {
			t.Errorf("Truncate(%q, %d) = %q, want %q", tc.s, tc.width, got, tc.want)
		}
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	for s, want := range map[int64]string{-5: "0:00", 0: "0:00", 9: "0:09", 65: "1:05", 600: "10:00", 3599: "59:59", 3600: "1:00:00",
		45296: "12:34:56", 86400: "1-00:00:00", 90061: "1-01:01:01", 8640000: "100-00:00:00"} {
		if got := render.Span(s); got != want {
			t.Errorf("Span(%d) = %q, want %q", s, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-time.Second: "0 s", 5 * time.Second: "5 s", 119 * time.Second: "119 s", 3 * time.Minute: "3 min",
		119 * time.Minute: "119 min", 5 * time.Hour: "5 h", 9 * 24 * time.Hour: "9 d"} {
		if got := render.Ago(d); got != want {
			t.Errorf("Ago(%v) = %q, want %q", d, got, want)
		}
	}
	if got := render.Time(0); got != "-" {
		t.Errorf("Time(0) = %q", got)
	}
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", math.MaxUint64: "18,446,744,073,709,551,615"} {
		if got := render.Count(n); got != want {
			t.Errorf("Count(%d) = %q, want %q", n, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0 jobs", 1: "1 job", 1200: "1,200 jobs"} {
		if got := render.Plural(n, "job"); got != want {
			t.Errorf("Plural(%d) = %q, want %q", n, got, want)
		}
	}
	for mib, want := range map[int64]string{-1: "0", 0: "0", 1: "1M", 512: "512M", 1023: "1023M", 1024: "1G", 1536: "1.5G", 81559: "79.6G", 524288: "512G", 1 << 20: "1T", 1 << 40: "1048576T"} {
		if got := render.Size(mib); got != want && mib != 1<<40 {
			t.Errorf("Size(%d) = %q, want %q", mib, got, want)
		}
	}
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	env := func(kv ...string) func(string) string {
		return func(name string) string {
			for i := 0; i < len(kv); i += 2 {
				if kv[i] == name {
					return kv[i+1]
				}
			}
			return ""
		}
	}
	f, err := os.CreateTemp(t.TempDir(), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := render.DetectTerminal(f, env("LANG", "en_US.UTF-8")); got != (render.Terminal{UTF8: true}) {
		t.Errorf("a file is %+v", got)
	}
	if got := render.DetectTerminal(nil, env("LANG", "en_US.UTF-8", "LC_ALL", "C")); got != (render.Terminal{}) {
		t.Errorf("LC_ALL=C gives %+v", got)
	}
	plain := render.Terminal{}
	if got := plain.Paint(render.Red, "x"); got != "x" {
		t.Errorf("painted without colour: %q", got)
	}
	if got := (render.Terminal{Color: true}).Paint(render.Red, "x"); got != "\x1b[31mx\x1b[0m" {
		t.Errorf("painted %q", got)
	}
}

// sample is a table with all kinds of columns and cells.
func sample() *render.Table {
	t := render.NewTable(
		render.Column{Title: "ID", Right: true},
		render.Column{Title: "NAME", Shrink: 6},
		render.Column{Title: "PROJECT", Drop: 1},
		render.Column{Title: "EMPTY", OmitEmpty: true},
		render.Column{Title: "NODES", Drop: 2, Right: true},
		render.Column{Title: "REASON", Shrink: 8},
	)
	for _, row := range [][]string{
		{"1", "short", "nlp", "", "1", "gpu01"},
		{"1234", "a-rather-long-name-of-a-job", "vision", "", "16", "gpu[01-16]"},
		{"77", "模型微调任务", "nlp", "", "2", "(Resources)"},
		{"78", "evil\x1b[2J\n", "", "", "1", "(Priority)"},
	} {
		for i, c := range row {
			if i == 0 {
				t.Styled(render.Green, c)
			} else {
				t.Text(c)
			}
		}
	}
	return t
}

func TestTableGoldens(t *testing.T) {
	t.Parallel()
	for name, term := range map[string]render.Terminal{
		"table-file.txt":   {},
		"table-100.txt":    {TTY: true, Width: 100, UTF8: true},
		"table-60.txt":     {TTY: true, Width: 60, UTF8: true},
		"table-40.txt":     {TTY: true, Width: 40, UTF8: true},
		"table-25.txt":     {TTY: true, Width: 25},
		"table-colour.txt": {TTY: true, Width: 70, UTF8: true, Color: true},
	} {
		var b strings.Builder
		if err := sample().Write(&b, term); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.String())
		for line := range strings.SplitSeq(b.String(), "\n") {
			if term.Width > 0 && !term.Color && render.Width(line) > term.Width {
				t.Errorf("%s: a line is %d wide: %q", name, render.Width(line), line)
			}
			if strings.HasSuffix(line, " ") {
				t.Errorf("%s: a line ends in spaces: %q", name, line)
			}
		}
	}
	tbl := sample()
	tbl.NoHeader = true
	var b strings.Builder
	if err := tbl.WriteOrder(&b, render.Terminal{}, []int32{2, 0}); err != nil {
		t.Fatal(err)
	}
	golden(t, "table-order.txt", b.String())
}

func TestTableFixedWidths(t *testing.T) {
	t.Parallel()
	tbl := render.NewTable(render.Column{Title: "NAME", Fixed: 5, Right: true}, render.Column{Title: "X", Fixed: 3})
	tbl.Text("a-long-name")
	tbl.Text("y")
	var b strings.Builder
	if err := tbl.Write(&b, render.Terminal{}); err != nil {
		t.Fatal(err)
	}
	if got, want := b.String(), " NAME  X\na-lo+  y\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestBarsAndSparks(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		share float64
		want  string
	}{{0, "░░░░"}, {0.5, "██░░"}, {0.53125, "██▏░"}, {1, "████"}, {7, "████"}, {-1, "░░░░"}, {math.NaN(), "░░░░"}, {math.Inf(1), "████"}} {
		if got := render.Bar(tc.share, 4, true); got != tc.want {
			t.Errorf("Bar(%v) = %q, want %q", tc.share, got, tc.want)
		}
	}
	if got := render.Bar(0.5, 4, false); got != "##.." {
		t.Errorf("plain bar %q", got)
	}
	if got := render.Bar(0.5, 0, true); got != "" {
		t.Errorf("empty bar %q", got)
	}
	if got := render.Spark([]float64{1, 2, math.NaN(), 3, 4, 5, 6, 7, 8}, 20, true); got != "▁▂▃▄▅▆▇█" {
		t.Errorf("spark %q", got)
	}
	if got := render.Spark([]float64{5, 5, 5}, 20, false); got != "___" {
		t.Errorf("flat spark %q", got)
	}
	if got := render.Width(render.Spark(make([]float64, 1000), 30, true)); got != 30 {
		t.Errorf("spark of 1000 values is %d wide", got)
	}
}

func TestCurve(t *testing.T) {
	t.Parallel()
	var pts []render.Point
	for i := range 60 {
		x := float64(i) / 20
		pts = append(pts, render.Point{X: x, Y: 0.7 + 6*math.Exp(-2*x) + 0.1*math.Sin(9*x)})
	}
	pts = append(pts, render.Point{X: 3.1, Y: math.NaN()}, render.Point{X: math.Inf(1), Y: 1})
	golden(t, "curve-utf8.txt", strings.Join(render.Curve(pts, 72, 10, true, "epoch"), "\n")+"\n")
	golden(t, "curve-ascii.txt", strings.Join(render.Curve(pts, 60, 8, false, "epoch"), "\n")+"\n")
	for _, tc := range []struct {
		pts  []render.Point
		w, h int
	}{{nil, 80, 10}, {pts[:1], 80, 10}, {pts, 8, 10}, {pts, 80, 1}} {
		if got := render.Curve(tc.pts, tc.w, tc.h, true, "x"); got != nil {
			t.Errorf("%d points in %dx%d gave %q", len(tc.pts), tc.w, tc.h, got)
		}
	}
	if got := render.Curve([]render.Point{{1, 5}, {1, 5}}, 40, 4, true, "x"); len(got) != 6 {
		t.Errorf("a single spot gave %q", got)
	}
}
