// Package config reads the node daemon's one TOML file.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/fettle-hpc/fettle/proto/gres"
)

// Isolation levels that a configuration can ask for.
const (
	BestEffort = "best-effort"
	Required   = "required"
)

// Config is the node daemon's configuration. Unknown keys are refused.
type Config struct {
	// Name of the node; the host's name by default.
	Name string `toml:"name"`
	// StateDir is the daemon's own directory, on a local disk.
	StateDir string `toml:"state_dir"`
	// Controllers are the client addresses of all controllers.
	Controllers []string `toml:"controllers"`
	// GRES declares GPUs ("gpu:h100:8"); empty or "auto" detects them.
	GRES string `toml:"gres"`
	// CPUs offered; those of the machine by default.
	CPUs uint32 `toml:"cpus"`
	// Memory offered, such as "512G"; that of the machine by default.
	Memory string `toml:"memory"`
	// Address by which the other nodes of a gang reach this one; 127.0.0.1 by default.
	Address string `toml:"address"`
	// Engine is the trainer's command; "llamafactory-cli" by default.
	Engine string `toml:"engine"`
	// PluginDir holds the launchers; beside the executable, then ../lib/fettle, by default.
	PluginDir string `toml:"plugin_dir"`
	// Shim and NVML are the helpers' paths; beside the executable by default.
	Shim string `toml:"shim"`
	NVML string `toml:"nvml"`
	// Isolation is "best-effort" (what the host cannot enforce is reported) or "required" (it refuses to start).
	Isolation string `toml:"isolation"`
	// RootJobs lets jobs of uid 0 run, when the daemon itself does.
	RootJobs *bool `toml:"root_jobs"`
	// LogLevel is debug, info, warn or error. Default info.
	LogLevel string `toml:"log_level"`

	// MemoryMiB is Memory, read; 0 when it was not given.
	MemoryMiB int64 `toml:"-"`
}

// Load reads and checks a file.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, fmt.Errorf("config %s: %w", path, err)
	}
	c, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", path, err)
	}
	return c, nil
}

// Parse reads TOML and fills defaults. Errors name the line or key, one line each.
func Parse(data []byte) (*Config, error) {
	c := &Config{}
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(c); err != nil {
		return nil, explain(err)
	}
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("name is missing and the host has none: %w", err)
		}
		c.Name, _, _ = strings.Cut(strings.ToLower(host), ".")
	}
	if c.Address == "" {
		c.Address = "127.0.0.1"
	}
	if c.Isolation == "" {
		c.Isolation = BestEffort
	}
	if c.LogLevel == "" {
		c.LogLevel = "info"
	}
	return c, c.check()
}

func explain(err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		row, _ := strict.Errors[0].Position()
		return fmt.Errorf("line %d: unknown key %q; docs/admin.md lists the keys", row, strings.Join(strict.Errors[0].Key(), "."))
	}
	var de *toml.DecodeError
	if errors.As(err, &de) {
		row, _ := de.Position()
		return fmt.Errorf("line %d: %s", row, strings.TrimPrefix(de.Error(), "toml: "))
	}
	return err
}

func (c *Config) check() error {
	if name, err := gres.NodeName(c.Name); err != nil {
		return fmt.Errorf("name %q: not a node name; use letters, digits, dots and dashes", c.Name)
	} else if name != c.Name {
		return fmt.Errorf("name %q: write it in lower case, %q", c.Name, name)
	}
	for _, p := range []struct{ key, path string }{{"state_dir", c.StateDir}, {"plugin_dir", c.PluginDir}, {"shim", c.Shim}, {"nvml", c.NVML}} {
		switch {
		case p.path == "" && p.key == "state_dir":
			return errors.New("state_dir is missing; name a directory on a local disk, e.g. state_dir = \"/var/lib/fettle-noded\"")
		case p.path != "" && !filepath.IsAbs(p.path):
			return fmt.Errorf("%s %q is relative; write an absolute path", p.key, p.path)
		}
	}
	if len(c.Controllers) == 0 {
		return errors.New("controllers is missing; list the controllers' client addresses, e.g. controllers = [\"127.0.0.1:7100\"]")
	}
	for _, a := range c.Controllers {
		if err := checkAddress(a); err != nil {
			return fmt.Errorf("controllers %q: %w", a, err)
		}
	}
	if c.Memory != "" {
		mib, err := gres.ParseSize(c.Memory)
		if err != nil {
			return err
		}
		c.MemoryMiB = mib
	}
	if c.GRES != "" && c.GRES != "auto" {
		if _, err := gres.ParseNodeGRES(c.GRES); err != nil {
			return err
		}
	}
	if c.Isolation != BestEffort && c.Isolation != Required {
		return fmt.Errorf("isolation %q: unknown; use %q or %q", c.Isolation, BestEffort, Required)
	}
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
		return nil
	}
	return fmt.Errorf("log_level %q: unknown; use debug, info, warn or error", c.LogLevel)
}

func checkAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return errors.New("not HOST:PORT")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return errors.New("the port must be 1 to 65535")
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return errors.New("plain text is allowed on loopback only; use 127.0.0.1")
	}
	return nil
}
