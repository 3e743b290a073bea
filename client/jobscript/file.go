package jobscript

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// MaxFile is the most bytes a script or a config may have. Read one byte more than this at most and hand it to Parse.
const MaxFile = 256 << 10

// maxInterpreter is the longest #! line that Linux takes.
const maxInterpreter = 255

// Kind says what a file is.
type Kind int

// Kinds of files.
const (
	KindUnknown Kind = iota
	// KindScript is a batch script: its first line names an interpreter.
	KindScript
	// KindYAML is a training config: a YAML mapping.
	KindYAML
)

// String is "script" or "config".
func (k Kind) String() string {
	switch k {
	case KindScript:
		return "script"
	case KindYAML:
		return "config"
	}
	return "unknown"
}

// File is what Parse found.
type File struct {
	// Name is the name given to Parse.
	Name string
	Kind Kind
	// Data is the file's bytes, unchanged and not copied.
	Data []byte
	// Interpreter is the program of a script's #! line.
	Interpreter string
	// Options are the directives' options in the order of the file.
	Options []Option
	// Warnings are for people, one line each, with file and line.
	Warnings []string
}

// Parse tells what data is and reads its directives. A file that starts with "#!" is a script; otherwise one called
// *.yaml or *.yml, or one that reads as a YAML mapping, is a training config; anything else is refused. name is used for
// that and in errors. Errors are an *Error for the file as a whole, or Errors for its directives.
func Parse(name string, data []byte) (*File, error) {
	refuse := func(problem, remedy string) (*File, error) {
		return nil, &Error{File: name, Problem: problem, Remedy: remedy}
	}
	if problem, remedy := unreadable(data); problem != "" {
		return refuse(problem, remedy)
	}
	f := &File{Name: name, Data: data}
	switch ext := strings.ToLower(filepath.Ext(name)); {
	case bytes.HasPrefix(data, []byte("#!")):
		f.Kind = KindScript
		interpreter, err := scriptHead(name, data)
		if err != nil {
			return nil, err
		}
		f.Interpreter = interpreter
	default:
		bad, mapping := checkYAML(name, data)
		switch {
		case bad == nil:
		case ext == ".yaml" || ext == ".yml" || mapping:
			return nil, bad
		default:
			return refuse("is neither a script nor a training config",
				"start a script with a line like #!/bin/bash, or name a config *.yaml")
		}
		f.Kind = KindYAML
	}
	s := scanner{file: name, kind: f.Kind}
	s.scan(data)
	if len(s.errs) > 0 {
		return nil, s.errs
	}
	f.Options, f.Warnings = s.options, s.warnings
	return f, nil
}

// Wrap makes a script of one shell command, as fsubmit --wrap does.
func Wrap(command string) (*File, error) {
	refuse := func(problem, remedy string) (*File, error) {
		return nil, &Error{Origin: OriginFlag, Option: "--wrap", Problem: problem, Remedy: remedy}
	}
	switch {
	case strings.TrimSpace(command) == "":
		return refuse("is empty", "give a shell command")
	case strings.ContainsRune(command, 0):
		return refuse("holds a NUL byte", "remove it")
	}
	data := []byte("#!/bin/sh\n" + command + "\n")
	if len(data) > MaxFile {
		return refuse("is larger than 256 KiB", "put it into a file")
	}
	return &File{Name: "wrap", Kind: KindScript, Data: data, Interpreter: "/bin/sh"}, nil
}

// unreadable refuses what is not text, or too much or too little of it.
func unreadable(data []byte) (problem, remedy string) {
	const asUTF8 = "save it as UTF-8"
	switch {
	case len(data) > MaxFile:
		return "is larger than 256 KiB", "keep data and models in files of their own"
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		return "is UTF-16 text", asUTF8
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		return "starts with a byte order mark", asUTF8 + " without it"
	case bytes.HasPrefix(data, []byte("\x7fELF")):
		return "is a compiled program", "call it from a script, or use --wrap"
	case len(bytes.TrimSpace(data)) == 0:
		return "is empty", "write a script that starts with #!/bin/bash, or a training config"
	}
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return fmt.Sprintf("holds a NUL byte at offset %d", i), "submit a script or a training config, not a binary file"
	}
	return "", ""
}

// scriptHead checks the #! line and the line endings, and returns the interpreter.
func scriptHead(name string, data []byte) (string, error) {
	if i := bytes.Index(data, []byte("\r\n")); i >= 0 {
		return "", &Error{File: name, Line: 1 + bytes.Count(data[:i], []byte("\n")), Problem: "has DOS line endings",
			Remedy: "convert it, for example with dos2unix"}
	}
	head, _, _ := bytes.Cut(data, []byte("\n"))
	refuse := func(problem, remedy string) (string, error) {
		return "", &Error{File: name, Line: 1, Problem: problem, Remedy: remedy}
	}
	fields := strings.Fields(string(head[2:]))
	switch {
	case len(fields) == 0:
		return refuse("the #! line names no interpreter", "write for example #!/bin/bash")
	case len(head) > maxInterpreter:
		return refuse("the #! line is longer than 255 bytes", "use a shorter path")
	case !strings.HasPrefix(fields[0], "/"):
		return refuse("the interpreter is not an absolute path", "write for example #!/bin/bash or #!/usr/bin/env python3")
	case !utf8.Valid(head) || plain(fields[0]) != fields[0]:
		return refuse("the interpreter holds odd characters", "write for example #!/bin/bash")
	}
	return fields[0], nil
}
