package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{nil, exitUsage, "usage:"},
		{[]string{"--help"}, 0, "usage:"},
		{[]string{"watch", "-h"}, 0, "usage:"},
		{[]string{"--version"}, 0, "fettle-nvml "},
		{[]string{"list"}, exitUsage, `fettle-nvml: unknown command "list": use inventory or watch`},
		{[]string{"inventory", "--interval", "5s"}, exitUsage, "fettle-nvml: inventory: flag provided but not defined: -interval"},
		{[]string{"inventory", "now"}, exitUsage, `fettle-nvml: inventory: unknown argument "now"`},
		{[]string{"watch", "--interval", "5"}, exitUsage, `fettle-nvml: watch: invalid value "5" for flag -interval: parse error`},
		{[]string{"watch", "--interval", "1ms"}, exitUsage, "fettle-nvml: watch: --interval 1ms is below 100ms"},
		{[]string{"watch", "--count", "-1"}, exitUsage, "fettle-nvml: watch: --count -1 is below 0"},
	} {
		var out, errs bytes.Buffer
		code := run(c.args, &out, &errs)
		said := out.String() + errs.String()
		if code != c.code || !strings.HasPrefix(said, c.want) || c.code == exitUsage && out.Len() > 0 {
			t.Errorf("%q: exit code %d, %q, want %d, %q", c.args, code, said, c.code, c.want)
		}
	}
}

// broken panics when it is written to, as a library binding might.
type broken struct{}

func (broken) Write([]byte) (int, error) { panic("out of cheese") }

func TestPanicIsAnExitCode(t *testing.T) {
	t.Parallel()
	var errs bytes.Buffer
	if code := run([]string{"--version"}, broken{}, &errs); code != exitPanic || errs.String() != "fettle-nvml: panic: out of cheese\n" {
		t.Errorf("exit code %d, %q", code, errs.String())
	}
}
