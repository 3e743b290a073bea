package shim

import (
	"bytes"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
)

// program works out the argument vector, and what to call it in an error. It runs as the job's user in its directory.
func program(o *handoff.Order) (argv []string, what string, err error) {
	if o.Script != nil {
		interp, arg, err := interpreter(o.Script)
		if err != nil {
			return nil, "", err
		}
		argv = []string{interp}
		if arg != "" {
			argv = append(argv, arg)
		}
		argv = append(argv, o.FilesDir+"/"+handoff.ScriptFile)
		return append(argv, o.Argv...), "the script's interpreter " + interp, nil
	}
	if len(o.Argv) == 0 || o.Argv[0] == "" {
		return nil, "", &userError{what: "there is no program to run"}
	}
	path, err := lookPath(o.Argv[0], o.Env)
	if err != nil {
		return nil, "", err
	}
	return append([]string{path}, o.Argv[1:]...), path, nil
}

// maxInterpreterLine bounds the first line of a script.
const maxInterpreterLine = 4_096

// interpreter reads a script's first line as the kernel does: a path and at most one argument, which may hold spaces. It
// is read here, not by the kernel, so that a script runs from a directory that is mounted noexec, and so that a file just
// written is never executed while a fork elsewhere still holds it open.
func interpreter(script []byte) (path, arg string, err error) {
	line, _, _ := bytes.Cut(script[:min(len(script), maxInterpreterLine)], []byte{'\n'})
	rest, ok := bytes.CutPrefix(line, []byte("#!"))
	if !ok {
		return "", "", &userError{what: "the script names no interpreter: begin it with a line such as #!/bin/bash"}
	}
	if bytes.HasSuffix(rest, []byte{'\r'}) {
		return "", "", &userError{what: "the script has Windows line ends: convert it with dos2unix"}
	}
	rest = bytes.Trim(rest, " \t")
	i := bytes.IndexAny(rest, " \t")
	if i < 0 {
		i = len(rest)
	}
	path, arg = string(rest[:i]), string(bytes.Trim(rest[i:], " \t"))
	if path == "" || strings.IndexByte(path, 0) >= 0 {
		return "", "", &userError{what: "the script names no interpreter: begin it with a line such as #!/bin/bash"}
	}
	return path, arg, nil
}

// lookPath finds a program on the PATH of the job's environment.
func lookPath(name string, env []string) (string, error) {
	if strings.IndexByte(name, '/') >= 0 {
		return name, nil
	}
	path := ""
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			continue // never the working directory by accident
		}
		p := dir + "/" + name
		var st unix.Stat_t
		if unix.Stat(p, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && unix.Faccessat(unix.AT_FDCWD, p, unix.X_OK, unix.AT_EACCESS) == nil {
			return p, nil
		}
	}
	return "", &userError{what: name + ": not found on the job's PATH " + path}
}
