package report

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

const one = `{"version":1,"inventory":{"driver":"570.1","gpus":[{"index":0,"uuid":"GPU-a","type":"h100","memory_mib":81559,"numa_node":-1,"links":[{"peer":1,"links":18}]},{"index":1,"uuid":"GPU-b","type":"h100","memory_mib":81559,"numa_node":0,"mig":"enabled"},{"index":2,"uuid":"MIG-c","type":"h100-1g.10gb","memory_mib":1,"numa_node":0,"mig":"instance","parent":"GPU-b"}],"problems":["gpu 3: is lost"]}}`

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		one,
		one + "\n",
		`{"version":1,"inventory":{"gpus":[],"note":"no driver"}}`,
		`{"version":1,"readings":{"gpus":[]}}`,
		`{"version":1,"readings":{"gpus":[{"uuid":"GPU-a","memory_used_mib":0,"utilisation_pct":100,"temperature_c":-3,"power_w":700,"ecc_uncorrected":18446744073709551615,"processes":[{"pid":1,"memory_mib":0}]}]}}`,
		`{"version":1,"event":{"uuid":"GPU-a","kind":"xid","xid":79}}`,
		`{"version":1,"event":{"kind":"xid","xid":79}}`,
		`{"version":1,"event":{"uuid":"GPU-a","kind":"ecc"}}`,
	} {
		m, err := Decode([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		b, err := Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(b)
		if diff := cmp.Diff(m, again); err != nil || diff != "" {
			t.Errorf("%s: %v, %s", in, err, diff)
		}
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	gpu := func(fields string) string {
		return `{"version":1,"inventory":{"gpus":[{"index":0,"uuid":"GPU-a","type":"h100","memory_mib":1,"numa_node":0,` + fields + `}]}}`
	}
	reading := func(fields string) string {
		return `{"version":1,"readings":{"gpus":[{"uuid":"GPU-a",` + fields + `}]}}`
	}
	many := func(item string, n int) string { return strings.TrimSuffix(strings.Repeat(item+",", n), ",") }
	for in, want := range map[string]string{
		``:                                      "unexpected end",
		`null`:                                  "version 0",
		`[]`:                                    "not a message",
		`{"version":1}`:                         "0 parts",
		`{"version":1} {"version":1}`:           "not a message",
		one + one:                               "not a message",
		one + "x":                               "not a message",
		`{"version":2,"inventory":{"gpus":[]}}`: "another release",
		`{"inventory":{"gpus":[]}}`:             "another release",
		`{"version":1,"inventory":{"gpus":[]},"x":1}`:                  `unknown field "x"`,
		`{"version":1,"inventory":{"gpus":[]},"event":{"kind":"ecc"}}`: "2 parts",
		gpu(`"colour":"red"`):        `unknown field "colour"`,
		gpu(`"memory_mib":-1`):       "out of range",
		gpu(`"memory_mib":1e300`):    "cannot unmarshal",
		gpu(`"memory_mib":67108865`): "out of range",
		gpu(`"index":64`):            "above 63",
		gpu(`"index":-1`):            "cannot unmarshal",
		gpu(`"uuid":"gpu-a"`):        "neither an index nor a UUID",
		gpu(`"uuid":"0"`):            "not a UUID",
		gpu(`"uuid":"GPU-a,GPU-b"`):  "not a UUID",
		gpu(`"uuid":" GPU-a"`):       "not a UUID",
		gpu(`"uuid":""`):             "is empty",
		gpu(`"type":""`):             "the type is empty",
		gpu(`"type":"H100"`):         "plain form",
		gpu(`"type":"h 100"`):        "may not hold",
		gpu(`"model":"a\u001bb"`):    "printable line",
		gpu(`"model":"` + strings.Repeat("m", MaxText+1) + `"`): "too long",
		gpu(`"fault":"a\nb"`):                                         "printable line",
		gpu(`"numa_node":-2`):                                         "out of range",
		gpu(`"mig":"maybe"`):                                          "unknown MIG state",
		gpu(`"mig":"instance"`):                                       "has a parent",
		gpu(`"parent":"GPU-b"`):                                       "has a parent",
		gpu(`"mig":"instance","parent":"GPU-b"`):                      "is not listed",
		gpu(`"mig":"instance","parent":"GPU-a"`):                      "is not listed",
		gpu(`"links":[{"peer":5,"links":1}]`):                         "which is not listed",
		gpu(`"links":[{"peer":0,"links":1}]`):                         "which is not listed",
		strings.Replace(one, `"index":1`, `"index":0`, 1):             "listed twice",
		strings.Replace(one, "GPU-b", "GPU-a", 1):                     "listed twice",
		`{"version":1,"inventory":{"gpus":[` + many(`{}`, 65) + `]}}`: "at most 64",
		`{"version":1,"inventory":{"gpus":[],"problems":[` + many(`"x"`, MaxProblems+1) + `]}}`: "problems",
		reading(`"utilisation_pct":101`):                                                  "utilisation",
		reading(`"memory_used_mib":-1`):                                                   "out of range",
		reading(`"temperature_c":1001`):                                                   "degrees",
		reading(`"power_w":100001`):                                                       "watts",
		reading(`"processes":[{"pid":-1,"memory_mib":0}]`):                                "cannot unmarshal",
		reading(`"processes":[{"pid":1,"memory_mib":-1}]`):                                "process 1",
		reading(`"processes":[` + many(`{"pid":1,"memory_mib":1}`, MaxProcesses+1) + `]`): "processes",
		reading(`"uuid":"x"`):                                                             "neither an index nor a UUID",
		`{"version":1,"readings":{"gpus":[` + many(`{"uuid":"GPU-a"}`, 2) + `]}}`:         "listed twice",
		`{"version":1,"readings":{"gpus":[` + many(`{"uuid":"GPU-a"}`, 65) + `]}}`:        "at most 64",
		`{"version":1,"event":{"uuid":"GPU-a","kind":"party"}}`:                           "unknown kind",
		`{"version":1,"event":{"uuid":"GPU-a","kind":"ecc","xid":1}}`:                     "an Xid with kind",
		`{"version":1,"event":{"uuid":"GPU-a","kind":"xid","xid":70000}}`:                 "out of range",
		`{"version":1,"event":{"uuid":"bus 3","kind":"xid","xid":70}}`:                    "neither an index nor a UUID",
		`{"version":1,"event":{"kind":"xid","xid":70}}` + strings.Repeat(" ", MaxMessage): "above 1048576",
	} {
		m, err := Decode([]byte(in))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.200s: %+v, %v, want %s", in, m, err, want)
		}
		if err != nil && (strings.ContainsAny(err.Error(), "\n\x1b") || len(err.Error()) > 400) {
			t.Errorf("%.200s: the error is not one line: %q", in, err)
		}
		if want == "another release" && !errors.Is(err, ErrVersion) {
			t.Errorf("%s: %v is not ErrVersion", in, err)
		}
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain": "plain", " a  b\n\tc ": "a b c", "\x1b[31mred\x1b[0m": "[31mred [0m", "a\xffb": "a b", "": "",
		strings.Repeat("é", 300):                 strings.Repeat("é", MaxText/2),
		strings.Repeat("a", MaxText-1) + " b":    strings.Repeat("a", MaxText-1),
		strings.Repeat("a", MaxText) + "\u00a0b": strings.Repeat("a", MaxText),
	} {
		if got := Text(in); got != want {
			t.Errorf("Text(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(one))
	f.Add([]byte(`{"version":1,"readings":{"gpus":[{"uuid":"GPU-a","power_w":700}]}}`))
	f.Add([]byte(`{"version":1,"event":{"uuid":"GPU-a","kind":"xid","xid":79}}`))
	f.Add([]byte(`{"version":1,"inventory":{"gpus":null,"note":"` + "\xff" + `"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		line, err := Encode(m)
		if err != nil || strings.Count(string(line), "\n") != 1 {
			t.Fatalf("%q: %v", line, err)
		}
		if _, err := Decode(line); err != nil {
			t.Fatalf("read %q, wrote %q, then %v", b, line, err)
		}
	})
}

func FuzzText(f *testing.F) {
	f.Add("a\x00b")
	f.Fuzz(func(t *testing.T, s string) {
		got := Text(s)
		if Text(got) != got || len(got) > MaxText || !utf8.ValidString(got) || strings.ContainsAny(got, "\n\r\x1b\x00") {
			t.Fatalf("Text(%q) = %q", s, got)
		}
	})
}
