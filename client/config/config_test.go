package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fettle-hpc/fettle/client/config"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWhereControllersComeFrom(t *testing.T) {
	t.Parallel()
	user := write(t, "controllers = [\"127.0.0.1:1\"]\n")
	system := write(t, "controllers = [\"127.0.0.1:2\", \"localhost\"]\ntimeout = \"7s\"\n[submit]\npriority = 3\nproject = \"nlp\"\n")
	both := write(t, "timeout = \"9s\"\n[submit]\npriority = 4\nhold = true\n")
	absent := filepath.Join(t.TempDir(), "absent.toml")
	local := func() []string { return []string{"127.0.0.1:9"} }
	for name, tc := range map[string]struct {
		s       config.Sources
		want    []string
		from    string
		timeout time.Duration
	}{
		"flag":      {config.Sources{Flag: "[::1]:5,127.0.0.1:6,127.0.0.1:6", FlagSet: true, Env: "127.0.0.1:7", UserFile: user, Local: local}, []string{"[::1]:5", "127.0.0.1:6"}, "--controllers", 0},
		"env":       {config.Sources{Env: " 127.0.0.1:7 , 127.0.0.1 ", UserFile: user, SystemFile: system}, []string{"127.0.0.1:7", "127.0.0.1:7100"}, "FETTLE_CONTROLLERS", 7 * time.Second},
		"user":      {config.Sources{UserFile: user, SystemFile: system, Local: local}, []string{"127.0.0.1:1"}, user, 7 * time.Second},
		"system":    {config.Sources{UserFile: both, SystemFile: system, Local: local}, []string{"127.0.0.1:2", "localhost:7100"}, system, 9 * time.Second},
		"local":     {config.Sources{UserFile: absent, Local: local}, []string{"127.0.0.1:9"}, "fettle up", 0},
		"none":      {config.Sources{UserFile: absent, SystemFile: absent}, nil, "", 0},
		"none left": {config.Sources{Local: func() []string { return nil }}, nil, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := config.Load(tc.s)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Controllers, tc.want) || got.From != tc.from || got.Timeout != tc.timeout {
				t.Errorf("got %+v", got)
			}
		})
	}
	got, err := config.Load(config.Sources{UserFile: both, SystemFile: system})
	if err != nil {
		t.Fatal(err)
	}
	if want := []config.Default{{Option: "hold", Value: "true"}, {Option: "priority", Value: "4"}, {Option: "project", Value: "nlp"}}; !slices.Equal(got.Submit, want) {
		t.Errorf("defaults %v, want %v", got.Submit, want)
	}
}

func TestAWrongFileIsRefusedEvenIfNotNeeded(t *testing.T) {
	t.Parallel()
	_, err := config.Load(config.Sources{Flag: "127.0.0.1:1", FlagSet: true, SystemFile: write(t, "colour = 1")})
	var e *config.Error
	if !errors.As(err, &e) || !strings.Contains(e.Error(), "unknown key") {
		t.Errorf("got %v", err)
	}
}

func TestParseControllers(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"127.0.0.1":          "127.0.0.1:7100",
		"127.9.9.9:1":        "127.9.9.9:1",
		"::1":                "[::1]:7100",
		"[::1]":              "[::1]:7100",
		"[::1]:80":           "[::1]:80",
		"localhost:65535":    "localhost:65535",
		"LOCALHOST":          "LOCALHOST:7100",
		"127.0.0.1:007":      "127.0.0.1:7",
		"":                   "! has an empty address",
		"127.0.0.1:0":        "! has no port",
		"127.0.0.1:65536":    "! has no port",
		"127.0.0.1:http":     "! has no port",
		"192.0.2.1:7100":     "! is not on this machine",
		"[2001:db8::1]:7100": "! is not on this machine",
		"example.org":        "! is not on this machine",
		"bad host:1":         "! is not an address",
		"-M":                 "! is not on this machine",
		"a:b:c":              "! is not an address",
		"\x1b[2J":            "! is not an address",
	} {
		got, err := config.ParseControllers("x", []string{in})
		switch problem, bad := strings.CutPrefix(want, "! "); {
		case bad && (err == nil || !strings.Contains(err.Error(), problem) || strings.ContainsAny(err.Error(), "\n\x1b")):
			t.Errorf("%q: got %v, %v, want %s", in, got, err, want)
		case !bad && (err != nil || len(got) != 1 || got[0] != want):
			t.Errorf("%q: got %v, %v, want %s", in, got, err, want)
		}
	}
	if _, err := config.ParseControllers("x", make([]string, 100)); err == nil {
		t.Error("100 controllers were accepted")
	}
}

func TestLocal(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "10.0.0.1:1": false, "127.0.0.1": false, "": false, "x:1": false} {
		if got := config.Local(addr); got != want {
			t.Errorf("Local(%q) = %v", addr, got)
		}
	}
}

func TestUserFile(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ xdg, home, want string }{
		{"/x", "/h", "/x/fettle/config.toml"}, {"", "/h", "/h/.config/fettle/config.toml"}, {"rel", "/h", "/h/.config/fettle/config.toml"}, {"", "", ""}, {"", "rel", ""},
	} {
		got := config.UserFile(func(name string) string { return map[string]string{"XDG_CONFIG_HOME": tc.xdg, "HOME": tc.home}[name] })
		if got != tc.want {
			t.Errorf("%+v: got %q", tc, got)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("controllers = [\"127.0.0.1:1\"]\n[submit]\npriority = 3\n")
	f.Add("timeout = 3")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "c.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Load(config.Sources{UserFile: path}); err != nil {
			var e *config.Error
			if !errors.As(err, &e) {
				t.Errorf("%q: %T %v", text, err, err)
			}
		}
	})
}
