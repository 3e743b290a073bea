package tomlerr_test

import (
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/fettle-hpc/fettle/client/internal/tomlerr"
)

func TestOf(t *testing.T) {
	t.Parallel()
	type table struct {
		Name string
		N    int
		On   bool
		List []string
		Sub  struct{ X float64 }
	}
	for _, tc := range []struct {
		text string
		want tomlerr.Fault
	}{
		{"name = 3", tomlerr.Fault{Line: 1, Key: "name", Problem: "is an integer where a string is wanted"}},
		{"\nn = \"x\"", tomlerr.Fault{Line: 2, Key: "n", Problem: "is a string where an integer is wanted"}},
		{"on = 1", tomlerr.Fault{Line: 1, Key: "on", Problem: "is an integer where a boolean is wanted"}},
		{"list = \"x\"", tomlerr.Fault{Line: 1, Key: "list", Problem: "is a string where a list is wanted"}},
		{"sub = 4", tomlerr.Fault{Line: 1, Key: "sub", Problem: "is an integer where a table is wanted"}},
		{"name = \"a\"\n[sub]\ny = 1", tomlerr.Fault{Line: 3, Key: "sub.y", Unknown: true, Problem: "unknown key"}},
		{"name = ", tomlerr.Fault{Line: 1}},
		{"name = \"a\"\nname = \"b\"", tomlerr.Fault{}},
	} {
		var v table
		err := toml.NewDecoder(strings.NewReader(tc.text)).DisallowUnknownFields().Decode(&v)
		if err == nil {
			t.Errorf("%q was accepted", tc.text)
			continue
		}
		got := tomlerr.Of(err)
		if strings.Contains(got.Problem, "struct") || strings.Contains(got.Problem, "\n") || got.Problem == "" {
			t.Errorf("%q: problem %q", tc.text, got.Problem)
		}
		if tc.want.Problem != "" && got != tc.want {
			t.Errorf("%q: got %+v, want %+v (%v)", tc.text, got, tc.want, err)
		}
	}
}
