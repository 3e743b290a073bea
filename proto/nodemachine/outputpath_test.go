package nodemachine

import (
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func TestOutputPath(t *testing.T) {
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
	} {
		if got := OutputPath(pattern, spec, k, "ada", "n1"); got != want {
			t.Errorf("%q: %q, want %q", pattern, got, want)
		}
	}
}
