package nodemachine

import (
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func TestOutputOfAJob(t *testing.T) {
	t.Parallel()
	spec := &fettlev1.JobSpec{Name: "../../etc/x", WorkDir: "/home/ada"}
	k := Key{Job: 12, Attempt: 3}
	for pattern, want := range map[string]string{
		"fettle-%j.out": "/home/ada/fettle-12.out",
		"/var/%u/%j.%a": "/var/ada/12.3",
		"%x":            "/home/ada/.._.._etc_x",
		"%N/%%j%":       "/home/ada/n1/%j%",
		"%q":            "/home/ada/%q",
		"/dev/null":     "/dev/null",
		"../up":         "/home/up",
		"%A_%I":         "/home/ada/12_0",
		"":              "/home/ada/fettle-12.out",
	} {
		if got := OutputFile(pattern, spec, OutputNames{Key: k, User: "ada", FirstNode: "n1"}); got != want {
			t.Errorf("%q: %q, want %q", pattern, got, want)
		}
	}
}

func TestOutputFileOfAnElement(t *testing.T) {
	t.Parallel()
	spec := &fettlev1.JobSpec{Name: "x", WorkDir: "/home/ada"}
	n := OutputNames{Key: Key{Job: 12, Attempt: 3}, ArrayJob: 7, ArrayIndex: 4, User: "ada", FirstNode: "n1"}
	for pattern, want := range map[string]string{
		"%A/%I.%j.%a": "/home/ada/7/4.12.3",
		"out-%j":      "/home/ada/out-12",
		"":            "/home/ada/fettle-7_4.out",
		"%%A":         "/home/ada/%A",
	} {
		if got := OutputFile(pattern, spec, n); got != want {
			t.Errorf("%q: %q, want %q", pattern, got, want)
		}
	}
}
