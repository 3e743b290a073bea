package jobscript

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode"
)

// checkParsed holds for whatever Parse makes of any bytes.
func checkParsed(t *testing.T, name string, data []byte) {
	before := bytes.Clone(data)
	f, err := Parse(name, data)
	if !bytes.Equal(data, before) {
		t.Fatal("the input was changed")
	}
	if err != nil {
		all := []error{err}
		var list Errors
		if errors.As(err, &list) {
			if len(list) == 0 || len(list) > maxErrors {
				t.Fatalf("%d errors", len(list))
			}
			all = append(all, list.Unwrap()...)
		}
		for _, e := range all {
			if line := e.Error(); strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) || len(line) > 3000 {
				t.Fatalf("not one short printable line: %q", line)
			}
		}
		return
	}
	if f.Kind == KindScript != bytes.HasPrefix(data, []byte("#!")) || f.Kind == KindUnknown || !bytes.Equal(f.Data, data) {
		t.Fatalf("kind %v, %d bytes", f.Kind, len(f.Data))
	}
	if len(f.Warnings) > maxWarnings+1 {
		t.Fatalf("%d warnings", len(f.Warnings))
	}
	for _, w := range f.Warnings {
		if strings.ContainsFunc(w, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("warning %q", w)
		}
	}
	last := 0
	for _, o := range f.Options {
		s := byName[o.Name]
		if s == nil || o.Line < last || o.File != name || o.Origin != OriginFETTLE && o.Origin != OriginSBATCH {
			t.Fatalf("option %+v", o)
		}
		last = o.Line
		// What was accepted is accepted again as it is now: callers may pass it on.
		if s.check != nil {
			if again, bad := s.check(o.Value); bad != nil || again != o.Value {
				t.Fatalf("%+v is not stable: %q, %v", o, again, bad)
			}
		}
	}
	merged, err := Merge(f.Options)
	if err != nil && !strings.Contains(err.Error(), "give one of them") {
		t.Fatal(err)
	}
	if err == nil && len(merged) > len(f.Options) {
		t.Fatal("merging made options")
	}
}

func FuzzJobScript(f *testing.F) {
	for _, s := range []string{
		script,
		"#!/bin/sh\n#SBATCH --array=1-2\n",
		"#!/bin/sh\n#SBATCH -J 'a b' -p=x \"\n",
		"#!/bin/sh\n#FETTLE --set a=b --export ALL,A='b,c' -o %j\\\n",
		"#!/usr/bin/env python3\n# SBATCH -t 1\n#PBS -l x\nimport os\n#FETTLE --hold\n",
		"#!\n", "#!/bin/sh\r\n", "#!/bin/sh", "", "\x00", "\x7fELF",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		checkParsed(t, "j.sh", data)
		// The same text behind a #! line reaches the directives.
		if !bytes.HasPrefix(data, []byte("#!")) {
			checkParsed(t, "j.sh", append([]byte("#!/bin/sh\n"), data...))
		}
	})
}

func FuzzYAMLDirectives(f *testing.F) {
	for _, s := range []string{
		"#FETTLE --priority 1\nmodel_name_or_path: x\nfinetuning_type: lora\n",
		"---\n# SBATCH\n#SBATCH -J x -t 1:00\na: {b: [c, *d]}\n",
		"a: &x [1]\nb: *x\n", "<<: {a: 1}\n", "a: !!python/object x\n", "a: 1\na: 2\n", "[[[[[[", "? [a]\n: b\n", "\xef\xbb\xbfa: 1", "a: 1\n---\nb: 2",
		"%YAML 1.2\n---\n#FETTLE --gres gpu:h100:4 --gpus 2\na: |\n #FETTLE --hold\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.HasPrefix(data, []byte("#!")) {
			return
		}
		checkParsed(t, "c.yaml", data)
		checkParsed(t, "config", data)
	})
}
