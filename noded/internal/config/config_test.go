package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const good = `
name = "n1"
state_dir = "/var/lib/fettle-noded"
controllers = ["127.0.0.1:7100", "localhost:7200", "[::1]:7300"]
`

func TestDefaults(t *testing.T) {
	t.Parallel()
	c, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if c.Address != "127.0.0.1" || c.Isolation != BestEffort || c.LogLevel != "info" || c.MemoryMiB != 0 || c.CPUs != 0 || c.RootJobs != nil {
		t.Errorf("%+v", c)
	}
	c, err = Parse([]byte(good + "memory = \"2G\"\ncpus = 8\ngres = \"gpu:h100:8\"\nisolation = \"required\"\nroot_jobs = false\naddress = \"10.0.0.1\"\n"))
	if err != nil || c.MemoryMiB != 2048 || c.CPUs != 8 || c.Isolation != Required || c.RootJobs == nil || *c.RootJobs || c.Address != "10.0.0.1" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestGPUsAndPlace(t *testing.T) {
	t.Parallel()
	c, err := Parse([]byte(good))
	if err != nil || c.ReadingsEvery() != 5*time.Second || c.VRAMToleranceMiB != 1024 || c.GPUIdleMiB != 1024 || c.TolerancePercent() != 10 || c.GPUMemoryMiB != 0 {
		t.Errorf("%+v, %v", c, err)
	}
	c, err = Parse([]byte(good + `
gres = "gpu:h100:8"
gpu_memory = "94G"
features = ["IB", "nvme-2"]
switch = "Leaf1"
gpu_readings = "500ms"
vram_tolerance = "2G"
vram_tolerance_percent = 0
`))
	if err != nil || c.GPUMemoryMiB != 94<<10 || !slices.Equal(c.Features, []string{"ib", "nvme-2"}) || c.Switch != "leaf1" ||
		c.ReadingsEvery() != 500*time.Millisecond || c.VRAMToleranceMiB != 2048 || c.TolerancePercent() != 0 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		good + "nmae = \"x\"\n":                               `line 5: unknown key "nmae"; docs/admin.md lists the keys`,
		good + "[gpu]\ncount = 1\n":                           `unknown key "gpu`,
		good + "cpus = \"many\"\n":                            "line 5: ",
		good + "cpus = -1\n":                                  "line 5: ",
		"name = \n":                                           "line 1: ",
		"controllers = [\"127.0.0.1:7100\"]":                  "state_dir is missing; name a directory on a local disk",
		"state_dir = \"/s\"":                                  "controllers is missing; list the controllers' client addresses",
		"state_dir = \"s\"\ncontrollers = [\"127.0.0.1:1\"]":  `state_dir "s" is relative; write an absolute path`,
		"state_dir = \"/s\"\ncontrollers = [\"10.0.0.1:1\"]":  `controllers "10.0.0.1:1": plain text is allowed on loopback only; use 127.0.0.1`,
		"state_dir = \"/s\"\ncontrollers = [\"127.0.0.1\"]":   `controllers "127.0.0.1": not HOST:PORT`,
		"state_dir = \"/s\"\ncontrollers = [\"127.0.0.1:0\"]": `controllers "127.0.0.1:0": the port must be 1 to 65535`,
		strings.Replace(good, "n1", "N 1", 1):                 `name "N 1": not a node name; use letters, digits, dots and dashes`,
		strings.Replace(good, "n1", "Node1", 1):               `name "Node1": write it in lower case, "node1"`,
		strings.Replace(good, "n1", "../x", 1):                `name "../x": not a node name`,
		good + "isolation = \"total\"\n":                      `isolation "total": unknown; use "best-effort" or "required"`,
		good + "log_level = \"loud\"\n":                       `log_level "loud": unknown; use debug, info, warn or error`,
		good + "memory = \"lots\"\n":                          "lots",
		good + "gres = \"gpu:h100:many\"\n":                   "many",
		good + "shim = \"bin/fettle-shim\"\n":                 `shim "bin/fettle-shim" is relative; write an absolute path`,
		good + "gres = \"gpu:1\"\ngpu_memory = \"much\"\n":    "gpu_memory: ",
		good + "gres = \"gpu:1\"\ngpu_memory = \"0\"\n":       "gpu_memory is zero",
		good + "gpu_memory = \"80G\"\n":                       "gpu_memory is for declared GPUs only",
		good + "features = [\"a b\"]\n":                       `features: feature "a b"`,
		good + "features = [\"ib\", \"IB\"]\n":                `features: "ib" is listed twice`,
		good + "switch = \"top of rack\"\n":                   `switch "top of rack": not a name`,
		good + "gpu_readings = \"often\"\n":                   "line 5: ",
		good + "gpu_readings = \"1ms\"\n":                     "gpu_readings 1ms: use at least 100ms",
		good + "vram_tolerance = \"some\"\n":                  "vram_tolerance: ",
		good + "vram_tolerance_percent = 1001\n":              "vram_tolerance_percent 1001: use 0 to 1000",
		good + "plugin_dir = \"plugins\"\n":                   `plugin_dir "plugins" is relative; write an absolute path`,
	} {
		_, err := Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "noded.toml")
	if _, err := Load(path); err == nil || err.Error() != "config "+path+": no such file or directory" {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(path, []byte("nmae = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.HasPrefix(err.Error(), "config "+path+": line 1: unknown key") {
		t.Errorf("%v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("name = 1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err == nil && (c.StateDir == "" || len(c.Controllers) == 0) {
			t.Errorf("%q was taken", b)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: more than a line: %v", b, err)
		}
	})
}
