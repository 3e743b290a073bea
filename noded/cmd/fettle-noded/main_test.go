package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommandLine(t *testing.T) {
	t.Parallel()
	bad := filepath.Join(t.TempDir(), "bad.toml")
	if err := os.WriteFile(bad, []byte("nmae = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args     []string
		code     int
		out, err string
	}{
		{[]string{"--version"}, 0, "fettle-noded dev\n", ""},
		{[]string{"--help"}, 0, "fettle-noded is fettle's node daemon.", ""},
		{[]string{"--bogus"}, 2, "", "fettle-noded: error: flag provided but not defined: -bogus; see fettle-noded --help\n"},
		{[]string{"extra"}, 2, "", "fettle-noded: error: unexpected argument \"extra\"; see fettle-noded --help\n"},
		{[]string{"--config", "/no/such"}, 2, "", "fettle-noded: error: config /no/such: no such file or directory\n"},
		{[]string{"--config", bad}, 2, "", "fettle-noded: error: config " + bad + ": line 1: unknown key \"nmae\"; docs/admin.md lists the keys\n"},
	} {
		var out, errs strings.Builder
		if code := run(c.args, &out, &errs); code != c.code || !strings.HasPrefix(out.String(), c.out) || errs.String() != c.err {
			t.Errorf("%q: exit %d, %q, %q", c.args, code, out.String(), errs.String())
		}
	}
}
