package shim

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
)

func TestInterpreter(t *testing.T) {
	t.Parallel()
	for script, want := range map[string][2]string{
		"#!/bin/sh\necho":                     {"/bin/sh", ""},
		"#! /bin/sh \necho":                   {"/bin/sh", ""},
		"#!/usr/bin/env python3 -u\n":         {"/usr/bin/env", "python3 -u"},
		"#!/usr/bin/env -S  a  b \t\nx":       {"/usr/bin/env", "-S  a  b"},
		"#!/bin/sh":                           {"/bin/sh", ""},
		"#!" + strings.Repeat("x", 9000):      {strings.Repeat("x", maxInterpreterLine-2), ""},
		"#!\t/bin/awk\t-f\n":                  {"/bin/awk", "-f"},
		"#!relative/interp\n":                 {"relative/interp", ""},
		"#!/bin/sh\n#!/bin/other\r\n\r\n\r\n": {"/bin/sh", ""},
	} {
		path, arg, err := interpreter([]byte(script))
		if err != nil || path != want[0] || arg != want[1] {
			t.Errorf("%.40q: %q %q, %v", script, path, arg, err)
		}
	}
	for _, script := range []string{"", "#", "echo\n", "\n#!/bin/sh\n", "#!\n", "#!  \t\n", "#!/bin/sh\r\n", " #!/bin/sh\n", "#!/bin/\x00sh\n"} {
		var u *userError
		if _, _, err := interpreter([]byte(script)); !errors.As(err, &u) {
			t.Errorf("%q: %v", script, err)
		}
	}
}

func FuzzInterpreter(f *testing.F) {
	f.Add([]byte("#!/bin/sh -e\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path, arg, err := interpreter(b)
		if err == nil && (path == "" || strings.ContainsAny(path, " \t\n\x00") || strings.ContainsAny(arg, "\n")) {
			t.Errorf("%q: %q %q", b, path, arg)
		}
	})
}

func TestLocal(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"a": true, "a/b.yaml": true, "..a/b..": true, "": false, "/a": false, "..": false, "a/../b": false, "a//b": false, "./a": false,
		"a/": false, "a\x00b": false, "a/.": false,
	} {
		if local(path) != want {
			t.Errorf("%q: %v", path, !want)
		}
	}
}

func TestLookPath(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, path, want string }{
		{"sh", "PATH=/nonexistent::/bin:/usr/bin", "/bin/sh"},
		{"./own", "PATH=/bin", "./own"},
		{"sh", "PATH=", ""},
		{"passwd", "PATH=/etc", ""}, // not executable
		{"bin", "PATH=/usr", ""},    // a directory
	} {
		got, err := lookPath(c.name, []string{"PATH=/first", c.path})
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s on %s: %q, %v", c.name, c.path, got, err)
		}
	}
}

func TestBlame(t *testing.T) {
	t.Parallel()
	for err, user := range map[error]bool{
		unix.ENOENT: true, unix.EACCES: true, unix.ENOTDIR: true, unix.EDQUOT: true, unix.EROFS: true, unix.ENAMETOOLONG: true,
		unix.EIO: false, unix.EMFILE: false, unix.ENFILE: false, unix.ENOMEM: false, unix.EAGAIN: false,
	} {
		var u *userError
		if got := blame("x", err); errors.As(got, &u) != user {
			t.Errorf("%v: %T", err, got)
		}
	}
}

func TestGraceOnlyShortens(t *testing.T) {
	t.Parallel()
	s := &shim{order: &handoff.Order{}}
	s.stop(1_000, 500)
	s.stop(1_000, 9_000)
	if s.killAt != 1_500 {
		t.Errorf("killed at %d", s.killAt)
	}
	s.stop(1_100, 100)
	if s.killAt != 1_200 {
		t.Errorf("killed at %d", s.killAt)
	}
}

func TestNextAlarm(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		s    shim
		want int64
	}{
		"no limits":          {shim{order: &handoff.Order{}}, 0},
		"time limit":         {shim{order: &handoff.Order{}, startBoot: 1_000, limitS: 5}, 6_000},
		"lease first":        {shim{order: &handoff.Order{LeaseEpochMS: 1}, leaseAt: 3_000, startBoot: 1_000, limitS: 5}, 3_000},
		"the kill":           {shim{order: &handoff.Order{}, stopping: true, killAt: 2_500}, 2_500},
		"strays in a group":  {shim{order: &handoff.Order{}, mainEnded: true}, 2_000 + pollEmptyMS},
		"limit of the ended": {shim{order: &handoff.Order{}, mainEnded: true, stopping: true, killAt: 9_000, startBoot: 1_000, limitS: 5}, 2_000 + pollEmptyMS},
	} {
		if got := c.s.nextAlarm(2_000, c.s.mainEnded); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
