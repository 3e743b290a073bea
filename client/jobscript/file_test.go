package jobscript

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode"
)

// printable fails unless s is one line of printable characters.
func printable(t *testing.T, s string) {
	t.Helper()
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("not one printable line: %q", s)
	}
}

// flat prints options as "name=value@line" for comparison.
func flat(options []Option) string {
	var b strings.Builder
	for i, o := range options {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(o.Origin.String() + ":" + o.Name + "=" + o.Value)
		if o.Line > 0 {
			b.WriteString("@" + string(rune('0'+o.Line%10)))
		}
	}
	return b.String()
}

const script = `#!/bin/bash -l
#SBATCH --job-name=llama --time 1-00:00:00   # a day
#SBATCH -N 2 -p gpu

# a plain comment
#FETTLE --gpus-per-node=h100:4 --priority 2
#FETTLE -c 8 --mem=64G --no-requeue
#FETTLE --set learning_rate=1e-4 --set 'output_dir=my runs' # both count
  # indented comments are comments too
set -e
#FETTLE --hold
echo "#SBATCH inside a string"
`

func TestParseScript(t *testing.T) {
	t.Parallel()
	f, err := Parse("train.sh", []byte(script))
	if err != nil {
		t.Fatal(err)
	}
	if f.Kind != KindScript || f.Interpreter != "/bin/bash" || !bytes.Equal(f.Data, []byte(script)) || f.Kind.String() != "script" {
		t.Errorf("got %v %q", f.Kind, f.Interpreter)
	}
	const want = "#SBATCH:job-name=llama@2 #SBATCH:time=1-00:00:00@2 #SBATCH:nodes=2@3 #SBATCH:partition=gpu@3 " +
		"#FETTLE:gres=gpu:h100:4@6 #FETTLE:priority=2@6 #FETTLE:cpus=8@7 #FETTLE:mem=64G@7 #FETTLE:requeue=false@7 " +
		"#FETTLE:set=learning_rate=1e-4@8 #FETTLE:set=output_dir=my runs@8"
	if got := flat(f.Options); got != want {
		t.Errorf("options\n got %s\nwant %s", got, want)
	}
	if o, ok := Find(f.Options, OptGRES); !ok || o.Written != "--gpus-per-node" || o.File != "train.sh" {
		t.Errorf("the written form is lost: %+v", o)
	}
	warnings := strings.Join(f.Warnings, "\n")
	if warnings != "train.sh:11: #FETTLE is ignored after the first command; move it to the top" {
		t.Errorf("warnings: %s", warnings)
	}
}

func TestParseConfig(t *testing.T) {
	t.Parallel()
	const config = `# my run
---
#FETTLE --priority 1
#SBATCH -J sft
model_name_or_path: qwen
#FETTLE --gpus 4
finetuning_type: lora
`
	for _, name := range []string{"train.yaml", "dir/TRAIN.YML", "config", "-"} {
		f, err := Parse(name, []byte(config))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if f.Kind != KindYAML || flat(f.Options) != "#FETTLE:priority=1@3 #SBATCH:job-name=sft@4" || f.Kind.String() != "config" {
			t.Errorf("%s: %v %s", name, f.Kind, flat(f.Options))
		}
		if len(f.Warnings) != 1 || f.Warnings[0] != name+":6: #FETTLE is ignored after the first key; move it to the top" {
			t.Errorf("%s: warnings %q", name, f.Warnings)
		}
	}
	// DOS line endings do no harm in a config.
	f, err := Parse("a.yaml", []byte("#FETTLE --priority 1\r\n#FETTLE --hold\r\na: 1\r\n"))
	if err != nil || flat(f.Options) != "#FETTLE:priority=1@1 #FETTLE:hold=true@2" {
		t.Errorf("got %v, %v", f, err)
	}
}

// TestRefusedFiles pins the line for every file that is refused as a whole.
func TestRefusedFiles(t *testing.T) {
	t.Parallel()
	const neither = "is neither a script nor a training config; start a script with a line like #!/bin/bash, or name a config *.yaml"
	const notYAML = "; write KEY: VALUE lines, and put odd values in quotes"
	for _, c := range []struct{ name, data, want string }{
		{"a.sh", "", "a.sh: is empty; write a script that starts with #!/bin/bash, or a training config"},
		{"a.sh", " \n\t\n", "a.sh: is empty; write a script that starts with #!/bin/bash, or a training config"},
		{"a.sh", "#!/bin/sh\n" + strings.Repeat("#\n", 128<<10), "a.sh: is larger than 256 KiB; keep data and models in files of their own"},
		{"a.yaml", "a: " + strings.Repeat("x", 256<<10), "a.yaml: is larger than 256 KiB; keep data and models in files of their own"},
		{"a.sh", "\xff\xfe#\x00!\x00", "a.sh: is UTF-16 text; save it as UTF-8"},
		{"a.sh", "\xfe\xff\x00#\x00!", "a.sh: is UTF-16 text; save it as UTF-8"},
		{"a.sh", "\xef\xbb\xbf#!/bin/sh\n", "a.sh: starts with a byte order mark; save it as UTF-8 without it"},
		{"a.yaml", "\xef\xbb\xbfa: 1\n", "a.yaml: starts with a byte order mark; save it as UTF-8 without it"},
		{"a.out", "\x7fELF\x02\x01\x01\x00", "a.out: is a compiled program; call it from a script, or use --wrap"},
		{"model.bin", "abc\x00def", "model.bin: holds a NUL byte at offset 3; submit a script or a training config, not a binary file"},
		{"a.sh", "#!/bin/sh\necho \x00\n", "a.sh: holds a NUL byte at offset 15; submit a script or a training config, not a binary file"},
		{"a.sh", "#!/bin/sh\r\necho\r\n", "a.sh:1: has DOS line endings; convert it, for example with dos2unix"},
		{"a.sh", "#!/bin/sh\necho\r\n", "a.sh:2: has DOS line endings; convert it, for example with dos2unix"},
		{"a.sh", "#!\necho\n", "a.sh:1: the #! line names no interpreter; write for example #!/bin/bash"},
		{"a.sh", "#!bash\n", "a.sh:1: the interpreter is not an absolute path; write for example #!/bin/bash or #!/usr/bin/env python3"},
		{"a.sh", "#!/bin/\x1bsh\n", "a.sh:1: the interpreter holds odd characters; write for example #!/bin/bash"},
		{"a.sh", "#!/bin/" + strings.Repeat("x", 250) + "\n", "a.sh:1: the #! line is longer than 255 bytes; use a shorter path"},
		{"a.sh", "#SBATCH -N 1\npython train.py\n", "a.sh: " + neither},
		{"notes.txt", "some words\n", "notes.txt: " + neither},
		{"a.py", "import torch\nx: int = 3\nprint(x)\n", "a.py: " + neither},
		{"a.json.gz", "\x1f\x8b\x08abc", "a.json.gz: " + neither},
		{"bad\nname\x1b[31m", "x", `bad\nname\x1b[31m: ` + neither},
		{"a.yaml", "# only a comment\n", "a.yaml: holds no settings; write KEY: VALUE lines"},
		{"a.yaml", "{}\n", "a.yaml: holds no settings; write KEY: VALUE lines"},
		{"a.yaml", "- a\n- b\n", "a.yaml:1: holds a list where settings are wanted; write KEY: VALUE lines"},
		{"a.yaml", "word\n", "a.yaml:1: holds a single value where settings are wanted; write KEY: VALUE lines"},
		{"a.yaml", "a: 1\nb: [1\nc: 2\n", "a.yaml:2: is not valid YAML: did not find expected ',' or ']'" + notYAML},
		{"a.yaml", "a: b: c\n", "a.yaml:1: is not valid YAML: mapping values are not allowed in this context" + notYAML},
		{"a.yaml", "a: 1\nb: @x\n", "a.yaml:2: is not valid YAML: found character that cannot start any token" + notYAML},
		{"a.yaml", "a:\n\tb: 1\n", "a.yaml:2: is indented with a tab; indent with spaces"},
		{"a.yaml", "a: 1\nb: \xff\n", "a.yaml:2: is not valid UTF-8; save it as plain UTF-8 text"},
		{"a.yaml", "a: 1\n\x1b: 2\n", `a.yaml:2: holds the control character "\x1b"; save it as plain UTF-8 text`},
		{"a.yaml", "a: &x [1]\nb: *x\n", `a.yaml:2: uses the YAML alias "*x"; write the value out`},
		{"a.yaml", "a: *x\n", "a.yaml: uses a YAML alias without an anchor; write the value out, or put it in quotes"},
		{"a.yaml", "a: &x b\n*x : 1\n", `a.yaml:2: uses the YAML alias "*x"; write the value out`},
		{"lol", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", `lol:2: uses the YAML alias "*a"; write the value out`},
		{"a.yaml", "a: 1\n<<: {b: 2}\n", `a.yaml:2: uses the YAML merge key "<<"; write the keys out`},
		{"a.yaml", "a: !!python/object/apply:os.system [id]\n", `a.yaml:1: uses the YAML tag "!!python/object/apply:os.system"; write plain values`},
		{"a.yaml", "a: !!binary aGk=\n", `a.yaml:1: uses the YAML tag "!!binary"; write plain values`},
		{"a.yaml", "lr: 1\nb: 2\nlr: 3\n", `a.yaml:3: has the key "lr" a second time, first on line 1; keep one`},
		{"a.yaml", "a:\n  x: 1\n  x: 2\n", `a.yaml:3: has the key "x" a second time, first on line 2; keep one`},
		{"a.yaml", "[a]: 1\n", "a.yaml:1: has a list as a key; use plain words as keys"},
		{"a.yaml", "a: 1\n---\nb: 2\n", "a.yaml:2: holds a second YAML document; keep one document per file"},
		{"a.yaml", "a: " + strings.Repeat("[", 32) + strings.Repeat("]", 32), "a.yaml:1: is nested deeper than 32 levels; flatten it"},
		{"a.yaml", strings.Repeat("[", 100_000), "a.yaml: is nested deeper than 32 levels; flatten it"},
		{"a.yaml", "a: [" + strings.Repeat("1,", 10_000) + "]", "a.yaml:1: holds more than 10000 values; keep data in a file of its own"},
	} {
		f, err := Parse(c.name, []byte(c.data))
		if err == nil {
			t.Errorf("%s %.40q was read as %v", c.name, c.data, f.Kind)
			continue
		}
		printable(t, err.Error())
		if err.Error() != c.want {
			t.Errorf("%s %.40q\n got %s\nwant %s", c.name, c.data, err, c.want)
		}
	}
}

func TestConfigsThatAreFine(t *testing.T) {
	t.Parallel()
	for _, data := range []string{
		"a: 1",
		"{a: 1, b: [x, {y: z}]}",
		`{"a": 1, "b": null}`,
		"%YAML 1.1\n---\na: 1\n...\n",
		"a: &unused 1\n",
		"a: 2026-01-01\nb: 1e-4\nc: ~\nd: 0o10\ne: no\nf: |\n  #FETTLE text\n  more\n",
		"a: " + strings.Repeat("[", 30) + strings.Repeat("]", 30),
		"a: [" + strings.Repeat("1,", 9_990) + "]",
		"显存: 80G\n",
	} {
		if f, err := Parse("x.yaml", []byte(data)); err != nil || f.Kind != KindYAML {
			t.Errorf("%.60q: %v", data, err)
		}
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	f, err := Wrap("nvidia-smi && sleep 5")
	if err != nil || string(f.Data) != "#!/bin/sh\nnvidia-smi && sleep 5\n" || f.Kind != KindScript {
		t.Fatalf("got %+v, %v", f, err)
	}
	if again, err := Parse(f.Name, f.Data); err != nil || again.Interpreter != f.Interpreter {
		t.Errorf("a wrapped command does not parse: %v", err)
	}
	for in, want := range map[string]string{
		" ":                          "--wrap: is empty; give a shell command",
		"a\x00":                      "--wrap: holds a NUL byte; remove it",
		strings.Repeat("a", 256<<10): "--wrap: is larger than 256 KiB; put it into a file",
	} {
		if _, err := Wrap(in); err == nil || err.Error() != want {
			t.Errorf("%.20q: %v", in, err)
		}
	}
}

func TestErrorsAreFoundByType(t *testing.T) {
	t.Parallel()
	_, err := Parse("a.sh", []byte("#!/bin/sh\n#FETTLE --hold=1 --nodes x\n"))
	var list Errors
	var one *Error
	if !errors.As(err, &list) || !errors.As(err, &one) || len(list) != 2 || one != list[0] || one.Line != 2 {
		t.Fatalf("got %#v", err)
	}
	if want := `a.sh:2: #FETTLE --hold: takes no value; remove "1" (and 1 more)`; err.Error() != want {
		t.Errorf("got %s", err)
	}
}
